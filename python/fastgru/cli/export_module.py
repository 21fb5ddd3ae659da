"""`fastgru export --module package.module:factory`: a whole module, of the user's own code.

It imports that code and runs its factory, because the user asks for it by name; the checkpoint
itself runs nothing (weights_only). Refuses a checkpoint that is not exactly the module's state.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastgru.model import Model
from fastgru.torch_chain.check import max_error
from fastgru.torch_chain.export import from_torch

_STATE_KEYS = ("state_dict", "model_state_dict", "model")  # where training scripts put it


def export_module(
    spec: str, checkpoint: Path | None, precision: str | None = None
) -> tuple[Model, float]:
    """The Model of `factory()` with the checkpoint's weights, and its largest error.

    `spec`: `package.module:factory`, found on sys.path and in the current directory; the factory is
    called without arguments and returns a torch.nn.Module. `checkpoint`: a `.safetensors` file or
    one of torch.save, a state dict or a dict with one under state_dict, model_state_dict or model;
    None: the module as it is made. The error is `fastgru.max_error`'s, in `precision`.

    Raises ValueError (UnsupportedLayerError where the module is no chain of layers) with one line
    for whatever of the user's goes wrong, OSError for a file that cannot be read.
    """
    module = _made(spec)
    if checkpoint is not None:
        state = _state(checkpoint)
        try:
            module.load_state_dict(state, strict=True)
        except RuntimeError as error:  # torch lists names and shapes
            raise ValueError(f"{checkpoint}: does not fit {spec}: {error}") from error
    model = from_torch(module, precision=precision or "float32")
    return model, max_error(module, model)


def _made(spec: str) -> Any:
    """What the factory returns."""
    name, colon, path = spec.partition(":")
    if not (name and colon and path):
        raise ValueError(f"--module: expected package.module:factory, got {spec!r}")
    try:
        import torch  # noqa: PLC0415
    except ImportError as error:
        raise ValueError(f"--module: needs torch: {error}") from error
    here = os.getcwd()
    sys.path.insert(0, here)  # as `python -m` does
    try:
        factory: Any = importlib.import_module(name)
        for part in path.split("."):
            factory = getattr(factory, part)
        module = factory()
    except Exception as error:
        raise ValueError(f"--module {spec}: {type(error).__name__}: {error}") from error
    finally:
        if here in sys.path:
            sys.path.remove(here)
    if not isinstance(module, torch.nn.Module):
        raise ValueError(
            f"--module {spec}: expected a torch.nn.Module from it, got {type(module).__name__}"
        )
    return module


def _state(path: Path) -> dict[str, Any]:
    """The state dict of a checkpoint."""
    import torch  # noqa: PLC0415
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415

    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise ValueError(f"{path}: {error}") from error
    with open(path, "rb"):  # OSError, in Python's own words
        pass
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        told = str(error).split("\n", maxsplit=1)[0]
        raise ValueError(f"{path}: no checkpoint of tensors alone: {told}") from error
    if isinstance(loaded, Mapping):
        inside = (loaded[key] for key in _STATE_KEYS if isinstance(loaded.get(key), Mapping))
        return dict(next(inside, loaded))
    raise ValueError(f"{path}: expected a state dict, got {type(loaded).__name__}")
