"""Ratio to each peer: a lane a peer, a dot a cell, on a logarithmic axis."""

from __future__ import annotations

from typing import Any

from benchmarks.cases import Case
from benchmarks.peers import OURS
from benchmarks.plots import COLOURS
from benchmarks.results import Results
from benchmarks.summary import LABELS, LOST, geometric_mean, peers_shown, ratios

CLASSES = ("B = 1", "B = 2 to 7", "B >= 8")
TICKS = (0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 20, 30, 50, 100, 200, 500)


def batch_class(case: Case) -> str:
    return CLASSES[0] if case.B == 1 else CLASSES[1] if case.B < 8 else CLASSES[2]


def draw(results: Results, plt: Any) -> Any | None:
    names = [
        name
        for name in peers_shown(results)
        if name != OURS and any(name in ratios(row) for row in results.cases)
    ]
    if not names:
        return None
    figure, axis = plt.subplots(figsize=(10, 1.3 + 0.8 * len(names)), layout="constrained")
    values = [ratio for row in results.cases for ratio in ratios(row).values()]
    low, high = min(0.8, *values) / 1.1, max(1.5, *values) * 1.1
    axis.set_xscale("log")
    axis.set_xlim(low, high)
    axis.axvspan(low, LOST, color=COLOURS[1], alpha=0.12, lw=0)
    axis.axvline(1, color="black", lw=0.8)
    for lane, name in enumerate(names):
        found = [(ratios(row)[name], row.case) for row in results.cases if name in ratios(row)]
        for place, kind in enumerate(CLASSES):
            mine = [ratio for ratio, case in found if batch_class(case) == kind]
            # A third of the lane a class, and dots of like ratio side by side in it.
            heights = [lane + 0.26 * (place - 1) + 0.07 * (i % 3 - 1) for i in range(len(mine))]
            style = {"s": 14, "alpha": 0.75, "color": COLOURS[place], "lw": 0}
            axis.scatter(mine, heights, label=kind if lane == 0 else None, **style)
        mean = geometric_mean(ratio for ratio, _ in found)
        least, worst = min(found, key=lambda pair: pair[0])
        axis.plot([mean, mean], [lane - 0.4, lane + 0.4], color="black", lw=1.5)
        axis.text(
            1.01,
            lane,
            f"mean {mean:.2f}x of {len(found)}\nleast {least:.2f}x\n{worst.name[:28]}",
            transform=axis.get_yaxis_transform(),
            va="center",
            fontsize=7,
        )
    axis.set_xticks([tick for tick in TICKS if low <= tick <= high])
    axis.set_xticks([], minor=True)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axis.set_yticks(range(len(names)), [LABELS.get(name, name) for name in names])
    axis.set_ylim(len(names) - 0.45, -0.55)
    axis.set_xlabel(
        "time of the peer / time of fastgru; bar: geometric mean; shaded: lost, if float32"
    )
    figure.legend(loc="outside upper center", ncols=3, fontsize=8)
    axis.grid(axis="x", alpha=0.25)
    return figure
