"""The roofline of one core with our one-thread cells on it.

Across: operations for each byte of weights that has to be read (every recurrent matrix once a step,
every input matrix once a call). Up: operations a second, the gates' included.
"""

from __future__ import annotations

from typing import Any

from benchmarks import limit
from benchmarks.cases import Case
from benchmarks.peers import OURS
from benchmarks.plots import COLOURS
from benchmarks.results import Results

LEVELS = ((16 << 10, "16 KiB"), (256 << 10, "256 KiB"), (2 << 20, "2 MiB"), (64 << 20, "64 MiB"))
"""Sizes whose bandwidth is drawn as a slope: what is typically L1, L2, L3 and memory."""


def work(case: Case) -> tuple[float, float, float]:
    """Operations, bytes of float32 weights to read, and bytes cycled through: limit.py's."""
    active, H = case.rows_by_step(), case.H
    inputs = [case.I if k == 0 else case.D * H for k in range(case.L)]
    products = sum(6 * H * (columns + H) * sum(active) for columns in inputs) * case.D
    gates = limit.GATE_OPERATIONS * H * sum(active) * case.L * case.D
    once = sum(12 * H * columns for columns in inputs) * case.D
    again = 12 * H * H * case.L * case.D * case.T
    cycled = once + again if case.T == 1 else 12 * H * H
    return products + gates, once + again, cycled


def draw(results: Results, plt: Any) -> Any | None:
    rows = [
        row for row in results.cases if row.share and row.case.threads == 1 and row.median(OURS)
    ]
    probe = results.run.get("probe")
    if not rows or not probe:
        return None
    isa = rows[0].peers[OURS].setting or ""
    machine = limit.machine(probe, isa, 1)
    if machine is None:
        return None
    figure, axis = plt.subplots(figsize=(8.5, 5.5), layout="constrained")
    points = []
    for row in rows:
        operations, read, cycled = work(row.case)
        points.append((operations / read, operations / (row.median(OURS) or 1) * 1e-3, cycled))
    low, high = min(p[0] for p in points) / 1.5, max(p[0] for p in points) * 1.5
    peak = machine.peak["float32"]
    bounds = [size for size, _ in LEVELS]
    for place, (size, name) in enumerate(LEVELS):
        rate = machine.bandwidth(size)
        knee = peak / rate
        axis.plot([low, knee, high], [rate * low, peak, peak], color=COLOURS[place], lw=1)
        inside = [p for p in points if _level(p[2], bounds) == place]
        axis.scatter(
            [p[0] for p in inside],
            [p[1] for p in inside],
            s=13,
            alpha=0.75,
            lw=0,
            color=COLOURS[place],
            label=f"weights up to {name}: reads of {name} at {rate:.0f} GB/s",
        )
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlim(low, high)
    axis.set_ylim(min(p[1] for p in points) / 1.5, peak * 1.4)
    axis.text(high / 1.1, peak * 1.05, f"peak {peak:.0f} GFLOP/s", ha="right", fontsize=8)
    axis.set_xlabel("operations for each byte of weights read")
    axis.set_ylabel("GFLOP/s")
    axis.set_title(f"fastgru float32 with {isa} on one core: {len(points)} cells", fontsize=10)
    title = "cycled through in each step"
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, title=title, title_fontsize=8)
    axis.grid(alpha=0.25)
    return figure


def _level(size: float, bounds: list[int]) -> int:
    return next((i for i, bound in enumerate(bounds) if size <= bound), len(bounds) - 1)
