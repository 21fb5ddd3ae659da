"""`export_module`, behind `fastgru export --module`: the user's factory, strictly the checkpoint.

Whatever of the user's goes wrong is one ValueError, which the command line prints as a line.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastgru
from commands import assert_user_error, command
from conftest import run_python, same_bits
from fastgru.cli.export_module import _state, export_module

pytest.importorskip("torch", reason="PyTorch is not installed")

import torch
from safetensors.torch import load_file, save_file

SOURCE = """
import torch
from torch import nn


class Tagger(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.gru = nn.GRU(4, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 3)

    def forward(self, x):
        return self.head(self.gru(x)[0])


class Makers:
    @staticmethod
    def small():
        return Tagger(5)


def large():
    return Tagger(8)


def attention():
    return nn.Sequential(nn.GRU(4, 4), nn.MultiheadAttention(4, 1))


def number():
    return 3


def fails():
    raise RuntimeError("no such file: weights.bin")
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with the user's code, which is the current one."""
    (tmp_path / "my_project").mkdir()
    (tmp_path / "my_project" / "__init__.py").write_text("")
    (tmp_path / "my_project" / "nets.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("my_project", "my_project.nets"):
        sys.modules.pop(name, None)


def trained(seed: int = 1) -> dict[str, Any]:
    """A state dict of `large` with weights of its own."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"gru.weight_ih_l0": (24, 4), "gru.weight_hh_l0": (24, 8)}
    shapes |= {"head.weight": (3, 8)}
    state = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
    for name, size in (("gru.bias_ih_l0", 24), ("gru.bias_hh_l0", 24), ("head.bias", 3)):
        state[name] = torch.randn(size, generator=generator)
    return state


@pytest.mark.parametrize(
    "kind", ["plain", "state_dict", "model_state_dict", "model", "safetensors"]
)
def test_the_checkpoints_weights(kind: str, project: Path) -> None:
    """From a state dict as it is, in a training script's dict, or as safetensors."""
    path = project / ("c.safetensors" if kind == "safetensors" else "c.pt")
    if kind == "safetensors":
        save_file(trained(), path)
    else:
        torch.save(trained() if kind == "plain" else {kind: trained(), "epoch": 3}, path)
    before = list(sys.path)
    model, error = export_module("my_project.nets:large", path)
    assert sys.path == before
    assert error <= 1e-5
    gru = fastgru.GRU.from_state_dict(trained(), batch_first=True)
    head = fastgru.Linear(trained()["head.weight"], trained()["head.bias"])
    x = np.random.default_rng(0).standard_normal((2, 7, 4)).astype(np.float32)
    assert same_bits(model(x), fastgru.Model([gru, head])(x))


def test_precision_and_no_checkpoint(project: Path) -> None:
    """The error is that of what is written; a factory may be an attribute of something."""
    model, error = export_module("my_project.nets:Makers.small", None, "int8")
    gru = model[0]
    assert isinstance(gru, fastgru.GRU)
    assert (gru.precision, gru.hidden_size) == ("int8", 5)
    assert 1e-5 < error < 0.1


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("my_project.nets", r"expected package\.module:factory"),
        (":large", r"expected package\.module:factory"),
        ("my_project.missing:large", "ModuleNotFoundError: No module named 'my_project.missing'"),
        ("my_project.nets:huge", "AttributeError: .*'huge'"),
        ("my_project.nets:fails", "RuntimeError: no such file"),
        ("my_project.nets:Tagger", "TypeError: .*hidden"),
        ("my_project.nets:number", "expected a torch.nn.Module from it, got int"),
        ("my_project.nets:attention", "MultiheadAttention is no layer of fastgru"),
    ],
)
def test_what_the_user_may_get_wrong(spec: str, told: str, project: Path) -> None:
    """One ValueError each."""
    before = list(sys.path)
    with pytest.raises(ValueError, match=told):
        export_module(spec, None)
    assert sys.path == before


def test_checkpoints_that_do_not_fit(project: Path) -> None:
    """Strictly: nothing missing, nothing left over; and nothing in them runs."""
    path = project / "c.pt"
    state = trained()
    state["extra"] = state.pop("head.bias")
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"(?s)does not fit my_project.nets:large.*head\.bias"):
        export_module("my_project.nets:large", path)
    torch.save({"model": Path("/")}, path)
    with pytest.raises(ValueError, match="objects beside the tensors"):
        export_module("my_project.nets:large", path)
    torch.save([trained()], path)
    with pytest.raises(ValueError, match="expected a state dict, got list"):
        export_module("my_project.nets:large", path)
    (project / "c.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"c\.safetensors: "):
        export_module("my_project.nets:large", project / "c.safetensors")
    with pytest.raises(FileNotFoundError):
        export_module("my_project.nets:large", project / "missing.pt")


def test_the_way_to_keep_a_network_can_be_gone(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `export` and its refusals tell to do is done, step by step, as they tell it.

    From a training script's checkpoint, with objects of its own beside the state dict.
    """
    torch.save({"state_dict": trained(), "data": Path("/data")}, project / "c.pt")
    out = command(capsys, "export", project / "c.pt", project / "gru", "--batch-first").out
    assert "left out: state_dict.head.weight" in out
    assert "--module PACKAGE.MODULE:FACTORY" in out
    assert "state_dict() alone" in out
    whole = ["export", project / "c.pt", project / "whole", "--module", "my_project.nets:large"]
    done = command(capsys, *whole)
    assert_user_error(done, "c.pt: ", "objects beside the tensors")
    assert "\\x1b" not in done.err
    told = re.search(r"in Python with torch: (torch\.save\(.*?new_path\))", done.err)
    assert told is not None
    exec(told[1], {"torch": torch, "path": project / "c.pt", "new_path": project / "state.pt"})
    whole[1] = project / "state.pt"
    assert command(capsys, *whole).status == 0
    assert isinstance(fastgru.load(project / "whole"), fastgru.Model)


def test_state_dicts_elsewhere_and_other_formats_are_told_the_way(project: Path) -> None:
    """An unknown key, a prefix of the trainer's, an .npz."""
    path = project / "c.pt"
    for state in ({"net": trained()}, {f"model.{name}": t for name, t in trained().items()}):
        torch.save(state, path)
        with pytest.raises(ValueError, match=r"own state_dict\(\), alone or under state_dict, "):
            export_module("my_project.nets:large", path)
    np.savez(project / "c.npz", **{name: t.numpy() for name, t in trained().items()})
    with pytest.raises(ValueError, match=r"reads \.safetensors files and those of torch\.save"):
        export_module("my_project.nets:large", project / "c.npz")


def test_safetensors_of_every_dtype(tmp_path: Path) -> None:
    """Beside a network's floats stand counters, masks and scalars: as the safetensors package."""
    names = ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "bool"]
    names += ["complex64", "int64", "int32", "int16", "int8", "uint8"]
    state = {name: torch.arange(6).reshape(2, 3).to(getattr(torch, name)) for name in names}
    state |= {"scalar": torch.tensor(7), "empty": torch.zeros(0, 3)}
    path = tmp_path / "c.safetensors"
    save_file(state, path)
    loaded, expected = _state(path), load_file(path)
    assert loaded.keys() == expected.keys()
    for name, tensor in expected.items():
        found = loaded[name]
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
        bits, right = (t.reshape(-1).view(torch.uint8) for t in (found, tensor))
        assert torch.equal(bits, right)
    save_file({"a": torch.zeros(2, dtype=torch.uint16)}, path)
    with pytest.raises(ValueError, match="a: PyTorch's name of the dtype U16 is not known"):
        _state(path)


def test_without_torch() -> None:
    """A line, no traceback of imports."""
    code = """
import sys
sys.modules["torch"] = None
from fastgru.cli.export_module import export_module
try:
    export_module("json:loads", None)
except ValueError as error:
    print(error)
"""
    done = run_python(code)
    assert done.stdout.startswith("--module: needs torch"), done.stderr
