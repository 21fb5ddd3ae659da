"""OpenVINO computing in bfloat16, on CPUs that have instructions for it."""

from __future__ import annotations

from benchmarks import environment
from benchmarks.cases import Case
from benchmarks.peers import BFLOAT16_TOLERANCE, openvino_peer

INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16"}


class Peer(openvino_peer.Peer):
    precision = "bfloat16"
    tolerance = BFLOAT16_TOLERANCE
    precision_hint = "bf16"

    def unsupported(self, case: Case) -> str | None:
        # OpenVINO may emulate it, which is no faster than float32: the CPU decides, too.
        offered = "BF16" in self.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if not offered or not INSTRUCTIONS & environment.cpu_flags():
            return "this CPU has no bfloat16 instructions"
        return super().unsupported(case)
