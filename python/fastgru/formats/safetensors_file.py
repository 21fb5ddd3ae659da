"""safetensors files <-> named tensors.

Reading is the `safetensors` library's, after a look at the header for what it lets pass (duplicate
names). Refuses nothing but damage: which names and dtypes make a GRU is spec.py's to judge.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from fastgru.arrays import Float32Array, TensorSource, as_float32
from fastgru.errors import FormatError
from fastgru.formats.strict_json import parse_object
from fastgru.text import printable

_MAX_HEADER = 100_000_000  # the library's own limit
_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_INTEGERS = {"I8": "<i1"}  # weights in reduced precision


def read(file: BinaryIO) -> tuple[dict[str, TensorSource], dict[str, Any]]:
    """The tensors and the metadata of an open file; FormatError if it is damaged."""
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    limit = min(size - 8, _MAX_HEADER)
    if length > limit:
        raise FormatError(f"the header claims {length} bytes, at most {limit} are possible")
    header = parse_object(file.read(length), "the safetensors header")
    metadata = header.get("__metadata__", {})
    file.seek(0)
    found = dict(_deserialize(file.read(size)))
    tensors = {}
    for name in [name for name in header if name in found]:  # the library's order is random
        parts = found[name]
        shape, dtype, data = tuple(parts["shape"]), parts["dtype"], parts["data"]
        tensors[name] = TensorSource(
            shape=shape,
            dtype=dtype,
            is_real_float=dtype in _FLOATS,
            read=functools.partial(_to_float32, data, dtype, shape),
        )
    return tensors, metadata if isinstance(metadata, dict) else {}


def serialize(
    tensors: Mapping[str, Float32Array],
    metadata: dict[str, str],
    dtypes: Mapping[str, str] | None = None,
) -> bytes:
    """A safetensors file as bytes, the same for the same tensors.

    `dtypes`: BF16 or I8 for those whose values these hold exactly; the others are F32.
    """
    import safetensors.numpy  # noqa: PLC0415

    kinds = dtypes or {}
    arrays: dict[str, np.ndarray[Any, Any]] = {
        name: tensor.astype(np.int8) if kinds.get(name) == "I8" else tensor
        for name, tensor in tensors.items()
    }
    if "BF16" not in kinds.values():
        return safetensors.numpy.save(arrays, metadata)
    # NumPy has no such dtype, and so the library's function for NumPy none either.
    header: dict[str, Any] = {"__metadata__": metadata}
    data = bytearray()
    for name in sorted(arrays, key=lambda name: (kinds.get(name) == "BF16", name)):
        is_bfloat16 = kinds.get(name) == "BF16"
        stored = np.ascontiguousarray(tensors[name], "<f4")
        if is_bfloat16:
            stored = (stored.view("<u4") >> np.uint32(16)).astype("<u2")
        part = stored.tobytes()
        header[name] = {
            "dtype": "BF16" if is_bfloat16 else "F32",
            "shape": tensors[name].shape,
            "data_offsets": (len(data), len(data) + len(part)),
        }
        data += part
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def _deserialize(data: bytes) -> list[tuple[str, dict[str, Any]]]:
    import safetensors  # noqa: PLC0415

    try:
        return list(safetensors.deserialize(data))  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise FormatError(f"damaged safetensors file: {printable(str(error))}") from error


def _to_float32(data: bytearray, dtype: str, shape: tuple[int, ...]) -> Float32Array:
    if dtype in _INTEGERS:
        integers = np.frombuffer(data, _INTEGERS[dtype], count=math.prod(shape))
        return integers.reshape(shape).astype(np.float32)
    array = np.frombuffer(data, _FLOATS[dtype], count=math.prod(shape)).reshape(shape)
    if dtype == "BF16":  # the upper half of a float32
        return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return np.ascontiguousarray(as_float32("tensor", array))
