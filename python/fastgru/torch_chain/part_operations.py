"""Operations that take a part: the last step, axes of size 1, states of h_n.

Refuses parts that no layer of fastgru gives, such as the first step.
"""

from __future__ import annotations

from typing import Any

from fastgru.over_time import Last
from fastgru.torch_chain.layer_operations import over
from fastgru.torch_chain.shape_operations import unsqueeze, with_axes
from fastgru.torch_chain.state_operations import half_of_output
from fastgru.torch_chain.state_operations import part as part_of_states
from fastgru.torch_chain.values import (
    AT_MOST_THREE,
    FEATURES,
    ONE,
    TIME,
    Facts,
    Refused,
    Size,
    States,
    other_count,
    position,
    tensor_of,
)

_ALL = slice(None)


def select(facts: Facts, value: object, dim: object, index: object) -> object:
    if isinstance(value, States):
        return part_of_states(value, index if dim == 0 else None)
    at = position(dim, tensor_of(value).axes)
    return getitem(facts, value, (*[_ALL] * at, index))


def getitem(facts: Facts, value: object, index: Any) -> object:
    """x[index]: the last step, an axis of size 1, a state; and parts of tuples."""
    if isinstance(value, tuple):
        if not isinstance(index, (int, slice)):
            raise Refused(f"expected a number as the index, got {type(index).__name__}")
        if isinstance(index, int) and not -len(value) <= index < len(value):
            raise Refused(other_count(facts, value, index + 1 if index >= 0 else -index))
        return value[index]
    if isinstance(value, States):
        return part_of_states(value, index)
    parts = index if isinstance(index, tuple) else (index,)
    x = tensor_of(value)
    given = [part for part in parts if part is not None and part is not ...]
    if not all(isinstance(part, (int, slice, Size)) for part in given):
        raise Refused("picks elements by value: fastgru has Last, the last step, x[:, -1]")
    whole = [_ALL] * (len(x.axes) - len(given))
    if ... in parts:
        at = parts.index(...)
        parts = (*parts[:at], *whole, *parts[at + 1 :])
    else:
        parts = (*parts, *whole)
    if len(given) > len(x.axes):
        more = f"; {AT_MOST_THREE}" if len(given) > 3 else ""
        raise Refused(f"takes {len(given)} indices of {facts.axes_text(x.axes)}{more}")
    times = [at for at, axis in enumerate(x.axes[:2]) if facts.role(axis) == TIME]
    if times and (half := half_of_output(facts, x, times[0], parts)) is not None:
        return half
    at = 0
    for part in parts:
        # also as x.size(...) - 1
        is_last = part in (-1, Size((x.axes[at],), 1)) if at < len(x.axes) else False
        if part is None:
            x = unsqueeze(facts, x, at)
            at += 1
        elif part == _ALL or part == slice(0, None):
            at += 1
        elif x.axes[at] == ONE and part in (0, -1):
            x = with_axes(x, x.axes[:at] + x.axes[at + 1 :])
        elif x.axes[at] != FEATURES and (is_last or part == slice(-1, None)):
            keep = isinstance(part, slice)
            x = over(facts, x, at, Last, keepdim=keep)
            at += keep
        else:
            raise Refused(
                f"takes a part of {facts.text(x.axes[at])}: fastgru has Last, the last step, "
                "x[:, -1] (batch_first) or x[-1]"
            )
    return x
