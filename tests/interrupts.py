"""Interrupts at random points of streams and pools, and what they may leave behind.

    python tests/interrupts.py --count 10000

interrupts every case that often, once and twice in a row, and tells what it found. A signal handler
that raises (Ctrl-C, a timeout by SIGALRM) may do so between any two lines of Python and after any
call into C. Each case walks along states that are known beforehand, several calls in a row; after
every interrupt the state must be the one before the call that it came in or the one after it, in
all layers and rows, and the next call must work. test_interrupts.py does a part of it in each run
of the tests.

Uses nothing but the public API. Refuses to run in a thread other than the main one, which is where
Python handles signals.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import fastgru
from conftest import Array, make_gru, random_weights

STEPS = 12  # known states, one after the other; then it begins again


class Interrupt(Exception):
    """What the signal handler raises."""


class Alarm:
    """SIGALRM, which raises Interrupt where that is wanted, up to twice."""

    def __init__(self) -> None:
        self.left = 0  # how many may still be raised
        self.raised = 0
        self.second = 0.0  # seconds from the first to the second

    def __enter__(self) -> Alarm:
        self.before = signal.signal(signal.SIGALRM, self.handle)
        return self

    def __exit__(self, *exception: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.before)

    def handle(self, *_: object) -> None:
        if self.left == 0:
            return
        self.left -= 1
        self.raised += 1
        if self.left:
            signal.setitimer(signal.ITIMER_REAL, self.second)
        raise Interrupt

    def interrupt(self, call: Callable[[], object], first: float, second: float | None) -> int:
        """The call, interrupted after `first` seconds, and `second` after that; how often it was.

        An interrupt that comes after the call is one of the call, as it is for whoever called.
        """
        self.raised, self.second = 0, second or 0.0
        try:  # the second interrupt may come while the first is being caught
            try:
                self.left = 1 if second is None else 2
                signal.setitimer(signal.ITIMER_REAL, first)
                call()
            except Interrupt:
                pass
            self.left = 0
        except Interrupt:
            pass
        self.left = 0
        signal.setitimer(signal.ITIMER_REAL, 0)
        return self.raised


class Walk(NamedTuple):
    """Calls that go from one known state to another."""

    states: Callable[[], list[Array]]
    """All states there are now."""
    restore: Callable[[list[Array]], object]
    calls: Sequence[Callable[[], object]]
    """The call that leads from state number i to number i + 1, of STEPS."""


class Case(NamedTuple):
    name: str
    start: Callable[[], Walk]


# ---- what is interrupted ----


def weights(inputs: int, hidden: int, layers: int = 1) -> dict[str, Array]:
    rng = np.random.default_rng(inputs * 1000 + hidden)
    return random_weights(rng, inputs, hidden, layers)


def small_gru() -> fastgru.GRU:
    return make_gru(weights(8, 24, 2), num_threads=1)


def large_gru() -> fastgru.GRU:
    """Steps of which give the GIL away and may use two threads."""
    return make_gru(weights(8, 96, 2), num_threads=2)


def model_of(hidden: int, threads: int) -> fastgru.Model:
    """Three GRUs between other layers: interrupts can come between them."""
    rng = np.random.default_rng(1)
    model = fastgru.Model(
        [
            make_gru(weights(8, hidden)),
            fastgru.Tanh(),
            make_gru(weights(hidden, hidden)),
            fastgru.LayerNorm(),
            make_gru(weights(hidden, hidden, 2)),
            fastgru.Last(),
            fastgru.Linear(rng.uniform(-1, 1, (5, hidden))),
            fastgru.Softmax(),
        ]
    )
    model.num_threads = threads
    return model


def small_model() -> fastgru.Model:
    return model_of(16, 1)


def large_model() -> fastgru.Model:
    return model_of(96, 2)


def inputs(*shape: int) -> Array:
    rng = np.random.default_rng(2)
    return rng.standard_normal((STEPS, *shape)).astype(np.float32)


def as_list(states: Any) -> list[Array]:
    """A GRU has one state, a model one for each of its GRUs."""
    return list(states) if isinstance(states, (list, tuple)) else [states]


def stream_walk(network: Any, batch: int, way: str) -> Walk:
    stream = network.stream(batch)
    chunks = inputs(batch, 8) if way == "step" else inputs(3, batch, 8)
    advance = getattr(stream, way)

    def restore(states: list[Array]) -> None:
        stream.state = states if isinstance(network, fastgru.Model) else states[0]

    calls = [lambda x=x: advance(x) for x in chunks]
    return Walk(lambda: as_list(stream.state), restore, calls)


def pool_walk(network: Any, sessions: int) -> Walk:
    """Some sessions advance together; the others must stay."""
    pool = network.pool(sessions + 2)
    ids = [pool.open() for _ in range(sessions + 2)]
    moving = np.array(ids[1:-1][::-1])

    def states() -> list[Array]:
        return [state for session in ids for state in as_list(pool.get_state(session))]

    def restore(values: list[Array]) -> None:
        each = len(values) // len(ids)
        for index, session in enumerate(ids):
            own = values[index * each : (index + 1) * each]
            pool.set_state(session, own if isinstance(network, fastgru.Model) else own[0])

    calls = [lambda x=x: pool.step(moving, x) for x in inputs(sessions, 8)]
    return Walk(states, restore, calls)


CASES = [
    Case("GRU stream step", lambda: stream_walk(small_gru(), 1, "step")),
    Case("GRU stream step, large", lambda: stream_walk(large_gru(), 9, "step")),
    Case("GRU stream run", lambda: stream_walk(small_gru(), 2, "run")),
    Case("GRU stream run, large", lambda: stream_walk(large_gru(), 9, "run")),
    Case("GRU pool step", lambda: pool_walk(small_gru(), 3)),
    Case("GRU pool step, large", lambda: pool_walk(large_gru(), 9)),
    Case("Model stream step", lambda: stream_walk(small_model(), 1, "step")),
    Case("Model stream step, large", lambda: stream_walk(large_model(), 9, "step")),
    Case("Model stream run", lambda: stream_walk(small_model(), 2, "run")),
    Case("Model stream run, large", lambda: stream_walk(large_model(), 9, "run")),
    Case("Model pool step", lambda: pool_walk(small_model(), 3)),
    Case("Model pool step, large", lambda: pool_walk(large_model(), 9)),
]


# ---- interrupting it ----


def same(a: Sequence[Array], b: Sequence[Array]) -> bool:
    return all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


def known_states(walk: Walk) -> list[list[Array]]:
    known = [walk.states()]
    for call in walk.calls:
        call()
        known.append(walk.states())
    walk.restore(known[0])
    return known


def seconds_of(walk: Walk) -> float:
    """Of all calls, and a bit more: interrupts come between 0 and this."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        for call in walk.calls:
            call()
        times.append(time.perf_counter() - start)
    return 1.2 * sorted(times)[len(times) // 2] + 1e-5


class Progress:
    """Which of the known states a walk is at, as far as its calls have returned."""

    def __init__(self, calls: Sequence[Callable[[], object]]) -> None:
        self.calls = calls
        self.at = 0

    def go_on(self) -> None:
        while self.at < STEPS:
            self.calls[self.at]()
            self.at += 1


def interrupt(case: Case, count: int, twice: bool, seed: int = 0) -> Counter[str]:
    """At least `count` interrupts; how often the state was which, and what went wrong."""
    found: Counter[str] = Counter()
    rng = random.Random(seed)
    walk = case.start()
    known = known_states(walk)
    most = seconds_of(walk)
    walk.restore(known[0])
    progress, walks = Progress(walk.calls), 0
    with Alarm() as alarm:
        while found["interrupts"] < count:
            walks += 1
            if walks > 1000 * count:
                raise RuntimeError(f"{case.name}: signals do not arrive: {found}")
            second = rng.uniform(1e-6, most / STEPS) if twice else None
            try:
                times = alarm.interrupt(progress.go_on, rng.uniform(1e-6, most), second)
                now = walk.states()
            except RuntimeError:  # it takes itself for one that another thread is using
                found["unusable"] += 1
                walk = case.start()
                progress = Progress(walk.calls)
                continue
            found["interrupts"] += times > 0
            found["twice"] += times == 2
            if same(now, known[progress.at]):
                found["before"] += times > 0
            elif times and progress.at < STEPS and same(now, known[progress.at + 1]):
                found["after"] += 1
                progress.at += 1
            else:
                found["half" if times else "wrong"] += 1
                walk = case.start()
                progress = Progress(walk.calls)
            if progress.at == STEPS:
                walk.restore(known[0])
                progress.at = 0
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=10000, help="interrupted calls of each case")
    parser.add_argument("--case", default="", help="only cases whose names contain this")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    wrong = 0
    for case in CASES:
        if options.case not in case.name:
            continue
        for twice in (False, True):
            found = interrupt(case, options.count, twice, options.seed)
            wrong += found["half"] + found["wrong"] + found["unusable"]
            told = ", ".join(f"{found[name]} {name}" for name in sorted(found) if found[name])
            print(f"{case.name}{', twice' if twice else ''}: {told}", flush=True)  # noqa: T201
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
