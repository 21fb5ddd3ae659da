"""The command line: the demo proves itself against PyTorch's record; errors are one line."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from fastgru.cli import main

D2L_MODEL = Path(__file__).resolve().parent.parent / "examples/char_lm/char_lm_d2l.safetensors"
TORCH_IS_THERE = importlib.util.find_spec("torch") is not None
needs_d2l_model = pytest.mark.skipif(
    not D2L_MODEL.exists(), reason="the examples are not beside the tests"
)


@pytest.fixture(autouse=True)
def _no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's comparison with PyTorch is left out, except where a test wants it."""
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def test_the_bundled_model_repeats_pytorchs_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo"]) == 0
    out = capsys.readouterr().out
    assert "PyTorch 2.13.0+cpu's for all 5 prompts" in out
    assert "us per character (p50)" in out
    assert "PyTorch is not installed" in out


@needs_d2l_model
def test_the_d2l_model_repeats_pytorchs_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--model", str(D2L_MODEL)]) == 0
    assert "PyTorch 2.13.0+cpu's for all 5 prompts" in capsys.readouterr().out


def test_a_prompt_of_the_users_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--prompt", "The Time Traveller ", "--length", "40"]) == 0
    line = capsys.readouterr().out.split("[The Time Traveller ]")[1]
    assert len(line.split("\n\n")[0]) >= 40


@needs_d2l_model
@pytest.mark.parametrize("change", ["continuation", "prompt_logits", "final_logits"])
def test_the_demo_fails_where_the_record_differs(
    change: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The check is one: a record that says something else is reported and the status is 1."""
    model = tmp_path / "model.safetensors"
    shutil.copy(D2L_MODEL, model)
    record = json.loads(D2L_MODEL.with_suffix(".json").read_text())
    entry = record["prompts"][2]
    if change == "continuation":
        entry[change] = entry[change][:-1] + ("a" if entry[change][-1] != "a" else "b")
    else:
        entry[change][3] += 0.01
    model.with_suffix(".json").write_text(json.dumps(record))
    assert main(["demo", "--model", str(model)]) == 1
    captured = capsys.readouterr()
    assert "DIFFERS" in captured.err
    assert repr(entry["prompt"]) in captured.err
    assert "for all" not in captured.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "naïve"], "does not know ['ï']"),
        (["--prompt", ""], "at least one character"),
        (["--length", "0"], "--length: expected at least 1"),
        (["--model", "no-such-file.safetensors"], "no-such-file"),
        (["--model", __file__], "not a safetensors file"),
    ],
)
def test_a_user_error_is_one_line_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_another_safetensors_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.safetensors"
    safetensors.numpy.save_file({"x": np.zeros(3, np.float32)}, path)
    assert main(["demo", "--model", str(path)]) == 2
    assert "not a character model" in capsys.readouterr().err


@needs_d2l_model
@pytest.mark.parametrize(
    "record", ["[]", "{}", "not json", '{"torch_version": "1", "prompts": []}', "prompt", "logits"]
)
def test_a_broken_record_is_refused(
    record: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model.safetensors"
    shutil.copy(D2L_MODEL, model)
    if record in ("prompt", "logits"):
        content = json.loads(D2L_MODEL.with_suffix(".json").read_text())
        content["prompts"][0] |= {"prompt": ""} if record == "prompt" else {"final_logits": "x"}
        record = json.dumps(content)
    model.with_suffix(".json").write_text(record)
    assert main(["demo", "--model", str(model)]) == 2
    err = capsys.readouterr().err
    assert "not a record" in err
    assert err.count("\n") == 1


@needs_d2l_model
@pytest.mark.parametrize("change", ["missing", "cut"])
def test_a_broken_head_is_refused(
    change: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = safetensors.numpy.load_file(D2L_MODEL)
    head = tensors.pop("W_hq")
    if change == "cut":
        tensors["W_hq"] = head[:-1].copy()
    with safetensors.safe_open(D2L_MODEL, framework="numpy") as file:
        metadata = file.metadata()
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(tensors, path, metadata)
    assert main(["demo", "--model", str(path)]) == 2
    assert "W_hq: expected (256, 69) float32" in capsys.readouterr().err


def test_unknown_commands_and_options_give_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    """Usage errors are one line, too."""
    for arguments in (["sing"], ["demo", "--loud"], [], ["info"], ["run", "m", "x.npy"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("command", ["", "demo", "info", "export", "run", "verify"])
def test_help_is_there_and_imports_no_extra(command: str) -> None:
    """`fastgru --help` is as fast as importing fastgru: nothing that a command may need later."""
    code = f"""
import sys
from fastgru.cli import main
try:
    main({[command, "--help"] if command else ["--help"]!r})
finally:
    print({{"torch", "onnx", "rich", "matplotlib"}} & set(sys.modules), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "set()\n")
    assert f"usage: fastgru {command}".rstrip() in done.stdout


def test_a_name_that_is_no_text_can_be_printed(tmp_path: Path) -> None:
    """A file's name is bytes, and a terminal may know ASCII alone."""
    path = os.fsencode(tmp_path) + b"/\xff\xc3\xa4.npz"
    gate = np.ones((6, 2), np.float32)
    with open(path, "wb") as file:
        np.savez(file, weight_ih_l0=gate, weight_hh_l0=gate)
    done = subprocess.run(
        [sys.executable, "-m", "fastgru", "info", path],
        capture_output=True,
        check=False,
        env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\udcff\\xe4.npz: a state dict" in done.stdout


def test_the_module_runs_and_compares_with_pytorch() -> None:
    """`python -m fastgru`, in a process of its own, where torch may be imported."""
    if not TORCH_IS_THERE:
        pytest.skip("torch is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "fastgru", "demo", "--prompt", "I saw ", "--length", "5"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "times faster" in done.stdout
    assert not done.stderr


def test_a_closed_pipe_is_no_traceback() -> None:
    command = f"{sys.executable} -m fastgru demo --prompt 'I saw ' --length 5 | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
