"""The least time a case can take on a machine, from the figures of its roofline probe.

    t = input + recurrent + gates            summed over layers and directions
    input     = max( 6*I*H*rows / peak ,  bytes(3*H*I) / bandwidth )
    recurrent = sum over steps of max( 6*H*H*(rows of the step) / peak ,  bytes(3*H*H) / bandwidth )
    gates     = 100*H*rows / float32 peak

where rows = T*B, less what a ragged batch leaves out. `peak` and `bandwidth` are a core's times the
number of threads. The peak of bfloat16 is the better of its dot instruction's and float32's, since
weights may as well be widened (a shift) and go through FMAs: on Emerald Rapids the dot gives 85
Gop/s, FMAs 175. Bandwidth is that of the cache level which holds what is cycled through, a
thread's share of it: the recurrent matrix of one layer and direction, since every step reads it
again; for the input matrix, and for both where there is one step only, the whole model, since
nothing is read twice in a call.

Refuses to know what a program does: "hardly any is faster" is all that the figure says. Share of
limit = limit / measured time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from benchmarks.cases import Case
from fastgru import _core

WEIGHT_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}

GATE_OPERATIONS = 100
"""Per unit and row: two sigmoids and a tanh at full precision, 50 instructions a vector."""


@dataclass(frozen=True)
class Machine:
    """One row of a probe, for one instruction set: figures of one core in 1e9 a second."""

    peak: dict[str, float]  # by precision, those the CPU has instructions for
    read: tuple[tuple[float, float], ...]  # (bytes, rate), sizes rising, rates never rising

    def bandwidth(self, size: float) -> float:
        """Between two measured sizes: linear over the logarithm of the size.

        >>> machine = Machine({"float32": 100.0}, ((1024, 200.0), (4096, 100.0)))
        >>> [machine.bandwidth(size) for size in (1, 1024, 2048, 4096, 10**9)]
        [200.0, 200.0, 150.0, 100.0, 100.0]
        """
        below = self.read[0]
        for point in self.read:
            if size < point[0]:
                if below[0] >= point[0]:
                    return point[1]
                place = math.log(size / below[0]) / math.log(point[0] / below[0])
                return below[1] + place * (point[1] - below[1])
            below = point
        return below[1]


def level_of(isa: str) -> str:
    """The instruction set level of a level's or a product's name, as fastgru lists them.

    >>> level_of("portable")
    'portable'
    """
    return next((p["level"] for p in _core.products() if p["name"] == isa), isa)


def machine(probe: dict[str, Any], isa: str, threads: int) -> Machine | None:
    """The probe's figures for an instruction set level; None if it measured no such level.

    The figures are those of as many cores at once as there are threads, or of the next number
    measured above it.
    """
    level = level_of(isa)
    runs = probe["runs"]
    run = next((run for run in runs if run["threads"] >= threads), runs[-1])
    rates = {name: by_isa.get(level) for name, by_isa in run["peak"].items()}
    points = run["read"].get(level)
    if not points or not rates.get("float32"):
        return None
    # A smaller set can be read at least as fast as a larger one: a dip in the figures is noise.
    read, best = [], 0.0
    for size, rate in reversed(points):
        best = max(best, rate)
        read.append((size, best))
    return Machine({name: rate for name, rate in rates.items() if rate}, tuple(reversed(read)))


def limit_us(case: Case, machine: Machine, precision: str = "float32") -> float | None:
    """The formula above in microseconds; None for int8 where this machine has no dot for it.

    A layer of H = 256 on a machine of 100 GFLOP/s and 100 GB/s, one step: both matrices come from
    memory (15.7 us) and the gates cost 0.256 us. In a batch of 128 the products decide.

    >>> flat = Machine({"float32": 100.0}, ((1024, 100.0),))
    >>> round(limit_us(Case(T=1, B=1, I=256, H=256), flat), 2)
    15.98
    >>> round(limit_us(Case(T=10, B=128, I=256, H=256), flat), 0)
    10394.0
    >>> round(limit_us(Case(T=10, B=128, I=256, H=256, L=2, D=2), flat), 0)
    51642.0
    """
    n, best = case.threads, machine.peak.get(precision, 0.0)
    if precision == "bfloat16":
        best = max(best, machine.peak["float32"])
    if not best:
        return None
    peak, float_peak = best * n, machine.peak["float32"] * n
    width, H, active = WEIGHT_BYTES[precision], case.H, case.rows_by_step()
    rows = sum(active)
    inputs = [case.I if k == 0 else case.D * H for k in range(case.L)]

    def seconds(size: float, cycled: float) -> float:
        """To read `size` bytes out of a set of `cycled` bytes; both in units of 1e-9 s."""
        return size / (machine.bandwidth(cycled / n) * n)

    model = sum(case.D * width * 3 * H * (columns + H) for columns in inputs)
    state = width * 3 * H * H
    again = seconds(state, model if case.T == 1 else state)
    total = 0.0
    for columns in inputs:
        layer = max(6 * columns * H * rows / peak, seconds(width * 3 * H * columns, model))
        layer += sum(max(6 * H * H * b / peak, again) for b in active if b)
        layer += GATE_OPERATIONS * H * rows / float_peak
        total += case.D * layer
    return total * 1e-3
