"""`fastgru run`: the same bits as a call, whatever the batch size, and never half of a file."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastgru
from commands import H, I, assert_user_error, command, model_of_layers, save_npz, saved_npy, weights
from conftest import Array, random_input, same_bits
from fastgru.cli import main
from fastgru.cli.npy import create_npy
from fastgru.cli.terminal import progress

Capture = pytest.CaptureFixture[str]


def gru(**options: Any) -> fastgru.GRU:
    return fastgru.GRU.from_state_dict(weights(2, True), **options)


def features(*shape: int) -> Array:
    return random_input(np.random.default_rng(3), *shape)


def saved(folder: Path, model: Any, x: Array, lengths: Any = None) -> dict[str, Path]:
    """The files of one run."""
    paths = {name: folder / f"{name}.npy" for name in ("y", "h")}
    paths["model"] = folder / "model"
    model.save(paths["model"])
    paths["x"] = saved_npy(folder / "x.npy", x)
    if lengths is not None:
        paths["lengths"] = saved_npy(folder / "lengths.npy", np.asarray(lengths))
    return paths


def arguments(paths: dict[str, Path], *options: Any) -> list[str]:
    given_lengths = ["--lengths", paths["lengths"]] if "lengths" in paths else []
    parts = ["run", paths["model"], paths["x"], "-o", paths["y"], *given_lengths, *options]
    return [str(part) for part in parts]


@given(
    batch_size=st.integers(1, 12),
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=10),
    batch_first=st.booleans(),
    with_lengths=st.booleans(),
)
def test_a_gru_gives_the_bits_of_one_call(
    batch_size: int, lengths: list[int], batch_first: bool, with_lengths: bool
) -> None:
    """Output and final states, for any batch size, layout and lengths."""
    model = gru(batch_first=batch_first)
    x = features(*((len(lengths), 6) if batch_first else (6, len(lengths))), I)
    given_lengths = lengths if with_lengths else None
    output, h_n = model(x, lengths=given_lengths)
    with tempfile.TemporaryDirectory() as folder:
        paths = saved(Path(folder), model, x, given_lengths)
        assert main(arguments(paths, "--h-n", paths["h"], "--batch-size", batch_size)) == 0
        assert same_bits(np.load(paths["y"]), output)
        assert same_bits(np.load(paths["h"]), h_n)


@given(
    batch_size=st.integers(1, 12),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=10),
    batch_first=st.booleans(),
    reduced=st.booleans(),
)
def test_a_model_gives_the_bits_of_one_call(
    batch_size: int, lengths: list[int], batch_first: bool, reduced: bool
) -> None:
    """Indices in; a row for each sequence out, or one for each step."""
    layers = model_of_layers(batch_first).layers
    model = fastgru.Model(layers if reduced else [*layers[:3], *layers[4:]])
    shape = (len(lengths), 6) if batch_first else (6, len(lengths))
    x = np.random.default_rng(2).integers(0, 7, shape)
    with tempfile.TemporaryDirectory() as folder:
        paths = saved(Path(folder), model, x, lengths)
        assert main(arguments(paths, "--batch-size", batch_size)) == 0
        assert same_bits(np.load(paths["y"]), model(x, lengths=lengths))


@pytest.mark.parametrize("shape", [(0, 4, I), (6, 0, I), (6, I), (0, I), (6, 70, I)])
@pytest.mark.parametrize("batch_first", [False, True])
def test_every_shape_of_a_call(
    shape: tuple[int, ...], batch_first: bool, tmp_path: Path, capsys: Capture
) -> None:
    """No steps, no sequences, unbatched, more than one batch of the default size."""
    model, x = gru(batch_first=batch_first), features(*shape)
    output, h_n = model(x)
    paths = saved(tmp_path, model, x)
    done = command(capsys, *arguments(paths, "--h-n", paths["h"]))
    assert (done.status, done.err) == (0, "")
    assert f"y.npy: {output.shape} float32" in done.out
    assert same_bits(np.load(paths["y"]), output)
    assert same_bits(np.load(paths["h"]), h_n)


@pytest.mark.parametrize("dtype", ["float64", "float16", ">f4", "<f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_dtype_and_order_of_a_call(
    dtype: str, order: Any, tmp_path: Path, capsys: Capture
) -> None:
    model, x = gru(), np.asarray(features(6, 5, I), dtype, order=order)
    paths = saved(tmp_path, model, x)
    assert command(capsys, *arguments(paths, "--batch-size", 2)).status == 0
    assert same_bits(np.load(paths["y"]), model(x)[0])


def test_a_bare_state_dict_with_options(tmp_path: Path, capsys: Capture) -> None:
    """What the file does not say can be said."""
    paths = saved(tmp_path, gru(), features(4, 6, I))
    save_npz(tmp_path / "w.npz", {f"rnn.{n}": w for n, w in weights().items()})
    paths["model"] = tmp_path / "w.npz"
    options = ["--prefix", "rnn.", "--batch-first", "--reset-before", "--activation", "relu"]
    assert command(capsys, *arguments(paths, *options)).status == 0
    said: dict[str, Any] = {"batch_first": True, "reset_after": False, "activation": "relu"}
    model = fastgru.GRU.from_state_dict(weights(), **said)
    assert same_bits(np.load(paths["y"]), model(np.load(paths["x"]))[0])


def test_an_existing_output_is_replaced_and_a_link_stays(tmp_path: Path, capsys: Capture) -> None:
    paths = saved(tmp_path, gru(), features(6, 4, I))
    paths["y"].symlink_to(tmp_path / "target.npy")
    (tmp_path / "target.npy").write_text("old")
    assert command(capsys, *arguments(paths)).status == 0
    assert paths["y"].is_symlink()
    assert np.load(tmp_path / "target.npy").shape == (6, 4, 2 * H)


# ---- errors ----


def object_array() -> Array:
    return np.array([[1, "a"]], dtype=object)


BAD_INPUTS: dict[str, tuple[Any, str]] = {
    "missing": (None, "No such file"),
    "text": (b"hello, this is no array at all", "not a .npy array"),
    "empty": (b"", "not a .npy array"),
    "npz": (b"PK\x03\x04" + bytes(99), "not a .npy array"),
    "objects": (object_array(), "expected an array of numbers, got |O"),
    "complex": (np.zeros((6, 4, I), complex), "expected an array of numbers, got <c16"),
    "text array": (np.array(["a"]), "expected an array of numbers, got <U1"),
    "integers": (np.zeros((6, 4, I), int), "x: expected float32"),
    "wrong I": (features(6, 70, I + 1), f"x.npy: expected (T, B, {I}) or (T, {I}), got (6, 70, 4)"),
    "one axis": (features(6), "x.npy: expected (T, B, 3)"),
    "four axes": (features(6, 1, 1, I), "x.npy: expected (T, B, 3)"),
}


@pytest.mark.parametrize("kind", BAD_INPUTS)
def test_a_bad_input_is_one_line_and_leaves_the_output(
    kind: str, tmp_path: Path, capsys: Capture
) -> None:
    """Status 2, the old output, and nothing beside it. Object arrays are not unpickled."""
    content, message = BAD_INPUTS[kind]
    paths = saved(tmp_path, gru(), features(6, 4, I))
    paths["y"].write_text("old")
    if content is None:
        paths["x"].unlink()
    elif isinstance(content, bytes):
        paths["x"].write_bytes(content)
    else:
        np.save(paths["x"], content, allow_pickle=True)
    before = sorted(os.listdir(tmp_path))
    assert_user_error(command(capsys, *arguments(paths)), "fastgru run: ", message)
    assert paths["y"].read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("cut", [1, 100, -1])
def test_a_damaged_input_is_one_line(cut: int, tmp_path: Path, capsys: Capture) -> None:
    """Cut off, or with something behind it."""
    paths = saved(tmp_path, gru(), features(6, 4, I))
    data = paths["x"].read_bytes()
    paths["x"].write_bytes(data[:-cut] if cut > 0 else data + b"x")
    assert_user_error(command(capsys, *arguments(paths)), "x.npy: expected", "bytes")


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([1, 2, 3], "lengths: expected (4,), got (3,)"),
        ([[1, 2, 3, 4]], "lengths: expected (4,), got (1, 4)"),
        ([1, 2, 3, 7], "lengths[3]: expected 0 <= length <= 6, got 7"),
        ([1, -1, 3, 4], "lengths[1]: expected 0 <= length <= 6, got -1"),
        ([1.0, 2.0, 3.0, 4.0], "lengths.npy: expected integers, got float64"),
    ],
)
def test_bad_lengths_are_told_before_anything_runs(
    lengths: Any, message: str, tmp_path: Path, capsys: Capture
) -> None:
    """With the row's place in the file, not in a batch."""
    paths = saved(tmp_path, gru(), features(6, 4, I), lengths)
    assert_user_error(command(capsys, *arguments(paths, "--batch-size", 2)), message)
    assert not paths["y"].exists()


def test_lengths_and_unbatched_input(tmp_path: Path, capsys: Capture) -> None:
    paths = saved(tmp_path, gru(), features(6, I), [3])
    assert_user_error(command(capsys, *arguments(paths)), "unbatched")


def test_a_late_index_out_of_range_leaves_the_output(tmp_path: Path, capsys: Capture) -> None:
    """The second batch fails: the old output stays whole, and no temporary file."""
    x = np.zeros((6, 4), int)
    x[5, 3] = 7
    paths = saved(tmp_path, model_of_layers(), x)
    paths["y"].write_text("old")
    before = sorted(os.listdir(tmp_path))
    assert_user_error(command(capsys, *arguments(paths, "--batch-size", 2)), "7")
    assert paths["y"].read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == before


def test_an_interrupt_leaves_the_output(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the second batch: a shell's status for it, and no traceback."""
    calls = []
    plain = fastgru.GRU.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plain(self, *args, **kwargs)

    paths = saved(tmp_path, gru(), features(6, 4, I))
    paths["y"].write_text("old")
    before = sorted(os.listdir(tmp_path))
    monkeypatch.setattr(fastgru.GRU, "__call__", call)
    done = command(capsys, *arguments(paths, "--batch-size", 2))
    assert (done.status, done.out, done.err) == (130, "", "")
    assert paths["y"].read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == before


def test_outputs_that_cannot_be_written(tmp_path: Path, capsys: Capture) -> None:
    """A folder that is not there, a folder, what is read, twice the same; before anything runs."""
    paths = saved(tmp_path, gru(), features(6, 4, I))
    cases = {
        tmp_path / "none" / "y.npy": "No such file or directory",
        tmp_path: "is a directory",
        paths["x"]: "--output: would replace",
        paths["model"]: "--output: would replace",
    }
    for target, message in cases.items():
        paths["y"] = target
        assert_user_error(command(capsys, *arguments(paths)), message, str(target))
    paths["y"] = tmp_path / "y.npy"
    for target, message in ((paths["x"], "--h-n: would"), (paths["y"], "--h-n: expected another")):
        assert_user_error(command(capsys, *arguments(paths, "--h-n", target)), message)
    (tmp_path / "link.npy").hardlink_to(paths["x"])
    paths["y"] = tmp_path / "link.npy"
    assert_user_error(command(capsys, *arguments(paths)), "would replace")
    assert np.load(paths["x"]).shape == (6, 4, I)


def test_options_that_make_no_sense(tmp_path: Path, capsys: Capture) -> None:
    paths = saved(tmp_path, model_of_layers(), np.zeros((6, 4), int))
    done = command(capsys, *arguments(paths, "--h-n", paths["h"]))
    assert_user_error(done, "--h-n", "no final states")
    done = command(capsys, *arguments(paths, "--batch-size", 0))
    assert_user_error(done, "--batch-size: expected at least 1")
    done = command(capsys, *arguments(paths, "--batch-first"))
    assert_user_error(done, "contradiction", "batch_first")


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """The room is taken first: no bus error, and no half of a file."""
    paths = saved(tmp_path, gru(), features(6, 400, I))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    before = sorted(os.listdir(tmp_path))
    done = subprocess.run(
        [sys.executable, "-m", "fastgru", *arguments(paths)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )
    assert done.returncode == 2
    assert "File too large" in done.stderr
    assert str(paths["y"]) in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="not on this system")
def test_the_room_of_an_output_is_taken_before_it_is_written(tmp_path: Path) -> None:
    """A file with holes would meet the full disk in the middle of the work, as a signal."""
    with open(tmp_path / "y.npy", "xb") as file:
        array = create_npy(file, (1000, 1000))
        assert os.fstat(file.fileno()).st_blocks * 512 >= array.nbytes


def test_no_memory_is_one_line(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(*args: Any, **kwargs: Any) -> Any:
        raise MemoryError

    paths = saved(tmp_path, gru(), features(6, 4, I))
    monkeypatch.setattr(fastgru.GRU, "__call__", call)
    assert_user_error(command(capsys, *arguments(paths)), "memory", "--batch-size below 64")


# ---- progress ----


def test_a_bar_on_a_terminal_alone(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """On stderr, with rich; nothing where stderr is a file, or without rich."""
    with progress("sequences", 3) as advance:
        advance(3)
    assert capsys.readouterr() == ("", "")
    pytest.importorskip("rich", reason="rich is not installed")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with progress("sequences", 3) as advance:
        advance(3)
    out, err = capsys.readouterr()
    assert out == ""
    assert "sequences" in err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with progress("sequences", 3) as advance:
        advance(3)
    assert capsys.readouterr() == ("", "")
