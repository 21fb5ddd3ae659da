"""The clock: interleaved timing of several callables in one process. Knows nothing of GRUs.

Note [Interleaving]
    Peers take turns, A B C, B C A, ..., and a turn is a few calls that are not timed and then a
    block of timed ones. Turns are short beside the drifts of a shared machine (clock rate, other
    guests), so a drift hits all peers alike and cancels in the ratio of one round. Switching peer
    at every single call would instead measure cold caches: each peer's weights would have been
    evicted by the others'. The order rotates so that nobody always follows the same neighbour.
"""

from __future__ import annotations

import gc
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Call = Callable[[], object]
"""What is timed. A `Remote` one is called and timed where it is, in another process."""

TURN_NS = 4_000_000
"""Timed part of a turn: long beside waking up (tens of us), short beside drifts (seconds)."""

REWARM_NS = 400_000
"""Calls not timed at the start of a turn: fetching the 6 MB of weights of H = 512 back from memory
takes about 0.25 ms. Calls longer than COLD_NS skip it: it would be a few percent of one call, and a
whole call more per turn would halve the number of samples."""

COLD_NS = 20_000_000

WARM_UP_NS = 10_000_000
"""Before anything is timed: page faults, lazy allocation, the clock rate."""

SETTLE_S = 0.02
"""Sleep before a turn of a case with several threads: GNU OpenMP spins for about 8 ms after every
parallel region by default, on a core that the next peer needs. (ONNX Runtime's threads spin for
about 60 ms. After 100 ms of sleep, though, threads of every library shared one core for 15 ms and
more on a Zen 1 guest, and that is another measurement.)"""

AWAKE_NS = 10_000_000
"""Replaces REWARM_NS after such a sleep: the first regions after idleness can take up to 8 ms."""

MAX_CALLS_PER_TURN = 2000


@dataclass
class Samples:
    """Nanoseconds of every timed call, and the median of each turn."""

    calls: list[int] = field(default_factory=list)
    turns: list[float] = field(default_factory=list)


class Remote(ABC):
    """Calls of another process, timed there: no message's way to it and back is in the times."""

    @abstractmethod
    def run_for(self, ns: int) -> None:
        """As the function of this name."""

    @abstractmethod
    def time_calls(self, n: int) -> list[int]:
        """As the function of this name."""

    def __call__(self) -> None:
        self.time_calls(1)


def quantile(values: list[Any], q: float) -> float:
    """Linear interpolation between order statistics, NumPy's default."""
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return float(ordered[low] + (ordered[high] - ordered[low]) * (place - low))


def summary(values: list[Any], scale: float = 1.0) -> dict[str, float]:
    """median, p25, p75 and p99 of the values times `scale`, to five significant digits."""
    points = {"median": 0.5, "p25": 0.25, "p75": 0.75, "p99": 0.99}
    return {name: rounded(quantile(values, q) * scale) for name, q in points.items()}


def rounded(value: float) -> float:
    return float(f"{value:.5g}")


def time_calls(run: Call, n: int) -> list[int]:
    """Nanoseconds of each of n calls."""
    if isinstance(run, Remote):
        return run.time_calls(n)
    clock = time.perf_counter_ns
    samples = []
    for _ in range(n):
        start = clock()
        run()
        samples.append(clock() - start)
    return samples


def run_for(run: Call, ns: int) -> None:
    """Call at least once and until `ns` have passed."""
    if isinstance(run, Remote):
        run.run_for(ns)
        return
    end = time.perf_counter_ns() + ns
    run()
    while time.perf_counter_ns() < end:
        run()


def clock_overhead_us() -> float:
    """What timing adds to every sample; not subtracted, which hides a little of a fast lead."""
    return rounded(quantile(time_calls(lambda: None, 20_000), 0.5) * 1e-3)


def measure(
    runs: Mapping[str, Call], *, threads: int, budget_s: float, min_rounds: int
) -> dict[str, Samples]:
    """Rounds of turns (Note [Interleaving]) until `budget_s` is used, but at least `min_rounds`.

    The garbage collector is off while calls are timed.
    """
    estimate = {}  # ns of a call, from the latest turn
    for name, run in runs.items():
        run_for(run, WARM_UP_NS)
        estimate[name] = max(1.0, quantile(time_calls(run, 3), 0.5))

    samples = {name: Samples() for name in runs}
    names = list(runs)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        end = time.perf_counter() + budget_s
        rounds = 0
        while rounds < min_rounds or time.perf_counter() < end:
            for name in names:
                run, ns = runs[name], estimate[name]
                if threads > 1:
                    time.sleep(SETTLE_S)
                    run_for(run, AWAKE_NS)
                elif ns < COLD_NS:
                    run_for(run, REWARM_NS)
                calls = min(MAX_CALLS_PER_TURN, max(1, round(TURN_NS / ns)))
                turn = time_calls(run, calls)
                samples[name].calls += turn
                estimate[name] = max(1.0, quantile(turn, 0.5))
                samples[name].turns.append(estimate[name])
            names.append(names.pop(0))
            rounds += 1
    finally:
        if collecting:
            gc.enable()
    return samples


def quartiles(values: list[float]) -> dict[str, float]:
    points = {"median": 0.5, "p25": 0.25, "p75": 0.75}
    return {name: rounded(quantile(values, q)) for name, q in points.items()}


def ratios(peer: Samples, baseline: Samples) -> dict[str, float]:
    """How many times as long as the baseline the peer takes.

    The median over rounds of the ratio of the two turns' medians, with its quartiles.
    """
    return quartiles([a / b for a, b in zip(peer.turns, baseline.turns, strict=True)])


def beyond_us(whole: Samples, parts: list[tuple[float, Samples]]) -> dict[str, float]:
    """Microseconds that the whole takes beyond its parts, so many times each, round by round."""
    rounds = zip(whole.turns, *(part.turns for _, part in parts), strict=True)
    counts = [count for count, _ in parts]
    differences = [
        (turn - sum(n * ns for n, ns in zip(counts, others, strict=True))) * 1e-3
        for turn, *others in rounds
    ]
    return quartiles(differences)
