"""fastgru with weights in bfloat16."""

from __future__ import annotations

from benchmarks.peers import BFLOAT16_TOLERANCE, fastgru_peer


class Peer(fastgru_peer.Peer):
    precision = "bfloat16"
    tolerance = BFLOAT16_TOLERANCE
