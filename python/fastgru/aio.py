"""`Batcher`: calls of many coroutines become steps of a pool.

Refuses to serve more than one event loop, to change the order of a session's calls, and to poll:
while no call is pending nothing is scheduled. `import fastgru` leaves this module out, since
asyncio takes as long to import as fastgru.
"""

from __future__ import annotations

import asyncio
import math
import operator
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from fastgru.arrays import Float32Array
from fastgru.batching import Call, CallQueue, Outcome, PoolStep
from fastgru.model_pool import ModelPool
from fastgru.options import positive
from fastgru.pool import Pool
from fastgru.sessions import as_id

__all__ = ["Batcher", "Stats"]

# Steps estimated below this run on the event loop, longer ones on the worker thread. A hand-over
# there and back took 80 us (each time after 2 ms of idleness) to 135 us (in a row), 230 us where
# the step gives up the GIL, which is slow to come back beside a busy loop. 16 to 128 sessions whose
# coroutines took 5 or 50 us between calls: steps of 60 to 250 us on the worker cost 4 to 25% of the
# calls per second, of 350 us between 21% lost and 30% gained, of 500 us and more gained 32 to 104%
# (one run of ten: 18% lost).
# On two virtual cores of an Emerald Rapids, other programs beside it, Python 3.11.
INLINE_BELOW = 300e-6  # seconds
# The default of max_pending, in batches: a step looks through all pending calls where few sessions
# have most of them.
PENDING_BATCHES = 16


@dataclass
class Stats:
    """What a Batcher has done so far; `Batcher.stats` gives one.

    Attributes:
        steps: steps of the pool.
        rows: calls that they answered.
        largest_batch: most of them in one step.
        waiting_seconds: sum of the time from each call to the begin of its step.
        compute_seconds: sum of the time of the steps.

    >>> Stats(steps=2, rows=10).rows / 2
    5.0
    """

    steps: int = 0
    rows: int = 0
    largest_batch: int = 0
    waiting_seconds: float = 0.0
    compute_seconds: float = 0.0


class Batcher:
    """Gathers the calls of concurrent coroutines into steps of one pool; results are the same bits.

    A step runs as soon as every open session of the pool has a call pending, `max_batch` sessions
    have one, the oldest pending call is `max_delay` seconds old, or more calls are waiting than
    there is room for. Calls of one session run one after the other, in their order and never two in
    one step; of several sessions, the oldest calls run first. Sessions are opened, closed and saved
    by the pool itself; a step that would have to run because one was closed comes with the next
    call or after `max_delay`.

    A session that makes many calls at once takes room from the others: await each before the next.

    A step that is estimated (from recent ones of about as many rows) to take less than
    `INLINE_BELOW` runs on the event loop, a longer one on a worker thread; one at a time. While
    that thread computes, other calls of the pool wait for it.

    A batcher works on one event loop, the first that uses it; from another one, which is that of
    another thread, calls raise RuntimeError. `async with` closes it at the end.

    >>> import asyncio, numpy as np, fastgru, fastgru.aio
    >>> pool = fastgru.GRU.from_state_dict({"weight_ih_l0": np.ones((6, 3), np.float32),
    ...                                     "weight_hh_l0": np.ones((6, 2), np.float32)}).pool(100)
    >>> async def live(batcher, frames):
    ...     session = pool.open()
    ...     for x_t in frames:
    ...         y_t = await batcher.step(session, x_t)
    ...     return y_t
    >>> async def main():
    ...     async with fastgru.aio.Batcher(pool) as batcher:
    ...         await asyncio.gather(*(live(batcher, np.ones((5, 3))) for _ in range(4)))
    ...     return batcher.stats
    >>> stats = asyncio.run(main())
    >>> stats.steps, stats.rows, stats.largest_batch
    (5, 20, 4)
    """

    def __init__(
        self,
        pool: Pool | ModelPool,
        *,
        max_delay: float = 0.001,
        max_batch: int = 64,
        max_pending: int | None = None,
    ) -> None:
        """max_delay: seconds; 0 gathers what one turn of the event loop brings, inf never hurries.

        max_pending: how many calls there is room for until their steps, 16 * max_batch if None.
        Raises TypeError and ValueError for what is no such number.
        """
        if not isinstance(pool, (Pool, ModelPool)):
            raise TypeError(f"pool: expected a Pool or a ModelPool, got {type(pool).__name__}")
        if isinstance(max_delay, bool) or not isinstance(max_delay, (int, float, np.number)):
            raise TypeError(f"max_delay: expected seconds, got {max_delay!r}")
        if not max_delay >= 0:  # nor NaN
            raise ValueError(f"max_delay: expected seconds, at least 0, got {max_delay!r}")
        self._pool = pool
        self._max_delay = float(max_delay)
        self._max_batch = min(positive("max_batch", max_batch), pool.capacity)
        room = PENDING_BATCHES * self._max_batch if max_pending is None else max_pending
        self._queue = CallQueue(positive("max_pending", room))
        self._step = PoolStep(pool, self._max_batch)
        self._stats = Stats()

        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn: asyncio.Handle | None = None  # `_look`, for the calls of this turn of the loop
        self._timer: asyncio.TimerHandle | None = None  # for the oldest pending call
        self._running = False  # a step on the worker; its end looks for what comes next
        self._closing = False
        self._idle = asyncio.Event()  # a batcher that closes has nothing left to do

        self._worker: ThreadPoolExecutor | None = None  # from the first long step on
        # Seconds of a step by the bits of its number of rows. The first one runs on the worker,
        # since a needless hand-over costs less than a loop that stands still.
        self._cost = [math.inf] * (self._max_batch.bit_length() + 1)
        self._inline: bool | None = None  # tests force one or the other

    async def step(self, session: int, x_t: ArrayLike) -> Float32Array:
        """One step of a session: x_t (I,) -> (H,), float32; of a model's pool (O,).

        Where the model takes indices x_t is a single one.

        x_t is copied when the call begins. The result is a row of its step's result (n, H): nobody
        else writes to it, but it keeps all of them in memory, so copy what you keep for long. Where
        `max_pending` calls are pending this one waits for room, first come, first served.

        Cancelled before its step begins, a call never happens. Cancelled later it counts: the
        session has advanced, only the result is dropped.

        Raises KeyError for an unknown session and for one that is closed before the step begins,
        ShapeError, TypeError and IndexError as the pool's step does, RuntimeError where the batcher
        is closed or belongs to another event loop; no other call notices. Where the step itself
        fails (memory is out, or the pool is shut down), each of its calls raises that.
        """
        loop = self._own_loop()
        if self._closing:
            raise RuntimeError("this batcher is closed")
        row = self._step.own_row(x_t)
        if self._running:  # the pool is busy: that it knows the session is left to the call's step
            session = as_id(session)
        else:
            self._pool.get_state(session)
            session = operator.index(session)
        future: asyncio.Future[Float32Array] = loop.create_future()
        call = Call(future, session, row, loop.time())
        self._queue.add(call)
        self._look_soon()
        try:
            return await future
        except asyncio.CancelledError:
            if self._queue.withdraw(call):
                self._stop_timer()  # it may have been for this call
                self._look_soon()
            raise

    async def aclose(self) -> None:
        """Runs the calls made so far, without delay, and refuses new ones; again it does nothing.

        The pool stays as it is. If cancelled, the calls still run; `aclose` again waits for them.
        """
        self._own_loop()
        self._closing = True
        if self._running or self._queue.pending:
            self._look_soon()
            await self._idle.wait()
        if self._worker is not None:
            self._worker.shutdown()

    @property
    def stats(self) -> Stats:
        """The counters of this moment, a copy."""
        return replace(self._stats)

    @property
    def pending(self) -> int:
        """How many calls have room and wait for their step; at most `max_pending`."""
        return len(self._queue.pending)

    async def __aenter__(self) -> Self:
        self._own_loop()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        state = ", closed" if self._closing else ""
        return f"Batcher({self.pending} pending{state}, {self._pool!r})"

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        if loop is not self._loop:
            raise RuntimeError(
                f"this batcher belongs to another event loop: expected {self._loop}, got {loop}"
            )
        return loop

    # ---- when a step runs ----

    def _look_soon(self) -> None:
        """Looks in the loop's next turn, so that all calls of this one are seen together."""
        if self._turn is None and not self._running and self._loop is not None:
            self._turn = self._loop.call_soon(self._look, self._loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._turn = None
        if self._running:
            return
        if not self._queue.pending:
            if self._closing:
                self._idle.set()
            return
        hurry = self._queue.pending[0].time + self._max_delay
        if self._is_full() or loop.time() >= hurry:
            self._run(loop)
        elif self._timer is None and hurry < math.inf:
            self._timer = loop.call_at(hurry, self._run, loop)

    def _is_full(self) -> bool:
        """Whether waiting brings no more rows to the next step."""
        sessions = self._queue.sessions
        if self._closing or self._queue.waiting or sessions >= self._max_batch:
            return True
        try:
            return sessions >= len(self._pool)
        except RuntimeError:  # the pool is shut down, which the step will say
            return True

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ---- one step ----

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        self._stop_timer()
        batch = self._queue.take(self._max_batch)
        if not batch:  # all of them were cancelled
            self._look_soon()
            return
        now = loop.time()
        self._stats.waiting_seconds += sum(now - call.time for call in batch)
        inline = self._cost[len(batch).bit_length()] < INLINE_BELOW
        if inline if self._inline is None else self._inline:
            try:
                found = self._timed_step(batch)
            except BaseException as error:  # an interrupt, say
                self._fail(batch, error)
                raise
            self._finish(batch, *found)
            return
        try:
            if self._worker is None:
                self._worker = ThreadPoolExecutor(1, "fastgru-batcher")
            self._running = True
            self._worker.submit(self._work, loop, batch)
        except Exception as error:  # the system gives no thread
            self._fail(batch, error)

    def _work(self, loop: asyncio.AbstractEventLoop, batch: list[Call]) -> None:
        try:
            found = self._timed_step(batch)
        except BaseException as error:
            loop.call_soon_threadsafe(self._fail, batch, error)
        else:
            loop.call_soon_threadsafe(self._finish, batch, *found)

    def _fail(self, batch: list[Call], error: BaseException) -> None:
        """The step has not run: each of its calls raises this."""
        self._running = False
        for call in batch:
            if not call.future.done():
                call.future.set_exception(error)
        self._look_soon()

    def _timed_step(self, batch: list[Call]) -> tuple[list[Outcome], float, float]:
        """Outcomes, seconds, and those of this thread: without waiting for the GIL or a core."""
        start, own_start = time.perf_counter(), time.thread_time()
        outcomes = self._step.run(batch)
        return outcomes, time.perf_counter() - start, time.thread_time() - own_start

    def _finish(
        self, batch: list[Call], outcomes: list[Outcome], seconds: float, own: float
    ) -> None:
        self._running = False
        rows = 0
        for call, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Exception):
                if not call.future.done():
                    call.future.set_exception(outcome)
                continue
            rows += 1
            if not call.future.done():  # else cancelled while its step ran
                call.future.set_result(outcome)
        stats, bits = self._stats, len(batch).bit_length()
        stats.steps += rows > 0
        stats.rows += rows
        stats.largest_batch = max(stats.largest_batch, rows)
        stats.compute_seconds += seconds
        # Cut off, so that one outlier (first touch of memory) sends no short steps to the worker.
        own, cost = min(own, 2 * INLINE_BELOW), self._cost[bits]
        self._cost[bits] = own if cost == math.inf else cost + (own - cost) / 8
        if self._queue.pending or self._closing:
            self._look_soon()
