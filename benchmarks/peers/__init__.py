"""One file a peer. A peer builds a case at its own best settings; it times nothing.

To add one: a module here with a class `Peer` (the protocol below), and a line in MODULES. The
library is imported in `Peer.__init__`, whose ImportError means that the peer is not installed.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from benchmarks.cases import Case

if TYPE_CHECKING:  # imports numpy, which must not load before the thread variables are set
    from benchmarks.inputs import Answer, Inputs

OURS = "fastgru"
OWN = {"float32": OURS, "bfloat16": "fastgru_bf16", "int8": "fastgru_int8"}
"""Our own peer of each precision: what peers of that precision are compared with."""

BEFORE = {precision: f"{name}_before" for precision, name in OWN.items()}
"""The same of another build of fastgru, that of `--against`: what ours was before a change."""

OF_FASTGRU = (*OWN.values(), *BEFORE.values())

REDUCED = {precision: name for precision, name in OWN.items() if name != OURS}

MODULES = {
    OURS: "fastgru_peer",  # first: an OpenMP runtime takes its settings from who loads it first
    "fastgru_bf16": "fastgru_bf16_peer",
    "fastgru_int8": "fastgru_int8_peer",
    **dict.fromkeys(BEFORE.values(), "elsewhere"),
    "torch": "torch_peer",
    "onnxruntime": "onnxruntime_peer",
    "openvino": "openvino_peer",
    "torch_int8": "torch_int8_peer",
    "openvino_bf16": "openvino_bf16_peer",
    "onednn": "onednn_peer",
    "rtneural": "rtneural_peer",
}
BY_HAND = ("rtneural", *BEFORE.values())
"""Only run when asked for: they need a directory or a build that no package installs."""

AGAINST = "FASTGRU_AGAINST"
"""The environment variable with the Python that has the other build: `--against` sets it."""

WHOLE_MODELS = (*OF_FASTGRU, "torch", "onnxruntime")
"""Those that run whole models; the others are left out of such cases."""

FROM_CPP = ("onednn", "rtneural")
"""Called from C++ by those who use them; here through ctypes, with everything bound beforehand."""


@dataclass(frozen=True)
class Runner:
    """A case, ready to run. `setting` names what was chosen, for the record.

    `run` is the timed call; keep the Runner for as long as it is used (a peer may write into arrays
    that only `answer` holds). `answer` computes from a zero state what `inputs.right_answer`
    defines (through the same objects as `run`) and may copy as it likes.

    `parts` are timed beside it, in the same rounds: what the run consists of, or is compared with.
    """

    setting: str
    run: Callable[[], object]
    answer: Callable[[], Answer]
    parts: Mapping[str, Callable[[], object]] = field(default_factory=dict)


class Peer(Protocol):
    version: str
    precision: str
    tolerance: float  # largest absolute difference from the float64 answer that counts as right

    def unsupported(self, case: Case) -> str | None:
        """Why this peer cannot run the case, or None if it can."""

    def build(self, case: Case, inputs: Inputs) -> list[Runner]:
        """The ways to run the case that may be fastest; the harness tries all and keeps one."""


# |y| <= 1, and sums of H = 512 terms in float32 stay within 2e-6 in every peer seen; a wrong
# equation, gate order or bias differs by more than 1e-2.
FLOAT32_TOLERANCE = 2e-5
# Weights of 8 bits of mantissa, and of 8 bits in all: several times what either peer showed, and
# still below what a wrong gate order does to a trained network.
BFLOAT16_TOLERANCE = 0.05
INT8_TOLERANCE = 0.2


def load(name: str) -> Peer:
    """The peer of this name; ImportError if its library is not installed.

    Beside another build ours runs as that one does, in a process of its own.
    """
    module = importlib.import_module(f"benchmarks.peers.{MODULES[name]}")
    other = os.environ.get(AGAINST)
    peer: Peer
    if name in BEFORE.values():
        if not other:
            raise ImportError("needs --against PYTHON, one that has another build of fastgru")
        peer = module.Peer(other, MODULES[name.removesuffix("_before")], other=True)
    elif name in OWN.values() and other:
        elsewhere = importlib.import_module("benchmarks.peers.elsewhere")
        peer = elsewhere.Peer(sys.executable, MODULES[name], other=False)
    else:
        peer = module.Peer()
    return peer
