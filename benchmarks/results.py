"""A run's results as JSON lines: the first line describes the run, then one line a case.

README.md documents the fields. Written line by line, so an interrupted run leaves a usable file.
Runs may be appended to one another: the first line's description holds for all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cases import Case
from benchmarks.peers import OURS

SCHEMA = 1


@dataclass
class PeerResult:
    """One peer on one case. With a `problem` (unsupported, wrong, failed) nothing is timed."""

    problem: str | None = None
    version: str | None = None
    setting: str | None = None
    precision: str | None = None
    max_abs_diff: float | None = None
    calls: int = 0
    rounds: int = 0
    us: dict[str, float] = field(default_factory=dict)
    ratio: dict[str, float] = field(default_factory=dict)  # to our float32
    own_ratio: dict[str, float] = field(default_factory=dict)  # to ours in this reduced precision
    parts: dict[str, dict[str, float]] = field(default_factory=dict)
    """Of the runner's parts: `us`, and quartiles of whole over part as in `ratio`."""
    beyond_us: dict[str, float] = field(default_factory=dict)
    """Of a whole model's step: quartiles of what it takes beyond its GRUs and linear layers."""
    overhead_us: dict[str, float] = field(default_factory=dict)
    """The same beyond all layers, of whose own calls from Python only one is counted as theirs."""
    limit_us: float | None = None  # of our reduced precisions; float32's is the row's
    share: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if value not in (None, 0, {})}


@dataclass
class CaseResult:
    case: Case
    peers: dict[str, PeerResult] = field(default_factory=dict)
    limit_us: float | None = None  # limit.py's, for our float32 and instruction set level
    share: float | None = None  # limit_us / our median

    def median(self, peer: str) -> float | None:
        """Microseconds, or None where the peer was not timed."""
        return self.peers[peer].us.get("median") if peer in self.peers else None

    def share_of(self, peer: str) -> float | None:
        """Share of limit of one of our own peers, in its precision."""
        if peer == OURS:
            return self.share
        return self.peers[peer].share if peer in self.peers else None

    def to_json(self) -> dict[str, Any]:
        peers = {name: peer.to_json() for name, peer in self.peers.items()}
        line = {"kind": "case", "case": self.case.to_json(), "peers": peers}
        limits = {"limit_us": self.limit_us, "share": self.share}
        return line | {key: value for key, value in limits.items() if value is not None}


@dataclass
class Results:
    run: dict[str, Any]
    cases: list[CaseResult] = field(default_factory=list)


class ResultsError(ValueError):
    """A results file that cannot be used."""


def read(path: Path) -> Results:
    """Lines of a kind that this version does not know are skipped."""
    results = None
    try:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            data = json.loads(line)
            if number == 1:
                if data.get("kind") != "run" or data.get("schema") != SCHEMA:
                    raise ResultsError(f"{path}: line 1: expected a run of schema {SCHEMA}")
                results = Results(data)
            elif results is not None and data.get("kind") == "case":
                known = PeerResult.__dataclass_fields__
                peers = {
                    name: PeerResult(**{k: v for k, v in peer.items() if k in known})
                    for name, peer in data["peers"].items()
                }
                limits = {key: data.get(key) for key in ("limit_us", "share")}
                results.cases.append(CaseResult(Case.from_json(data["case"]), peers, **limits))
    except OSError as error:
        raise ResultsError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ResultsError):
            raise
        raise ResultsError(f"{path}: line {number}: not a benchmark result ({error})") from error
    if results is None:
        raise ResultsError(f"{path}: empty")
    return results


def read_all(paths: Iterable[Path]) -> Results:
    """Several files as one: the cells of all, the run of the first."""
    first, *others = [read(path) for path in paths]
    return Results(first.run, [row for results in (first, *others) for row in results.cases])


class Writer:
    """Adds lines to a file, a fresh one unless told, each complete on disk before the next case."""

    def __init__(self, path: Path | None, *, append: bool = False) -> None:
        self._file = path.open("a" if append else "w", encoding="utf-8") if path else None

    def write(self, data: dict[str, Any]) -> None:
        if self._file:
            self._file.write(json.dumps(data) + "\n")
            self._file.flush()

    def close(self) -> None:
        if self._file:
            self._file.close()
