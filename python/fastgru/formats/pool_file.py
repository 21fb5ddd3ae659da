"""Snapshots of a pool: a safetensors file of each GRU's states, and the ids in its metadata.

Refuses whatever is damaged or does not fit the pool: one FormatError, and the pool is as it was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import BinaryIO

import numpy as np

from fastgru.arrays import Float32Array, Int64Array, shape_text
from fastgru.errors import FormatError
from fastgru.formats import safetensors_file, safetensors_writer
from fastgru.formats.regular import open_regular
from fastgru.formats.strict_json import parse_object
from fastgru.text import Problems, about, brief, message_of, printable, report

KEY = "fastgru_pool"
VERSION = 1
_FIELDS = ("format_version", "ids")


def write(path: str | os.PathLike[str], ids: Int64Array, states: Sequence[Float32Array]) -> None:
    """Writes a snapshot to `path`, atomically. ids: (n,), states: (L, n, H) of each GRU."""
    description = {"format_version": VERSION, "ids": ids.tolist()}
    tensors = {f"states.{gru}": array for gru, array in enumerate(states)}
    safetensors_writer.write(path, tensors, {KEY: json.dumps(description)})


def read(
    path: str | os.PathLike[str],
    state_shapes: Sequence[tuple[int, int]],
    restore: Callable[[Int64Array, list[Float32Array]], None],
) -> None:
    """Calls restore(ids, states) with a snapshot's; state_shapes: each GRU's (L, H).

    A ValueError of `restore` is a FormatError.
    """
    name = os.fspath(path)
    try:
        with open_regular(name) as file:
            ids, states = _read(file, state_shapes)
        try:
            restore(ids, states)
        except ValueError as error:
            raise FormatError(message_of(error)) from error
    except FormatError as error:
        raise FormatError(about(os.fsdecode(name), error)) from error.__cause__


def _read(
    file: BinaryIO, state_shapes: Sequence[tuple[int, int]]
) -> tuple[Int64Array, list[Float32Array]]:
    """The ids and the states of an open file; FormatError."""
    if file.read(9)[8:] != b"{":
        raise FormatError("expected a snapshot of a pool")
    tensors, metadata = safetensors_file.read(file)
    if KEY not in metadata:
        raise FormatError("expected a snapshot of a pool, got another safetensors file")
    description = parse_object(metadata[KEY], "the description of the pool")
    version = description.get("format_version")
    if type(version) is not int or version != VERSION:
        raise FormatError(
            f"format_version: this fastgru knows {VERSION}, the file has {brief(version)}; "
            "a newer fastgru may read it (pip install --upgrade fastgru)"
        )
    if set(description) != set(_FIELDS):
        raise FormatError(
            f"expected the fields {', '.join(_FIELDS)}, got {brief(list(description))}"
        )
    ids = description["ids"]
    numbers = ids if isinstance(ids, list) else [None]
    if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        raise FormatError("ids: expected a list of integers of 63 bits")
    expected = {
        f"states.{gru}": (layers, len(ids), hidden)
        for gru, (layers, hidden) in enumerate(state_shapes)
    }
    problems = Problems(
        f"{printable(tensor)}: unknown" for tensor in tensors if tensor not in expected
    )
    for tensor, shape in expected.items():
        found = tensors.get(tensor)
        if found is None or (found.dtype, found.shape) != ("F32", shape):
            got = (
                "nothing"
                if found is None
                else f"{printable(found.dtype)} {shape_text(found.shape)}"
            )
            problems.append(f"{tensor}: expected F32 {shape_text(shape)}, got {got}")
    if problems:
        raise FormatError(report("the states", problems))
    return np.array(ids, np.int64), [tensors[tensor].read() for tensor in expected]
