"""Compare two results files: is any cell of ours slower now than it was?

Raw ratio: new median / old median. Normalised: the raw ratio divided by what happened to the peers
of that cell meanwhile, the geometric mean of their own new / old, over the peers timed in both runs
at the same version. They ran interleaved with ours and their code did not change, so this takes
out a machine that was slower as a whole. Normalised is judged where there is such a peer; our own
other precisions are none, since they change with ours.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):  # run as a file
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.peers import OF_FASTGRU, OURS
from benchmarks.report import microseconds
from benchmarks.results import CaseResult, Results, ResultsError, read
from benchmarks.summary import geometric_mean

NOISE = 0.10
"""Medians of interleaved runs on a shared two-core guest wander by a few percent."""


@dataclass(frozen=True)
class Change:
    name: str
    old_us: float
    new_us: float
    machine: float | None  # the peers' new / old, None without a peer to tell

    @property
    def raw(self) -> float:
        return self.new_us / self.old_us

    def judged(self, raw: bool) -> float:
        return self.raw if raw or self.machine is None else self.raw / self.machine


def changes(old: Results, new: Results, subject: str) -> list[Change]:
    """Cells timed in both files, the worst first."""
    # Of a shape timed twice in one file, the first: the sets with peers come before the sweeps.
    before = {row.case: row for row in reversed(old.cases)}
    after = {row.case: row for row in reversed(new.cases)}

    def change(was: CaseResult, now: CaseResult) -> Change | None:
        old_us, new_us = was.median(subject), now.median(subject)
        if not old_us or not new_us:
            return None
        speeds = []
        for name in was.peers.keys() & now.peers.keys() - {subject, *OF_FASTGRU}:
            a, b = was.median(name), now.median(name)
            if a and b and was.peers[name].version == now.peers[name].version:
                speeds.append(b / a)
        machine = geometric_mean(speeds) if speeds else None
        return Change(now.case.name, old_us, new_us, machine)

    found = [change(before[case], row) for case, row in after.items() if case in before]
    return sorted((c for c in found if c), key=lambda c: -c.judged(raw=False))


def warnings(old: Results, new: Results, subject: str) -> list[str]:
    lines = []
    for what in ("cpu", "usable_cores"):
        was, now = old.run["machine"].get(what), new.run["machine"].get(what)
        if was != now:
            lines.append(f"different machines: {what} was {was}, is {now}")
    if old.run["environment"] != new.run["environment"]:
        was, now = old.run["environment"], new.run["environment"]
        lines.append(f"different environments: was {was}, is {now}")
    timed = {row.case.name for row in new.cases if row.median(subject)}
    missing = [r.case.name for r in old.cases if r.median(subject) and r.case.name not in timed]
    if missing:
        lines.append(f"no longer timed: {', '.join(missing)}")
    return lines


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks compare",
        description="Exit status 1 if a cell is slower than before beyond the noise bound, "
        "2 if the files cannot be compared.",
    )
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--noise", type=float, default=NOISE, help="bound, default %(default)s")
    parser.add_argument("--raw", action="store_true", help="judge medians as they are")
    parser.add_argument("--peer", default=OURS, help="whose medians, default %(default)s")
    options = parser.parse_args(argv)
    try:
        old, new = read(options.old), read(options.new)
    except ResultsError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    for line in warnings(old, new, options.peer):
        print(f"warning: {line}", file=sys.stderr)
    found = changes(old, new, options.peer)
    if not found:
        print(f"{parser.prog}: no case has {options.peer} timed in both files", file=sys.stderr)
        return 2

    found.sort(key=lambda c: -c.judged(options.raw))
    width = max(len(c.name) for c in found)
    print(f"{'case':<{width}} {'old us':>9} {'new us':>9} {'raw':>6} {'peers':>6} {'judged':>6}")
    slower = 0
    for c in found:
        judged = c.judged(options.raw)
        verdict = "slower" if judged > 1 + options.noise else ""
        verdict = "faster" if judged < 1 / (1 + options.noise) else verdict
        slower += verdict == "slower"
        machine = f"{c.machine:6.2f}" if c.machine else "     -"
        print(
            f"{c.name:<{width}} {microseconds(c.old_us):>9} {microseconds(c.new_us):>9} "
            f"{c.raw:6.2f} {machine} {judged:6.2f} {verdict}".rstrip()
        )
    mean = geometric_mean(c.judged(options.raw) for c in found)
    print(
        f"{len(found)} cells, geometric mean {mean:.3f}, "
        f"slower by more than {options.noise:.0%}: {slower}"
    )
    return 1 if slower else 0


if __name__ == "__main__":
    raise SystemExit(main())
