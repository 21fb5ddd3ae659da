"""`python -m benchmarks full`: everything that claims are made from, into one results file.

Each part is a run of its own in a fresh process: cells of one thread held to one core, since a
process that moves between cores is a noisier one, then those of two threads on all cores, then
sweeps with our own peer alone. Measures nothing itself.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from benchmarks import environment, plots, report

RESULTS = "results.jsonl"


class Part(NamedTuple):
    threads: int
    options: list[str]


def parts(budget: float, more: list[str]) -> list[Part]:
    """In this order into one file; `more`: options of the first two."""
    full = ["--sets", "full,networks,step,ragged", "--budget", str(budget), *more]
    cliffs = ["--sets", "cliffs", "--budget", str(budget / 10), "--peers", "fastgru", "--append"]
    cliffs += ["--avx2"] if "--avx2" in more else []
    return [
        Part(1, [*full, "--only-threads", "1"]),
        Part(2, [*full, "--only-threads", "2", "--append"]),
        Part(1, cliffs),
    ]


def run_part(part: Part, results: Path) -> int:
    """Exit status of `python -m benchmarks run`."""
    command = [sys.executable, "-m", "benchmarks", "run", *part.options, "--json", str(results)]
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if part.threads == 1 and cores:  # the last one: interrupts tend to go to the first
        os.sched_setaffinity(0, {max(cores)})
    try:
        # Its table is not wanted: there is one of all parts at the end.
        done = subprocess.run(
            command, cwd=environment.CHECKOUT, stdout=subprocess.DEVNULL, check=False
        )
    finally:
        if cores:
            os.sched_setaffinity(0, cores)
    return done.returncode


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks full",
        description="Run the sets full, networks, step and ragged with all peers and cliffs with "
        "ours, then report and plot. Meant to take half an hour.",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--budget", type=float, default=3.0, help="seconds a cell, %(default)s")
    parser.epilog = "Other options, such as --peers, --avx2 and --rtneural, go to the runs."
    options, more = parser.parse_known_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    results = (options.output / RESULTS).resolve()
    worst = 0
    for part in parts(options.budget, more):
        if part.threads > environment.usable_cores():
            print("cells of two threads are left out: this process has one core", file=sys.stderr)
            continue
        status = run_part(part, results)
        if status not in (0, 1):  # 1: a peer failed, which the results say
            return status
        worst = max(worst, status)
    report.main([str(results)])
    plots.main([str(results), "-o", str(options.output)])
    return worst
