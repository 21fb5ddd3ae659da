"""Ratio to each peer: a lane a peer, a dot a cell, on a logarithmic axis.

A peer of reduced precision has a second lane, against ours in that precision, where it was timed.
"""

from __future__ import annotations

from typing import Any

from benchmarks.cases import Case
from benchmarks.peers import REDUCED
from benchmarks.plots import COLOURS
from benchmarks.results import Results
from benchmarks.summary import (
    LABELS,
    LOST,
    geometric_mean,
    own_ratios,
    peers_shown,
    ratios,
)

CLASSES = ("B = 1", "B = 2 to 7", "B >= 8")
TICKS = (0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 20, 30, 50, 100, 200, 500)


def batch_class(case: Case) -> str:
    return CLASSES[0] if case.B == 1 else CLASSES[1] if case.B < 8 else CLASSES[2]


def lanes(results: Results) -> dict[str, list[tuple[float, Case]]]:
    """Label of each lane, and its dots."""
    found: dict[str, list[tuple[float, Case]]] = {}
    for name in peers_shown(results):
        label = LABELS.get(name, name)
        for row in results.cases:
            if name in ratios(row):
                found.setdefault(label, []).append((ratios(row)[name], row.case))
        for precision in REDUCED:
            for row in results.cases:
                ratio = own_ratios(row, precision).get(name)
                if ratio is not None:
                    found.setdefault(f"{label}\nto {precision}", []).append((ratio, row.case))
    return found


def draw(results: Results, plt: Any) -> Any | None:
    drawn = lanes(results)
    if not drawn:
        return None
    figure, axis = plt.subplots(figsize=(10, 1.3 + 0.8 * len(drawn)), layout="constrained")
    values = [ratio for found in drawn.values() for ratio, _ in found]
    low, high = min(0.8, *values) / 1.1, max(1.5, *values) * 1.1
    axis.set_xscale("log")
    axis.set_xlim(low, high)
    axis.axvspan(low, LOST, color=COLOURS[1], alpha=0.12, lw=0)
    axis.axvline(1, color="black", lw=0.8)
    for lane, found in enumerate(drawn.values()):
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
    axis.set_yticks(range(len(drawn)), list(drawn))
    axis.set_ylim(len(drawn) - 0.45, -0.55)
    axis.set_xlabel(
        "time of the peer / time of fastgru (float32 unless said); bar: geometric mean; "
        "shaded: lost, if of the same precision"
    )
    figure.legend(loc="outside upper center", ncols=3, fontsize=8)
    axis.grid(axis="x", alpha=0.25)
    return figure
