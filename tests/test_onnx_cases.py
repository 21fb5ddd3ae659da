"""ONNX's own GRU node cases pass through `from_onnx`: an independent definition of the same layer.

The cases come with the `onnx` package and take weights as inputs of the graph, where from_onnx
wants them in the file: the test puts them there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed")
node = pytest.importorskip("onnx.backend.test.case.node")
onnx_gru = pytest.importorskip("onnx.backend.test.case.node.gru")  # fills the list of cases

import onnx  # noqa: E402
from onnx import numpy_helper  # noqa: E402

import fastgru  # noqa: E402
from conftest import TOLERANCE, Array  # noqa: E402
from onnx_models import as_node, gru_model  # noqa: E402

CASES = [
    case
    for case in node._NodeTestCases
    if len(case.model.graph.node) == 1 and case.model.graph.node[0].op_type == "GRU"
]
WEIGHTS = ("W", "R", "B")


def with_weights(model: Any, inputs: dict[str, Array]) -> Any:
    """A copy whose W, R and B are initializers and no inputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    others = [item for item in copy.graph.input if item.name not in WEIGHTS]
    del copy.graph.input[:]
    copy.graph.input.extend(others)
    for name in WEIGHTS:
        if name in inputs:
            copy.graph.initializer.append(numpy_helper.from_array(inputs[name], name))
    return copy


def run(path: Path, inputs: dict[str, Array], isa: str, layout: int) -> dict[str, Array]:
    """What the node in the file computes, in the node's shapes."""
    gru = fastgru.from_onnx(path, isa=isa)
    assert isinstance(gru, fastgru.GRU)
    h_0 = inputs.get("initial_h")
    if layout and h_0 is not None:
        h_0 = h_0.swapaxes(0, 1)
    result = gru(inputs["X"], h_0, lengths=inputs.get("sequence_lens"))
    return dict(zip(("Y", "Y_h"), as_node(gru, *result, layout), strict=True))


def assert_same(actual: Array, expected: Array, name: str) -> None:
    np.testing.assert_allclose(
        actual,
        expected,
        rtol=TOLERANCE["onnx_rtol"],
        atol=TOLERANCE["onnx_atol"],
        err_msg=name,
    )


def test_the_cases_are_found() -> None:
    """An onnx release that moved them must not make this file pass by testing nothing."""
    assert len(CASES) >= 4, [case.name for case in CASES]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_onnx_case(case: Any, isa: str, tmp_path: Path) -> None:
    """Every expected output of the case, from its own inputs."""
    gru_node = case.model.graph.node[0]
    layout = next((a.i for a in gru_node.attribute if a.name == "layout"), 0)
    for input_arrays, output_arrays in case.data_sets:
        names = [name for name in gru_node.input if name]
        inputs = dict(zip(names, map(np.asarray, input_arrays), strict=True))
        assert set(inputs) <= {"X", *WEIGHTS, "sequence_lens", "initial_h"}, "a new kind of case"
        onnx.save(with_weights(case.model, inputs), tmp_path / "case.onnx")
        outputs = run(tmp_path / "case.onnx", inputs, isa, layout)
        expected_names = [name for name in gru_node.output if name]
        assert expected_names
        for name, expected in zip(expected_names, output_arrays, strict=True):
            assert_same(outputs[name], expected, name)


def test_a_case_as_it_is_says_where_weights_must_be() -> None:
    """ONNX's cases take W, R and B as inputs of the graph, which no exported model does."""
    with pytest.raises(fastgru.FormatError, match=r"W: 'W' is an input .* weights must be in the"):
        fastgru.from_onnx(CASES[0].model)


@pytest.mark.parametrize("linear_before_reset", [0, 1])
def test_linear_before_reset_is_reset_after(
    linear_before_reset: int, isa: str, tmp_path: Path
) -> None:
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
    weights = {name: inputs[name] for name in WEIGHTS}
    model = gru_model(weights, h_0=True, linear_before_reset=linear_before_reset)
    onnx.save(model, tmp_path / "gru.onnx")
    outputs = run(tmp_path / "gru.onnx", inputs, isa, 0)
    assert fastgru.from_onnx(model).reset_after == bool(linear_before_reset)
    for name, expected in (("Y", y), ("Y_h", y_h)):
        assert_same(outputs[name].reshape(expected.shape), expected, name)
