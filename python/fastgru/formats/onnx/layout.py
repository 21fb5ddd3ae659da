"""Operations that move, split and join axes of what depends on the input, kept as bookkeeping.

Nothing is calculated: a Transpose permutes names of axes, a Reshape joins and splits them. What
takes a part is picks.py's. Refuses whatever would need the numbers, and says of which axis.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from fastgru.errors import FormatError, UnsupportedLayerError
from fastgru.formats.onnx import arguments
from fastgru.formats.onnx.graph import Node
from fastgru.formats.onnx.plans import LayerPlan
from fastgru.formats.onnx.regroup import broadcast, regroup
from fastgru.formats.onnx.sizes import Size
from fastgru.formats.onnx.tensors import Array
from fastgru.formats.onnx.values import (
    Axes,
    Const,
    Data,
    Dims,
    Fill,
    Group,
    Moment,
    Piece,
    Repeated,
    Step,
    Tracked,
    Value,
    axes_text,
    size_of,
)

Values = Sequence[Value | None]
T = TypeVar("T", bound=Tracked)

_MAX_ROW = 1 << 20  # features of a layer; what a constant of a few bytes may ask for
REPEATED = "a constant is repeated as often as the input's sizes say"


def const_at(inputs: Values, index: int) -> Array | None:
    """An input that must be a constant, if it is there."""
    value = inputs[index] if index < len(inputs) else None
    if value is None:
        return None
    if isinstance(value, Fill):
        return _row_of(value)
    if isinstance(value, Repeated):
        raise UnsupportedLayerError(REPEATED)
    if not isinstance(value, Const):
        raise UnsupportedLayerError(f"its input {index} depends on the graph's input")
    return value.array


def _row_of(value: Fill) -> Array:
    """One number as the row that it is; what a call decides, and all larger ones, are refused."""
    shape = value.shape
    if shape is None or any(isinstance(size, Size) for size in shape):
        raise UnsupportedLayerError("a constant of one number, in a shape that a call decides")
    if math.prod(shape) not in (0, 1, max(shape)) or max(shape) > _MAX_ROW:
        raise UnsupportedLayerError(f"a constant of one number, in the shape {shape}")
    return np.broadcast_to(np.asarray(value.number), shape)


def consts(inputs: Values) -> list[Array | None]:
    """All inputs but the first, which must be arguments."""
    return [None, *(const_at(inputs, index) for index in range(1, len(inputs)))]


def tracked(inputs: Values, index: int = 0) -> Tracked | Fill:
    """An input that depends on the graph's."""
    value = inputs[index] if index < len(inputs) else None
    if value is None:
        raise FormatError(f"input {index} is missing")
    if isinstance(value, Repeated):
        raise UnsupportedLayerError(REPEATED)
    if not isinstance(value, Tracked | Fill):
        raise UnsupportedLayerError("it works on a constant, where fastgru has a layer for inputs")
    if isinstance(value, Moment):
        raise UnsupportedLayerError("it takes a stage of a layer norm that is written out")
    return value


def with_axes(value: T, axes: Axes) -> T:
    """The same numbers, arranged otherwise."""
    return dataclasses.replace(value, axes=axes)


def transpose(node: Node, inputs: Values, opset: int) -> Value:
    value = tracked(inputs)
    if isinstance(value, Fill):
        return Fill(value.number)
    rank = len(value.axes)
    perm = node.many("perm", int) or tuple(range(rank))[::-1]
    if sorted(perm) != list(range(rank)):
        raise FormatError(f"perm {perm} of {rank} axes")
    return with_axes(value, tuple(value.axes[axis] for axis in perm))


def squeeze(node: Node, inputs: Values, opset: int) -> Value:
    value = tracked(inputs)
    if isinstance(value, Fill):
        return Fill(value.number)
    axes = arguments.axes_of(node, consts(inputs), 1)
    rank = len(value.axes)
    gone = {arguments.axis_in(axis, rank) for axis in axes or ()}
    if axes is None:
        gone = {axis for axis, group in enumerate(value.axes) if not group}
        if any(size_of(group) == 1 or not _known(group) for group in value.axes if group):
            raise UnsupportedLayerError(
                f"which axes of {axes_text(value.axes)} are 1 depends on the input"
            )
    for axis in gone:
        if value.axes[axis]:
            raise UnsupportedLayerError(f"it takes axis {axis} away from {axes_text(value.axes)}")
    return with_axes(value, tuple(g for axis, g in enumerate(value.axes) if axis not in gone))


def unsqueeze(node: Node, inputs: Values, opset: int) -> Value:
    value = tracked(inputs)
    if isinstance(value, Fill):
        return Fill(value.number)
    axes = arguments.axes_of(node, consts(inputs), 1)
    if not axes:
        raise FormatError("Unsqueeze needs axes")
    rank = len(value.axes) + len(axes)
    new = {arguments.axis_in(axis, rank) for axis in axes}
    if len(new) != len(axes) or rank > arguments.SMALL:
        raise FormatError(f"axes {axes[:12]} of {rank} axes")
    old = iter(value.axes)
    return with_axes(value, tuple(() if axis in new else next(old) for axis in range(rank)))


def expand(value: Fill, inputs: Values) -> Fill:
    """One number, in a larger shape."""
    shape = const_at(inputs, 1)
    if shape is None:
        raise FormatError("Expand needs a shape")
    if value.shape is None:
        return value
    return Fill(value.number, tuple(broadcast(value.shape, arguments.entries(shape))))


def reshape(node: Node, inputs: Values, opset: int) -> Value:
    value = tracked(inputs)
    if isinstance(value, Fill):
        return Fill(value.number)
    shape = const_at(inputs, 1)
    if shape is None:
        raise FormatError("Reshape needs a shape")
    wanted: list[Any] = arguments.entries(shape)
    if not node.integer("allowzero", 0):
        for at, size in enumerate(wanted):
            if not isinstance(size, Size) and size == 0:
                if at >= len(value.axes):
                    raise FormatError(f"it keeps axis {at} of {len(value.axes)} axes")
                wanted[at] = value.axes[at]
    return _regrouped(value, wanted, node.declared)


def flatten(node: Node, inputs: Values, opset: int) -> Value:
    value = tracked(inputs)
    if isinstance(value, Fill):
        return Fill(value.number)
    axis = node.integer("axis", 1)
    if not -len(value.axes) <= axis <= len(value.axes):
        raise FormatError(f"axis {axis} of a value with {len(value.axes)} axes")
    parts = value.axes[:axis], value.axes[axis:]
    return with_axes(value, tuple(tuple(a for group in part for a in group) for part in parts))


def _regrouped(value: T, wanted: list[Any], declared: Dims | None) -> T:
    if sum(not isinstance(size, Size | tuple) and size == -1 for size in wanted) > 1:
        raise FormatError(f"shape {wanted[:12]} has several -1")
    time = value.frame.time if isinstance(value, Data) and value.frame else None
    axes = regroup(value.axes, wanted, time, declared)
    if axes is not None:
        return with_axes(value, axes)
    text = f"it turns axes {axes_text(value.axes)} into {wanted[:12]}"
    units = size_of(value.features) if isinstance(value, Data) else None
    numbers = [size for size in wanted if type(size) is int and size > 1 and size != units]
    is_free = time is not None and time.size is None and any(time in own for own in value.axes)
    is_free = is_free and not any(size in (time, (time,)) for size in wanted)  # it is kept
    if is_free and numbers:
        text += (
            f". One of {numbers} may be the {time} of the example that it was exported with, or "
            "may join parts of several sequences; the file does not tell. If it is the former, "
            "export with torch.onnx.export(dynamo=False), with fixed sizes, or keep the shapes "
            "that the exporter declares (value_info); if the latter, leave this reshape out"
        )
    raise UnsupportedLayerError(text)


def shape(node: Node, inputs: Values, opset: int) -> Value:
    value = tracked(inputs)
    if isinstance(value, Fill):
        if value.shape is None:
            raise UnsupportedLayerError("it asks for the shape of a constant that a call decides")
        return Const(arguments.symbolic(value.shape[arguments.shape_cut(node)]))
    if isinstance(value, Piece):
        raise UnsupportedLayerError("it asks for the shape of a part of the input")
    sizes = [size_of(group) for group in value.axes]
    return Const(arguments.symbolic(sizes[arguments.shape_cut(node)]))


def cast(node: Node, inputs: Values, opset: int) -> Value:
    """Floating types are one to fastgru, which calculates in float32; so are integers."""
    value = tracked(inputs)
    to = node.integer("to", 0)
    if isinstance(value, Fill):
        return value
    is_integer = isinstance(value, Data) and value.is_integer
    if is_integer and arguments.is_wide_integer_type(to):
        return value
    if not arguments.is_float_type(to):
        kind = "integers, which may not fit" if is_integer else "floats"
        raise UnsupportedLayerError(f"it makes data type {to} of {kind}")
    if not isinstance(value, Data) or not is_integer:
        return value
    if value.last is None:
        raise UnsupportedLayerError("the input is integers that become floating numbers")
    return dataclasses.replace(value, is_integer=False)  # a one-hot's


def _known(group: Group) -> bool:
    return not isinstance(size_of(group), Size)


def then(
    value: Data, plan: LayerPlan, axes: Axes | None = None, features: Group | None = None
) -> Data:
    """`value` after one more layer."""
    return dataclasses.replace(
        value,
        last=Step(plan, value.last),
        axes=value.axes if axes is None else axes,
        features=value.features if features is None else features,
    )


def data_at(inputs: Values, index: int = 0) -> Data:
    """An input that is sequences or rows after layers."""
    value = tracked(inputs, index)
    if not isinstance(value, Data):
        raise UnsupportedLayerError(
            "it takes last states that are not put together as a layer of fastgru has them"
        )
    return value


def float_rows(value: Data) -> Data:
    """With the features last, where products and biases work."""
    if value.is_integer:
        raise FormatError("it takes integers")
    if not value.axes or value.axes[-1] != value.features:
        raise UnsupportedLayerError(
            f"the last axis of its input, {axes_text(value.axes)}, is not the features"
        )
    return value
