"""Batchers: a call that is cancelled, refused or bereft of its session hurts nobody else.

And closing a batcher loses none.
"""

from __future__ import annotations

import asyncio
import math
import threading
from typing import Any

import numpy as np
import pytest

import fastgru
from batchers import (
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
from conftest import same_bits
from fastgru import aio

# ---- cancelling ----


def test_cancelled_before_its_step() -> None:
    """It never happens: not for the session, not for the others, not for the time."""

    async def main() -> None:
        pool, batcher = make(max_delay=1.0)
        ids, x = [pool.open() for _ in range(3)], inputs(3, I)
        oldest = called(batcher, ids[0], x[0])
        await asyncio.sleep(0.5)
        kept = called(batcher, ids[1], x[1])
        await turns()
        oldest.cancel()
        other = called(batcher, ids[2], x[2])
        await turns()
        assert pool.steps == []  # two of three sessions have a call
        other.cancel()
        assert same_bits(await kept, stepped(x[1]))
        assert asyncio.get_running_loop().time() == 1.5  # by the age of the one that is left
        assert oldest.cancelled()
        assert pool.steps == [[ids[1]]]
        assert not pool.get_state(ids[0]).any()
        assert same_bits(await batcher.step(ids[0], x[2]), stepped(x[2]))

    run(main)


@both_paths
def test_cancelled_in_the_turn_in_which_its_step_is_gathered(inline: bool) -> None:
    """The loop looks before the cancelled coroutine has run: still it never happens."""

    async def main() -> None:
        pool, batcher = make(inline)
        ids, x = [pool.open() for _ in range(2)], inputs(I)
        tasks = [called(batcher, session, x) for session in ids]
        await turns(1)
        tasks[0].cancel()
        assert same_bits(await tasks[1], stepped(x))
        assert pool.steps == [[ids[1]]]
        tasks = [called(batcher, session, x) for session in ids]
        await turns(1)
        for task in tasks:
            task.cancel()
        await turns()
        assert len(pool.steps) == 1
        assert batcher.pending == 0
        assert batcher._cost[0] == math.inf  # there was no step of no rows
        await batcher.aclose()

    run(main)


def test_cancelled_while_its_step_runs() -> None:
    """The step counts, for the session too; only the result is dropped. The loop goes on."""

    async def main() -> None:
        pool, batcher = make(inline=False)
        pool.go.clear()
        ids, x = [pool.open() for _ in range(2)], inputs(2, I)
        lost, kept = (called(batcher, session, x[0]) for session in ids)
        await pool.held()
        lost.cancel()
        await turns()
        assert lost.cancelled()
        assert not kept.done()
        pool.go.set()
        assert same_bits(await kept, stepped(x[0]))
        assert (batcher.stats.steps, batcher.stats.rows) == (1, 2)
        y = await asyncio.gather(*(batcher.step(session, x[1]) for session in ids))
        assert all(same_bits(row, stepped(*x)) for row in y)
        await batcher.aclose()

    run(main)


def test_cancelled_after_its_step() -> None:
    """The result or the exception is there, but the coroutine has not seen it: it counts."""

    async def main() -> None:
        pool, batcher = make()
        a, b = pool.open(), pool.open()
        x = inputs(I)
        tasks = [called(batcher, session, x) for session in (a, b)]
        await turns(1)
        pool.close(b)
        asyncio.get_running_loop().call_soon(lambda: [task.cancel() for task in tasks])
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError] * 2
        assert pool.steps == [[a]]
        assert same_bits(await batcher.step(a, x), stepped(x, x))

    run(main)


# ---- errors ----


def test_bad_calls_are_refused_alone() -> None:
    """At the call, before anything is queued; the others' step is as if there had been none."""

    async def main() -> None:
        pool, batcher = make()
        ids, x = [pool.open() for _ in range(2)], inputs(I)
        closed = pool.open()
        pool.close(closed)
        first = called(batcher, ids[0], x)
        await turns()
        bad: Any
        for session, bad, error, match in (
            (ids[1], x[:-1], fastgru.ShapeError, r"x_t: expected \(5,\), got \(4,\)"),
            (ids[1], x[None], fastgru.ShapeError, r"x_t: expected \(5,\), got \(1, 5\)"),
            (ids[1], np.ones(I, int), TypeError, "x_t: expected float32"),
            (ids[1], ["x"] * I, TypeError, "x_t: expected float32"),
            (closed, x, KeyError, f"session {closed} is closed"),
            (-1, x, KeyError, "session -1"),
            (2**70, x, KeyError, "session 1180591620717411303424"),
            ("7", x, TypeError, "session: expected an id"),
        ):
            with pytest.raises(error, match=match):
                await batcher.step(session, bad)  # type: ignore[arg-type]
            assert batcher.pending == 1
        assert pool.steps == []
        second = await batcher.step(ids[1], x)
        assert same_bits(await first, second)

    run(main)


def test_bad_calls_while_a_step_runs() -> None:
    """The pool cannot be asked then without stopping the loop: an unknown id is found later."""

    async def main() -> None:
        pool, batcher = make(inline=False)
        pool.go.clear()
        session, x = pool.open(), inputs(I)
        first = called(batcher, session, x)
        await pool.held()
        for bad, error in ((2**70, KeyError), ("7", TypeError)):
            with pytest.raises(error, match="session"):
                await batcher.step(bad, x)  # type: ignore[arg-type]
        unknown, second = called(batcher, 7, x), called(batcher, session, x)
        await turns()
        pool.go.set()
        with pytest.raises(KeyError, match="session 7 is closed"):
            await unknown
        assert same_bits(await first, stepped(x))
        assert same_bits(await second, stepped(x, x))
        await batcher.aclose()

    run(main)


@both_paths
def test_closed_while_pending(inline: bool) -> None:
    """KeyError for the calls of these sessions, and the step of the others goes on."""

    async def main() -> None:
        pool, batcher = make(inline)
        ids, x = [pool.open() for _ in range(5)], inputs(5, I)
        tasks = [called(batcher, session, x[row]) for row, session in enumerate(ids)]
        await turns(1)
        pool.close(ids[1])
        pool.close(ids[4])
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for row, y in enumerate(results):
            if row in (1, 4):
                assert isinstance(y, KeyError)
                assert f"session {ids[row]} is closed" in str(y)
            else:
                assert isinstance(y, np.ndarray)
                assert same_bits(y, stepped(x[row]))
        assert batcher.stats.rows == batcher.stats.largest_batch == 3
        alone = called(batcher, ids[0], x[0])
        await turns(1)
        for session in pool.ids.tolist():
            pool.close(session)
        with pytest.raises(KeyError):
            await alone
        assert batcher.stats.steps == 1
        await batcher.aclose()

    run(main)


@both_paths
def test_a_pool_that_is_shut_down(inline: bool) -> None:
    """Each pending call has an exception of its own, and later ones are refused at once."""

    async def main() -> None:
        pool, batcher = make(inline)
        ids = [pool.open() for _ in range(3)]
        tasks = [called(batcher, session, inputs(I)) for session in ids[:2]]
        await turns(1)
        pool.shutdown()
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        assert asyncio.get_running_loop().time() == 0
        assert [type(error) for error in errors] == [RuntimeError] * 2
        assert "shut down" in str(errors[0])
        assert errors[0] is not errors[1]
        assert batcher.stats.steps == 0
        with pytest.raises(RuntimeError, match="shut down"):
            await batcher.step(ids[0], inputs(I))
        await batcher.aclose()

    run(main)


# ---- closing, loops ----


@both_paths
def test_aclose(inline: bool) -> None:
    """Every call made before it is answered, those that wait for room too; later ones are not."""

    async def main() -> None:
        pool, batcher = make(inline, max_pending=3)
        ids, x = [pool.open() for _ in range(7)], inputs(7, I)
        if not inline:
            pool.go.clear()
        tasks = [called(batcher, ids[row], x[row]) for row in range(3)]
        await turns(1 if inline else 5)
        tasks += [called(batcher, ids[row], x[row]) for row in range(3, 6)]
        await turns(1)
        given_up, closing = (asyncio.create_task(batcher.aclose()) for _ in range(2))
        await turns(1)
        given_up.cancel()
        with pytest.raises(RuntimeError, match="this batcher is closed"):
            await batcher.step(ids[6], x[6])
        pool.go.set()
        await closing
        assert all(task.done() for task in tasks)
        y = await asyncio.gather(*tasks)
        assert all(same_bits(y[row], stepped(x[row])) for row in range(6))
        await batcher.aclose()
        assert not any(t.name.startswith("fastgru-batcher") for t in threading.enumerate())
        assert len(pool) == 7
        assert ", closed" in repr(batcher)

    run(main)


def test_aclose_waits_for_the_step_that_runs() -> None:
    """With the loop going on, and its calls answered when it returns."""

    async def main() -> None:
        pool, batcher = make(inline=False)
        pool.go.clear()
        task = called(batcher, pool.open(), inputs(I))
        await pool.held()
        closing = asyncio.create_task(batcher.aclose())
        await turns()
        assert not closing.done()
        pool.go.set()
        await closing
        assert same_bits(task.result(), stepped(inputs(I)))

    run(main)


def test_async_with() -> None:
    """Leaving the block closes, and so answers, also by an exception."""

    async def main() -> None:
        pool, batcher = make(max_delay=math.inf)
        session, _ = pool.open(), pool.open()
        with pytest.raises(ZeroDivisionError):  # noqa: PT012  (`async with` is what is tested)
            async with batcher as same:
                assert same is batcher
                task = called(batcher, session, inputs(I))
                await turns()
                raise ZeroDivisionError
        assert same_bits(task.result(), stepped(inputs(I)))
        with pytest.raises(RuntimeError, match="closed"):
            await batcher.step(session, inputs(I))

    run(main)


def test_one_event_loop() -> None:
    """The first that uses it; calls from another one, here on another thread, change nothing."""
    pool, batcher = make()
    session = pool.open()

    async def first() -> None:
        await batcher.step(session, inputs(I))
        with pytest.raises(RuntimeError, match="belongs to another event loop: expected <Jumping"):
            await asyncio.to_thread(lambda: asyncio.run(batcher.step(session, inputs(I))))
        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.to_thread(lambda: asyncio.run(batcher.aclose()))
        assert batcher.stats.rows == 1
        await batcher.step(session, inputs(I))

    run(first)


@pytest.mark.parametrize("where", ["submit", "step"])
def test_what_nobody_expects(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread to be had, or an error that is no Exception: the calls raise it, others go on."""

    class Unexpected(BaseException):
        pass

    def fail(*_: Any) -> Any:
        raise RuntimeError("can't start new thread") if where == "submit" else Unexpected

    async def main() -> None:
        pool, batcher = make(inline=False)
        ids, x = [pool.open() for _ in range(2)], inputs(2, I)
        with monkeypatch.context() as patch:
            if where == "submit":
                patch.setattr("concurrent.futures.ThreadPoolExecutor.submit", fail)
            else:
                patch.setattr("fastgru.batching.PoolStep.run", fail)
            calls = [called(batcher, s, x_t) for s, x_t in zip(ids, x, strict=True)]
            done, _ = await asyncio.wait(calls, timeout=30)
            assert len(done) == 2
            for call in calls:
                error = call.exception()
                assert isinstance(error, RuntimeError if where == "submit" else Unexpected)
        for s, x_t in zip(ids, x, strict=True):  # no state has changed
            other = called(batcher, ids[1 - ids.index(s)], x_t)
            assert same_bits(await called(batcher, s, x_t), stepped(x_t))
            await other
            pool.set_state(ids[0], np.zeros_like(pool.get_state(ids[0])))
            pool.set_state(ids[1], np.zeros_like(pool.get_state(ids[1])))
        await batcher.aclose()

    run(main)


def test_errors_that_cannot_be_copied() -> None:
    """Each call raises the pool's error, whatever its constructor takes."""

    class Odd(Exception):
        def __init__(self, first: str, second: str) -> None:
            super().__init__(f"{first} {second}")

    async def main() -> None:
        pool, batcher = make()
        pool.fail_with = Odd("two", "words")
        ids, x = [pool.open() for _ in range(2)], inputs(2, I)
        calls = [called(batcher, s, x_t) for s, x_t in zip(ids, x, strict=True)]
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(error, Odd)
        await batcher.aclose()

    run(main)


def test_arguments() -> None:
    pool = network().pool(3)
    for bad, match in ((network(), "pool: expected a Pool"), (None, "pool: expected a Pool")):
        with pytest.raises(TypeError, match=match):
            aio.Batcher(bad)  # type: ignore[arg-type]
    for delay in ("1", None, True):
        with pytest.raises(TypeError, match="max_delay: expected seconds"):
            aio.Batcher(pool, max_delay=delay)  # type: ignore[arg-type]
