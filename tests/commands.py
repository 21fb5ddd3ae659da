"""What the tests of the command line share: running a command, and files for it."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest

import fastgru
from conftest import Array, Weights, random_weights
from fastgru.cli import main

I, H = 3, 5  # noqa: E741
DATA = Path(__file__).resolve().parent / "data"


class Done(NamedTuple):
    status: int
    out: str
    err: str


def command(capsys: pytest.CaptureFixture[str], *arguments: Any) -> Done:
    """Runs `fastgru ARGUMENTS` in this process."""
    capsys.readouterr()
    status = main([str(argument) for argument in arguments])
    return Done(status, *capsys.readouterr())


def assert_user_error(done: Done, *parts: str) -> None:
    """Status 2, nothing on stdout, one line on stderr that says what is wrong."""
    assert done.status == 2
    assert done.out == ""
    assert done.err.count("\n") == 1
    assert done.err.startswith("fastgru ")
    for part in parts:
        assert part in done.err


def weights(*args: Any, seed: int = 0, **kwargs: Any) -> Weights:
    return random_weights(np.random.default_rng(seed), I, H, *args, **kwargs)


def named(prefix: str, tensors: Weights) -> Weights:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def model_of_layers(batch_first: bool = False) -> fastgru.Model:
    """One of each kind that a chain can hold, indices in and a row for each sequence out."""
    rng = np.random.default_rng(1)

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(np.float32)

    gru = fastgru.GRU.from_state_dict(weights(2, True), batch_first=batch_first)
    return fastgru.Model(
        [
            fastgru.Embedding(normal(7, I)),
            gru,
            fastgru.LayerNorm(normal(2 * H)),
            fastgru.Last(bidirectional=True),
            fastgru.Linear(normal(4, 2 * H), normal(4)),
            fastgru.Tanh(),
            fastgru.LogSoftmax(),
        ]
    )


def save_npz(path: Path, *states: Weights) -> Path:
    """A bare state dict of all of them."""
    tensors: dict[str, Any] = {name: w for state in states for name, w in state.items()}
    np.savez(path, **tensors)
    return path


def saved_npy(path: Path, array: Array) -> Path:
    np.save(path, array)
    return path


def onnx_gru(torch: ModuleType, path: Path, state: Weights | None = None) -> Path:
    """A torch.nn.GRU by PyTorch's exporter."""
    module = torch.nn.GRU(I, H).eval()
    if state is not None:
        module.load_state_dict({name: torch.from_numpy(w) for name, w in state.items()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no onnxscript is the older one
        torch.onnx.export(module, (torch.zeros(4, 2, I),), str(path), dynamo=False)
    return path
