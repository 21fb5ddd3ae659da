"""Batchers under random use: opening, calling, closing, cancelling and snapshots, in any order.

Beside them goes the plain model: one Stream a session, stepped by what the pool has stepped.
"""

from __future__ import annotations

import asyncio
import math
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

import fastgru
from batchers import CAPACITY, I, both_paths, network, run, turns
from conftest import Array, same_bits
from fastgru import aio
from fastgru.batching import Call

OPERATIONS = ["open", "step", "step", "step", "step", "close", "cancel", "turn", "turn", "snapshot"]
Program = list[tuple[str, int]]


@dataclass
class Made:
    """One call: x_t is its name, since all are different."""

    session: int
    x_t: Array
    task: asyncio.Task[Array]
    cancelled: bool = False  # before its step was gathered


@dataclass
class Session:
    stream: fastgru.Stream = field(default_factory=lambda: network().stream())
    calls: list[Made] = field(default_factory=list)
    rows: list[Array] = field(default_factory=list)  # what the pool has stepped
    results: list[Array] = field(default_factory=list)  # what the stream gives for them
    closed: bool = False

    def follow(self) -> None:
        """The stream steps what the pool has."""
        for x_t in self.rows[len(self.results) :]:
            self.results.append(self.stream.step(x_t))


class LoggingPool(fastgru.Pool):
    """Hands every row that it has stepped to its session; a snapshot is of all that or none."""

    __slots__ = ("lock", "sessions")

    def __init__(self, gru: fastgru.GRU, capacity: int) -> None:
        super().__init__(gru, capacity)
        self.sessions: dict[int, Session] = {}
        self.lock = threading.Lock()

    def step(self, ids: Any, x: Any, *, out: Any = None) -> Any:
        with self.lock:
            y = super().step(ids, x, out=out)
            for session, x_t in zip(ids.tolist(), x, strict=True):
                self.sessions[session].rows.append(x_t.copy())
            return y


class Run:
    """A program, run against a batcher."""

    def __init__(self, inline: bool, options: dict[str, Any]) -> None:
        self.pool = LoggingPool(network(), CAPACITY)
        self.sessions = self.pool.sessions
        self.batcher = aio.Batcher(self.pool, **options)
        self.batcher._inline = inline
        self.calls: list[Made] = []
        self.gathered: set[bytes] = set()
        self.rng = np.random.default_rng(7)
        take = self.batcher._queue.take

        def watched(most: int) -> list[Call]:
            batch = take(most)
            assert len({call.session for call in batch}) == len(batch) <= most
            self.gathered.update(call.row.tobytes() for call in batch)
            return batch

        self.batcher._queue.take = watched  # type: ignore[method-assign]

    def do(self, operation: str, number: int) -> None:
        if operation == "open" and len(self.pool) < CAPACITY:
            self.sessions[self.pool.open()] = Session()
        elif operation == "step" and self.sessions:
            session = list(self.sessions)[number % len(self.sessions)]
            x_t = self.rng.standard_normal(I).astype(np.float32)
            task = asyncio.create_task(self.batcher.step(session, x_t))
            self.calls.append(Made(session, x_t, task))
            self.sessions[session].calls.append(self.calls[-1])
        elif operation == "close" and self.sessions:
            session = list(self.sessions)[number % len(self.sessions)]
            if not self.sessions[session].closed:
                self.pool.close(session)
                self.sessions[session].closed = True
        elif operation == "cancel" and self.calls:
            call = self.calls[number % len(self.calls)]
            if call.task.cancel():
                call.cancelled = call.x_t.tobytes() not in self.gathered
        elif operation == "snapshot":
            self.check_states(len(self.calls) % 2 == 0)

    def check_states(self, by_file: bool) -> None:
        """The sessions of a snapshot, or of the pool itself, are where their streams are."""
        pool: fastgru.Pool = self.pool
        with self.pool.lock, tempfile.TemporaryDirectory() as folder:
            if by_file:
                pool.snapshot(Path(folder) / "snapshot")
                pool = network().pool(CAPACITY)
                pool.restore(Path(folder) / "snapshot")
            living = [session for session, is_ in self.sessions.items() if not is_.closed]
            assert sorted(pool.ids.tolist()) == sorted(living)
            for session in living:
                self.sessions[session].follow()
                state = self.sessions[session].stream.state[:, 0]
                assert same_bits(pool.get_state(session), state)

    async def check_calls(self) -> None:
        """Each call has its session's result for its place, or a reason to have none."""
        await asyncio.gather(*(call.task for call in self.calls), return_exceptions=True)
        assert self.batcher.pending == 0
        for session in self.sessions.values():
            session.follow()
            stepped = [x_t.tobytes() for x_t in session.rows]
            made = [call.x_t.tobytes() for call in session.calls]
            assert stepped == [name for name in made if name in stepped], "another order"
            for call, name in zip(session.calls, made, strict=True):
                if call.task.cancelled():
                    assert not (call.cancelled and name in stepped)
                elif error := call.task.exception():
                    assert isinstance(error, KeyError)
                    assert session.closed
                    assert name not in stepped
                else:
                    assert same_bits(call.task.result(), session.results[stepped.index(name)])
            if not any(call.task.cancelled() for call in session.calls) and not session.closed:
                assert stepped == made


@both_paths
@given(
    program=st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 99)), max_size=80),
    max_delay=st.sampled_from([0, 1.0, math.inf]),
    max_batch=st.integers(1, CAPACITY + 1),
    max_pending=st.one_of(st.none(), st.integers(1, 8)),
)
def test_random_use(
    inline: bool, program: Program, max_delay: float, max_batch: int, max_pending: int | None
) -> None:
    """Whatever happens to the others, a session gets the bits of its own stream, in its order."""

    async def main() -> None:
        use = Run(
            inline, {"max_delay": max_delay, "max_batch": max_batch, "max_pending": max_pending}
        )
        for operation, number in [("open", 0), ("open", 0), *program]:
            if operation == "turn":
                await turns(1 + number % 4)
            else:
                use.do(operation, number)
            assert use.batcher.pending <= (max_pending or 16 * max_batch)
        await turns(1)  # so that every coroutine has called
        await use.batcher.aclose()
        await use.check_calls()
        use.check_states(by_file=True)

    run(main)
