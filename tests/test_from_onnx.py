"""`from_onnx` on GRU nodes: every attribute and input that API.md names, against ONNX Runtime.

What ONNX Runtime does not run (layout 1) is compared with the same node in layout 0.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed")

import onnx
from onnx import TensorProto, helper, numpy_helper

import fastgru
from conftest import Array, random_input, same_bits
from onnx_models import (
    as_node,
    assert_near,
    gru_model,
    gru_weights,
    model_of,
    onnxruntime_run,
)

T, B, I, H = 7, 3, 5, 6  # noqa: E741
DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}


def inputs_of(rng: np.random.Generator, directions: int) -> dict[str, Array]:
    return {
        "X": random_input(rng, T, B, I),
        "initial_h": rng.uniform(-1, 1, (directions, B, H)).astype(np.float32),
        "sequence_lens": np.array([7, 4, 1], np.int32),
    }


def check(model: Any, feeds: dict[str, Array], isa: str | None = None, **expected: Any) -> None:
    """Y and Y_h of a model with one GRU node are those of ONNX Runtime."""
    gru = fastgru.from_onnx(model, isa=isa)
    assert isinstance(gru, fastgru.GRU)
    assert {name: getattr(gru, name) for name in expected} == expected
    names = {item.name for item in model.graph.input}
    h_0 = feeds["initial_h"] if "initial_h" in names else None
    lengths = feeds["sequence_lens"] if "sequence_lens" in names else None
    y, y_h = as_node(gru, *gru(feeds["X"], h_0, lengths=lengths))
    expected_y, expected_y_h = onnxruntime_run(model, feeds)
    assert_near(y, expected_y)
    assert_near(y_h, expected_y_h)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("linear_before_reset", [0, 1])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_directions_equations_and_biases(
    direction: str, linear_before_reset: int, bias: bool, isa: str
) -> None:
    """Gates are z, r, h in ONNX and biases one tensor; with h_0 and with lengths."""
    rng = np.random.default_rng(1)
    weights = gru_weights(rng, I, H, DIRECTIONS[direction], bias=bias)
    attributes: dict[str, Any] = {
        "direction": direction,
        "linear_before_reset": linear_before_reset,
    }
    for h_0 in (False, True):
        for lengths in (False, True):
            check(
                gru_model(weights, h_0=h_0, lengths=lengths, **attributes),
                inputs_of(rng, DIRECTIONS[direction]),
                isa,
                bidirectional=direction == "bidirectional",
                reverse=direction == "reverse",
                reset_after=linear_before_reset == 1,
                bias=bias,
                batch_first=False,
            )


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_layout_1_is_batch_first(direction: str) -> None:
    """The same numbers as layout 0, the batch in front; ONNX Runtime does not run it."""
    rng = np.random.default_rng(2)
    directions = DIRECTIONS[direction]
    weights = gru_weights(rng, I, H, directions)
    feeds = inputs_of(rng, directions)
    options: dict[str, Any] = {"h_0": True, "lengths": True, "direction": direction}
    gru = fastgru.from_onnx(gru_model(weights, layout=1, **options))
    assert gru.batch_first
    x = feeds["X"].swapaxes(0, 1)
    output, h_n = gru(x, feeds["initial_h"], lengths=feeds["sequence_lens"])
    y, y_h = onnxruntime_run(gru_model(weights, **options), feeds)
    assert_near(output, y.transpose(2, 0, 1, 3).reshape(B, T, directions * H))
    assert_near(h_n, y_h)


@pytest.mark.parametrize(
    ("activations", "numbers", "expected"),
    [
        (["Sigmoid", "Tanh"], {}, {"recurrent_activation": "sigmoid", "activation": "tanh"}),
        (["Sigmoid", "Relu"], {}, {"activation": "relu"}),
        (["Sigmoid", "Sigmoid"], {}, {"activation": "sigmoid"}),
        (
            ["Sigmoid", "Affine"],
            {"activation_alpha": [1.0], "activation_beta": [0.0]},
            {"activation": "identity"},
        ),
        (["HardSigmoid", "Tanh"], {}, {"recurrent_activation": "hard_sigmoid_02"}),
        (
            ["HardSigmoid", "Affine"],
            {"activation_alpha": [0.2, 1.0], "activation_beta": [0.5, 0.0]},
            {"recurrent_activation": "hard_sigmoid_02", "activation": "identity"},
        ),
        (
            ["HardSigmoid", "Relu"],
            {"activation_alpha": [1 / 6], "activation_beta": [0.5]},
            {"recurrent_activation": "hard_sigmoid", "activation": "relu"},
        ),
        (
            ["Sigmoid", "ScaledTanh"],
            {"activation_alpha": [1.0], "activation_beta": [1.0]},
            {"activation": "tanh"},
        ),
    ],
)
@pytest.mark.parametrize("directions", [1, 2])
def test_activations(
    activations: list[str], numbers: dict[str, Any], expected: dict[str, str], directions: int
) -> None:
    """All of API.md, and ONNX's rule which activation takes which alpha and beta."""
    rng = np.random.default_rng(3)
    weights = gru_weights(rng, I, H, directions)
    model = gru_model(
        weights,
        activations=activations * directions,
        direction=("forward", "bidirectional")[directions - 1],
        **{name: values * directions for name, values in numbers.items()},
    )
    gru = fastgru.from_onnx(model)
    for name, value in expected.items():
        assert getattr(gru._spec, name) == value
    check(model, inputs_of(rng, directions))


@pytest.mark.parametrize("outputs", [("Y",), ("Y_h",), ("Y_h", "Y"), ("Y", "Y_h")], ids="+".join)
def test_a_node_is_a_gru_whichever_outputs_it_has(outputs: tuple[str, ...]) -> None:
    """A GRU gives both."""
    weights = gru_weights(np.random.default_rng(4), I, H)
    assert isinstance(fastgru.from_onnx(gru_model(weights, outputs=outputs)), fastgru.GRU)


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_other_floating_types(dtype: str) -> None:
    """Weights in any real floating type, converted as from_state_dict does."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kind = np.dtype(getattr(ml_dtypes, dtype) if dtype == "bfloat16" else dtype)
    rng = np.random.default_rng(5)
    weights = {name: w.astype(kind) for name, w in gru_weights(rng, I, H).items()}
    gru = fastgru.from_onnx(gru_model(weights))
    widened = {name: w.astype(np.float32) for name, w in weights.items()}
    x = random_input(rng, T, B, I)
    for result, expected in zip(gru(x), fastgru.from_onnx(gru_model(widened))(x), strict=True):
        assert same_bits(result, expected)


@pytest.mark.parametrize("data_type", ["FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE"])
def test_numbers_in_fields_instead_of_raw_data(data_type: str) -> None:
    """The other way in which a TensorProto may hold its numbers."""
    rng = np.random.default_rng(6)
    weights = gru_weights(rng, I, H)
    model = gru_model(weights)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        tensor.CopyFrom(
            helper.make_tensor(
                tensor.name, getattr(TensorProto, data_type), values.shape, values.reshape(-1)
            )
        )
        assert not tensor.raw_data
    loaded = fastgru.from_onnx(model)
    rounded = {
        tensor.name: numpy_helper.to_array(tensor).astype(np.float32)
        for tensor in model.graph.initializer
    }
    x = random_input(rng, T, B, I)
    expected = fastgru.from_onnx(gru_model(rounded))(x)
    assert all(same_bits(a, b) for a, b in zip(loaded(x), expected, strict=True))


def test_lengths_and_states_may_be_typed_and_cast() -> None:
    """torch.onnx.export writes int64 lengths and casts them to int32."""
    rng = np.random.default_rng(7)
    weights = gru_weights(rng, I, H)
    nodes = [
        helper.make_node("Cast", ["n"], ["n32"], to=TensorProto.INT32),
        helper.make_node("GRU", ["X", "W", "R", "B", "n32"], ["Y", "Y_h"], hidden_size=H),
    ]
    inputs = {"X": ["T", "B", I], "n": ("i", ["B"])}
    gru = fastgru.from_onnx(model_of(nodes, inputs, ["Y", "Y_h"], weights))
    feeds = inputs_of(rng, 1)
    plain = gru_model(weights, lengths=True)
    expected = onnxruntime_run(plain, feeds)
    for result, wanted in zip(
        as_node(gru, *gru(feeds["X"], lengths=feeds["sequence_lens"])), expected, strict=True
    ):
        assert_near(result, wanted)


def test_lengths_that_say_nothing_are_dropped() -> None:
    """Constant lengths are supportable where they are T of a file with fixed T."""
    weights = gru_weights(np.random.default_rng(8), I, H)
    node = helper.make_node("GRU", ["X", "W", "R", "B", "n"], ["Y"], hidden_size=H)
    for lengths, fits in (([T] * B, True), ([T, T, T - 1], False)):
        constants = {**weights, "n": np.array(lengths, np.int32)}
        model = model_of([node], {"X": [T, B, I]}, ["Y"], constants)
        if fits:
            assert isinstance(fastgru.from_onnx(model), fastgru.GRU)
        else:
            with pytest.raises(fastgru.UnsupportedLayerError, match="pass them as lengths="):
                fastgru.from_onnx(model)


def test_external_data_in_the_same_folder(tmp_path: Path) -> None:
    """As torch's newer exporter writes large models; from any working directory."""
    rng = np.random.default_rng(9)
    model = gru_model(gru_weights(rng, I, H))
    x = random_input(rng, T, B, I)
    expected = fastgru.from_onnx(model)(x)
    path = tmp_path / "gru.onnx"
    onnx.save_model(
        model, path, save_as_external_data=True, location="gru.onnx.data", size_threshold=0
    )
    assert (tmp_path / "gru.onnx.data").exists()
    assert all(same_bits(a, b) for a, b in zip(fastgru.from_onnx(path)(x), expected, strict=True))
    (tmp_path / "gru.onnx.data").unlink()
    with pytest.raises(fastgru.FormatError, match=r"gru\.onnx: .*initializer 'W': external data"):
        fastgru.from_onnx(path)


def test_saved_and_loaded_again(tmp_path: Path) -> None:
    """Whatever loads can be saved as a native file and gives the same bits."""
    rng = np.random.default_rng(10)
    x = random_input(rng, T, B, I)
    for direction, directions in DIRECTIONS.items():
        model = gru_model(gru_weights(rng, I, H, directions), direction=direction)
        gru = fastgru.from_onnx(model, num_threads=1)
        gru.save(tmp_path / "gru.safetensors")
        again = fastgru.load(tmp_path / "gru.safetensors")
        assert again.reverse == (direction == "reverse")
        assert all(same_bits(a, b) for a, b in zip(gru(x), again(x), strict=True))


def test_options() -> None:
    """precision, num_threads and isa are those of a GRU."""
    model = gru_model(gru_weights(np.random.default_rng(11), I, H))
    gru = fastgru.from_onnx(model, precision="int8", num_threads=1, isa="portable")
    assert (gru.precision, gru.num_threads, gru.isa) == ("int8", 1, "portable")
    wrong: list[dict[str, Any]] = [{"precision": "int4"}, {"num_threads": 0}, {"isa": "sse9"}]
    for options in wrong:
        with pytest.raises(ValueError, match=r"int4|num_threads|sse9"):
            fastgru.from_onnx(model, **options)


def test_without_the_onnx_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The error says what to install."""
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r'pip install "fastgru\[onnx\]"'):
        fastgru.from_onnx(tmp_path / "gru.onnx")


def test_a_missing_file_is_an_oserror(tmp_path: Path) -> None:
    """As open() has it."""
    with pytest.raises(FileNotFoundError):
        fastgru.from_onnx(tmp_path / "gru.onnx")
