"""Turns what a user passes (arrays, lists, torch tensors) into the arrays that `_core` takes.

Real floating numbers become float32, integers become int64. Refuses to guess: integers where
floating numbers are meant, complex, object and string arrays, and tensors that are not in CPU
memory raise TypeError with the argument's name. Shapes are the core's business. torch is never
imported: its tensors are known by what they can do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastgru.errors import ShapeError
from fastgru.text import number_text, printable

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]

FLOAT32 = np.dtype(np.float32)
INT64 = np.dtype(np.int64)
_MAX_AXES = 8  # that a message lists
_FLOATING = "float32 (or float64, float16, bfloat16, longdouble)"


@dataclass(frozen=True)
class TensorSource:
    """A tensor that can be judged by shape and dtype before its data is read or converted."""

    shape: tuple[int, ...]
    dtype: str
    is_real_float: bool
    read: Callable[[], Float32Array]  # C-contiguous, of `shape`
    no_tensor: bool = False  # something else has the name, and `dtype` says what


def as_float32(name: str, value: ArrayLike) -> Float32Array:
    """`value` as native, aligned float32 whose last axis is contiguous; copied only if needed.

    >>> as_float32("x", [[1.0, 2.0]]).dtype
    dtype('float32')
    """
    # The flag `carray` is contiguous + aligned + writable, one attribute instead of three.
    # dtype objects of unpickled arrays are not the singleton and take the long way.
    if type(value) is np.ndarray and value.dtype is FLOAT32 and value.flags.carray:
        return value
    array = _as_array(name, value)
    dtype = array.dtype
    if not is_real_float(dtype):
        raise TypeError(f"{printable(name)}: expected {_FLOATING}, got {dtype}")
    if dtype != FLOAT32:
        with np.errstate(all="ignore"):  # too large for float32 is inf, as in torch, silently
            return array.astype(FLOAT32, order="C")
    if not array.flags.aligned or (array.size > 1 and _last_axis_strided(array)):
        return array.copy(order="C")
    return array


def as_state(name: str, value: ArrayLike) -> Float32Array:
    """As `as_float32`, and C-contiguous: what `_core` wants of states, which are small."""
    array = as_float32(name, value)
    return array if array.flags.c_contiguous else array.copy(order="C")


def as_states(name: str, values: Sequence[ArrayLike]) -> list[Float32Array]:
    """As `as_state` for each of several GRUs: NAME[0], NAME[1], ..."""
    return [as_state(f"{name}[{index}]", value) for index, value in enumerate(values)]


def _last_axis_strided(array: NDArray[Any]) -> bool:
    return array.ndim > 0 and array.shape[-1] > 1 and array.strides[-1] != array.itemsize


def as_int64(name: str, value: ArrayLike) -> Int64Array:
    """`value` (integers of any width, not bools) as native, aligned, C-contiguous int64.

    Copied only if needed; of the same shape.

    >>> as_int64("lengths", [3, 1])
    array([3, 1])
    """
    if type(value) is np.ndarray and value.dtype is INT64 and value.flags.carray:
        return value
    array = _as_array(name, value)
    if array.size == 0 and isinstance(value, (list, tuple)):
        return np.zeros(array.shape, np.int64)  # NumPy takes an empty list for float64
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got {array.dtype}")
    if array.dtype.kind == "u" and array.dtype.itemsize == 8:
        array = np.minimum(array, np.uint64(np.iinfo(np.int64).max))  # out of range, not negative
    integers: Int64Array = np.asarray(array, dtype=np.int64, order="C")
    return integers if integers.flags.aligned else integers.copy()  # np.asarray does not align


def source_of(name: str, value: ArrayLike | TensorSource) -> TensorSource:
    """Describes a tensor of a model; TypeError for a torch tensor not dense in CPU memory."""
    if isinstance(value, TensorSource):
        return value
    try:
        array = _as_array(name, value)
    except ShapeError:
        array = np.array(None)  # rows of different lengths are no more use than any other object
    return TensorSource(
        shape=array.shape,
        dtype=str(array.dtype),
        is_real_float=is_real_float(array.dtype),
        read=lambda: np.ascontiguousarray(as_float32(name, array)),
    )


def is_real_float(dtype: np.dtype[Any]) -> bool:
    """Whether `dtype` holds real floating numbers; bfloat16 is known by name (ml_dtypes)."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def is_torch_tensor(value: object) -> bool:
    return hasattr(value, "detach") and hasattr(value, "numpy")


def shape_text(shape: tuple[int | str, ...]) -> str:
    """Like repr, where a dimension that is not known may be a letter: `(768, I)`.

    Of a file's shape, which may have a million dimensions of a thousand digits, only the start.
    """
    sizes = [n if isinstance(n, str) else number_text(n) for n in shape[:_MAX_AXES]]
    if len(shape) > _MAX_AXES:
        sizes.append(f"... {len(shape)} axes")
    return f"({', '.join(sizes)}{',' if len(shape) == 1 else ''})"


def byte_text(count: int, base: int = 1000) -> str:
    """A number of bytes for people: `1.2 MB`; caches are told in powers of 1024."""
    exponent = min(int(math.log(max(count, 1), base)), 3)
    unit = ("bytes", "kB", "MB", "GB") if base == 1000 else ("bytes", "KiB", "MiB", "GiB")
    return f"{count / base**exponent:.4g} {unit[exponent]}"


def _as_array(name: str, value: Any) -> NDArray[Any]:
    if is_torch_tensor(value):
        return _from_torch(name, value)
    try:
        return np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise ShapeError(f"{printable(name)}: not a rectangular array ({error})") from error


def _from_torch(name: str, tensor: Any) -> NDArray[Any]:
    if tensor.device.type != "cpu":
        raise TypeError(
            f"{printable(name)}: expected a tensor in CPU memory, got one on {tensor.device}; "
            "pass its .cpu()"
        )
    tensor = tensor.detach()
    if str(tensor.dtype) == "torch.bfloat16":  # NumPy has no such dtype; widening is exact
        tensor = tensor.float()
    try:
        array: NDArray[Any] = tensor.numpy()
    except (TypeError, RuntimeError) as error:  # sparse, quantized, 8-bit floats
        raise TypeError(
            f"{printable(name)}: expected a dense tensor of {_FLOATING}, got {tensor.dtype}, "
            f"{tensor.layout}"
        ) from error
    return array
