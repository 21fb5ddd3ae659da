"""h_n of a GRU: what forward takes of it, and both directions' last states joined.

A Model gives the top layer's last state, by Last. Refuses states of lower layers, and one direction
of two without the other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastgru.over_time import Last
from fastgru.torch_chain.values import (
    FEATURES,
    ONE,
    Facts,
    Half,
    Missing,
    Refused,
    Size,
    States,
    Step,
    Tensor,
    position,
)

_ALL = slice(None)


def states_of(last: Tensor, num_layers: int, directions: int) -> Tensor | States:
    """h_n; of one layer and direction it is a tensor like others, (1, B, H)."""
    if (num_layers, directions) == (1, 1):
        return _last(last, (ONE, *last.axes))
    return States(last, num_layers, directions)


def _last(x: Tensor, axes: Any, *, bidirectional: bool = False) -> Tensor:
    return x.then(Step(lambda _: Last(bidirectional=bidirectional)), axes)


def part(states: States, index: Any) -> Tensor | States | Half:
    """h_n[index]; (layer, direction) where it has been split so."""
    first, *rest = index if isinstance(index, tuple) else (index,)
    if states.form == "layers":
        if first not in (-1, states.num_layers - 1):
            raise Refused("takes the states of a lower layer: a Model gives the top layer's, [-1]")
        top = states_of(states.last, 1, states.directions)
        if not rest or not isinstance(top, States):
            if all(entry in (_ALL, ..., 0) for entry in rest[:1]) and _whole(rest[1:]):
                return _last(states.last, states.last.axes) if rest[:1] == [0] else top
            raise _other_part()
        return part(top, tuple(rest))
    if states.form != "stacked" or not _whole(rest):
        raise _other_part()
    count = states.num_layers * states.directions
    if first == slice(-states.directions, None):
        return states_of(states.last, 1, states.directions)
    if not isinstance(first, int) or not -count <= first < count:
        raise _other_part()
    layer, direction = divmod(first % count, states.directions)
    if layer != states.num_layers - 1:
        raise Refused(f"takes the state of layer {layer}: a Model gives the top layer's, h_n[-1]")
    if states.directions == 1:
        return _last(states.last, states.last.axes)
    return Half(states.last, reverse=direction == 1)


def _whole(index: Any) -> bool:
    return all(entry in (_ALL, ...) for entry in index)


def _other_part() -> Refused:
    return Refused(
        "expected h_n[-1], or both of h_n[-2] and h_n[-1] of a bidirectional GRU, got another part "
        "of h_n"
    )


def unbind(facts: Facts, value: object, dim: object = 0) -> tuple[object, ...]:
    """All of h_n, one by one."""
    if not isinstance(value, States) or value.form != "stacked" or dim != 0:
        raise Refused("takes apart what is not h_n: a chain has one value at a time")
    lower = (value.num_layers - 1) * value.directions
    count = lower + value.directions
    top = tuple(part(value, index) for index in range(lower, count))
    return (*[Missing("the state of a lower layer")] * lower, *top)


def moved(states: States, order: tuple[int, ...]) -> States:
    """(2, B, H) -> (B, 2, H), of one layer: what a reshape then joins."""
    if states.form != "stacked" or states.num_layers != 1 or order != (1, 0, 2):
        raise Refused("moves the axes of h_n: expected those of one layer's, (2, B, H), 0 and 1")
    return replace(states, form="rows")


def reshaped(states: States, shape: tuple[object, ...]) -> Tensor | States:
    """To (L, D, B, H), which [-1] takes the top layer of; (B, 2, H) to (B, 2 * H)."""
    batch, width = Size(states.last.axes[:1]), states.last.size
    if states.form == "stacked":
        sizes = (states.num_layers, states.directions, batch, (width or 0) // states.directions)
    else:
        sizes = (batch, width)  # type: ignore[assignment]
    fits = len(shape) == len(sizes) and all(
        got in (-1, size) for got, size in zip(shape, sizes, strict=True)
    )
    if states.form == "layers" or not fits:
        raise Refused(
            "gives h_n another shape: expected (num_layers, directions, BATCH, hidden_size), or "
            "(BATCH, 2 * hidden_size) of h_n.transpose(0, 1) of one layer"
        )
    if states.form == "stacked":
        return replace(states, form="layers")
    return _last(states.last, states.last.axes, bidirectional=True)


def cat(facts: Facts, tensors: Any, dim: object = 0) -> Tensor:
    """The last states of both directions, forward first; other values are no chain."""
    parts = list(tensors) if isinstance(tensors, (tuple, list)) else []
    if len(parts) != 2 or not all(isinstance(half, Half) for half in parts):
        raise Refused(
            "joins values: a chain has one at a time, but for the last states of both directions, "
            "torch.cat([h_n[-2], h_n[-1]], dim=-1)"
        )
    forward, backward = parts
    if forward.last != backward.last or (forward.reverse, backward.reverse) != (False, True):
        raise Refused("expected the forward state and then the reverse one, of one GRU")
    if position(dim, forward.last.axes) != 1:
        raise Refused(f"dim: expected the features, 1 or -1, got {dim}")
    return _last(forward.last, forward.last.axes, bidirectional=True)


def hstack(facts: Facts, tensors: Any) -> Tensor:
    return cat(facts, tensors, dim=1)


def half_of_output(facts: Facts, x: Tensor, at: int, index: tuple[Any, ...]) -> Half | None:
    """output[:, -1, :H] and output[:, 0, H:]: a direction's last state; `at`: where time is."""
    gru = x.chain[-1] if x.chain else None
    if gru is None or gru.directions != 2 or len(index) != 3 or x.padded:
        return None
    size = gru.hidden_size
    forwards = (slice(size), slice(0, size), slice(None, -size))
    backwards = (slice(size, None), slice(-size, None))
    step, other, features = index[at], index[1 - at], index[2]
    last = Tensor((x.axes[1 - at], FEATURES), x.chain, x.size)
    if other == _ALL and x.axes[2] == FEATURES:
        if step == -1 and features in forwards:
            return Half(last, reverse=False)
        if step == 0 and features in backwards:
            return Half(last, reverse=True)
    return None
