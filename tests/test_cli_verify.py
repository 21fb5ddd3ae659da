"""`fastgru verify`: it passes what is right, by a bound that is printed, and fails what is not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastgru
import reference
from commands import (
    DATA,
    Done,
    H,
    I,
    assert_user_error,
    command,
    model_of_layers,
    named,
    onnx_gru,
    save_npz,
    weights,
)
from conftest import Array, assert_close, largest_error, random_input, random_state, random_weights
from fastgru.cli import reference as ours
from fastgru.cli import yardstick
from fastgru.spec import spec_from_tensors

Capture = pytest.CaptureFixture[str]

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "before": {"reset_after": False},
    "relu": {"activation": "relu"},
    "hard": {"recurrent_activation": "hard_sigmoid_02", "batch_first": True},
    "int8": {"precision": "int8"},
    "bfloat16": {"precision": "bfloat16", "reset_after": False},
}
CHECKPOINTS = [
    path
    for path in sorted(DATA.rglob("*"))
    if path.suffix in {".pt", ".keras", ".h5"} and not path.name.startswith(("masked", "graph"))
]


def options_of(kind: dict[str, Any]) -> list[str]:
    """What the command line calls them; the precision is the model's alone."""
    names = {"reset_after": ["--reset-before"], "batch_first": ["--batch-first"]}
    return [
        part
        for name, value in kind.items()
        if name != "precision"
        for part in names.get(name, [f"--{name.replace('_', '-')}", value])
    ]


@pytest.fixture(params=["torch", "no torch"])
def with_and_without_torch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """The yardstick is PyTorch where it is installed, and NumPy where it is not."""
    if request.param == "torch":
        pytest.importorskip("torch", reason="PyTorch is not installed")
        return True
    monkeypatch.setitem(sys.modules, "torch", None)
    return False


@pytest.mark.parametrize("kind", KINDS)
def test_a_gru_of_its_checkpoint_is_ok(
    kind: str, tmp_path: Path, capsys: Capture, with_and_without_torch: bool
) -> None:
    """Every equation and precision, two layers and directions; the yardstick is named."""
    save_npz(tmp_path / "w.npz", named("rnn.", weights(2, True)))
    model = fastgru.load(tmp_path / "w.npz", **KINDS[kind])
    model.save(tmp_path / "gru")
    done = command(capsys, "verify", tmp_path / "gru", tmp_path / "w.npz", *options_of(KINDS[kind]))
    assert (done.status, done.err) == (0, ""), done.out
    assert done.out.endswith("\nok\n")
    assert "final state" in done.out
    if "precision" in KINDS[kind]:
        assert f"{kind} as defined" in done.out
    elif not with_and_without_torch:
        assert "NumPy in float32" in done.out
    else:
        wanted = "torch.nn.GRU of PyTorch" if kind == "plain" else "products of PyTorch"
        assert wanted in done.out


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_model_of_its_own_file_is_ok(
    precision: str, batch_first: bool, tmp_path: Path, capsys: Capture, with_and_without_torch: bool
) -> None:
    """All layers in float64, in both layouts."""
    model_of_layers(batch_first).to(precision).save(tmp_path / "model")
    model_of_layers(batch_first).save(tmp_path / "original")
    done = command(capsys, "verify", tmp_path / "model", tmp_path / "original")
    assert (done.status, done.err) == (0, ""), done.out
    assert done.out.endswith("\nok\n")


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: path.name)
def test_exports_of_every_checkpoint_are_ok(
    path: Path, precision: str, tmp_path: Path, capsys: Capture
) -> None:
    """The whole way, from what PyTorch and Keras wrote: info, export, verify."""
    assert command(capsys, "info", path).status == 0
    out = tmp_path / "out"
    assert command(capsys, "export", path, out, "--precision", precision).status == 0
    done = command(capsys, "verify", out, path)
    assert done.status == 0, done.out


def test_an_onnx_file_against_the_checkpoint_it_came_from(
    tmp_path: Path, capsys: Capture, torch: Any
) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed")
    path = onnx_gru(torch, tmp_path / "gru.onnx", weights())
    save_npz(tmp_path / "w.npz", weights())
    assert command(capsys, "verify", path, tmp_path / "w.npz").status == 0
    save_npz(tmp_path / "w.npz", weights(seed=1))
    assert command(capsys, "verify", path, tmp_path / "w.npz").status == 1


def failed(done: Done, *parts: str) -> None:
    """Status 1, and lines on stdout that say what differs."""
    assert (done.status, done.err) == (1, "")
    lines = [line for line in done.out.splitlines() if line.startswith("FAILED: ")]
    for part in parts:
        assert any(part in line for line in lines), done.out
    assert "\nok\n" not in done.out


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("name", sorted(weights(2)))
def test_one_other_weight_fails(name: str, precision: str, tmp_path: Path, capsys: Capture) -> None:
    """The last row of one tensor is of another epoch; reduced weights are looked at bit for bit."""
    original, other = weights(2), weights(2)
    other[name][-1] *= 1.01
    save_npz(tmp_path / "w.npz", original)
    fastgru.GRU.from_state_dict(other, precision=precision).save(tmp_path / "gru")
    done = command(capsys, "verify", tmp_path / "gru", tmp_path / "w.npz")
    meant = "" if precision == "float32" else f"what {precision} makes of "
    failed(done, f"{name}: not {meant}CHECKPOINT's")


def test_a_kept_layer_is_float32(tmp_path: Path, capsys: Capture) -> None:
    """`keep` is known from the file; a weight of such a layer must be the checkpoint's."""
    save_npz(tmp_path / "w.npz", weights(2))
    model = fastgru.GRU.from_state_dict(weights(2)).to("int8", keep=[0])
    model.save(tmp_path / "gru")
    assert command(capsys, "verify", tmp_path / "gru", tmp_path / "w.npz").status == 0
    other = weights(2)
    other["weight_hh_l0"][0, 0] += 1e-6
    save_npz(tmp_path / "w.npz", other)
    failed(command(capsys, "verify", tmp_path / "gru", tmp_path / "w.npz"), "weight_hh_l0")


def test_differences_in_kind_are_told(tmp_path: Path, capsys: Capture) -> None:
    """Sizes, layers, equation, GRU or Model: a line for each, and no numbers."""
    files: dict[str, fastgru.GRU | fastgru.Model] = {
        "gru": fastgru.GRU.from_state_dict(weights()),
        "two": fastgru.GRU.from_state_dict(weights(2, bias=False)),
        "before": fastgru.GRU.from_state_dict(weights(), reset_after=False, activation="relu"),
        "int8": fastgru.GRU.from_state_dict(weights(), precision="int8"),
        "model": model_of_layers(),
        "short": fastgru.Model(model_of_layers().layers[:-1]),
        "other": fastgru.Model([*model_of_layers().layers[:-1], fastgru.Softmax()]),
    }
    for name, model in files.items():
        model.save(tmp_path / name)

    def verify(a: str, b: str) -> Done:
        return command(capsys, "verify", tmp_path / a, tmp_path / b)

    failed(verify("gru", "two"), "num_layers: MODEL has 1, CHECKPOINT 2", "bias: MODEL has True")
    failed(verify("gru", "before"), "reset_after: MODEL has True", "activation: ", "see --help")
    failed(verify("gru", "int8"), "precision: MODEL has float32, CHECKPOINT only int8")
    failed(verify("gru", "model"), "MODEL is a GRU, CHECKPOINT a Model")
    failed(verify("model", "short"), "MODEL has 7 layers, CHECKPOINT 6")
    failed(verify("model", "other"), "layer 6: MODEL has LogSoftmax(), CHECKPOINT Softmax()")


@pytest.mark.parametrize("tensor", ["weight", "bias"])
def test_another_layer_of_a_model_fails(tensor: str, tmp_path: Path, capsys: Capture) -> None:
    """The head's numbers count like the GRU's."""
    layers = list(model_of_layers().layers)
    head = layers[4]
    assert isinstance(head, fastgru.Linear)
    tensors: dict[str, Any] = dict(head._tensors())
    tensors[tensor] = tensors[tensor] + np.float32(1e-4)
    model_of_layers().save(tmp_path / "original")
    model = fastgru.Model([*layers[:4], fastgru.Linear(**tensors), *layers[5:]])
    for precision in ("float32", "int8"):  # whose bounds on outputs are wide
        model.to(precision).save(tmp_path / "model")
        done = command(capsys, "verify", tmp_path / "model", tmp_path / "original")
        failed(done, f"layer 4: {tensor}: not CHECKPOINT's")


def test_a_row_that_is_never_looked_up_fails(tmp_path: Path, capsys: Capture) -> None:
    """Of a large vocabulary a few random indices would not find it."""
    table = np.zeros((20_000, 3), np.float32)
    fastgru.Model([fastgru.Embedding(table)]).save(tmp_path / "original")
    table[12_345] = 1e3
    fastgru.Model([fastgru.Embedding(table)]).save(tmp_path / "model")
    failed(command(capsys, "verify", tmp_path / "model", tmp_path / "original"), "weight: not")


@pytest.mark.parametrize("fault", ["nan", "lengths", "reverse"])
def test_a_fault_of_the_engine_fails(
    fault: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One NaN, lengths that are ignored, a direction that starts at the wrong end."""
    plain = fastgru.GRU.__call__

    def call(self: Any, x: Any, h_0: Any = None, *, lengths: Any = None) -> Any:
        if fault == "reverse":
            return plain(self, x[::-1], h_0, lengths=lengths)
        output, h_n = plain(self, x, h_0, lengths=None if fault == "lengths" else lengths)
        if fault == "nan":
            output[-1, -1, -1] = np.nan
        return output, h_n

    fastgru.GRU.from_state_dict(weights()).save(tmp_path / "gru")
    monkeypatch.setattr(fastgru.GRU, "__call__", call)
    failed(command(capsys, "verify", tmp_path / "gru", tmp_path / "gru"), "expected at most")


def test_user_errors(tmp_path: Path, capsys: Capture) -> None:
    fastgru.GRU.from_state_dict(weights()).save(tmp_path / "gru")
    save_npz(tmp_path / "w.npz", named("a.", weights()), named("b.", weights()))
    gru, checkpoint = tmp_path / "gru", tmp_path / "w.npz"
    assert_user_error(command(capsys, "verify", gru, tmp_path / "none"), "No such file")
    assert_user_error(command(capsys, "verify", tmp_path / "none", gru), "No such file")
    assert_user_error(command(capsys, "verify", gru, checkpoint), "several networks")
    assert_user_error(command(capsys, "verify", gru, gru, "--seed", "-1"), "--seed")
    assert command(capsys, "verify", gru, checkpoint, "--prefix", "b.").status == 0


# ---- the float64 reference ----


@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=5),
    num_layers=st.integers(1, 2),
    bidirectional=st.booleans(),
    bias=st.booleans(),
    reset_after=st.booleans(),
    activation=st.sampled_from(sorted(reference.CANDIDATE)),
    recurrent_activation=st.sampled_from(sorted(reference.RECURRENT)),
)
def test_the_reference_is_the_definition_of_correct(
    lengths: list[int], num_layers: int, bidirectional: bool, bias: bool, **kind: Any
) -> None:
    """What verify compares with is tests/reference.py, to float64's last digits."""
    rng = np.random.default_rng(len(lengths))
    state = random_weights(rng, I, H, num_layers, bidirectional, bias)
    x, h_0 = random_input(rng, 6, len(lengths), I), random_state(rng, state, len(lengths))
    exact = reference.gru(state, x, h_0, lengths, **kind)
    gru = fastgru.GRU.from_state_dict(state, **kind)
    output, h_n = ours.run_gru(gru, x, h_0, np.array(lengths))
    assert output.dtype == h_n.dtype == np.float64
    assert largest_error(output, exact.output) < 1e-13
    assert largest_error(h_n, exact.h_n) < 1e-13


def turned(x: Array, lengths: Array) -> Array:
    return np.asarray(fastgru.Reverse()(x, lengths=lengths))


def test_the_reference_of_a_reverse_gru() -> None:
    """The forward one on sequences that are turned round."""
    rng = np.random.default_rng(0)
    lengths = np.array([4, 0, 6])
    x, h_0 = random_input(rng, 6, 3, I), random_state(rng, weights(), 3)
    exact = reference.gru(weights(), turned(x, lengths), h_0, lengths)
    spec = spec_from_tensors(weights(), reverse=True)
    output, h_n = ours.run_gru(fastgru.GRU(spec), x, h_0, lengths)
    assert largest_error(turned(output.astype(np.float32), lengths), exact.output) < 1e-7
    assert largest_error(h_n, exact.h_n) < 1e-13


LAYERS: list[fastgru.layers.Layer] = [
    fastgru.Linear(random_input(np.random.default_rng(0), 4, 6), [0.5, -1.0, 2.0, 0.0]),
    fastgru.LayerNorm(np.arange(6.0), np.ones(6), eps=1e-3),
    fastgru.LayerNorm(),
    fastgru.ReLU(),
    fastgru.Tanh(),
    fastgru.Sigmoid(),
    fastgru.Softmax(),
    fastgru.LogSoftmax(),
    fastgru.Last(),
    fastgru.Last(bidirectional=True),
    fastgru.Mean(),
    fastgru.Max(),
    fastgru.Reverse(),
]


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
@pytest.mark.parametrize("lengths", [None, np.array([2, 5, 1])], ids=["full", "lengths"])
def test_the_reference_knows_every_layer(layer: Any, lengths: Array | None) -> None:
    """Their float32 is close to it, with lengths and without."""
    x = random_input(np.random.default_rng(1), 5, 3, 6)
    takes_lengths = isinstance(layer, fastgru.over_time.SequenceLayer)
    actual = layer(x, lengths=lengths) if takes_lengths else layer(x)
    exact = ours.run_layers([layer], x, lengths)
    assert exact.dtype == np.float64
    assert_close(actual, exact)


def test_the_reference_knows_layers_that_take_indices() -> None:
    x = np.array([[2, 0], [1, 2]])
    table = random_input(np.random.default_rng(0), 3, 4)
    assert np.array_equal(ours.run_layers([fastgru.Embedding(table)], x), table[x])
    assert np.array_equal(ours.run_layers([fastgru.OneHot(3)], x), np.eye(3)[x])


def test_no_layer_is_missing_from_the_reference() -> None:
    """A new layer has to be added here and there."""
    kinds = [getattr(fastgru, name) for name in fastgru.__all__]
    layers = {k for k in kinds if isinstance(k, type) and issubclass(k, fastgru.layers.Layer)}
    assert layers == {type(layer) for layer in LAYERS} | {fastgru.Embedding, fastgru.OneHot}


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_reduced_precision_as_defined(precision: str) -> None:
    """The yardstick of reduced models is what the engine computes, but for ties in rounding."""
    rng = np.random.default_rng(3)
    model = fastgru.GRU.from_state_dict(random_weights(rng, 20, 33, 2), precision=precision)
    x = random_input(rng, 12, 5, 20)
    defined = yardstick.choose(model, model).run(x, None)
    output, _ = model(x)
    error = np.abs(output - defined["output"])
    assert error.mean() < 5e-5
    assert error.max() < 4e-3
