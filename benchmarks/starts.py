"""`python -m benchmarks starts`: import, loading a file and a first call, each in a fresh process.

What a caller waits for once cannot be measured twice in one process. Builds take turns, a process
each, and what is compared is the median over rounds of the one's time over the other's.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import environment, fresh, measure

PHASES = ("import", "load", "first call", "steady call")
STEADY_CALLS = 30
STEPS = 100


def write_file(path: Path, hidden: int, *, whole: bool) -> None:
    """A GRU or a classifier with it, as a native file: every build reads what this one writes."""
    from benchmarks.cases import Case  # noqa: PLC0415
    from benchmarks.inputs import make_inputs  # noqa: PLC0415
    from benchmarks.peers import fastgru_models  # noqa: PLC0415

    fastgru = importlib.import_module("fastgru")
    case = Case(T=1, B=1, I=hidden, H=hidden)
    if whole:
        case = Case(T=1, B=1, I=hidden, H=hidden, O=10, model="classifier")
        fastgru_models.network(fastgru, case, make_inputs(case)).save(path)
    else:
        fastgru.GRU.from_state_dict(make_inputs(case).state).save(path)


def measure_once(file: Path, threads: int) -> dict[str, float]:
    """Microseconds of every one of PHASES."""
    import numpy as np  # noqa: PLC0415

    clock = time.perf_counter_ns
    times = [clock()]
    fastgru: Any = importlib.import_module("fastgru")
    times.append(clock())
    network = fastgru.load(file, num_threads=threads)
    times.append(clock())
    x = np.zeros((STEPS, 1, network.input_size), np.float32)
    start = clock()
    network(x)
    first = clock() - start
    steady = measure.quantile(measure.time_calls(lambda: network(x), STEADY_CALLS), 0.5)
    found = [*(b - a for a, b in itertools.pairwise(times)), first, steady]
    return {phase: ns * 1e-3 for phase, ns in zip(PHASES, found, strict=True)}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks starts", description=__doc__)
    parser.add_argument("--hidden", type=int, default=256, help="I = H, default %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="default %(default)s")
    parser.add_argument("--rounds", type=int, default=30, help="processes a build, %(default)s")
    parser.add_argument("--against", type=Path, metavar="PYTHON", help="with another build")
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument(fresh.CHILD, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    environment.set_thread_variables(options.threads)
    if options.in_this_process:
        print(json.dumps(measure_once(options.file, options.threads)))
        return 0

    print(f"I = H = {options.hidden}, T = {STEPS}, B = 1, {options.threads} thread(s)\n")
    print("| network | phase | ours us | before us | before / ours |")
    print("| --- | --- | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as directory:
        for name in ("gru", "classifier"):
            file = Path(directory) / f"{name}.safetensors"
            write_file(file, options.hidden, whole=name == "classifier")
            try:
                show(name, rounds(options, file))
            except (OSError, fresh.ChildError) as error:
                print(f"{parser.prog}: {error}", file=sys.stderr)
                return 2
    return 0


def rounds(options: argparse.Namespace, file: Path) -> dict[str, list[dict[str, float]]]:
    """Of every build, a round an entry; the order turns round from one to the next."""
    builds = list(fresh.builds(options.against).items())
    given = [f"--threads={options.threads}", f"--file={file}"]
    found: dict[str, list[dict[str, float]]] = {build: [] for build, _ in builds}
    for _ in range(options.rounds):
        for build, python in builds:
            found[build].append(fresh.measured(python, "starts", given))
        builds.reverse()
    return found


def show(network: str, found: dict[str, list[dict[str, float]]]) -> None:
    ours, before = found["ours"], found.get("before", [])
    for phase in PHASES:
        cells = [f"{measure.quantile([one[phase] for one in ours], 0.5):.1f}", "-", "-"]
        if before:
            ratios = [b[phase] / a[phase] for a, b in zip(ours, before, strict=True)]
            cells[1] = f"{measure.quantile([one[phase] for one in before], 0.5):.1f}"
            cells[2] = f"{measure.quantile(ratios, 0.5):.3f}"
        print(f"| {network} | {phase} | {' | '.join(cells)} |")
