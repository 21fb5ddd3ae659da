"""`fastgru export`: what loads becomes fastgru's own file, whole or not at all."""

from __future__ import annotations

import os
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fastgru
from commands import DATA, I, assert_user_error, command, model_of_layers, named, save_npz, weights
from conftest import random_input, same_bits

Capture = pytest.CaptureFixture[str]
Model = fastgru.GRU | fastgru.Model


def checkpoint(path: Path) -> Path:
    """A bare state dict with two GRUs."""
    return save_npz(path, named("a.", weights()), named("b.", weights(2, seed=1)))


@pytest.mark.parametrize("precision", [None, "float32", "bfloat16", "int8"])
def test_it_writes_what_load_gives(precision: str | None, tmp_path: Path, capsys: Capture) -> None:
    """With all options: they are in the file, which needs none of them any more."""
    source, out = checkpoint(tmp_path / "w.npz"), tmp_path / "gru"
    said: dict[str, Any] = {"batch_first": True, "reset_after": False, "activation": "relu"}
    said |= {"recurrent_activation": "hard_sigmoid", "precision": precision}
    options = ["--prefix", "b.", "--batch-first", "--reset-before", "--activation", "relu"]
    options += ["--recurrent-activation", "hard_sigmoid"]
    options += ["--precision", precision] if precision else []
    done = command(capsys, "export", source, out, *options)
    assert (done.status, done.err) == (0, "")
    exported = fastgru.load(out)
    expected = fastgru.load(source, prefix="b.", **said)
    assert repr(exported) == repr(expected)
    x = random_input(np.random.default_rng(0), 4, 6, I)
    assert same_bits(exported(x)[0], expected(x)[0])
    assert repr(expected) in done.out  # the precision and bytes that it has
    assert f"{out}: " in done.out


def test_models_and_native_files(tmp_path: Path, capsys: Capture) -> None:
    """Also what is native already: a reduced copy of it."""
    model_of_layers().save(tmp_path / "model")
    done = command(capsys, "export", tmp_path / "model", tmp_path / "q", "--precision", "int8")
    assert done.status == 0
    loaded = fastgru.load(tmp_path / "q")
    assert loaded[1].precision == "int8"
    done = command(capsys, "export", tmp_path / "q", tmp_path / "f", "--precision", "float32")
    assert_user_error(done, "contradiction", "int8")
    assert not (tmp_path / "f").exists()


def test_the_same_file_twice(tmp_path: Path, capsys: Capture) -> None:
    """Exports can be compared byte for byte."""
    for name in ("a", "b"):
        assert command(capsys, "export", DATA / "checkpoint.pt", tmp_path / name).status == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_it_does_not_replace_what_it_reads(tmp_path: Path, capsys: Capture) -> None:
    """By name, by link, by another name of the same file."""
    source = checkpoint(tmp_path / "w.npz")
    (tmp_path / "hard").hardlink_to(source)
    (tmp_path / "soft").symlink_to(source)
    before = source.read_bytes()
    for out in (source, tmp_path / "hard", tmp_path / "soft", tmp_path / "." / "w.npz"):
        done = command(capsys, "export", source, out, "--prefix", "a.")
        assert_user_error(done, "OUT: would replace")
    assert source.read_bytes() == before


def test_errors_leave_the_old_file(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, status 2, and OUT as it was."""
    source, out = checkpoint(tmp_path / "w.npz"), tmp_path / "out"
    out.write_text("old")
    before = sorted(os.listdir(tmp_path))
    assert_user_error(
        command(capsys, "export", source, out), "several networks", "prefix", "'a.'", "'b.'"
    )
    assert_user_error(command(capsys, "export", tmp_path / "none", out), "No such file")
    done = command(capsys, "export", source, out, "--prefix", "c.")
    assert_user_error(done, "no GRU under prefix 'c.'")
    done = command(capsys, "export", source, tmp_path / "none" / "out", "--prefix", "a.")
    assert_user_error(done, "No such file", "none/out")
    done = command(capsys, "export", source, tmp_path, "--prefix", "a.")
    assert_user_error(done, "is a directory")

    def fail(*args: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    done = command(capsys, "export", source, out, "--prefix", "a.")
    assert_user_error(done, "no space left")
    assert out.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == before


def test_int8_refuses_weights_that_are_not_finite(tmp_path: Path, capsys: Capture) -> None:
    state = weights()
    state["weight_hh_l0"][0, 0] = np.inf
    save_npz(tmp_path / "w.npz", state)
    done = command(capsys, "export", tmp_path / "w.npz", tmp_path / "q", "--precision", "int8")
    assert_user_error(done, "int8 needs finite weights")


def test_options_of_a_state_dict_and_a_module(tmp_path: Path, capsys: Capture) -> None:
    """The module's own code says what the options would."""
    done = command(
        capsys, "export", "-", tmp_path / "out", "--module", "a:b", "--prefix", "x", "--batch-first"
    )
    assert_user_error(done, "prefix, batch_first: with --module")


MODULE = """
import torch
from torch import nn


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 5, batch_first=True)
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        return self.head(self.gru(x)[0])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2)

    def forward(self, x):
        return self.attention(x, x, x)[0]
"""


@pytest.fixture
def module_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The user's code, in the current directory."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    (tmp_path / "nets_of_this_test.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield "nets_of_this_test"
    sys.modules.pop("nets_of_this_test", None)


@pytest.mark.parametrize("precision", [None, "int8"])
def test_a_whole_module(
    precision: str | None, module_name: str, tmp_path: Path, capsys: Capture, torch: ModuleType
) -> None:
    """With a checkpoint's weights, and without; the largest error is printed."""
    options = ["--module", f"{module_name}:Tagger"]
    options += ["--precision", precision] if precision else []
    module = runpy.run_path(f"{module_name}.py")["Tagger"]().eval()
    torch.save(module.state_dict(), tmp_path / "tagger.pt")
    done = command(capsys, "export", tmp_path / "tagger.pt", tmp_path / "out", *options)
    assert (done.status, done.err) == (0, "")
    told = re.search(r"largest difference from the PyTorch module .*: ([0-9.e+-]+)\n", done.out)
    assert told is not None
    limit = 0.1 if precision else 1e-5
    assert 0 < float(told[1]) < limit
    x = random_input(np.random.default_rng(0), 2, 6, I)
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    model = fastgru.load(tmp_path / "out")
    assert np.abs(model(x) - expected).max() < limit
    assert repr(model) in done.out
    assert command(capsys, "export", "-", tmp_path / "fresh", *options).status == 0
    assert fastgru.load(tmp_path / "fresh")[0].hidden_size == 5


def test_a_module_that_is_no_chain_is_one_line(
    module_name: str, tmp_path: Path, capsys: Capture
) -> None:
    """So is a checkpoint of another one; OUT is not begun."""
    done = command(capsys, "export", "-", tmp_path / "out", "--module", f"{module_name}:Attention")
    assert_user_error(done, "MultiheadAttention")
    done = command(capsys, "export", "-", tmp_path / "out", "--module", f"{module_name}:Missing")
    assert_user_error(done, "Missing")
    options = ["--module", f"{module_name}:Tagger"]
    done = command(capsys, "export", DATA / "strided.pt", tmp_path / "out", *options)
    assert_user_error(done, "does not fit")
    assert not (tmp_path / "out").exists()
