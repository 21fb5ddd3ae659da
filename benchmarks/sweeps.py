"""Cliffs: what each size of a sweep costs beside what its neighbours say that it should.

H is judged against the next multiple of 16 up: a network padded to it would cost no more. B, T and
I are judged by cost per unit of work (row, step, I + H), against the cheapest unit of any smaller
size in the same sweep: the proportional cost. Refuses sweeps of fewer than MIN_POINTS sizes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from benchmarks.cases import Case
from benchmarks.peers import OURS
from benchmarks.results import CaseResult

CLIFF = 1.15
MIN_POINTS = 5
PANEL = 16

RAGGED = 0.55
"""What a batch that is half padding may cost of the full one."""


@dataclass(frozen=True)
class Point:
    size: int
    us: float
    per_unit: float  # microseconds a unit of work
    relative: float  # over what it should cost; nan where nothing says


@dataclass(frozen=True)
class Sweep:
    letter: str
    fixed: str  # the other letters, in words
    points: tuple[Point, ...]

    def cliffs(self) -> list[Point]:
        return [point for point in self.points if point.relative > CLIFF]


def _by_panel(costs: dict[int, float]) -> dict[int, float]:
    """Each size's cost over that of the next multiple of 16, where that was measured."""
    ends = {size: -(-size // PANEL) * PANEL for size in costs}
    return {size: costs[size] / costs[end] for size, end in ends.items() if end in costs}


def _by_unit(costs: dict[int, float], offset: int) -> dict[int, float]:
    """Each size's cost a unit (size + offset of them) over the least so far."""
    least, found = float("inf"), {}
    for size in sorted(costs):
        cost = costs[size] / (size + offset)
        found[size] = cost / min(least, cost)
        least = min(least, cost)
    return found


def _fixed(case: Case, letter: str) -> str:
    words = [f"{name} = {getattr(case, name)}" for name in "TBH" if name != letter]
    words += [word for word in case.words() if letter != "I" or not word.startswith("I =")]
    return ", ".join(words)


def sweeps(rows: Iterable[CaseResult], peer: str = OURS) -> list[Sweep]:
    """Every sweep of H, B, I or T that these cells contain, of whole calls."""
    groups: dict[tuple[str, Case], dict[int, float]] = defaultdict(dict)
    for row in rows:
        case, us = row.case, row.median(peer)
        if us is None or case.mode != "call" or case.model:
            continue
        plain = replace(case, name="")
        groups["B", replace(plain, B=1)][case.B] = us
        groups["I", replace(plain, I=1)][case.I] = us
        groups["T", replace(plain, T=1)][case.T] = us
        if case.I == case.H:
            groups["H", replace(plain, I=1, H=1)][case.H] = us

    found = []
    for (letter, key), costs in groups.items():
        if len(costs) < MIN_POINTS:
            continue
        offset = key.H if letter == "I" else 0
        relative = _by_panel(costs) if letter == "H" else _by_unit(costs, offset)
        points = tuple(
            Point(
                size,
                costs[size],
                costs[size] / (size + offset),
                relative.get(size, float("nan")),
            )
            for size in sorted(costs)
        )
        found.append(Sweep(letter, _fixed(key, letter), points))
    return sorted(found, key=lambda sweep: ("HBIT".index(sweep.letter), sweep.fixed))


def ragged_costs(rows: Iterable[CaseResult], peer: str = OURS) -> dict[str, float]:
    """Of each ragged cell: its cost over that of the full batch, where both were measured."""
    rows = list(rows)
    full = {row.case: row.median(peer) for row in rows if not row.case.ragged}
    found = {}
    for row in rows:
        us = row.median(peer)
        whole = full.get(replace(row.case, ragged=False, name="")) if row.case.ragged else None
        if us and whole:
            found[row.case.name] = us / whole
    return found
