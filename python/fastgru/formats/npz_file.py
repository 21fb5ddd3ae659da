"""`.npz` files (zip archives of .npy arrays) -> named tensors.

Nothing is allocated on a header's word: the size that a member's shape asks for must be the size
that the archive has for it. Refuses pickled (object) arrays, encrypted members and names that
appear twice.
"""

from __future__ import annotations

import ast
import math
import re
import zipfile
from collections import Counter
from typing import BinaryIO

import numpy as np

from fastgru.arrays import Float32Array, TensorSource, as_float32, shape_text
from fastgru.errors import FormatError
from fastgru.text import Problems, message_of, number_text, printable, report

MAX_HEADER = 10_000  # of one array; NumPy's own limit
_MAX_DEFLATE_RATIO = 1032  # deflate cannot do better: RFC 1951 codes at most 258 bytes in 2 bits
_GRU_LIKE = re.compile(r"(?:weight|bias)_(?:ih|hh|hr)")
_HEADER_KEYS = ("shape", "fortran_order", "descr")
# The words of a header. Python's parser says "out of memory" of deep nesting, and looks up names of
# characters: what it is given has neither.
_WORDS = re.compile(r"(?:[ ,:()\[\]{}]|'[^'\\\n]*+'|\d{1,20}|True|False|None)*+")
_MAX_DEPTH = 8
_FLOATING = re.compile(r"[<>=]?f[248]")


def read(file: BinaryIO) -> dict[str, TensorSource]:
    """The arrays of an open `.npz`: headers now, data when a TensorSource's `read` is called.

    Only members with a name that a GRU's tensor could have are looked into. Raises FormatError.
    """
    try:
        archive = zipfile.ZipFile(file)
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # zipfile raises nearly anything on damaged archives
        raise FormatError(f"damaged zip archive: {printable(str(error))}") from error
    members = archive.infolist()
    arrays = [member for member in members if member.filename.endswith(".npy")]
    names = [member.filename.removesuffix(".npy") for member in arrays]
    problems = Problems(
        f"{printable(name)}: appears {count} times"
        for name, count in Counter(names).items()
        if count > 1
    )
    tensors = {}
    for name, member in zip(names, arrays, strict=True):
        try:
            tensors[name] = _source(archive, member, name)
        except FormatError as error:
            problems.append(message_of(error))
    if problems:
        raise FormatError(report("the .npz file", problems))
    return tensors


def _source(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> TensorSource:
    if not _GRU_LIKE.search(name):
        return TensorSource((), "unread", False, lambda: np.zeros((), np.float32))
    if member.flag_bits & 1:
        raise FormatError(f"{printable(name)}: encrypted")
    sizes = member.compress_size, member.file_size
    possible = {
        zipfile.ZIP_STORED: sizes[0] == sizes[1],
        zipfile.ZIP_DEFLATED: sizes[1] <= _MAX_DEFLATE_RATIO * sizes[0],
    }.get(member.compress_type)
    if possible is None:
        raise FormatError(
            f"{printable(name)}: compression method {member.compress_type} is not supported"
        )
    if not possible:
        raise FormatError(
            f"{printable(name)}: {sizes[1]} bytes cannot come from {sizes[0]} in the archive"
        )
    start = _member_bytes(archive, member, name, MAX_HEADER + 12)
    shape, fortran_order, descr, offset = npy_header(name, start)
    if not _FLOATING.fullmatch(descr):
        return TensorSource(shape, descr, False, lambda: np.zeros((), np.float32))
    dtype = np.dtype(descr)
    expected = offset + math.prod(shape) * dtype.itemsize
    if expected != member.file_size:
        raise FormatError(
            f"{printable(name)}: expected {number_text(expected)} bytes for {shape_text(shape)} "
            f"of {dtype}, got {member.file_size}"
        )

    def load() -> Float32Array:
        data = _member_bytes(archive, member, name, -1)
        if len(data) != member.file_size:
            raise FormatError(
                f"{printable(name)}: expected {member.file_size} bytes, got {len(data)}"
            )
        array = np.frombuffer(data, dtype, offset=offset)
        array = array.reshape(shape[::-1]).T if fortran_order else array.reshape(shape)
        return np.ascontiguousarray(as_float32(name, array))

    return TensorSource(shape, str(dtype), True, load)


def _member_bytes(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, count: int
) -> bytes:
    try:
        with archive.open(member) as stream:
            return stream.read(count)  # to the end (count < 0) also checks the CRC
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # BadZipFile, zlib.error, EOFError, NotImplementedError, ...
        if str(error).startswith("Error -4 "):  # zlib's way to say that there is no memory
            raise MemoryError(f"{name}: {error}") from error
        raise FormatError(f"{name}: damaged: {error}") from error


def npy_header(name: str, data: bytes) -> tuple[tuple[int, ...], bool, str, int]:
    """Shape, Fortran order, dtype as written, and where the data starts."""
    # Not numpy.lib.format: on damaged headers it prints warnings and tries older syntaxes.
    if data[:6] != b"\x93NUMPY" or data[6:7] not in (b"\x01", b"\x02", b"\x03"):
        raise FormatError(f"{printable(name)}: not a .npy array")
    start = 10 if data[6] == 1 else 12
    length = int.from_bytes(data[8:start], "little")
    if length > MAX_HEADER or start + length > len(data):
        raise FormatError(f"{printable(name)}: a .npy header of {length} bytes does not fit")
    text = data[start : start + length].decode("latin-1").strip()
    try:
        if not _WORDS.fullmatch(text) or _depth(text) > _MAX_DEPTH:
            raise ValueError("not the words of a header")
        header = ast.literal_eval(text)
        shape, fortran_order, descr = (header[key] for key in _HEADER_KEYS)
    except (ValueError, SyntaxError, TypeError, KeyError) as error:
        raise FormatError(f"{name}: damaged .npy header {text[:200]!r}") from error
    sizes_fit = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
    if not sizes_fit or type(fortran_order) is not bool or len(header) != len(_HEADER_KEYS):
        raise FormatError(f"{name}: damaged .npy header {text[:200]!r}")
    return shape, fortran_order, str(descr), start + length


def _depth(text: str) -> int:
    """How deep brackets are nested."""
    depth = deepest = 0
    for mark in text:
        depth += (mark in "([{") - (mark in ")]}")
        deepest = max(deepest, depth)
    return deepest
