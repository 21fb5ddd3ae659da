"""Pools of whole models: the sessions of a model with several GRUs and a head.

Promises 2 and 4, as in test_pool.py: a session's results are those of a stream of its own to the
bit, and a call that raises changes no state of any GRU.
"""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastgru
import fastgru.chain
from conftest import Array, make_gru, random_weights, same_bits
from fastgru import aio
from test_model import H, I, V, character_model, gru, indices, linear, numbers


def states(pool: fastgru.ModelPool) -> list[bytes]:
    return [h.tobytes() for session in pool.ids.tolist() for h in pool.get_state(session)]


@given(st.data())
def test_same_bits_as_streams(data: st.DataObject) -> None:
    """Random subsets of sessions, opened and closed on the way, beside a stream each."""
    model = character_model()
    pool = model.pool(6)
    streams: dict[int, fastgru.ModelStream] = {}
    for step in range(data.draw(st.integers(1, 12))):
        change = data.draw(st.sampled_from(["open", "close", "nothing"]))
        if change == "open" and len(streams) < 6:
            streams[pool.open()] = model.stream()
        elif change == "close" and streams:
            session = data.draw(st.sampled_from(sorted(streams)))
            pool.close(session)
            del streams[session]
            assert session not in pool
        ids = data.draw(st.permutations(sorted(streams)))
        ids = ids[: data.draw(st.integers(0, len(ids)))]
        x = indices(len(ids), seed=step)
        y = pool.step(ids, x)
        assert y.shape == (len(ids), model.output_size)
        for row, session in enumerate(ids):
            assert same_bits(y[row], streams[session].step(x[row]))
    assert len(pool) == len(streams)
    for session, stream in streams.items():
        for ours, theirs in zip(pool.get_state(session), stream.state, strict=True):
            assert same_bits(ours, theirs[:, 0])


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_features_and_a_last(precision: str) -> None:
    """Rows of features go in, and Last gives each step's value."""
    model = fastgru.Model([linear(I, I), gru(), fastgru.Last(), linear()]).to(precision)
    pool, x = model.pool(4), numbers(7, 3, I)
    ids = [pool.open() for _ in range(3)]
    expected = model.stream(3).run(x)
    for t in range(7):
        assert same_bits(pool.step(ids, x[t]), expected[t])


def test_states_and_snapshots(tmp_path: Path) -> None:
    """h_0, get_state and set_state have each GRU's; a restored pool goes on with the same bits."""
    model = character_model()
    pool = model.pool(3)
    h_0 = [numbers(1, H), numbers(2, H, seed=1)]
    first = pool.open(h_0)
    second = pool.open()
    for ours, theirs in zip(pool.get_state(first), h_0, strict=True):
        assert same_bits(ours, theirs)
    pool.step([first, second], indices(2))
    pool.snapshot(tmp_path / "s")
    later = model.pool(5)
    later.open()
    later.restore(tmp_path / "s")
    assert sorted(later.ids.tolist()) == sorted([first, second])
    assert same_bits(later.step([second, first], [1, 2]), pool.step([second, first], [1, 2]))
    pool.set_state(second, pool.get_state(first))
    y = pool.step([first, second], [3, 3])
    assert same_bits(y[0], y[1])
    with pytest.raises(fastgru.FormatError, match=r"states\.1: unknown"):
        fastgru.Model([gru()]).pool(5).restore(tmp_path / "s")


def test_refused_calls_change_nothing() -> None:
    model = character_model()
    pool = model.pool(3)
    a, b, closed = pool.open(), pool.open(), pool.open()
    pool.close(closed)
    pool.step([a, b], [1, 2])
    before = states(pool)
    cases: list[tuple[type[Exception], str, Any, Any]] = [
        (KeyError, f"session {closed} is closed", [a, closed], [1, 2]),
        (ValueError, f"{a} is there twice", [a, a], [1, 2]),
        (IndexError, "13", [a, b], [1, V]),
        (IndexError, "-1", [a, b], [1, -1]),
        (fastgru.ShapeError, r"x: expected \(2,\), got \(1,\)", [a, b], [1]),
        (fastgru.ShapeError, r"x: expected \(1,\), got \(\)", [a], 1),
        (fastgru.ShapeError, r"ids: expected \(n,\), got \(\)", a, [1]),
        (TypeError, "x: expected integers", [a, b], [1.0, 2.0]),
        (TypeError, "ids: expected integers", [1.0], [1]),
    ]
    for error, match, ids, x in cases:
        with pytest.raises(error, match=match):
            pool.step(ids, x)
        assert states(pool) == before
    for bad in ([numbers(1, H)], [numbers(1, H), numbers(1, H)]):
        with pytest.raises(fastgru.ShapeError, match=r"state(\[1\])?: expected"):
            pool.set_state(a, bad)
        with pytest.raises(fastgru.ShapeError, match=r"h_0(\[1\])?: expected"):
            pool.open(bad)
    assert states(pool) == before
    pool.open()
    with pytest.raises(fastgru.PoolFullError):
        pool.open()


def test_two_threads_step_the_same_sessions() -> None:
    """They take turns: each step is of all its sessions, before or after the other one's."""
    model = character_model()
    pool = model.pool(3)
    ids = [pool.open(), pool.open()]
    stream = model.stream(2)
    expected = [stream.step([1, 2]) for _ in range(200)]
    seen: list[Array] = []

    def work() -> None:
        seen.extend(pool.step(ids, [1, 2]) for _ in range(100))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(y.tobytes() for y in seen) == sorted(y.tobytes() for y in expected)
    first, _ = stream.state
    assert same_bits(np.stack([pool.get_state(session)[0] for session in ids], axis=1), first)


def test_what_has_no_pool() -> None:
    weights = random_weights(np.random.default_rng(0), I, H, 1, True)
    with pytest.raises(ValueError, match=r"reverse direction.*\n.*needs all steps"):
        fastgru.Model([make_gru(weights), fastgru.Mean()]).pool(3)
    with pytest.raises(ValueError, match="no GRU"):
        fastgru.Model([linear()]).pool(3)
    with pytest.raises(ValueError, match="capacity"):
        character_model().pool(0)


def test_shutdown() -> None:
    with character_model().pool(3) as pool:
        session = pool.open()
        assert repr(pool).startswith("ModelPool(1 of 3 open, Model(")
    for call in (pool.open, lambda: pool.step([session], [1]), lambda: len(pool)):
        with pytest.raises(RuntimeError, match="shut down"):
            call()
    assert "shut down" in repr(pool)


def test_threads_take_turns() -> None:
    """Several Python threads on one pool: every session is stepped as if alone."""
    model = character_model()
    pool, x = model.pool(40), indices(20, 40)
    expected: Array = model.stream(40).run(x)
    failures: list[int] = []

    def work(first: int) -> None:
        rows = np.arange(first, first + 10)
        ids = [pool.open() for _ in rows]
        failures.extend(
            t for t in range(20) if not same_bits(pool.step(ids, x[t, rows]), expected[t, rows])
        )

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 10, 20, 30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_batcher_of_a_model() -> None:
    """Indices are gathered as rows are; a wrong one reaches only its own call."""
    model = character_model()
    pool, x = model.pool(4), indices(6, 3)
    expected = model.stream(3).run(x)

    async def main() -> None:
        async with aio.Batcher(pool, max_delay=1e4) as batcher:
            ids = [pool.open() for _ in range(3)]
            for t in range(6):
                calls = [batcher.step(s, i) for s, i in zip(ids, x[t], strict=True)]
                wrong = batcher.step(ids[0], V if t % 2 else -1)
                *rows, error = await asyncio.gather(*calls, wrong, return_exceptions=True)
                assert isinstance(error, IndexError)
                for row, y in zip(expected[t], rows, strict=True):
                    assert isinstance(y, np.ndarray)
                    assert same_bits(row, y)
            for bad, kind in (([1], fastgru.ShapeError), (1.0, TypeError)):
                with pytest.raises(kind, match="x_t"):
                    await batcher.step(ids[0], bad)
        assert (batcher.stats.steps, batcher.stats.largest_batch) == (6, 3)

    asyncio.run(main())
