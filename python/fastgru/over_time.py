"""The layers that look at whole sequences, and so at `lengths`: Last, Mean, Max and Reverse.

What they do to a sequence depends on nothing but its valid steps. Refuses to know whether a model
that holds them can run step by step: that is chain.py's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from fastgru import _core
from fastgru.arrays import Float32Array, Int64Array, as_int64, as_state
from fastgru.errors import ShapeError
from fastgru.layers import Layer
from fastgru.problems import (
    Layout,
    Problem,
    layout_of,
    length_problems,
    problem_of,
    raise_all,
    seen,
)


class SequenceLayer(Layer):
    """A layer that needs whole sequences, (T, B, I), with batch_first (B, T, I), or (T, I)."""

    __slots__ = ()

    _function: ClassVar[str]

    def __init__(self, *, _bidirectional: bool = False) -> None:
        self._core, self._isa = _core.OverTime(self._function, _bidirectional), None

    def __call__(
        self, x: ArrayLike, *, lengths: ArrayLike | None = None, batch_first: bool = False
    ) -> Float32Array:
        """Runs x (T, B, I), with batch_first (B, T, I), or (T, I); fresh C-contiguous float32.

        `lengths`: integers (B,); steps past a row's length do not count. 1 <= length <= T, from 0
        on for Reverse. Raises ShapeError, ValueError for lengths out of range, TypeError.
        """
        try:
            return self._run(
                as_state("x", x),
                None if lengths is None else as_int64("lengths", lengths),
                batch_first,
            )
        except (TypeError, ValueError) as error:
            raise_all(type(self).__name__, error, self._problems(x, lengths, batch_first))

    def _run(self, x: Float32Array, lengths: Int64Array | None, batch_first: bool) -> Float32Array:
        """The call, of arrays that are converted."""
        y: Float32Array = self._core.run(x, lengths, batch_first, 0)
        return y

    def _problems(
        self, x: ArrayLike, lengths: ArrayLike | None, batch_first: bool
    ) -> Iterator[Problem]:
        array, shape, problems = seen("x", x, as_state)
        yield from problems
        if array is not None:
            yield from problem_of(lambda: self._check(array, batch_first))
        if lengths is not None:
            layout = layout_of(shape, None, batch_first)
            yield from length_problems(lengths, layout, int(self.over_time))

    def _check(self, x: Float32Array, batch_first: bool) -> None:
        """ShapeError where a call without lengths would raise it."""
        self._run(x, None, batch_first)  # as long as the call itself


class _OverTime(SequenceLayer):
    """One row of all steps: (B, I), or (I,) where x is (T, I); no sequence may be empty."""

    __slots__ = ()

    over_time = True


class Last(_OverTime):
    """Each sequence's last step: output[length - 1].

    After a bidirectional GRU that is torch's output[-1]: the reverse direction has seen only that
    step there. With `bidirectional` each half of the features is at the last step of its own
    direction, the second half's being step 0: torch.cat([h_n[-2], h_n[-1]], dim=-1), and Keras's
    Bidirectional without return_sequences. In a stream, each step's own value.

    >>> import numpy as np, fastgru
    >>> x = np.arange(6, dtype=np.float32).reshape(3, 2, 1)  # (T, B, I)
    >>> fastgru.Last()(x, lengths=[3, 1]).tolist()
    [[4.0], [1.0]]
    >>> x = np.arange(6, dtype=np.float32).reshape(3, 1, 2)
    >>> fastgru.Last(bidirectional=True)(x).tolist()
    [[4.0, 1.0]]
    """

    __slots__ = ("_bidirectional",)
    _function = "last"

    def __init__(self, *, bidirectional: bool = False) -> None:
        if not isinstance(bidirectional, bool | np.bool_):
            raise TypeError(f"bidirectional: expected True or False, got {bidirectional!r}")
        super().__init__(_bidirectional=bool(bidirectional))
        self._bidirectional = bool(bidirectional)

    @property
    def bidirectional(self) -> bool:
        """Whether the second half of the features is taken at step 0."""
        return self._bidirectional

    def _run(self, x: Float32Array, lengths: Int64Array | None, batch_first: bool) -> Float32Array:
        if self._bidirectional and x.ndim in (2, 3) and x.shape[-1] % 2:
            raise ShapeError(f"x: expected an even number of features, got {x.shape}")
        return super()._run(x, lengths, batch_first)

    def _options(self) -> dict[str, Any]:
        return {"bidirectional": True} if self._bidirectional else {}


class Mean(_OverTime):
    """The mean of each sequence's steps; summed in double precision. Not in streams.

    >>> import numpy as np, fastgru
    >>> x = np.arange(6, dtype=np.float32).reshape(3, 2, 1)  # (T, B, I)
    >>> fastgru.Mean()(x, lengths=[3, 2]).tolist()
    [[2.0], [2.0]]
    """

    __slots__ = ()
    _function = "mean"


class Max(_OverTime):
    """The largest of each sequence's steps, element by element; NaN wins. Not in streams.

    >>> import numpy as np, fastgru
    >>> x = np.arange(6, dtype=np.float32).reshape(3, 2, 1)  # (T, B, I)
    >>> fastgru.Max()(x, lengths=[3, 2]).tolist()
    [[4.0], [3.0]]
    """

    __slots__ = ()
    _function = "max"


class Reverse(SequenceLayer):
    """Each sequence's steps from its last one to its first; padding stays where it is.

    x (T, B, I) -> (T, B, I). In front of a GRU it makes Keras's go_backwards. Not in streams.

    >>> import numpy as np, fastgru
    >>> x = np.arange(6, dtype=np.float32).reshape(3, 2, 1)  # (T, B, I)
    >>> fastgru.Reverse()(x, lengths=[3, 2])[..., 0].T.tolist()
    [[4.0, 2.0, 0.0], [3.0, 1.0, 5.0]]
    """

    __slots__ = ()
    _function = "reverse"


def check_lengths(lengths: Int64Array, steps: int, batch: int | None, at_least: int) -> None:
    """ShapeError or ValueError, of the first that is wrong."""
    if batch is None:
        layout = Layout(steps, batched=False)
    elif lengths.shape == (batch,) and not np.any((lengths < at_least) | (lengths > steps)):
        return
    else:
        layout = Layout(steps, batch, True)
    for problem in length_problems(lengths, layout, at_least):
        raise problem.kind(problem.text)
