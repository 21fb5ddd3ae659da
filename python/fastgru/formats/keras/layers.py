"""Layers of Keras and their arrays -> layers of fastgru.

One of Keras may be several: a GRU gives all steps or the last one, and its go_backwards leaves the
output turned round. Refuses every option that would make a layer another function than fastgru's,
and what a mask would change: UnsupportedLayerError.
"""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastgru.errors import FormatError, UnsupportedLayerError
from fastgru.formats.keras.config import MASK, KerasLayer
from fastgru.formats.keras.gru import Shape, activation_of, read_gru, read_variables
from fastgru.formats.keras.hdf5 import Hdf5File
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
from fastgru.text import about, report

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
_MASK_ADVICE = (
    "where those steps are nothing but padding at the ends of sequences, pass "
    "masks_as_lengths=True, and their lengths with every call of the model"
)

Layers = list[Layer | GRU]


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
                unsupported.append(about(layer.where, error))
            except FormatError as error:
                damaged.append(about(layer.where, error))
        if unsupported:
            raise UnsupportedLayerError(report("the Keras model", unsupported))
        if damaged:
            raise FormatError(report("the Keras model", damaged))
        if not any(isinstance(layer, GRU) for layer in layers):
            raise UnsupportedLayerError("the Keras model: there is no GRU in it")
        try:
            return Model(layers)
        except ValueError as error:
            raise FormatError(about("the Keras model", error)) from error

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
        return read_gru(layer, self.weights, self.keras, self.wanted, self.gru_options)


def _build_gru(builder: Builder, layer: KerasLayer) -> Layers:
    layer.require("return_state", False)  # a Model gives one array
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
    inner = layer.inner("layer")
    inner.require("return_state", False)
    sequences = inner.flag("return_sequences", False)
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
    return [
        Embedding(read_variables(builder.weights, layer.path, {"embeddings": shape})["embeddings"])
    ]


def _build_masking(builder: Builder, layer: KerasLayer) -> Layers:
    _mask(builder, "Keras skips every step that is all mask_value")
    return []


def _build_mask(builder: Builder, layer: KerasLayer) -> Layers:
    _mask(builder, "a mask, by which Keras skips every step with index 0")
    return []


def _mask(builder: Builder, what: str) -> None:
    if not builder.masks_as_lengths:
        raise UnsupportedLayerError(f"{what}; {_MASK_ADVICE}")
    builder.masked = True


def _build_dense(builder: Builder, layer: KerasLayer) -> Layers:
    activation = activation_of(layer, "activation", _ACTIVATIONS)
    units = layer.size("units")
    expected: dict[str, Shape] = {"kernel": ("I", units)}
    if layer.flag("use_bias", True):
        expected["bias"] = (units,)
    arrays = read_variables(builder.weights, layer.path, expected)
    linear = Linear(np.ascontiguousarray(arrays["kernel"].T), arrays.get("bias"), _isa=builder.isa)
    return [linear, *_made(builder, activation)]


def _build_layer_norm(builder: Builder, layer: KerasLayer) -> Layers:
    layer.require("rms_scaling", False)
    layer.require("axis", -1, [-1], builder.rank - 1, [builder.rank - 1])
    epsilon = layer.config.get("epsilon", 1e-3)
    if type(epsilon) not in (int, float) or not 0 <= epsilon <= sys.float_info.max:
        raise FormatError(f"epsilon: expected a number of at least 0, got {reprlib.repr(epsilon)}")
    names = ["gamma"] * layer.flag("scale", True) + ["beta"] * layer.flag("center", True)
    shapes: dict[str, Shape] = dict.fromkeys(names, ("I",))
    arrays = read_variables(builder.weights, layer.path, shapes)
    return [LayerNorm(arrays.get("gamma"), arrays.get("beta"), eps=epsilon)]


def _build_activation(builder: Builder, layer: KerasLayer) -> Layers:
    return _made(builder, activation_of(layer, "activation", _ACTIVATIONS))


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
    MASK: _build_mask,
    "Bidirectional": _build_bidirectional,
    "Embedding": _build_embedding,
    "GRU": _build_gru,
    "GlobalAveragePooling1D": _build_mean,
    "GlobalMaxPooling1D": _build_max,
    "Masking": _build_masking,
    "TimeDistributed": _build_time_distributed,
}
