"""A case as ONNX bytes, for ONNX Runtime and OpenVINO: fixed shapes, one GRU node a layer.

Inputs: x [T, B, I] and, for a live sequence, h_0 [L*D, B, H]. Outputs: y [T, B, D*H], h_n
[L*D, B, H].
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from benchmarks.cases import Case
from benchmarks.inputs import Array32, Inputs, suffixes

# Old enough for every peer's reader; newer versions changed nothing for GRU.
OPSET, IR_VERSION = 17, 8


def _zrn(rows: Array32) -> Array32:
    """PyTorch's gate order r, z, n -> ONNX's z, r, h."""
    r, z, n = np.split(rows, 3)
    return np.concatenate([z, r, n])


def unsupported(case: Case) -> str | None:
    return "no lengths in this benchmark's graph" if case.ragged else None


def build(case: Case, inputs: Inputs) -> bytes:
    onnx: Any = importlib.import_module("onnx")
    node, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    nodes, constants = [], {}
    state_shape = [case.L * case.D, case.B, case.H]
    carried = case.mode != "call"

    if carried and case.L > 1:
        parts = [f"h_0.{k}" for k in range(case.L)]
        nodes.append(node("Split", ["h_0"], parts, axis=0))
    else:
        parts = ["h_0" if carried else ""] * case.L

    below, finals = "x", []
    for k in range(case.L):
        ends = [suffix for layer, suffix in suffixes(case) if layer == k]
        state = inputs.state
        constants[f"W.{k}"] = np.stack([_zrn(state["weight_ih" + s]) for s in ends])
        constants[f"R.{k}"] = np.stack([_zrn(state["weight_hh" + s]) for s in ends])
        constants[f"B.{k}"] = np.stack(
            [np.concatenate([_zrn(state[b + s]) for b in ("bias_ih", "bias_hh")]) for s in ends]
        )
        last = k == case.L - 1
        final = "h_n" if case.L == 1 else f"h_n.{k}"
        gru = node(
            "GRU",
            [below, f"W.{k}", f"R.{k}", f"B.{k}", "", parts[k]],
            [f"Y.{k}", final],
            hidden_size=case.H,
            linear_before_reset=int(case.reset_after),
            direction="bidirectional" if case.D == 2 else "forward",
        )
        finals.append(final)
        below = "y" if last else f"y.{k}"  # Y [T, D, B, H] -> [T, B, D*H]
        if case.D == 1:
            constants["one"] = np.array([1])
            nodes += [gru, node("Squeeze", [f"Y.{k}", "one"], [below])]
        else:
            constants["flat"] = np.array([case.T, case.B, case.D * case.H])
            nodes += [
                gru,
                node("Transpose", [f"Y.{k}"], [f"Yt.{k}"], perm=[0, 2, 1, 3]),
                node("Reshape", [f"Yt.{k}", "flat"], [below]),
            ]
    if case.L > 1:
        nodes.append(node("Concat", finals, ["h_n"], axis=0))

    number = onnx.TensorProto.FLOAT
    x = info("x", number, [case.T, case.B, case.I])
    graph = onnx.helper.make_graph(
        nodes,
        "gru",
        [x, info("h_0", number, state_shape)] if carried else [x],
        [info("y", number, [case.T, case.B, case.D * case.H]), info("h_n", number, state_shape)],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    onnx.checker.check_model(model, full_check=True)
    serialized: bytes = model.SerializeToString()
    return serialized
