"""fastgru with weights in int8."""

from __future__ import annotations

from benchmarks.peers import INT8_TOLERANCE, fastgru_peer


class Peer(fastgru_peer.Peer):
    precision = "int8"
    tolerance = INT8_TOLERANCE
