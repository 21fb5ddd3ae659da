"""Operations that take a part, or join parts: the last step, states of h_n, both directions.

Refuses parts that no layer of fastgru gives, such as the first step.
"""

from __future__ import annotations

from typing import Any

from fastgru.over_time import Last
from fastgru.torch_chain.gru_operation import last_of
from fastgru.torch_chain.layer_operations import over
from fastgru.torch_chain.shape_operations import unsqueeze, with_axes
from fastgru.torch_chain.values import (
    FEATURES,
    ONE,
    TIME,
    Facts,
    Half,
    Refused,
    Size,
    States,
    Tensor,
    position,
    tensor_of,
)

_ALL = slice(None)


def select(facts: Facts, value: object, dim: object, index: object) -> object:
    if isinstance(value, States):
        return _state(value, index if dim == 0 else None)
    at = position(dim, tensor_of(value).axes)
    return getitem(facts, value, (*[_ALL] * at, index))


def getitem(facts: Facts, value: object, index: Any) -> object:
    """x[index]: the last step, an axis of size 1, a state; and parts of tuples."""
    if isinstance(value, tuple):
        try:
            return value[index]
        except (IndexError, TypeError) as error:
            raise Refused(str(error)) from error
    parts = index if isinstance(index, tuple) else (index,)
    if isinstance(value, States):
        rest_is_whole = all(part in (_ALL, ...) for part in parts[1:])
        return _state(value, parts[0] if rest_is_whole else None)
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
    if (half := _half(facts, x, parts)) is not None:
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


def _state(states: States, index: object) -> Tensor | Half:
    """A part of h_n: of the top layer."""
    count = states.num_layers * states.directions
    if not isinstance(index, int) or not -count <= index < count:
        raise Refused(
            "expected h_n[-1], or both of h_n[-2] and h_n[-1] of a bidirectional GRU, got another "
            "part of h_n"
        )
    layer, direction = divmod(index % count, states.directions)
    if layer != states.num_layers - 1:
        raise Refused(f"takes the state of layer {layer}: a Model gives the top layer's, h_n[-1]")
    if states.directions == 1:
        return last_of(states.last, states.last.axes)
    return Half(states.last, reverse=direction == 1)


def _half(facts: Facts, x: Tensor, parts: tuple[Any, ...]) -> Half | None:
    """output[:, -1, :H] and output[:, 0, H:] of a bidirectional GRU: a direction's last state."""
    gru = x.chain[-1] if x.chain else None
    if gru is None or gru.directions != 2 or len(parts) != 3 or x.padded:
        return None
    size = gru.hidden_size
    for reverse, step, halves in (
        (False, -1, (slice(size), slice(0, size), slice(None, -size))),
        (True, 0, (slice(size, None), slice(-size, None))),
    ):
        if parts[2] in halves and x.axes[2] == FEATURES:
            for at in (0, 1):
                if (parts[at], parts[1 - at]) == (step, _ALL) and facts.role(x.axes[at]) == TIME:
                    return Half(Tensor((x.axes[1 - at], FEATURES), x.chain, x.size), reverse)
    return None


def cat(facts: Facts, tensors: Any, dim: object = 0) -> Tensor:
    """The last states of both directions, forward first; other values are no chain."""
    parts = list(tensors) if isinstance(tensors, (tuple, list)) else []
    if len(parts) != 2 or not all(isinstance(part, Half) for part in parts):
        raise Refused(
            "joins values: a chain has one at a time, but for the last states of both directions, "
            "torch.cat([h_n[-2], h_n[-1]], dim=-1)"
        )
    forward, backward = parts
    if forward.last != backward.last or (forward.reverse, backward.reverse) != (False, True):
        raise Refused("expected the forward state and then the reverse one, of one GRU")
    if position(dim, forward.last.axes) != 1:
        raise Refused(f"dim: expected the features, 1 or -1, got {dim}")
    return last_of(forward.last, forward.last.axes, bidirectional=True)


def hstack(facts: Facts, tensors: Any) -> Tensor:
    return cat(facts, tensors, dim=1)
