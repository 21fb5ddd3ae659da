"""Many live sequences whose states lie in one slab; any of them advance together.

A thin layer over `_core.Pool`: it converts arrays. Refuses bidirectional models, as streams do, and
to grow.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from fastgru import _core
from fastgru.arrays import Float32Array, as_float32, as_int64, as_state
from fastgru.problems import (
    Problem,
    checked_out,
    out_problems,
    raise_all,
    seen,
    shape_problems,
)
from fastgru.sessions import Row, Sessions, as_id

if TYPE_CHECKING:
    from fastgru.gru import GRU


class Pool(Sessions):
    """States of up to `capacity` sessions (live sequences). Made by `GRU.pool`.

    Whatever the other sessions of a step are, and however its steps are cut, a session's results
    are the same to the bit as from one call of the GRU. A call that raises changes nothing. NaN in
    one session stays there. `len(pool)` counts the open sessions.

    Ids are 64-bit integers that no other pool gives away, nor this one after a restart, but by a
    chance of less than one in 10**9. They are no secrets.

    Any number of Python threads may use a pool at once. Calls of one pool take turns, in no certain
    order: a step keeps the others waiting until it ends, none of them holding the GIL. Steps
    estimated at 8 us or more release the GIL. Pools of one model do not wait for each other. In a
    forked child a pool that another thread was using at the fork raises RuntimeError.

    >>> import numpy as np, fastgru
    >>> gru = fastgru.GRU.from_state_dict({"weight_ih_l0": np.ones((6, 3), np.float32),
    ...                                    "weight_hh_l0": np.ones((6, 2), np.float32)})
    >>> pool = gru.pool(1000)
    >>> ids = [pool.open() for _ in range(4)]
    >>> pool.step(ids[::2], np.ones((2, 3), np.float32)).shape
    (2, 2)
    >>> pool.close(ids[0])
    >>> len(pool)
    3
    """

    __slots__ = ("_network",)

    def __init__(self, gru: GRU, capacity: int) -> None:
        """capacity: sessions that may be open at once, at most 2**24; their states are zeros."""
        if gru.bidirectional or gru.reverse:
            raise ValueError(
                "a pool needs a model that only runs forwards: the reverse direction starts at "
                "the end of a sequence, which a pool never sees; call the GRU on whole sequences"
            )
        super().__init__(gru._core, [gru], capacity)
        self._network = gru

    def open(self, h_0: ArrayLike | None = None) -> int:
        """A new session's id, which no other session has or had.

        h_0: (L, H), zeros if None. Raises PoolFullError where `capacity` sessions are open.
        """
        return self._core.open(None if h_0 is None else [as_state("h_0", h_0)])

    @_core.shortcut_pool_step
    def step(
        self, ids: ArrayLike, x: ArrayLike, *, out: Float32Array | None = None
    ) -> Float32Array:
        """One step of n sessions: ids (n,), in any order, x (n, I) -> (n, H), float32.

        Row i is session ids[i]'s. `out`: a writable C-contiguous float32 array of the result's
        shape that does not overlap x, else ValueError; it is filled and returned. Raises KeyError
        for ids that are unknown or closed, ValueError for those that are there twice, ShapeError,
        and TypeError for ids that are no integers and x that is not floating. The message lists all
        that is wrong; where that is of several kinds, TypeError goes before ShapeError, and
        ShapeError before ValueError.
        """
        try:
            return self._core.step(
                as_int64("ids", ids), as_float32("x", x), checked_out(out), self._network._threads
            )
        except (KeyError, TypeError, ValueError) as error:
            raise_all("Pool.step", error, self._step_problems(ids, x, out))

    def _step_problems(self, ids: ArrayLike, x: ArrayLike, out: object) -> Iterator[Problem]:
        rows, problems = self._id_problems(ids)
        yield from problems
        array, shape, problems = seen("x", x, as_float32)
        yield from problems
        yield from shape_problems("x", shape, (rows, self._network.input_size))
        yield from out_problems(out, array, (rows, self._network.hidden_size))

    def get_state(self, session: int) -> Float32Array:
        """A session's state (L, H), float32, a copy. Raises KeyError for an unknown one."""
        return self._core.get_state(as_id(session))[0]

    def set_state(self, session: int, state: ArrayLike) -> None:
        """Replaces a session's state by `state` (L, H). Raises KeyError and ShapeError."""
        try:
            self._core.set_state(as_id(session), [as_state("state", state)])
        except (KeyError, TypeError, ValueError) as error:
            raise_all("Pool.set_state", error, self._state_problems(session, state))

    def _state_problems(self, session: int, state: ArrayLike) -> Iterator[Problem]:
        yield from self._session_problems(session)
        _, shape, problems = seen("state", state, as_state)
        yield from problems
        yield from shape_problems(
            "state", shape, (self._network.num_layers, self._network.hidden_size)
        )

    def _row(self) -> Row:
        return Row((self._network.input_size,), np.float32, as_float32)

    def __repr__(self) -> str:
        return self._repr(self._network)
