"""examples/replace_gru: both models give with fastgru's GRUs what they give without."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLE = Path(__file__).resolve().parent.parent / "examples/replace_gru"

pytestmark = [
    pytest.mark.skipif(not EXAMPLE.exists(), reason="the examples are not beside the tests"),
    pytest.mark.skipif(
        importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"
    ),
]


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLE)
    spec = importlib.util.spec_from_file_location("replace_gru_measure", EXAMPLE / "measure.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def test_the_command(
    measure: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table of one round: a row for each input, differences of float32 rounding only."""
    import torch  # noqa: PLC0415

    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["measure.py", "--rounds", "1"])
    try:
        measure.main()
    finally:
        torch.set_num_threads(threads)
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if "|" in line]
    assert [row[0].strip() for row in rows[2:]] == [
        "enhancer: 0.1 s",
        "enhancer: 1 s",
        "enhancer: 8 x 4 s",
        "tagger: 1 sentence",
        "tagger: 32 sentences",
    ]
    # Outputs are below 5; two networks that round differently in a thousand operations each.
    assert all(float(row[-1]) < 1e-5 for row in rows[2:])
