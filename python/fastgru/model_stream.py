"""The live sequences of a Model: the states of its GRUs between calls, and its other layers.

Refuses models that need the end of a sequence before they can give anything.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from fastgru.arrays import Float32Array, as_states
from fastgru.chain import never_by_steps, run_layers
from fastgru.errors import ShapeError
from fastgru.options import positive
from fastgru.over_time import Last
from fastgru.problems import raise_any, states_problems
from fastgru.stream import Rows, Stream
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

    __slots__ = ("__weakref__", "_batch_size", "_layers", "_lock", "_model", "_streams")

    def __init__(self, model: Model, batch_size: int = 1) -> None:
        if problems := list(never_by_steps(model.layers)):
            raise ValueError(report("a stream of this model", problems))
        size = positive("batch_size", batch_size)
        self._hold(model, size, [gru.stream(size) for gru in model._grus()])

    def _hold(self, model: Model, batch_size: int, streams: list[Stream]) -> None:
        self._model, self._batch_size, self._streams = model, batch_size, streams
        # each step is a sequence's last one so far
        self._layers = [layer for layer in model.layers if not isinstance(layer, Last)]
        self._lock = threading.Lock()

    def step(self, x_t: ArrayLike) -> Float32Array:
        """One step: x_t (B, I), or (I,) where the batch size is 1 -> (B, O) or (O,), float32.

        Of a model that takes indices (B,), or a single one. Raises ShapeError, TypeError, and
        IndexError for an index out of range.
        """
        entry = self._model._entry
        x = entry.read("x_t", x_t)
        entry.check_rows("x_t", x.shape, self._batch_size)
        return self._advance(x, Stream.step)

    def run(self, chunk: ArrayLike) -> Float32Array:
        """T steps in one call: chunk (T, B, I) -> (T, B, O), float32, also where there is a Last.

        With the model's batch_first (B, T, I) -> (B, T, O); where the batch size is 1 also
        (T, I) -> (T, O). Of a model that takes indices (T, B), (B, T) or (T,). Errors as in `step`.
        """
        entry = self._model._entry
        x = entry.read("chunk", chunk)
        _, batch = entry.check_sequences("chunk", x.shape)
        if (1 if batch is None else batch) != self._batch_size:
            raise ShapeError(f"chunk: expected a batch of {self._batch_size}, got {x.shape}")
        return self._advance(x, Stream.run)

    def _advance(
        self, x: Any, advance: Callable[[Stream, Float32Array], Float32Array]
    ) -> Float32Array:
        streams = self._streams
        self._acquire()  # no context manager: that would be a tenth of a small model's step
        try:
            before = [stream._core.get_state() for stream in streams]
            try:
                y = run_layers(
                    self._layers,
                    x,
                    None,
                    False,
                    lambda index, _, values: advance(streams[index], values),
                )
            except BaseException:  # of memory or an interrupt: what can be wrong was checked before
                self._restore(before)
                raise
            return y.copy() if y is x else y
        finally:
            self._lock.release()

    def _acquire(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise RuntimeError("this stream is running in another thread: use a stream a thread")

    @contextmanager
    def _held(self) -> Iterator[None]:
        self._acquire()
        try:
            yield
        finally:
            self._lock.release()

    def _restore(self, states: Sequence[Float32Array]) -> None:
        for stream, state in zip(self._streams, states, strict=True):
            stream.state = state

    @property
    def state(self) -> list[Float32Array]:
        """Each GRU's state (L, B, H), float32, copies; assign to restore."""
        with self._held():
            return [stream.state for stream in self._streams]

    @state.setter
    def state(self, states: Sequence[ArrayLike]) -> None:
        expected = [
            (gru.num_layers, self._batch_size, gru.hidden_size) for gru in self._model._grus()
        ]
        raise_any("ModelStream.state", states_problems("state", states, expected))
        given = as_states("state", states)
        with self._held():
            self._restore(given)

    @property
    def batch_size(self) -> int:
        """B, the number of sequences that advance together."""
        return self._batch_size

    def reset(self, rows: Rows | None = None) -> None:
        """Puts every state back to zeros; with `rows` only theirs, as `Stream.reset`."""
        with self._held():
            for stream in self._streams:
                stream.reset(rows)

    def copy(self) -> ModelStream:
        """A second stream with the same states, which goes its own way from here."""
        other = type(self).__new__(type(self))
        with self._held():
            streams = [stream.copy() for stream in self._streams]
        other._hold(self._model, self._batch_size, streams)
        return other

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, object]) -> ModelStream:
        return self.copy()

    def __repr__(self) -> str:
        return f"ModelStream(batch_size={self.batch_size}, {self._model!r})"
