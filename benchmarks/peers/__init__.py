"""One file a peer. A peer builds a case at its own best settings; it times nothing.

To add one: a module here with a class `Peer` (the protocol below), and a line in MODULES. The
library is imported in `Peer.__init__`, whose ImportError means that the peer is not installed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from benchmarks.cases import Case

if TYPE_CHECKING:  # imports numpy, which must not load before the thread variables are set
    from benchmarks.inputs import Answer, Inputs

OURS = "fastgru"
OWN = {"float32": OURS, "bfloat16": "fastgru_bf16", "int8": "fastgru_int8"}
"""Our own peer of each precision: what peers of that precision are compared with."""

REDUCED = {precision: name for precision, name in OWN.items() if name != OURS}

MODULES = {
    OURS: "fastgru_peer",  # first: an OpenMP runtime takes its settings from who loads it first
    "fastgru_bf16": "fastgru_bf16_peer",
    "fastgru_int8": "fastgru_int8_peer",
    "torch": "torch_peer",
    "onnxruntime": "onnxruntime_peer",
    "openvino": "openvino_peer",
    "torch_int8": "torch_int8_peer",
    "openvino_bf16": "openvino_bf16_peer",
    "onednn": "onednn_peer",
    "rtneural": "rtneural_peer",
}
BY_HAND = ("rtneural",)
"""Only run when asked for: they need a directory that no package installs."""

FROM_CPP = ("onednn", "rtneural")
"""Called from C++ by those who use them; here through ctypes, with everything bound beforehand."""


@dataclass(frozen=True)
class Runner:
    """A case, ready to run. `setting` names what was chosen, for the record.

    `run` is the timed call; keep the Runner for as long as it is used (a peer may write into arrays
    that only `answer` holds). `answer` computes from a zero state what `inputs.right_answer`
    defines (through the same objects as `run`) and may copy as it likes.
    """

    setting: str
    run: Callable[[], object]
    answer: Callable[[], Answer]


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
    """The peer of this name; ImportError if its library is not installed."""
    peer: Peer = importlib.import_module(f"benchmarks.peers.{MODULES[name]}").Peer()
    return peer
