"""Arithmetic of constants, element by element, and of the sizes of a call among them.

An operation has two functions: NumPy's, for arrays of numbers, and one for arrays in which there
are Sizes. The second gives UNKNOWN where a call decides, so that no sound graph fails here.
Refuses what it has no function for, and divisions by zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from fastgru.errors import FormatError, UnsupportedLayerError
from fastgru.formats.onnx import sizes
from fastgru.formats.onnx.arguments import OBJECT, Inputs, axes_of, axis_in, need, tidy
from fastgru.formats.onnx.graph import Node
from fastgru.formats.onnx.tensors import Array
from fastgru.formats.window import Allowance


def _quotient(a: Array, b: Array) -> Any:
    if a.dtype.kind == "f":
        return a / b
    if not b.all():
        raise UnsupportedLayerError("it divides by zero")
    return np.abs(a) // np.abs(b) * np.sign(a) * np.sign(b)  # rounded towards zero


def _remainder(a: Array, b: Array) -> Any:
    if a.dtype.kind == "f":
        return np.fmod(a, b)
    if not b.all():
        raise UnsupportedLayerError("it divides by zero")
    return np.mod(a, b)


# operation -> what it makes of numbers, and what of Sizes
_ONE: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "Abs": (np.abs, sizes.magnitude),
    "Neg": (np.negative, lambda a: -a),
    "Not": (np.logical_not, sizes.negation),
}
_TWO: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "Add": (np.add, lambda a, b: a + b),
    "And": (np.logical_and, sizes.both),
    "Div": (_quotient, sizes.quotient),
    "Equal": (np.equal, sizes.equal),
    "Greater": (np.greater, lambda a, b: sizes.less(b, a)),
    "GreaterOrEqual": (np.greater_equal, lambda a, b: sizes.less_or_equal(b, a)),
    "Less": (np.less, sizes.less),
    "LessOrEqual": (np.less_equal, sizes.less_or_equal),
    "Max": (np.maximum, sizes.larger),
    "Min": (np.minimum, sizes.smaller),
    "Mod": (_remainder, sizes.remainder),
    "Mul": (np.multiply, lambda a, b: a * b),
    "Or": (np.logical_or, sizes.either),
    "Sub": (np.subtract, lambda a, b: a - b),
}
_MANY = ("Max", "Min")  # of any number of inputs
_REDUCED = {"ReduceMax": "Max", "ReduceMin": "Min", "ReduceProd": "Mul", "ReduceSum": "Add"}

OPERATIONS = frozenset([*_ONE, *_TWO, *_REDUCED, "Where"])


def calculate(node: Node, inputs: Inputs, allowance: Allowance) -> Array:
    """What one of OPERATIONS makes of constants."""
    if node.op in _REDUCED:
        return tidy(_reduction(node, inputs, allowance))
    if node.op == "Where":
        which, a, b = (need(inputs, at) for at in range(3))
        if which.dtype.kind not in "bO":
            raise FormatError(f"expected conditions, got {which.dtype}")
        return _applied(np.where, sizes.chosen, (which, a, b), allowance)
    if node.op in _ONE:
        return _applied(*_ONE[node.op], (need(inputs, 0),), allowance)
    if node.op == "Mod" and node.integer("fmod", 0) and need(inputs, 0).dtype.kind != "f":
        raise UnsupportedLayerError("a remainder with the sign of what is divided")
    arrays = [need(inputs, at) for at in range(max(len(inputs), 1 if node.op in _MANY else 2))]
    if len(arrays) > 2 and node.op not in _MANY:
        raise FormatError(f"it takes two inputs, got {len(arrays)}")
    return reduce(lambda a, b: _applied(*_TWO[node.op], (a, b), allowance), arrays)


def _applied(
    of_numbers: Callable[..., Any],
    of_sizes: Callable[..., Any],
    arrays: tuple[Array, ...],
    allowance: Allowance,
) -> Array:
    shape = np.broadcast_shapes(*(array.shape for array in arrays))
    allowance.take(8 * math.prod(shape))
    if all(array.dtype != OBJECT for array in arrays):
        return np.asarray(of_numbers(*arrays))
    whole = [np.broadcast_to(array.astype(OBJECT), shape).reshape(-1) for array in arrays]
    items = [_size(of_sizes(*values)) for values in zip(*whole, strict=True)]
    result = np.empty(len(items), OBJECT)
    result[:] = items
    return tidy(result.reshape(shape))


def _size(value: Any) -> Any:
    """Floating numbers come from sizes that became such, and are followed no further."""
    is_followed = isinstance(value, (bool, sizes.Size)) or sizes.is_integer(value)
    return sizes.within_int64(value) if is_followed else sizes.UNKNOWN


def _reduction(node: Node, inputs: Inputs, allowance: Allowance) -> Array:
    array, axes = need(inputs, 0), axes_of(node, inputs, 1)
    if not axes and node.integer("noop_with_empty_axes", 0):
        return array
    if 0 in array.shape:
        raise UnsupportedLayerError("it reduces a constant that has no elements")
    over = {axis_in(axis, array.ndim) for axis in axes or range(array.ndim)}
    of_numbers, of_sizes = _TWO[_REDUCED[node.op]]
    for axis in over:
        slices = [np.take(array, [at], axis) for at in range(array.shape[axis])]
        array = reduce(lambda a, b: _applied(of_numbers, of_sizes, (a, b), allowance), slices)
    keep = node.integer("keepdims", 1)
    return array if keep else np.squeeze(array, tuple(over))
