"""What is known of the values in an ONNX graph while it is walked.

A value is a constant (`Const`, whose integers may be sizes that only a call knows), one number in
a shape of any size (`Fill`), or comes from an input through a chain of layers, with bookkeeping of
which axis is which (`Data` and its parts `States`, `Half`, `Piece`, `Moment`). Refuses to hold
anything that is none of these.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastgru.formats.onnx.tensors import Array


class Atom:
    """An axis as an input or a layer made it, known by identity; as a number, its size.

    >>> steps = Atom("T")
    >>> steps * 1 is steps, steps * 2 is UNKNOWN
    (True, True)
    """

    __slots__ = ("name", "size")

    def __init__(self, name: str, size: int | None = None) -> None:
        self.name = name
        self.size = size

    def __repr__(self) -> str:
        return self.name if self.size is None else str(self.size)

    def __mul__(self, other: Any) -> Any:
        return self if _is(other, 1) else UNKNOWN

    def __add__(self, other: Any) -> Any:
        return self if _is(other, 0) else UNKNOWN

    def __sub__(self, other: Any) -> Any:
        return self if _is(other, 0) else UNKNOWN

    def __floordiv__(self, other: Any) -> Any:
        return self if _is(other, 1) else UNKNOWN

    def __rsub__(self, other: Any) -> Any:
        return UNKNOWN

    def __rfloordiv__(self, other: Any) -> Any:
        return UNKNOWN

    __rmul__ = __mul__
    __radd__ = __add__


UNKNOWN = Atom("?")  # an integer of which nothing is known

Group = tuple[Atom, ...]
"""One axis of a value: atoms side by side, the last running fastest; none of them: size 1."""
Axes = tuple[Group, ...]


def _is(value: Any, number: int) -> bool:
    return isinstance(value, (int, np.integer)) and value == number


def size_of(group: Group) -> int | Atom:
    """As an integer if it is known, else an Atom, maybe UNKNOWN."""
    sizes = [atom.size for atom in group]
    if None not in sizes:
        return math.prod(size for size in sizes if size is not None)
    return group[0] if len(group) == 1 else UNKNOWN


def axes_text(axes: Axes) -> str:
    """For errors: `(T, B, 32)`."""
    names = ["*".join(map(repr, group)) or "1" for group in axes]
    return f"({', '.join(names)}{',' if len(axes) == 1 else ''})"


@dataclass(frozen=True, eq=False, slots=True)
class Const:
    """An array; of dtype object where some of its integers are Atoms."""

    array: Array


@dataclass(frozen=True, eq=False, slots=True)
class Fill:
    """One number everywhere, in a shape that nobody has asked for yet."""

    number: Any


@dataclass(frozen=True, eq=False, slots=True)
class Source:
    """An input of the graph."""

    name: str
    axes: Axes
    is_integer: bool


@dataclass(frozen=True, eq=False, slots=True)
class Frame:
    """Which atom is which, since the first GRU; `batch` is None for one unbatched sequence."""

    time: Atom
    batch: Atom | None


@dataclass(frozen=True, eq=False, slots=True)
class Step:
    """A layer (a plan of plans.py), and what came before it: a chain that shares its start."""

    plan: Any
    before: Step | None


@dataclass(frozen=True, eq=False, slots=True)
class Data:
    """`source` after the layers of `last`. `features`: the atoms that layers work on."""

    source: Source
    axes: Axes
    features: Group
    last: Step | None = None
    frame: Frame | None = None
    is_integer: bool = False

    def steps(self) -> list[Step]:
        """The chain, first to last."""
        found = []
        step = self.last
        while step is not None:
            found.append(step)
            step = step.before
        return found[::-1]


@dataclass(frozen=True, eq=False, slots=True)
class States:
    """Last states of several GRU nodes, one after the other: `axes` has `layers` for which."""

    parts: tuple[Data, ...]
    axes: Axes
    layers: Atom


@dataclass(frozen=True, eq=False, slots=True)
class Half:
    """One direction of a bidirectional GRU's last state; `direction` is gone from the axes."""

    whole: Data
    direction: int
    axes: Axes


@dataclass(frozen=True, eq=False, slots=True)
class Piece:
    """Rows `start` to `stop` of an input's first axis: a layer's part of h_0."""

    whole: Data
    start: int
    stop: int
    axes: Axes


@dataclass(frozen=True, eq=False, slots=True)
class Moment:
    """A stage on the way to a LayerNorm that is written out: mean, centred, squared, ..."""

    stage: str
    of: Data
    axes: Axes
    eps: float = 0.0


@dataclass(frozen=True, eq=False, slots=True)
class Broken:
    """What a node would have made, had it not been refused already."""


Tracked = Data | States | Half | Piece | Moment
Value = Const | Fill | Tracked | Broken


def regroup(axes: Axes, wanted: list[Any], time: Atom | None = None) -> Axes | None:
    """The axes after a reshape to sizes that are integers (-1: the rest), Atoms or whole Groups.

    None if it would cut an axis or if sizes do not tell. Sizes of 1 that no axis has are new axes,
    and any number stands for `time` if its size is not known: torch's newer exporter writes the T
    of its example into graphs whose input says that T may be anything.

    >>> steps, batch, gates, units = Atom("T"), Atom("B"), Atom("D", 2), Atom("H", 3)
    >>> regroup(((steps,), (batch,), (gates,), (units,)), [steps, batch, -1])
    ((T,), (B,), (2, 3))
    """
    flat = [atom for group in axes for atom in group]
    rest = next((at for at, size in enumerate(wanted) if _is(size, -1)), len(wanted))
    front = list(_take(flat, wanted[:rest], time))
    if len(front) != rest:
        return None
    used = sum(map(len, front))
    if rest == len(wanted):
        return tuple(front) if used == len(flat) else None
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
        elif isinstance(size, Atom):
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
