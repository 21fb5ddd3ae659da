"""The live sequences of a Model that advance in any combination, with the states of all its GRUs.

Refuses models that need the end of a sequence before they can give anything, and to grow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from fastgru import _core
from fastgru.arrays import Float32Array, Int64Array, as_int64, as_states, shape_text
from fastgru.chain import never_by_steps
from fastgru.errors import ShapeError
from fastgru.problems import Problem, checked_out, raise_all
from fastgru.sessions import Row, Sessions, as_id
from fastgru.text import report

if TYPE_CHECKING:
    from fastgru.model import Model


class ModelPool(Sessions):
    """States of up to `capacity` sessions (live sequences). Made by `Model.pool`.

    As `fastgru.Pool`, with all layers of the model: whatever the other sessions of a step are, a
    session's results are the same to the bit as those of a ModelStream, and a call that raises
    changes nothing. `len(pool)` counts the open sessions.

    Any number of Python threads may use a pool at once; steps take turns, as those of a `Pool` do.

    >>> import numpy as np, fastgru
    >>> gru = fastgru.GRU.from_state_dict({"weight_ih_l0": np.ones((6, 3), np.float32),
    ...                                    "weight_hh_l0": np.ones((6, 2), np.float32)})
    >>> pool = fastgru.Model([fastgru.OneHot(3), gru, fastgru.Softmax()]).pool(1000)
    >>> ids = [pool.open() for _ in range(4)]
    >>> pool.step(ids[::2], [0, 2]).shape
    (2, 2)
    """

    __slots__ = ("_network",)

    def __init__(self, model: Model, capacity: int) -> None:
        """capacity: sessions that may be open at once, at most 2**24; their states are zeros."""
        if problems := list(never_by_steps(model.layers)):
            raise ValueError(report("a pool of this model", problems))
        if not model._grus():
            raise ValueError("a pool keeps states, and this model has no GRU: call the model")
        super().__init__(model._core, model._grus(), capacity)
        self._network = model

    def open(self, h_0: Sequence[ArrayLike] | None = None) -> int:
        """A new session's id, which no other session has or had.

        h_0: each GRU's (L, H), zeros if None. Raises PoolFullError where `capacity` sessions are
        open, and ShapeError.
        """
        if h_0 is None:
            return self._core.open(None)
        try:
            return self._core.open(as_states("h_0", h_0))
        except (TypeError, ValueError) as error:
            raise_all("ModelPool.open", error, self._states_problems("h_0", h_0))

    @_core.shortcut_pool_step
    def step(
        self, ids: ArrayLike, x: ArrayLike, *, out: Float32Array | None = None
    ) -> Float32Array:
        """One step of n sessions: ids (n,), in any order, x (n, I) -> (n, O), float32.

        Row i is session ids[i]'s. Where the first layer takes indices x is integers (n,). `out`: as
        in `Pool.step`. Raises KeyError for ids that are unknown or closed, ValueError for those
        that are there twice and for `out`, ShapeError, TypeError, and IndexError for indices out of
        range; several problems as `Pool.step`.
        """
        entry = self._network._entry
        try:
            sessions = as_int64("ids", ids)
            rows = entry.read("x", x)
            if sessions.ndim != 1:
                raise ShapeError(f"ids: expected (n,), got {shape_text(sessions.shape)}")
            entry.check_rows("x", rows.shape, len(sessions), single=False)
            return self._core.step(sessions, rows, checked_out(out), self._network._threads)
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise_all("ModelPool.step", error, self._step_problems(ids, x))

    def _step_problems(self, ids: ArrayLike, x: ArrayLike) -> Iterator[Problem]:
        rows, problems = self._id_problems(ids)
        yield from problems
        yield from self._network._entry.problems("x", x, (rows,))

    def get_state(self, session: int) -> list[Float32Array]:
        """Each GRU's state (L, H) of a session, copies. Raises KeyError for an unknown one."""
        return self._core.get_state(as_id(session))

    def set_state(self, session: int, state: Sequence[ArrayLike]) -> None:
        """Replaces a session's states by each GRU's (L, H). Raises KeyError and ShapeError."""
        try:
            self._core.set_state(as_id(session), as_states("state", state))
        except (KeyError, TypeError, ValueError) as error:
            problems = [*self._session_problems(session), *self._states_problems("state", state)]
            raise_all("ModelPool.set_state", error, problems)

    def _row(self) -> Row:
        entry = self._network._entry
        if not entry.takes_indices:
            return Row((entry.size or 0,), np.float32, entry.read)

        def read(name: str, value: ArrayLike) -> Float32Array | Int64Array:
            index = entry.read(name, value)
            if index.ndim == 0:
                entry.check_indices(name, index)
            return index

        return Row((), np.int64, read)

    def __repr__(self) -> str:
        return self._repr(self._network)
