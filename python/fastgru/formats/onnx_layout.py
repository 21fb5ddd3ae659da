"""Operations that move, cut and join axes of what depends on the input, kept as bookkeeping.

Nothing is calculated: a Transpose permutes names of axes, a Reshape joins and splits them, and
what takes a step out of time becomes a layer. Refuses whatever fastgru's layers have no place for,
and says which axis it is about.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from fastgru.errors import FormatError, UnsupportedLayerError
from fastgru.formats import onnx_constants as constants
from fastgru.formats.onnx_graph import Node
from fastgru.formats.onnx_plans import LayerPlan, StatePlan
from fastgru.formats.onnx_tensors import Array
from fastgru.formats.onnx_values import (
    Atom,
    Axes,
    Const,
    Data,
    Fill,
    Group,
    Half,
    Moment,
    Piece,
    States,
    Step,
    Tracked,
    Value,
    axes_text,
    regroup,
    size_of,
)
from fastgru.over_time import Last, Reverse

Values = Sequence[Value | None]
_FAR = 2**31 - 1  # an end that means "to the end", whatever the size

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
    """All inputs but the first, which must be constants."""
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
    axes = constants.axes_of(node, consts(inputs), 1)
    rank = len(value.axes)
    gone = {constants.axis_in(axis, rank) for axis in axes or ()}
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
    axes = constants.axes_of(node, consts(inputs), 1)
    if not axes:
        raise FormatError("Unsqueeze needs axes")
    rank = len(value.axes) + len(axes)
    new = {constants.axis_in(axis, rank) for axis in axes}
    if len(new) != len(axes) or rank > constants.SMALL:
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
    wanted: list[Any] = constants.entries(shape)
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
    return Const(constants.symbolic(sizes[constants.shape_cut(node)]))


def cast(node: Node, inputs: Values, opset: int) -> Value:
    """Floating types are one to fastgru, which calculates in float32; so are integers."""
    value = tracked(inputs)
    to = node.integer("to", 0)
    if isinstance(value, Fill):
        return value
    is_integer = isinstance(value, Data) and value.is_integer
    if is_integer and constants.is_integer_type(to):
        return value
    if not constants.is_float_type(to):
        raise UnsupportedLayerError(
            f"it makes data type {to} of {'integers' if is_integer else 'floats'}"
        )
    if not isinstance(value, Data) or not is_integer:
        return value
    if value.last is None:
        raise UnsupportedLayerError("the input is integers that become floating numbers")
    return dataclasses.replace(value, is_integer=False)  # a one-hot's


def gather(node: Node, inputs: Values, opset: int) -> Value:
    value = tracked(inputs)
    if isinstance(value, Fill):
        return value
    indices = const_at(inputs, 1)
    if indices is None or indices.size != 1 or indices.ndim > 1:
        raise UnsupportedLayerError("it picks several parts of what depends on the input")
    axis = constants.axis_in(node.integer("axis", 0), len(value.axes))
    index = constants.integers(indices)[0]
    return _pick(value, axis, index, index + 1 or _FAR, keep=indices.ndim == 1)


def cut(node: Node, inputs: Values, opset: int) -> Value:
    """Slice."""
    value = tracked(inputs)
    if isinstance(value, Fill):
        return value
    for axis, start, stop, step in constants.slices_of(node, consts(inputs), len(value.axes)):
        group = value.axes[axis]
        size = size_of(group)
        if isinstance(start, Atom):
            raise UnsupportedLayerError("where it cuts depends on the input's sizes")
        to_end = stop is size if isinstance(stop, Atom) else stop >= _end(size)
        if step == 1 and to_end and (start == 0 or start <= -_end(size)):
            continue
        if isinstance(stop, Atom):
            raise UnsupportedLayerError("where it cuts depends on the input's sizes")
        all_back = step == -1 and stop < -_end(size) and (start == -1 or start >= _end(size) - 1)
        if all_back and isinstance(value, Data) and _is_time(value, group):
            value = then(value, LayerPlan(Reverse))
            continue
        if step != 1:
            raise UnsupportedLayerError(
                f"it takes axis {axis} of {axes_text(value.axes)} in steps of {step}"
            )
        value = _pick(value, axis, start, _FAR if to_end else stop, keep=True)
    return value


def _end(size: int | Atom) -> int:
    return _FAR if isinstance(size, Atom) else size


def _known(group: Group) -> bool:
    return not isinstance(size_of(group), Atom)


def _is_time(value: Tracked | Fill, group: Group) -> bool:
    return isinstance(value, Data) and value.frame is not None and group == (value.frame.time,)


def _pick(value: Tracked, axis: int, start: int, stop: int, *, keep: bool) -> Tracked:
    """Elements `start` to `stop` of an axis; which stays, with size 1, or goes."""
    group = value.axes[axis]
    size = size_of(group)
    if not isinstance(size, Atom):
        start = start + size if start < 0 else start
        stop = size if stop >= size else stop + size if stop < 0 else stop
        if not 0 <= start < stop <= size:
            raise UnsupportedLayerError(f"it takes {start} to {stop} of an axis of {size}")
    axes = value.axes[:axis] + (((),) if keep else ()) + value.axes[axis + 1 :]
    if not group:
        return with_axes(value, axes)
    if isinstance(value, Data):
        if _is_time(value, group):
            return _step_of(value, start, stop, size, axes)
        if len(value.features) == 2 and group == value.features[:1] and stop == start + 1:
            return Half(value, start, axes)
        if value.last is None and axis == 0 and 0 <= start < stop and keep:
            return Piece(value, start, stop, (group, *value.axes[1:]))
    if isinstance(value, States) and group[:1] == (value.layers,):
        return _layer_of(value, axis, start, stop, axes, keep=keep)
    raise UnsupportedLayerError(f"it takes a part of axis {axis} of {axes_text(value.axes)}")


def _step_of(value: Data, start: int, stop: int, size: int | Atom, axes: Axes) -> Data:
    """One step of all: the last, or the first, which is the last in reverse."""
    is_last = start == size - 1 if isinstance(size, int) else start == -1 and stop == _FAR
    if is_last:
        return then(value, LayerPlan(Last), axes)
    if (start, stop) == (0, 1):
        return then(then(value, LayerPlan(Reverse), axes), LayerPlan(Last), axes)
    raise UnsupportedLayerError(
        f"it takes steps {start} to {stop}; fastgru.Last takes the last one"
    )


def _layer_of(
    value: States, axis: int, start: int, stop: int, axes: Axes, *, keep: bool
) -> Tracked:
    group = value.axes[axis]
    directions = len(group) == 2
    layer, direction = divmod(start, 2) if directions else (start, 0)
    part = value.parts[layer]
    own = dict(zip(value.parts[0].features, part.features, strict=True))
    if directions and (direction, stop - start) == (0, 2) and keep:
        axes = (*axes[:axis], group[1:], *axes[axis + 1 :])
    elif stop - start != 1:
        raise UnsupportedLayerError(f"it takes {stop - start} of {len(value.parts)} last states")
    axes = tuple(tuple(own.get(atom, atom) for atom in group) for group in axes)
    if directions and stop - start == 1:
        return Half(part, direction, axes)
    return with_axes(part, axes)


def concat(node: Node, inputs: Values, opset: int) -> Value:
    values = [tracked(inputs, index) for index in range(len(inputs))]
    fills = [value for value in values if isinstance(value, Fill)]
    if len(fills) == len(values) and all(fill.number == fills[0].number for fill in fills):
        return fills[0]
    if fills:
        raise UnsupportedLayerError("it joins a constant to what depends on the input")
    if len(values) == 1:
        return values[0]
    axis = constants.axis_in(node.integer("axis", 1), len(_axes(values[0])))
    halves = [value for value in values if isinstance(value, Half)]
    if len(halves) == len(values) == 2:
        return _joined(halves[0], halves[1], axis)
    states = [value for value in values if isinstance(value, Data) and _is_state(value)]
    if len(states) == len(values):
        return _stacked(states, axis)
    raise UnsupportedLayerError("it joins values that are not last states of GRUs")


def _axes(value: Tracked | Fill) -> Axes:
    return () if isinstance(value, Fill) else value.axes


def _is_state(value: Data) -> bool:
    return value.last is not None and isinstance(value.last.plan, StatePlan)


def _joined(first: Half, second: Half, axis: int) -> Data:
    whole = first.whole
    units = whole.features[1:]
    same = whole.last is second.whole.last and first.axes == second.axes
    if not same or (first.direction, second.direction) != (0, 1) or first.axes[axis] != units:
        raise UnsupportedLayerError(
            "it joins other last states than the two directions of one GRU, in this order"
        )
    return with_axes(whole, (*first.axes[:axis], whole.features, *first.axes[axis + 1 :]))


def _stacked(parts: Sequence[Data], axis: int) -> States:
    first = parts[0]
    layers = Atom("layers", len(parts))
    for part in parts:
        own = dict(zip(part.features, first.features, strict=False))
        axes = tuple(tuple(own.get(atom, atom) for atom in group) for group in part.axes)
        if len(part.features) != len(first.features) or axes != first.axes:
            raise UnsupportedLayerError("it joins last states of different shapes")
    if first.axes[axis] not in ((), first.features[:-1]):
        raise UnsupportedLayerError("it joins last states of several GRU nodes as features")
    joined = (layers, *first.axes[axis])
    return States(tuple(parts), (*first.axes[:axis], joined, *first.axes[axis + 1 :]), layers)


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
