"""Layers around a GRU as ONNX graphs spell them: products, embeddings, activations, reductions.

Each takes a value and gives it after one more plan; what adds to a plan is arithmetic.py's.
Refuses what is no layer of fastgru, saying what it saw.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from fastgru.errors import FormatError, UnsupportedLayerError
from fastgru.formats.onnx import arguments
from fastgru.formats.onnx.arithmetic import is_float, one_constant, with_vector
from fastgru.formats.onnx.graph import Node
from fastgru.formats.onnx.layout import Values, const_at, consts, data_at, float_rows, then, tracked
from fastgru.formats.onnx.plans import LayerPlan
from fastgru.formats.onnx.sizes import Atom, Size
from fastgru.formats.onnx.tensors import Array
from fastgru.formats.onnx.values import (
    Const,
    Data,
    Moment,
    Value,
    axes_text,
    size_of,
)
from fastgru.layers import (
    Embedding,
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


def matmul(node: Node, inputs: Values, opset: int) -> Value:
    """X times a matrix from the right: a Linear without bias, for now."""
    if inputs and isinstance(inputs[0], Const):
        raise UnsupportedLayerError("a constant times the input; input times constant is a Linear")
    weight = const_at(inputs, 1)
    if weight is None:
        raise FormatError("MatMul needs two inputs")
    return _linear(float_rows(data_at(inputs)), weight, None)


def gemm(node: Node, inputs: Values, opset: int) -> Value:
    """X W^T + b, of rows."""
    value, weight, bias = float_rows(data_at(inputs)), const_at(inputs, 1), const_at(inputs, 2)
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
    if weight.ndim != 2 or not is_float(weight) or 0 in weight.shape:
        raise UnsupportedLayerError(
            f"it is times a constant of {weight.dtype} and shape {weight.shape}"
        )
    if isinstance(size, int) and size != weight.shape[0]:
        raise FormatError(f"it takes {weight.shape[0]} features, there are {size}")
    outputs = (Atom("O", weight.shape[1]),)
    plan = LayerPlan(Linear, {"weight": weight.T})
    product = then(value, plan, (*value.axes[:-1], outputs), outputs)
    return product if bias is None else with_vector(product, "bias", bias)


def activation(node: Node, inputs: Values, opset: int) -> Value:
    value = data_at(inputs)
    if value.is_integer:
        raise FormatError("it takes integers")
    return then(value, LayerPlan(ACTIVATIONS[node.op]))


def softmax(node: Node, inputs: Values, opset: int) -> Value:
    value = data_at(inputs)
    rank = len(value.axes)
    axis = arguments.axis_in(node.integer("axis", -1 if opset >= _SOFTMAX_OPSET else 1), rank)
    if value.axes[axis] != value.features or (opset < _SOFTMAX_OPSET and axis != rank - 1):
        raise UnsupportedLayerError(
            f"over axis {axis} of {axes_text(value.axes)}, which is not the features"
        )
    return then(value, LayerPlan(SOFTMAXES[node.op]))


def reduction(node: Node, inputs: Values, opset: int) -> Value:
    """Mean and Max over time; a mean over the features starts a layer norm."""
    value = inputs[0] if inputs else None
    axes = arguments.axes_of(node, consts(inputs), 1)
    keep = node.integer("keepdims", 1) != 0
    if not isinstance(value, Data | Moment) or axes is None or len(axes) != 1:
        raise UnsupportedLayerError("over several axes, or of what is no sequence")
    axis = arguments.axis_in(axes[0], len(value.axes))
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
    if not is_float(table) or 0 in table.shape:
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
    if depth.size != 1 or isinstance(classes := depth.reshape(-1)[0], Size):
        raise UnsupportedLayerError("a number of classes that the input decides")
    if not math.isfinite(classes) or not 1 <= classes < 2**31 or classes != int(classes):
        raise FormatError(f"expected a number of classes, got {classes}")
    if pair.reshape(-1).tolist() != [0, 1]:
        raise UnsupportedLayerError("other values than 0 and 1")
    if node.integer("axis", -1) not in (-1, len(value.axes)):
        raise UnsupportedLayerError("classes that are not the last axis")
    return dataclasses.replace(_hot(value, int(classes)), is_integer=not is_float(pair))


def equal(node: Node, inputs: Values, opset: int) -> Value:
    """A one-hot as torch's newer exporter writes it: indices (..., 1) equal to 0, 1, 2, ..."""
    value, numbers = one_constant(inputs)
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
