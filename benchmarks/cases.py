"""What is measured: every case is defined here, once. Imports nothing heavy and measures nothing.

A new case is a line in one of the sets below; peers and reports need no change for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from benchmarks import shapes
from benchmarks.models import MODELS

Mode = Literal["call", "step", "step_out", "pool"]
"""call: the whole sequence, no initial state, output and final state back. step: one time step of a
live sequence whose state is carried from call to call. step_out: the same into a caller's array.
pool: one step of B sessions out of the 4 * B of a pool."""


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
    ragged: bool = False
    """Rows of different lengths, T/2 on average, given to the call as `lengths`."""
    model: str = ""
    """A name of models.MODELS: a whole model, of which L and D are its GRUs'; "" is a bare GRU."""
    O: int = 0  # noqa: E741 - the project's letter for the outputs of a model
    name: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if self.mode != "call" and (self.T != 1 or self.D != 1):
            raise ValueError(f"a step has T = 1 and D = 1, got T = {self.T}, D = {self.D}")
        if self.ragged and self.mode != "call":
            raise ValueError("a step has no lengths")
        if bool(self.model) != bool(self.O) or (self.model and self.model not in MODELS):
            raise ValueError(f"expected a model of {', '.join(MODELS)} with O, or neither")
        if self.model and (self.ragged or self.mode == "step_out"):
            raise ValueError("no lengths and no step_out of whole models in this benchmark")
        if self.mode == "pool" and not self.model:
            raise ValueError("pools of bare GRUs are measured by `python -m benchmarks sessions`")
        if not self.name:
            object.__setattr__(self, "name", self._default_name())

    def _default_name(self) -> str:
        """What differs from a plain one-layer I = H case: readable, unique, and kept stable."""
        name = f"T{self.T}-B{self.B}-H{self.H}" if self.mode == "call" else f"B{self.B}-H{self.H}"
        name += f"-I{self.I}" if self.I != self.H else ""
        name += f"-O{self.O}" if self.O else ""
        name += f"-L{self.L}" if self.L != 1 else ""
        name += f"-D{self.D}" if self.D != 1 else ""
        name += "" if self.reset_after else "-before"
        name += "-ragged" if self.ragged else ""
        name += f"-t{self.threads}" if self.threads != 1 else ""
        name = f"{self.model}-{name}" if self.model else name
        return name if self.mode == "call" else f"{self.mode}-{name}"

    def words(self) -> list[str]:
        """What differs from a plain one-layer I = H case, but for T, B and H."""
        words = [self.model, f"O = {self.O}"] if self.model else []
        words += [f"I = {self.I}"] if self.I != self.H else []
        words += [f"{self.L} layers"] if self.L != 1 else []
        words += [f"{self.D} directions"] if self.D != 1 else []
        words += [] if self.reset_after else ["reset before"]
        words += ["ragged"] if self.ragged else []
        words += [f"{self.threads} threads"] if self.threads != 1 else []
        return words

    def with_threads(self, threads: int) -> Case:
        if self.name == self._default_name():
            return replace(self, threads=threads, name="")
        return replace(self, threads=threads, name=f"{self.name}-t{threads}")

    def lengths(self) -> list[int]:
        """[B], of every row: T, or if ragged evenly spread over 1..T-1 and shuffled, mean T/2."""
        if not self.ragged:
            return [self.T] * self.B
        spread = [max(1, round(self.T * (row + 0.5) / self.B)) for row in range(self.B)]
        # 7 times the place is a permutation unless 7 divides B; neighbours get unlike lengths.
        step = 7 if self.B % 7 else 5
        return [spread[row * step % self.B] for row in range(self.B)]

    def rows_by_step(self) -> list[int]:
        """[T], the rows that are still running at each step."""
        lengths = self.lengths()
        return [sum(t < length for length in lengths) for t in range(self.T)]

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


def shape(name: str, **changes: Any) -> Case:
    """An entry of shapes.json; `changes` replace fields of the case, such as T."""
    return Case(**shapes.fields(name) | changes)


SIZES = (8, 16, 32, 64, 96, 128, 200, 256, 400, 512, 1024)

LARGEST = 2.6e9
"""Operations of a call in the set full: about 0.2 s in PyTorch on a slow core (12 GFLOP/s)."""


def _grid(H: int) -> list[Case]:
    """One layer, one direction, I = H: the (T, B) that make sense at this size."""
    sizes = [(1, 1), (1, 16), (1, 128), (10, 4), (100, 1), (100, 8), (100, 32), (500, 1)]
    if H in (32, 64, 128, 200, 256, 512, 1024):
        sizes += [(100, 2)]
    if H in (64, 128, 256):  # where most networks are: every B
        sizes += [(10, 1), (100, 4), (100, 16), (100, 128), (500, 8)]
    return [square(T, B, H) for T, B in sizes if 12 * T * B * H * H <= LARGEST]


def _threads() -> list[Case]:
    """With two threads: short and long, alone and in batches, where two cores may help."""
    sizes = {64: (1, 32), 128: (1, 8), 256: (1, 2, 8, 32), 512: (1, 8), 1024: (1,)}
    return [square(100, B, H, threads=2) for H, batches in sizes.items() for B in batches] + [
        square(1, 1, 256, threads=2),
        square(1, 128, 256, threads=2),
        square(100, 8, 128, L=2, D=2, threads=2),
        square(100, 1, 256, D=2, threads=2),
        square(100, 1, 256, reset_after=False, threads=2),
    ]


FULL = (
    *(case for H in SIZES for case in _grid(H)),
    *(Case(T=100, B=B, I=columns, H=128) for B in (1, 32) for columns in (1, 10, 40, 257)),
    *(square(100, B, H, L=2) for B in (1, 8) for H in (64, 256)),
    *(square(100, B, H, D=2) for B in (1, 8) for H in (64, 256)),
    square(100, 1, 128, L=2, D=2),
    square(100, 16, 128, L=2, D=2),
    *(square(100, B, H, reset_after=False) for B in (1, 8) for H in (32, 256)),
    square(1, 1, 128, reset_after=False),
    *_threads(),
    shape("rnnoise_v01.denoise.step"),
    shape("arm_kws.GRU_M"),
    shape("madmom.harmonic", T=500),
    shape("gtcrn.inter.step"),
    shape("name2nat"),
    shape("dfn3.df.step"),
    shape("gru4rec.retailrocket.step"),
    shape("onednn.shapes_small.uniform:unroll_tail.i36h36l4t3mb20"),
)
"""At most 150 cells, chosen so that a run with all peers takes half an hour at most."""

# Reset after throughout, also where the published network is reset before (ARM's, jieba's): so that
# PyTorch, which knows no other, can be timed beside ours. The shape is the network's own.
NETWORKS = (
    square(1, 1, 384, L=3, name="RNNoise 0.2, frame"),
    square(1000, 1, 400, L=2, name="NSNet2, 1000 frames"),
    square(1, 1, 400, L=2, name="NSNet2, frame"),
    Case(T=1000, B=4, I=10, H=128, L=2, D=2, name="medaka consensus"),
    square(520, 8, 64, L=4, name="deepnano-64 basecaller"),
    Case(T=25, B=1, I=10, H=400, name="ARM keyword spotting"),
    square(50, 1, 128, L=2, D=2, name="jieba segmentation"),
    square(1, 1, 256, name="g2p-en decoder, step"),
    square(1, 513, 18, name="NKF echo canceller, frame"),
    Case(T=512, B=1, I=1, H=8, name="guitar pedal, block"),
    Case(T=97, B=64, I=8, H=4, D=2, name="GTCRN intra-frame"),
)

# fmt: off
CLIFF_H = (
    *range(1, 20), 23, 24, 25, *range(28, 37), 40, 44, 47, 48, 49, 52, 56, 60, 63, 64, 65, 72, 80,
    81, 88, 95, 96, 97, 100, 104, 111, 112, 113, 120, 127, 128, 129, 130, 144, 176, 192, 200, 208,
    224, 240, 255, 256, 257, 272, 399, 400, 401, 416,
)
# fmt: on
CLIFFS = (
    *(square(30, B, H) for B in (1, 8) for H in CLIFF_H),
    *(square(30, B, H) for H in (128, 256) for B in (*range(1, 34), 64, 128, 129)),
    *(
        Case(T=30, B=B, I=columns, H=128)
        for B in (1, 8)
        for columns in (1, 3, 16, 40, 64, 128, 256, 257)
    ),
    *(square(T, B, 128) for B in (1, 8) for T in (1, 2, 3, 5, 10, 30, 100)),
)
"""Sweeps of one letter each, for plots of cost; to be run with our own peer alone."""

RAGGED = tuple(
    square(100, B, H, ragged=ragged)
    for B in (16, 32, 64)
    for H in (64, 128)
    for ragged in (False, True)
)

# Where RTNeural is at home: one input, a run of many steps.
SMALL = tuple(Case(T=512, B=1, I=1, H=H) for H in (8, 16, 20, 24, 32, 40, 48, 64))

# Whole models: what a GRU is trained in. Sizes as in published networks: features of a speech
# command or a frame of 257 frequencies, embeddings of characters and of words.
# fmt: off
WHOLE: tuple[dict[str, Any], ...] = (
    {"model": "classifier", "I": 40, "H": 128, "O": 10},
    {"model": "tagger", "I": 128, "H": 128, "O": 50, "L": 2, "D": 2},
    {"model": "characters", "I": 64, "H": 256, "O": 69},
    {"model": "characters", "I": 256, "H": 256, "O": 10_000},
    {"model": "mask", "I": 257, "H": 256, "O": 257},
)
# fmt: on


def whole(T: int, batches: Iterable[int], mode: Mode = "call") -> tuple[Case, ...]:
    """Every model of WHOLE that can run in this mode, with one thread and with two."""
    return tuple(
        Case(T=T, B=B, mode=mode, threads=threads, **sizes)
        for threads in (1, 2)
        for sizes in WHOLE
        if mode == "call" or sizes.get("D", 1) == 1
        for B in batches
    )


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
    # The one that claims are made from, and the published networks.
    "full": FULL,
    "networks": NETWORKS,
    # Costs against each letter, and ragged batches beside their full ones.
    "cliffs": CLIFFS,
    "ragged": RAGGED,
    "small": SMALL,
    # Whole models: sequences, streams with their states in and out, and steps of a pool.
    "models": whole(100, (1, 16, 64)),
    "model_steps": whole(1, (1, 16, 64), "step"),
    "model_pools": whole(1, (64,), "pool"),
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
