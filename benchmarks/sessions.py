"""`python -m benchmarks sessions`: thousands of live sequences in one process.

Throughput first: a pool's steps beside ONNX Runtime, which is driven as services drive it today
(each session by itself) and as a careful user would by hand (states gathered, one batch, states
scattered). Then a service's clock: frames of all sessions arrive at their rate, and every tick
steps the sessions that are due.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks import environment, measure
from benchmarks.cases import Case
from benchmarks.peers import BFLOAT16_TOLERANCE, FLOAT32_TOLERANCE, INT8_TOLERANCE

if TYPE_CHECKING:  # imports numpy, which must not load before the thread variables are set
    from benchmarks.inputs import Array32

PRECISIONS = ("float32", "bfloat16", "int8")
TOLERANCES = dict(
    zip(PRECISIONS, (FLOAT32_TOLERANCE, BFLOAT16_TOLERANCE, INT8_TOLERANCE), strict=True)
)
POOLS = {precision: f"pool {precision}" for precision in PRECISIONS}
ALONE_SESSIONS = 200  # stepped by one call of a contender that takes sessions one by one
TICK_S = 0.001
RATES = (0.5, 1.0)  # of what is asked for: the CPU share tells what is left


@dataclass
class Contender:
    """One way to step sessions: `run` steps `frames` of them; `first` gives the first answers."""

    name: str
    frames: int
    run: Callable[[], object]
    first: Callable[[], Array32]
    tolerance: float = FLOAT32_TOLERANCE


class Sessions:
    """The network, the frames, and which sessions are in which step: the same for everybody."""

    def __init__(self, options: argparse.Namespace) -> None:
        import numpy as np  # noqa: PLC0415

        from benchmarks.inputs import make_inputs  # noqa: PLC0415

        self.count, self.rows, self.threads = options.sessions, options.rows, options.threads
        self.case = Case(T=1, B=self.rows, I=options.input, H=options.hidden, mode="step")
        self.inputs = make_inputs(self.case)
        rng = np.random.default_rng(0)
        self.x = rng.standard_normal((self.count, options.input)).astype(np.float32)
        steps = self.count // self.rows
        # [steps, rows] places of sessions, in no order
        self.turns = rng.permutation(self.count)[: steps * self.rows].reshape(steps, self.rows)
        self.next = 0

    def turn(self) -> Any:
        """The places of the next step's sessions."""
        self.next = (self.next + 1) % len(self.turns)
        return self.turns[self.next]


def pool(sessions: Sessions, precision: str) -> tuple[Any, Any]:
    """A pool in which all sessions are open, and their ids."""
    import numpy as np  # noqa: PLC0415

    import fastgru  # noqa: PLC0415

    gru = fastgru.GRU.from_state_dict(
        sessions.inputs.state, precision=precision, num_threads=sessions.threads
    )
    made = gru.pool(sessions.count)
    return made, np.array([made.open() for _ in range(sessions.count)])


def pool_contender(sessions: Sessions, precision: str) -> Contender:
    made, ids = pool(sessions, precision)

    def run() -> Any:
        places = sessions.turn()
        return made.step(ids[places], sessions.x[places])

    def first() -> Array32:
        answer: Array32 = made.step(ids[: sessions.rows], sessions.x[: sessions.rows])
        return answer

    return Contender(POOLS[precision], sessions.rows, run, first, TOLERANCES[precision])


def onnxruntime_session(sessions: Sessions, case: Case, threads: int) -> Any:
    from benchmarks.peers import onnx_graph, onnxruntime_peer  # noqa: PLC0415

    model = onnx_graph.build(case, sessions.inputs)
    return onnxruntime_peer.Peer()._session(model, threads, spinning=threads > 1)


def by_hand(sessions: Sessions) -> Contender:
    """ONNX Runtime, batched: what a careful user writes in NumPy."""
    import numpy as np  # noqa: PLC0415

    session = onnxruntime_session(sessions, sessions.case, sessions.threads)
    states = np.zeros((sessions.count, sessions.case.H), np.float32)

    def step(places: Any) -> Array32:
        y, h_n = session.run(None, {"x": sessions.x[places][None], "h_0": states[places][None]})
        states[places] = h_n[0]
        answer: Array32 = y[0]
        return answer

    return Contender(
        "ONNX Runtime, batched by hand",
        sessions.rows,
        lambda: step(sessions.turn()),
        lambda: step(np.arange(sessions.rows)),
    )


def alone(sessions: Sessions, workers: int) -> Contender:
    """ONNX Runtime, each session by itself, by this many Python threads."""
    import numpy as np  # noqa: PLC0415

    case = Case(T=1, B=1, I=sessions.case.I, H=sessions.case.H, mode="step")
    session = onnxruntime_session(sessions, case, 1)
    frames = [row[None, None] for row in sessions.x]
    states = [np.zeros((1, 1, case.H), np.float32) for _ in range(sessions.count)]

    def step(place: int) -> Array32:
        y, states[place] = session.run(None, {"x": frames[place], "h_0": states[place]})
        answer: Array32 = y[0, 0]
        return answer

    def all_of(places: list[int]) -> list[Array32]:
        return [step(place) for place in places]

    executor = ThreadPoolExecutor(workers)
    chunks = sessions.turns.ravel()[:ALONE_SESSIONS].reshape(workers, -1).tolist()
    return Contender(
        f"ONNX Runtime, each by itself, {workers} Python thread{'s' * (workers > 1)}",
        ALONE_SESSIONS,
        (lambda: all_of(chunks[0])) if workers == 1 else lambda: list(executor.map(all_of, chunks)),
        lambda: np.stack(all_of(list(range(sessions.rows)))),
    )


def throughput(sessions: Sessions, contenders: list[Contender], budget_s: float) -> None:
    """A line a contender: frames a second, and how many times ours its time for a frame is."""
    import numpy as np  # noqa: PLC0415

    right = contenders[0].first()
    for contender in contenders[1:]:
        worst = float(np.abs(contender.first() - right).max())
        if worst > contender.tolerance:
            raise RuntimeError(f"{contender.name}: differs by {worst:.2g}")
    samples = measure.measure(
        {c.name: c.run for c in contenders},
        threads=sessions.threads,
        budget_s=budget_s,
        min_rounds=5,
    )
    frames = {c.name: c.frames for c in contenders}
    columns = [name for name in POOLS.values() if name in samples]
    print("| | frames/s | µs a step, p50 | p99 |" + "".join(f" {c} is |" for c in columns))
    print("| --- |" + " ---: |" * (3 + len(columns)))
    for name, found in samples.items():
        median = measure.quantile(found.calls, 0.5) * 1e-3
        cells = [f"{frames[name] / median * 1e6:,.0f}", f"{median:,.1f}"]
        cells += [f"{measure.quantile(found.calls, 0.99) * 1e-3:,.1f}"]
        for column in columns:
            ratio = measure.ratios(found, samples[column])["median"]
            cells.append(f"{ratio * frames[column] / frames[name]:.2f}x")
        print(f"| {name} | " + " | ".join(cells) + " |")


def live(sessions: Sessions, precision: str, rate: float, seconds: float) -> None:
    """A line: frames of all sessions arrive evenly, `rate` a second; each tick steps those due."""
    made, ids = pool(sessions, precision)
    count, most = sessions.count, sessions.count // 4
    steps, delays = [], []
    done = 0
    clock = time.perf_counter
    for i in range(0, count, sessions.rows):  # warm
        made.step(ids[i : i + sessions.rows], sessions.x[i : i + sessions.rows])
    start, cpu = clock(), time.process_time()
    while (now := clock() - start) < seconds:
        # Frame number f belongs to session f % count and is due at f / rate.
        due = min(int(now * rate) - done, most, count - done % count)
        if due > 0:
            place = done % count
            begin = clock()
            made.step(ids[place : place + due], sessions.x[place : place + due])
            end = clock()
            steps.append(end - begin)
            delays.append(end - start - done / rate)  # of the one that waited longest
            done += due
        rest = TICK_S - (clock() - start - now)
        if rest > 0:
            time.sleep(rest)
    wall, used = clock() - start, time.process_time() - cpu
    tail = [f"{measure.quantile(v, q) * 1e3:.2f}" for v in (steps, delays) for q in (0.5, 0.99)]
    share = used / wall / sessions.threads
    cells = [precision, f"{rate:,.0f}", f"{done / wall:,.0f}", *tail, f"{share:.0%}"]
    print("| " + " | ".join(cells) + " |")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks sessions", description=__doc__)
    parser.add_argument("--sessions", type=int, default=10_000, help="default %(default)s")
    parser.add_argument("--rate", type=int, default=100, help="frames a second each, %(default)s")
    parser.add_argument("--rows", type=int, default=256, help="sessions a step, %(default)s")
    parser.add_argument("--input", type=int, default=128, help="I, default %(default)s")
    parser.add_argument("--hidden", type=int, default=128, help="H, default %(default)s")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--budget", type=float, default=20.0, help="seconds of the first table")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each line of the second")
    options = parser.parse_args(argv)
    environment.set_thread_variables(options.threads)
    sessions = Sessions(options)

    contenders = [pool_contender(sessions, precision) for precision in PRECISIONS]
    try:
        importlib.import_module("onnxruntime")
        contenders.append(by_hand(sessions))
        contenders += [alone(sessions, workers) for workers in sorted({1, options.threads})]
    except ImportError as error:
        print(f"without ONNX Runtime: {error}", file=sys.stderr)
    print(
        f"{options.sessions:,} sessions, I = {options.input}, H = {options.hidden}, "
        f"{options.rows} a step, {options.threads} threads\n"
    )
    throughput(sessions, contenders, options.budget)

    print(
        "\n| pool | frames/s asked | done | ms a step, p50 | p99 | ms until answered, p50 | p99 "
        "| CPU |\n| --- |" + " ---: |" * 7
    )
    for precision in PRECISIONS:
        for part in RATES:
            live(sessions, precision, part * options.sessions * options.rate, options.seconds)
    return 0
