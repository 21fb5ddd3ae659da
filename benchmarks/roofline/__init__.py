"""The machine's own limits, measured: see probe.cpp. Judges no cell; `limit.py` does.

`python -m benchmarks probe` prints them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.compiled import CompileError, build

SOURCE = Path(__file__).with_name("probe.cpp")
FLAGS = ("-O2", "-std=c++17", "-pthread")


def probe(counts: Iterable[int] = ()) -> dict[str, Any]:
    """What probe.cpp prints, for the cores that this process may use. CompileError if it cannot.

    `counts`: how many cores to measure at once, each; one and all by default.

    {"cores": n, "seconds": s, "runs": [fewest cores first]}; each run is
    {"threads": n, "peak": {precision: {isa: Gop/s or None}}, "read": {isa: [[bytes, GB/s], ...]}}
    with figures of one core (the mean of all) and bytes of one core's own buffer. A multiply-add
    is two operations.
    """
    program = build(SOURCE, FLAGS)
    try:
        command = [str(program), *(str(count) for count in sorted(set(counts)))]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    except (OSError, subprocess.SubprocessError) as error:
        raise CompileError(f"the roofline probe failed: {error}") from error
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def describe(measured: dict[str, Any]) -> list[str]:
    """For people: a few lines."""
    lines = []
    for run in measured["runs"]:
        peaks = [
            f"{precision} {isa} {rate:.1f}"
            for precision, rates in run["peak"].items()
            for isa, rate in rates.items()
            if rate
        ]
        lines.append(f"{run['threads']} core(s) at once, each: Gop/s {', '.join(peaks)}")
        for isa, points in run["read"].items():
            rates = ", ".join(f"{size >> 10} KiB {rate:.0f}" for size, rate in points)
            lines.append(f"  reads with {isa}, GB/s: {rates}")
    return lines


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks probe",
        description="Measure peak operations and read bandwidth of this machine; a few seconds.",
    )
    parser.add_argument("--json", action="store_true", help="as one line of JSON")
    options = parser.parse_args(argv)
    try:
        measured = probe()
    except CompileError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    print(json.dumps(measured) if options.json else "\n".join(describe(measured)))
    return 0
