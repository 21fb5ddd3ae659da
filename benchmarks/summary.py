"""A results file in a dozen lines: ratios to the peers, cells lost, share of limit, cliffs.

Only float32 peers can make a cell lost: a peer of less precision answers an easier question. Judges
medians of interleaved rounds as they are; says nothing about their noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from benchmarks.peers import FROM_CPP, MODULES, OURS
from benchmarks.results import CaseResult, Results
from benchmarks.sweeps import CLIFF, RAGGED, ragged_costs, sweeps

LOST = 0.97
"""A cell counts as lost below this ratio: nearer to 1 than this, two runs may disagree."""

WORK_US = 50
"""Shorter calls are mostly the call itself, which the limit does not count."""

SHARE_TARGETS = {"avx512": (0.93, 0.90), "avx2": (0.75, None)}
"""By our setting: least share of limit for B >= 8, and for smaller batches where there is one."""

SHOWN = 12
"""Names listed before "and so many more"."""

LABELS = {
    "fastgru": "fastgru",
    "torch": "PyTorch",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "torch_int8": "PyTorch int8",
    "openvino_bf16": "OpenVINO bf16",
    "onednn": "oneDNN (C++)",
    "rtneural": "RTNeural (C++)",
}


def geometric_mean(values: Iterable[float]) -> float:
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def peers_shown(results: Results) -> list[str]:
    """Peers that were loaded, ours first; one that never gave the right answer is among them."""
    loaded = {name for row in results.cases for name in row.peers}
    return [name for name in MODULES if name in loaded] + sorted(loaded - MODULES.keys())


def _same_precision(row: CaseResult, name: str) -> bool:
    ours, peer = row.peers[OURS], row.peers[name]
    return (peer.precision or "float32") == (ours.precision or "float32")


def ratios(row: CaseResult, *, of_our_precision: bool = False) -> dict[str, float]:
    """Median ratio of each peer that was timed beside ours."""
    return {
        name: peer.ratio["median"]
        for name, peer in row.peers.items()
        if name != OURS and peer.ratio and (not of_our_precision or _same_precision(row, name))
    }


def best_python(row: CaseResult) -> float | None:
    """Ratio of the fastest peer of our precision that a Python program can call."""
    found = [v for name, v in ratios(row, of_our_precision=True).items() if name not in FROM_CPP]
    return min(found, default=None)


def _listed(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _peer_lines(results: Results) -> list[str]:
    """One line a peer: geometric mean of the ratios, the lowest one, and what is lost."""
    lines = []
    for name in peers_shown(results):
        found = [(ratios(row).get(name), row) for row in results.cases]
        known = sorted(((r, row) for r, row in found if r is not None), key=lambda pair: pair[0])
        if name == OURS or not known:
            continue
        least, worst = known[0]
        if _same_precision(worst, name):
            lost = [f"{row.case.name} {r:.2f}" for r, row in known if r < LOST]
            verdict = f"lost {len(lost)}: {_listed(lost)}" if lost else "none lost"
        else:
            verdict = f"{worst.peers[name].precision}, so never counted as lost"
        lines.append(
            f"{LABELS.get(name, name)}: {geometric_mean(r for r, _ in known):.2f}x by geometric "
            f"mean of {len(known)} cells, lowest {least:.2f}x ({worst.case.name}), {verdict}"
        )
    return lines


def _headline(results: Results) -> list[str]:
    lines = []
    best = {row.case.name: ratio for row in results.cases if (ratio := best_python(row))}
    if best:
        worst = min(best, key=lambda name: best[name])
        lines.append(
            "Best Python-callable peer of the same precision: "
            f"{geometric_mean(best.values()):.2f}x by geometric mean of {len(best)} cells, "
            f"lowest {best[worst]:.2f}x ({worst})"
        )
    lost = []
    for row in results.cases:
        below = {n: r for n, r in ratios(row, of_our_precision=True).items() if r < LOST}
        if below:
            name = min(below, key=lambda n: below[n])
            lost.append((below[name], f"{row.case.name} {below[name]:.2f} ({LABELS.get(name)})"))
    timed = sum(bool(ratios(row)) for row in results.cases)
    if timed:
        names = [text for _, text in sorted(lost)]
        lines.append(
            f"Cells lost (below {LOST}) to any of them, C++ ones included: {len(lost)} of {timed}"
            + (f": {_listed(names)}" if lost else "")
        )
    return lines


def _share_lines(results: Results) -> list[str]:
    lines = []
    for large in (True, False):
        rows = [
            row
            for row in results.cases
            if row.share
            and (row.case.B >= 8) == large
            and (row.median(OURS) or 0) >= WORK_US
            and not (row.case.H <= 16 and row.case.B <= 2)
        ]
        if not rows:
            continue
        shares = {row.case.name: row.share for row in rows if row.share}
        level = (rows[0].peers[OURS].setting or "").split("_")[0]
        target = SHARE_TARGETS.get(level, (None, None))[0 if large else 1]
        below = sorted((s, name) for name, s in shares.items() if target and s < target)
        worst = min(shares, key=lambda name: shares[name])
        lines.append(
            f"Share of limit, B {'>= 8' if large else '< 8'}: "
            f"{geometric_mean(shares.values()):.2f} by geometric mean of {len(shares)} cells of "
            f"{WORK_US} us or more, "
            f"lowest {shares[worst]:.2f} ({worst})"
            + (f"; below {target} on {level}: {len(below)}" if target else "")
            + (f": {_listed([f'{name} {s:.2f}' for s, name in below])}" if below else "")
        )
    return lines


def _cliff_lines(results: Results) -> list[str]:
    found = sweeps(results.cases)
    lines = []
    if found:
        cliffs = [(p.relative, sweep, p) for sweep in found for p in sweep.cliffs()]
        cliffs.sort(key=lambda item: -item[0])
        names = [f"{s.letter} = {p.size} at {s.fixed} {p.relative:.2f}" for _, s, p in cliffs]
        count = sum(len(sweep.points) for sweep in found)
        lines.append(
            f"Cliffs beyond {CLIFF - 1:.0%}: {len(cliffs)} of {count} points in {len(found)} sweeps"
            + (f": {_listed(names)}" if names else "")
        )
    ragged = ragged_costs(results.cases)
    if ragged:
        costs = ", ".join(f"{name} {cost:.2f}" for name, cost in ragged.items())
        over = sum(cost > RAGGED for cost in ragged.values())
        lines.append(f"Ragged over full batch: {over} of {len(ragged)} above {RAGGED}: {costs}")
    return lines


def _thread_lines(results: Results) -> list[str]:
    """Our speed with several threads over one, of cells timed with both."""
    alone = {row.case: row.median(OURS) for row in results.cases if row.case.threads == 1}
    gains = {}
    for row in results.cases:
        one = alone.get(replace(row.case, threads=1, name="")) if row.case.threads > 1 else None
        us = row.median(OURS)
        if one and us:
            gains[row.case.name] = one / us
    if not gains:
        return []
    each = ", ".join(f"{name} {gain:.2f}" for name, gain in gains.items())
    slower = sum(gain < LOST for gain in gains.values())
    return [f"Several threads over one, {slower} of {len(gains)} below {LOST}: {each}"]


def _step_lines(results: Results) -> list[str]:
    """Single steps from Python: what the call adds to the limit, and its tail."""
    steps = [row for row in results.cases if row.case.mode != "call" and row.limit_us]
    return [
        f"{row.case.name}: {us['median']:.2f} us, {us['median'] - (row.limit_us or 0):.2f} over "
        f"the limit; p99 {us['p99'] - us['median']:.2f} over the median"
        for row in steps
        if (us := row.peers[OURS].us)
    ]


def summary(results: Results) -> list[str]:
    """The lines; those that the file has nothing to say about are left out."""
    return [
        *_headline(results),
        *_peer_lines(results),
        *_share_lines(results),
        *_step_lines(results),
        *_thread_lines(results),
        *_cliff_lines(results),
    ]
