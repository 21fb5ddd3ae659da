"""`fastgru info`: it says what is in a file, of every kind that loads, and nothing that is not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import safetensors.numpy

import fastgru
from commands import (
    DATA,
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
from fastgru.arrays import byte_text
from fastgru.cli import info
from fastgru.cli.terminal import print_table

Capture = pytest.CaptureFixture[str]


def test_a_native_file(tmp_path: Path, capsys: Capture) -> None:
    """Format, sizes, equation, activations, layout, precision, bytes and the layers' shapes."""
    gru = fastgru.GRU.from_state_dict(
        weights(2, True), reset_after=False, batch_first=True, recurrent_activation="hard_sigmoid"
    )
    gru.save(tmp_path / "gru")
    done = command(capsys, "info", tmp_path / "gru")
    assert (done.status, done.err) == (0, "")
    for part in (
        "gru: fastgru's own, version 1",
        f"I {I}, H {H}",
        "2, bidirectional",
        "reset before the product\n",
        "tanh, gates hard_sigmoid\n",
        "(B, T, I)\n",
        "float32",
        byte_text(gru.nbytes),
        "weight_ih",
        "(15, 3)",
        "(15, 10)",
        "1 reverse",
    ):
        assert part in done.out, part
    assert "does not say" not in done.out


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_precisions_are_told_layer_by_layer(
    precision: str, tmp_path: Path, capsys: Capture
) -> None:
    gru = fastgru.GRU.from_state_dict(weights(2)).to(precision, keep=[0])
    gru.save(tmp_path / "gru")
    out = command(capsys, "info", tmp_path / "gru").out
    assert f"precision    {precision}\n" in out
    lines = [line.split() for line in out.splitlines()]
    assert ["0", "float32"] in [line[:2] for line in lines]
    assert ["1", precision] in [line[:2] for line in lines]


def test_a_model_has_a_row_for_each_layer(tmp_path: Path, capsys: Capture) -> None:
    model = model_of_layers(batch_first=True).to("int8")
    model.save(tmp_path / "model")
    out = command(capsys, "info", tmp_path / "model").out
    assert "a Model of 7 layers, batch first" in out
    assert byte_text(model.nbytes) in out
    rows = out.splitlines()[-7:]
    for row, layer in zip(rows, model.layers, strict=True):
        assert type(layer).__name__ in row
    assert "2 layers, bidirectional, reset after the product, tanh, gates sigmoid" in rows[1]
    assert "int8" in rows[1]
    assert "bidirectional True" in rows[3]
    assert "weight (4, 10), bias (4,)" in rows[4]


@pytest.mark.parametrize(
    ("name", "format_text"),
    [
        ("checkpoint.pt", "zip archive of torch.save"),
        ("checkpoint_before_1.6.pt", "torch.save before 1.6"),
    ],
)
def test_a_checkpoint_of_torch(name: str, format_text: str, capsys: Capture) -> None:
    """The way to the GRU, what the file does not say, and what else is in it, with shapes."""
    out = command(capsys, "info", DATA / name).out
    assert format_text in out
    assert "state_dict.encoder.rnn.\n" in out
    assert "reset after the product (the default; the file does not say)" in out
    assert "21 other tensors: " in out
    assert "state_dict.head.weight (2, 2)" in out
    assert "9 more" in out


def test_what_the_user_says_is_no_default(tmp_path: Path, capsys: Capture) -> None:
    save_npz(tmp_path / "w.npz", weights())
    options = ["--reset-before", "--batch-first", "--activation", "relu"]
    out = command(capsys, "info", tmp_path / "w.npz", *options).out
    assert "a state dict in .npz" in out
    assert "reset before the product\n" in out
    assert "(B, T, I)\n" in out
    assert "relu, gates sigmoid (the default" in out  # half of it is


def several(path: Path) -> Path:
    """A state dict with two GRUs, an LSTM, and a head."""
    lstm = {"weight_ih_l0": np.zeros((4 * H, I)), "weight_hh_l0": np.zeros((4 * H, H))}
    tensors = named("encoder.rnn.", weights(2, True)) | named("decoder.[red]", weights(bias=False))
    tensors |= named("lstm.", lstm) | {"head.weight": np.zeros((2, H)), "step": np.array(3)}
    safetensors.numpy.save_file(tensors, path)
    return path


def test_all_networks_of_a_state_dict(tmp_path: Path, capsys: Capture) -> None:
    """Where `load` has to ask, info shows all: GRUs as such, others with the reason."""
    path = several(tmp_path / "several")
    done = command(capsys, "info", path)
    assert done.status == 0
    lines = {line.split()[0]: line for line in done.out.splitlines() if line.startswith("'")}
    assert sorted(lines) == ["'decoder.[red]'", "'encoder.rnn.'", "'lstm.'"]
    assert f"GRU({I}, {H}), 2 layers, bidirectional, " in lines["'encoder.rnn.'"]
    assert f"GRU({I}, {H}), no bias, " in lines["'decoder.[red]'"]
    assert "looks like an LSTM" in lines["'lstm.'"]
    assert "2 other tensors: " in done.out
    assert f"head.weight (2, {H})" in done.out
    chosen = command(capsys, "info", path, "--prefix", "encoder.rnn").out
    assert "2, bidirectional" in chosen


@pytest.mark.parametrize("kind", ["gru", "model", "several", "checkpoint"])
def test_json_says_the_same(kind: str, tmp_path: Path, capsys: Capture) -> None:
    """For scripts: one object, with what the text has."""
    path = tmp_path / "file"
    if kind == "gru":
        fastgru.GRU.from_state_dict(weights()).save(path)
    elif kind == "model":
        model_of_layers().save(path)
    else:
        path = several(path) if kind == "several" else DATA / "checkpoint.pt"
    found = json.loads(command(capsys, "info", path, "--json").out)
    assert found["file"] == str(path)
    if kind == "several":
        assert [n["prefix"] for n in found["networks"] if "problem" not in n] != []
        return
    loaded = fastgru.load(path)
    told = found["model"]
    assert (told["kind"], told["nbytes"]) == (type(loaded).__name__, loaded.nbytes)
    if kind == "model":
        assert [layer["nbytes"] for layer in told["layers"]] == [la.nbytes for la in loaded.layers]
    else:
        names = ("input_size", "hidden_size", "reset_after", "precision", "batch_first")
        assert [told[n] for n in names] == [getattr(loaded, n) for n in names]
        assert set(told["tensors"]) == set(loaded.tensors())


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(100, "fit L1d"), (101, "fit L2"), (1000, "fit L2"), (1001, "more than L2 (1000 bytes)")],
)
def test_the_cache_level_is_the_smallest_that_holds_the_weights(
    nbytes: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Machine:
        caches: dict[str, int] = {"L1d": 100, "L2": 1000}  # noqa: RUF012

    monkeypatch.setattr(fastgru, "cpu_info", Machine)
    told = {"nbytes": nbytes, "cache": info._cache(nbytes)}
    assert text in info._bytes_text(told)
    Machine.caches = {}
    assert "does not tell" in info._bytes_text({"nbytes": nbytes, "cache": info._cache(nbytes)})


def test_an_onnx_file(tmp_path: Path, capsys: Capture, torch: ModuleType) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed")
    path = onnx_gru(torch, tmp_path / "gru.onnx")
    out = command(capsys, "info", path).out
    assert ": ONNX\n" in out
    assert f"I {I}, H {H}" in out
    assert "does not say" not in out


@pytest.mark.parametrize("name", ["classifier_3.keras", "tagger_3.weights.h5"])
def test_keras_files(name: str, capsys: Capture) -> None:
    out = command(capsys, "info", DATA / "keras" / name).out
    if name.endswith(".keras"):
        assert ": Keras\n" in out
        assert "Softmax" in out
    else:
        assert "weights of Keras (HDF5)" in out
        assert "tanh, gates sigmoid (the default; the file does not say)" in out
        assert "reset before the product\n" in out


def test_a_missing_extra_is_one_line_with_the_pip_command(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, torch: ModuleType
) -> None:
    """ONNX files need the onnx package, which is an extra."""
    pytest.importorskip("onnx", reason="onnx is not installed")
    path = onnx_gru(torch, tmp_path / "gru.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert_user_error(command(capsys, "info", path), "pip install", "fastgru[onnx]")


def test_user_errors(tmp_path: Path, capsys: Capture) -> None:
    """Missing, of another kind, not to be read, without a GRU."""
    text = tmp_path / "text"
    text.write_text("weights, trust me")
    assert_user_error(command(capsys, "info", tmp_path / "none"), "No such file", "none")
    assert_user_error(command(capsys, "info", text), "expected a safetensors, .npz, .pt, ONNX or")
    assert_user_error(command(capsys, "info", tmp_path), "Is a directory")
    np.savez(tmp_path / "w.npz", w=np.zeros(3))
    assert_user_error(command(capsys, "info", tmp_path / "w.npz"), "no GRU found")
    done = command(capsys, "info", several(tmp_path / "several"), "--prefix", "lstm.")
    assert_user_error(done, "looks like an LSTM")
    fastgru.GRU.from_state_dict(weights()).save(tmp_path / "gru")
    done = command(capsys, "info", tmp_path / "gru", "--reset-before")
    assert_user_error(done, "contradiction", "reset_after")


def test_it_needs_no_torch_and_no_rich(tmp_path: Path) -> None:
    """In a process of its own, where neither can be imported."""
    fastgru.GRU.from_state_dict(weights()).save(tmp_path / "gru")
    code = (
        "import sys; sys.modules['torch'] = sys.modules['rich'] = None\n"
        "from fastgru.cli import main\n"
        f"sys.exit(main(['info', {str(tmp_path / 'gru')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"I {I}, H {H}" in done.stdout


def test_a_terminal_gets_the_table_from_rich(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the extra `cli`; names with brackets are names, not rich's markup."""
    pytest.importorskip("rich", reason="rich is not installed")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "dumb")
    print_table(["a", "b"], [["[red]", "x"], ["longer", "y"]])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["a", "b"], ["[red]", "x"], ["longer", "y"]]
