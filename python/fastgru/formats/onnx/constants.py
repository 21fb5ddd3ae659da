"""Constant parts of an ONNX graph, calculated: reordered weights, and shapes put together.

Only what exporters write around a GRU, by NumPy. Integers may be Sizes, which a call decides;
arithmetic on them is elementwise.py's. Every result is paid for before it is allocated. Refuses
operations on anything that the input decides, shapes apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastgru.errors import FormatError, UnsupportedLayerError
from fastgru.formats.onnx.arguments import (
    OBJECT,
    SMALL,
    Inputs,
    axes_of,
    axis_in,
    entries,
    integers,
    need,
    optional,
    shape_cut,
    slices_of,
    tidy,
)
from fastgru.formats.onnx.elementwise import OPERATIONS, calculate
from fastgru.formats.onnx.graph import LazyTensor, Node
from fastgru.formats.onnx.regroup import broadcast
from fastgru.formats.onnx.sizes import UNKNOWN, Size, as_bool
from fastgru.formats.onnx.tensors import Array
from fastgru.formats.onnx.values import Const, Fill, Repeated
from fastgru.formats.window import Allowance

# TensorProto.DataType -> what a constant becomes; bfloat16 is held as float32
_CASTS = {
    1: np.float32,
    6: np.int32,
    7: np.int64,
    9: np.bool_,
    10: np.float16,
    11: np.float64,
    16: np.float32,
}


def evaluate(
    node: Node, inputs: Inputs, opset: int, allowance: Allowance
) -> Sequence[Const | Fill | Repeated] | None:
    """What a node makes of constants; None for an operation that is not known here.

    FormatError for arguments that make no sense.
    """
    if node.op == "Constant":
        return [Const(_constant(node))]
    if node.op == "ConstantOfShape":
        value = node.attributes.get("value")
        number = value.read().reshape(-1)[:1] if isinstance(value, LazyTensor) else np.zeros(1, "f")
        return [spread(number, entries(need(inputs, 0)))]
    if node.op == "Expand":
        array = need(inputs, 0)
        return [_expand(array, entries(need(inputs, 1)), allowance)]
    if node.op == "Split":
        return [Const(part) for part in _split(node, inputs, opset)]
    if node.op == "Tile":
        return [_tile(need(inputs, 0), entries(need(inputs, 1)), allowance)]
    if node.op in OPERATIONS:
        with np.errstate(all="ignore"):
            return [Const(calculate(node, inputs, allowance))]
    function = _FUNCTIONS.get(node.op)
    if function is None:
        return None
    with np.errstate(all="ignore"):
        return [Const(tidy(function(node, inputs, opset, allowance)))]


def spread(number: Array, shape: list[Any]) -> Const | Fill:
    """One number in a shape: an array if it is small and known."""
    known = [size for size in shape if not isinstance(size, Size)]
    if any(size < 0 for size in known) or len(number) != 1:
        raise FormatError(f"expected one number and a shape, got {len(number)} and {shape}")
    if len(known) == len(shape) and math.prod(known) <= SMALL:
        array = np.empty(shape, number.dtype)  # which np.full would not keep
        array[...] = number[0]
        return Const(array)
    return Fill(number[0], tuple(shape))


def _constant(node: Node) -> Array:
    attributes = node.attributes
    if isinstance(tensor := attributes.get("value"), LazyTensor):
        return tensor.read()
    if "value_int" in attributes:
        return np.array(node.integer("value_int"), np.int64)
    if "value_float" in attributes:
        return np.array(node.number("value_float", 0.0), np.float32)
    if (ints := node.many("value_ints", int)) is not None:
        return np.array(ints, np.int64)
    if (floats := node.many("value_floats", float)) is not None:
        return np.array(floats, np.float32)
    raise UnsupportedLayerError("a constant that is no tensor of numbers")


def _expand(array: Array, shape: list[Any], allowance: Allowance) -> Const | Fill | Repeated:
    dynamic = any(isinstance(size, Size) for size in shape)
    if array.size == 1 or (dynamic and _is_one_number(array)):
        return spread(array.reshape(-1)[:1], broadcast(array.shape, shape))
    if dynamic:
        return Repeated()
    result = np.broadcast_shapes(array.shape, tuple(shape))
    allowance.take(math.prod(result) * array.itemsize)
    return Const(np.broadcast_to(array, result).copy())


def _is_one_number(array: Array) -> bool:
    return bool(array.size and array.dtype != OBJECT and (array == array.reshape(-1)[0]).all())


def _tile(array: Array, repeats: list[Any], allowance: Allowance) -> Const | Fill | Repeated:
    if len(repeats) != array.ndim:
        raise FormatError(f"it repeats {len(repeats)} axes of {array.ndim}")
    if any(isinstance(count, Size) for count in repeats):
        shape = [own * count for own, count in zip(array.shape, repeats, strict=True)]
        return spread(array.reshape(-1)[:1], shape) if _is_one_number(array) else Repeated()
    if any(count < 0 for count in repeats):
        raise FormatError(f"it repeats axes {repeats} times")
    allowance.take(math.prod(repeats) * array.nbytes)
    return Const(np.tile(array, repeats))


def _split(node: Node, inputs: Inputs, opset: int) -> list[Array]:
    array = need(inputs, 0)
    axis = axis_in(node.integer("axis", 0), array.ndim)
    sizes = node.many("split", int)
    if sizes is None and (given := optional(inputs, 1)) is not None:
        sizes = tuple(integers(given))
    if sizes is None:
        parts = len(node.outputs)
        each = -(-array.shape[axis] // parts)
        sizes = (each,) * (parts - 1) + (array.shape[axis] - each * (parts - 1),)
    if min(sizes) < 0 or sum(sizes) != array.shape[axis] or len(sizes) != len(node.outputs):
        raise FormatError(f"it splits {array.shape[axis]} into {sizes}")
    return np.split(array, np.cumsum(sizes)[:-1], axis)


def _cast(node: Node, inputs: Inputs, opset: int, allowance: Allowance) -> Array:
    array, to = need(inputs, 0), _CASTS.get(node.integer("to", 0))
    if to is None:
        raise UnsupportedLayerError(f"a constant of data type {node.integer('to', 0)}")
    if array.dtype == OBJECT:
        if np.dtype(to).kind == "i":
            return _mapped(array, lambda item: int(item) if isinstance(item, bool) else item)
        if to == np.bool_:
            return _mapped(array, as_bool)
        return _mapped(array, lambda item: UNKNOWN)  # a floating number, which may be rounded
    if array.dtype == to:
        return array
    allowance.take(array.size * np.dtype(to).itemsize)
    return array.astype(to)


def _gather(node: Node, inputs: Inputs, opset: int, allowance: Allowance) -> Array:
    array, indices = need(inputs, 0), need(inputs, 1)
    if indices.dtype.kind not in "iu":
        raise FormatError(f"expected indices, got {indices.dtype}")
    axis = axis_in(node.integer("axis", 0), array.ndim)
    others = math.prod(array.shape[:axis] + array.shape[axis + 1 :])
    allowance.take(indices.size * others * array.itemsize)
    return _array(np.take(array, indices, axis))


def _slice(node: Node, inputs: Inputs, opset: int, allowance: Allowance) -> Array:
    array = need(inputs, 0)
    cuts = [slice(None)] * array.ndim
    for axis, start, stop, step in slices_of(node, inputs, array.ndim):
        if isinstance(start, Size) or isinstance(stop, Size):
            raise UnsupportedLayerError("a constant is cut where the input's sizes say")
        # before the front, which Python would count from the end again
        last = None if step < 0 and stop < -array.shape[axis] else stop
        cuts[axis] = slice(start, last, step)
    return array[tuple(cuts)]


def _concat(node: Node, inputs: Inputs, opset: int, allowance: Allowance) -> Array:
    parts = [need(inputs, index) for index in range(len(inputs))]
    allowance.take(sum(part.nbytes for part in parts))
    return np.concatenate(parts, node.integer("axis", 1 if opset < 4 else None))


def _unsqueeze(node: Node, inputs: Inputs, opset: int, allowance: Allowance) -> Array:
    array, axes = need(inputs, 0), axes_of(node, inputs, 1)
    if axes is None or array.ndim + len(axes) > 2 * SMALL // 8:
        raise FormatError("Unsqueeze needs axes, and few of them")
    return np.expand_dims(array, tuple(axes))


def _squeeze(node: Node, inputs: Inputs, opset: int, allowance: Allowance) -> Array:
    axes = axes_of(node, inputs, 1)
    return np.squeeze(need(inputs, 0), None if axes is None else tuple(axes))


def _reshape(node: Node, inputs: Inputs, opset: int, allowance: Allowance) -> Array:
    array, shape = need(inputs, 0), entries(need(inputs, 1))
    if any(isinstance(size, Size) for size in shape):
        raise UnsupportedLayerError("a constant takes a shape that the input's sizes decide")
    if not node.integer("allowzero", 0):
        shape = [array.shape[at] if size == 0 else size for at, size in enumerate(shape)]
    if not array.flags.c_contiguous:
        allowance.take(array.nbytes)
    return array.reshape(shape)


def _transpose(node: Node, inputs: Inputs, opset: int, allowance: Allowance) -> Array:
    return np.transpose(need(inputs, 0), node.many("perm", int))


def _range(node: Node, inputs: Inputs, opset: int, allowance: Allowance) -> Array:
    bounds = [need(inputs, index).reshape(()) for index in range(3)]
    if any(bound.dtype.kind not in "iu" for bound in bounds):
        raise UnsupportedLayerError("a range that is not one of known integers")
    start, stop, step = (int(bound) for bound in bounds)
    numbers = range(start, stop, step)
    allowance.take(8 * len(numbers))
    return np.fromiter(numbers, np.int64)


def _shape(node: Node, inputs: Inputs, opset: int, allowance: Allowance) -> Array:
    return np.array(need(inputs, 0).shape[shape_cut(node)], np.int64)


def _array(value: Any) -> Array:
    if isinstance(value, (Size, int)):  # NumPy unpacks objects of no axes
        array = np.empty((), OBJECT)
        array[()] = value
        return array
    return np.asarray(value)


def _mapped(array: Array, change: Callable[[Any], Any]) -> Array:
    result = np.empty(array.size, OBJECT)
    result[:] = [change(item) for item in array.flat]
    return tidy(result.reshape(array.shape))


def _flatten(node: Node, inputs: Inputs, opset: int, allowance: Allowance) -> Array:
    array, axis = need(inputs, 0), node.integer("axis", 1)
    if not -array.ndim <= axis <= array.ndim:
        raise FormatError(f"axis {axis} of a constant with {array.ndim} axes")
    allowance.take(array.nbytes)
    return array.reshape(math.prod(array.shape[:axis]), -1) if array.size else array


def _identity(node: Node, inputs: Inputs, opset: int, allowance: Allowance) -> Array:
    return need(inputs, 0)


_FUNCTIONS: dict[str, Callable[[Node, Inputs, int, Allowance], Array]] = {
    "Identity": _identity,
    "Cast": _cast,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Range": _range,
    "Shape": _shape,
    "Flatten": _flatten,
}
