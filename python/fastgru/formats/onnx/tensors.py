"""Constants of an ONNX file -> arrays: initializers in the file, and in a file beside it.

Nothing is allocated on a shape's word: the bytes that it asks for must be there. Refuses external
data anywhere but in a regular file in the model's own folder: no paths, no links, no `..`.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgru.errors import FormatError
from fastgru.formats.window import Allowance
from fastgru.text import about, brief

Array = NDArray[Any]

COPIES = 8
"""Bytes that a file may make us keep for each of its own: float16 weights that are put in order,
joined and converted take seven."""

_BFLOAT16 = 16
_MAX_RANK = 8
_MAX_SIZE = 1 << 48  # of one axis; NumPy multiplies them in 64 bits
# TensorProto.DataType -> dtype as stored, and the field that holds it where raw_data does not
_KINDS = {
    1: ("<f4", "float_data"),
    2: ("u1", "int32_data"),
    3: ("i1", "int32_data"),
    4: ("<u2", "int32_data"),
    5: ("<i2", "int32_data"),
    6: ("<i4", "int32_data"),
    7: ("<i8", "int64_data"),
    9: ("?", "int32_data"),
    10: ("<u2", "int32_data"),  # float16, whose bits are stored
    11: ("<f8", "double_data"),
    12: ("<u4", "uint64_data"),
    13: ("<u8", "uint64_data"),
    _BFLOAT16: ("<u2", "int32_data"),
}
_FLOAT16 = 10
_EXTERNAL = 1
_NUMBER = re.compile(r"[0-9]{1,18}")


class Tensors:
    """The initializers of a file by name, each read when it is first asked for.

    `folder`: where external data may lie; None for a model that is in no file.
    """

    def __init__(self, folder: str | None, allowance: Allowance) -> None:
        self.twice: list[str] = []
        self._folder = folder
        self._allowance = allowance
        self._protos: dict[str, Any] = {}
        self._arrays: dict[str, Array] = {}
        self._sizes: dict[str, int] = {}  # of external files that count for the allowance

    def add(self, name: str, proto: Any) -> None:
        """Takes an initializer."""
        if name in self._protos:
            self.twice.append(name)
        self._protos[name] = proto

    def __contains__(self, name: str) -> bool:
        return name in self._protos

    def names(self) -> Iterable[str]:
        """Of all initializers."""
        return self._protos

    def read(self, name: str) -> Array:
        """The initializer of this name; FormatError."""
        if name not in self._arrays:
            try:
                self._arrays[name] = self.decode(self._protos[name])
            except FormatError as error:
                raise FormatError(about(f"initializer {brief(name)}", error)) from error
        return self._arrays[name]

    def decode(self, proto: Any) -> Array:
        """Any TensorProto as an array, read-only where it can be; bfloat16 becomes float32."""
        kind = _KINDS.get(proto.data_type)
        if kind is None:
            raise FormatError(f"data type {proto.data_type} is not read")
        dtype, field = np.dtype(kind[0]), kind[1]
        shape = tuple(map(int, proto.dims[: _MAX_RANK + 1]))
        if len(shape) > _MAX_RANK or any(not 0 <= size < _MAX_SIZE for size in shape):
            raise FormatError(f"its shape {shape} makes no sense")
        if proto.HasField("segment"):
            raise FormatError("tensors in segments are not read")
        count = math.prod(shape)
        if count == 0:
            shape = tuple(min(size, 1) for size in shape)  # what is empty needs no large axes
        if proto.data_location == _EXTERNAL:
            array = self._external(proto, dtype, count)
        elif proto.HasField("raw_data"):
            data = proto.raw_data
            _check(len(data), count * dtype.itemsize, "bytes", shape)
            self._allowance.take(len(data))
            array = np.frombuffer(data, dtype) if count else np.zeros(0, dtype)
        else:
            values = getattr(proto, field)
            _check(len(values), count, "values", shape)
            self._allowance.take(8 * count)
            wide = np.array(values, np.uint64 if field == "uint64_data" else None)
            array = wide.astype(dtype)
        array = array.reshape(shape)
        if proto.data_type == _FLOAT16:
            return array.view("<f2")
        if proto.data_type == _BFLOAT16:
            self._allowance.take(4 * count)
            return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return array

    def _external(self, proto: Any, dtype: np.dtype[Any], count: int) -> Array:
        facts = {str(item.key): str(item.value) for item in proto.external_data}
        location = facts.get("location", "")
        size = count * dtype.itemsize
        numbers = [facts.get("offset", "0"), facts.get("length", str(size))]
        if not all(_NUMBER.fullmatch(number) for number in numbers):
            raise FormatError(f"external data: offset and length make no sense: {numbers}")
        offset, length = map(int, numbers)
        _check(length, size, "bytes", tuple(proto.dims))
        if self._folder is None:
            raise FormatError("external data: the model is in no file, so nothing lies beside it")
        if not _is_plain(location):
            raise FormatError(
                f"external data: expected the name of a file in the model's folder, got "
                f"{location[:200]!r}"
            )
        path = os.path.join(self._folder, location)
        try:
            return self._read_external(path, location, offset, dtype, count)
        except OSError as error:
            raise FormatError(f"external data: {location!r}: {error.strerror}") from error

    def _read_external(
        self, path: str, location: str, offset: int, dtype: np.dtype[Any], count: int
    ) -> Array:
        if not stat.S_ISREG(os.lstat(path).st_mode):  # nor a link to one
            raise FormatError(
                f"external data: {location!r} is not a regular file, and links are not followed"
            )
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(path, flags), "rb") as file:
            size, wanted = os.fstat(file.fileno()).st_size, count * dtype.itemsize
            if location not in self._sizes:
                self._sizes[location] = size
                self._allowance.left += COPIES * size
            if offset + wanted > size:
                raise FormatError(
                    f"external data: expected {wanted} bytes from {offset} on in {location!r}, "
                    f"which has {size}"
                )
            self._allowance.take(wanted)
            file.seek(offset)
            data = file.read(wanted)
        _check(len(data), wanted, "bytes", (count,))  # someone shortens the file meanwhile
        return np.frombuffer(data, dtype) if count else np.zeros(0, dtype)


def _is_plain(name: str) -> bool:
    """Whether this is the name of a file and no path, on any system."""
    return name not in {"", ".", ".."} and not any(letter in "/\\:\0" for letter in name)


def _check(got: int, expected: int, what: str, shape: tuple[int, ...]) -> None:
    if got != expected:
        raise FormatError(f"expected {expected} {what} for the shape {shape}, got {got}")
