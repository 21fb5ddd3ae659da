"""`python -m benchmarks errors`: what reduced precision costs in accuracy, beside its peers.

Twenty random networks of PyTorch's initialisation, each peer's outputs and final states against
the float64 answer, on the same weights and data. Times nothing.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks import environment
from benchmarks.cases import Case
from benchmarks.peers import REDUCED, Peer

if TYPE_CHECKING:  # imports numpy, which must not load before the thread variables are set
    from benchmarks.inputs import Answer

NETWORKS = 20
AGAINST = {"fastgru_bf16": "openvino_bf16", "fastgru_int8": "torch_int8"}


def networks(count: int, seed: int) -> list[Case]:
    """Different shapes: one and two layers and directions, narrow and wide inputs."""
    shapes = itertools.product([10, 64, 128, 256], [64, 128, 256], [1, 2], [1, 2])
    chosen = random.Random(seed).sample(list(shapes), count)
    return [Case(T=100, B=8, I=i, H=h, L=layers, D=d) for i, h, layers, d in chosen]


def errors(answer: Answer, right: Answer) -> tuple[float, float]:
    """The largest and the mean absolute difference, of outputs and final states together."""
    differences = [abs(a.astype(float) - r) for a, r in zip(answer, right, strict=True)]
    largest = max(float(d.max()) for d in differences)
    return largest, float(sum(d.sum() for d in differences)) / sum(d.size for d in differences)


def measured(case: Case, peers: dict[str, Peer]) -> dict[str, tuple[float, float]]:
    """errors() of each peer that can run the case."""
    from benchmarks.inputs import make_inputs, right_answer  # noqa: PLC0415

    inputs = make_inputs(case)
    right = right_answer(case, inputs)
    return {
        name: errors(peer.build(case, inputs)[0].answer(), right)
        for name, peer in peers.items()
        if not peer.unsupported(case)
    }


def report(rows: Sequence[tuple[Case, dict[str, tuple[float, float]]]]) -> None:
    """A line a network and a line a peer: largest and mean errors, and ours over theirs."""
    for case, found in rows:
        cells = "  ".join(
            f"{name} {most:.1e} {mean:.1e}" for name, (most, mean) in sorted(found.items())
        )
        print(f"{case.name:24} {cells}")
    for ours, theirs in AGAINST.items():
        pairs = [
            (found[ours], found[theirs]) for _, found in rows if ours in found and theirs in found
        ]
        for kind, place in (("largest", 0), ("mean", 1)):
            if pairs:
                shares = [mine[place] / other[place] for mine, other in pairs]
                print(
                    f"{ours}, {kind} error over {theirs}'s: {statistics.fmean(shares):.2f} on "
                    f"average, {max(shares):.2f} at worst, {len(pairs)} networks"
                )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks errors", description=__doc__)
    parser.add_argument("--networks", type=int, default=NETWORKS, help="how many, %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="which, %(default)s")
    options = parser.parse_args(argv)
    environment.set_thread_variables(1)
    # Imports numpy, which reads the variables just set.
    from benchmarks.harness import load_peers  # noqa: PLC0415

    peers = load_peers([*REDUCED.values(), *AGAINST.values()])
    cases = networks(options.networks, options.seed)
    report([(case, measured(case, peers)) for case in cases])
    return 0
