"""Many live sequences whose states lie in one slab; any of them advance together.

A thin layer over `_core.Pool`: it converts arrays, and keeps snapshots in files. Refuses
bidirectional models, as streams do, and to grow.
"""

from __future__ import annotations

import contextlib
import operator
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike

from fastgru import _core
from fastgru.arrays import Float32Array, Int64Array, as_float32, as_int64, as_state
from fastgru.options import positive

if TYPE_CHECKING:
    from fastgru.gru import GRU


class Row(NamedTuple):
    """What a session's row of a step's x is: for who gathers rows, one by one."""

    shape: tuple[int, ...]
    dtype: type[np.float32 | np.int64]
    read: Callable[[str, ArrayLike], Float32Array | Int64Array]
    """An argument of that name as an array of this dtype, whatever its shape; TypeError."""


class Pool:
    """States of up to `capacity` sessions (live sequences). Made by `GRU.pool`.

    Whatever the other sessions of a step are, and however its steps are cut, a session's results
    are the same to the bit as from one call of the GRU. A call that raises changes nothing. NaN in
    one session stays there. `len(pool)` counts the open sessions.

    Ids are 64-bit integers that no other pool gives away, nor this one after a restart, but by a
    chance of less than one in 10**9. They are no secrets.

    Any number of Python threads may use a pool at once. Calls of one pool take turns, in no certain
    order: a step keeps the others waiting until it ends, none of them holding the GIL. Steps
    estimated at 10 us or more release the GIL. Pools of one model do not wait for each other. In a
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

    __slots__ = ("__weakref__", "_core", "_gru")

    def __init__(self, gru: GRU, capacity: int) -> None:
        """capacity: sessions that may be open at once, at most 2**24; their states are zeros."""
        if gru.bidirectional:
            raise ValueError(
                "a pool needs a unidirectional model: the reverse direction starts at the end "
                "of a sequence, which a pool never sees; call the GRU on whole sequences"
            )
        self._gru = gru
        self._core = _core.Pool([gru._model], positive("capacity", capacity))

    def open(self, h_0: ArrayLike | None = None) -> int:
        """A new session's id, which no other session has or had.

        h_0: (L, H), zeros if None. Raises PoolFullError where `capacity` sessions are open.
        """
        return self._core.open(None if h_0 is None else [as_state("h_0", h_0)])

    def close(self, session: int) -> None:
        """Ends a session; its id is unknown from here on. Raises KeyError for an unknown one."""
        self._core.close(_as_id(session))

    @_core.shortcut_pool_step
    def step(
        self, ids: ArrayLike, x: ArrayLike, *, out: Float32Array | None = None
    ) -> Float32Array:
        """One step of n sessions: ids (n,), in any order, x (n, I) -> (n, H), float32.

        Row i is session ids[i]'s. `out`: a writable C-contiguous float32 array of the result's
        shape that does not overlap x, else ValueError; it is filled and returned. Raises KeyError
        for an id that is unknown or closed, ValueError for one that is there twice, ShapeError, and
        TypeError for ids that are no integers and x that is not floating.
        """
        sessions = as_int64("ids", ids)
        rows = as_float32("x", x)
        if out is not None and not isinstance(out, np.ndarray):
            raise ValueError(f"out: expected a NumPy array, got {type(out).__name__}")
        return self._core.step(sessions, rows, out, self._gru._threads)

    def get_state(self, session: int) -> Float32Array:
        """A session's state (L, H), float32, a copy. Raises KeyError for an unknown one."""
        return self._core.get_state(_as_id(session))[0]

    def set_state(self, session: int, state: ArrayLike) -> None:
        """Replaces a session's state by `state` (L, H). Raises KeyError and ShapeError."""
        self._core.set_state(_as_id(session), [as_state("state", state)])

    def _row(self) -> Row:
        return Row((self._gru.input_size,), np.float32, as_float32)

    @property
    def capacity(self) -> int:
        """How many sessions may be open at once."""
        return self._core.capacity

    @property
    def ids(self) -> Int64Array:
        """The open sessions' ids, a copy, in no certain order."""
        return self._core.ids()

    def __len__(self) -> int:
        return len(self._core)

    def __contains__(self, session: object) -> bool:
        try:
            self._core.get_state(_as_id(session))
        except (KeyError, TypeError):
            return False
        return True

    def snapshot(self, path: str | os.PathLike[str]) -> None:
        """Writes all sessions, ids and states of one moment, to a file, which `restore` reads.

        Atomic: on failure what was at `path` is still there, whole. Raises OSError.

        >>> import numpy as np, fastgru
        >>> gru = fastgru.GRU.from_state_dict({"weight_ih_l0": np.ones((6, 3), np.float32),
        ...                                    "weight_hh_l0": np.ones((6, 2), np.float32)})
        >>> pool, later = gru.pool(10), gru.pool(20)
        >>> session = pool.open(h_0=[[0.25, 0.5]])
        >>> pool.snapshot("sessions.safetensors")
        >>> later.restore("sessions.safetensors")
        >>> later.get_state(session)
        array([[0.25, 0.5 ]], dtype=float32)
        """
        from fastgru.formats.pool_file import write  # noqa: PLC0415

        write(path, *self._core.snapshot())

    def restore(self, path: str | os.PathLike[str]) -> None:
        """Replaces all sessions by those of a snapshot, under their ids.

        Sessions go on with the same bits where the model is the same; that the weights are is the
        caller's to know. Raises FormatError for a file that is no snapshot, or not one for this
        model's layers and hidden size and a pool of this capacity; OSError if it cannot be read.
        Then all sessions are as they were.
        """
        from fastgru.formats.pool_file import read  # noqa: PLC0415

        read(path, [(self._gru.num_layers, self._gru.hidden_size)], self._core.restore)

    def shutdown(self) -> None:
        """Ends all sessions and gives their memory back; a pool is a context manager that does so.

        Waits for a step that runs. Every call after it raises RuntimeError; `shutdown` itself does
        nothing then.
        """
        with contextlib.suppress(RuntimeError):
            self._core.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        try:
            sessions = f"{len(self)} of {self.capacity} open"
        except RuntimeError:
            sessions = "shut down"
        return f"Pool({sessions}, {self._gru!r})"


def _as_id(session: object) -> int:
    """TypeError for what is no integer, KeyError for what no id can be."""
    if isinstance(session, (bool, np.bool_)):
        raise TypeError(f"session: expected an id that `open` gave, got {session!r}")
    try:
        number = operator.index(session)  # type: ignore[arg-type]  # that is what is being asked
    except TypeError:
        raise TypeError(f"session: expected an id that `open` gave, got {session!r}") from None
    if not 0 <= number < 2**63:
        raise KeyError(f"session {number} is closed or was never this pool's")
    return number
