"""fastgru in a process of its own, by any Python that has it: two builds side by side in one run.

Two builds cannot be loaded into one process. Each gets a process that builds the cases with this
benchmark's own code, and makes and times the calls of a turn when told to (worker.py), so that
nothing of the way there and back is in a time. The weights and inputs come from the same generator.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import weakref
from functools import partial
from typing import Any

from benchmarks import environment, measure
from benchmarks.cases import Case
from benchmarks.inputs import Answer, Inputs
from benchmarks.peers import Runner


class ElsewhereError(RuntimeError):
    """What went wrong in the other process, with its own message."""


class Process:
    """A worker, which ends with this object."""

    def __init__(self, python: str, *, other: bool) -> None:
        variables = dict(os.environ)
        if other:  # it may be what makes this Python import our build
            variables.pop("PYTHONPATH", None)
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.peers.worker"],
            cwd=environment.CHECKOUT,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.close = weakref.finalize(self, _end, self._process)

    def ask(self, command: str, *arguments: Any) -> Any:
        """The answer to one request; ElsewhereError where it raised, or the process is gone."""
        into, out = self._process.stdin, self._process.stdout
        assert into
        assert out
        try:
            pickle.dump((command, arguments), into)
            into.flush()
            good, value = pickle.load(out)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise ElsewhereError(f"the process ended at {command!r}: {error}") from error
        if not good:
            raise ElsewhereError(value)
        return value


def _end(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream:
            with contextlib.suppress(BrokenPipeError):  # what it died before reading
                stream.close()
    process.wait()  # it ends where its input does


class Call(measure.Remote):
    """One of the calls of the case that was built last."""

    def __init__(self, process: Process, runner: int, part: str) -> None:
        self._process, self._which = process, (runner, part)

    def run_for(self, ns: int) -> None:
        self._process.ask("run_for", *self._which, ns)

    def time_calls(self, n: int) -> list[int]:
        times: list[int] = self._process.ask("time_calls", *self._which, n)
        return times


class Peer:
    """A peer of `module` in another process."""

    def __init__(self, python: str, module: str, *, other: bool) -> None:
        try:
            self._process = Process(python, other=other)
            loaded = self._process.ask("load", module)
        except (OSError, ElsewhereError) as error:
            raise ImportError(f"{python}: {error}") from error
        self.version: str = loaded["version"]
        self.precision: str = loaded["precision"]
        self.tolerance: float = loaded["tolerance"]

    def unsupported(self, case: Case) -> str | None:
        reason: str | None = self._process.ask("unsupported", case)
        return reason

    def build(self, case: Case, inputs: Inputs) -> list[Runner]:
        del inputs  # made there again, from the same generator
        process = self._process
        return [
            Runner(
                setting,
                Call(process, place, ""),
                partial(_answer, process, place),
                {part: Call(process, place, part) for part in parts},
            )
            for place, (setting, parts) in enumerate(process.ask("build", case))
        ]


def _answer(process: Process, place: int) -> Answer:
    answer: Answer = process.ask("answer", place)
    return answer
