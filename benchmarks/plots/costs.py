"""What each size costs beside its neighbours, from sweeps of H, B, I and T: where the cliffs are.

H: cost over that of the next multiple of 16 up. Others: cost for each unit of work over the least
of any unit in the sweep. A ring marks what `sweeps.py` calls a cliff.
"""

from __future__ import annotations

from typing import Any

from benchmarks.plots import COLOURS
from benchmarks.results import Results
from benchmarks.sweeps import CLIFF, Sweep, sweeps

PANELS = {
    "H": "cost / cost of the next multiple of 16",
    "B": "cost a row / least of any B",
    "I": "cost a unit of I + H / least of any I",
    "T": "cost a step / least of any T",
}
MOST = 4
"""Curves in a panel: the sweeps with the most points."""


def _curve(sweep: Sweep) -> list[tuple[int, float, bool]]:
    if sweep.letter == "H":
        return [
            (p.size, p.relative, p.relative > CLIFF)
            for p in sweep.points
            if p.relative == p.relative
        ]
    least = min(point.per_unit for point in sweep.points)
    return [(p.size, p.per_unit / least, p.relative > CLIFF) for p in sweep.points]


def draw(results: Results, plt: Any) -> Any | None:
    found = sweeps(results.cases)
    if not found:
        return None
    figure, axes = plt.subplots(2, 2, figsize=(10.5, 7), layout="constrained")
    for (letter, title), axis in zip(PANELS.items(), axes.flat, strict=True):
        mine = sorted((s for s in found if s.letter == letter), key=lambda s: -len(s.points))
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(letter)
        if not mine:
            axis.text(0.5, 0.5, "no sweep", ha="center", transform=axis.transAxes)
            continue
        ticks: set[int] = set()
        for place, sweep in enumerate(mine[:MOST]):
            curve = _curve(sweep)
            x, y = [point[0] for point in curve], [point[1] for point in curve]
            axis.plot(x, y, ".-", color=COLOURS[place], lw=0.9, ms=4, label=sweep.fixed)
            cliffs = [point for point in curve if point[2]]
            axis.scatter(
                [point[0] for point in cliffs],
                [point[1] for point in cliffs],
                s=45,
                facecolors="none",
                edgecolors=COLOURS[place],
            )
            ticks |= set(x)
        axis.axhline(1, color="black", lw=0.8)
        if letter == "H":
            axis.axhline(CLIFF, color="black", lw=0.8, ls="--")
        axis.set_xscale("log", base=2)
        low, high = min(ticks), max(ticks)
        powers = [2**k for k in range(12) if low <= 2**k <= high]
        axis.set_xticks(powers, [str(power) for power in powers])
        axis.set_xticks([], minor=True)
        if letter != "H":
            axis.set_yscale("log")
            top = axis.get_ylim()[1]
            marks = [t for t in (1, 1.5, 2, 3, 5, 10, 20, 50, 100) if t <= top]
            axis.set_yticks(marks, [f"{mark:g}" for mark in marks])
            axis.set_yticks([], minor=True)
        axis.legend(fontsize=8)
        axis.grid(alpha=0.25)
    return figure
