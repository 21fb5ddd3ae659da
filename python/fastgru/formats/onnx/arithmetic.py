"""Sums, products and the like: biases, and layer norms, as one node or written out.

A norm that is written out is recognised stage by stage: mean, centred, squared, variance, steadied
(with eps), deviation. Refuses arithmetic that is no layer of fastgru, saying what it saw.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from fastgru.arrays import is_real_float
from fastgru.errors import FormatError, UnsupportedLayerError
from fastgru.formats.onnx import arguments
from fastgru.formats.onnx.graph import Node
from fastgru.formats.onnx.layout import Values, const_at, data_at, float_rows, then
from fastgru.formats.onnx.plans import LayerPlan
from fastgru.formats.onnx.tensors import Array
from fastgru.formats.onnx.values import Const, Data, Fill, Moment, Step, Value, axes_text, size_of
from fastgru.layers import LayerNorm, Linear


def with_vector(value: Data, name: str, vector: Array) -> Data:
    """`value` with a bias or a weight that its last layer can still take."""
    size = size_of(value.features)
    if not value.axes or value.axes[-1] != value.features or not isinstance(size, int):
        raise UnsupportedLayerError(
            f"a constant on axes {axes_text(value.axes)} that are not known features"
        )
    if not is_float(vector) or vector.ndim > len(value.axes) or vector.size not in (1, size):
        raise UnsupportedLayerError(
            f"a constant of {vector.dtype} and shape {vector.shape}, that is no {name}"
        )
    if vector.size == size and vector.ndim and vector.shape[-1] != size:
        raise UnsupportedLayerError(f"a constant of shape {vector.shape}, that is no {name}")
    plan = value.last.plan if value.last else None
    kinds: dict[Any, tuple[str, ...]] = {Linear: ("bias",), LayerNorm: ("weight", "bias")}
    takes = kinds.get(plan.kind, ()) if isinstance(plan, LayerPlan) else ()
    # in the order of calculation: what comes later must not be there yet
    if (
        not isinstance(plan, LayerPlan)
        or name not in takes
        or set(plan.tensors) & set(takes[takes.index(name) :])
    ):
        what = {"bias": "a constant is added", "weight": "it is times a constant"}[name]
        raise UnsupportedLayerError(
            f"{what}, and what came before is no product or norm that has no {name} yet"
        )
    assert value.last is not None
    full = np.broadcast_to(vector.reshape(-1), (size,))
    richer = dataclasses.replace(plan, tensors={**plan.tensors, name: full})
    return dataclasses.replace(value, last=Step(richer, value.last.before))


def add(node: Node, inputs: Values, opset: int) -> Value:
    """A bias, or the epsilon of a layer norm."""
    value, other = one_constant(inputs)
    if isinstance(value, Moment):
        if value.stage == "variance" and other.size == 1:
            return dataclasses.replace(value, stage="steadied", eps=_number(other))
        raise UnsupportedLayerError("a layer norm that is written out, but not as PyTorch does")
    return with_vector(float_rows(value), "bias", other)


def mul(node: Node, inputs: Values, opset: int) -> Value:
    """The weight of a layer norm, or a square on the way to one."""
    a, b = (inputs[index] if index < len(inputs) else None for index in range(2))
    if isinstance(a, Moment) and isinstance(b, Moment):
        if a.stage == b.stage == "centred" and _same(a.of, b.of):
            return dataclasses.replace(a, stage="squared")
        raise UnsupportedLayerError("a layer norm that is written out, but not as PyTorch does")
    value, other = one_constant(inputs)
    if isinstance(value, Moment):
        raise UnsupportedLayerError("a layer norm that is written out, but not as PyTorch does")
    return with_vector(float_rows(value), "weight", other)


def sub(node: Node, inputs: Values, opset: int) -> Value:
    """X - mean(x)."""
    a, b = (inputs[index] if index < len(inputs) else None for index in range(2))
    if isinstance(a, Data) and isinstance(b, Moment) and b.stage == "mean" and _same(a, b.of):
        return Moment("centred", a, a.axes)
    raise UnsupportedLayerError("a difference that is not the start of a layer norm")


def power(node: Node, inputs: Values, opset: int) -> Value:
    """The square on the way to a variance."""
    a, exponent = inputs[0] if inputs else None, const_at(inputs, 1)
    is_two = exponent is not None and exponent.size == 1 and exponent.reshape(-1)[0] == 2
    if isinstance(a, Moment) and a.stage == "centred" and is_two:
        return dataclasses.replace(a, stage="squared")
    raise UnsupportedLayerError("a power that is not the square in a layer norm")


def root(node: Node, inputs: Values, opset: int) -> Value:
    """The root of variance + eps."""
    a = inputs[0] if inputs else None
    if isinstance(a, Moment) and a.stage == "steadied":
        return dataclasses.replace(a, stage="deviation")
    raise UnsupportedLayerError("a root that is not that of a layer norm")


def div(node: Node, inputs: Values, opset: int) -> Value:
    """(x - mean) / deviation: a LayerNorm without weight and bias, for now."""
    a, b = (inputs[index] if index < len(inputs) else None for index in range(2))
    if (
        isinstance(a, Moment)
        and isinstance(b, Moment)
        and (a.stage, b.stage) == ("centred", "deviation")
        and _same(a.of, b.of)
    ):
        return then(a.of, LayerPlan(LayerNorm, options={"eps": b.eps}))
    raise UnsupportedLayerError("a quotient that is not a layer norm")


def _same(a: Data, b: Data) -> bool:
    return a is b or (a.source is b.source and a.last is b.last and a.axes == b.axes)


def one_constant(inputs: Values) -> tuple[Data | Moment, Array]:
    """The two inputs of a sum or product, of which one is a constant."""
    for at in range(2):
        value, other = (inputs[i] if i < len(inputs) else None for i in (at, 1 - at))
        if isinstance(value, Data | Moment) and isinstance(other, Const | Fill):
            array = const_at(inputs, 1 - at)
            assert array is not None
            return value, array
    raise UnsupportedLayerError("arithmetic of two values that both depend on the input")


def is_float(array: Array) -> bool:
    return is_real_float(array.dtype)


def _number(array: Array) -> float:
    """A float32 as the shortest decimal that gives it again: 1e-05, not 9.99999974e-06."""
    if not is_float(array):
        raise FormatError(f"expected a floating number, got {array.dtype}")
    return float(str(np.float32(array.reshape(-1)[0])))


def layer_normalization(node: Node, inputs: Values, opset: int) -> Value:
    value = float_rows(data_at(inputs))
    rank = len(value.axes)
    if arguments.axis_in(node.integer("axis", -1), rank) != rank - 1:
        raise UnsupportedLayerError(
            f"over more axes than the last one, axis {node.integer('axis', -1)}"
        )
    if any(name for name in node.outputs[1:]):
        raise UnsupportedLayerError("its outputs Mean and InvStdDev")
    weight, bias = const_at(inputs, 1), const_at(inputs, 2)
    eps = _number(np.array(node.number("epsilon", 1e-5), np.float32))
    plain = then(value, LayerPlan(LayerNorm, options={"eps": eps}))
    if weight is None:
        raise FormatError("its Scale is missing")
    if size_of(value.features) == weight.size:
        plain = with_vector(plain, "weight", weight)
    elif not (weight.size == 1 and (weight == 1).all()):  # ones in any number: none
        raise FormatError(f"Scale: expected {size_of(value.features)} numbers, got {weight.shape}")
    return plain if bias is None else with_vector(plain, "bias", bias)
