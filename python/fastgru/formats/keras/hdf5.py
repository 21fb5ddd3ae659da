"""The arrays of an HDF5 file that Keras wrote, by the paths that Keras gives them.

Reads the part of HDF5 that h5py writes by default, as Keras 2 and 3 do: groups as symbol
tables, and datasets of little-endian floating numbers in one piece. Every length and address is
compared with the file before it is followed, and what is read in all is counted, so that structures
that hold each other end. Refuses links to elsewhere, chunks, compression, external data and all
other forms of HDF5. Attributes are not looked at.

Not h5py: a fuzzer found within ten minutes a file of 30 kB in which one changed byte, the address
of a group's names, makes HDF5's own library (2.0.0) fill 8 GB, all that it was allowed, to look up
a name.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from fastgru.arrays import Float32Array, TensorSource
from fastgru.errors import FormatError
from fastgru.formats.strided import read_float32
from fastgru.formats.window import Allowance
from fastgru.text import about

MAGIC = b"\x89HDF\r\n\x1a\n"

_SUPERBLOCK = struct.Struct("<8s8B2HL4Q")
_SYMBOL = struct.Struct("<2Q2L16x")  # of a name in a symbol table; the root group has one too
_HEADER = struct.Struct("<BxHLL4x")  # of an object
_MESSAGE = struct.Struct("<2HB3x")
_HEAP = struct.Struct("<4sB3x3Q")
_TREE = struct.Struct("<4s2BH2Q")
_TABLE = struct.Struct("<4sBxH")
_FLOAT = struct.Struct("<B3BL2H4BL")  # how its bits are laid out

_DATASPACE, _DATATYPE, _LAYOUT, _CONTINUATION, _GROUP = 0x01, 0x03, 0x08, 0x10, 0x11
_NEW_GROUP = (0x02, 0x06)  # of HDF5 1.8 and later, if it is asked for
_ELSEWHERE = {0x07: "external data", 0x0B: "compressed data"}
_CONTIGUOUS = 1
_CLASS_FLOAT, _CLASS_OPAQUE = 1, 5
_FLOATS = {  # first bit and size of the exponent, then of the mantissa, and the bias
    (2, 10, 5, 0, 10, 15): "float16",
    (2, 7, 8, 0, 7, 127): "bfloat16",
    (4, 23, 8, 0, 23, 127): "float32",
    (8, 52, 11, 0, 52, 1023): "float64",
}
_MAX_DEPTH = 32  # of groups in groups; a layer in three nested models stands at 10
_ENTRY_COST = 400  # bytes that we keep for an object or a name, beside what it holds


class _Object(NamedTuple):
    """What matters of an object's messages, by their kinds."""

    messages: dict[int, bytes]

    @property
    def is_group(self) -> bool:
        return _GROUP in self.messages


class Hdf5File:
    """The `size` bytes of `file` from `start` on; FormatError where they are no such file."""

    def __init__(self, file: BinaryIO, start: int, size: int, allowance: Allowance) -> None:
        self._file, self._start, self._size = file, start, size
        self._allowance = allowance
        self._left = 2 * size  # a sound file's structures are read once
        self._objects: dict[int, _Object] = {}
        self._groups: dict[int, dict[str, int]] = {}
        magic, version, *rest = _SUPERBLOCK.unpack(self._read(0, _SUPERBLOCK.size))
        if magic != MAGIC:
            raise FormatError("expected an HDF5 file")
        if version != 0:
            raise FormatError(
                f"HDF5 in version {version} of its format: expected 0, which h5py and Keras write "
                "unless they are asked for another (libver)"
            )
        sizes, base, end = (rest[4], rest[5]), rest[10], rest[12]
        if sizes != (8, 8) or base or end > size:
            raise _damaged(f"it should have {end} bytes from {base} on, it has {size}")
        self._size = end
        symbol = self._read(_SUPERBLOCK.size, _SYMBOL.size)
        self._root: int = _SYMBOL.unpack(symbol)[1]
        if not self._object(self._root).is_group:
            raise _damaged("its root is no group")

    def names(self, path: str = "") -> list[str]:
        """What the group at `path` holds, in order; nothing where there is no such group."""
        address = self._find(path)
        is_group = address is not None and self._object(address).is_group
        return list(self._members(address)) if address is not None and is_group else []

    def is_group(self, path: str) -> bool:
        """Whether there is a group at `path`."""
        address = self._find(path)
        return address is not None and self._object(address).is_group

    def groups(self) -> Iterator[str]:
        """The path of every group; FormatError for more than the file can hold."""
        paths, left = [""], self._size // _HEADER.size
        while paths:
            path = paths.pop()
            left -= 1
            if left < 0 or path.count("/") > _MAX_DEPTH:
                raise _damaged("its groups hold each other")
            yield path
            inner = (f"{path}/{name}" if path else name for name in self.names(path))
            paths += [path for path in inner if self.is_group(path)][::-1]

    def variables(self, path: str) -> list[TensorSource]:
        """Those of the layer at `path`, in Keras's order; none where Keras wrote none."""
        path = f"{path}/vars"
        names = self.names(path)
        if sorted(names) != sorted(str(number) for number in range(len(names))):
            raise FormatError(f"{path}: expected names 0, 1, ..., got {', '.join(names)[:200]}")
        return [self._source(f"{path}/{number}") for number in range(len(names))]

    def _find(self, path: str) -> int | None:
        """The address of the object at `path`; None where there is none."""
        address: int | None = self._root
        for name in path.split("/") if path else ():
            if address is None or not self._object(address).is_group:
                return None
            address = self._members(address).get(name)
        return address

    def _source(self, path: str) -> TensorSource:
        address = self._find(path)
        messages = {} if address is None else self._object(address).messages
        missing = {_DATASPACE, _DATATYPE, _LAYOUT}.difference(messages)
        if missing:
            raise FormatError(f"{path}: expected an array, got something else")
        try:
            for kind, what in _ELSEWHERE.items():
                if kind in messages:
                    raise FormatError(f"{what}, which Keras does not write")
            shape = _shape(messages[_DATASPACE])
            dtype, item, known = _dtype(messages[_DATATYPE])
            start, stored = _place(messages[_LAYOUT])
            expected = math.prod(shape) * item
            if known and expected != stored:
                text = f"expected {expected} bytes for {shape} of {dtype}, got {stored}"
                raise FormatError(text)
            if known and stored and start + stored > self._size:
                raise FormatError(f"cut off: {stored} bytes at {start} of {self._size}")
        except FormatError as error:
            raise FormatError(about(path, error)) from error

        def read() -> Float32Array:
            self._allowance.take(4 * math.prod(shape))
            stride = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
            return read_float32(self._file, self._start + start, dtype, shape, stride)

        return TensorSource(shape, dtype, known, read if known else _nothing)

    def _object(self, address: int) -> _Object:
        if address not in self._objects:
            messages: dict[int, bytes] = {}
            for kind, flags, data in self._messages(address):
                if kind in _NEW_GROUP:
                    raise FormatError("a group in a newer form of HDF5, which Keras does not write")
                if kind in (_DATASPACE, _DATATYPE, _LAYOUT, _GROUP, *_ELSEWHERE):
                    if kind in messages or flags & 2:  # kept elsewhere
                        raise _damaged(f"message {kind} of an object makes no sense")
                    messages[kind] = data
            self._allowance.take(_ENTRY_COST + sum(map(len, messages.values())))
            self._objects[address] = _Object(messages)
        return self._objects[address]

    def _messages(self, address: int) -> Iterator[tuple[int, int, bytes]]:
        """Kind, flags and content of every message in an object's header."""
        version, count, _, length = _HEADER.unpack(self._read(address, _HEADER.size))
        if version != 1:
            raise _damaged(f"an object's header has version {version}, expected 1")
        blocks = [(address + _HEADER.size, length)]
        for block_address, block_length in blocks:  # which grows
            block = self._read(block_address, block_length)
            place = 0
            while place + _MESSAGE.size <= len(block):
                kind, size, flags = _MESSAGE.unpack_from(block, place)
                data = block[place + _MESSAGE.size : place + _MESSAGE.size + size]
                place += _MESSAGE.size + size
                count -= 1
                if len(data) != size or count < 0:
                    raise _damaged("an object's messages do not fit")
                if kind == _CONTINUATION:
                    blocks.append(_unpack("<2Q", data))
                yield kind, flags, data

    def _members(self, address: int) -> dict[str, int]:
        """Names in a group and where their objects are."""
        if address not in self._groups:
            tree, heap = _unpack("<2Q", self._object(address).messages[_GROUP])
            magic, version, length, _, start = _HEAP.unpack(self._read(heap, _HEAP.size))
            if magic != b"HEAP" or version != 0:
                raise _damaged("the names of a group are missing")
            names = self._read(start, length)
            members: dict[str, int] = {}
            for place, member in self._symbols(tree):
                name = _text(names, place)
                self._allowance.take(_ENTRY_COST + len(name))
                if name in members:
                    raise _damaged(f"{name[:100]!r} appears twice in a group")
                members[name] = member
            self._groups[address] = members
        return self._groups[address]

    def _symbols(self, tree: int) -> Iterator[tuple[int, int]]:
        """Of a group: each name's place among the names, and its object's address."""
        nodes = [(tree, -1)]
        while nodes:
            address, expected = nodes.pop()
            magic, kind, level, count, *_ = _TREE.unpack(self._read(address, _TREE.size))
            if magic != b"TREE" or kind != 0 or expected not in (-1, level):
                raise _damaged("the index of a group makes no sense")
            keys = self._read(address + _TREE.size, 16 * count)
            children = struct.unpack(f"<{2 * count}Q", keys)[1::2]
            if level:
                nodes += [(child, level - 1) for child in reversed(children)]
                continue
            for child in children:
                magic, version, used = _TABLE.unpack(self._read(child, _TABLE.size))
                if magic != b"SNOD" or version != 1:
                    raise _damaged("a table of a group makes no sense")
                table = self._read(child + _TABLE.size, _SYMBOL.size * used)
                for place, member, cache, _ in _SYMBOL.iter_unpack(table):
                    if cache == 2:
                        raise FormatError("a link to elsewhere, which Keras does not write")
                    yield place, member

    def _read(self, address: int, length: int) -> bytes:
        """Bytes of a structure."""
        self._left -= length
        if address + length > self._size or self._left < 0:
            raise _damaged(f"{length} bytes at {address} of {self._size} make no sense")
        self._file.seek(self._start + address)
        data = self._file.read(length)
        if len(data) != length:  # someone shortens the file meanwhile
            raise _damaged(f"expected {length} bytes at {address}, got {len(data)}")
        return data


def _shape(data: bytes) -> tuple[int, ...]:
    version, rank, _, kind = _unpack("<4B", data)
    if version not in (1, 2) or (version == 2 and kind > 1):
        raise _damaged("a shape that makes no sense")
    shape: tuple[int, ...] = _unpack(f"<{rank}Q", data[8 if version == 1 else 4 :])
    return shape


def _dtype(data: bytes) -> tuple[str, int, bool]:
    """A name, the bytes of an element, and whether it is a kind of floating number that we know."""
    kind, order, sign, _, size = _unpack("<B3BL", data)
    if kind & 15 == _CLASS_OPAQUE and size == 2:
        return "bfloat16", 2, True  # the only thing that Keras writes like this
    if kind & 15 == _CLASS_FLOAT:
        _, _, _, _, _, first, bits, *layout = _unpack(_FLOAT.format, data)
        name = _FLOATS.get((size, *layout))
        if name and (first, bits) == (0, 8 * size) and (order, sign) == (0x20, 8 * size - 1):
            return name, size, True
        return f"other floating numbers of {size} bytes (big-endian?)", size, False
    return f"no floating numbers (class {kind & 15}, {size} bytes)", size, False


def _place(data: bytes) -> tuple[int, int]:
    """Where a dataset's data starts, and its length."""
    version, kind = _unpack("<2B", data)
    if version != 3 or kind != _CONTIGUOUS:
        raise FormatError("expected data in one piece, as Keras writes it, got chunks or the like")
    start, length = _unpack("<2Q", data[2:])
    return start, length


def _unpack(layout: str, data: bytes) -> Any:
    size = struct.calcsize(layout)
    if len(data) < size:
        raise _damaged(f"expected a message of {size} bytes, got {len(data)}")
    return struct.unpack(layout, data[:size])


def _text(names: bytes, place: int) -> str:
    end = names.find(b"\0", place)
    if end < 0:
        raise _damaged("a name is cut off")
    try:
        return names[place:end].decode("utf-8")
    except UnicodeDecodeError as error:
        raise _damaged(f"{names[place:end][:50]!r} is no name") from error


def _damaged(what: str) -> FormatError:
    return FormatError(f"damaged HDF5 file: {what}")


def _nothing() -> Float32Array:
    return np.zeros((), np.float32)
