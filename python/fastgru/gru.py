"""`GRU`: a trained network, ready to run.

Joins the stages: tensors -> GruSpec -> packed `_core.GRU` -> calls with NumPy arrays. Refuses
to train, to run on anything but the CPU and to change after it is built, the thread count apart.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self, overload

import numpy as np
from numpy.typing import ArrayLike

from fastgru import _core
from fastgru.arrays import Float32Array, as_float32, as_int64, as_state, byte_text
from fastgru.convert import parts_of_torch_module, tensors_from_d2l
from fastgru.importing import importing
from fastgru.options import check_isa, check_options, positive
from fastgru.packed_sequence import Packed, is_packed, run_packed
from fastgru.pool import Pool
from fastgru.precision import kept_layers, reduce_spec, weight_names
from fastgru.problems import call_problems, raise_all
from fastgru.spec import GruSpec, spec_from_tensors
from fastgru.stream import Stream
from fastgru.trace import Trace, trace


class GRU:
    """A stack of GRU layers with torch.nn.GRU's shapes, in float32 arrays, on the CPU.

    Made by `from_torch`, `from_state_dict`, `from_d2l` and `fastgru.load`. Weights are packed once
    and never change; one GRU serves any number of threads at once. It pickles, and copies share the
    packed weights.

    >>> import numpy as np, fastgru
    >>> gru = fastgru.GRU.from_state_dict({"weight_ih_l0": np.ones((6, 3), np.float32),
    ...                                    "weight_hh_l0": np.ones((6, 2), np.float32)})
    >>> output, h_n = gru(np.ones((5, 4, 3), np.float32))
    >>> output.shape, h_n.shape
    ((5, 4, 2), (1, 4, 2))
    """

    __slots__ = (
        *("__weakref__", "_assumed", "_batch_first", "_core", "_forced_isa", "_spec", "_threads"),
    )

    def __init__(
        self,
        spec: GruSpec,
        *,
        batch_first: bool = False,
        precision: str = "float32",
        keep: Iterable[int] = (),
        num_threads: int | None = None,
        isa: str | None = None,
        assumed: tuple[str, ...] = (),
    ) -> None:
        """For fastgru's own loaders: `spec` comes from the validator.

        `assumed`: the options that neither the file nor the caller said; `save` writes them down.
        """
        if not isinstance(spec, GruSpec):
            raise TypeError(
                "a GRU holds trained weights: make one with GRU.from_torch, GRU.from_state_dict, "
                "GRU.from_d2l or fastgru.load"
            )
        check_options(
            batch_first=batch_first,
            reset_after=spec.reset_after,
            activation=spec.activation,
            recurrent_activation=spec.recurrent_activation,
            precision=precision,
        )
        check_isa(isa)
        self.num_threads = num_threads
        self._batch_first = bool(batch_first)
        self._forced_isa = isa
        self._assumed = assumed
        spec = reduce_spec(spec, precision, keep)
        sizes = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec)}
        tensors, scales, precisions = map(sizes.pop, ("tensors", "scales", "precisions"))
        self._core = _core.GRU(
            [tensors[name] for name in spec.names()],
            [scales[name] for _, name in weight_names(spec) if name in scales],
            precisions or ["float32"] * spec.num_layers,
            **sizes,
            isa=isa,
        )
        # the packed model holds them now
        self._spec = dataclasses.replace(spec, tensors={}, scales={})

    @classmethod
    def from_torch(
        cls,
        module: Any,
        *,
        precision: str = "float32",
        num_threads: int | None = None,
        isa: str | None = None,
    ) -> Self:
        """Takes over a torch.nn.GRU, or a torch.nn.GRUCell as a one-layer GRU over sequences.

        batch_first is the module's. Dropout, which only training uses, is ignored. Raises TypeError
        for any other module and for one whose parameters are not in CPU memory.

        >>> import torch, fastgru
        >>> fastgru.GRU.from_torch(torch.nn.GRU(40, 128, num_layers=2)).num_layers
        2
        """
        tensors, batch_first = parts_of_torch_module(module)
        return cls(
            spec_from_tensors(tensors, prefix=""),
            batch_first=batch_first,
            precision=precision,
            num_threads=num_threads,
            isa=isa,
        )

    @classmethod
    def from_state_dict(
        cls,
        state: Mapping[str, Any],
        *,
        prefix: str | None = None,
        batch_first: bool = False,
        reset_after: bool = True,
        activation: str = "tanh",
        recurrent_activation: str = "sigmoid",
        precision: str = "float32",
        num_threads: int | None = None,
        isa: str | None = None,
    ) -> Self:
        """Finds the GRU in a mapping of PyTorch's names to arrays or tensors.

        Sizes, layers, directions and biases are worked out from names and shapes; real floating
        dtypes are converted to float32. `prefix="encoder.rnn."` picks one GRU of several.
        `activation`: tanh, relu, sigmoid, identity. `recurrent_activation`: sigmoid, hard_sigmoid
        (PyTorch, Keras 3), hard_sigmoid_02 (Keras 2, ONNX). `reset_after=False` is the equation of
        Cho 2014. Raises FormatError listing every tensor that does not fit, ValueError for an
        unknown option.

        >>> import numpy as np, fastgru
        >>> gru = fastgru.GRU.from_state_dict({"rnn.weight_ih_l0": np.ones((6, 3), np.float32),
        ...                                    "rnn.weight_hh_l0": np.ones((6, 2), np.float32),
        ...                                    "head.weight": np.ones((1, 2), np.float32)})
        >>> gru.input_size, gru.hidden_size
        (3, 2)
        """
        if not isinstance(state, Mapping):
            raise TypeError(
                f"state: expected a mapping of names to tensors, got {type(state).__name__}"
            )
        check_options(
            batch_first=batch_first,
            reset_after=reset_after,
            activation=activation,
            recurrent_activation=recurrent_activation,
            precision=precision,
        )
        return cls(
            spec_from_tensors(
                state,
                prefix=prefix,
                reset_after=bool(reset_after),
                activation=activation,
                recurrent_activation=recurrent_activation,
            ),
            batch_first=batch_first,
            precision=precision,
            num_threads=num_threads,
            isa=isa,
        )

    @classmethod
    def from_d2l(
        cls,
        params: Mapping[str, ArrayLike] | Sequence[ArrayLike],
        *,
        batch_first: bool = False,
        precision: str = "float32",
        num_threads: int | None = None,
        isa: str | None = None,
    ) -> Self:
        """Takes the from-scratch GRU of "Dive into Deep Learning" (reset before).

        `params`: W_xz W_hz b_z W_xr W_hr b_r W_xh W_hh b_h as a dict, or a list in this order; W_hq
        and b_q may follow and are ignored. W_x* (I, H), W_h* (H, H), b_* (H,). Raises FormatError
        listing every array that does not fit.

        >>> import numpy as np, fastgru
        >>> params = [np.ones(shape, np.float32) for shape in [(3, 2), (2, 2), (2,)] * 3]
        >>> fastgru.GRU.from_d2l(params).reset_after
        False
        """
        return cls(
            spec_from_tensors(tensors_from_d2l(params), reset_after=False),
            batch_first=batch_first,
            precision=precision,
            num_threads=num_threads,
            isa=isa,
        )

    @overload
    def __call__(
        self, x: Packed, h_0: ArrayLike | None = None, *, lengths: None = None
    ) -> tuple[Packed, Float32Array]: ...
    @overload
    def __call__(
        self, x: ArrayLike, h_0: ArrayLike | None = None, *, lengths: ArrayLike | None = None
    ) -> tuple[Float32Array, Float32Array]: ...
    @_core.shortcut_call
    def __call__(
        self, x: Any, h_0: ArrayLike | None = None, *, lengths: ArrayLike | None = None
    ) -> tuple[Any, Float32Array]:
        """Runs whole sequences: output, h_n, fresh C-contiguous float32 arrays.

        x: (T, B, I), with batch_first (B, T, I), or unbatched (T, I). h_0: (L*D, B, H) or (L*D, H),
        zeros if None. -> output (T, B, D*H) in x's layout, h_n shaped as h_0. T = 0 gives an empty
        output and h_n = h_0.

        `lengths`: integers (B,), 0 <= length <= T, in any order. Output past a row's length is 0,
        its h_n is the state at its last valid step, and the reverse direction starts there. A torch
        PackedSequence may be x instead, and comes back as one (h_n is NumPy).

        Raises ShapeError; TypeError for integer, bool, complex and object arrays; ValueError for
        lengths out of range. Where several arguments are wrong, the message lists all of them, and
        TypeError goes before ShapeError, ShapeError before ValueError.
        """
        if type(x) is not np.ndarray and is_packed(x):
            if lengths is not None:
                raise ValueError("lengths: a PackedSequence has its own, pass None with one")
            return run_packed(
                lambda x, h_0, lengths: self._core.run(x, h_0, lengths, False, self._threads),
                x,
                None if h_0 is None else as_state("h_0", h_0),
                self,
            )
        try:
            return self._core.run(
                as_float32("x", x),
                None if h_0 is None else as_state("h_0", h_0),
                None if lengths is None else as_int64("lengths", lengths),
                self._batch_first,
                self._threads,
            )
        except (TypeError, ValueError) as error:
            raise_all("GRU", error, call_problems(self, x, h_0, lengths))

    def stream(self, batch_size: int = 1, h_0: ArrayLike | None = None) -> Stream:
        """A Stream: `batch_size` live sequences, state kept between calls, from h_0 (L, B, H).

        Raises ValueError for a bidirectional or reverse model, which cannot run step by step.
        `fastgru.Stream` has an example.
        """
        return Stream(self, batch_size, h_0)

    def pool(self, capacity: int) -> Pool:
        """A Pool: states of up to `capacity` live sequences, any of which advance together.

        Raises ValueError for a bidirectional or reverse model. `fastgru.Pool` has an example.
        """
        return Pool(self, capacity)

    def trace(self, x: ArrayLike, h_0: ArrayLike | None = None) -> Trace:
        """What every gate did: `.reset .update .candidate .hidden`, each (L*D, T, B, H), float32.

        x and h_0 as in a call; unbatched input gives B = 1. Raises ShapeError and TypeError.

        >>> import numpy as np, fastgru
        >>> gru = fastgru.GRU.from_state_dict({"weight_ih_l0": np.ones((6, 3), np.float32),
        ...                                    "weight_hh_l0": np.ones((6, 2), np.float32)})
        >>> gru.trace(np.ones((5, 3), np.float32)).update.shape
        (1, 5, 1, 2)
        """
        return trace(self, x, h_0)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a native file (safetensors with a description), which `fastgru.load` reads.

        Atomic: on failure what was at `path` is still there, whole. Raises OSError.

        >>> import numpy as np, fastgru
        >>> gru = fastgru.GRU.from_state_dict({"weight_ih_l0": np.ones((6, 3), np.float32),
        ...                                    "weight_hh_l0": np.ones((6, 2), np.float32)})
        >>> gru.save("model.safetensors")
        >>> fastgru.load("model.safetensors").hidden_size
        2
        """
        with importing():
            from fastgru.formats.native import save_gru  # noqa: PLC0415

        save_gru(self, path)

    def to(self, precision: str, *, keep: Iterable[int] = (), calibration: Any = None) -> Self:
        """A new model with weights in `precision`: "float32", "bfloat16" or "int8".

        Products are computed in it; biases, gates and states stay in float32. `keep`: layers that
        stay in float32 altogether. To the precision that a model has, without `keep`: a copy. In
        int8 an infinite input or state makes its row NaN, as NaN does. int8 is for inputs of about
        one magnitude: `fastgru.compare` says where one is too large beside the others, and what to
        do about it.

        `calibration`, for int8: typical input, an array as `x` of a call, or a list of such
        batches, each `x` or `(x, h_0)`, without padding. Weights are then rounded so that their
        products with what they meet there stay as they are (GPTQ), and biases take what is left on
        average: smaller errors on data of that kind, scaled as calls will have it, from a few
        thousand time steps on. Without it each weight is rounded to nearest.

        Raises ValueError for an unknown precision or layer, for a model that is reduced already,
        for int8 if a weight is not finite, and for calibration without a time step, with numbers
        that are not finite, or for another precision; ShapeError and TypeError as a call.

        >>> import numpy as np, fastgru
        >>> gru = fastgru.GRU.from_state_dict({"weight_ih_l0": np.ones((6, 3), np.float32),
        ...                                    "weight_hh_l0": np.ones((6, 2), np.float32)})
        >>> gru.to("int8").precision
        'int8'
        """
        check_options(precision=precision)
        if calibration is not None and precision != "int8":
            raise ValueError(f"calibration: expected None for {precision}, only int8 uses it")
        if precision == self.precision and keep == () and calibration is None:
            return self.__copy__()
        if self._spec.precisions:
            raise ValueError(
                f"precision: the weights of this model are {self.precision} already; go back to "
                "the float32 model for another precision or other layers to keep"
            )
        if calibration is not None:
            from fastgru.calibration import calibrated_spec  # noqa: PLC0415  (rarely needed)

            kept = kept_layers(keep, self.num_layers)
            spec, precision, keep = calibrated_spec(self, kept, calibration), "float32", ()
        else:
            spec = dataclasses.replace(self._spec, tensors=self.tensors())
        return type(self)(
            spec,
            batch_first=self._batch_first,
            precision=precision,
            keep=keep,
            num_threads=self.num_threads,
            isa=self._forced_isa,
            assumed=self._assumed,
        )

    @property
    def num_threads(self) -> int | None:
        """The most threads a call may use; None for the process's default. Can be set."""
        return self._threads or None

    @num_threads.setter
    def num_threads(self, count: int | None) -> None:
        self._threads = 0 if count is None else positive("num_threads", count)

    @property
    def input_size(self) -> int:
        """I, the last dimension of x."""
        return self._spec.input_size

    @property
    def hidden_size(self) -> int:
        """H, the units of a layer and direction."""
        return self._spec.hidden_size

    @property
    def num_layers(self) -> int:
        """L, layers on top of one another."""
        return self._spec.num_layers

    @property
    def bidirectional(self) -> bool:
        """Whether each layer also runs backwards (D = 2)."""
        return self._spec.bidirectional

    @property
    def reverse(self) -> bool:
        """Whether it only runs backwards, from the end of each sequence to its start (ONNX).

        Output stays in the order of time; h_n is the state after step 0. Not in streams and pools.
        """
        return self._spec.reverse

    @property
    def bias(self) -> bool:
        """Whether there are bias vectors."""
        return self._spec.bias

    @property
    def batch_first(self) -> bool:
        """Whether x and output are (B, T, ...) instead of (T, B, ...)."""
        return self._batch_first

    @property
    def reset_after(self) -> bool:
        """Which equation: the reset gate applied after (PyTorch) or before the product."""
        return self._spec.reset_after

    @property
    def activation(self) -> str:
        """The candidate's activation: tanh, relu, sigmoid or identity."""
        return self._spec.activation

    @property
    def recurrent_activation(self) -> str:
        """The gates' activation: sigmoid, hard_sigmoid or hard_sigmoid_02."""
        return self._spec.recurrent_activation

    @property
    def precision(self) -> str:
        """What the weights are stored in and multiplied as, those of kept layers apart."""
        return next((p for p in self._spec.precisions if p != "float32"), "float32")

    @property
    def isa(self) -> str:
        """The instruction set level it runs on."""
        return self._core.isa

    @property
    def nbytes(self) -> int:
        """Bytes of packed weights and biases."""
        return self._core.nbytes

    def tensors(self) -> dict[str, Float32Array]:
        """The weights, unpacked again: float32 arrays under torch.nn.GRU's names, the same bits.

        In reduced precision they are what it made of them.

        >>> import numpy as np, fastgru
        >>> gru = fastgru.GRU.from_state_dict({"weight_ih_l0": np.ones((6, 3), np.float32),
        ...                                    "weight_hh_l0": np.ones((6, 2), np.float32)})
        >>> sorted(gru.tensors())
        ['weight_hh_l0', 'weight_ih_l0']
        """
        tensors, scales = self._stored()
        return {
            name: tensor * scales[name][:, None] if name in scales else tensor
            for name, tensor in tensors.items()
        }

    def _stored(self) -> tuple[dict[str, Float32Array], dict[str, Float32Array]]:
        """Tensors and scales as in GruSpec."""
        tensors, scales = self._core.tensors()
        precisions = self._spec.precisions
        scaled = [
            name for layer, name in weight_names(self._spec) if precisions[layer:][:1] == ("int8",)
        ]
        return (
            dict(zip(self._spec.names(), tensors, strict=True)),
            dict(zip(scaled, scales, strict=True)),
        )

    def __copy__(self) -> Self:
        other = type(self).__new__(type(self))
        other._spec, other._core = self._spec, self._core  # immutable, so shared
        other._batch_first, other._forced_isa = self._batch_first, self._forced_isa
        other._threads, other._assumed = self._threads, self._assumed
        return other

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        tensors, scales = self._stored()
        spec = dataclasses.replace(self._spec, tensors=tensors, scales=scales)
        options: dict[str, Any] = {
            "batch_first": self._batch_first,
            "num_threads": self.num_threads,
            "isa": self._forced_isa,  # None picks again, for the machine that unpickles
        }
        if self._assumed:
            options["assumed"] = self._assumed
        return _unpickle, (type(self), vars(spec), options)

    def __repr__(self) -> str:
        plain: dict[str, object] = {"num_layers": 1, "bidirectional": False, "reverse": False}
        plain |= {"bias": True}
        plain |= {"batch_first": False, "reset_after": True, "activation": "tanh"}
        plain |= {"recurrent_activation": "sigmoid", "num_threads": None}
        told = {name: getattr(self, name) for name in plain if getattr(self, name) != plain[name]}
        sizes = f"{self.input_size}, {self.hidden_size}"
        kept = [layer for layer, p in enumerate(self._spec.precisions) if p == "float32"]
        precision = self.precision + (f" (layers {kept} float32)" if kept else "")
        how = f"{precision}, {self.isa}, {byte_text(self.nbytes)}"
        return f"GRU({', '.join([sizes, *(f'{n}={v!r}' for n, v in told.items())])}: {how})"


def _unpickle(cls: type[GRU], spec: dict[str, Any], options: dict[str, Any]) -> GRU:
    return cls(GruSpec(**spec), **options)
