"""`python -m benchmarks memory`: what a call of Last(GRU) allocates.

Only the last step of each row comes back, so no array of all states (T, B, H) has to be made. A
bare GRU, whose answer is that array, is measured as well: where it shows none, the method is blind.
Each figure is of a fresh process. Linux only.
"""

from __future__ import annotations

import argparse
import json
import sys
import tracemalloc
from pathlib import Path

from benchmarks import environment, fresh

NETWORKS = ("gru+last", "gru")


def resident() -> tuple[int, int]:
    """Bytes of this process in memory, now and at most so far."""
    lines = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if line
    )
    now, most = (int(lines[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return now, most


def measure_once(options: argparse.Namespace) -> dict[str, int]:
    """Bytes: `peak` and `kept` of a first call above what was there, `numpy` of a second one."""
    import numpy as np  # noqa: PLC0415

    import fastgru  # noqa: PLC0415
    from benchmarks.cases import Case  # noqa: PLC0415
    from benchmarks.inputs import make_inputs  # noqa: PLC0415

    case = Case(T=1, B=1, I=options.input, H=options.hidden)
    gru = fastgru.GRU.from_state_dict(make_inputs(case).state, num_threads=options.threads)
    run = gru if options.network == "gru" else fastgru.Model([gru, fastgru.Last()])
    # Last of all, and far larger than what was freed before: so the most so far is what is now.
    x = np.ones((options.steps, options.batch, options.input), np.float32)
    before, _ = resident()
    answer = run(x)
    kept, most = resident()
    del answer
    tracemalloc.start()  # NumPy tells it of every array, those made in C++ too
    run(x)
    _, arrays = tracemalloc.get_traced_memory()
    return {"peak": most - before, "kept": kept - before, "numpy": arrays}


def makes(found: dict[str, int], array: int) -> bool:
    """Whether an array of so many bytes can have been there during the call."""
    return max(found["peak"], found["numpy"]) >= array


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks memory", description=__doc__)
    parser.add_argument("--steps", type=int, default=2000, help="T, default %(default)s")
    parser.add_argument("--batch", type=int, default=64, help="B, default %(default)s")
    parser.add_argument("--input", type=int, default=64, help="I, default %(default)s")
    parser.add_argument("--hidden", type=int, default=256, help="H, default %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="default %(default)s")
    parser.add_argument("--network", choices=NETWORKS, help="default all")
    parser.add_argument("--against", type=Path, metavar="PYTHON", help="with another build")
    parser.add_argument(fresh.CHILD, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if sys.platform != "linux":
        parser.error("needs Linux, whose kernel tells the most memory that a process had")
    environment.set_thread_variables(options.threads)
    if options.in_this_process:
        print(json.dumps(measure_once(options)))
        return 0

    array = 4 * options.steps * options.batch * options.hidden
    sizes = ("steps", "batch", "input", "hidden", "threads")
    given = [f"--{name}={getattr(options, name)}" for name in sizes]
    print(f"an array (T, B, H): {array / 1e6:.1f} MB\n")
    print("| network | build | peak MB | kept MB | NumPy's arrays MB | array (T, B, H) |")
    print("| --- | --- | ---: | ---: | ---: | --- |")
    for network in [options.network] if options.network else NETWORKS:
        for name, python in fresh.builds(options.against).items():
            try:
                found = fresh.measured(python, "memory", [*given, f"--network={network}"])
            except (OSError, fresh.ChildError) as error:
                print(f"{parser.prog}: {error}", file=sys.stderr)
                return 2
            figures = [f"{found[key] / 1e6:.2f}" for key in ("peak", "kept", "numpy")]
            made = "made" if makes(found, array) else "not made"
            print(f"| {network} | {name} | {' | '.join(figures)} | {made} |")
    return 0
