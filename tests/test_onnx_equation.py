"""Exports of PyTorch whose GRU says the other equation: a warning, and the argument to mend it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed")

import onnx

import fastgru
from conftest import random_input, same_bits
from onnx_models import gru_model, gru_weights

I, H = 4, 3  # noqa: E741
WEIGHTS = gru_weights(np.random.default_rng(0), I, H)
X = random_input(np.random.default_rng(1), 5, 2, I)


def made_by(producer: str, version: str = "2.10.0", **attributes: Any) -> Any:
    model = gru_model(WEIGHTS, **attributes)
    model.producer_name, model.producer_version = producer, version
    return model


def quietly(model: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return fastgru.from_onnx(model, **options)


@pytest.mark.parametrize("attributes", [{}, {"linear_before_reset": 0}])
def test_a_file_of_pytorch_without_linear_before_reset_warns(attributes: dict[str, Any]) -> None:
    """The version, the node, and a remedy that works; the file's own equation is what is loaded."""
    with pytest.warns(fastgru.EquationWarning) as caught:
        gru = fastgru.from_onnx(made_by("pytorch", **attributes))
    assert not gru.reset_after
    (warning,) = caught
    assert Path(warning.filename) == Path(__file__)
    for part in ("node 0 GRU", "'pytorch' '2.10.0'", "reset_after=True", "dynamo=False", "0.7.1"):
        assert part in str(warning.message)


def test_the_argument_chooses_the_equation_and_silences_the_warning() -> None:
    """True is the network that was trained, to the bit; False is the file's."""
    trained = quietly(made_by("pytorch", linear_before_reset=1))
    mended = quietly(made_by("pytorch"), reset_after=True)
    as_said = quietly(made_by("pytorch"), reset_after=False)
    assert (mended.reset_after, as_said.reset_after) == (True, False)
    assert same_bits(mended(X)[0], trained(X)[0])
    assert same_bits(as_said(X)[0], quietly(made_by("other"))(X)[0])
    written_out = quietly(made_by("pytorch", linear_before_reset=0), reset_after=True)
    assert same_bits(written_out(X)[0], trained(X)[0])


def test_an_equation_that_was_chosen_is_not_overridden() -> None:
    """1 is nobody's default: another equation is another network."""
    with pytest.raises(fastgru.FormatError, match="reset_after: the file says True"):
        fastgru.from_onnx(made_by("pytorch", linear_before_reset=1), reset_after=False)


def test_other_files_do_not_warn() -> None:
    """Files of other producers, and sound ones of PyTorch."""
    quietly(made_by("pytorch", linear_before_reset=1))
    for producer in ("", "tf2onnx", "keras", "skl2onnx"):
        assert not quietly(made_by(producer)).reset_after


def test_load_passes_the_argument_on(tmp_path: Path) -> None:
    """`load` of an ONNX file warns in the same words, and takes the same argument."""
    path = tmp_path / "gru.onnx"
    onnx.save(made_by("pytorch"), path)
    with pytest.warns(fastgru.EquationWarning, match=r"gru\.onnx: node 0 GRU") as caught:
        assert not fastgru.load(path).reset_after
    assert Path(caught[0].filename) == Path(__file__)
    with warnings.catch_warnings():
        warnings.simplefilter("error", fastgru.EquationWarning)
        assert fastgru.load(path, reset_after=True).reset_after
        assert not fastgru.load(path, reset_after=False).reset_after


def test_the_argument_is_checked() -> None:
    """True, False or None."""
    with pytest.raises(ValueError, match="reset_after: expected True or False, got 1"):
        fastgru.from_onnx(made_by("pytorch"), reset_after=1)  # type: ignore[arg-type]


def test_long_versions_are_cut() -> None:
    """A file's text does not make a message of any length."""
    with pytest.warns(fastgru.EquationWarning) as caught:
        fastgru.from_onnx(made_by("pytorch", "9" * 100_000))
    assert len(str(caught[0].message)) < 2000
