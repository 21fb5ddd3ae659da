"""One live sequence, or a fixed batch that advances together, with its state kept.

A thin layer over `_core.Stream`: it converts arrays and nothing else. A step of plain arrays does
not even come here, because a step of a small network takes less time than Python code. Refuses
bidirectional models, which need the end of a sequence before its beginning can be computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastgru import _core
from fastgru.arrays import Float32Array, Int64Array, as_float32, as_int64, as_state
from fastgru.errors import ShapeError
from fastgru.options import positive
from fastgru.problems import (
    Problem,
    checked_out,
    layout_of,
    out_problems,
    raise_all,
    seen,
    shape_problems,
)

if TYPE_CHECKING:
    from fastgru.gru import GRU

Rows = int | Sequence[int] | NDArray[np.integer | np.bool_]


class Stream:
    """The state of `batch_size` sequences between calls. Made by `GRU.stream`.

    However a sequence is cut into `step` and `run` calls, the results are the same to the bit as
    from one call of the GRU. A call that raises leaves the state as it was. A second call while one
    runs (from another thread) raises RuntimeError.

    >>> import numpy as np, fastgru
    >>> gru = fastgru.GRU.from_state_dict({"weight_ih_l0": np.ones((6, 3), np.float32),
    ...                                    "weight_hh_l0": np.ones((6, 2), np.float32)})
    >>> stream = gru.stream()
    >>> x = np.ones((4, 3), np.float32)
    >>> rows = [stream.step(x_t) for x_t in x]
    >>> np.array_equal(np.stack(rows), gru(x)[0])
    True
    """

    __slots__ = ("__weakref__", "_core", "_gru")

    def __init__(self, gru: GRU, batch_size: int = 1, h_0: ArrayLike | None = None) -> None:
        """h_0: (L, B, H), kept for `reset`; zeros if None."""
        if gru.bidirectional or gru.reverse:
            raise ValueError(
                "a stream needs a model that only runs forwards: the reverse direction starts at "
                "the end of a sequence, which a stream never sees; call the GRU on whole sequences"
            )
        state = None if h_0 is None else as_state("h_0", h_0)
        size = positive("batch_size", batch_size)
        self._hold(gru, _core.Stream(gru._core, size, state))

    def _hold(self, gru: GRU, core: _core.Stream) -> None:
        self._gru = gru
        self._core = core

    @_core.shortcut_step
    def step(self, x_t: ArrayLike, *, out: Float32Array | None = None) -> Float32Array:
        """One step: x_t (B, I), or (I,) where the batch size is 1 -> (B, H) or (H,), float32.

        `out`: a writable C-contiguous float32 array of the result's shape that overlaps neither
        x_t nor the state, else ValueError; it is filled and returned. Raises ShapeError, and
        TypeError for integers, bools, complex numbers and objects. Where both are wrong, the
        message lists both.

        >>> import numpy as np, fastgru
        >>> stream = fastgru.GRU.from_state_dict({
        ...     "weight_ih_l0": np.ones((6, 3), np.float32),
        ...     "weight_hh_l0": np.ones((6, 2), np.float32)}).stream()
        >>> y = np.empty(2, np.float32)
        >>> stream.step(np.ones(3, np.float32), out=y) is y
        True
        """
        try:
            return self._core.step(as_float32("x_t", x_t), checked_out(out), self._gru._threads)
        except (TypeError, ValueError) as error:
            raise_all("Stream.step", error, self._step_problems(x_t, out))

    def run(self, chunk: ArrayLike, *, out: Float32Array | None = None) -> Float32Array:
        """T steps in one call: chunk (T, B, I) -> (T, B, H), float32.

        With the model's batch_first (B, T, I) -> (B, T, H); where the batch size is 1 also
        (T, I) -> (T, H). `out` and errors as in `step`.

        >>> import numpy as np, fastgru
        >>> stream = fastgru.GRU.from_state_dict({
        ...     "weight_ih_l0": np.ones((6, 3), np.float32),
        ...     "weight_hh_l0": np.ones((6, 2), np.float32)}).stream()
        >>> stream.run(np.ones((10, 3), np.float32)).shape
        (10, 2)
        """
        gru = self._gru
        try:
            return self._core.run(
                as_float32("chunk", chunk), checked_out(out), gru.batch_first, gru._threads
            )
        except (TypeError, ValueError) as error:
            raise_all("Stream.run", error, self._run_problems(chunk, out))

    @property
    def state(self) -> Float32Array:
        """The state (L, B, H), float32, a copy; assign to restore."""
        return self._core.get_state()

    @state.setter
    def state(self, state: ArrayLike) -> None:
        self._core.set_state(as_state("state", state))

    @property
    def batch_size(self) -> int:
        """B, the number of sequences that advance together."""
        return self._core.batch_size

    def reset(self, rows: Rows | None = None) -> None:
        """Puts the state back to the stream's h_0 (zeros if none was given).

        `rows`: only these rows of the batch: an int, integers, or a bool mask (B,). Raises
        IndexError for a row outside 0..B-1 and ShapeError for a mask of another length.

        >>> import numpy as np, fastgru
        >>> stream = fastgru.GRU.from_state_dict({
        ...     "weight_ih_l0": np.ones((6, 3), np.float32),
        ...     "weight_hh_l0": np.ones((6, 2), np.float32)}).stream(batch_size=2)
        >>> _ = stream.step(np.ones((2, 3), np.float32))
        >>> stream.reset(rows=1)
        >>> stream.state.any(axis=(0, 2))
        array([ True, False])
        """
        self._core.reset(None if rows is None else self._row_numbers(rows))

    def _row_numbers(self, rows: Rows) -> Int64Array:
        mask = np.asarray(rows)
        if mask.dtype == np.bool_ and mask.ndim:
            if mask.shape != (self.batch_size,):
                raise ShapeError(f"rows: expected ({self.batch_size},) bools, got {mask.shape}")
            return np.flatnonzero(mask).astype(np.int64)
        return as_int64("rows", rows).reshape(-1)

    def _step_problems(self, x_t: ArrayLike, out: object) -> Iterator[Problem]:
        rows, size, hidden = self.batch_size, self._gru.input_size, self._gru.hidden_size
        x, shape, problems = seen("x_t", x_t, as_float32)
        yield from problems
        single = [(size,)] if rows == 1 else []
        yield from shape_problems("x_t", shape, (rows, size), *single)
        outs = [(rows, hidden), (hidden,)] if rows == 1 else [(rows, hidden)]
        if rows == 1 and shape and len(shape) <= 2:  # its number of axes is the result's
            outs = [out for out in outs if len(out) == len(shape)]
        yield from out_problems(out, x, *outs)

    def _run_problems(self, chunk: ArrayLike, out: object) -> Iterator[Problem]:
        gru, rows = self._gru, self.batch_size
        size, hidden = gru.input_size, gru.hidden_size
        x, shape, problems = seen("chunk", chunk, as_float32)
        yield from problems
        layout = layout_of(shape, size, gru.batch_first)

        def batched(steps: int | str, *last: int) -> tuple[int | str, ...]:
            return (rows, steps, *last) if gru.batch_first else (steps, rows, *last)

        axes = ("B", "T") if gru.batch_first else ("T", "B")
        fits = not [*shape_problems("chunk", shape, (*axes, size), ("T", size))]
        if not fits:
            yield from shape_problems("chunk", shape, (*axes, size), ("T", size))
        elif layout.batched or rows > 1:
            yield from shape_problems("chunk", shape, batched("T", size))
        outs = [] if layout.batched is False and rows == 1 else [batched(layout.steps, hidden)]
        if rows == 1 and layout.batched is not True:
            outs.append((layout.steps, hidden))
        yield from out_problems(out, x, *outs)

    def copy(self) -> Stream:
        """A second stream with the same state and h_0, which goes its own way from here."""
        other = type(self).__new__(type(self))
        other._hold(self._gru, self._core.copy())
        return other

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, object]) -> Stream:
        return self.copy()

    def __repr__(self) -> str:
        return f"Stream(batch_size={self.batch_size}, {self._gru!r})"
