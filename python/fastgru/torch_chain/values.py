"""What stands for the values of a forward while it is traced: axes with meanings, no numbers.

A `Tensor` knows the chain of layers that gives it, so that the value that forward returns is the
whole model. Which of the input's axes is time and which the batch, only a GRU tells: until then an
axis of the input is its number, and `Facts` keeps what has been learnt of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fastgru.gru import GRU
from fastgru.layers import Layer

TIME, BATCH, FEATURES, ONE = "time", "batch", "features", "1"
# FEATURES, ONE, a number: an axis of the input, or several that a reshape has made one
Axis = int | str | tuple[int, ...]
AT_MOST_THREE = (
    "a Model's x has at most three axes, (batch, time, features): merge others into the batch "
    "before the call, x.reshape(-1, *x.shape[-2:])"
)
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six")


class Refused(Exception):
    """Why an operation is no part of a chain of layers; it becomes an UnsupportedLayerError."""


class Build(NamedTuple):
    """What a layer of the Model is made with, known only when all layers are."""

    batch_first: bool
    num_threads: int | None
    isa: str | None


@dataclass(frozen=True, eq=False)
class Step:
    """A layer of the Model to be."""

    make: Callable[[Build], Layer | GRU]
    directions: int = 0  # of a GRU
    hidden_size: int = 0  # of a GRU


@dataclass(frozen=True)
class Tensor:
    """What comes out of `chain`; the input itself, where that is empty."""

    axes: tuple[Axis, ...]
    chain: tuple[Step, ...] = ()
    size: int | None = None  # of its features, where a layer tells
    indices: bool = False  # integers, with no axis of features
    padded: bool = False  # from pad_packed_sequence: zeros past each sequence's end

    def then(self, step: Step, axes: tuple[Axis, ...], size: int | None = None) -> Tensor:
        """What a layer makes of it; `size`: of its features, None for as many as went in."""
        padded = self.padded and any(isinstance(axis, (int, tuple)) for axis in axes)
        return Tensor(axes, (*self.chain, step), size or self.size, padded=padded)


@dataclass(frozen=True)
class States:
    """h_n of a GRU with several layers or directions. `last`: (B, H), no Last yet.

    `form`: "stacked" (L*D, B, H), "layers" (L, D, B, H), "rows" (B, D, H).
    """

    last: Tensor
    num_layers: int
    directions: int
    form: str = "stacked"


@dataclass(frozen=True)
class Half:
    """(B, H): the last state of one direction of a bidirectional GRU's top layer."""

    last: Tensor
    reverse: bool


@dataclass(frozen=True)
class Packed:
    """A PackedSequence; `tensor` has the axes that were packed."""

    tensor: Tensor


@dataclass(frozen=True)
class Lengths:
    """The second input of forward: what pack_padded_sequence takes."""

    name: str


@dataclass(frozen=True)
class Size:
    """How long axes of the input are, multiplied; `less` where a number has been subtracted."""

    axes: tuple[Axis, ...]
    less: int = 0


class Sizes(tuple[object, ...]):
    """What x.size() and x.shape give; `of_input`: of the input itself."""

    of_input = False


@dataclass(frozen=True)
class Zeros:
    """torch.zeros, which only a GRU takes, for its h_0."""

    shape: tuple[int | Size, ...]


@dataclass(frozen=True)
class Constant:
    """A parameter, a buffer, or a tensor that forward has made of nothing."""

    tensor: Any


@dataclass(frozen=True)
class Opaque:
    """A device, a dtype: what says where and how, not what."""


@dataclass(frozen=True)
class Missing:
    """What a Model cannot give, and forward need not use: the indices of max."""

    what: str


class MaxResult(NamedTuple):
    """What max over an axis gives."""

    values: Tensor
    indices: Missing


@dataclass
class Facts:
    """What has been learnt of the input (`rank` axes: 2 are indices) and of the module."""

    rank: int
    roles: dict[int, str] = field(default_factory=dict)
    packed: bool | None = None  # whether GRUs take PackedSequences, when the first has been seen
    has_lengths: bool = False  # forward has a second input
    took_indices: bool = False  # an embedding or a one_hot of the input has been seen
    other_rank: bool = False  # so has one where rank was thought to be 3

    def role(self, axis: Axis) -> str | None:
        """What an axis is, None where nothing has told."""
        if isinstance(axis, tuple):
            return None
        return self.roles.get(axis) if isinstance(axis, int) else axis

    def require(self, axis: Axis, role: str) -> None:
        """Learns what an axis is; Refused where it is something else."""
        known = self.role(axis)
        if known == role:
            return
        if not isinstance(axis, int) or known is not None or role in self.roles.values():
            raise Refused(f"expected the {role} axis here, got {self.text(axis)}")
        self.roles[axis] = role

    def text(self, axis: Axis) -> str:
        """An axis for people."""
        if isinstance(axis, tuple):
            return " and ".join(self.text(part) for part in axis) + " in one"
        role = self.role(axis)
        if role is None:
            taken = " or ".join(r for r in (TIME, BATCH, FEATURES) if r not in self.roles.values())
            return f"axis {axis} of the input ({taken})"
        return "an axis of size 1" if role == ONE else f"the {role} axis"

    def axes_text(self, axes: tuple[Axis, ...]) -> str:
        """`(batch, time, features)`."""

        def name(axis: Axis) -> str:
            if isinstance(axis, tuple):
                return "*".join(map(name, axis))
            return self.role(axis) or f"axis {axis} of x"

        return f"({', '.join(map(name, axes))})"


def other_count(facts: Facts, sizes: tuple[object, ...], count: int) -> str:
    """Why forward cannot take `count` values from `sizes`, which has another number of them."""
    if not isinstance(sizes, Sizes):
        return f"takes {count} values where there are {len(sizes)}"
    axes = (
        f"{_NUMBERS[count] if count < len(_NUMBERS) else count} {'axis' if count == 1 else 'axes'}"
    )
    if not sizes.of_input:
        return f"takes sizes of {axes} where there are {len(sizes)}; {AT_MOST_THREE}"
    facts.other_rank |= count == 5 - facts.rank  # 2 and 3 are what a Model may have
    if count > 3:
        return f"x has {axes} here: {AT_MOST_THREE}"
    return (
        f"x has {axes} here, expected {_NUMBERS[facts.rank]}: a Model's x is (batch, time, "
        "features), or (batch, time) where it is indices"
    )


def tensor_of(value: object) -> Tensor:
    """A value that a layer may take; Refused for others, with what to do."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (States, Half)):
        raise Refused(
            "takes states of one layer or direction: a Model gives the top layer's, h_n[-1], and "
            "torch.cat([h_n[-2], h_n[-1]], dim=-1) of a bidirectional GRU"
        )
    if isinstance(value, Packed):
        raise Refused("takes a PackedSequence: use pad_packed_sequence before it")
    if isinstance(value, Missing):
        raise Refused(f"takes {value.what}, which a Model does not give")
    if isinstance(value, Lengths):
        raise Refused(
            f"computes with the input {value.name!r}: a Model takes x, and lengths= for "
            "pack_padded_sequence"
        )
    if isinstance(value, Constant):
        raise Refused("computes with a parameter or a constant")
    raise Refused(f"expected a value of the chain of layers, got {type(value).__name__}")


def position(dim: object, axes: tuple[Axis, ...]) -> int:
    """A dim as torch takes it, counted from the front."""
    if not isinstance(dim, int) or isinstance(dim, bool) or not -len(axes) <= dim < len(axes):
        is_more = isinstance(dim, int) and dim >= len(axes) > 1
        more = f"; {AT_MOST_THREE}" if is_more else ""
        raise Refused(f"dim: expected an axis of {len(axes)}, got {dim!r}{more}")
    return dim % len(axes)
