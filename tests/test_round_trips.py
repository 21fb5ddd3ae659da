"""Whatever loads can be saved as fastgru's own file, and gives the same bits again.

Over every file in `data/`: what other programs wrote, and what older versions of fastgru did.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastgru
from commands import DATA
from conftest import Array, same_bits

PRECISIONS = [None, "bfloat16", "int8"]
SUFFIXES = {".pt", ".npz", ".safetensors", ".onnx", ".keras", ".h5"}
# Padding is part of what they mean, and `load` has no option to say that it is at the ends.
MASKED = {"masked_3.keras", "masked_backwards_3.keras"}
# outputs_*.npz are what Keras gave, no weights; graph_*.keras need a prefix, and are no chains;
# *_pool.safetensors are snapshots of sessions.
FILES = sorted(
    path
    for path in DATA.rglob("*")
    if path.suffix in SUFFIXES
    and not path.name.startswith(("outputs_", "graph_"))
    and not path.stem.endswith("_pool")
)


def name_of(path: Path) -> str:
    return str(path.relative_to(DATA))


def classes_of(first: fastgru.Embedding | fastgru.OneHot) -> int:
    return first.num_embeddings if isinstance(first, fastgru.Embedding) else first.num_classes


def outputs(model: Any) -> list[Array]:
    """Of a call on random input, with lengths and without."""
    rng = np.random.default_rng(0)
    first = model if isinstance(model, fastgru.GRU) else model[0]
    x: Array
    if isinstance(first, fastgru.Embedding | fastgru.OneHot):
        x = rng.integers(0, classes_of(first), (5, 4))
    else:
        x = rng.standard_normal((5, 4, model.input_size)).astype(np.float32)
    batch = 5 if model.batch_first else 4
    results = []
    for lengths in (None, rng.integers(1, 5, batch)):
        result = model(x, lengths=lengths)
        results += list(result) if isinstance(result, tuple) else [result]
    return results


def test_there_are_files() -> None:
    """The test below is nothing without them."""
    assert {".pt", ".keras", ".h5"} <= {path.suffix for path in FILES}


def assert_round_trip(path: Path, precision: str | None, folder: Path) -> None:
    """Loaded, saved and loaded again: the same bits; saved once more, the same file."""
    model = fastgru.load(path, precision=precision)
    model.save(folder / "saved")
    again = fastgru.load(folder / "saved")
    assert repr(again) == repr(model)
    assert all(map(same_bits, outputs(again), outputs(model)))
    again.save(folder / "twice")
    assert (folder / "twice").read_bytes() == (folder / "saved").read_bytes()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_what_loads_can_be_saved_and_gives_the_same_bits(
    path: Path, precision: str | None, tmp_path: Path
) -> None:
    """In every precision."""
    if path.suffix == ".onnx":
        pytest.importorskip("onnx", reason="onnx is not installed")
    if path.name in MASKED:
        with pytest.raises(fastgru.UnsupportedLayerError, match="mask"):
            fastgru.load(path)
        return
    reduced = path.stem.rpartition("_")[2]
    if precision and reduced in PRECISIONS and precision != reduced:
        with pytest.raises(fastgru.FormatError, match=f"the file says '{reduced}'"):
            fastgru.load(path, precision=precision)
        return
    assert_round_trip(path, precision, tmp_path)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_onnx_graphs_round_trip(
    direction: str, after: int, layout: int, precision: str | None, tmp_path: Path
) -> None:
    """Every kind of GRU node; in reverse it needs the native file's newest version."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    models = importlib.import_module("onnx_models")
    directions = 2 if direction == "bidirectional" else 1
    weights = models.gru_weights(np.random.default_rng(0), 3, 5, directions)
    kinds = {"direction": direction, "linear_before_reset": after, "layout": layout}
    onnx.save(models.gru_model(weights, **kinds), tmp_path / "gru.onnx")
    assert_round_trip(tmp_path / "gru.onnx", precision, tmp_path)
    gru = fastgru.load(tmp_path / "saved")
    assert (gru.reverse, gru.bidirectional) == (direction == "reverse", directions == 2)
    assert (gru.reset_after, gru.batch_first) == (bool(after), bool(layout))
