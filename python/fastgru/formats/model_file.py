"""A Model in the native file: format versions 3 and 4.

The description lists the layers, each by its kind and what its tensors do not say; a tensor of
layer N is named `layers.N.weight`, those of a GRU as in a GRU's own file behind `layers.N.`.
Version 4 came with GRUs that run in reverse, the layer `reverse`, and `bidirectional` of `last`.
Refuses what native.py refuses, and tensors of layers that the description does not know.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from fastgru.arrays import Float32Array, TensorSource
from fastgru.errors import FormatError
from fastgru.formats import native, safetensors_writer
from fastgru.gru import GRU
from fastgru.layers import (
    Embedding,
    Layer,
    LayerNorm,
    Linear,
    LogSoftmax,
    OneHot,
    ReLU,
    Sigmoid,
    Softmax,
    Tanh,
)
from fastgru.model import Model
from fastgru.options import check_isa
from fastgru.over_time import Last, Max, Mean, Reverse
from fastgru.precision import reduce_spec
from fastgru.text import Problems, about, brief, message_of, printable, report

if TYPE_CHECKING:
    from collections.abc import Callable

_FIELDS = ("format_version", "kind", "layers")
_TENSOR = re.compile(r"layers\.(0|[1-9][0-9]{0,5})\.(.+)", re.DOTALL)


class _Kind(NamedTuple):
    layer: Callable[..., Layer]
    tensors: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()  # tensors that may be missing: a flag in the description
    options: tuple[str, ...] = ()  # numbers
    flags: tuple[str, ...] = ()  # options that are true or false, from version 4 on
    since: int = native.MODEL_VERSION


_KINDS = {
    "embedding": _Kind(Embedding, ("weight",)),
    "one_hot": _Kind(OneHot, options=("num_classes",)),
    "linear": _Kind(Linear, ("weight",), ("bias",)),
    "layer_norm": _Kind(LayerNorm, (), ("weight", "bias"), ("eps",)),
    "relu": _Kind(ReLU),
    "tanh": _Kind(Tanh),
    "sigmoid": _Kind(Sigmoid),
    "softmax": _Kind(Softmax),
    "log_softmax": _Kind(LogSoftmax),
    "last": _Kind(Last, flags=("bidirectional",)),
    "mean": _Kind(Mean),
    "max": _Kind(Max),
    "reverse": _Kind(Reverse, since=native.REVERSE_VERSION),
}
_KIND_OF = {kind.layer: name for name, kind in _KINDS.items()}


def save_model(model: Model, path: str | os.PathLike[str]) -> None:
    """Writes `model` to `path`, atomically."""
    version = _version_of(model)
    described = []
    tensors: dict[str, Float32Array] = {}
    dtypes: dict[str, str] = {}
    for index, layer in enumerate(model.layers):
        prefix = f"layers.{index}."
        if isinstance(layer, GRU):
            description, parts, kinds = native.parts_of(layer, version)
            dtypes |= {prefix + name: dtype for name, dtype in kinds.items()}
        else:
            name = _kind_of(layer)
            parts = layer._tensors()
            flags = {tensor: tensor in parts for tensor in _KINDS[name].optional}
            if version >= native.REVERSE_VERSION:
                flags |= {flag: getattr(layer, flag) for flag in _KINDS[name].flags}
            description = {"kind": name} | flags | layer._options()
        described.append(description)
        tensors |= {prefix + name: tensor for name, tensor in parts.items()}
    description = {"format_version": version, "kind": "model", "layers": described}
    safetensors_writer.write(path, tensors, {native.KEY: json.dumps(description)}, dtypes)


def _kind_of(layer: Layer) -> str:
    return next(_KIND_OF[base] for base in type(layer).__mro__ if base in _KIND_OF)


def _version_of(model: Model) -> int:
    """The oldest that can tell what the model does."""
    version = native.MODEL_VERSION
    for layer in model.layers:
        if isinstance(layer, GRU):
            newer = layer.reverse
        else:
            kind = _KINDS[_kind_of(layer)]
            newer = kind.since > version or any(getattr(layer, flag) for flag in kind.flags)
        if newer:
            return native.REVERSE_VERSION
    return version


def problems_of(description: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the description of a Model."""
    yield from native.field_problems(description, _FIELDS)
    if description.get("kind") != "model":
        yield f"kind: expected 'model', got {brief(description.get('kind'))}"
    version, layers = description["format_version"], description.get("layers")
    known = ["gru", *(kind for kind in _KINDS if _KINDS[kind].since <= version)]
    if not (isinstance(layers, list) and layers):
        yield f"layers: expected a list of at least one, got {brief(layers)}"
        return
    for index, layer in enumerate(layers):
        if not isinstance(layer, dict):
            yield f"layers[{index}]: expected an object, got {brief(layer)}"
            continue
        kind = layer.get("kind")
        if not (isinstance(kind, str) and kind in known):
            expected = " or ".join(map(repr, known))
            yield f"layers[{index}]: kind: expected {expected}, got {brief(kind)}"
            continue
        if kind == "gru":
            found: Iterable[str] | Problems = native.gru_problems(layer, version, in_model=True)
        else:
            found = _layer_problems(layer, kind, version)
        yield from (f"layers[{index}]: {problem}" for problem in found)


def _layer_problems(layer: Mapping[str, Any], kind: str, version: int) -> Iterator[str]:
    _, _, optional, options, flags, _ = _KINDS[kind]
    if version < native.REVERSE_VERSION:
        flags = ()
    yield from native.field_problems(layer, ("kind", *optional, *options, *flags))
    for name in (*optional, *flags):
        if name in layer and type(layer[name]) is not bool:
            yield f"{name}: expected true or false, got {brief(layer[name])}"
    for name in options:
        if name in layer and type(layer[name]) not in (int, float):
            yield f"{name}: expected a number, got {brief(layer[name])}"


def read(
    description: Mapping[str, Any],
    tensors: Mapping[str, TensorSource],
    *,
    wanted: Mapping[str, Any],
    prefix: str | None,
    num_threads: int | None,
    isa: str | None,
) -> Model:
    """The Model of a sound description; FormatError for tensors that do not fit it.

    `wanted`: what the caller wants of every GRU; FormatError where the file says something else.
    """
    check_isa(isa)
    described = description["layers"]
    _check_contradictions(described, wanted, prefix)
    parts: list[dict[str, TensorSource]] = [{} for _ in described]
    problems = Problems()
    for name, source in tensors.items():
        match = _TENSOR.fullmatch(name)
        if match and int(match[1]) < len(parts):
            parts[int(match[1])][match[2]] = source
        elif match:
            problems.append(f"{printable(name)}: there are only {len(parts)} layers")
    layers: list[Layer | GRU] = []
    for index, (layer, own) in enumerate(zip(described, parts, strict=True)):
        try:
            if layer["kind"] == "gru":
                spec = reduce_spec(native.read_spec(layer, own), wanted.get("precision", "float32"))
                batch_first = layer["batch_first"]
                layers.append(GRU(spec, batch_first=batch_first, num_threads=num_threads, isa=isa))
            else:
                layers.append(_read_layer(layer, own, isa))
        except (FormatError, TypeError, ValueError, OverflowError) as error:
            problems.append(about(f"layers.{index}", error))
    if not problems:
        try:
            return Model(layers)
        except ValueError as error:
            problems.append(message_of(error))
    raise FormatError(report("the model", problems))


def _read_layer(
    layer: Mapping[str, Any], tensors: Mapping[str, TensorSource], isa: str | None
) -> Layer:
    make, required, optional, options, flags, _ = _KINDS[layer["kind"]]
    names = required + tuple(name for name in optional if layer[name])
    problems = Problems(f"{name}: missing" for name in names if name not in tensors)
    problems.extend(
        f"{printable(name)}: no such tensor is expected" for name in tensors if name not in names
    )
    if problems:
        raise FormatError(report(layer["kind"], problems))
    forced = {"_isa": isa} if isa is not None and getattr(make, "uses_kernels", False) else {}
    return make(
        **{name: tensors[name] for name in names},
        **{name: layer[name] for name in options},
        **{name: layer[name] for name in flags if name in layer},
        **forced,
    )


def _check_contradictions(
    described: list[dict[str, Any]], wanted: Mapping[str, object], prefix: str | None
) -> None:
    problems = Problems()
    if prefix:
        problems.append(f"prefix: a model file has none, the argument {brief(prefix)}")
    for index, layer in enumerate(described):
        if layer["kind"] != "gru":
            continue
        problems += [
            f"layer {index} GRU: {name}: the file says {layer[name]!r}, the argument {value!r}"
            for name, value in wanted.items()
            # float32 is to be reduced, no contradiction
            if value != layer[name] and not (name == "precision" and layer[name] == "float32")
        ]
    if problems:
        raise FormatError(report("contradiction", problems))
