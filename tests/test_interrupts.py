"""Promise 4: an exception that a signal handler raises leaves every state as before or as after.

Never half of one, and nothing is locked afterwards: not when it comes inside a step, not between
the layers of a model, not while another one is being cleaned up. Where a call is long (promise 3:
Ctrl-C ends it) handlers run while it computes, and where one of them raises, the call has not been.
`python tests/interrupts.py` does the first part ten thousand times.
"""

from __future__ import annotations

import functools
import signal
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import fastgru
from conftest import Array, make_gru, random_weights, run_python
from interrupts import CASES, Alarm, Case, as_list, interrupt, same


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice in a row"])
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_states_are_as_before_or_as_after(case: Case, twice: bool) -> None:
    """Many interrupts at random points of each kind of call."""
    found = interrupt(case, 250 if "large" in case.name else 1500, twice)
    assert not found["half"], f"some of its states have advanced and others have not: {found}"
    assert not found["unusable"], f"it says that another thread is using it: {found}"
    assert not found["wrong"], f"other states than without interrupts: {found}"


# ---- long calls ----


class Long(NamedTuple):
    """A call whose work grows with `size`, and the states that it changes."""

    states: Callable[[], list[Array]]
    restore: Callable[[], object]
    call: Callable[[int], object]
    size: int


def long_gru() -> fastgru.GRU:
    return make_gru(random_weights(np.random.default_rng(0), 16, 256, 2))


def long_model() -> fastgru.Model:
    rng = np.random.default_rng(1)
    grus = [make_gru(random_weights(rng, size, 256)) for size in (16, 256)]
    return fastgru.Model([grus[0], fastgru.Tanh(), grus[1], fastgru.Linear(np.ones((3, 256)))])


def zeros(*shape: int) -> Array:
    return np.zeros(shape, np.float32)


def long_call(network: Any) -> Long:
    return Long(list, lambda: None, lambda size: network(zeros(size, 4, 16)), 1000)


def long_run(network: Any) -> Long:
    stream = network.stream(4)
    return Long(
        lambda: as_list(stream.state),
        stream.reset,
        lambda size: stream.run(zeros(size, 4, 16)),
        1000,
    )


def long_step(network: Any) -> Long:
    """Of a stream for so many sequences, each call with its own: it shows in none of them."""
    streams: dict[int, Any] = {}

    def step(size: int) -> object:
        stream = streams.setdefault(size, network.stream(size))
        for other in [other for other in streams if other != size]:
            del streams[other]
        return stream.step(zeros(size, 16))

    def states() -> list[Array]:
        return [state for stream in streams.values() for state in as_list(stream.state)]

    def restore() -> None:
        for stream in streams.values():
            stream.reset()

    return Long(states, restore, step, 2000)


def long_pool_step(network: Any) -> Long:
    pool = network.pool(2**17)
    ids: list[int] = []

    def step(size: int) -> object:
        ids.extend(pool.open() for _ in range(size - len(ids)))
        return pool.step(ids[:size], zeros(size, 16))

    def states() -> list[Array]:
        return [state for session in ids for state in as_list(pool.get_state(session))]

    def restore() -> None:
        before = pool.get_state(pool.open())
        for session in ids:
            pool.set_state(session, before)

    return Long(states, restore, step, 2000)


LONG = {
    "GRU call": lambda: long_call(long_gru()),
    "GRU stream run": lambda: long_run(long_gru()),
    "GRU stream step": lambda: long_step(long_gru()),
    "GRU pool step": lambda: long_pool_step(long_gru()),
    "Model call": lambda: long_call(long_model()),
    "Model stream run": lambda: long_run(long_model()),
    "Model stream step": lambda: long_step(long_model()),
    "Model pool step": lambda: long_pool_step(long_model()),
}


def watched(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds of a call, and the longest time in it in which no signal handler ran."""
    times: list[float] = []
    before = signal.signal(signal.SIGALRM, lambda *_: times.append(time.perf_counter()))
    try:
        start = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        call()
        end = time.perf_counter()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    inside = [start, *(at for at in times if at < end), end]
    return end - start, max(np.diff(inside))


@pytest.mark.parametrize("name", LONG)
def test_long_calls_are_interrupted(name: str) -> None:
    """Handlers run while a call of a second computes; one that raises ends it, undone."""
    work = LONG[name]()
    size = work.size
    work.call(size)
    seconds = 0.0
    while seconds < 1:
        work.restore()
        seconds, silent = watched(functools.partial(work.call, size))
        used, size = size, int(size * min(10, 1.3 / seconds)) + 1
    size = used
    assert silent < seconds / 2, f"no handler ran for {silent:.2f} s of {seconds:.2f}"

    work.restore()
    before = work.states()
    with Alarm() as alarm:
        for part in (5, 10, 20, 40):  # the machine may have become faster meanwhile
            if alarm.interrupt(functools.partial(work.call, size), seconds / part, None):
                break
            work.restore()
        else:
            pytest.fail("no signal came while it computed")
    assert same(work.states(), before), "the call raised, and its states have changed"
    work.call(size)  # it is not locked
    assert not before or not same(work.states(), before)


def test_ctrl_c() -> None:
    """Python's own handler of SIGINT, which raises KeyboardInterrupt, in the middle of a run."""
    done = run_python(
        """
import os, signal, threading, time
import numpy as np, fastgru
rng = np.random.default_rng(0)
weights = {f"weight_{k}h_l0": rng.uniform(-0.1, 0.1, (768, 256)).astype("f4") for k in "ih"}
stream = fastgru.GRU.from_state_dict(weights).stream()
x = np.ones((1000, 1, 256), np.float32)
seconds = 0.0
while seconds < 1.5:
    stream.reset()
    start = time.perf_counter()
    stream.run(x)
    seconds = time.perf_counter() - start
    x = np.ones((int(len(x) * min(10, 2 / seconds)), 1, 256), np.float32)
inside = False
while not inside:  # unless the machine has become so much faster that the run ends before
    stream.reset()
    try:
        threading.Timer(seconds / 8, os.kill, (os.getpid(), signal.SIGINT)).start()
        inside = True
        stream.run(x)
        inside = False
        time.sleep(seconds)
    except KeyboardInterrupt:
        pass
print("as before" if not stream.state.any() else "with a state")
"""
    )
    assert done.stdout.strip() == "as before", done
