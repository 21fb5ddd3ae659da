"""The other end of elsewhere.py: builds, answers and times what it is told to, one peer's cases.

Run as `python -m benchmarks.peers.worker` in the checkout, by a Python that may have another build
of fastgru than the checkout's. Requests come in on stdin and answers go out on stdout, both
pickled; it ends where its input does.
"""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import signal
import sys
from pathlib import Path
from typing import Any

from benchmarks import environment, measure
from benchmarks.cases import Case
from benchmarks.inputs import make_inputs
from benchmarks.peers import Peer, Runner


class Worker:
    """Requests by name; the case that was built last is kept."""

    def __init__(self) -> None:
        self._peer: Any = None
        self._runners: list[Runner] = []

    def load(self, module: str) -> dict[str, Any]:
        peer: Peer = importlib.import_module(f"benchmarks.peers.{module}").Peer()
        self._peer = peer
        package = importlib.import_module("fastgru").__file__ or ""
        commit = environment.git_commit(Path(package))
        known = [peer.version, f"engine {environment.engine_hash()}"]
        return {
            "version": " ".join(known + ([f"commit {commit}"] if commit else [])),
            "precision": peer.precision,
            "tolerance": peer.tolerance,
        }

    def unsupported(self, case: Case) -> str | None:
        reason: str | None = self._peer.unsupported(case)
        return reason

    def build(self, case: Case) -> list[tuple[str, list[str]]]:
        """Setting and names of parts of every runner."""
        self._runners = []
        gc.collect()
        self._runners = self._peer.build(case, make_inputs(case))
        return [(runner.setting, list(runner.parts)) for runner in self._runners]

    def answer(self, place: int) -> Any:
        return self._runners[place].answer()

    def run_for(self, place: int, part: str, ns: int) -> None:
        measure.run_for(self._call(place, part), ns)

    def time_calls(self, place: int, part: str, n: int) -> list[int]:
        return measure.time_calls(self._call(place, part), n)

    def _call(self, place: int, part: str) -> measure.Call:
        runner = self._runners[place]
        return runner.parts[part] if part else runner.run


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who asks decides when it ends
    worker = Worker()
    gc.disable()  # as in measure.measure
    while True:
        try:
            command, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = True, getattr(worker, command)(*arguments)
        except Exception as error:  # for the one who asked
            answer = False, f"{type(error).__name__}: {error}"
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    main()
