"""ONNX models for the tests: GRU nodes by hand, and what ONNX Runtime makes of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import fastgru
from conftest import TOLERANCE, Array

OPSET = 20
TYPES = {"f": TensorProto.FLOAT, "i": TensorProto.INT64, "l": TensorProto.INT32}


def model_of(
    nodes: Sequence[Any],
    inputs: dict[str, Any],
    outputs: Sequence[str],
    constants: dict[str, Array],
    opset: int = OPSET,
    **options: Any,
) -> Any:
    """A ModelProto. `inputs`: shapes, of floats, or (a letter of TYPES, a shape)."""
    infos = []
    for name, given in inputs.items():
        letter, shape = given if isinstance(given[0], str) and given[0] in TYPES else ("f", given)
        infos.append(helper.make_tensor_value_info(name, TYPES[letter], shape))
    graph = helper.make_graph(
        list(nodes),
        "test",
        infos,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9, **options
    )


def gru_weights(
    rng: np.random.Generator, inputs: int, hidden: int, directions: int = 1, *, bias: bool = True
) -> dict[str, Array]:
    """W, R and B of a node, as large as torch makes them."""
    shapes: dict[str, tuple[int, ...]] = {"W": (3 * hidden, inputs), "R": (3 * hidden, hidden)}
    if bias:
        shapes["B"] = (6 * hidden,)
    bound = 1 / np.sqrt(hidden)
    return {
        name: rng.uniform(-bound, bound, (directions, *shape)).astype(np.float32)
        for name, shape in shapes.items()
    }


def gru_model(
    weights: dict[str, Array],
    *,
    lengths: bool = False,
    h_0: bool = False,
    outputs: Sequence[str] = ("Y", "Y_h"),
    opset: int = OPSET,
    **attributes: Any,
) -> Any:
    """One GRU node with its weights in the file; X (T, B, I), or (B, T, I) with layout=1."""
    hidden, directions = weights["R"].shape[-1], len(weights["R"])
    batch_major = attributes.get("layout", 0) == 1
    inputs: dict[str, Any] = {"X": [*("BT" if batch_major else "TB"), weights["W"].shape[-1]]}
    if lengths:
        inputs["sequence_lens"] = ("l", ["B"])
    if h_0:
        inputs["initial_h"] = (
            ["B", directions, hidden] if batch_major else [directions, "B", hidden]
        )
    names = ["X", "W", "R", "B" if "B" in weights else "", "sequence_lens", "initial_h"]
    taken = [name if name in inputs or name in weights else "" for name in names]
    made = [name if name in outputs else "" for name in ("Y", "Y_h")]
    node = helper.make_node("GRU", taken, made, hidden_size=hidden, **attributes)
    return model_of([node], inputs, list(outputs), weights, opset)


def as_node(gru: fastgru.GRU, output: Array, h_n: Array, layout: int = 0) -> list[Array]:
    """A GRU's result in the shapes of a node: Y (T, D, B, H) and Y_h (D, B, H), or layout 1's."""
    directions = 2 if gru.bidirectional else 1
    y = output.reshape(*output.shape[:2], directions, -1)
    if layout:
        return [y, h_n.swapaxes(0, 1)]
    return [y.transpose(0, 2, 1, 3), h_n]


def onnxruntime_run(model: Any, feeds: dict[str, Array]) -> list[Array]:
    """What ONNX Runtime makes of a ModelProto or a path; a visible skip without it."""
    runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    given = model if isinstance(model, str) else model.SerializeToString()
    session = runtime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    wanted = {item.name for item in session.get_inputs()}
    results: list[Array] = session.run(None, {k: v for k, v in feeds.items() if k in wanted})
    return results


def assert_near(actual: Array, expected: Array) -> None:
    """Both are sums of float32: the tolerances of ONNX's own cases, and the same shape."""
    assert actual.shape == expected.shape
    np.testing.assert_allclose(
        actual, expected, rtol=TOLERANCE["onnx_rtol"], atol=TOLERANCE["onnx_atol"]
    )


def with_initializer(model: Any, name: str, change: Any) -> Any:
    """A copy whose initializer `name` went through `change`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    change(next(item for item in copy.graph.initializer if item.name == name))
    return copy
