"""Gather, Slice and Concat of what depends on the input: steps, layers and directions.

What takes a step out of time becomes a layer; parts of last states are kept until they are put
together as some layer has them. Refuses all other parts, and says of which axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastgru.errors import UnsupportedLayerError
from fastgru.formats.onnx import arguments
from fastgru.formats.onnx.graph import Node
from fastgru.formats.onnx.layout import Values, const_at, consts, then, tracked, with_axes
from fastgru.formats.onnx.plans import LayerPlan, StatePlan
from fastgru.formats.onnx.sizes import Atom, Size, bounds, is_integer
from fastgru.formats.onnx.values import (
    Axes,
    Data,
    Fill,
    Group,
    Half,
    Piece,
    States,
    Tracked,
    Value,
    axes_text,
    size_of,
)
from fastgru.over_time import Last, Reverse

_FAR = 2**31 - 1  # an end that means "to the end", whatever the size


def gather(node: Node, inputs: Values, opset: int) -> Value:
    value = tracked(inputs)
    if isinstance(value, Fill):
        return Fill(value.number)
    indices = const_at(inputs, 1)
    if indices is None or indices.size != 1 or indices.ndim > 1:
        raise UnsupportedLayerError("it picks several parts of what depends on the input")
    axis = arguments.axis_in(node.integer("axis", 0), len(value.axes))
    index = _from_end(indices.reshape(-1)[0], size_of(value.axes[axis]))
    if not is_integer(index):
        raise UnsupportedLayerError(
            f"it picks {index} of axis {axis} of {axes_text(value.axes)}; fastgru.Last takes the "
            "last step, which is -1 or T - 1"
        )
    return _pick(value, axis, index, index + 1 or _FAR, keep=indices.ndim == 1)


def cut(node: Node, inputs: Values, opset: int) -> Value:
    """Slice."""
    value = tracked(inputs)
    if isinstance(value, Fill):
        return Fill(value.number)
    for axis, first, end, step in arguments.slices_of(node, consts(inputs), len(value.axes)):
        group = value.axes[axis]
        size = size_of(group)
        start, stop = _from_end(first, size), _stop_from_end(end, size, step)
        to_end = is_integer(stop) and stop >= _end(size)
        if step == 1 and to_end and is_integer(start) and (start == 0 or start <= -_end(size)):
            continue
        if not (is_integer(start) and is_integer(stop)):
            raise UnsupportedLayerError(
                f"it takes {start} to {stop} of axis {axis} of {axes_text(value.axes)}; fastgru "
                "takes all steps of a sequence, the first or the last one"
            )
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


def concat(node: Node, inputs: Values, opset: int) -> Value:
    values = [tracked(inputs, index) for index in range(len(inputs))]
    fills = [value for value in values if isinstance(value, Fill)]
    if len(fills) == len(values) and all(fill.number == fills[0].number for fill in fills):
        return Fill(fills[0].number)
    if fills:
        raise UnsupportedLayerError("it joins a constant to what depends on the input")
    if len(values) == 1:
        return values[0]
    axis = arguments.axis_in(node.integer("axis", 1), len(_axes(values[0])))
    halves = [value for value in values if isinstance(value, Half)]
    if len(halves) == len(values) == 2:
        return _joined(halves[0], halves[1], axis)
    states = [value for value in values if isinstance(value, Data) and _is_state(value)]
    if len(states) == len(values):
        return _stacked(states, axis)
    raise UnsupportedLayerError("it joins values that are not last states of GRUs")


def _pick(value: Tracked, axis: int, start: int, stop: int, *, keep: bool) -> Tracked:
    """Elements `start` to `stop` of an axis; which stays, with size 1, or goes."""
    group = value.axes[axis]
    size = size_of(group)
    if not isinstance(size, Size):
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
    if isinstance(value, States) and group in (
        (value.layers,),
        (value.layers, *value.parts[0].features[:-1]),
    ):
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


def _is_time(value: Tracked | Fill, group: Group) -> bool:
    return isinstance(value, Data) and value.frame is not None and group == (value.frame.time,)


def _end(size: int | Atom) -> int:
    return _FAR if isinstance(size, Size) else size


def _from_end(index: Any, size: int | Atom) -> Any:
    """T - 1 as -1, if it counts from the end of an axis of size T; what else is symbolic, as is.

    T - 2 stays what it is: where T is 1 it is -1, and that is the last element and none before it.
    """
    if not isinstance(index, Size):
        return int(index)
    behind = index - size
    if is_integer(behind):
        return -1 if behind == -1 else _FAR if behind >= 0 else index
    return index


def _stop_from_end(stop: Any, size: int | Atom, step: int) -> Any:
    """The same of an end, which may also lie behind the axis's first element or its last."""
    if isinstance(stop, Size) and step < 0 and bounds(stop + size)[1] < 0:
        return -_FAR - 1
    return _from_end(stop, size)


def _axes(value: Tracked | Fill) -> Axes:
    return () if isinstance(value, Fill) else value.axes


def _is_state(value: Data) -> bool:
    return value.last is not None and isinstance(value.last.plan, StatePlan)
