"""The directory of a zip archive, and where the bytes of its members are.

`read` lists what any archive holds. `stored_members` is for the archives that torch.save and Keras
write, in which every member lies as it is, so that parts of it can be read in place, and
`sound_bytes` for a member that must be whole. Nothing is ever extracted; names are only names.
Refuses archives whose records contradict each other or the file, and, in `stored_members`,
compressed, encrypted and overlapping members, names that appear twice and names that are paths to
elsewhere. Not `zipfile`: it takes hundreds of bytes for an entry of 46 before it can be asked, and
how strict it is depends on Python's version.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import BinaryIO

from fastgru.errors import FormatError
from fastgru.formats.window import Allowance, Window
from fastgru.text import Problems, brief, message_of, report

_END = struct.Struct("<4s4H2LH")
_LOCATOR_64 = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_MAX_COMMENT = 0xFFFF
_ENCRYPTED, _UTF8 = 0x0001, 0x0800
_ENTRY_COST = 400  # bytes that an Entry and a Member take, beside the name
_CHUNK = 1 << 20  # bytes whose checksum is taken at a time


@dataclass(frozen=True, slots=True)
class Entry:
    """What the directory says of a member. `header`: where its local header starts."""

    name: str
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    header: int


@dataclass(frozen=True, slots=True)
class Directory:
    entries: list[Entry]
    start: int  # where the members must have ended


@dataclass(frozen=True, slots=True)
class Member:
    """A stored member: its bytes are start to start + size. A CRC of 0 was not computed."""

    start: int
    size: int
    crc: int


def read(file: BinaryIO, size: int, allowance: Allowance) -> Directory:
    """The directory of an archive of `size` bytes; FormatError if it is damaged."""
    count, length, start, end = _end_record(file, size)
    if start + length > end or count * _CENTRAL.size > length:
        raise FormatError(f"damaged zip archive: {count} entries in {length} bytes at {start}")
    allowance.take(length + count * _ENTRY_COST)
    data = _at(file, start, length)
    entries = []
    place = 0
    for _ in range(count):
        entry, place = _entry(data, place)
        entries.append(entry)
    if place != length:
        raise FormatError(f"damaged zip archive: {length - place} bytes follow the directory")
    return Directory(entries, start)


def stored_members(file: BinaryIO, directory: Directory) -> dict[str, Member]:
    """Every member by name, each in bytes of its own; FormatError listing every problem."""
    members: dict[str, Member] = {}
    problems = Problems()
    end = 0  # of the member before
    for entry in sorted(directory.entries, key=lambda entry: entry.header):
        problem = _problem(entry)
        if entry.name in members:
            problem = "appears twice"
        start = entry.header
        if not problem and start < end:
            problem = "overlaps another member"
        if not problem:
            try:
                start = _data_start(file, entry, directory.start)
            except FormatError as error:
                problem = message_of(error)
        if problem:
            problems.append(f"{brief(entry.name)}: {problem}")
            continue
        members[entry.name] = Member(start, entry.size, entry.crc)
        end = start + entry.size
    if problems:
        raise FormatError(report("the zip archive", problems))
    return members


def _end_record(file: BinaryIO, size: int) -> tuple[int, int, int, int]:
    """Number of entries, length and start of the directory, and where the end record starts."""
    tail_start = max(0, size - _END.size - _MAX_COMMENT)
    tail = _at(file, tail_start, size - tail_start)
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < _END.size:
        raise FormatError("damaged zip archive: it has no end record")
    _, disk, first, here, count, length, start, comment = _END.unpack_from(tail, at)
    if (disk, first, here) != (0, 0, count) or at + _END.size + comment != len(tail):
        raise FormatError("damaged zip archive: its end record contradicts itself")
    end = tail_start + at
    if end < _LOCATOR_64.size:
        return count, length, start, end
    locator = _at(file, end - _LOCATOR_64.size, _LOCATOR_64.size)
    magic, disk, end_64, disks = _LOCATOR_64.unpack(locator)
    if magic != b"PK\6\7":
        return count, length, start, end
    if disk or disks != 1 or end_64 + _END_64.size > end:
        raise FormatError("damaged zip archive: its zip64 records contradict the file")
    record = _END_64.unpack(_at(file, end_64, _END_64.size))
    magic, _, _, _, disk, first, here, *large = record
    agree = all(
        old in (new, limit)
        for old, new, limit in zip(
            (count, length, start), large, (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF), strict=True
        )
    )
    if magic != b"PK\6\6" or (disk, first, here) != (0, 0, large[0]) or not agree:
        raise FormatError("damaged zip archive: its two end records contradict each other")
    return large[0], large[1], large[2], end_64


def _entry(data: bytes, place: int) -> tuple[Entry, int]:
    if len(data) - place < _CENTRAL.size:
        raise FormatError("damaged zip archive: the directory is cut off")
    fields = _CENTRAL.unpack_from(data, place)
    magic, _, _, flags, method, _, _, crc, packed, size = fields[:10]
    name_length, extra_length, comment_length, disk, _, _, header = fields[10:]
    extra_start = place + _CENTRAL.size + name_length
    extra_end = extra_start + extra_length
    if magic != b"PK\1\2" or disk or extra_end + comment_length > len(data):
        raise FormatError("damaged zip archive: an entry of the directory makes no sense")
    name = data[place + _CENTRAL.size : extra_start]
    try:
        text = name.decode("utf-8" if flags & _UTF8 else "latin-1")
    except UnicodeDecodeError as error:
        raise FormatError(f"damaged zip archive: {name[:50]!r} is no name") from error
    large = _zip64_sizes(data[extra_start:extra_end])
    sizes = [size, packed, header]
    for index, value in enumerate(sizes):
        if value == 0xFFFFFFFF and large:  # in this order, those that do not fit
            sizes[index] = large.pop(0)
    return Entry(text, flags, method, crc, sizes[1], sizes[0], sizes[2]), extra_end + comment_length


def _zip64_sizes(extra: bytes) -> list[int]:
    place = 0
    while place + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, place)
        if kind == 1:
            fitting = min(length, len(extra) - place - 4) // 8
            return list(struct.unpack_from(f"<{fitting}Q", extra, place + 4))
        place += 4 + length
    return []


def _problem(entry: Entry) -> str:
    name = entry.name
    if name.startswith("/") or any(c in name for c in "\\\0") or ".." in name.split("/"):
        return "a path to elsewhere"
    if entry.flags & _ENCRYPTED:
        return "encrypted"
    if entry.method != 0:
        return f"compressed (method {entry.method}), which torch.save does not do"
    if entry.packed != entry.size:
        return f"a stored member of {entry.packed} bytes claims to hold {entry.size}"
    return ""


def _data_start(file: BinaryIO, entry: Entry, end: int) -> int:
    if entry.header + _LOCAL.size > end:
        raise FormatError(f"its header at {entry.header} is beyond the members")
    local = _LOCAL.unpack(_at(file, entry.header, _LOCAL.size))
    magic, _, flags, method = local[:4]
    name_length, extra_length = local[9:]
    start: int = entry.header + _LOCAL.size + name_length + extra_length
    if magic != b"PK\3\4" or method != entry.method or flags & _ENCRYPTED:
        raise FormatError("its header contradicts the directory")
    if start + entry.size > end:
        raise FormatError(f"{entry.size} bytes from {start} on are beyond the members")
    encoded = entry.name.encode("utf-8" if entry.flags & _UTF8 else "latin-1")
    if _at(file, entry.header + _LOCAL.size, name_length) != encoded:
        raise FormatError("its header has another name")
    return start


def _at(file: BinaryIO, start: int, length: int) -> bytes:
    file.seek(start)
    data = file.read(length)
    if len(data) != length:
        raise FormatError(f"damaged zip archive: expected {length} bytes, got {len(data)}")
    return data


def sound_bytes(file: BinaryIO, member: Member, unset: Collection[int] = ()) -> Window:
    """The bytes of `member`, if they have its checksum, or it is one of `unset`: FormatError."""
    end = member.start + member.size
    window = Window(file, member.start, end)
    crc = 0
    while window.position < end:
        crc = zlib.crc32(window.read(min(_CHUNK, end - window.position)), crc)
    if member.crc != crc and member.crc not in unset:
        raise FormatError(f"damaged: expected the CRC {member.crc:08x}, got {crc:08x}")
    return Window(file, member.start, end)
