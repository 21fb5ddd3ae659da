"""What a results file says of whole models, beside what summary.py says of bare GRUs.

Ratios to the best peer and lost cells, model by model; what a stream's step takes beyond its GRUs'
steps and its other layers' work; what a pool's step takes beside a plain batch of as many rows.
"""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.measure import quantile
from benchmarks.peers import BEFORE, OURS
from benchmarks.results import CaseResult, PeerResult, Results
from benchmarks.summary import (
    against,
    before_lines,
    best_python,
    geometric_mean,
    headline,
    peer_lines,
    summary,
)

BEYOND_US = 1.0
"""Allowed to a step of a whole model beyond its GRUs' steps and its other layers' work."""

POOL = 1.1
"""Allowed to a step of a pool, over the step of a plain batch of as many rows."""


def all_lines(results: Results) -> list[str]:
    """Of bare GRUs and of whole models: their figures are never averaged with one another."""
    bare = Results(results.run, [row for row in results.cases if not row.case.model])
    return [*summary(bare), *lines(results)]


def lines(results: Results) -> list[str]:
    rows = [row for row in results.cases if row.case.model]
    compared = Results(results.run, [row for row in rows if row.case.mode != "pool"])
    found = [*headline(compared), *peer_lines(compared), *_model_lines(compared.cases)]
    found += before_lines(Results(results.run, rows))
    return [f"Whole models. {line}" for line in found] + [*_step_lines(rows), *_pool_lines(rows)]


def _model_lines(rows: list[CaseResult]) -> list[str]:
    """Best peer, model by model, sequences and steps apart."""
    groups: dict[str, list[tuple[float | None, CaseResult]]] = {}
    for row in rows:
        ratio = best_python(row)
        if ratio:
            mode = "sequences" if row.case.mode == "call" else "steps"
            name = f"{row.case.model} with {row.case.O} outputs, {mode}"
            groups.setdefault(name, []).append((ratio, row))
    return [f"Best peer, {name}: {against(found)}" for name, found in groups.items()]


def _peers(row: CaseResult) -> Iterable[tuple[str, PeerResult]]:
    """Ours and that of the build before, where timed."""
    for name in (OURS, BEFORE["float32"]):
        if name in row.peers and row.peers[name].parts:
            yield ("" if name == OURS else "before ", row.peers[name])


def _step_lines(rows: list[CaseResult]) -> list[str]:
    """A line a step: the whole, its parts, and what is left of it, counted in both ways."""
    found: list[str] = []
    costs: dict[str, list[float]] = {"": [], "before ": []}
    for row in rows:
        texts = []
        for build, peer in _peers(row):
            if not peer.overhead_us:
                continue
            overhead = peer.overhead_us["median"]
            costs[build].append(overhead)
            gru, linear, layers = (peer.parts[p]["us"] for p in ("gru", "linear", "layers"))
            texts.append(
                f"{build}{peer.us['median']:.2f} us: GRU {gru:.2f}, linear {linear:.2f}, layers "
                f"one by one {layers:.2f}; {peer.beyond_us['median']:.2f} beyond GRU and linear, "
                f"{overhead:.2f} beyond all layers' work"
            )
        if texts:
            found.append(f"{row.case.name}: {'; '.join(texts)}")
    total = [
        f"Model's step beyond its GRU's and its other layers' work, {build}over {BEYOND_US:g} us: "
        f"{sum(cost > BEYOND_US for cost in found_costs)} of {len(found_costs)}, median "
        f"{quantile(found_costs, 0.5):.2f}, most {max(found_costs):.2f}"
        for build, found_costs in costs.items()
        if found_costs
    ]
    return total + found


def _pool_lines(rows: list[CaseResult]) -> list[str]:
    found: list[str] = []
    each: dict[str, list[float]] = {"": [], "before ": []}
    for row in rows:
        for build, peer in _peers(row):
            if "batch" in peer.parts:
                part = peer.parts["batch"]
                each[build].append(part["median"])
                found.append(
                    f"{row.case.name}: {build}pool {peer.us['median']:.2f} us, batch "
                    f"{part['us']:.2f}, ratio {part['median']:.3f} "
                    f"({part['p25']:.3f} to {part['p75']:.3f})"
                )
    total = [
        f"Pool's step over plain batch's, {build}{geometric_mean(ratios):.3f} by geometric mean, "
        f"{sum(ratio > POOL for ratio in ratios)} of {len(ratios)} above {POOL}"
        for build, ratios in each.items()
        if ratios
    ]
    return total + found
