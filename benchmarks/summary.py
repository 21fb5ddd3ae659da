"""A results file in a dozen lines: ratios to the peers, cells lost, share of limit, cliffs.

Only float32 peers can make a cell of float32 lost: a peer of less precision answers an easier
question. Our reduced precisions have lines of their own, beside our float32 and the peers of the
same precision. Judges medians of interleaved rounds as they are; says nothing about their noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from benchmarks.limit import level_of
from benchmarks.peers import BEFORE, FROM_CPP, MODULES, OF_FASTGRU, OURS, OWN, REDUCED
from benchmarks.results import CaseResult, Results
from benchmarks.sweeps import CLIFF, RAGGED, ragged_costs, sweeps

LOST = 0.97
"""A cell counts as lost below this ratio: nearer to 1 than this, two runs may disagree."""

WORK_US = 50
"""Shorter calls are mostly the call itself, which the limit does not count."""

WIDE = 128
"""Least H of the means by batch of reduced precisions: below it the gates, which stay in float32,
are over 6% of the operations that the limit counts."""

SHARE_TARGETS = {"avx512": (0.93, 0.90), "avx2": (0.75, None)}
"""By our setting: least share of limit for B >= 8, and for smaller batches where there is one."""

SHOWN = 12
"""Names listed before "and so many more"."""

LABELS = {
    "fastgru": "fastgru",
    "fastgru_bf16": "fastgru bf16",
    "fastgru_int8": "fastgru int8",
    "fastgru_before": "fastgru before",
    "fastgru_bf16_before": "fastgru bf16 before",
    "fastgru_int8_before": "fastgru int8 before",
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
    """Median ratio of each peer that was timed beside our float32, our own others left out."""
    return {
        name: peer.ratio["median"]
        for name, peer in row.peers.items()
        if name not in OF_FASTGRU
        and peer.ratio
        and (not of_our_precision or _same_precision(row, name))
    }


def speed(row: CaseResult, name: str) -> float | None:
    """How many times as fast as our float32 one of our other precisions is."""
    peer = row.peers.get(name)
    return 1 / peer.ratio["median"] if peer and peer.ratio else None


def own_ratios(row: CaseResult, precision: str) -> dict[str, float]:
    """Median ratio of each peer of this reduced precision to ours of the same."""
    return {
        name: peer.own_ratio["median"]
        for name, peer in row.peers.items()
        if name not in OF_FASTGRU and peer.own_ratio and peer.precision == precision
    }


def before_ratio(row: CaseResult, precision: str) -> float | None:
    """How many times as long as ours the build before takes, in this precision."""
    peer = row.peers.get(BEFORE[precision])
    ratio = peer and (peer.ratio if precision == "float32" else peer.own_ratio)
    return ratio["median"] if ratio else None


def best_python(row: CaseResult) -> float | None:
    """Ratio of the fastest peer of our precision that a Python program can call."""
    found = [v for name, v in ratios(row, of_our_precision=True).items() if name not in FROM_CPP]
    return min(found, default=None)


def _listed(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def against(found: Iterable[tuple[float | None, CaseResult]], verdict: str = "") -> str:
    """Geometric mean of the ratios to a peer, the lowest one, and what is lost unless told."""
    known = sorted(((r, row) for r, row in found if r is not None), key=lambda pair: pair[0])
    least, worst = known[0]
    lost = [f"{row.case.name} {r:.2f}" for r, row in known if r < LOST]
    verdict = verdict or (f"lost {len(lost)}: {_listed(lost)}" if lost else "none lost")
    return (
        f"{geometric_mean(r for r, _ in known):.2f}x by geometric mean of {len(known)} cells, "
        f"lowest {least:.2f}x ({worst.case.name}), {verdict}"
    )


def peer_lines(results: Results) -> list[str]:
    """One line a peer, against our float32."""
    lines = []
    for name in peers_shown(results):
        rows = [row for row in results.cases if name in ratios(row)]
        if not rows:
            continue
        same = _same_precision(rows[0], name)
        other = "" if same else f"{rows[0].peers[name].precision}, so never counted as lost"
        text = against([(ratios(row)[name], row) for row in rows], other)
        lines.append(f"{LABELS.get(name, name)}: {text}")
    return lines


def before_lines(results: Results) -> list[str]:
    """The build before in each precision, where `--against` named one, and its single steps."""
    lines = []
    for precision, name in BEFORE.items():
        found = [(before_ratio(row, precision), row) for row in results.cases]
        if any(ratio is not None for ratio, _ in found):
            lines.append(f"The build before, {precision}: {against(found)}")
        for row in results.cases:
            was, now = row.median(name), row.median(OWN[precision])
            if row.case.mode != "call" and not row.case.model and was and now:
                lines.append(
                    f"{row.case.name}, {precision}: {now:.3f} us, {was:.3f} in the build before"
                )
    return lines


def _reduced_lines(results: Results) -> list[str]:
    """Each of our reduced precisions beside our float32, and beside peers of the same one."""
    lines = []
    for precision, own in REDUCED.items():
        speeds = [(row.case, s) for row in results.cases if (s := speed(row, own))]
        parts = []
        for words, chosen in (
            ("", speeds),
            (f" with B = 1, H >= {WIDE}", [p for p in speeds if p[0].B == 1 and p[0].H >= WIDE]),
            (f" with B >= 8, H >= {WIDE}", [p for p in speeds if p[0].B >= 8 and p[0].H >= WIDE]),
        ):
            if chosen:
                mean = geometric_mean(s for _, s in chosen)
                parts.append(f"{mean:.2f}x of {len(chosen)} cells{words}")
        if parts:
            lines.append(f"{precision}, speed over float32, geometric means: {', '.join(parts)}")
        for name in peers_shown(results):
            found = [(own_ratios(row, precision).get(name), row) for row in results.cases]
            if any(ratio is not None for ratio, _ in found):
                lines.append(f"{precision} against {LABELS.get(name, name)}: {against(found)}")
    return lines


def headline(results: Results) -> list[str]:
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
        level = level_of(rows[0].peers[OURS].setting or "")
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


def _share_by_precision(results: Results) -> list[str]:
    """One sequence: of the cells that take WORK_US in each of our precisions, so the same ones."""
    shared = {
        precision: name
        for precision, name in OWN.items()
        if any(row.share_of(name) for row in results.cases)
    }
    rows = [
        row
        for row in results.cases
        if row.case.B == 1
        and row.case.H > 16
        and all(row.share_of(name) for name in shared.values())
        and all((row.median(name) or 0) >= WORK_US for name in shared.values())
    ]
    if not rows or not shared.keys() & REDUCED.keys():
        return []
    parts = []
    for precision, name in shared.items():
        shares = [(s, row.case.name) for row in rows if (s := row.share_of(name))]
        least, worst = min(shares)
        mean = geometric_mean(s for s, _ in shares)
        parts.append(f"{precision} {mean:.2f} (lowest {least:.2f}, {worst})")
    where = f"{len(rows)} cells of {WORK_US} us or more in each precision"
    return [f"Share of limit, B = 1, by geometric mean of {where}: {', '.join(parts)}"]


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
    """Single steps from Python: what the call adds to the limit, its tail, other precisions."""
    steps = [row for row in results.cases if row.case.mode != "call" and row.limit_us]
    return [
        f"{row.case.name}: {us['median']:.2f} us, {us['median'] - (row.limit_us or 0):.2f} over "
        f"the limit; p99 {us['p99'] - us['median']:.2f} over the median"
        + "".join(f"; {p} {t:.2f} us" for p, name in REDUCED.items() if (t := row.median(name)))
        for row in steps
        if (us := row.peers[OURS].us)
    ]


def summary(results: Results) -> list[str]:
    """The lines; those that the file has nothing to say about are left out."""
    return [
        *headline(results),
        *peer_lines(results),
        *before_lines(results),
        *_reduced_lines(results),
        *_share_lines(results),
        *_share_by_precision(results),
        *_step_lines(results),
        *_thread_lines(results),
        *_cliff_lines(results),
    ]
