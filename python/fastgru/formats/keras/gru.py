"""GRUs of Keras and their arrays -> GRUs of fastgru.

Keras's gates are in the order z, r, h and its kernels multiply from the right; hard_sigmoid is
another function in Keras 2 than in Keras 3; a Bidirectional holds two GRUs. Refuses options that
would make it another function than fastgru's, and directions that are not alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastgru.arrays import Float32Array, TensorSource, shape_text
from fastgru.errors import FormatError, UnsupportedLayerError
from fastgru.formats.keras.config import KerasLayer
from fastgru.formats.keras.hdf5 import Hdf5File
from fastgru.gru import GRU
from fastgru.spec import spec_from_tensors
from fastgru.text import message_of, report

_CANDIDATE = {"tanh": "tanh", "relu": "relu", "sigmoid": "sigmoid", "linear": "identity"}
_GATES = {
    2: {"sigmoid": "sigmoid", "hard_sigmoid": "hard_sigmoid_02"},
    3: {"sigmoid": "sigmoid", "hard_sigmoid": "hard_sigmoid"},
}

_RNN_FLAGS = ("return_sequences", "return_state", "go_backwards")  # what a cell does not say

Shape = tuple[int | str, ...]  # a letter is any size


def read_gru(
    layer: KerasLayer,
    weights: Hdf5File,
    keras: int | None,
    wanted: Mapping[str, Any],
    options: Mapping[str, Any],
) -> GRU:
    """The GRU of a GRU, Bidirectional or RNN layer, without what go_backwards or Last would add.

    Its return_state does not matter: fastgru's GRU always gives h_n.

    `keras`: 2, 3 or None where nothing tells. `wanted`: what the caller says of the GRU, which must
    be what the config says. `options`: for the constructor.
    """
    if layer.kind != "Bidirectional":
        layer = _plain_gru(layer)
        said, tensors = _said(layer, keras), _tensors(layer, weights)
    else:
        forward, backward = _directions(layer)
        said, other = _said(forward, keras), _said(backward, keras)
        other |= {"go_backwards": not other["go_backwards"]}
        if said["go_backwards"] or said != other:
            raise UnsupportedLayerError(
                "expected directions that are alike, the first one forwards, got "
                f"{_differences(said, other) or 'the first one backwards'}"
            )
        tensors, reverse = _tensors(forward, weights), _tensors(backward, weights)
        tensors |= {f"{name}_reverse": tensor for name, tensor in reverse.items()}
    del said["go_backwards"], said["return_sequences"]
    problems = [
        f"{name}: the file says {said[name]!r}, the argument {value!r}"
        for name, value in wanted.items()
        if said[name] != value
    ]
    if problems:
        raise FormatError(report("contradiction", problems))
    return make_gru(tensors, said, options)


def read_variables(
    weights: Hdf5File, path: str, expected: Mapping[str, Shape]
) -> dict[str, Float32Array]:
    """The variables of the layer at `path`, by their names in Keras; FormatError."""
    sources = weights.variables(path)
    if len(sources) != len(expected):
        names = ", ".join(expected)
        raise FormatError(f"{path}: expected {len(expected)} arrays ({names}), got {len(sources)}")
    return read_arrays(path, dict(zip(expected, sources, strict=True)), expected)


def activation_of(layer: KerasLayer, option: str, known: Mapping[str, Any]) -> Any:
    """What `known` has under the activation's name; UnsupportedLayerError, FormatError."""
    if option not in layer.config:
        raise FormatError(f"{option}: missing")
    value = layer.config[option]
    name = "linear" if value is None else value
    if not isinstance(name, str) or name not in known:
        shown = name[:100] if isinstance(name, str) else "a class or function of its own"
        raise UnsupportedLayerError(f"{option}: expected {' or '.join(known)}, got {shown}")
    return known[name]


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
        raise FormatError(message_of(error)) from error


def _tensors(layer: KerasLayer, weights: Hdf5File) -> dict[str, Float32Array]:
    units = layer.size("units")
    expected: dict[str, Shape] = {
        "kernel": ("I", 3 * units),
        "recurrent_kernel": (units, 3 * units),
    }
    if layer.flag("use_bias", True):
        after = layer.flag("reset_after", True)
        expected["bias"] = (2, 3 * units) if after else (3 * units,)
    return torch_tensors(read_variables(weights, f"{layer.path}/cell", expected))


def _directions(layer: KerasLayer) -> tuple[KerasLayer, KerasLayer]:
    """Those of a Bidirectional, each with its group in the weights file."""
    both = []
    for name in ("layer", "backward_layer"):
        given = name if layer.config.get(name) is not None else "layer"  # Keras 2 copies the first
        inner = _plain_gru(layer.inner(given))
        config = dict(inner.config)
        if given != name:
            config["go_backwards"] = not inner.flag("go_backwards", False)
        group = "forward_layer" if name == "layer" else name
        both.append(KerasLayer(inner.where, inner.kind, config, f"{layer.path}/{group}"))
    return both[0], both[1]


def _plain_gru(layer: KerasLayer) -> KerasLayer:
    """`layer`, or the GRU that an RNN of one GRUCell is; UnsupportedLayerError for others."""
    if layer.kind == "RNN" and not layer.own:
        cell = layer.inner("cell")
        if cell.kind == "GRUCell" and not cell.own:
            config = {**cell.config, **{name: layer.config.get(name, False) for name in _RNN_FLAGS}}
            if "time_major" in layer.config:
                config["time_major"] = layer.config["time_major"]
            return KerasLayer(layer.where, "GRU", config, layer.path)
        raise UnsupportedLayerError(f"fastgru has no RNN of {cell.own or cell.kind[:100]}")
    if layer.kind != "GRU" or layer.own:
        raise UnsupportedLayerError(f"fastgru has no {layer.own or layer.kind[:100]}")
    return layer


def _said(layer: KerasLayer, keras: int | None) -> dict[str, Any]:
    """What two directions must have in common, and a GruSpec wants to know."""
    layer.require("time_major", False)
    keras = keras or (2 if "time_major" in layer.config else 3)  # an option that Keras 3 has not
    return {
        "activation": activation_of(layer, "activation", _CANDIDATE),
        "recurrent_activation": activation_of(layer, "recurrent_activation", _GATES[keras]),
        "reset_after": layer.flag("reset_after", True),
        "return_sequences": layer.flag("return_sequences", False),
        "go_backwards": layer.flag("go_backwards", False),
    }


def _differences(options: Mapping[str, Any], others: Mapping[str, Any]) -> str:
    names = (name for name in options if options[name] != others[name])
    return ", ".join(f"{name} {options[name]} and {others[name]}" for name in names)
