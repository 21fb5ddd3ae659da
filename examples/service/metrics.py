"""Counters of the service in Prometheus's text format, written by hand: it is four lines a metric.

Version 0.0.4 of the format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Upper bounds of the buckets of a frame's seconds in the service, from its arrival to its answer.
BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)


class Metrics:
    """Counts what happens; `text` adds what is asked for at that moment."""

    def __init__(self) -> None:
        names = ("frames", "bad_frames", "refused_connections", "sequences", "snapshots")
        self.counts = dict.fromkeys([*names, "failed_snapshots"], 0)
        self._buckets = [0] * (len(BUCKETS) + 1)
        self._seconds = 0.0

    def frame(self, seconds: float) -> None:
        """One frame was answered after so long."""
        self.counts["frames"] += 1
        self._buckets[bisect.bisect_left(BUCKETS, seconds)] += 1
        self._seconds += seconds

    def text(self, gauges: Mapping[str, float], counters: Mapping[str, float]) -> str:
        """All of it; `counters` only grow, by names that end in _total."""
        lines = []
        for name, value in gauges.items():
            lines += [f"# TYPE service_{name} gauge", f"service_{name} {value}"]
        totals = {f"{name}_total": float(count) for name, count in self.counts.items()}
        for name, value in {**totals, **counters}.items():
            lines += [f"# TYPE service_{name} counter", f"service_{name} {value}"]
        name, below = "service_frame_seconds", 0
        lines.append(f"# TYPE {name} histogram")
        for bound, count in zip([*map(str, BUCKETS), "+Inf"], self._buckets, strict=True):
            below += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {below}')
        lines += [f"{name}_sum {self._seconds}", f"{name}_count {below}"]
        cpu = "process_cpu_seconds_total"
        lines += [f"# TYPE {cpu} counter", f"{cpu} {time.process_time()}"]
        return "\n".join(lines) + "\n"
