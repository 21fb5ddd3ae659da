"""The native file: a safetensors file of PyTorch-named float32 tensors, and what they do not say.

That is a JSON description under the metadata key `fastgru`. Every version that was ever released
stays readable. Refuses a description that is incomplete, holds what this version does not know, or
contradicts the tensors or the caller.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastgru.errors import FormatError
from fastgru.formats import safetensors_file
from fastgru.formats.atomic import write_atomically
from fastgru.formats.strict_json import parse_object
from fastgru.options import PRECISIONS
from fastgru.spec import ACTIVATIONS, RECURRENT_ACTIVATIONS, ModelSpec, report

if TYPE_CHECKING:
    from fastgru.gru import GRU

KEY = "fastgru"
VERSIONS = (1,)

_SIZES = ("input_size", "hidden_size", "num_layers")
_FLAGS = ("bidirectional", "bias", "batch_first", "reset_after")
_CHOICES = {
    "kind": ("gru",),
    "activation": ACTIVATIONS,
    "recurrent_activation": RECURRENT_ACTIVATIONS,
    "precision": PRECISIONS,
}
_FIELDS = ("format_version", "kind", *_SIZES, *_FLAGS, *list(_CHOICES)[1:])


def save_gru(gru: GRU, path: str | os.PathLike[str]) -> None:
    """Writes `gru` to `path`, atomically."""
    description = {name: getattr(gru, name) for name in _FIELDS[2:]}
    text = json.dumps({"format_version": VERSIONS[-1], "kind": "gru", **description})
    write_atomically(path, safetensors_file.serialize(gru.tensors(), {KEY: text}))


def parse(text: str) -> dict[str, Any]:
    """The description as a dict with exactly the fields of its version, each of the right type."""
    description = parse_object(text, "the fastgru description")
    version = description.get("format_version")
    if type(version) is not int or version not in VERSIONS:
        known = ", ".join(map(str, VERSIONS))
        raise FormatError(
            f"format_version: this fastgru knows {known}, the file has {version!r}; "
            "a newer fastgru may read it (pip install --upgrade fastgru)"
        )
    problems = [f"{name}: missing" for name in _FIELDS if name not in description]
    problems += [f"{name}: unknown field" for name in description if name not in _FIELDS]
    for name, value in description.items():
        if name in _SIZES and not (type(value) is int and value >= 1):
            problems.append(f"{name}: expected an integer of at least 1, got {value!r}")
        elif name in _FLAGS and type(value) is not bool:
            problems.append(f"{name}: expected true or false, got {value!r}")
        elif name in _CHOICES and not (isinstance(value, str) and value in _CHOICES[name]):
            choices = " or ".join(map(repr, _CHOICES[name]))
            problems.append(f"{name}: expected {choices}, got {value!r}")
    if problems:
        raise FormatError(report("the fastgru description", problems))
    return description


def check_contradictions(
    description: Mapping[str, Any], wanted: Mapping[str, object], prefix: str | None
) -> None:
    """FormatError if the caller's options say something else than the file."""
    problems = [
        f"{name}: the file says {description[name]!r}, the argument {value!r}"
        for name, value in wanted.items()
        if value != description[name]
    ]
    if prefix:
        problems.append(f"prefix: a native file has none, the argument {prefix!r}")
    if problems:
        raise FormatError(report("contradiction", problems))


def check_sizes(description: Mapping[str, Any], spec: ModelSpec) -> None:
    """FormatError if the description does not fit the tensors."""
    problems = [
        f"{name}: the description says {description[name]!r}, the tensors {getattr(spec, name)!r}"
        for name in (*_SIZES, "bidirectional", "bias")
        if description[name] != getattr(spec, name)
    ]
    if problems:
        raise FormatError(report("the fastgru description", problems))
