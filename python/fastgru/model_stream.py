"""The live sequences of a Model: the states of its GRUs between calls, and its other layers.

A thin layer over `_core.Stream`: it converts arrays and nothing else; a step of plain arrays does
not even come here. Refuses models that need the end of a sequence before they can give anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from fastgru import _core
from fastgru.arrays import Float32Array, as_states
from fastgru.chain import never_by_steps
from fastgru.errors import ShapeError
from fastgru.options import positive
from fastgru.problems import checked_out, raise_any, states_problems
from fastgru.stream import Rows, row_numbers
from fastgru.text import report

if TYPE_CHECKING:
    from fastgru.model import Model


class ModelStream:
    """The states of `batch_size` sequences between calls. Made by `Model.stream`.

    However a sequence is cut into `step` and `run` calls, the results are the same to the bit as
    those of the layers on the whole sequence; where the model ends in Last, each step gives what
    the whole sequence up to there would. A call that raises leaves every state as it was. A second
    call while one runs (from another thread) raises RuntimeError.

    >>> import numpy as np, fastgru
    >>> gru = fastgru.GRU.from_state_dict({"weight_ih_l0": np.ones((6, 3), np.float32),
    ...                                    "weight_hh_l0": np.ones((6, 2), np.float32)})
    >>> model = fastgru.Model([fastgru.OneHot(3), gru, fastgru.Softmax()])
    >>> stream = model.stream()
    >>> rows = [stream.step(index) for index in (2, 0, 1)]
    >>> np.array_equal(np.stack(rows), model([2, 0, 1]))
    True
    """

    __slots__ = ("__weakref__", "_core", "_network")

    def __init__(self, model: Model, batch_size: int = 1) -> None:
        if problems := list(never_by_steps(model.layers)):
            raise ValueError(report("a stream of this model", problems))
        self._hold(model, _core.Stream(model._core, positive("batch_size", batch_size), None))

    def _hold(self, model: Model, core: _core.Stream) -> None:
        self._network, self._core = model, core

    @_core.shortcut_step
    def step(self, x_t: ArrayLike, *, out: Float32Array | None = None) -> Float32Array:
        """One step: x_t (B, I), or (I,) where the batch size is 1 -> (B, O) or (O,), float32.

        Of a model that takes indices (B,), or a single one. `out`: as in `Stream.step`. Raises
        ShapeError, TypeError, IndexError for an index out of range, and ValueError for `out`.
        """
        entry = self._network._entry
        x = entry.read("x_t", x_t)
        entry.check_rows("x_t", x.shape, self.batch_size)
        return self._core.step(x, checked_out(out), self._network._threads)

    def run(self, chunk: ArrayLike, *, out: Float32Array | None = None) -> Float32Array:
        """T steps in one call: chunk (T, B, I) -> (T, B, O), float32, also where there is a Last.

        With the model's batch_first (B, T, I) -> (B, T, O); where the batch size is 1 also
        (T, I) -> (T, O). Of a model that takes indices (T, B), (B, T) or (T,). `out` and errors as
        in `step`.
        """
        entry = self._network._entry
        x = entry.read("chunk", chunk)
        _, batch = entry.check_sequences("chunk", x.shape)
        if (1 if batch is None else batch) != self.batch_size:
            raise ShapeError(f"chunk: expected a batch of {self.batch_size}, got {x.shape}")
        return self._core.run(x, checked_out(out), entry.batch_first, self._network._threads)

    @property
    def state(self) -> list[Float32Array]:
        """Each GRU's state (L, B, H), float32, copies; assign to restore."""
        return self._core.get_state()

    @state.setter
    def state(self, states: Sequence[ArrayLike]) -> None:
        expected = [
            (gru.num_layers, self.batch_size, gru.hidden_size) for gru in self._network._grus()
        ]
        raise_any("ModelStream.state", states_problems("state", states, expected))
        self._core.set_state(as_states("state", states))

    @property
    def batch_size(self) -> int:
        """B, the number of sequences that advance together."""
        return self._core.batch_size

    def reset(self, rows: Rows | None = None) -> None:
        """Puts every state back to zeros; with `rows` only theirs, as `Stream.reset`."""
        self._core.reset(None if rows is None else row_numbers(rows, self.batch_size))

    def copy(self) -> ModelStream:
        """A second stream with the same states, which goes its own way from here."""
        other = type(self).__new__(type(self))
        other._hold(self._network, self._core.copy())
        return other

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, object]) -> ModelStream:
        return self.copy()

    def __repr__(self) -> str:
        return f"ModelStream(batch_size={self.batch_size}, {self._network!r})"
