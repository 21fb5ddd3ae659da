"""What a file does not say of its network is said by fastgru: the layout, and what was left out.

Promise 4: nothing is lost in silence. A state dict does not hold batch_first, arrays of both
layouts have the same number of axes, and a GRU is seldom all of a network.
"""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import fastgru
from commands import I, command, named, save_npz, weights
from conftest import Weights, random_input, same_bits

Capture = pytest.CaptureFixture[str]
HEAD = {"head.weight": np.ones((2, 5), np.float32), "head.bias": np.zeros(2, np.float32)}


def save_pt(path: Path, tensors: Weights) -> None:
    torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, path)


WRITERS: dict[str, Callable[[Path, Weights], Any]] = {
    "w.safetensors": lambda path, tensors: save_file(tensors, path),
    "w.npz": lambda path, tensors: np.savez(path, **tensors),  # type: ignore[arg-type]
    "w.pt": save_pt,
}


@pytest.fixture(params=WRITERS)
def state_dict(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file of a GRU alone, in each format that holds state dicts."""
    path: Path = tmp_path / request.param
    WRITERS[request.param](path, weights())
    return path


@pytest.fixture(params=WRITERS)
def with_head(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The same with a head beside the GRU."""
    path: Path = tmp_path / request.param
    WRITERS[request.param](path, named("rnn.", weights()) | HEAD)
    return path


def warned(path: Path, **options: Any) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        fastgru.load(path, **options)
    return found


def test_an_unsaid_layout_is_a_warning(state_dict: Path) -> None:
    """Of a class of its own, which names the file and the argument, at the caller's line."""
    (found,) = warned(state_dict)
    assert found.category is fastgru.LayoutWarning
    assert found.filename == __file__
    assert str(state_dict) in str(found.message)
    assert "batch_first=True" in str(found.message)


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_layout_that_is_said_is_none(batch_first: bool, state_dict: Path) -> None:
    assert warned(state_dict, batch_first=batch_first) == []


def test_a_service_can_silence_it(state_dict: Path) -> None:
    """By category, all kinds at once, as the docstring says; and it is shown once for a file."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=fastgru.LoadWarning)
        fastgru.load(state_dict)
    assert found == []
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default")
        for _ in range(3):
            fastgru.load(state_dict)
    assert len(found) == 1


def test_a_cell_has_no_layout(tmp_path: Path, capsys: Capture) -> None:
    """A GRUCell was never called with sequences: nothing was lost. Info says so, too."""
    torch.save(torch.nn.GRUCell(I, 5).state_dict(), tmp_path / "cell.pt")
    assert warned(tmp_path / "cell.pt") == []
    told = json.loads(command(capsys, "info", tmp_path / "cell.pt", "--json").out)
    assert told["assumed"] == ["activation", "recurrent_activation", "reset_after"]
    save_npz(tmp_path / "c.npz", named("cell.", {"weight_ih": np.ones((6, 3), np.float32)}), {})
    with pytest.raises(fastgru.FormatError, match="weight_hh"):
        fastgru.load(tmp_path / "c.npz")


def test_files_that_say_it_are_believed(tmp_path: Path) -> None:
    """A native file of a GRU whose layout somebody said."""
    fastgru.GRU.from_state_dict(weights(), batch_first=True).save(tmp_path / "gru")
    assert warned(tmp_path / "gru") == []
    assert fastgru.load(tmp_path / "gru").batch_first is True


COPIES: dict[str, Callable[[fastgru.GRU], fastgru.GRU]] = {
    "itself": lambda gru: gru,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda gru: pickle.loads(pickle.dumps(gru)),
    "int8": lambda gru: gru.to("int8"),
    "same precision": lambda gru: gru.to("float32"),
    "calibrated": lambda gru: gru.to("int8", calibration=np.ones((9, 1, I), np.float32)),
}


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
def test_an_assumption_stays_one(
    make: Callable[[fastgru.GRU], fastgru.GRU], state_dict: Path, tmp_path: Path
) -> None:
    """Saving a guess does not make it a fact: not through copies, and not the second time."""
    make(fastgru.load(state_dict)).save(tmp_path / "once")
    (found,) = warned(tmp_path / "once")
    assert found.category is fastgru.LayoutWarning
    fastgru.load(tmp_path / "once").save(tmp_path / "twice")
    assert (tmp_path / "once").read_bytes() == (tmp_path / "twice").read_bytes()


def test_an_assumption_contradicts_nobody(state_dict: Path, tmp_path: Path) -> None:
    """What was only assumed gives way to an argument; what was said does not."""
    fastgru.load(state_dict, reset_after=False).save(tmp_path / "gru")
    assert warned(tmp_path / "gru", batch_first=True) == []
    gru = fastgru.load(tmp_path / "gru", batch_first=True, activation="relu")
    assert (gru.batch_first, gru.activation, gru.reset_after) == (True, "relu", False)
    x = random_input(np.random.default_rng(0), 2, 4, I)
    expected = fastgru.load(state_dict, batch_first=True, activation="relu", reset_after=False)
    assert same_bits(gru(x)[0], expected(x)[0])
    gru.save(tmp_path / "settled")
    assert warned(tmp_path / "settled") == []
    with pytest.raises(fastgru.FormatError, match="reset_after: the file says False"):
        fastgru.load(tmp_path / "gru", reset_after=True)
    with pytest.raises(fastgru.FormatError, match="batch_first: the file says True"):
        fastgru.load(tmp_path / "settled", batch_first=False)


def test_a_damaged_list_of_assumptions_is_refused(tmp_path: Path) -> None:
    """Only names of options that a state dict leaves unsaid can be in it."""
    fastgru.GRU.from_state_dict(weights()).save(tmp_path / "gru")
    data = (tmp_path / "gru").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    tensors = data[8 + int.from_bytes(data[:8], "little") :]
    for text in ("hidden_size", "batch_first,", ",", "batch_first reset_after", "[]"):
        header["__metadata__"]["fastgru_assumed"] = text
        new = json.dumps(header).encode()
        (tmp_path / "bad").write_bytes(len(new).to_bytes(8, "little") + new + tensors)
        with pytest.raises(fastgru.FormatError, match="fastgru_assumed"):
            fastgru.load(tmp_path / "bad")


def test_export_says_what_it_assumed(state_dict: Path, tmp_path: Path, capsys: Capture) -> None:
    """And info goes on saying so, in text and in JSON, until somebody settles it."""
    done = command(capsys, "export", state_dict, tmp_path / "gru")
    assert (done.status, done.err) == (0, "")
    assert "batch_first False" in done.out
    assert "--batch-first" in done.out
    told = command(capsys, "info", tmp_path / "gru").out
    assert "(T, B, I) (the default; what this was exported from did not say)" in told
    assert (
        "batch_first"
        in json.loads(command(capsys, "info", tmp_path / "gru", "--json").out)["assumed"]
    )
    for flag, layout in (("--batch-first", "(B, T, I)"), ("--no-batch-first", "(T, B, I)")):
        done = command(capsys, "export", state_dict, tmp_path / "gru", flag)
        assert "batch_first" not in done.out.partition("assumed")[2]
        told = command(capsys, "info", tmp_path / "gru").out
        (line,) = [line for line in told.splitlines() if line.startswith("input")]
        assert line.endswith(layout)


def test_run_warns(state_dict: Path, tmp_path: Path, capsys: Capture) -> None:
    """One line, after the work; a user error stays one line, too."""
    np.save(tmp_path / "x.npy", np.zeros((2, 3, I), np.float32))
    arguments = ["run", state_dict, tmp_path / "x.npy", "-o", tmp_path / "y.npy"]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        done = command(capsys, *arguments)
        assert done.status == 0
        assert done.err.count("\n") == 1
        assert done.err.startswith("fastgru run: warning: ")
        assert command(capsys, *arguments, "--batch-first").err == ""
        np.save(tmp_path / "x.npy", np.zeros((2, 3, I + 1), np.float32))
        done = command(capsys, *arguments)
        assert (done.status, done.err.count("\n")) == (2, 1)


def test_run_names_its_own_options(with_head: Path, tmp_path: Path, capsys: Capture) -> None:
    """A command has no arguments of Python: what a warning tells to pass can be passed."""
    np.save(tmp_path / "x.npy", np.zeros((2, 3, I), np.float32))
    arguments = ["run", with_head, tmp_path / "x.npy", "-o", tmp_path / "y.npy"]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        done = command(capsys, *arguments)
        layout, left_out = done.err.splitlines()
        assert "pass --batch-first or --no-batch-first" in layout
        assert "pass --prefix 'rnn.'" in left_out
        assert "fastgru export CHECKPOINT OUT --module" in left_out
        assert "=" not in done.err.replace("batch_first=True, the results", "")
        assert command(capsys, *arguments, "--no-batch-first", "--prefix", "rnn.").err == ""


@pytest.mark.parametrize("exported", [None, False, True])
@pytest.mark.parametrize("said", [None, False, True])
def test_verify_compares_layouts(
    exported: bool | None, said: bool | None, state_dict: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Two that are said must be the same, also where the export only assumed its own."""
    flags: dict[bool | None, list[str]] = {
        None: [],
        False: ["--no-batch-first"],
        True: ["--batch-first"],
    }
    assert command(capsys, "export", state_dict, tmp_path / "gru", *flags[exported]).status == 0
    done = command(capsys, "verify", tmp_path / "gru", state_dict, *flags[said])
    if said is None:
        assert done.status == 0
        assert "CHECKPOINT does not say whether it is batch first" in done.out
    elif said == bool(exported):
        assert (done.status, "layout:" in done.out) == (0, False)
    else:
        assert done.status == 1
        assert f"FAILED: batch_first: MODEL has {bool(exported)}, CHECKPOINT {said}" in done.out


def test_verify_compares_layouts_of_models(tmp_path: Path, capsys: Capture) -> None:
    for batch_first in (False, True):
        gru = fastgru.GRU.from_state_dict(weights(), batch_first=batch_first)
        fastgru.Model([gru, fastgru.Tanh()]).save(tmp_path / str(batch_first))
    done = command(capsys, "verify", tmp_path / "True", tmp_path / "False")
    assert done.status == 1
    assert "batch_first: MODEL has True, CHECKPOINT False" in done.out


def test_what_load_leaves_out_is_a_warning(with_head: Path) -> None:
    """It names each tensor and the way to keep it, and `prefix` silences it."""
    (found,) = warned(with_head, batch_first=False)
    assert found.category is fastgru.LeftOutWarning
    assert found.filename == __file__
    for part in (str(with_head), "head.weight", "head.bias", "from_torch", "prefix='rnn.'"):
        assert part in str(found.message)
    assert warned(with_head, batch_first=False, prefix="rnn.") == []
    assert warned(with_head, batch_first=False, prefix="rnn") == []


def test_export_names_what_it_leaves_out(with_head: Path, tmp_path: Path, capsys: Capture) -> None:
    """With `--prefix`, too: a file is written, and it does not hold all."""
    for options in ([], ["--prefix", "rnn."]):
        done = command(capsys, "export", with_head, tmp_path / "gru", *options)
        line = next(line for line in done.out.splitlines() if line.startswith("left out: "))
        assert "head.weight" in line
        assert "head.bias" in line
        assert "--module" in done.out


def test_another_gru_is_left_out_as_well(tmp_path: Path, capsys: Capture) -> None:
    save_npz(tmp_path / "w.npz", named("a.", weights()), named("b.", weights()))
    done = command(capsys, "export", tmp_path / "w.npz", tmp_path / "gru", "--prefix", "a")
    assert "left out: b.weight_ih_l0" in done.out
    assert warned(tmp_path / "w.npz", batch_first=False, prefix="a.") == []


def test_what_is_no_part_of_a_network_is_not_named(tmp_path: Path) -> None:
    """An optimizer's memory, counters and the state of a random generator."""
    rnn = torch.nn.GRU(I, 5)
    net = torch.nn.ModuleDict({"rnn": rnn})
    optimizer = torch.optim.Adam(net.parameters())
    rnn(torch.ones(2, 1, I))[0].sum().backward()
    optimizer.step()
    checkpoint = {
        "state_dict": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "rng": torch.get_rng_state(),
        "steps": torch.tensor(3),
    }
    torch.save(checkpoint, tmp_path / "c.pt")
    assert warned(tmp_path / "c.pt", batch_first=False) == []
    net["norm"] = torch.nn.BatchNorm1d(5)
    torch.save(checkpoint | {"state_dict": net.state_dict()}, tmp_path / "c.pt")
    (found,) = warned(tmp_path / "c.pt", batch_first=False)
    assert "state_dict.norm.running_var (5,)" in str(found.message)
    for name in ("exp_avg", "num_batches_tracked", "rng", "steps"):
        assert name not in str(found.message)


def test_thousands_of_tensors_make_a_short_message(tmp_path: Path) -> None:
    others = {f"conv.{n}.weight": np.ones(1, np.float32) for n in range(2000)}
    save_file(weights() | others, tmp_path / "w.safetensors")
    (found,) = warned(tmp_path / "w.safetensors", batch_first=False)
    assert "and 1988 more" in str(found.message)
