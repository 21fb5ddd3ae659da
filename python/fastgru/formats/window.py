"""Reading a file that may lie: its end, and the memory that it may ask for, stay in view.

The readers of torch.save files compare every length that such a file claims with what is there
before a byte is allocated (`Window`), and pay for what they keep (`Allowance`). Refuses to read
past the end, and to keep more than twice the file's size and a constant: FormatError.
"""

from __future__ import annotations

from typing import BinaryIO

from fastgru.arrays import byte_text
from fastgru.errors import FormatError

SPARE = 1 << 24  # so that a small checkpoint may hold a vocabulary of 50,000 words


class Allowance:
    """How many bytes a file of `size` bytes may still make us keep: tensors, names, numbers."""

    def __init__(self, size: int) -> None:
        self.left = 2 * size + SPARE

    def take(self, count: int) -> None:
        """Counts `count` bytes before they are allocated; they are never given back."""
        self.left -= count
        if self.left < 0:
            raise FormatError(
                "what it holds takes more memory than twice the file's size and "
                f"{byte_text(SPARE, 1024)}"
            )


class Window:
    """The bytes `start` to `end` of a file, read in order. One is in use at a time.

    >>> import io
    >>> window = Window(io.BytesIO(b"abcdef"), 1, 4)
    >>> window.read(2), window.position
    (b'bc', 3)
    >>> window.read(2)
    Traceback (most recent call last):
    fastgru.errors.FormatError: cut off: expected 2 bytes, got 1
    """

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self._file = file
        self._end = end
        self.position = start
        file.seek(start)

    def read(self, count: int) -> bytes:
        """The next `count` bytes."""
        self._need(count)
        data = self._file.read(count)
        self._moved(len(data), count)
        return data

    def skip(self, count: int) -> None:
        """Passes over `count` bytes."""
        self._need(count)
        self.position += count
        self._file.seek(self.position)

    def line(self, limit: int) -> bytes:
        """What comes before the next newline, which is passed over too; `limit` bytes at most."""
        data = self._file.readline(min(limit + 1, self._end - self.position))
        if not data.endswith(b"\n"):
            raise FormatError(f"expected a line of at most {limit} bytes, got {data[:50]!r}")
        self.position += len(data)
        return data[:-1]

    def _need(self, count: int) -> None:
        if count > self._end - self.position:
            left = self._end - self.position
            raise FormatError(f"cut off: expected {count} bytes, got {left}")

    def _moved(self, got: int, count: int) -> None:
        if got != count:  # someone shortens the file meanwhile
            raise FormatError(f"cut off: expected {count} bytes, got {got}")
        self.position += count
