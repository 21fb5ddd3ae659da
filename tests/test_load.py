"""`load` opens everything by its content: what a file is called does not matter, and options do
what they do for state dicts, or contradict the file."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fastgru
from commands import DATA, I, model_of_layers, onnx_gru, save_npz, weights
from conftest import random_input, run_python, same_bits

KERAS = DATA / "keras"


@pytest.fixture
def onnx_file(tmp_path: Path, torch: ModuleType) -> Path:
    pytest.importorskip("onnx", reason="onnx is not installed")
    return onnx_gru(torch, tmp_path / "gru.onnx", weights())


@pytest.mark.parametrize(
    "name", ["weights.npz", "model.onnx", "model.keras", "x.pt", "none", "x.h5"]
)
def test_names_do_not_matter(name: str, tmp_path: Path, onnx_file: Path) -> None:
    """Every format under every format's name, as str, bytes and Path."""
    sources = [onnx_file, KERAS / "classifier_3.keras", KERAS / "tagger_3.weights.h5"]
    sources += [DATA / "checkpoint.pt", DATA / "checkpoint_before_1.6.pt"]
    sources.append(save_npz(tmp_path / "w.npz", weights()))
    model_of_layers().save(tmp_path / "native")
    folder = tmp_path / "renamed"
    folder.mkdir()
    for source in [*sources, tmp_path / "native"]:
        path = shutil.copy(source, folder / name)
        spellings: list[Any] = [path, str(path), os.fsencode(path)]
        for spelled in spellings:
            assert repr(fastgru.load(spelled)) == repr(fastgru.load(source))


def test_an_onnx_file_is_the_gru_in_it(onnx_file: Path) -> None:
    """To the bit what its weights give from a state dict, in every precision."""
    x = random_input(np.random.default_rng(0), 4, 6, I)
    for precision in ("float32", "bfloat16", "int8"):
        loaded = fastgru.load(onnx_file, precision=precision, num_threads=1)
        expected = fastgru.GRU.from_state_dict(weights(), precision=precision, num_threads=1)
        assert repr(loaded) == repr(expected)
        assert same_bits(loaded(x)[0], expected(x)[0])


def test_a_keras_file_is_what_from_keras_gives() -> None:
    for name in ("classifier_3.keras", "tagger_3.weights.h5"):
        for precision in ("float32", "int8"):
            loaded = fastgru.load(KERAS / name, precision=precision, isa="portable")
            expected = fastgru.from_keras(KERAS / name, precision=precision, isa="portable")
            assert repr(loaded) == repr(expected)


def test_options_that_a_keras_file_leaves_open() -> None:
    """Weights alone do not say the activations; `prefix` picks a GRU."""
    gru = fastgru.load(KERAS / "tagger_3.weights.h5", activation="relu", batch_first=True)
    assert gru.activation == "relu"
    picked = fastgru.load(KERAS / "chain_3.keras", prefix="layers/gru")
    assert isinstance(picked, fastgru.GRU)
    assert repr(picked) == repr(fastgru.load(KERAS / "chain_3.keras")[0])


CONTRADICTIONS: list[dict[str, Any]] = [
    {"batch_first": True},
    {"reset_after": False},
    {"activation": "relu"},
    {"recurrent_activation": "hard_sigmoid"},
    {"prefix": "rnn."},
]


@pytest.mark.parametrize("option", CONTRADICTIONS, ids=lambda option: next(iter(option)))
def test_what_contradicts_an_onnx_file_is_an_error(option: dict[str, Any], onnx_file: Path) -> None:
    """As in a native file: it names the option, what the file says, and the file."""
    ((name, value),) = option.items()
    with pytest.raises(fastgru.FormatError, match=f"contradiction: .*{name}: .*{value}") as caught:
        fastgru.load(onnx_file, **option)
    assert str(onnx_file) in str(caught.value)
    said: dict[str, Any] = {"batch_first": False, "reset_after": True, "activation": "tanh"}
    said["recurrent_activation"] = "sigmoid"
    assert fastgru.load(onnx_file, **said, prefix="").reset_after  # what agrees does not


def test_what_contradicts_a_keras_file_is_an_error() -> None:
    """Once, however many GRUs it holds."""
    path = KERAS / "classifier_3.keras"
    with pytest.raises(fastgru.FormatError) as caught:
        fastgru.load(path, batch_first=False)
    message = str(caught.value)
    assert "batch_first: the file says True, the argument False" in message
    assert str(path) in message
    assert "\n" not in message
    with pytest.raises(fastgru.FormatError, match="relu"):
        fastgru.load(path, activation="relu")


@pytest.mark.parametrize("option", [{"activation": "gelu"}, {"precision": "float16"}])
def test_unknown_options_are_told_before_the_file_is_opened(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(option))}: expected"):
        fastgru.load("no such file", **option)


def test_a_missing_extra_says_what_to_install(
    onnx_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install .*fastgru\[onnx\]"):
        fastgru.load(onnx_file)


def test_a_damaged_file_of_another_program_names_the_file(tmp_path: Path, onnx_file: Path) -> None:
    """One FormatError with the path, once."""
    path = tmp_path / "cut"
    path.write_bytes(onnx_file.read_bytes()[:200])
    with pytest.raises(fastgru.FormatError) as caught:
        fastgru.load(path)
    assert str(caught.value).count(str(path)) == 1


def test_reading_a_native_file_imports_no_other_programs_packages(tmp_path: Path) -> None:
    """Nor does a state dict: a service starts as fast as before, without any extra."""
    fastgru.GRU.from_state_dict(weights()).save(tmp_path / "gru")
    save_npz(tmp_path / "w.npz", weights())
    code = f"""
import sys, fastgru
for name in ("gru", "w.npz"):
    fastgru.load({str(tmp_path)!r} + "/" + name, batch_first=False)
print({{"onnx", "h5py", "torch", "rich"}} & set(sys.modules))
"""
    done = run_python(code)
    assert (done.stdout, done.stderr) == ("set()\n", "")
