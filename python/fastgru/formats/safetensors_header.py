"""The header of a safetensors file: which tensor lies where, of which dtype and shape.

A file is eight bytes of the header's length, the header (a JSON object), and the tensors' bytes.
JSON's own parser makes up to thirty times its text of a list of `{}`, before anyone can judge what
it made. A header has one form only, and so it is scanned here entry by entry, in the bytes that
were read: whatever has another form is refused where it stands, and a header that is accepted takes
a few times its own length.
Refuses headers that are longer than 100 MB or than the file, unknown dtypes, names that appear
twice, sizes that are not those of the shape, and tensors that overlap or leave a gap: FormatError.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from array import array
from collections.abc import Iterator, Mapping
from typing import BinaryIO, NamedTuple

import numpy as np

from fastgru.arrays import shape_text
from fastgru.errors import FormatError
from fastgru.formats.window import Allowance
from fastgru.text import about, printable, report

MAX_LENGTH = 100_000_000  # the safetensors package's own limit
MAX_AXES = 64  # NumPy's limit, and more than PyTorch's operations take
METADATA = "__metadata__"
BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("C64", "F64", "I64", "U64"), 64),
}
"""The bits of an element, for every dtype that the safetensors package knows (0.8)."""

_MAX_LISTED = 12
# Bytes that Python keeps for a tensor beside its name's text, and for a pair of metadata; a
# backslash is what may cut a text into parts while it is decoded.
_TENSOR_COST, _PAIR_COST, _ESCAPE_COST = 144, 240, 80

# Nothing here backtracks (`*+`), so that a text of 100 MB needs no stack of that length.
_SPACE = rb"[ \t\r\n]*+"
_STRING = rb'"[^"\\\x00-\x1f]*+(?:\\["\\/bfnrtu][^"\\\x00-\x1f]*+)*+"'
_NUMBER = rb"(?:0|[1-9][0-9]{0,18})"
_COMMA, _COLON = _SPACE + rb"," + _SPACE, _SPACE + rb":" + _SPACE
_FIELD = b"".join((
    rb'(?:"dtype"', _COLON, rb'"(?P<dtype>[A-Za-z0-9_]{1,32})"',
    rb'|"shape"', _COLON, rb"\[", _SPACE,
    rb"(?P<shape>(?:", _NUMBER, rb"(?:", _COMMA, _NUMBER, rb"){0,%d})?)" % (MAX_AXES - 1),
    _SPACE, rb"\]",
    rb'|"data_offsets"', _COLON, rb"\[", _SPACE,
    rb"(?P<begin>", _NUMBER, rb")", _COMMA, rb"(?P<end>", _NUMBER, rb")", _SPACE, rb"\])",
))  # fmt: skip
_INFO = rb"\{(?:" + _SPACE + _FIELD + _SPACE + rb'(?:,(?=[ \t\r\n]*+")|(?=\}))){3}\}'
_NEXT = _SPACE + rb"(?P<next>[,}])"
_TENSOR = re.compile(_SPACE + rb"(?P<name>" + _STRING + rb")" + _COLON + _INFO + _NEXT)
_METADATA = re.compile(_SPACE + rb'"__metadata__"' + _COLON + rb"\{")
_PAIR = re.compile(
    _SPACE + rb"(?P<name>" + _STRING + rb")" + _COLON + rb"(?P<value>" + _STRING + rb")" + _NEXT
)
_EMPTY, _AFTER, _END = (re.compile(p) for p in (_SPACE + rb"\}", _NEXT, _SPACE + rb"\Z"))
_WANTED = '"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}'


class Entry(NamedTuple):
    """What the header says of a tensor, which was found to be sound."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    """The first byte, in the file."""
    size: int
    """The number of bytes."""


class Header(Mapping[str, Entry]):
    """The entries by name, in the header's order.

    An entry is made when it is asked for: until then it is only a place in the header's text.
    """

    def __init__(self, text: bytes, data_start: int, places: dict[str, int]) -> None:
        self._text = text
        self._data_start = data_start
        self._places = places

    def __getitem__(self, name: str) -> Entry:
        match = _TENSOR.match(self._text, self._places[name])
        assert match is not None  # it was scanned
        begin, end = int(match["begin"]), int(match["end"])
        dtype = match["dtype"].decode()
        return Entry(dtype, _shape(match["shape"]), self._data_start + begin, end - begin)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def read_header(file: BinaryIO) -> tuple[Header, dict[str, str]]:
    """The entries and the metadata of an open file; FormatError if it is damaged."""
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    limit = max(0, min(size - 8, MAX_LENGTH))
    if size < 8 or length > limit:
        raise FormatError(f"the header claims {length} bytes, at most {limit} are possible")
    text = file.read(length)
    if len(text) < length:  # someone shortens the file meanwhile
        raise FormatError(f"cut off: expected {length} bytes of the header, got {len(text)}")
    scan = _Scan(text, size - 8 - length, Allowance(size))
    scan.run()
    return Header(text, 8 + length, scan.places), scan.metadata


class _Scan:
    """One pass over a header, which it owns the findings of."""

    def __init__(self, text: bytes, data_size: int, allowance: Allowance) -> None:
        self.places: dict[str, int] = {}
        self.metadata: dict[str, str] = {}
        self._text = text
        self._data_size = data_size
        self._allowance = allowance
        self._has_metadata = False
        self._begins, self._ends = array("q"), array("q")
        self._problems: list[str] = []
        self._repeated: dict[str, int] = {}

    def run(self) -> None:
        if self._text[:1] != b"{":
            raise self._damage(0, "{")
        empty = _EMPTY.match(self._text, 1)
        position = empty.end() if empty else self._entries(1)
        if not _END.match(self._text, position):
            raise self._damage(position, "the header's end")
        self._problems += [f"{printable(n)}: appears {c} times" for n, c in self._repeated.items()]
        if not self._problems:
            self._problems += self._gaps()
        if self._problems:
            raise FormatError(
                about("damaged safetensors file", report("the header", self._problems))
            )

    def _entries(self, position: int) -> int:
        """Scans what stands between the braces; the place after them."""
        while True:
            match = _TENSOR.match(self._text, position)
            if match is not None:
                self._tensor(match)
            else:
                match = self._metadata(position)
            position = match.end()
            if match["next"] == b"}" or len(self._problems) >= _MAX_LISTED:
                break
        # A dozen problems are enough: what follows them is not looked at.
        return position if match["next"] == b"}" else len(self._text)

    def _tensor(self, match: re.Match[bytes]) -> None:
        token, dtype, shape, begin, end, _ = match.groups()
        name = self._decoded(token, match.start(), _TENSOR_COST)
        if name == METADATA or dtype is None or shape is None or begin is None:
            raise self._damage(match.start(), _WANTED)
        if name in self.places:
            self._repeat(name)
            return
        first, last = int(begin), int(end)
        problem = _problem(dtype.decode(), _shape(shape), first, last)
        if not problem and last > self._data_size:
            problem = f"ends at byte {last} of {self._data_size} bytes of tensors"
        if problem:
            self._problems.append(f"{printable(name)}: {problem}")
            first = last = 0
        self.places[name] = match.start()
        self._begins.append(first)
        self._ends.append(last)

    def _metadata(self, position: int) -> re.Match[bytes]:
        """Scans the object of strings at `position`; the match of what follows it."""
        start = _METADATA.match(self._text, position)
        if start is None:
            raise self._damage(position, _WANTED)
        if self._has_metadata:
            self._repeat(METADATA)
        self._has_metadata = True
        position = start.end()
        end = _EMPTY.match(self._text, position)
        while end is None:
            pair = _PAIR.match(self._text, position)
            if pair is None:
                raise self._damage(position, 'a string and its string, "format": "pt"')
            name = self._decoded(pair["name"], position, _PAIR_COST)
            if name in self.metadata:
                self._repeat(f"{METADATA}: {name}")
            self.metadata[name] = self._decoded(pair["value"], position, 0)
            position = pair.end()
            if pair["next"] == b"}":
                break
        else:
            position = end.end()
        after = _AFTER.match(self._text, position)
        if after is None:
            raise self._damage(position, "a comma or the header's end")
        return after

    def _decoded(self, token: bytes, position: int, cost: int) -> str:
        """A string of JSON with its quotes, paid for before it is made."""
        escapes = token.count(b"\\")
        # an emoji makes four bytes of every character
        width = 1 if token.isascii() else 4
        self._allowance.take(cost + width * len(token) + _ESCAPE_COST * escapes)
        try:
            if not escapes:
                return str(memoryview(token)[1:-1], "utf-8")
            text: str = json.loads(token)
            text.encode()  # half a surrogate pair is no text
        except ValueError as error:
            raise self._damage(position, "a string in UTF-8") from error
        return text

    def _repeat(self, name: str) -> None:
        if name in self._repeated or len(self._repeated) < _MAX_LISTED:
            self._repeated[name] = self._repeated.get(name, 1) + 1

    def _gaps(self) -> Iterator[str]:
        """The first place where a tensor does not begin where the one before it ends."""
        begins = np.frombuffer(self._begins, np.int64)
        ends = np.frombuffer(self._ends, np.int64)
        order = np.lexsort((ends, begins))
        before = np.zeros(len(order) + 1, np.int64)
        before[1:] = ends[order]
        wrong = np.flatnonzero(before[:-1] != begins[order])
        if len(wrong):
            index = int(order[wrong[0]])
            name = next(itertools.islice(self.places, index, None))
            expected, got = int(before[wrong[0]]), int(begins[index])
            what = "overlaps another tensor" if got < expected else "leaves a gap before it"
            yield f"{printable(name)}: {what}: expected to begin at byte {expected}, got {got}"
        elif before[-1] != self._data_size:
            yield f"the tensors end at byte {before[-1]} of {self._data_size}"

    def _damage(self, position: int, expected: str) -> FormatError:
        got = self._text[position : position + 80]
        return FormatError(
            "damaged safetensors file: the header is not valid JSON of this format: at byte "
            f"{position} expected {expected}, got {repr(got)[1:]}"
        )


def _shape(text: bytes) -> tuple[int, ...]:
    return tuple(map(int, text.split(b","))) if text else ()


def _problem(dtype: str, shape: tuple[int, ...], begin: int, end: int) -> str | None:
    """What is wrong with an entry by itself; Python's integers do not overflow."""
    bits = BITS.get(dtype)
    if bits is None:
        known = "a newer fastgru may know it (pip install --upgrade fastgru)"
        return f"unknown dtype {printable(dtype, 50)}; {known}"
    if begin > end:
        return f"begins at byte {begin} and ends at {end}"
    needed = math.prod(shape) * bits
    # NumPy and PyTorch have no array of such a shape either, even where an axis of 0 makes it empty
    if (needed or math.prod(n or 1 for n in shape) * bits) >= 1 << 66:
        return f"{dtype} {shape_text(shape)} is larger than any memory"
    if needed % 8 or needed // 8 != end - begin:
        parts = f"{needed // 8} bytes" if needed % 8 == 0 else f"{needed} bits"
        return f"expected {parts} for {dtype} {shape_text(shape)}, got {end - begin}"
    return None
