"""`Model`: GRUs with what surrounds them, as one thing that is called, streamed and saved.

Holds a chain of layers that fit (chain.py decides) and runs it. Refuses anything but a chain.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

from numpy.typing import ArrayLike

from fastgru import _core
from fastgru.arrays import Float32Array, as_int64
from fastgru.chain import entry_of, misfits, output_size
from fastgru.convert import tensors_from_d2l
from fastgru.gru import GRU
from fastgru.importing import importing
from fastgru.layers import Layer, Linear, OneHot
from fastgru.model_pool import ModelPool
from fastgru.model_stream import ModelStream
from fastgru.options import positive
from fastgru.over_time import check_lengths
from fastgru.problems import Problem, length_problems, raise_all
from fastgru.spec import spec_from_tensors
from fastgru.text import report


class Model:
    """A chain of layers: GRUs and Embedding, OneHot, Linear, LayerNorm, activations, Last, ...

    Sizes, order and batch_first are checked when it is made: ValueError lists every layer that does
    not fit those before it, TypeError what is no layer. A Model never changes, its thread count
    apart, and serves any number of threads at once. It pickles, and copies share the weights. It
    holds copies of its GRUs, so that `num_threads` is its own.

    >>> import numpy as np, fastgru
    >>> gru = fastgru.GRU.from_state_dict({"weight_ih_l0": np.ones((6, 3), np.float32),
    ...                                    "weight_hh_l0": np.ones((6, 2), np.float32)})
    >>> head = fastgru.Linear(np.ones((5, 2), np.float32))
    >>> model = fastgru.Model([fastgru.OneHot(3), gru, fastgru.Last(), head, fastgru.Softmax()])
    >>> model([[0, 2], [1, 1], [2, 0]], lengths=[3, 2]).shape
    (2, 5)
    """

    __slots__ = ("__weakref__", "_at_least", "_core", "_entry", "_layers", "_threads")

    def __init__(self, layers: Iterable[Layer | GRU]) -> None:
        if not isinstance(layers, Iterable):
            raise TypeError(f"layers: expected a list of layers, got {type(layers).__name__}")
        given: list[Any] = list(layers)  # of whatever a user passes
        if not given:
            raise ValueError("layers: expected at least one, got none")
        strangers = [
            f"layer {index}: expected a GRU or another layer of fastgru, got {type(layer)}"
            for index, layer in enumerate(given)
            if not isinstance(layer, (GRU, Layer))
        ]
        if strangers:
            raise TypeError(report("the model", strangers))
        if problems := list(misfits(given)):
            raise ValueError(report("the model", problems))
        self._hold(given)

    def _hold(self, layers: Iterable[Layer | GRU]) -> None:
        self._layers = tuple(copy.copy(layer) for layer in layers)
        self._entry = entry_of(self._layers)
        self._core = _core.Network([layer._core for layer in self._layers], self._entry.size or 0)
        counts = [gru.num_threads for gru in self._grus()]
        given = [count for count in counts if count is not None]
        self._threads = max(given) if given and len(given) == len(counts) else 0
        # a row needs a step where one is to be made of all
        self._at_least = int(any(isinstance(la, Layer) and la.over_time for la in self._layers))

    def __call__(self, x: ArrayLike, *, lengths: ArrayLike | None = None) -> Float32Array:
        """Runs whole sequences through all layers; a fresh C-contiguous float32 array.

        x: (T, B, I), with a GRU's batch_first (B, T, I), or unbatched (T, I); where the first layer
        is an Embedding or a OneHot, integers (T, B), (B, T) or (T,). The result has O of the last
        layer instead of I, and no T behind Last, Mean and Max.

        `lengths`: integers (B,), 0 <= length <= T, but at least 1 with Last, Mean or Max. GRUs give
        0 past a row's length, and Last, Mean and Max do not look there. The other layers treat
        padding like anything else, as in torch: an Embedding refuses indices out of range there,
        and a Linear behind a GRU gives its bias.

        Raises ShapeError; TypeError for dtypes; ValueError for lengths out of range; IndexError for
        indices out of range. Where x and lengths are both wrong the message lists all of it, and
        TypeError goes before ShapeError, ShapeError before ValueError.
        """
        try:
            array = self._entry.read("x", x)
            steps, batch = self._entry.check_sequences("x", array.shape)
            counts = None if lengths is None else as_int64("lengths", lengths)
            if counts is not None:
                check_lengths(counts, steps, batch, self._at_least)
            return self._core.run(array, counts, self.batch_first, self._threads)
        except (TypeError, ValueError) as error:
            raise_all("Model", error, self._call_problems(x, lengths))

    def _call_problems(self, x: ArrayLike, lengths: ArrayLike | None) -> Iterator[Problem]:
        yield from self._entry.problems("x", x)
        if lengths is not None:
            yield from length_problems(lengths, self._entry.layout(x), self._at_least)

    def stream(self, batch_size: int = 1) -> ModelStream:
        """A ModelStream: `batch_size` live sequences, states kept between calls, from zeros.

        Raises ValueError for a model that needs whole sequences: with a bidirectional or reverse
        GRU, Mean, Max, Reverse or a bidirectional Last. `fastgru.ModelStream` has an example.
        """
        return ModelStream(self, batch_size)

    def pool(self, capacity: int) -> ModelPool:
        """A ModelPool: up to `capacity` live sequences, any of which advance together.

        Raises ValueError as `stream`, and for a model without a GRU. `fastgru.ModelPool` has an
        example.
        """
        return ModelPool(self, capacity)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a native file (safetensors with a description), which `fastgru.load` reads.

        Atomic: on failure what was at `path` is still there, whole. Raises OSError.

        >>> import numpy as np, fastgru
        >>> model = fastgru.Model([fastgru.Linear(np.ones((5, 2))), fastgru.Softmax()])
        >>> model.save("model.safetensors")
        >>> fastgru.load("model.safetensors").output_size
        5
        """
        with importing():
            from fastgru.formats.model_file import save_model  # noqa: PLC0415

        save_model(self, path)

    def to(self, precision: str) -> Self:
        """A new model whose GRUs are in `precision`, as `GRU.to`; other layers stay in float32.

        Raises ValueError as `GRU.to`.

        >>> import numpy as np, fastgru
        >>> gru = fastgru.GRU.from_state_dict({"weight_ih_l0": np.ones((6, 3), np.float32),
        ...                                    "weight_hh_l0": np.ones((6, 2), np.float32)})
        >>> fastgru.Model([gru, fastgru.Softmax()]).to("int8")[0].precision
        'int8'
        """
        return self._with(
            layer.to(precision) if isinstance(layer, GRU) else layer for layer in self._layers
        )

    @property
    def layers(self) -> tuple[Layer | GRU, ...]:
        """All layers, first to last."""
        return self._layers

    def __getitem__(self, index: int) -> Layer | GRU:
        return self._layers[index]

    def __len__(self) -> int:
        return len(self._layers)

    def _grus(self) -> list[GRU]:
        return [layer for layer in self._layers if isinstance(layer, GRU)]

    @property
    def batch_first(self) -> bool:
        """Whether x is (B, T, I): what its GRUs agree on; False without one."""
        return self._entry.batch_first

    @property
    def input_size(self) -> int | None:
        """I, the last dimension of x; None where x is indices, and where any size will do."""
        return self._entry.size

    @property
    def output_size(self) -> int | None:
        """O, the last dimension of what a call gives; None for that of x."""
        sizes = (output_size(layer) for layer in reversed(self._layers))
        return next((size for size in sizes if size is not None), None)

    @property
    def nbytes(self) -> int:
        """Bytes of packed weights and biases."""
        return sum(layer.nbytes for layer in self._layers)

    @property
    def num_threads(self) -> int | None:
        """The most threads a call may use; None for the process's default. Can be set.

        Where its GRUs came with different ones, the largest.
        """
        return self._threads or None

    @num_threads.setter
    def num_threads(self, count: int | None) -> None:
        self._threads = 0 if count is None else positive("num_threads", count)
        for gru in self._grus():
            gru.num_threads = count

    def _with(self, layers: Iterable[Layer | GRU]) -> Self:
        other = type(self).__new__(type(self))
        other._hold(layers)
        return other

    def __copy__(self) -> Self:
        return self._with(self._layers)

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (type(self), self._layers)

    def __repr__(self) -> str:
        lines = [f"  {index}: {layer!r}" for index, layer in enumerate(self._layers)]
        return "\n".join(["Model(", *lines, ")"])


def _unpickle(cls: type[Model], layers: tuple[Layer | GRU, ...]) -> Model:
    model = cls.__new__(cls)
    model._hold(layers)
    return model


def from_d2l(
    params: Mapping[str, ArrayLike] | Sequence[ArrayLike],
    *,
    batch_first: bool = False,
    precision: str = "float32",
    num_threads: int | None = None,
    isa: str | None = None,
) -> Model:
    """The character model of "Dive into Deep Learning": OneHot, GRU (reset before), Linear.

    `params`: W_xz W_hz b_z W_xr W_hr b_r W_xh W_hh b_h W_hq b_q as a dict, or a list in this order.
    W_x* (I, H), W_h* (H, H), b_* (H,), W_hq (H, O), b_q (O,). Takes indices (T, B), gives logits
    (T, B, O). Raises FormatError listing every array that does not fit.

    >>> import numpy as np, fastgru
    >>> params = [np.ones(s, np.float32) for s in [(3, 2), (2, 2), (2,)] * 3 + [(2, 3), (3,)]]
    >>> fastgru.from_d2l(params)([2, 0, 1]).shape
    (3, 3)
    """
    tensors = tensors_from_d2l(params, head=True)
    weight, bias = tensors.pop("head.weight"), tensors.pop("head.bias")
    gru = GRU(
        spec_from_tensors(tensors, reset_after=False),
        batch_first=batch_first,
        precision=precision,
        num_threads=num_threads,
        isa=isa,
    )
    return Model([OneHot(gru.input_size), gru, Linear(weight, bias, _isa=isa)])
