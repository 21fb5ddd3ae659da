"""Operations that move, merge, split or drop axes, and those that do nothing to the numbers.

What they do to a value's axes is worked out; the Model itself does none of it. Refuses what would
put numbers in another order than its layers do.
"""

from __future__ import annotations

from typing import Any

from fastgru.torch_chain.state_operations import moved, reshaped
from fastgru.torch_chain.values import (
    FEATURES,
    ONE,
    Axis,
    Facts,
    Half,
    Lengths,
    Refused,
    Size,
    States,
    Tensor,
    Zeros,
    position,
    tensor_of,
)


def with_axes(x: Tensor, axes: tuple[Axis, ...]) -> Tensor:
    """The same numbers, in another order or view."""
    return Tensor(axes, x.chain, x.size, x.indices, x.padded)


# ---- the same numbers ----


def same(facts: Facts, value: object, *args: object, **kwargs: object) -> object:
    """contiguous, clone, detach and the like."""
    return value if isinstance(value, (Zeros, Lengths, States, Half)) else tensor_of(value)


def to_float(facts: Facts, value: object) -> object:
    if isinstance(value, Tensor) and value.indices:
        raise Refused("indices become floating numbers: only an embedding or one_hot takes them")
    return same(facts, value)


def to_integers(facts: Facts, value: object) -> object:
    if isinstance(value, Tensor) and not value.indices:
        facts.other_rank |= not value.chain
        raise Refused("rounds to integers")
    return same(facts, value)


def to(facts: Facts, value: object, *args: object, **kwargs: object) -> object:
    """To a device or a dtype: everything is float32 on the CPU."""
    for arg in (*args, *kwargs.values()):
        name = str(arg)
        if name.startswith("torch.") and not hasattr(arg, "type"):  # a dtype, not a device
            if name in ("torch.int64", "torch.int32", "torch.long", "torch.int"):
                to_integers(facts, value)
            elif name not in ("torch.float32", "torch.float"):
                raise Refused(f"converts to {name}: expected float32")
    return same(facts, value)


# ---- axes move ----


def transpose(facts: Facts, value: object, dim0: object, dim1: object) -> Tensor | States:
    if isinstance(value, States):
        return moved(value, (1, 0, 2) if {dim0, dim1} == {0, 1} else ())
    x = tensor_of(value)
    a, b = position(dim0, x.axes), position(dim1, x.axes)
    axes = list(x.axes)
    axes[a], axes[b] = axes[b], axes[a]
    return with_axes(x, tuple(axes))


def transposed(facts: Facts, value: object) -> Tensor:
    """t() and .T."""
    x = tensor_of(value)
    if len(x.axes) > 2:
        raise Refused(f"expected 2 axes, got {facts.axes_text(x.axes)}: use transpose")
    return with_axes(x, x.axes[::-1])


def permute(facts: Facts, value: object, *given: Any, dims: Any = ()) -> Tensor | States:
    dims = given or (dims,)
    if len(dims) == 1 and isinstance(dims[0], (tuple, list)):
        dims = tuple(dims[0])
    if isinstance(value, States):
        return moved(value, dims)
    x = tensor_of(value)
    order = [position(dim, x.axes) for dim in dims]
    if sorted(order) != list(range(len(x.axes))):
        raise Refused(f"dims: expected each of {len(x.axes)} axes once, got {list(dims)}")
    return with_axes(x, tuple(x.axes[at] for at in order))


# ---- axes of size 1, and axes that become one ----


def squeeze(facts: Facts, value: object, dim: object = None) -> Tensor:
    x = tensor_of(value)
    if dim is None:
        raise Refused("drops whatever axis has size 1, a batch of one too: say which, squeeze(dim)")
    at = position(dim, x.axes)
    axis = x.axes[at]
    if axis == FEATURES:
        if x.size is not None and x.size > 1:
            return x
        raise Refused(
            "drops the features: a Model keeps its last axis; leave this out of forward and index "
            "the result, model(x)[..., 0]"
        )
    if axis != ONE:
        raise Refused(f"drops {facts.text(axis)} where its size is 1, and only there")
    return with_axes(x, x.axes[:at] + x.axes[at + 1 :])


def unsqueeze(facts: Facts, value: object, dim: object) -> Tensor:
    x = tensor_of(value)
    if not x.chain:
        raise Refused(
            "adds an axis to the input: a Model takes x with all its axes; leave this out of "
            "forward and pass x[..., None]"
        )
    at = position(dim, (*x.axes, ONE))
    return with_axes(x, (*x.axes[:at], ONE, *x.axes[at:]))


def flatten(
    facts: Facts, value: object, start_dim: object = 0, end_dim: object = -1
) -> Tensor | States:
    if isinstance(value, States):
        return reshaped(value, (-1, -1) if (start_dim, end_dim) in ((1, -1), (1, 2)) else ())
    x = tensor_of(value)
    first, last = position(start_dim, x.axes), position(end_dim, x.axes)
    return with_axes(
        x, (*x.axes[:first], _joined(facts, x.axes[first : last + 1]), *x.axes[last + 1 :])
    )


def _joined(facts: Facts, axes: tuple[Axis, ...]) -> Axis:
    """Several axes as one."""
    parts = _elementary(axes)
    if len(parts) <= 1:
        return parts[0] if parts else ONE
    numbers = tuple(part for part in parts if isinstance(part, int))
    if len(numbers) < len(parts) or any(facts.role(part) == FEATURES for part in numbers):
        raise Refused(f"mixes axes of features with others: {facts.axes_text(axes)} become one")
    return numbers


def _elementary(axes: tuple[Axis, ...]) -> list[int | str]:
    parts: list[int | str] = []
    for axis in axes:
        if isinstance(axis, tuple):
            parts += axis
        elif axis != ONE:
            parts.append(axis)
    return parts


def reshape(
    facts: Facts, value: object, *given: Any, shape: Any = (), size: Any = ()
) -> Tensor | States:
    """Axes split and merged, where the new axes are the old ones or several of them in one."""
    shape = given or (shape or size,)
    if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
        shape = tuple(shape[0])
    if isinstance(value, States):
        return reshaped(value, shape)
    x = tensor_of(value)
    parts = _elementary(x.axes)
    rest = shape.index(-1) if -1 in shape else len(shape)
    front = _matched(facts, x, parts, shape[:rest])
    back = _matched(facts, x, parts, shape[:rest:-1], from_end=True)
    middle = (_joined(facts, tuple(parts)),) if rest < len(shape) else ()
    if not middle and parts:
        raise _no_reshape(facts, x)
    return with_axes(x, (*front, *middle, *reversed(back)))


def _matched(
    facts: Facts, x: Tensor, parts: list[int | str], sizes: Any, from_end: bool = False
) -> list[Axis]:
    """The axes that these sizes are; they are taken from `parts`."""
    found: list[Axis] = []
    for size in sizes:
        if size == 1 and not (parts and parts[-1 if from_end else 0] == FEATURES and x.size == 1):
            found.append(ONE)
            continue
        count = len(size.axes) if isinstance(size, Size) else 1
        taken = tuple(parts[-count:] if from_end else parts[:count])
        fits = size == Size(taken) or _has_size(facts, x, taken, size)
        if not fits:
            raise _no_reshape(facts, x)
        del parts[len(parts) - count if from_end else 0 : len(parts) if from_end else count]
        found.append(taken[0] if count == 1 else taken)  # type: ignore[arg-type]
    return found


def _has_size(facts: Facts, x: Tensor, axes: tuple[int | str, ...], size: object) -> bool:
    """Whether a number is that of features."""
    if len(axes) == 1 and axes[0] == FEATURES and size == Size((2,)):
        return True  # as many as x has: torch's view fails where they are not, and so the check
    if len(axes) != 1 or not isinstance(size, int):
        return False
    if axes[0] == FEATURES:
        return size == x.size
    # a number can be no other axis of the input; how many there are the check finds out
    if not x.indices and axes[0] == 2:
        facts.require(2, FEATURES)
    return facts.role(axes[0]) == FEATURES


def _no_reshape(facts: Facts, x: Tensor) -> Refused:
    return Refused(
        f"gives {facts.axes_text(x.axes)} axes that fastgru cannot follow: expected sizes as "
        "x.size(...) gives them, -1, or the number of features"
    )
