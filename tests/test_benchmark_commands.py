"""Commands of the benchmark from end to end, as small as they go: do they work, and say what?

Figures are not looked at.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(
    not (ROOT / "benchmarks").exists(), reason="the benchmarks are not beside the tests"
)


def printed(*arguments: str) -> str:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return run.stdout


def test_sessions() -> None:
    """A line a pool in each table; whoever gives other answers would have ended the run."""
    sizes = ["--sessions", "600", "--rows", "64", "--input", "8", "--hidden", "16"]
    text = printed("sessions", *sizes, "--rate", "50", "--budget", "0.01", "--seconds", "0.05")
    assert text.startswith("600 sessions, I = 8, H = 16, 64 a step, ")
    for precision in ("float32", "bfloat16", "int8"):
        (line,) = re.findall(rf"^\| pool {precision} \|.*", text, re.MULTILINE)
        assert "1.00x" in line
        live = re.findall(rf"^\| {precision} \| ([\d,]+) \|.*", text, re.MULTILINE)
        assert live == ["15,000", "30,000"]


def test_errors() -> None:
    """Our errors beside a float64 network, and beside the peers that are installed."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    text = printed("errors", "--networks", "2")
    assert len(re.findall(r"^T100-B8-\S+ .*fastgru_int8 \S+ \S+", text, re.MULTILINE)) == 2
    assert re.search(r"^fastgru_int8, largest error over torch_int8's: 0\.\d+", text, re.MULTILINE)


def test_an_unknown_command() -> None:
    command = [sys.executable, "-m", "benchmarks", "nonsense"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "unknown command 'nonsense': expected run, full" in run.stderr
