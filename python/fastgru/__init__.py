"""fastgru: runs a trained GRU network on a CPU, fast, from Python.

Train in PyTorch, save the weights, load them here without PyTorch. Refuses to train and to use
GPUs.

>>> import numpy as np, fastgru
>>> weights = {"weight_ih_l0": np.ones((6, 3), np.float32),
...            "weight_hh_l0": np.ones((6, 2), np.float32)}
>>> gru = fastgru.GRU.from_state_dict(weights)
>>> output, h_n = gru(np.ones((5, 1, 3), np.float32))
>>> output.shape
(5, 1, 2)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastgru import _startup as _startup  # first: it decides how the extension is loaded
from fastgru._core import __version__
from fastgru.comparison import Comparison, Difference, compare
from fastgru.errors import (
    EquationWarning,
    FormatError,
    LayoutWarning,
    LeftOutWarning,
    LoadWarning,
    PoolFullError,
    ShapeError,
    UnsupportedLayerError,
)
from fastgru.formats import load
from fastgru.formats.keras.file import from_keras
from fastgru.formats.onnx.file import from_onnx
from fastgru.gru import GRU
from fastgru.layers import (
    Embedding,
    LayerNorm,
    Linear,
    LogSoftmax,
    OneHot,
    ReLU,
    Sigmoid,
    Softmax,
    Tanh,
)
from fastgru.machine import cpu_info, get_num_threads, release_memory, set_num_threads
from fastgru.model import Model, from_d2l
from fastgru.model_pool import ModelPool
from fastgru.model_stream import ModelStream
from fastgru.over_time import Last, Max, Mean, Reverse
from fastgru.pool import Pool
from fastgru.stream import Stream
from fastgru.torch_chain.check import max_error
from fastgru.torch_chain.export import from_torch
from fastgru.trace import Trace

if TYPE_CHECKING:
    from fastgru import aio as aio
    from fastgru import torch as torch

__all__ = [
    "GRU",
    "Comparison",
    "Difference",
    "Embedding",
    "EquationWarning",
    "FormatError",
    "Last",
    "LayerNorm",
    "LayoutWarning",
    "LeftOutWarning",
    "Linear",
    "LoadWarning",
    "LogSoftmax",
    "Max",
    "Mean",
    "Model",
    "ModelPool",
    "ModelStream",
    "OneHot",
    "Pool",
    "PoolFullError",
    "ReLU",
    "Reverse",
    "ShapeError",
    "Sigmoid",
    "Softmax",
    "Stream",
    "Tanh",
    "Trace",
    "UnsupportedLayerError",
    "__version__",
    "compare",
    "cpu_info",
    "from_d2l",
    "from_keras",
    "from_onnx",
    "from_torch",
    "get_num_threads",
    "load",
    "max_error",
    "release_memory",
    "set_num_threads",
]

if not TYPE_CHECKING:  # which would take any name for there

    def __getattr__(name):
        """`fastgru.aio` and `fastgru.torch` when first used: they import asyncio and torch."""
        if name not in {"aio", "torch"}:
            raise AttributeError(f"module 'fastgru' has no attribute {name!r}")
        import importlib  # noqa: PLC0415

        return importlib.import_module(f"fastgru.{name}")
