"""Operations that move, split and join axes of what depends on the input, kept as bookkeeping.

Nothing is calculated: a Transpose permutes names of axes, a Reshape joins and splits them. What
takes a part is picks.py's. Refuses whatever would need the numbers, and says of which axis.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from fastgru.errors import FormatError, UnsupportedLayerError
from fastgru.formats.onnx import arguments
from fastgru.formats.onnx.graph import Node
from fastgru.formats.onnx.plans import LayerPlan
from fastgru.formats.onnx.tensors import Array
from fastgru.formats.onnx.values import (
    Atom,
    Axes,
    Const,
    Data,
    Fill,
    Group,
    Moment,
    Step,
    Tracked,
    Value,
    axes_text,
    regroup,
    size_of,
)

Values = Sequence[Value | None]
T = TypeVar("T", bound=Tracked)


def const_at(inputs: Values, index: int) -> Array | None:
    """An input that must be a constant, if it is there."""
    value = inputs[index] if index < len(inputs) else None
    if value is None:
        return None
    if isinstance(value, Fill):
        return np.full(1, value.number)
    if not isinstance(value, Const):
        raise UnsupportedLayerError(f"its input {index} depends on the graph's input")
    return value.array


def consts(inputs: Values) -> list[Array | None]:
    """All inputs but the first, which must be arguments."""
    return [None, *(const_at(inputs, index) for index in range(1, len(inputs)))]


def tracked(inputs: Values, index: int = 0) -> Tracked | Fill:
    """An input that depends on the graph's."""
    value = inputs[index] if index < len(inputs) else None
    if value is None or not isinstance(value, Tracked | Fill):
        raise FormatError(f"input {index} is missing or is a constant")
    if isinstance(value, Moment):
        raise UnsupportedLayerError("it takes a stage of a layer norm that is written out")
    return value


def with_axes(value: T, axes: Axes) -> T:
    """The same numbers, arranged otherwise."""
    return dataclasses.replace(value, axes=axes)


def transpose(node: Node, inputs: Values, opset: int) -> Value:
    value = tracked(inputs)
    if isinstance(value, Fill):
        return value
    rank = len(value.axes)
    perm = node.many("perm", int) or tuple(range(rank))[::-1]
    if sorted(perm) != list(range(rank)):
        raise FormatError(f"perm {perm} of {rank} axes")
    return with_axes(value, tuple(value.axes[axis] for axis in perm))


def squeeze(node: Node, inputs: Values, opset: int) -> Value:
    value = tracked(inputs)
    if isinstance(value, Fill):
        return value
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
        return value
    axes = arguments.axes_of(node, consts(inputs), 1)
    if not axes:
        raise FormatError("Unsqueeze needs axes")
    rank = len(value.axes) + len(axes)
    new = {arguments.axis_in(axis, rank) for axis in axes}
    if len(new) != len(axes) or rank > arguments.SMALL:
        raise FormatError(f"axes {axes[:12]} of {rank} axes")
    old = iter(value.axes)
    return with_axes(value, tuple(() if axis in new else next(old) for axis in range(rank)))


def reshape(node: Node, inputs: Values, opset: int) -> Value:
    value = tracked(inputs)
    if isinstance(value, Fill):
        return value
    shape = const_at(inputs, 1)
    if shape is None:
        raise FormatError("Reshape needs a shape")
    wanted: list[Any] = arguments.entries(shape)
    if not node.integer("allowzero", 0):
        for at, size in enumerate(wanted):
            if not isinstance(size, Atom) and size == 0:
                if at >= len(value.axes):
                    raise FormatError(f"it keeps axis {at} of {len(value.axes)} axes")
                wanted[at] = value.axes[at]
    return _regrouped(value, wanted)


def flatten(node: Node, inputs: Values, opset: int) -> Value:
    value = tracked(inputs)
    if isinstance(value, Fill):
        return value
    axis = node.integer("axis", 1)
    if not -len(value.axes) <= axis <= len(value.axes):
        raise FormatError(f"axis {axis} of a value with {len(value.axes)} axes")
    parts = value.axes[:axis], value.axes[axis:]
    return with_axes(value, tuple(tuple(a for group in part for a in group) for part in parts))


def _regrouped(value: T, wanted: list[Any]) -> T:
    if sum(not isinstance(size, Atom | tuple) and size == -1 for size in wanted) > 1:
        raise FormatError(f"shape {wanted[:12]} has several -1")
    time = value.frame.time if isinstance(value, Data) and value.frame else None
    axes = regroup(value.axes, wanted, time)
    if axes is None:
        raise UnsupportedLayerError(f"it turns axes {axes_text(value.axes)} into {wanted[:12]}")
    return with_axes(value, axes)


def shape(node: Node, inputs: Values, opset: int) -> Value:
    value = tracked(inputs)
    if isinstance(value, Fill):
        raise UnsupportedLayerError(
            "it asks for the shape of a constant that the input's sizes decide"
        )
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
    return not isinstance(size_of(group), Atom)


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
