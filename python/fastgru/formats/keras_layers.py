"""Layers of Keras and their arrays -> layers of fastgru.

Keras's gates are in the order z, r, h and its kernels multiply from the right; its go_backwards
leaves the output turned round; hard_sigmoid is another function in Keras 2 than in Keras 3. Refuses
every option that would make a layer another function than fastgru's: UnsupportedLayerError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastgru.arrays import Float32Array, TensorSource, shape_text
from fastgru.errors import FormatError, UnsupportedLayerError
from fastgru.formats.keras_config import KerasLayer
from fastgru.formats.keras_hdf5 import Hdf5File
from fastgru.gru import GRU
from fastgru.layers import (
    Embedding,
    Layer,
    LayerNorm,
    Linear,
    LogSoftmax,
    ReLU,
    Sigmoid,
    Softmax,
    Tanh,
)
from fastgru.model import Model
from fastgru.over_time import Last, Max, Mean, Reverse
from fastgru.spec import report, spec_from_tensors

_CANDIDATE = {"tanh": "tanh", "relu": "relu", "sigmoid": "sigmoid", "linear": "identity"}
_GATES = {
    2: {"sigmoid": "sigmoid", "hard_sigmoid": "hard_sigmoid_02"},
    3: {"sigmoid": "sigmoid", "hard_sigmoid": "hard_sigmoid"},
}
_ACTIVATIONS: dict[str, type[Layer] | None] = {
    "linear": None,
    "log_softmax": LogSoftmax,
    "relu": ReLU,
    "sigmoid": Sigmoid,
    "softmax": Softmax,
    "tanh": Tanh,
}
_ONLY_IN_TRAINING = (
    "ActivityRegularization",
    "AlphaDropout",
    "Dropout",
    "GaussianDropout",
    "GaussianNoise",
    "Identity",
    "InputLayer",
    "SpatialDropout1D",
)
_ADVICE = (
    "a GRU of the model can be taken by itself with prefix=..., and what surrounds it run elsewhere"
)
_MASK_ADVICE = (
    "where those steps are nothing but padding at the ends of sequences, pass "
    "masks_as_lengths=True, and their lengths with every call of the model"
)

Layers = list[Layer | GRU]
Shape = tuple[int | str, ...]


@dataclass
class Builder:
    """Makes layers out of those of Keras, one after the other.

    `keras`: 2, 3 or None where nothing tells. `wanted`: what the caller says of every GRU, which
    must be what the config says. `gru_options`, `isa`: for the constructors.
    """

    weights: Hdf5File
    keras: int | None
    masks_as_lengths: bool
    wanted: Mapping[str, Any]
    gru_options: Mapping[str, Any]
    isa: str | None
    masked: bool = field(default=False, init=False)
    """Keras would hand a mask to the next layer."""
    rank: int = field(default=3, init=False)
    """Axes of what goes into the next layer, the batch's too."""

    def model(self, chain: Iterable[KerasLayer]) -> Model:
        """Of all layers; FormatError or UnsupportedLayerError listing every problem."""
        layers: Layers = []
        damaged, unsupported = [], []
        for layer in chain:
            try:
                layers += self.build(layer)
            except UnsupportedLayerError as error:
                unsupported.append(f"{layer.where}: {error}")
            except ValueError as error:  # FormatError, and an eps of LayerNorm
                damaged.append(f"{layer.where}: {error}")
        if unsupported:
            text = report("the Keras model", unsupported)
            raise UnsupportedLayerError(f"{text}\n{_ADVICE}")
        if damaged:
            raise FormatError(report("the Keras model", damaged))
        if not any(isinstance(layer, GRU) for layer in layers):
            raise UnsupportedLayerError("the Keras model: there is no GRU in it")
        try:
            return Model(layers)
        except ValueError as error:
            raise FormatError(f"the Keras model: {error}") from error

    def build(self, layer: KerasLayer) -> Layers:
        """What `layer` is in fastgru, which may be several layers or none."""
        if layer.own:
            raise UnsupportedLayerError(f"a class of its own ({layer.own}), which is a program")
        policy = layer.config.get("dtype")
        kind = policy.get("class_name") if isinstance(policy, dict) else None
        if isinstance(kind, str) and kind.startswith("Quantized"):
            raise UnsupportedLayerError(
                "its weights are quantized; save the model before quantize()"
            )
        if layer.kind in _ONLY_IN_TRAINING:
            return []
        build = _BUILDERS.get(layer.kind)
        if build is None:
            raise UnsupportedLayerError("fastgru has no such layer")
        return build(self, layer)

    def gru(self, layer: KerasLayer) -> GRU:
        """The GRU of a GRU or of a Bidirectional, without what stands around it."""
        if layer.kind == "GRU":
            return self._gru(layer, self._gru_tensors(layer), _gru_options(layer, self.keras))
        forward, backward = _directions(layer)
        options = _gru_options(forward, self.keras)
        others = _gru_options(backward, self.keras)
        others |= {"go_backwards": not others["go_backwards"]}
        if forward.flag("go_backwards", False) or options != others:
            raise UnsupportedLayerError(
                "expected directions that are alike, the first one forwards, got "
                f"{_differences(options, others) or 'the first one backwards'}"
            )
        tensors = self._gru_tensors(forward)
        reverse = self._gru_tensors(backward)
        tensors |= {f"{name}_reverse": tensor for name, tensor in reverse.items()}
        return self._gru(layer, tensors, options)

    def _gru(
        self, layer: KerasLayer, tensors: dict[str, Float32Array], options: dict[str, Any]
    ) -> GRU:
        del options["go_backwards"], options["return_sequences"]
        problems = [
            f"{name}: the file says {options[name]!r}, the argument {value!r}"
            for name, value in self.wanted.items()
            if options[name] != value
        ]
        if problems:
            raise FormatError(report("contradiction", problems))
        return make_gru(tensors, options, self.gru_options)

    def _gru_tensors(self, layer: KerasLayer) -> dict[str, Float32Array]:
        units = layer.size("units")
        names = ["kernel", "recurrent_kernel"] + ["bias"] * layer.flag("use_bias", True)
        shapes: list[Shape] = [("I", 3 * units), (units, 3 * units)]
        after = layer.flag("reset_after", True)
        shapes += [(2, 3 * units) if after else (3 * units,)] * (len(names) - 2)
        return torch_tensors(
            self._arrays(f"{layer.path}/cell", dict(zip(names, shapes, strict=True)))
        )

    def _arrays(self, path: str, expected: Mapping[str, Shape]) -> dict[str, Float32Array]:
        """The variables of the layer at `path`, by their names in Keras; FormatError."""
        sources = self.weights.variables(path)
        if len(sources) != len(expected):
            names = ", ".join(expected)
            raise FormatError(
                f"{path}: expected {len(expected)} arrays ({names}), got {len(sources)}"
            )
        return read_arrays(path, dict(zip(expected, sources, strict=True)), expected)


def read_arrays(
    path: str, sources: Mapping[str, TensorSource], expected: Mapping[str, Shape]
) -> dict[str, Float32Array]:
    """Arrays of these shapes, where a letter is any size; FormatError listing every problem."""
    problems = []
    for number, (name, source) in enumerate(sources.items()):
        shape = expected[name]
        called = f"{path}/vars/{number} ({name})"
        if len(shape) != len(source.shape) or any(
            want != got if isinstance(want, int) else got == 0
            for want, got in zip(shape, source.shape, strict=True)
        ):
            got = shape_text(source.shape)
            problems.append(f"{called}: expected {shape_text(shape)}, got {got}")
        if not source.is_real_float:
            problems.append(f"{called}: expected floating numbers, got {source.dtype}")
    if problems:
        raise FormatError(report("the weights", problems))
    return {name: source.read() for name, source in sources.items()}


def torch_tensors(arrays: Mapping[str, Float32Array]) -> dict[str, Float32Array]:
    """A layer's arrays under torch.nn.GRU's names: gates z, r, h -> r, z, n.

    kernel (I, 3H), recurrent_kernel (H, 3H), and bias (2, 3H) (reset after) or (3H,), or none.
    """

    def rows(array: Float32Array) -> Float32Array:
        z, r, h = np.split(array, 3, axis=-1)
        result = np.empty(array.shape[::-1], np.float32)  # of this order, whatever the parts have
        return np.concatenate([r.T, z.T, h.T], out=result)

    tensors = {
        "weight_ih_l0": rows(arrays["kernel"]),
        "weight_hh_l0": rows(arrays["recurrent_kernel"]),
    }
    if "bias" in arrays:
        bias = arrays["bias"]
        both = bias if bias.ndim == 2 else np.stack([bias, np.zeros_like(bias)])
        tensors["bias_ih_l0"], tensors["bias_hh_l0"] = rows(both[0]), rows(both[1])
    return tensors


def make_gru(
    tensors: Mapping[str, Float32Array], said: Mapping[str, Any], options: Mapping[str, Any]
) -> GRU:
    """The GRU of torch's tensors, `said` of its spec and `options` of the constructor."""
    spec = spec_from_tensors(tensors, prefix="", **said)
    try:
        return GRU(spec, **options)
    except ValueError as error:  # of weights that int8 cannot hold
        raise FormatError(str(error)) from error


def _directions(layer: KerasLayer) -> tuple[KerasLayer, KerasLayer]:
    """Those of a Bidirectional, each with its group in the weights file."""
    both = []
    for name in ("layer", "backward_layer"):
        given = name if layer.config.get(name) is not None else "layer"  # Keras 2 copies the first
        inner = layer.inner(given)
        if inner.kind != "GRU" or inner.own:
            raise UnsupportedLayerError(f"fastgru has no {inner.own or inner.kind[:100]}")
        config = dict(inner.config)
        if given != name:
            config["go_backwards"] = not inner.flag("go_backwards", False)
        group = "forward_layer" if name == "layer" else name
        both.append(KerasLayer(inner.where, inner.kind, config, f"{layer.path}/{group}"))
    return both[0], both[1]


def _gru_options(layer: KerasLayer, keras: int | None) -> dict[str, Any]:
    """What two directions must have in common, and a ModelSpec wants to know."""
    layer.require("return_state", False)
    layer.require("time_major", False)
    keras = keras or (2 if "time_major" in layer.config else 3)  # an option that Keras 3 has not
    return {
        "activation": _activation(layer, "activation", _CANDIDATE),
        "recurrent_activation": _activation(layer, "recurrent_activation", _GATES[keras]),
        "reset_after": layer.flag("reset_after", True),
        "return_sequences": layer.flag("return_sequences", False),
        "go_backwards": layer.flag("go_backwards", False),
    }


def _activation(layer: KerasLayer, option: str, known: Mapping[str, Any]) -> Any:
    if option not in layer.config:
        raise FormatError(f"{option}: missing")
    value = layer.config[option]
    name = "linear" if value is None else value
    if isinstance(name, dict):  # {"class_name": "function", "config": its name}
        name = name.get("config") if name.get("registered_name") is None else None
    if not isinstance(name, str) or name not in known:
        shown = name[:100] if isinstance(name, str) else "a class or function of its own"
        raise UnsupportedLayerError(f"{option}: expected {' or '.join(known)}, got {shown}")
    return known[name]


def _differences(options: Mapping[str, Any], others: Mapping[str, Any]) -> str:
    names = (name for name in options if options[name] != others[name])
    return ", ".join(f"{name} {options[name]} and {others[name]}" for name in names)


def _build_gru(builder: Builder, layer: KerasLayer) -> Layers:
    turned = layer.flag("go_backwards", False)
    sequences = layer.flag("return_sequences", False)
    if builder.masked and turned and sequences:
        raise UnsupportedLayerError(
            "go_backwards with return_sequences behind a mask, where Keras puts the padding first"
        )
    end = _last(builder, sequences, Last)  # first, so that later layers know, whatever is wrong
    front: Layers = [Reverse()] if turned else []
    return [*front, builder.gru(layer), *end]


def _build_bidirectional(builder: Builder, layer: KerasLayer) -> Layers:
    sequences = layer.inner("layer").flag("return_sequences", False)
    end = _last(builder, sequences, lambda: Last(bidirectional=True))
    layer.require("merge_mode", "concat")
    return [builder.gru(layer), *end]


def _last(builder: Builder, sequences: bool, make: Callable[[], Layer]) -> Layers:
    if sequences:
        return []
    builder.masked, builder.rank = False, 2
    return [make()]


def _build_embedding(builder: Builder, layer: KerasLayer) -> Layers:
    if layer.flag("mask_zero", False):
        _mask(builder, "mask_zero=True, where Keras skips every step with index 0")
    shape: Shape = (layer.size("input_dim"), layer.size("output_dim"))
    return [Embedding(builder._arrays(layer.path, {"embeddings": shape})["embeddings"])]


def _build_masking(builder: Builder, layer: KerasLayer) -> Layers:
    _mask(builder, "Keras skips every step that is all mask_value")
    return []


def _mask(builder: Builder, what: str) -> None:
    if not builder.masks_as_lengths:
        raise UnsupportedLayerError(f"{what}; {_MASK_ADVICE}")
    builder.masked = True


def _build_dense(builder: Builder, layer: KerasLayer) -> Layers:
    activation = _activation(layer, "activation", _ACTIVATIONS)
    units = layer.size("units")
    expected: dict[str, Shape] = {"kernel": ("I", units)}
    if layer.flag("use_bias", True):
        expected["bias"] = (units,)
    arrays = builder._arrays(layer.path, expected)
    linear = Linear(np.ascontiguousarray(arrays["kernel"].T), arrays.get("bias"), _isa=builder.isa)
    return [linear, *_made(builder, activation)]


def _build_layer_norm(builder: Builder, layer: KerasLayer) -> Layers:
    layer.require("rms_scaling", False)
    layer.require("axis", -1, [-1], builder.rank - 1, [builder.rank - 1])
    epsilon = layer.config.get("epsilon", 1e-3)
    if type(epsilon) not in (int, float):
        raise FormatError(f"epsilon: expected a number, got {str(epsilon)[:100]}")
    names = ["gamma"] * layer.flag("scale", True) + ["beta"] * layer.flag("center", True)
    shapes: dict[str, Shape] = dict.fromkeys(names, ("I",))
    arrays = builder._arrays(layer.path, shapes)
    return [LayerNorm(arrays.get("gamma"), arrays.get("beta"), eps=epsilon)]


def _build_activation(builder: Builder, layer: KerasLayer) -> Layers:
    return _made(builder, _activation(layer, "activation", _ACTIVATIONS))


def _build_relu(builder: Builder, layer: KerasLayer) -> Layers:
    layer.require("max_value", None)
    layer.require("negative_slope", 0.0, 0)
    layer.require("threshold", 0.0, 0)
    return _made(builder, ReLU)


def _build_softmax(builder: Builder, layer: KerasLayer) -> Layers:
    layer.require("axis", -1, [-1], builder.rank - 1)
    if builder.masked:
        raise UnsupportedLayerError("a Softmax layer behind a mask, which it applies to its input")
    return _made(builder, Softmax)


def _made(builder: Builder, activation: type[Layer] | None) -> Layers:
    if activation is None:
        return []
    make: Callable[..., Layer] = activation
    return [make(_isa=builder.isa)]


def _build_mean(builder: Builder, layer: KerasLayer) -> Layers:
    _require_pooling(layer)
    return _last(builder, False, Mean)


def _build_max(builder: Builder, layer: KerasLayer) -> Layers:
    _require_pooling(layer)
    if builder.masked:
        raise UnsupportedLayerError("behind a mask, which it does not honour: padding counts too")
    return _last(builder, False, Max)


def _require_pooling(layer: KerasLayer) -> None:
    layer.require("data_format", "channels_last")
    layer.require("keepdims", False)


def _build_time_distributed(builder: Builder, layer: KerasLayer) -> Layers:
    inner = layer.inner("layer")
    if inner.kind not in (*_BY_ROW, *_ONLY_IN_TRAINING):
        raise UnsupportedLayerError(f"fastgru has no TimeDistributed of a {inner.kind[:100]}")
    builder.rank -= 1
    try:
        return builder.build(inner)
    finally:
        builder.rank += 1


_BY_ROW: dict[str, Callable[[Builder, KerasLayer], Layers]] = {
    "Activation": _build_activation,
    "Dense": _build_dense,
    "LayerNormalization": _build_layer_norm,
    "ReLU": _build_relu,
    "Softmax": _build_softmax,
}
_BUILDERS: dict[str, Callable[[Builder, KerasLayer], Layers]] = {
    **_BY_ROW,
    "Bidirectional": _build_bidirectional,
    "Embedding": _build_embedding,
    "GRU": _build_gru,
    "GlobalAveragePooling1D": _build_mean,
    "GlobalMaxPooling1D": _build_max,
    "Masking": _build_masking,
    "TimeDistributed": _build_time_distributed,
}
