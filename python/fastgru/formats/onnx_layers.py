"""Layers around a GRU as ONNX graphs spell them: products with biases, norms, reductions.

Each takes a value and gives it after one more plan. A layer that exporters write as several nodes
is recognised node by node. Refuses arithmetic that is no layer of fastgru, saying what it saw.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from fastgru.arrays import is_real_float
from fastgru.errors import FormatError, UnsupportedLayerError
from fastgru.formats import onnx_constants as constants
from fastgru.formats.onnx_graph import Node
from fastgru.formats.onnx_layout import Values, const_at, consts, then, tracked
from fastgru.formats.onnx_plans import LayerPlan
from fastgru.formats.onnx_tensors import Array
from fastgru.formats.onnx_values import (
    Atom,
    Const,
    Data,
    Fill,
    Moment,
    Step,
    Value,
    axes_text,
    size_of,
)
from fastgru.layers import (
    Embedding,
    LayerNorm,
    Linear,
    LogSoftmax,
    OneHot,
    ReLU,
    Sigmoid,
    Softmax,
    Tanh,
)
from fastgru.over_time import Max, Mean

ACTIVATIONS = {"Relu": ReLU, "Tanh": Tanh, "Sigmoid": Sigmoid}
SOFTMAXES = {"Softmax": Softmax, "LogSoftmax": LogSoftmax}
REDUCTIONS = {"ReduceMean": Mean, "ReduceMax": Max}

_SOFTMAX_OPSET = 13  # since when Softmax has the axis that it says, and no others


def data_at(inputs: Values, index: int = 0) -> Data:
    """An input that is sequences or rows after layers."""
    value = tracked(inputs, index)
    if not isinstance(value, Data):
        raise UnsupportedLayerError(
            "it takes last states that are not put together as a layer of fastgru has them"
        )
    return value


def _float_rows(value: Data) -> Data:
    """With the features last, where products and biases work."""
    if value.is_integer:
        raise FormatError("it takes integers")
    if not value.axes or value.axes[-1] != value.features:
        raise UnsupportedLayerError(
            f"the last axis of its input, {axes_text(value.axes)}, is not the features"
        )
    return value


def matmul(node: Node, inputs: Values, opset: int) -> Value:
    """X times a matrix from the right: a Linear without bias, for now."""
    if inputs and isinstance(inputs[0], Const):
        raise UnsupportedLayerError("a constant times the input; input times constant is a Linear")
    weight = const_at(inputs, 1)
    if weight is None:
        raise FormatError("MatMul needs two inputs")
    return _linear(_float_rows(data_at(inputs)), weight, None)


def gemm(node: Node, inputs: Values, opset: int) -> Value:
    """X W^T + b, of rows."""
    value, weight, bias = _float_rows(data_at(inputs)), const_at(inputs, 1), const_at(inputs, 2)
    if weight is None or weight.ndim != 2 or len(value.axes) != 2:
        raise FormatError("Gemm takes two matrices")
    if node.number("alpha", 1.0) != 1.0 or (bias is not None and node.number("beta", 1.0) != 1.0):
        raise UnsupportedLayerError("alpha and beta other than 1")
    if node.integer("transA", 0):
        raise UnsupportedLayerError("transA, which makes features of rows")
    return _linear(value, weight.T if node.integer("transB", 0) else weight, bias)


def _linear(value: Data, weight: Array, bias: Array | None) -> Data:
    """`weight`: (I, O)."""
    size = size_of(value.features)
    if weight.ndim != 2 or not _is_float(weight) or 0 in weight.shape:
        raise UnsupportedLayerError(
            f"it is times a constant of {weight.dtype} and shape {weight.shape}"
        )
    if isinstance(size, int) and size != weight.shape[0]:
        raise FormatError(f"it takes {weight.shape[0]} features, there are {size}")
    outputs = (Atom("O", weight.shape[1]),)
    plan = LayerPlan(Linear, {"weight": weight.T})
    product = then(value, plan, (*value.axes[:-1], outputs), outputs)
    return product if bias is None else _with_vector(product, "bias", bias)


def _with_vector(value: Data, name: str, vector: Array) -> Data:
    """`value` with a bias or a weight that its last layer can still take."""
    size = size_of(value.features)
    if not value.axes or value.axes[-1] != value.features or not isinstance(size, int):
        raise UnsupportedLayerError(
            f"a constant on axes {axes_text(value.axes)} that are not known features"
        )
    if not _is_float(vector) or vector.ndim > len(value.axes) or vector.size not in (1, size):
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
    value, other = _one_constant(inputs)
    if isinstance(value, Moment):
        if value.stage == "variance" and other.size == 1:
            return dataclasses.replace(value, stage="steadied", eps=_number(other))
        raise UnsupportedLayerError("a layer norm that is written out, but not as PyTorch does")
    return _with_vector(_float_rows(value), "bias", other)


def mul(node: Node, inputs: Values, opset: int) -> Value:
    """The weight of a layer norm, or a square on the way to one."""
    a, b = (inputs[index] if index < len(inputs) else None for index in range(2))
    if isinstance(a, Moment) and isinstance(b, Moment):
        if a.stage == b.stage == "centred" and _same(a.of, b.of):
            return dataclasses.replace(a, stage="squared")
        raise UnsupportedLayerError("a layer norm that is written out, but not as PyTorch does")
    value, other = _one_constant(inputs)
    if isinstance(value, Moment):
        raise UnsupportedLayerError("a layer norm that is written out, but not as PyTorch does")
    return _with_vector(_float_rows(value), "weight", other)


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


def _one_constant(inputs: Values) -> tuple[Data | Moment, Array]:
    """The two inputs of a sum or product, of which one is a constant."""
    for at in range(2):
        value, other = (inputs[i] if i < len(inputs) else None for i in (at, 1 - at))
        if isinstance(value, Data | Moment) and isinstance(other, Const | Fill):
            array = const_at(inputs, 1 - at)
            assert array is not None
            return value, array
    raise UnsupportedLayerError("arithmetic of two values that both depend on the input")


def _is_float(array: Array) -> bool:
    return is_real_float(array.dtype)


def _number(array: Array) -> float:
    """A float32 as the shortest decimal that gives it again: 1e-05, not 9.99999974e-06."""
    if not _is_float(array):
        raise FormatError(f"expected a floating number, got {array.dtype}")
    return float(str(np.float32(array.reshape(-1)[0])))


def layer_normalization(node: Node, inputs: Values, opset: int) -> Value:
    value = _float_rows(data_at(inputs))
    rank = len(value.axes)
    if constants.axis_in(node.integer("axis", -1), rank) != rank - 1:
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
        plain = _with_vector(plain, "weight", weight)
    elif not (weight.size == 1 and (weight == 1).all()):  # ones in any number: none
        raise FormatError(f"Scale: expected {size_of(value.features)} numbers, got {weight.shape}")
    return plain if bias is None else _with_vector(plain, "bias", bias)


def activation(node: Node, inputs: Values, opset: int) -> Value:
    value = data_at(inputs)
    if value.is_integer:
        raise FormatError("it takes integers")
    return then(value, LayerPlan(ACTIVATIONS[node.op]))


def softmax(node: Node, inputs: Values, opset: int) -> Value:
    value = data_at(inputs)
    rank = len(value.axes)
    axis = constants.axis_in(node.integer("axis", -1 if opset >= _SOFTMAX_OPSET else 1), rank)
    if value.axes[axis] != value.features or (opset < _SOFTMAX_OPSET and axis != rank - 1):
        raise UnsupportedLayerError(
            f"over axis {axis} of {axes_text(value.axes)}, which is not the features"
        )
    return then(value, LayerPlan(SOFTMAXES[node.op]))


def reduction(node: Node, inputs: Values, opset: int) -> Value:
    """Mean and Max over time; a mean over the features starts a layer norm."""
    value = inputs[0] if inputs else None
    axes = constants.axes_of(node, consts(inputs), 1)
    keep = node.integer("keepdims", 1) != 0
    if not isinstance(value, Data | Moment) or axes is None or len(axes) != 1:
        raise UnsupportedLayerError("over several axes, or of what is no sequence")
    axis = constants.axis_in(axes[0], len(value.axes))
    group = value.axes[axis]
    left = (*value.axes[:axis], *([()] if keep else []), *value.axes[axis + 1 :])
    of = value.of if isinstance(value, Moment) else value
    over_features = keep and axis == len(value.axes) - 1 and group == of.features
    if node.op == "ReduceMean" and over_features:
        if isinstance(value, Data):
            return Moment("mean", value, left)
        if value.stage == "squared":
            return dataclasses.replace(value, stage="variance", axes=left)
    if isinstance(value, Data) and value.frame is not None and group == (value.frame.time,):
        return then(value, LayerPlan(REDUCTIONS[node.op]), left)
    raise UnsupportedLayerError(
        f"over axis {axis} of {axes_text(value.axes)}; fastgru.Mean and Max are over time, after a "
        "GRU"
    )


def embedding(node: Node, inputs: Values, opset: int) -> Value:
    """Rows of a constant, by the input's numbers."""
    table, value = const_at(inputs, 0), data_at(inputs, 1)
    _indices(value)
    if table is None or table.ndim != 2 or node.integer("axis", 0) not in (0, -2):
        raise UnsupportedLayerError("the input picks other things than rows of a matrix")
    if not _is_float(table) or 0 in table.shape:
        raise UnsupportedLayerError(
            f"the input picks rows of a matrix of {table.dtype} and shape {table.shape}"
        )
    features = (Atom("I", table.shape[1]),)
    plan = LayerPlan(Embedding, {"weight": table})
    found = then(value, plan, (*value.axes, features), features)
    return dataclasses.replace(found, is_integer=False)


def one_hot(node: Node, inputs: Values, opset: int) -> Value:
    value, depth, pair = data_at(inputs), const_at(inputs, 1), const_at(inputs, 2)
    _indices(value)
    if depth is None or pair is None or pair.size != 2:
        raise FormatError("OneHot needs a depth and two values")
    if depth.size != 1 or isinstance(classes := depth.reshape(-1)[0], Atom):
        raise UnsupportedLayerError("a number of classes that the input decides")
    if not math.isfinite(classes) or not 1 <= classes < 2**31 or classes != int(classes):
        raise FormatError(f"expected a number of classes, got {classes}")
    if pair.reshape(-1).tolist() != [0, 1]:
        raise UnsupportedLayerError("other values than 0 and 1")
    if node.integer("axis", -1) not in (-1, len(value.axes)):
        raise UnsupportedLayerError("classes that are not the last axis")
    return dataclasses.replace(_hot(value, int(classes)), is_integer=not _is_float(pair))


def equal(node: Node, inputs: Values, opset: int) -> Value:
    """A one-hot as torch's newer exporter writes it: indices (..., 1) equal to 0, 1, 2, ..."""
    value, numbers = _one_constant(inputs)
    if not isinstance(value, Data) or not value.axes or value.axes[-1]:
        raise UnsupportedLayerError("a comparison that is not a one-hot's")
    _indices(value)
    count = numbers.shape[-1] if numbers.ndim else 0
    if count < 1 or numbers.size != count or not np.array_equal(numbers.ravel(), np.arange(count)):
        raise UnsupportedLayerError("a comparison that is not a one-hot's")
    return _hot(dataclasses.replace(value, axes=value.axes[:-1]), count)


def _hot(value: Data, classes: int) -> Data:
    features = (Atom("I", classes),)
    plan = LayerPlan(OneHot, options={"num_classes": classes})
    return then(value, plan, (*value.axes, features), features)


def _indices(value: Data) -> None:
    if not value.is_integer or value.last is not None:
        raise UnsupportedLayerError("its indices are not the input's integers")


def dropout(node: Node, inputs: Values, opset: int) -> Value:
    """Nothing, when a model is used."""
    training = const_at(inputs, 2)
    if training is not None and training.any():
        raise UnsupportedLayerError("dropout as in training")
    if any(node.outputs[1:]):
        raise UnsupportedLayerError("the mask of a dropout")
    return tracked(inputs)


def identity(node: Node, inputs: Values, opset: int) -> Value:
    value = inputs[0] if inputs else None
    if value is None:
        raise FormatError("it has no input")
    return value
