"""A GRU node of ONNX -> tensors under PyTorch's names, options, and what its outputs are.

ONNX orders gates z, r, h and keeps all biases in one tensor; see Note [Gate order]. Refuses what
the engine does not calculate: clip, other activations, and different ones for the two directions.
Initial states and lengths are gru_inputs.py's.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastgru.arrays import Float32Array, as_float32, is_real_float, shape_text
from fastgru.errors import FormatError, UnsupportedLayerError
from fastgru.formats.onnx.graph import Node
from fastgru.formats.onnx.gru_inputs import initial_h, lengths_of
from fastgru.formats.onnx.layout import Values
from fastgru.formats.onnx.plans import GruPlan, StatePlan
from fastgru.formats.onnx.sizes import Atom
from fastgru.formats.onnx.tensors import Array
from fastgru.formats.onnx.values import (
    Const,
    Data,
    Fill,
    Frame,
    Group,
    Repeated,
    Step,
    Value,
    axes_text,
    size_of,
)
from fastgru.formats.window import Allowance
from fastgru.text import report

_DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}
_MAX_ACTIVATIONS = 4

# activation -> ONNX's defaults of alpha and beta; None where it takes none. Those of affine and
# scaledtanh are not agreed upon (ONNX Runtime takes 0), so that a file has to give them.
_PARAMETERS: dict[str, tuple[float | None, float | None]] = {
    "affine": (math.nan, math.nan),
    "elu": (1.0, None),
    "hardsigmoid": (0.2, 0.5),
    "leakyrelu": (0.01, None),
    "relu": (None, None),
    "scaledtanh": (math.nan, math.nan),
    "sigmoid": (None, None),
    "softplus": (None, None),
    "softsign": (None, None),
    "tanh": (None, None),
    "thresholdedrelu": (1.0, None),
}


def _float32(value: float | None) -> float | None:
    """As files hold it."""
    return None if value is None else float(np.float32(value))


_RECURRENT = {
    ("sigmoid", None, None): "sigmoid",
    ("hardsigmoid", _float32(0.2), 0.5): "hard_sigmoid_02",
    ("hardsigmoid", _float32(1 / 6), 0.5): "hard_sigmoid",
}
_CANDIDATE = {
    ("tanh", None, None): "tanh",
    ("scaledtanh", 1.0, 1.0): "tanh",
    ("relu", None, None): "relu",
    ("sigmoid", None, None): "sigmoid",
    ("affine", 1.0, 0.0): "identity",
}


def gru(node: Node, inputs: Values, opset: int, allowance: Allowance) -> list[Value]:
    """Y and Y_h."""
    direction = node.text("direction", "forward")
    layout = node.integer("layout", 0)
    if direction not in _DIRECTIONS:
        raise FormatError(
            f"direction: expected 'forward', 'reverse' or 'bidirectional', got {direction[:50]!r}"
        )
    if layout not in (0, 1):
        raise FormatError(f"layout: expected 0 or 1, got {layout}")
    directions = _DIRECTIONS[direction]
    if "clip" in node.attributes:
        raise UnsupportedLayerError(
            "clip, which limits what goes into the activations: fastgru has no such GRU"
        )
    x = _input(inputs)
    recurrent, candidate = _activations(node, directions)
    tensors = _tensors(node, inputs, directions, allowance)
    hidden, features = tensors["weight_hh"].shape[1], size_of(x.features)
    taken = tensors["weight_ih"].shape[1]
    if isinstance(features, int) and features != taken:
        raise FormatError(f"X: expected {taken} features as W says, got {features}")
    frame = _frame(x, layout)
    plan = GruPlan(
        str(node),
        tensors,
        {
            "reset_after": node.integer("linear_before_reset", 0) != 0,
            "activation": candidate,
            "recurrent_activation": recurrent,
            "reverse": direction == "reverse",
        },
        layout,
        initial_h(inputs),
        lengths_of(inputs, frame),
    )
    units: Group = (Atom("H", hidden),)
    way: Group = (Atom("D", 2),) if directions == 2 else ()
    time: Group = (frame.time,)
    batch: Group = () if frame.batch is None else (frame.batch,)
    y = dataclasses.replace(
        x,
        axes=(batch, time, way, units) if layout else (time, way, batch, units),
        features=way + units,
        last=Step(plan, x.last),
        frame=frame,
    )
    y_h = dataclasses.replace(
        y,
        axes=(batch, way, units) if layout else (way, batch, units),
        last=Step(StatePlan(directions, direction == "reverse"), y.last),
    )
    return [y, y_h]


def _input(inputs: Values) -> Data:
    x = inputs[0] if inputs else None
    if not isinstance(x, Data):
        raise UnsupportedLayerError("its X does not come from the graph's input through layers")
    if x.is_integer:
        raise FormatError("its X are integers")
    if len(x.axes) != 3:
        raise FormatError(f"X: expected 3 axes, got {axes_text(x.axes)}")
    if x.axes[2] != x.features:
        raise UnsupportedLayerError(
            f"the last axis of its X, {axes_text(x.axes)}, is not the features; fastgru takes "
            "(T, B, I) or (B, T, I)"
        )
    return x


def _frame(x: Data, layout: int) -> Frame:
    time, batch = x.axes[layout], x.axes[1 - layout]
    if len(time) != 1 or len(batch) > 1:
        raise UnsupportedLayerError(
            f"its X is {axes_text(x.axes)}: one axis of the input must be time, and at most one "
            "the batch (a GRUCell or one step alone: use the stream of a GRU)"
        )
    frame = Frame(time[0], batch[0] if batch else None)
    if x.frame is not None and (x.frame.time, x.frame.batch) != (frame.time, frame.batch):
        raise UnsupportedLayerError("it takes another axis for time than the GRU before it")
    return frame


def _activations(node: Node, directions: int) -> tuple[str, str]:
    """The engine's names of f and g."""
    given = node.many("activations", bytes)
    names = [str(name, "utf-8", "replace").lower() for name in given or ()]
    names = names[:_MAX_ACTIVATIONS] or ["sigmoid", "tanh"] * directions
    if len(given or names) != 2 * directions:
        raise FormatError(f"activations: expected {2 * directions}, got {len(given or ())}")
    pools = [list(node.many(name, float) or ()) for name in ("activation_alpha", "activation_beta")]
    told: list[tuple[str, float | None, float | None]] = []
    for name in names:
        if name not in _PARAMETERS:
            raise UnsupportedLayerError(f"activation {name[:50]!r}")
        # "consumed in the order of activation functions", by those that take them
        alpha, beta = (
            default if default is None or not pool else pool.pop(0)
            for default, pool in zip(_PARAMETERS[name], pools, strict=True)
        )
        told.append((name, _float32(alpha), _float32(beta)))
    if any(pools):
        raise FormatError("activation_alpha, activation_beta: more numbers than activations take")
    for index, known in ((0, _RECURRENT), (1, _CANDIDATE)):
        if told[index] not in known:
            raise UnsupportedLayerError(
                f"activations {_text(told[index])} for "
                f"{('the gates', 'the candidate')[index]}; supported are "
                f"{', '.join(_text(kind) for kind in known)}"
            )
    if told[2:] not in ([], told[:2]):
        raise UnsupportedLayerError("different activations for the two directions")
    return _RECURRENT[told[0]], _CANDIDATE[told[1]]


def _text(kind: tuple[str, float | None, float | None]) -> str:
    numbers = [f"{value:.7g}" for value in kind[1:] if value is not None]
    return kind[0] + (f"({', '.join(numbers)})" if numbers else "")


def _tensors(
    node: Node, inputs: Values, directions: int, allowance: Allowance
) -> dict[str, Float32Array]:
    """W, R and B, judged and taken apart."""
    arrays = {
        name: _weight(name, inputs[at] if at < len(inputs) else None)
        for name, at in (("W", 1), ("R", 2), ("B", 3))
    }
    missing = [f"{name}: missing" for name in "WR" if arrays[name] is None]
    if missing:
        raise FormatError(report("its weights", missing))
    w, r, b = arrays["W"], arrays["R"], arrays["B"]
    assert isinstance(w, np.ndarray)
    assert isinstance(r, np.ndarray)
    hidden = node.integer("hidden_size", r.shape[-1] if r.ndim else 0)
    if isinstance(b, Fill):
        b = np.broadcast_to(np.asarray(b.number), (directions, 6 * max(hidden, 0)))
    expected: dict[str, tuple[int | str, ...]] = {
        "W": (directions, 3 * hidden, w.shape[-1] if w.ndim else "I"),
        "R": (directions, 3 * hidden, hidden),
        "B": (directions, 6 * hidden),
    }
    found = {"W": w, "R": r} | ({} if b is None else {"B": b})
    if problems := list(_misfits(found, expected)):
        raise FormatError(report("its weights", problems))
    allowance.take(8 * sum(array.size for array in found.values()))
    tensors = {}
    for way, ending in enumerate(("", "_reverse")[:directions]):
        tensors[f"weight_ih{ending}"] = _r_z_n("W", w[way])
        tensors[f"weight_hh{ending}"] = _r_z_n("R", r[way])
        if b is not None:
            tensors[f"bias_ih{ending}"] = _r_z_n("B", b[way, : 3 * hidden])
            tensors[f"bias_hh{ending}"] = _r_z_n("B", b[way, 3 * hidden :])
    return tensors


def _weight(name: str, value: Value | None) -> Any:
    if value is None or (isinstance(value, Fill) and name == "B"):
        return value
    if isinstance(value, Const):
        return value.array
    if isinstance(value, Repeated | Fill):
        raise UnsupportedLayerError(
            f"{name}: its shape depends on the input's sizes, or it is one number throughout"
        )
    source = value.source.name if isinstance(value, Data) else "what it takes"
    raise FormatError(
        f"{name}: {source!r} is an input of the graph or depends on one; weights must be in the "
        "file, as initializers"
    )


def _misfits(found: dict[str, Array], expected: dict[str, tuple[int | str, ...]]) -> Iterator[str]:
    for name, array in found.items():
        if array.shape != expected[name]:
            yield f"{name}: expected {shape_text(expected[name])}, got {shape_text(array.shape)}"
        elif 0 in array.shape:
            yield f"{name}: expected at least 1 in each axis, got {shape_text(array.shape)}"
        if not is_real_float(array.dtype):
            yield f"{name}: expected a real floating dtype, got {array.dtype}"


def _r_z_n(name: str, rows: Array) -> Float32Array:
    z, r, h = np.split(as_float32(name, rows), 3)
    return np.concatenate([r, z, h])
