"""Strided tensors in a file -> float32 arrays, read piece by piece in the order of the file.

A tensor of PyTorch is an offset, sizes and strides over a storage. `element_span` proves that every
element lies within; `read_float32` needs no more memory than the result and a buffer, also for a
transposed or a sliced tensor. Refuses tensors whose elements share memory (expanded ones): they may
be much larger than the file.
"""

from __future__ import annotations

import math
from typing import Any, BinaryIO

import numpy as np

from fastgru.arrays import Float32Array, shape_text
from fastgru.errors import FormatError

CODES = {"float32": "<f4", "float64": "<f8", "float16": "<f2", "bfloat16": "<u2"}
_BUFFER = 1 << 16  # elements that are read at once


def element_span(offset: Any, size: Any, stride: Any, count: int) -> tuple[int, ...]:
    """The shape, if all elements of the tensor are among the `count` of its storage.

    The arguments come from a file and may be anything; Python's integers do not overflow.

    >>> element_span(1, (2, 3), (1, 2), 7)
    (2, 3)
    >>> element_span(1, (2, 3), (1, 2), 6)
    Traceback (most recent call last):
    fastgru.errors.FormatError: elements up to 7 of a storage of 6
    """
    numbers = (offset, *size, *stride) if type(size) is tuple and type(stride) is tuple else ()
    if not numbers or len(size) != len(stride) or not all(type(n) is int for n in numbers):
        raise FormatError("a shape that makes no sense")
    if min(numbers) < 0 or max(numbers) >= 1 << 63:
        raise FormatError("a shape that makes no sense: numbers outside 0..2**63-1")
    shape: tuple[int, ...] = size
    if 0 not in shape:
        end = offset + 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        if end > count:
            raise FormatError(f"elements up to {end} of a storage of {count}")
    return shape


def read_float32(
    file: BinaryIO, start: int, dtype: str, shape: tuple[int, ...], stride: tuple[int, ...]
) -> Float32Array:
    """The tensor whose first element is at byte `start`, as C-contiguous float32 of `shape`.

    `dtype` is one of CODES. The caller has proved that its elements are in the file.
    """
    order = sorted(range(len(shape)), key=lambda axis: -stride[axis])
    axes = [axis for axis in order if shape[axis] != 1]
    steps = [stride[axis] for axis in axes]
    if 0 not in shape and _overlap([shape[axis] for axis in axes], steps):
        raise FormatError(
            f"an expanded tensor, {shape_text(shape)} with strides {shape_text(stride)}; "
            "save its .clone() or .contiguous()"
        )
    result = np.empty(shape, np.float32)
    if result.size:
        ones = [axis for axis in order if shape[axis] == 1]
        in_file_order = result.transpose(axes + ones).squeeze(tuple(range(len(axes), len(order))))
        _fill(in_file_order, file, start, dtype, steps)
    return result


def _overlap(shape: list[int], stride: list[int]) -> bool:
    """Whether elements may share memory; the strides descend."""
    span = 1
    for n, step in zip(reversed(shape), reversed(stride), strict=True):
        if step < span:
            return True
        span += (n - 1) * step
    return False


def _fill(target: Float32Array, file: BinaryIO, start: int, dtype: str, stride: list[int]) -> None:
    """Reads into `target`, a view whose axes are in the order of the file."""
    item = np.dtype(CODES[dtype]).itemsize
    if target.ndim == 0:
        target[()] = _read(file, start, dtype, 1)[0]
        return
    row = math.prod(target.shape[1:])  # elements of a step along the first axis
    packed = stride[1:] == [math.prod(target.shape[axis + 1 :]) for axis in range(1, target.ndim)]
    step = stride[0]
    if not packed or row > _BUFFER or (step != row and target.ndim > 1):
        for index in range(target.shape[0]):
            _fill(target[index, ...], file, start + index * step * item, dtype, stride[1:])
        return
    together = max(1, _BUFFER // step)
    for index in range(0, target.shape[0], together):
        part = target[index : index + together]
        count = (len(part) - 1) * step + row
        data = _read(file, start + index * step * item, dtype, count)
        part[...] = data[::step] if target.ndim == 1 else data.reshape(part.shape)


def _read(file: BinaryIO, start: int, dtype: str, count: int) -> Float32Array:
    code = np.dtype(CODES[dtype])
    file.seek(start)
    data = file.read(count * code.itemsize)
    if len(data) != count * code.itemsize:  # someone shortens the file meanwhile
        raise FormatError(f"cut off: expected {count * code.itemsize} bytes, got {len(data)}")
    array = np.frombuffer(data, code)
    if dtype == "bfloat16":  # the upper half of a float32
        return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    with np.errstate(all="ignore"):  # too large for float32 is inf, as in torch, silently
        return array.astype(np.float32, copy=False)
