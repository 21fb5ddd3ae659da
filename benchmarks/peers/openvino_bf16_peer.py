"""OpenVINO computing in bfloat16, on CPUs that have instructions for it."""

from __future__ import annotations

from benchmarks.cases import Case
from benchmarks.peers import BFLOAT16_TOLERANCE, openvino_peer


class Peer(openvino_peer.Peer):
    precision = "bfloat16"
    tolerance = BFLOAT16_TOLERANCE
    precision_hint = "bf16"

    def unsupported(self, case: Case) -> str | None:
        if "BF16" not in self.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            return "this CPU has no bfloat16 instructions"
        return super().unsupported(case)
