"""What forward asks of shapes, devices and lengths: sizes, torch.zeros, arithmetic, packing.

Numbers that are known are numbers; the size of an axis of the input is a `Size`. Refuses to compute
with values of the chain.
"""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

from fastgru.torch_chain.shape_operations import same, transpose, transposed
from fastgru.torch_chain.values import (
    BATCH,
    FEATURES,
    ONE,
    TIME,
    Axis,
    Facts,
    Lengths,
    MaxResult,
    Missing,
    Opaque,
    Packed,
    Refused,
    Size,
    Sizes,
    Tensor,
    Zeros,
    position,
    tensor_of,
)

# ---- sizes and other numbers ----


def size(facts: Facts, value: object, dim: object = None) -> object:
    x = tensor_of(value)
    sizes = Sizes(_size_of(x, axis) for axis in x.axes)
    sizes.of_input = not x.chain and len(x.axes) == facts.rank
    return sizes if dim is None else sizes[position(dim, x.axes)]


def _size_of(x: Tensor, axis: Axis) -> int | Size | Missing:
    if axis == ONE:
        return 1
    if axis == FEATURES:
        return Missing("the number of features") if x.size is None else x.size
    return Size(axis if isinstance(axis, tuple) else (axis,))


def dim(facts: Facts, value: object) -> int:
    return len(tensor_of(value).axes)


def attribute(facts: Facts, value: object, name: str) -> object:
    """getattr(x, name)."""
    if isinstance(value, MaxResult) and name in ("values", "indices"):
        return getattr(value, name)
    if name in ("device", "dtype"):
        return Opaque()
    if name in ("is_cuda", "is_nested", "is_sparse"):
        return False
    if name == "data":
        return same(facts, value)
    known: Any = {"shape": size, "ndim": dim, "T": transposed}
    if name in known and isinstance(value, Tensor):
        return known[name](facts, value)
    if name in ("mT", "H", "mH"):
        return transpose(facts, value, -2, -1)
    raise Refused(f"reads the attribute {name!r}")


def zeros(facts: Facts, *shape: Any, **kwargs: object) -> Zeros:
    """torch.zeros, whose other arguments say where."""
    if not shape and "size" in kwargs:
        shape = (kwargs["size"],)
    if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
        shape = tuple(shape[0])
    if not all(isinstance(part, int) or type(part) is Size for part in shape):
        raise Refused("expected sizes that are numbers or x.size(...)")
    return Zeros(shape)


def new_zeros(facts: Facts, value: object, *shape: Any, **kwargs: object) -> Zeros:
    return zeros(facts, *shape, **kwargs)


def arithmetic(name: str) -> Any:
    """An operator on Python's numbers: what forward asks of sizes and numbers of axes."""

    def of_numbers(facts: Facts, *values: Any) -> object:
        if all(isinstance(value, (int, float)) for value in values):
            return getattr(operator, name)(*values)
        if all(type(value) is Size for value in values):
            if name == "mul" and not any(value.less for value in values):
                return Size(tuple(axis for value in values for axis in value.axes))
            if name in ("eq", "ne") and values[0] == values[1]:
                return name == "eq"
        if name == "sub" and type(values[0]) is Size and type(values[1]) is int:
            return Size(values[0].axes, values[0].less + values[1])
        for value in values:
            if not isinstance(value, (int, float, Size, Missing, Opaque)):
                tensor_of(value)
        if any(isinstance(value, Tensor) for value in values):
            raise Refused("computes with values of the chain of layers, and is no layer of fastgru")
        raise Refused("depends on sizes of the input")

    return of_numbers


# ---- packing ----


def pack(
    facts: Facts,
    value: object,
    lengths: object,
    batch_first: object = False,
    enforce_sorted: object = True,
) -> Packed:
    """pack_padded_sequence of the second input: lengths= of the Model."""
    if not isinstance(lengths, Lengths):
        raise Refused(
            "lengths: expected the second input of forward as it is; to a Model they are passed "
            "with the call, model(x, lengths=lengths)"
        )
    x = tensor_of(value)
    if len(x.axes) != 3:
        raise Refused(f"expected a batch of sequences, got {facts.axes_text(x.axes)}")
    for axis, role in zip(x.axes, (BATCH, TIME) if batch_first else (TIME, BATCH), strict=False):
        facts.require(axis, role)
    facts.require(x.axes[2], FEATURES)
    return Packed(replace(x, padded=False))


def unpack(
    facts: Facts,
    value: object,
    batch_first: object = False,
    padding_value: object = 0.0,
    total_length: object = None,
) -> tuple[Tensor, Lengths]:
    """pad_packed_sequence."""
    if not isinstance(value, Packed):
        raise Refused("expected a PackedSequence")
    if padding_value != 0:
        raise Refused(f"padding_value: expected 0, got {padding_value}")
    if isinstance(total_length, int):
        raise Refused("total_length: expected None or x.size(...), got a number")
    x = value.tensor
    axes = {facts.role(axis): axis for axis in x.axes}
    order = (BATCH, TIME, FEATURES) if batch_first else (TIME, BATCH, FEATURES)
    return (
        Tensor(tuple(axes[role] for role in order), x.chain, x.size, padded=True),
        Lengths("lengths"),
    )
