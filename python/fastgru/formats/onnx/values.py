"""What is known of the values in an ONNX graph while it is walked.

A value is a constant (`Const`, whose integers may be sizes that only a call knows), one number in
a shape of any size (`Fill`), or comes from an input through a chain of layers, with bookkeeping of
which axis is which (`Data` and its parts `States`, `Half`, `Piece`, `Moment`). Refuses to hold
anything that is none of these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastgru.formats.onnx.sizes import UNKNOWN, Atom
from fastgru.formats.onnx.tensors import Array

Group = tuple[Atom, ...]
"""One axis of a value: atoms side by side, the last running fastest; none of them: size 1."""
Axes = tuple[Group, ...]
Dims = Sequence[int | str | None]
"""What a file declares of a shape: for each axis its size, the name of it, or nothing."""


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
    """An array; of dtype object where some of its integers or booleans are Sizes."""

    array: Array


@dataclass(frozen=True, eq=False, slots=True)
class Fill:
    """One number everywhere, and the shape that a call gives it; None: nothing is known of it."""

    number: Any
    shape: tuple[Any, ...] | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Repeated:
    """A constant of several numbers whose shape a call's sizes decide: a learned initial state."""


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
Value = Const | Fill | Repeated | Tracked | Broken
