"""safetensors files -> named tensors, read one by one when they are asked for.

The bytes of a tensor are read from their place in the file into the array that is returned: no
second copy is made, and other tensors are not touched. A mapping of the file would need as little
memory, but a process that looks into a mapping dies of SIGBUS where somebody shortens the file
meanwhile; a read that gets too little is a FormatError.
Refuses nothing but damage (safetensors_header.py says what that is): which names and dtypes make a
GRU is spec.py's to judge.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fastgru.arrays import Float32Array, TensorSource
from fastgru.errors import FormatError
from fastgru.formats.safetensors_header import Entry, Header, read_header
from fastgru.text import printable

_CODES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "i1"}
_FLOATS = ("F64", "F32", "F16", "BF16")  # I8 holds weights in reduced precision
_BUFFER = 1 << 16  # elements that are converted at once


class Tensors(Mapping[str, TensorSource]):
    """The tensors of an open file, in the header's order, each described when it is asked for."""

    def __init__(self, file: BinaryIO, header: Header) -> None:
        self._file = file
        self._header = header

    def __getitem__(self, name: str) -> TensorSource:
        entry = self._header[name]
        return TensorSource(
            shape=entry.shape,
            dtype=entry.dtype,
            is_real_float=entry.dtype in _FLOATS,
            read=functools.partial(_read_float32, self._file, name, entry),
        )

    def __contains__(self, name: object) -> bool:
        return name in self._header

    def __iter__(self) -> Iterator[str]:
        return iter(self._header)

    def __len__(self) -> int:
        return len(self._header)


def read(file: BinaryIO) -> tuple[Tensors, dict[str, str]]:
    """The tensors and the metadata of an open file, which must stay open; FormatError."""
    header, metadata = read_header(file)
    return Tensors(file, header), metadata


def read_bytes(file: BinaryIO, name: str, entry: Entry, target: NDArray[np.uint8]) -> None:
    """Fills `target`, which is of the tensor's size, with its bytes as they are."""
    file.seek(entry.start)
    _fill(file, name, target)


def _read_float32(file: BinaryIO, name: str, entry: Entry) -> Float32Array:
    """A tensor as float32; of those that hold no numbers of _CODES, nobody asks for any."""
    code = np.dtype(_CODES[entry.dtype])
    result = np.empty(entry.shape, np.float32)
    flat = result.reshape(-1)
    file.seek(entry.start)
    if code == np.float32:
        _fill(file, name, flat)
        return result
    buffer = np.empty(min(_BUFFER, flat.size), code)
    for index in range(0, flat.size, _BUFFER):
        target = flat[index : index + _BUFFER]
        part = buffer[: target.size]
        _fill(file, name, part)
        if entry.dtype == "BF16":  # the upper half of a float32
            np.left_shift(part, np.uint32(16), out=target.view(np.uint32), dtype=np.uint32)
        else:
            with np.errstate(all="ignore"):  # too large for float32 is inf, as in torch, silently
                target[...] = part
    return result


def _fill(file: BinaryIO, name: str, target: NDArray[Any]) -> None:
    got = file.readinto(target)  # type: ignore[attr-defined]
    if got != target.nbytes:  # someone shortens the file meanwhile
        raise FormatError(f"{printable(name)}: cut off: expected {target.nbytes} bytes, got {got}")
