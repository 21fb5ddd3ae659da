"""What a Reshape does to the axes of a value: which axes it joins, and which it leaves.

A number in its shape is the size of fixed axes. torch's newer exporter also writes the T of its
example where T is free; such a number counts as T only where nothing else is possible. Refuses to
cut an axis, and to guess.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fastgru.formats.onnx.sizes import UNKNOWN, Atom, Size, is_integer
from fastgru.formats.onnx.values import Axes, Dims, Group


def regroup(
    axes: Axes, wanted: list[Any], time: Atom | None = None, declared: Dims | None = None
) -> Axes | None:
    """The axes after a reshape to sizes that are integers (-1: the rest), Sizes or whole Groups.

    None if it would cut an axis or if sizes do not tell. Sizes of 1 that no axis has are new axes.
    A number stands for `time`, if its size is free, where the reshape then runs for this one T
    alone (no -1 is there to take other sizes), or where `declared`, the shape that the file
    declares for the result, says by its axis's name which axis the -1 is.

    >>> steps, batch, gates, units = Atom("T"), Atom("B"), Atom("D", 2), Atom("H", 3)
    >>> value = ((steps,), (batch,), (gates,), (units,))
    >>> regroup(value, [steps, batch, -1])
    ((T,), (B,), (2, 3))
    >>> regroup(value, [7, -1, 6], steps), regroup(value, [7, -1, 6], steps, [7, "B", 6])
    (None, ((T,), (B,), (2, 3)))
    """
    found = _regrouped(axes, wanted, None)
    if found is not None or time is None:
        return found
    found = _regrouped(axes, wanted, time)
    rest = next((at for at, size in enumerate(wanted) if _is_rest(size)), None)
    if found is None or rest is None:
        return found
    is_told = declared is not None and len(declared) == len(found)
    return found if is_told and _is_axis(found[rest], declared, rest, axes) else None


def _is_rest(size: Any) -> bool:
    return is_integer(size) and size == -1


def _is_axis(group: Group, declared: Dims | None, at: int, axes: Axes) -> bool:
    """Whether the file declares that the axis `at` is this free one, and no other of that name."""
    assert declared is not None
    named = [atom for own in axes for atom in own if atom.name == declared[at]]
    return len(group) == 1 and group[0].size is None and named == list(group)


def _regrouped(axes: Axes, wanted: list[Any], time: Atom | None) -> Axes | None:
    flat = [atom for group in axes for atom in group]
    rest = next((at for at, size in enumerate(wanted) if _is_rest(size)), len(wanted))
    front = list(_take(flat, wanted[:rest], time))
    if len(front) != rest:
        return None
    used = sum(map(len, front))
    if rest == len(wanted):
        left = tuple(flat[used:])  # axes of 1 behind the last size, where there is one
        if any(atom.size != 1 for atom in left) or (left and not front):
            return None
        return (*front[:-1], front[-1] + left) if left else tuple(front)
    flat = flat[used:]
    back = list(_take(flat[::-1], wanted[:rest:-1], time, backwards=True))
    if len(back) != len(wanted) - rest - 1:
        return None
    middle = tuple(flat[: len(flat) - sum(map(len, back))])
    return (*front, middle, *back[::-1])


def _take(
    flat: list[Atom], wanted: list[Any], time: Atom | None, *, backwards: bool = False
) -> Iterator[Group]:
    """For each size the next atoms that have it, until one does not fit."""
    at = 0
    for size in wanted:
        end = at
        if isinstance(size, tuple):  # a whole axis, as it was
            end += len(size)
            if tuple(flat[at:end]) != (size[::-1] if backwards else size):
                return
        elif isinstance(size, Size):
            if size is UNKNOWN or at == len(flat) or flat[at] is not size:
                return
            end += 1
        else:
            product = 1
            while end < len(flat) and (product != size or (end == at and flat[end].size == 1)):
                step = flat[end].size
                if step is None and flat[end] is time and end == at and size > 1:
                    step = size
                if step is None or product * step > size:
                    break
                product *= step
                end += 1
            if product != size:
                return
        yield tuple(reversed(flat[at:end])) if backwards else tuple(flat[at:end])
        at = end


def broadcast(a: Sequence[Any], b: Sequence[Any]) -> list[Any]:
    """The sizes of both shapes together; UNKNOWN where a call decides."""
    rank = max(len(a), len(b))
    long_a, long_b = ([1] * (rank - len(sizes)) + list(sizes) for sizes in (a, b))
    return [_together(x, y) for x, y in zip(long_a, long_b, strict=True)]


def _together(a: Any, b: Any) -> Any:
    for one, other in ((a, b), (b, a)):
        if is_integer(one) and one == 1:
            return other
    if a is b and a is not UNKNOWN:
        return a
    return a if is_integer(a) and is_integer(b) and a == b else UNKNOWN
