"""The native file: a safetensors file of PyTorch-named tensors, and what they do not say.

That is a JSON description under the metadata key `fastgru`. Every version that was ever released
stays readable: version 1 has float32 tensors; version 2, a model in reduced precision, has weights
as BF16, or as I8 with a float32 tensor NAME_scale (3H,), and a list of the layers' precisions;
version 3 is a Model, whose description is model_file.py's and holds those of its GRUs; version 4
is a GRU or a Model whose GRUs also tell whether they run in reverse. A file is of the oldest
version that can tell what it holds.
Refuses a description that is incomplete, holds what this version does not know, or
contradicts the tensors or the caller.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastgru.arrays import Float32Array, TensorSource, shape_text
from fastgru.errors import FormatError
from fastgru.formats import safetensors_writer
from fastgru.formats.strict_json import parse_object
from fastgru.importing import importing
from fastgru.precision import PRECISIONS, weight_names
from fastgru.spec import (
    ACTIVATIONS,
    RECURRENT_ACTIVATIONS,
    GruSpec,
    spec_from_tensors,
    tensor_names,
)
from fastgru.text import Problems, brief, printable, report

if TYPE_CHECKING:
    from fastgru.gru import GRU

KEY = "fastgru"
ASSUMED_KEY = "fastgru_assumed"  # beside it: the fields that nobody has said, by commas
VERSIONS = (1, 2, 3, 4)
MODEL_VERSION = 3
REVERSE_VERSION = 4

_SIZES = ("input_size", "hidden_size", "num_layers")
_FLAGS = ("bidirectional", "bias", "batch_first", "reset_after", "reverse")
_CHOICES = {
    "kind": ("gru",),
    "activation": ACTIVATIONS,
    "recurrent_activation": RECURRENT_ACTIVATIONS,
    "precision": PRECISIONS,
}
UNSAID = ("activation", "recurrent_activation", "reset_after", "batch_first")
"""What a state dict does not say of its GRU."""
_FIELDS = ("format_version", "kind", *_SIZES, *_FLAGS[:-1], *list(_CHOICES)[1:])
_STORED = {"float32": "F32", "bfloat16": "BF16", "int8": "I8"}
_SCALE = "_scale"


def save_gru(gru: GRU, path: str | os.PathLike[str]) -> None:
    """Writes `gru` to `path`, atomically."""
    version = REVERSE_VERSION if gru.reverse else 2 if gru._spec.precisions else 1
    description, tensors, dtypes = parts_of(gru, version)
    metadata = {KEY: json.dumps({"format_version": version} | description)}
    if gru._assumed:
        metadata[ASSUMED_KEY] = ",".join(gru._assumed)
    safetensors_writer.write(path, tensors, metadata, dtypes)


def parts_of(
    gru: GRU, version: int
) -> tuple[dict[str, Any], dict[str, Float32Array], dict[str, str]]:
    """Its description but for the version, the tensors, and the dtypes that are not F32."""
    spec = gru._spec
    description: dict[str, Any] = {"kind": "gru"}
    description |= {name: getattr(gru, name) for name in _FIELDS[2:]}
    if version >= REVERSE_VERSION:
        description["reverse"] = gru.reverse
    if spec.precisions:
        description["precisions"] = spec.precisions
    tensors, scales = gru._stored()
    dtypes = {
        name: _STORED[spec.precisions[layer]]
        for layer, name in weight_names(spec)
        if spec.precisions
    }
    tensors |= {name + _SCALE: scale for name, scale in scales.items()}
    return description, tensors, dtypes


def read_spec(description: Mapping[str, Any], tensors: Mapping[str, TensorSource]) -> GruSpec:
    """The spec of a GRU that is described so; FormatError for tensors that do not fit."""
    found, scales = take_scales(description, tensors)
    spec = spec_from_tensors(
        found,
        prefix="",
        reset_after=description["reset_after"],
        activation=description["activation"],
        recurrent_activation=description["recurrent_activation"],
        reverse=description.get("reverse", False),
    )
    check_sizes(description, spec)
    precisions = tuple(description.get("precisions", ()))
    return dataclasses.replace(spec, precisions=precisions, scales=scales)


def take_scales(
    description: Mapping[str, Any], tensors: Mapping[str, TensorSource]
) -> tuple[Mapping[str, TensorSource], dict[str, Float32Array]]:
    """The tensors with int8 weights as real numbers, and the scales, which are not among them."""
    if not description.get("precisions"):
        return tensors, {}
    found, problems = dict(tensors), []
    scales = {}
    for layer, precision in enumerate(description["precisions"]):
        for name in tensor_names([layer], description["bidirectional"], bias=False):
            source = found.get(name)
            if source is None:
                continue  # the validator tells of it
            if source.dtype != _STORED[precision]:
                problems.append(
                    f"{name}: expected {_STORED[precision]}, got {printable(source.dtype)}"
                )
            elif precision == "int8":
                scale = found.pop(name + _SCALE, None)
                problem = _scale_problem(scale, source.shape[0] if source.shape else 0)
                if scale is None or problem:
                    problems.append(f"{name}{_SCALE}: {problem}")
                    continue
                scales[name] = scale.read()
                if not (np.isfinite(scales[name]) & (scales[name] > 0)).all():
                    problems.append(f"{name}{_SCALE}: expected positive finite numbers")
                integers = source.read()
                if integers.min(initial=0) < -127:
                    problems.append(f"{name}: expected integers in -127..127, got -128")
                read = functools.partial(_same, integers)  # not from the file a second time
                found[name] = dataclasses.replace(source, is_real_float=True, read=read)
    if problems:
        raise FormatError(report("the reduced model", problems))
    return found, scales


def _same(array: Float32Array) -> Float32Array:
    return array


def _scale_problem(scale: TensorSource | None, rows: int) -> str:
    if scale is None:
        return f"missing, expected ({rows},)"
    if scale.shape != (rows,) or scale.dtype != "F32":
        return f"expected F32 ({rows},), got {printable(scale.dtype)} {shape_text(scale.shape)}"
    return ""


def parse(text: str) -> dict[str, Any]:
    """The description as a dict with exactly the fields of its version, each of the right type."""
    description = parse_object(text, "the fastgru description")
    version = description.get("format_version")
    if type(version) is not int or version not in VERSIONS:
        known = ", ".join(map(str, VERSIONS))
        raise FormatError(
            f"format_version: this fastgru knows {known}, the file has {brief(version)}; "
            "a newer fastgru may read it (pip install --upgrade fastgru)"
        )
    if version == MODEL_VERSION or (version > MODEL_VERSION and description.get("kind") != "gru"):
        with importing():
            from fastgru.formats import model_file  # noqa: PLC0415  (which imports this module)

        problems = Problems(model_file.problems_of(description))
    else:
        problems = gru_problems(description, version)
    if problems:
        raise FormatError(report("the fastgru description", problems))
    return description


def parse_assumed(text: str) -> tuple[str, ...]:
    """The fields of a GRU's description that are defaults which nobody has said.

    A reader that leaves them out loses no number, so they need no version of their own.
    """
    names = tuple(text.split(",")) if text else ()
    if not all(name in UNSAID for name in names):
        raise FormatError(f"{ASSUMED_KEY}: expected names among {', '.join(UNSAID)}, got {text!r}")
    return names


def field_problems(description: Mapping[str, Any], fields: Sequence[str]) -> Iterator[str]:
    """Fields that are missing or unknown."""
    yield from (f"{name}: missing" for name in fields if name not in description)
    yield from (f"{printable(name)}: unknown field" for name in description if name not in fields)


def gru_problems(
    description: Mapping[str, Any], version: int, *, in_model: bool = False
) -> Problems:
    """What is wrong with the description of a GRU, by itself or in a Model's."""
    fields = _FIELDS[1:] if in_model else _FIELDS
    is_reduced = version == 2 if version < 3 else description.get("precision") != "float32"
    choices_of = _CHOICES if is_reduced else _CHOICES | {"precision": ("float32",)}
    fields += ("precisions",) if is_reduced else ()
    fields += ("reverse",) if version >= REVERSE_VERSION else ()
    problems = Problems(field_problems(description, fields))
    for name, value in description.items():
        if name in _SIZES and not (type(value) is int and value >= 1):
            problems.append(f"{name}: expected an integer of at least 1, got {brief(value)}")
        elif name in _FLAGS and type(value) is not bool:
            problems.append(f"{name}: expected true or false, got {brief(value)}")
        elif name in choices_of and not (isinstance(value, str) and value in choices_of[name]):
            choices = " or ".join(map(repr, choices_of[name]))
            problems.append(f"{name}: expected {choices}, got {brief(value)}")
    if is_reduced and not problems:
        allowed = ("float32", description["precision"])
        given = description["precisions"]
        if not (
            isinstance(given, list)
            and len(given) == description["num_layers"]
            and all(isinstance(p, str) and p in allowed for p in given)
            and description["precision"] in given
            and description["precision"] != "float32"
        ):
            layers = description["num_layers"]
            problems.append(
                f"precisions: expected {layers} of float32 and the reduced one, got {brief(given)}"
            )
    return problems


def check_contradictions(
    description: Mapping[str, Any], wanted: Mapping[str, object], prefix: str | None
) -> None:
    """FormatError if the caller's options say something else than the file."""
    problems = [
        f"{name}: the file says {brief(description[name])}, the argument {value!r}"
        for name, value in wanted.items()
        if value != description[name]
    ]
    if prefix:
        problems.append(f"prefix: a native file has none, the argument {brief(prefix)}")
    if problems:
        raise FormatError(report("contradiction", problems))


def check_sizes(description: Mapping[str, Any], spec: GruSpec) -> None:
    """FormatError if the description does not fit the tensors."""
    problems = [
        f"{name}: the description says {brief(description[name])}, "
        f"the tensors {getattr(spec, name)!r}"
        for name in (*_SIZES, "bidirectional", "bias")
        if description[name] != getattr(spec, name)
    ]
    if problems:
        raise FormatError(report("the fastgru description", problems))
