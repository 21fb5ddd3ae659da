"""What a file does not say of its GRU, and what stands beside it: told, never guessed.

A state dict does not hold `batch_first`, and arrays of both layouts fit. A checkpoint often holds
a whole network, of which the GRU is a part. Both would be lost in silence; here are the words for
them. Refuses to decide: the caller's arguments do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from fastgru.arrays import TensorSource, shape_text
from fastgru.spec import gru_prefixes
from fastgru.text import listed

LAYOUT_TEXT = (
    "the file does not say whether the GRU is batch_first, so arrays are taken to be (T, B, ...), "
    "time first, which is PyTorch's default. If the module was trained with batch_first=True, the "
    "results are wrong"
)
EXPORT_MODULE = (
    "export CHECKPOINT OUT --module PACKAGE.MODULE:FACTORY, where CHECKPOINT has the module's "
    "state_dict() alone"
)
"""The command that keeps a whole network."""
_FLOATS = re.compile(r"float\d*|bfloat16|[<>=]?f[248]|F64|F32|F16|BF16|unread")
# {"state": {0: {"exp_avg": ...}}}: what an optimizer remembers of each parameter.
_OPTIMIZER = re.compile(r"(?:^|\.)state\.\d+\.\w+$")


def left_out(tensors: Mapping[str, TensorSource], prefix: str) -> dict[str, tuple[int, ...]]:
    """Tensors, by name, that may belong to the network of the GRU under `prefix`, with shapes.

    That is every tensor of floating numbers that is not this GRU's, but for what an optimizer
    keeps. A shape is () where the reader did not look at it.
    """
    return {
        name: source.shape
        for name, source in tensors.items()
        if gru_prefixes([name]) != {prefix}
        and _FLOATS.fullmatch(source.dtype)
        and not _OPTIMIZER.search(name)
    }


def is_cell(tensors: Mapping[str, TensorSource], prefix: str) -> bool:
    """Whether a torch.nn.GRUCell stands under `prefix`, which has no layout of sequences."""
    return f"{prefix}weight_ih" in tensors and f"{prefix}weight_ih_l0" not in tensors


def names_text(tensors: Mapping[str, tuple[int, ...]]) -> str:
    """`head.weight (3, 64), head.bias (3,)`; the first twelve of many."""
    return listed([f"{name} {shape_text(s)}" if s else name for name, s in tensors.items()])
