"""ONNX's own GRU node cases pass through the engine: an independent definition of the same layer.

The cases come with the `onnx` package. ONNX orders gates z, r, h, keeps all biases in one tensor
and says `linear_before_reset` where PyTorch says nothing and we say `reset_after`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from conftest import TOLERANCE, Array, Weights, make_gru

node = pytest.importorskip("onnx.backend.test.case.node", reason="onnx is not installed")
onnx_gru = pytest.importorskip("onnx.backend.test.case.node.gru")  # fills the list of cases
helper = pytest.importorskip("onnx.helper")

CASES = [
    case
    for case in node._NodeTestCases
    if len(case.model.graph.node) == 1 and case.model.graph.node[0].op_type == "GRU"
]


def r_z_n(rows: Array) -> Array:
    """(3H, ...) in ONNX's order z, r, h -> PyTorch's r, z, n."""
    z, r, h = np.split(rows, 3)
    return np.concatenate([r, z, h])


def weights_of(inputs: dict[str, Array]) -> Weights:
    weights: Weights = {}
    for direction in range(len(inputs["W"])):
        suffix = "_l0" + "_reverse" * direction
        weights["weight_ih" + suffix] = r_z_n(inputs["W"][direction])
        weights["weight_hh" + suffix] = r_z_n(inputs["R"][direction])
        if "B" in inputs:
            of_input, of_state = np.split(inputs["B"][direction], 2)
            weights["bias_ih" + suffix], weights["bias_hh" + suffix] = (
                r_z_n(of_input),
                r_z_n(of_state),
            )
    return weights


def run(gru_node: Any, inputs: dict[str, Array], isa: str) -> dict[str, Array]:
    """What the ONNX node computes, by the engine: Y (T, D, B, H) and Y_h (D, B, H)."""
    attributes = {a.name: helper.get_attribute_value(a) for a in gru_node.attribute}
    known = {"hidden_size", "direction", "layout", "linear_before_reset"}
    assert set(attributes) <= known, "a new kind of case: teach this test what it means"
    batch_major = attributes.get("layout", 0) == 1
    backwards = attributes.get("direction", b"forward") == b"reverse"
    gru = make_gru(
        weights_of(inputs), reset_after=bool(attributes.get("linear_before_reset", 0)), isa=isa
    )
    x, h_0, lengths = inputs["X"], inputs.get("initial_h"), inputs.get("sequence_lens")
    if batch_major:
        x, h_0 = x.swapaxes(0, 1), None if h_0 is None else h_0.swapaxes(0, 1)
    if backwards:
        assert lengths is None, "a new kind of case: each row turns round at its own end"
        x = x[::-1]
    output, y_h = gru(x, h_0, lengths=lengths)
    y = output.reshape(*output.shape[:2], len(inputs["W"]), -1).transpose(0, 2, 1, 3)
    if backwards:
        y = y[::-1]
    if batch_major:
        y, y_h = y.transpose(2, 0, 1, 3), y_h.swapaxes(0, 1)
    return {"Y": y, "Y_h": y_h}


def test_the_cases_are_found() -> None:
    """An onnx release that moved them must not make this file pass by testing nothing."""
    assert len(CASES) >= 4, [case.name for case in CASES]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_onnx_case(case: Any, isa: str) -> None:
    """Every expected output of the case, from its own inputs."""
    gru_node = case.model.graph.node[0]
    for input_arrays, output_arrays in case.data_sets:
        names = [name for name in gru_node.input if name]
        inputs = dict(zip(names, map(np.asarray, input_arrays), strict=True))
        outputs = run(gru_node, inputs, isa)
        expected_names = [name for name in gru_node.output if name]
        assert expected_names
        for name, expected in zip(expected_names, output_arrays, strict=True):
            np.testing.assert_allclose(
                outputs[name],
                expected,
                rtol=TOLERANCE["onnx_rtol"],
                atol=TOLERANCE["onnx_atol"],
                err_msg=name,
            )


@pytest.mark.parametrize("linear_before_reset", [0, 1])
def test_linear_before_reset_is_reset_after(linear_before_reset: int, isa: str) -> None:
    """ONNX's package has no such case for 1, so onnx's own helper computes one for each."""
    rng = np.random.default_rng(linear_before_reset)
    inputs = {
        "X": rng.standard_normal((5, 3, 4)).astype(np.float32),
        "W": rng.standard_normal((1, 18, 4)).astype(np.float32),
        "R": rng.standard_normal((1, 18, 6)).astype(np.float32),
        "B": rng.standard_normal((1, 36)).astype(np.float32),
        "initial_h": rng.standard_normal((1, 3, 6)).astype(np.float32),
    }
    doubles = {name: value.astype(np.float64) for name, value in inputs.items()}
    y, y_h = onnx_gru.GRUHelper(**doubles, linear_before_reset=linear_before_reset).step()
    gru_node = helper.make_node(
        "GRU", list(inputs), ["Y", "Y_h"], linear_before_reset=linear_before_reset
    )
    outputs = run(gru_node, inputs, isa)
    for name, expected in (("Y", y), ("Y_h", y_h)):
        np.testing.assert_allclose(
            outputs[name].reshape(expected.shape),
            expected,
            rtol=TOLERANCE["onnx_rtol"],
            atol=TOLERANCE["onnx_atol"],
        )
