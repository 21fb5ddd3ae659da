"""The live sequences of a Model that advance in any combination: a pool for each of its GRUs.

Refuses models that need the end of a sequence before they can give anything, and to grow.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import ArrayLike

from fastgru.arrays import Float32Array, Int64Array, as_int64, as_state
from fastgru.chain import never_by_steps, run_layers
from fastgru.errors import ShapeError
from fastgru.layers import Last, Layer
from fastgru.pool import Row
from fastgru.spec import report

if TYPE_CHECKING:
    from fastgru.model import Model


class ModelPool:
    """States of up to `capacity` sessions (live sequences). Made by `Model.pool`.

    As `fastgru.Pool`, with all layers of the model: whatever the other sessions of a step are, a
    session's results are the same to the bit as those of a ModelStream; a call that raises changes
    nothing; calls from several Python threads take turns. `len(pool)` counts the open sessions.

    >>> import numpy as np, fastgru
    >>> gru = fastgru.GRU.from_state_dict({"weight_ih_l0": np.ones((6, 3), np.float32),
    ...                                    "weight_hh_l0": np.ones((6, 2), np.float32)})
    >>> pool = fastgru.Model([fastgru.OneHot(3), gru, fastgru.Softmax()]).pool(1000)
    >>> ids = [pool.open() for _ in range(4)]
    >>> pool.step(ids[::2], [0, 2]).shape
    (2, 2)
    """

    __slots__ = ("__weakref__", "_layers", "_lock", "_model", "_pools")

    def __init__(self, model: Model, capacity: int) -> None:
        """capacity: sessions that may be open at once, at most 2**24; their states are zeros."""
        if problems := list(never_by_steps(model.layers)):
            raise ValueError(report("a pool of this model", problems))
        if not model._grus():
            raise ValueError("a pool keeps states, and this model has no GRU: call the model")
        self._model = model
        # each step is a sequence's last one so far
        self._layers = [layer for layer in model.layers if not isinstance(layer, Last)]
        # All of them see the same calls, so that a session has the same id in each.
        self._pools = [gru.pool(capacity) for gru in model._grus()]
        self._lock = threading.Lock()

    def open(self, h_0: Sequence[ArrayLike] | None = None) -> int:
        """A new session's id, which no other session of this pool has or had.

        h_0: each GRU's (L, H), zeros if None. Raises PoolFullError where `capacity` sessions are
        open, and ShapeError.
        """
        zeros: Sequence[Float32Array | None] = [None] * len(self._pools)
        states = zeros if h_0 is None else self._states("h_0", h_0)
        with self._lock:
            sessions = {pool.open(h) for pool, h in zip(self._pools, states, strict=True)}
        (session,) = sessions
        return session

    def close(self, session: int) -> None:
        """Ends a session; its id is unknown from here on. Raises KeyError for an unknown one."""
        with self._lock:
            for pool in self._pools:
                pool.close(session)

    def step(self, ids: ArrayLike, x: ArrayLike) -> Float32Array:
        """One step of n sessions: ids (n,), in any order, x (n, I) -> (n, O), float32.

        Row i is session ids[i]'s. Where the first layer takes indices x is integers (n,). Raises
        KeyError for an id that is unknown or closed, ValueError for one that is there twice,
        ShapeError, TypeError, and IndexError for an index out of range.
        """
        sessions = as_int64("ids", ids)
        entry = self._model._entry
        rows = entry.read("x", x)
        if sessions.ndim != 1:
            raise ShapeError(f"ids: expected (n,), got {sessions.shape}")
        entry.check_rows("x", rows.shape, len(sessions), single=False)
        with self._lock:
            before = [pool._core.get_states(sessions) for pool in self._pools]
            try:
                y = run_layers(
                    self._layers,
                    rows,
                    None,
                    False,
                    lambda index, _, values: self._pools[index].step(sessions, values),
                )
            except BaseException:  # the first one has changed nothing, but a later one may fail
                for pool, states in zip(self._pools, before, strict=True):
                    pool._core.set_states(sessions, states)
                raise
        return y

    def get_state(self, session: int) -> list[Float32Array]:
        """Each GRU's state (L, H) of a session, copies. Raises KeyError for an unknown one."""
        with self._lock:
            return [pool.get_state(session) for pool in self._pools]

    def set_state(self, session: int, state: Sequence[ArrayLike]) -> None:
        """Replaces a session's states by each GRU's (L, H). Raises KeyError and ShapeError."""
        states = self._states("state", state)
        with self._lock:
            for pool, values in zip(self._pools, states, strict=True):
                pool.set_state(session, values)

    def _states(self, name: str, given: Sequence[ArrayLike]) -> list[Float32Array]:
        grus = self._model._grus()
        states = [as_state(f"{name}[{index}]", state) for index, state in enumerate(given)]
        if len(states) != len(grus):
            raise ShapeError(f"{name}: expected {len(grus)} arrays, got {len(states)}")
        problems = [
            f"{name}[{index}]: expected {(gru.num_layers, gru.hidden_size)}, got {state.shape}"
            for index, (gru, state) in enumerate(zip(grus, states, strict=True))
            if state.shape != (gru.num_layers, gru.hidden_size)
        ]
        if problems:
            raise ShapeError("; ".join(problems))
        return states

    def _row(self) -> Row:
        entry, first = self._model._entry, self._model.layers[0]
        if not entry.takes_indices:
            return Row((entry.size or 0,), np.float32, entry.read)

        def read(name: str, value: ArrayLike) -> Float32Array | Int64Array:
            index = entry.read(name, value)
            if isinstance(first, Layer):  # which takes indices: IndexError where out of range
                first._core.run(index)
            return index

        return Row((), np.int64, read)

    @property
    def capacity(self) -> int:
        """How many sessions may be open at once."""
        return self._pools[0].capacity

    @property
    def ids(self) -> Int64Array:
        """The open sessions' ids, a copy, in no certain order."""
        return self._pools[0].ids

    def __len__(self) -> int:
        return len(self._pools[0])

    def __contains__(self, session: object) -> bool:
        return session in self._pools[0]

    def snapshot(self, path: str | os.PathLike[str]) -> None:
        """Writes all sessions to a file, as `Pool.snapshot`."""
        from fastgru.formats.pool_file import write  # noqa: PLC0415

        with self._lock:
            parts = [pool._core.snapshot() for pool in self._pools]
        next_serial, ids, _ = parts[0]
        write(path, next_serial, ids, [states for _, _, states in parts])

    def restore(self, path: str | os.PathLike[str]) -> None:
        """Replaces all sessions by those of a snapshot, as `Pool.restore`."""
        from fastgru.formats.pool_file import read  # noqa: PLC0415

        read(
            path, [(gru.num_layers, gru.hidden_size) for gru in self._model._grus()], self._replace
        )

    def _replace(self, next_serial: int, ids: Int64Array, states: list[Float32Array]) -> None:
        with self._lock:  # what the first pool accepts the others accept
            for pool, values in zip(self._pools, states, strict=True):
                pool._core.restore(next_serial, ids, values)

    def shutdown(self) -> None:
        """Ends all sessions and gives their memory back, as `Pool.shutdown`."""
        with self._lock:
            for pool in self._pools:
                pool.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        try:
            sessions = f"{len(self)} of {self.capacity} open"
        except RuntimeError:
            sessions = "shut down"
        return f"ModelPool({sessions}, {self._model!r})"
