"""examples/char_lm/precision.py: reduced precision barely changes what the models predict."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLE = Path(__file__).resolve().parent.parent / "examples/char_lm"

pytestmark = pytest.mark.skipif(
    not EXAMPLE.exists(), reason="the examples are not beside the tests"
)


@pytest.fixture
def precision(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name in ("files", "precision"):  # another example may have such modules
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(EXAMPLE)
    return importlib.import_module("precision")


def test_perplexity_and_greedy_text(precision: ModuleType) -> None:
    """On the recorded continuations themselves; float32 writes them again to the letter."""
    path = EXAMPLE / "char_lm_d2l.safetensors"
    model = precision.CharModel(path)
    record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    prompts = {entry["prompt"]: entry["continuation"] for entry in record["prompts"]}
    text = "".join(prompt + continuation for prompt, continuation in prompts.items())
    baseline = precision.perplexity(model, text)
    assert 1 < baseline < 4  # its own most likely text, of 68 characters, in short windows
    for name, most in (("float32", 0.0), ("bfloat16", 0.002), ("int8", 0.02)):
        reduced = precision.in_precision(model, name)
        assert reduced.gru.precision == name
        assert abs(precision.perplexity(reduced, text) / baseline - 1) <= most
    for prompt, continuation in prompts.items():
        found = precision.agreement(
            precision.greedy(model, prompt, len(continuation)), continuation
        )
        assert (found.before, found.overall) == (len(continuation), len(continuation))


def test_agreement(precision: ModuleType) -> None:
    assert precision.agreement("abcd", "abxd") == precision.Agreement(2, 3, 4)
    assert precision.agreement("ab", "ab") == precision.Agreement(2, 2, 2)
