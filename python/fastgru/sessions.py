"""What pools of GRUs and of models have in common: ids, snapshots in files, an end.

Refuses to step: that is what they differ in.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike

from fastgru import _core
from fastgru.arrays import Float32Array, Int64Array, as_int64
from fastgru.importing import importing
from fastgru.options import integer, positive
from fastgru.problems import Problem, problem_of, seen, shape_problems, states_problems

if TYPE_CHECKING:
    from fastgru.gru import GRU


class Row(NamedTuple):
    """What a session's row of a step's x is: for who gathers rows, one by one."""

    shape: tuple[int, ...]
    dtype: type[np.float32 | np.int64]
    read: Callable[[str, ArrayLike], Float32Array | Int64Array]
    """An argument of that name as an array of this dtype, whatever its shape; TypeError."""


class Sessions:
    """The states of up to `capacity` sessions of one or several GRUs, which run as a whole."""

    __slots__ = ("__weakref__", "_core", "_grus")

    def __init__(self, grus: Sequence[GRU], capacity: int) -> None:
        self._grus = grus
        self._core = _core.Pool([gru._core for gru in grus], positive("capacity", capacity))

    def close(self, session: int) -> None:
        """Ends a session; its id is unknown from here on. Raises KeyError for an unknown one."""
        self._core.close(as_id(session))

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
            self._core.get_state(as_id(session))
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
        with importing():
            from fastgru.formats.pool_file import write  # noqa: PLC0415

        write(path, *self._core.snapshot())

    def restore(self, path: str | os.PathLike[str]) -> None:
        """Replaces all sessions by those of a snapshot, under their ids.

        Sessions go on with the same bits where the model is the same; that the weights are is the
        caller's to know. Raises FormatError for a file that is no snapshot, or not one for this
        model's layers and hidden size and a pool of this capacity; OSError if it cannot be read.
        Then all sessions are as they were.
        """
        with importing():
            from fastgru.formats.pool_file import read  # noqa: PLC0415

        shapes = [(gru.num_layers, gru.hidden_size) for gru in self._grus]
        read(path, shapes, self._core.restore)

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

    def _id_problems(self, ids: ArrayLike) -> tuple[int | str, list[Problem]]:
        """How many sessions a step is for, as far as `ids` tells, and what is wrong with them."""
        array, shape, problems = seen("ids", ids, as_int64)
        problems += shape_problems("ids", shape, ("n",))
        if array is not None and array.ndim == 1:
            problems += problem_of(lambda: self._core.check(array))
        return (shape[0] if shape is not None and len(shape) == 1 else "n"), problems

    def _session_problems(self, session: int) -> Iterator[Problem]:
        """What is wrong with an id."""
        yield from problem_of(lambda: self._core.check(np.array([as_id(session)])))

    def _states_problems(self, name: str, states: Sequence[ArrayLike]) -> Iterator[Problem]:
        """Of one session's states, (L, H) of each GRU."""
        shapes = [(gru.num_layers, gru.hidden_size) for gru in self._grus]
        yield from states_problems(name, states, shapes)

    def _repr(self, what: object) -> str:
        try:
            sessions = f"{len(self)} of {self.capacity} open"
        except RuntimeError:
            sessions = "shut down"
        return f"{type(self).__name__}({sessions}, {what!r})"


def as_id(session: object) -> int:
    """TypeError for what is no integer, KeyError for what no id can be."""
    number = integer("session", session, "an id that `open` gave")
    if not 0 <= number < 2**63:
        raise KeyError(f"session {number} is closed or was never this pool's")
    return number
