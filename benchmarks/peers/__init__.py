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
MODULES = {
    OURS: "fastgru_peer",  # first: an OpenMP runtime takes its settings from who loads it first
    "torch": "torch_peer",
    "onnxruntime": "onnxruntime_peer",
    "openvino": "openvino_peer",
}


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


def load(name: str) -> Peer:
    """The peer of this name; ImportError if its library is not installed."""
    peer: Peer = importlib.import_module(f"benchmarks.peers.{MODULES[name]}").Peer()
    return peer
