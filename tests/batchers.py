"""What the tests of batchers share: a loop whose clock jumps, a pool that keeps a record."""

from __future__ import annotations

import asyncio
import gc
import selectors
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

import fastgru
from conftest import Array, make_gru, random_input, random_weights
from fastgru import aio

I, H, L = 5, 21, 2  # noqa: E741
CAPACITY = 12
HOURS = 1e4  # a max_delay that no test should have to wait for, though it could


class JumpingSelector(selectors.DefaultSelector):
    """Where a loop would sleep, its clock jumps instead; other threads are waited for."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        events = super().select(0)
        if not events:
            self.now += timeout
        return events


class JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.selector = JumpingSelector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """`main` on a loop whose clock jumps; asyncio must have nothing to complain about."""
    complaints: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        loop = runner.get_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        runner.run(main())
    gc.collect()  # futures whose exception nobody has seen complain when they go
    assert complaints == []


class RecordingPool(fastgru.Pool):
    """Keeps who was in each step, and on which thread it ran; a step can be held."""

    __slots__ = ("began", "fail_with", "go", "steps", "threads")

    def __init__(self, gru: fastgru.GRU, capacity: int) -> None:
        super().__init__(gru, capacity)
        self.steps: list[list[int]] = []
        self.fail_with: Exception | None = None
        self.threads: list[threading.Thread] = []
        self.began, self.go = threading.Event(), threading.Event()
        self.go.set()

    def step(self, ids: Any, x: Any, *, out: Any = None) -> Any:
        self.began.set()
        assert self.go.wait(60)
        if self.fail_with is not None:
            raise self.fail_with
        y = super().step(ids, x, out=out)
        self.steps.append(ids.tolist())
        self.threads.append(threading.current_thread())
        return y

    def get_state(self, session: int) -> Any:
        assert self.go.is_set() or not self.began.is_set(), "this would wait for the step"
        return super().get_state(session)

    async def held(self) -> None:
        """Returns when a step has begun on the worker, which ends when `go` is set."""
        while not self.began.is_set():
            await asyncio.to_thread(self.began.wait, 60)


def network() -> fastgru.GRU:
    return make_gru(random_weights(np.random.default_rng(0), I, H, L))


def inputs(*shape: int) -> Array:
    return random_input(np.random.default_rng(2), *shape)


def make(inline: bool = True, **options: Any) -> tuple[RecordingPool, aio.Batcher]:
    """A pool and a batcher whose steps all run on the loop, or all on the worker."""
    pool = RecordingPool(network(), CAPACITY)
    options = {"max_delay": HOURS} | options
    batcher = aio.Batcher(pool, **options)
    batcher._inline = inline
    return pool, batcher


def called(batcher: aio.Batcher, session: int, x_t: Array) -> asyncio.Task[Array]:
    return asyncio.create_task(batcher.step(session, x_t))


async def turns(count: int = 5) -> None:
    """So many turns of the loop: what does not wait for time or threads has happened."""
    for _ in range(count):
        await asyncio.sleep(0)


def stepped(*rows: Array) -> Array:
    """What a stream of its own gives for the last of these rows."""
    stream = network().stream()
    return [stream.step(x_t) for x_t in rows][-1]


both_paths = pytest.mark.parametrize("inline", [True, False], ids=["on the loop", "on the worker"])
