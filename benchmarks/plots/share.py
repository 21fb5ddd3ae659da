"""Share of limit as a heat map: rows T and B, columns H.

One panel a number of threads in float32, and one for each reduced precision with one thread.
"""

from __future__ import annotations

import math
from typing import Any

from benchmarks.cases import Case
from benchmarks.peers import OWN
from benchmarks.results import Results


def plain(case: Case) -> bool:
    """One layer, one direction, I = H, reset after, a whole call of full rows."""
    one = case.mode == "call" and case.L == case.D == 1 and not case.ragged
    return one and case.I == case.H and case.reset_after


def draw(results: Results, plt: Any) -> Any | None:
    panels: dict[tuple[int, int], dict[tuple[tuple[int, int], int], float]] = {}
    for row in results.cases:
        case = row.case
        # Sizes off the grid are the business of the cost plots.
        if not plain(case) or case.H % 8 or case.T not in (1, 10, 100, 500):
            continue
        for place, name in enumerate(OWN.values()):
            share = row.share_of(name)
            if share and (place == 0 or case.threads == 1):
                panel = panels.setdefault((place, case.threads), {})
                panel[(case.T, case.B), case.H] = share
    if not panels:
        return None
    order = sorted(panels)
    heights = [len({key for key, _ in panels[which]}) + 1 for which in order]
    figure, axes = plt.subplots(
        len(order),
        1,
        figsize=(8.5, 0.9 * len(order) + 0.28 * sum(heights)),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for (place, count), (axis,) in zip(order, axes, strict=True):
        cells = panels[place, count]
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
        threads = f"{count} thread{'s' if count > 1 else ''}"
        axis.set_title(f"Share of limit, {list(OWN)[place]}, {threads}", fontsize=10)
    figure.colorbar(image, ax=axes, label="limit / measured time", fraction=0.03)
    return figure
