"""What is measured: every case is defined here, once. Imports nothing heavy and measures nothing.

A new case is a line in one of the sets below; peers and reports need no change for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

Mode = Literal["call", "step", "step_out"]
"""call: the whole sequence, no initial state, output and final state back. step: one time step of a
live sequence whose state is carried from call to call. step_out: the same into a caller's array."""


@dataclass(frozen=True)
class Case:
    """One shape. T time, B batch, I input, H hidden, L layers, D directions."""

    T: int
    B: int
    I: int  # noqa: E741 - the project's letter for the input size
    H: int
    L: int = 1
    D: int = 1
    reset_after: bool = True
    threads: int = 1
    mode: Mode = "call"
    name: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if self.mode != "call" and (self.T != 1 or self.D != 1):
            raise ValueError(f"a step has T = 1 and D = 1, got T = {self.T}, D = {self.D}")
        if not self.name:
            object.__setattr__(self, "name", self._default_name())

    def _default_name(self) -> str:
        """What differs from a plain one-layer I = H case: readable, unique, and kept stable."""
        name = f"T{self.T}-B{self.B}-H{self.H}" if self.mode == "call" else f"B{self.B}-H{self.H}"
        name += f"-I{self.I}" if self.I != self.H else ""
        name += f"-L{self.L}" if self.L != 1 else ""
        name += f"-D{self.D}" if self.D != 1 else ""
        name += "" if self.reset_after else "-before"
        name += f"-t{self.threads}" if self.threads != 1 else ""
        return name if self.mode == "call" else f"{self.mode}-{name}"

    def with_threads(self, threads: int) -> Case:
        return replace(self, threads=threads, name="")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Case:
        """Fields that this version does not know are ignored, so newer files stay comparable."""
        known = {f.name for f in fields(cls)}
        return cls(**{key: value for key, value in data.items() if key in known})


def square(T: int, B: int, H: int, **options: Any) -> Case:
    """A case with I = H."""
    return Case(T=T, B=B, I=H, H=H, **options)


SETS: dict[str, tuple[Case, ...]] = {
    # The grid of the README: latency of one call, short and long, alone and in batches.
    "grid": tuple(
        square(T, B, H) for T in (1, 100) for B in (1, 8, 32) for H in (64, 128, 256, 512)
    ),
    # One step of a live sequence called from Python: mostly the cost of the call itself.
    "step": (square(1, 1, 64, mode="step"), square(1, 1, 64, mode="step_out")),
    # The other network kinds, to see that none of them is forgotten.
    "kinds": (
        square(100, 1, 128, reset_after=False),
        square(100, 8, 128, L=2),
        square(100, 8, 128, D=2),
        square(100, 1, 128, L=2, D=2, reset_after=False),
        Case(T=100, B=1, I=40, H=128),
        square(1, 1, 128, L=2, mode="step"),
        square(1, 8, 128, reset_after=False, mode="step"),
    ),
    # A few seconds: does the benchmark itself work?
    "smoke": (
        square(1, 1, 64),
        square(10, 8, 64, L=2, D=2),
        square(10, 1, 64, reset_after=False),
        square(1, 1, 64, mode="step_out"),
    ),
}
DEFAULT_SETS = ("grid", "step")


def select(
    sets: Iterable[str] = DEFAULT_SETS,
    patterns: Iterable[str] = (),
    threads: Iterable[int] = (),
) -> list[Case]:
    """Cases of the named sets, each once and in the order listed.

    `patterns` (shell globs over names) keep the cases that match one of them; `threads` then makes
    each of those run at every one of these counts instead of its own.
    """
    cases = [case for name in sets for case in SETS[name]]
    patterns = list(patterns)
    if patterns:
        cases = [case for case in cases if any(fnmatchcase(case.name, p) for p in patterns)]
    counts = list(threads)
    if counts:
        cases = [case.with_threads(count) for count in counts for case in cases]
    return list(dict.fromkeys(cases))
