"""examples/g2p: a published network on fastgru gives its own package's phonemes, in float32.

The package's NumPy code is the reference. The extra `test` installs it; nothing that it depends on
is imported.
"""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLE = Path(__file__).resolve().parent.parent / "examples/g2p/g2p.py"

pytestmark = [
    pytest.mark.skipif(not EXAMPLE.exists(), reason="the examples are not beside the tests"),
    pytest.mark.skipif(
        importlib.util.find_spec("g2p_en") is None,
        reason="needs g2p-en: pip install --no-deps g2p-en",
    ),
]

# 200 pronounceable words of 4 to 12 letters. The two best logits are at least 5e-3 apart in all of
# their steps, and the package's float32 logits within 1e-5 of float64 ones: rounding decides none.
ONSETS = ["b", "bl", "br", "c", "ch", "cl", "cr", "d", "dr", "f"]
ONSETS += ["fl", "g", "gr", "m", "p", "pl", "s", "st", "str", "tr"]
RIMES = ["ack", "aiming", "ale", "ankering", "est", "ickle", "ightless", "illation", "ocketbook"]
RIMES += ["umption"]
WORDS = [onset + rime for onset, rime in itertools.product(ONSETS, RIMES)]


@pytest.fixture(scope="module")
def g2p() -> ModuleType:
    spec = importlib.util.spec_from_file_location("g2p_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_float32_gives_the_packages_phonemes(g2p: ModuleType) -> None:
    """For 200 words, one at a time and as one batch."""
    folder = g2p.package_folder()
    package = g2p.load_reference(folder)
    model = g2p.G2p(folder / "checkpoint20.npz", package.graphemes, package.phonemes)
    expected = [package.predict(word) for word in WORDS]
    assert [model.predict([word])[0] for word in WORDS] == expected
    assert model.predict(WORDS) == expected
    assert model.predict(["example"]) == [["IH0", "G", "Z", "AE1", "M", "P", "AH0", "L"]]


def test_calibration_is_by_words(g2p: ModuleType) -> None:
    """int8 rounded by the words of one half spells nearly all of the other half as float32 does."""
    folder = g2p.package_folder()
    package = g2p.load_reference(folder)
    model = g2p.G2p(folder / "checkpoint20.npz", package.graphemes, package.phonemes)
    small = model.calibrated(WORDS[::2])
    assert small.encoder.precision == small.decoder.precision == "int8"
    assert model.encoder.precision == "float32"
    pairs = zip(small.predict(WORDS[1::2]), model.predict(WORDS[1::2]), strict=True)
    assert sum(ours == exact for ours, exact in pairs) >= 97
