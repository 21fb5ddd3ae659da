"""Batchers: concurrent coroutines whose calls become steps of one pool.

What one session gets are the bits of its own Stream, in its order. Which calls make a step is
tested with a clock that jumps, so no test waits or times.
"""

from __future__ import annotations

import asyncio
import math
import threading
from asyncio import Future
from typing import Any

import numpy as np
import pytest

from batchers import (
    H,
    I,
    both_paths,
    called,
    inputs,
    make,
    network,
    run,
    stepped,
    turns,
)
from conftest import Array, run_python, same_bits
from fastgru import aio
from fastgru.batching import Call

# ---- which calls make a step ----


@both_paths
def test_same_bits_and_one_step_for_all(inline: bool) -> None:
    """Sessions in step with each other: T steps of all rows, without any delay."""

    async def main() -> None:
        pool, batcher = make(inline)
        x = inputs(20, 8, I)
        expected, _ = network()(x)

        async def live(row: int) -> None:
            session = pool.open()
            await turns(1)  # all are open before the first step
            for t in range(20):
                y = await batcher.step(session, x[t, row])
                assert y.shape == (H,)
                assert same_bits(y, expected[t, row])

        await asyncio.gather(*map(live, range(8)))
        assert [len(ids) for ids in pool.steps] == [8] * 20
        assert asyncio.get_running_loop().time() == 0
        assert {t is threading.main_thread() for t in pool.threads} == {inline}
        await batcher.aclose()

    run(main)


@both_paths
def test_a_step_waits_for_every_open_session(inline: bool) -> None:
    """However long max_delay is, the last one's call starts it, and none of the others does."""

    async def main() -> None:
        pool, batcher = make(inline, max_delay=math.inf)
        ids, x = [pool.open() for _ in range(3)], inputs(3, I)
        first = [called(batcher, ids[row], x[row]) for row in range(2)]
        await turns()
        assert pool.steps == []
        assert batcher.pending == 2
        y = [await batcher.step(ids[2], x[2]), *await asyncio.gather(*first)]
        assert pool.steps == [ids]
        assert all(same_bits(y[row], stepped(x[row - 1])) for row in range(3))
        pool.close(ids[2])  # from here on two calls are all
        await asyncio.gather(*(batcher.step(ids[row], x[row]) for row in range(2)))
        assert pool.steps == [ids, ids[:2]]
        await batcher.aclose()

    run(main)


def test_max_batch() -> None:
    """So many sessions make a step although others are open; the rest goes on waiting."""

    async def main() -> None:
        pool, batcher = make(max_batch=3)
        ids = [pool.open() for _ in range(9)]
        tasks = [called(batcher, session, inputs(I)) for session in ids[:8]]
        await turns()
        assert pool.steps == [ids[:3], ids[3:6]]
        assert batcher.pending == 2
        await batcher.aclose()
        assert pool.steps == [ids[:3], ids[3:6], ids[6:8]]
        await asyncio.gather(*tasks)

    run(main)


def test_max_delay() -> None:
    """A step at that time after the oldest call, to the moment, with what has come until then."""

    async def main() -> None:
        pool, batcher = make(max_delay=0.5)
        loop = asyncio.get_running_loop()
        ids = [pool.open() for _ in range(3)]
        first = called(batcher, ids[0], inputs(I))
        await asyncio.sleep(0.375)
        second = called(batcher, ids[1], inputs(I))
        await first
        assert loop.time() == 0.5
        assert second.done()
        assert pool.steps == [ids[:2]]
        assert (batcher.stats.steps, batcher.stats.rows) == (1, 2)
        assert batcher.stats.waiting_seconds == 0.5 + 0.125
        await batcher.step(ids[2], inputs(I))
        assert loop.time() == 1.0

    run(main)


def test_no_delay() -> None:
    """max_delay = 0 gathers what one turn of the loop brings, and nothing waits."""

    async def main() -> None:
        pool, batcher = make(max_delay=0)
        ids = [pool.open() for _ in range(4)]
        looks: list[None] = []
        look = batcher._look
        batcher._look = lambda loop: looks.append(look(loop))  # type: ignore[method-assign]
        await asyncio.gather(*(batcher.step(session, inputs(I)) for session in ids[:3]))
        assert pool.steps == [ids[:3]]
        assert len(looks) == 1  # for all calls of a turn, and none afterwards
        assert asyncio.get_running_loop().time() == 0

    run(main)


def test_nothing_is_scheduled_when_idle() -> None:
    """No timer and no callback is left, whether calls were answered or cancelled."""

    async def main() -> None:
        pool, batcher = make(max_delay=0.5)
        loop: Any = asyncio.get_running_loop()
        ids = [pool.open() for _ in range(2)]
        await batcher.step(ids[0], inputs(I))  # by the timer
        await asyncio.gather(*(batcher.step(session, inputs(I)) for session in ids))
        task = called(batcher, ids[0], inputs(I))
        await turns()
        assert len(loop._scheduled) == 1
        task.cancel()
        await turns()
        assert not loop._ready
        assert all(timer.cancelled() for timer in loop._scheduled)

    run(main)


def test_where_a_step_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of a size on the worker, then by its estimate, which one outlier does not move."""

    async def main() -> None:
        pool, batcher = make()
        batcher._inline = None
        session = pool.open()
        monkeypatch.setattr(aio, "INLINE_BELOW", 0.0)
        for _ in range(3):
            await batcher.step(session, inputs(I))
        assert threading.main_thread() not in pool.threads
        monkeypatch.setattr(aio, "INLINE_BELOW", 1e3)
        for _ in range(3):
            await batcher.step(session, inputs(I))
        assert pool.threads[3:] == [threading.main_thread()] * 3
        batcher._cost[1], done = 0.0, Future[Array]()
        done.cancel()
        batcher._finish([Call(done, session, inputs(I), 0.0)], [KeyError()], 1e9, 1e9)
        assert batcher._cost[1] == 250.0
        await batcher.aclose()

    run(main)


def test_one_step_at_a_time() -> None:
    """A look that was due before the timer's step began starts no second one beside it."""

    async def main() -> None:
        pool, batcher = make(inline=False, max_delay=0.5, max_batch=2)
        pool.go.clear()
        loop: Any = asyncio.get_running_loop()
        ids = [pool.open() for _ in range(6)]
        tasks = [called(batcher, ids[0], inputs(I))]
        await turns()
        loop.selector.now = 0.5  # the timer is due in the turn in which these call
        tasks += [called(batcher, session, inputs(I)) for session in ids[1:5]]
        await pool.held()
        await turns()
        assert batcher.pending == 3
        pool.go.set()
        await batcher.aclose()
        assert pool.steps == [ids[:2], ids[2:4], ids[4:5]]
        await asyncio.gather(*tasks)

    run(main)


# ---- order and room ----


class Index:
    """An integer of a third kind, which equals no int."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


@both_paths
def test_order_within_a_session(inline: bool) -> None:
    """Several pending calls of one session: one after the other, never two in one step."""

    async def main() -> None:
        pool, batcher = make(inline)
        x = inputs(6, 2, I)
        expected, _ = network()(x)
        a, b = pool.open(), pool.open()
        same: list[Any] = [a, np.int64(a), Index(a)] * 2
        calls = [called(batcher, same[t], x[t, 0]) for t in range(6)]
        calls += [called(batcher, b, x[t, 1]) for t in range(2)]
        await turns()
        await batcher.aclose()
        y = await asyncio.gather(*calls)
        assert all(same_bits(y[t], expected[t, 0]) for t in range(6))
        assert all(same_bits(y[6 + t], expected[t, 1]) for t in range(2))
        assert pool.steps == [[a, b]] * 2 + [[a]] * 4

    run(main)


def test_the_oldest_calls_run_first() -> None:
    """A session with many calls is not served before others that called earlier, nor after."""

    async def main() -> None:
        pool, batcher = make(max_batch=2)
        a, b, c, d = (pool.open() for _ in range(4))
        tasks = [called(batcher, session, inputs(I)) for session in (a, a, b, c, a, d)]
        await turns()
        await batcher.aclose()
        assert pool.steps == [[a, b], [a, c], [a, d]]
        await asyncio.gather(*tasks)

    run(main)


@both_paths
def test_back_pressure(inline: bool) -> None:
    """Calls beyond max_pending wait for room, first come, first served; a cancelled one leaves."""

    async def main() -> None:
        pool, batcher = make(inline, max_pending=3, max_batch=2)
        pool.go.clear()
        ids = [pool.open() for _ in range(8)]
        tasks = [called(batcher, session, inputs(I)) for session in ids[:2]]
        if inline:
            pool.go.set()
            await turns()
        else:
            await pool.held()
        tasks += [called(batcher, session, inputs(I)) for session in ids[2:]]
        await turns(1)
        assert batcher.pending == 3
        assert len(batcher._queue.waiting) == 3
        tasks[6].cancel()  # waits for room
        tasks[3].cancel()  # has some, which the first that waits gets
        if not inline:
            await turns()
            assert [call.session for call in batcher._queue.pending] == [ids[2], ids[4], ids[5]]
            assert [call.session for call in batcher._queue.waiting] == [ids[7]]
        pool.go.set()
        await batcher.aclose()
        assert pool.steps == [ids[:2], [ids[2], ids[4]], [ids[5], ids[7]]]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        lost = [row for row, y in enumerate(results) if isinstance(y, asyncio.CancelledError)]
        assert lost == [3, 6]

    run(main)


def test_a_full_queue_does_not_wait() -> None:
    """Where no call has room any more, waiting for other sessions would bring nothing."""

    async def main() -> None:
        pool, batcher = make(max_pending=2, max_delay=math.inf)
        a, b, _ = (pool.open() for _ in range(3))
        calls = [called(batcher, session, inputs(I)) for session in (a, a, a, b)]
        await asyncio.gather(*calls[:2])
        assert pool.steps == [[a], [a]]
        await batcher.aclose()
        await asyncio.gather(*calls)

    run(main)


def test_rows_are_their_callers() -> None:
    """x_t may be changed once the call has begun, and a result by its owner."""

    async def main() -> None:
        pool, batcher = make()
        ids, x = [pool.open() for _ in range(2)], inputs(2, I)
        rows = x.copy()
        tasks = [called(batcher, session, x_t) for session, x_t in zip(ids, rows, strict=True)]
        await turns(1)
        rows.fill(np.nan)
        y = await asyncio.gather(*tasks)
        assert not np.shares_memory(y[0], y[1])
        y[0].fill(np.nan)
        kept = y[1].copy()
        await asyncio.gather(*(batcher.step(session, x[0].tolist()) for session in ids))
        assert same_bits(y[1], kept)
        assert same_bits(kept, stepped(x[1]))

    run(main)


def test_options() -> None:
    pool = network().pool(3)
    for name, bad, error in (
        ("max_delay", -1, ValueError),
        ("max_delay", math.nan, ValueError),
        ("max_delay", "1", TypeError),
        ("max_batch", 0, ValueError),
        ("max_batch", 1.5, TypeError),
        ("max_pending", 0, ValueError),
        ("max_pending", True, TypeError),
    ):
        with pytest.raises(error):
            aio.Batcher(pool, **{name: bad})  # type: ignore[arg-type]
    assert repr(aio.Batcher(pool)).startswith("Batcher(0 pending, Pool(0 of 3 open, GRU(5, 21")


def test_importing() -> None:
    """fastgru.aio is there without an import of its own; fastgru alone brings no asyncio."""
    code = """
import sys, fastgru
assert "asyncio" not in sys.modules
assert fastgru.aio.Batcher is sys.modules["fastgru.aio"].Batcher
fastgru.batchers
"""
    result = run_python(code)
    assert "AttributeError: module 'fastgru' has no attribute 'batchers'" in result.stderr
