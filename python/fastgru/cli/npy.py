"""`.npy` files of the command line: inputs are read where they lie, outputs have their room first.

So neither has to fit in memory, and a full disk is an error before the work, not a crash in it.
Refuses what is not one whole array of numbers; nothing is unpickled.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from fastgru.arrays import shape_text
from fastgru.errors import FormatError
from fastgru.formats.npz_file import MAX_HEADER, npy_header
from fastgru.formats.regular import open_regular
from fastgru.text import about, number_text, printable

_NUMBERS = re.compile(r"[<>=|]?[fiu](?:[1248]|16)")


def read_npy(path: Path) -> NDArray[Any]:
    """The array in the file, read-only, and not in memory; FormatError, OSError."""
    name = os.fspath(path)
    try:
        file = open_regular(name)
    except FormatError as error:
        raise FormatError(about(name, error)) from None
    with file:
        shape, fortran_order, descr, offset = npy_header(name, file.read(MAX_HEADER + 12))
        size = os.fstat(file.fileno()).st_size
        if not _NUMBERS.fullmatch(descr):
            raise FormatError(f"{name}: expected an array of numbers, got {printable(descr)}")
        dtype = np.dtype(descr)
        expected = offset + math.prod(shape) * dtype.itemsize
        if size != expected:
            wanted = f"{number_text(expected)} bytes for {shape_text(shape)} of {dtype}"
            raise FormatError(f"{name}: expected {wanted}, got {size}")
        order: Literal["C", "F"] = "F" if fortran_order else "C"
        array: NDArray[Any] = np.memmap(file, dtype, "r", offset, shape, order)
        return np.asarray(array)


def create_npy(file: BinaryIO, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[np.float32]]:
    """A float32 array of `shape` in a new, empty file, which is to be written to; OSError."""
    array: Any = np.lib.format.open_memmap(file.name, "w+", np.float32, shape)
    if hasattr(os, "posix_fallocate"):  # else a disk that is full would be a bus error
        os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    result: np.memmap[Any, np.dtype[np.float32]] = array
    return result
