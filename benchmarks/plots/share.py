"""Share of limit as a heat map: rows T and B, columns H, one panel a number of threads."""

from __future__ import annotations

import math
from typing import Any

from benchmarks.cases import Case
from benchmarks.results import Results


def plain(case: Case) -> bool:
    """One layer, one direction, I = H, reset after, a whole call of full rows."""
    one = case.mode == "call" and case.L == case.D == 1 and not case.ragged
    return one and case.I == case.H and case.reset_after


def draw(results: Results, plt: Any) -> Any | None:
    panels: dict[int, dict[tuple[tuple[int, int], int], float]] = {}
    for row in results.cases:
        case = row.case
        # Sizes off the grid are the business of the cost plots.
        if row.share and plain(case) and (case.H % 8 == 0) and case.T in (1, 10, 100, 500):
            panels.setdefault(case.threads, {})[(case.T, case.B), case.H] = row.share
    if not panels:
        return None
    counts = sorted(panels)
    heights = [len({key for key, _ in panels[count]}) + 1 for count in counts]
    figure, axes = plt.subplots(
        len(counts),
        1,
        figsize=(8.5, 0.9 * len(counts) + 0.28 * sum(heights)),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for count, (axis,) in zip(counts, axes, strict=True):
        cells = panels[count]
        keys = sorted({key for key, _ in cells})
        sizes = sorted({size for _, size in cells})
        table = [[cells.get((key, size), math.nan) for size in sizes] for key in keys]
        image = axis.imshow(table, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
        for y, line in enumerate(table):
            for x, value in enumerate(line):
                if not math.isnan(value):
                    axis.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=8)
        axis.set_xticks(range(len(sizes)), [str(size) for size in sizes])
        axis.set_yticks(range(len(keys)), [f"T {T}, B {B}" for T, B in keys], fontsize=8)
        axis.set_xlabel("I = H")
        axis.set_title(f"Share of limit, {count} thread{'s' if count > 1 else ''}", fontsize=10)
    figure.colorbar(image, ax=axes, label="limit / measured time", fraction=0.03)
    return figure
