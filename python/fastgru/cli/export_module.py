"""`fastgru export --module package.module:factory`: a whole module, of the user's own code.

It imports that code and runs its factory, because the user asks for it by name; the checkpoint
itself runs nothing (weights_only). Refuses a checkpoint that is not exactly the module's state.
"""

from __future__ import annotations

import importlib
import os
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastgru.errors import FormatError
from fastgru.formats.regular import open_regular
from fastgru.formats.safetensors_file import read_bytes
from fastgru.formats.safetensors_header import read_header
from fastgru.model import Model
from fastgru.torch_chain.check import max_error
from fastgru.torch_chain.export import from_torch

_STATE_KEYS = ("state_dict", "model_state_dict", "model")  # where training scripts put it
_DTYPES = {  # of safetensors files, and PyTorch's names for them
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "C64": "complex64",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


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
            raise ValueError(
                f"{checkpoint}: does not fit {spec}, which needs its own state_dict(), alone or "
                f"under {', '.join(_STATE_KEYS[:-1])} or {_STATE_KEYS[-1]}: {error}"
            ) from error
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

    if path.suffix == ".safetensors":
        try:
            return _safetensors(path)
        except FormatError as error:
            raise ValueError(f"{path}: {error}") from error
    with open(path, "rb"):  # OSError, in Python's own words
        pass
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: torch.load refuses it with weights_only=True, so it holds objects beside the "
            "tensors, or is damaged. If you trust it, write its state dict to a file of its own, "
            'in Python with torch: torch.save(torch.load(path, weights_only=False)["state_dict"], '
            'new_path), where "state_dict" is the key that the module\'s state has in it'
        ) from error
    except Exception as error:
        told = str(error).split("\n", maxsplit=1)[0]
        raise ValueError(
            f"{path}: --module reads .safetensors files and those of torch.save: {told}"
        ) from error
    if isinstance(loaded, Mapping):
        inside = (loaded[key] for key in _STATE_KEYS if isinstance(loaded.get(key), Mapping))
        return dict(next(inside, loaded))
    raise ValueError(f"{path}: expected a state dict, got {type(loaded).__name__}")


def _safetensors(path: Path) -> dict[str, Any]:
    """All tensors of a safetensors file, in their own dtypes; FormatError."""
    import torch  # noqa: PLC0415

    state = {}
    with open_regular(str(path)) as file:
        header, _ = read_header(file)
        for name, entry in header.items():
            dtype = getattr(torch, _DTYPES.get(entry.dtype, ""), None)
            if dtype is None:
                raise FormatError(f"{name}: PyTorch's name of the dtype {entry.dtype} is not known")
            tensor = torch.empty(entry.shape, dtype=dtype)
            data = tensor.reshape(-1).view(torch.uint8).numpy()
            read_bytes(file, name, entry, data)
            state[name] = tensor
    return state
