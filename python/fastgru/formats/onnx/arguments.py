"""What ONNX nodes are told beside their data: axes, sizes, where to cut; and types by number.

An argument was an attribute in old opsets and is an input in newer ones; both are read here.
Integers may be Sizes, which a call decides. Refuses what makes no sense for the value that it is
about: FormatError.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastgru.errors import FormatError, UnsupportedLayerError
from fastgru.formats.onnx.graph import Node
from fastgru.formats.onnx.sizes import Size
from fastgru.formats.onnx.tensors import Array

OBJECT = np.dtype(object)
SMALL = 64  # axes of a shape, and elements of a shape of one number that is made at once

_FLOAT_TYPES = (1, 10, 11, 16)  # of TensorProto.DataType
_INTEGER_TYPES = (2, 3, 4, 5, 6, 7, 12, 13)
_WIDE_INTEGER_TYPES = (6, 7)  # INT32 and INT64

Inputs = Sequence[Array | None]


def is_float_type(elem_type: int) -> bool:
    """Whether TensorProto's `elem_type` is a real floating one."""
    return elem_type in _FLOAT_TYPES


def is_integer_type(elem_type: int) -> bool:
    """Whether TensorProto's `elem_type` is an integer's."""
    return elem_type in _INTEGER_TYPES


def is_wide_integer_type(elem_type: int) -> bool:
    """Whether TensorProto's `elem_type` is an integer's that holds any index."""
    return elem_type in _WIDE_INTEGER_TYPES


def symbolic(values: Sequence[Any]) -> Array:
    """A vector of sizes: int64, or of dtype object where there are Sizes."""
    array = np.empty(len(values), OBJECT)
    array[:] = values
    return tidy(array)


def tidy(array: Array) -> Array:
    """Without Sizes an array is one of int64, or of booleans."""
    if array.dtype != OBJECT or any(isinstance(item, Size) for item in array.flat):
        return array
    is_bool = array.size > 0 and all(isinstance(item, bool) for item in array.flat)
    return array.astype(np.bool_ if is_bool else np.int64)


def entries(array: Array) -> list[Any]:
    """A shape's sizes, each an int or a Size."""
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.dtype != OBJECT):
        raise FormatError(f"expected a list of sizes, got {array.dtype} of shape {array.shape}")
    if len(array) > SMALL:
        raise FormatError(f"a shape of {len(array)} axes")
    values: list[Any] = array.tolist()
    return values


def axes_of(node: Node, inputs: Inputs, position: int) -> list[int] | None:
    """The axes of Squeeze and its like: an attribute once, an input since; None for none."""
    given = node.many("axes", int)
    if given is None and (array := optional(inputs, position)) is not None:
        given = tuple(integers(array))
    return None if given is None else list(given)


def integers(array: Array) -> list[int]:
    """A vector, or one number, of known integers; UnsupportedLayerError where a call decides."""
    if array.dtype == OBJECT:
        raise UnsupportedLayerError(
            f"{', '.join(map(str, array.flat))[:100]} depends on the input's sizes; fastgru needs "
            "a number there"
        )
    if array.ndim > 1 or array.dtype.kind not in "iu" or array.size > SMALL:
        raise FormatError(f"expected integers, got {array.dtype} of shape {array.shape}")
    values: list[int] = array.reshape(-1).tolist()
    return values


def axis_in(axis: int, rank: int) -> int:
    """`axis` counted from the front; FormatError where there is none."""
    if not -rank <= axis < rank:
        raise FormatError(f"axis {axis} of a value with {rank} axes")
    return axis % rank


def slices_of(node: Node, inputs: Inputs, rank: int) -> list[tuple[int, Any, Any, int]]:
    """(axis, start, stop, step) for each axis that a Slice cuts; starts and stops may be Sizes."""
    starts: Sequence[Any] | None = node.many("starts", int)
    stops: Sequence[Any] | None = node.many("ends", int)
    axes = node.many("axes", int)
    steps: Sequence[int] | None = None
    if starts is None or stops is None:
        starts, stops = entries(need(inputs, 1)), entries(need(inputs, 2))
        given = optional(inputs, 3)
        axes = None if given is None else tuple(integers(given))
        by = optional(inputs, 4)
        steps = None if by is None else integers(by)
    axes = tuple(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    if not len(starts) == len(stops) == len(axes) == len(steps):
        raise FormatError("starts, ends, axes and steps are not of one length")
    if 0 in steps:
        raise FormatError("a step of 0")
    found = [axis_in(axis, rank) for axis in axes]
    return list(zip(found, starts, stops, steps, strict=True))


def shape_cut(node: Node) -> slice:
    """Which axes a Shape tells."""
    return slice(
        node.integer("start", 0), node.integer("end") if "end" in node.attributes else None
    )


def need(inputs: Inputs, index: int) -> Array:
    array = inputs[index] if index < len(inputs) else None
    if array is None:
        raise FormatError(f"input {index} is missing")
    return array


def optional(inputs: Inputs, index: int) -> Array | None:
    return inputs[index] if index < len(inputs) else None
