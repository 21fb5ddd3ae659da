"""`python -m benchmarks plot`: pictures of a results file, one module each.

Draws what the file and its summary say, with matplotlib's Agg; computes nothing of its own.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from benchmarks.results import ResultsError, read_all

COLOURS = ("#4477aa", "#ee6677", "#228833", "#aa3377", "#ccbb44", "#66ccee", "#bbbbbb", "#000000")
"""Told apart by colour-blind readers too (Paul Tol's bright scheme)."""

PICTURES = ("share", "ratios", "roofline", "costs")
"""Modules here with `draw(results, plt)`, which gives a figure or None if there is nothing."""

DOTS_PER_INCH = 100


def load_matplotlib() -> Any:
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    return importlib.import_module("matplotlib.pyplot")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks plot", description=f"Draw {', '.join(PICTURES)} as PNG files."
    )
    parser.add_argument("results", type=Path, nargs="+", help="files; the first one's machine")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    options = parser.parse_args(argv)
    try:
        results = read_all(options.results)
        plt = load_matplotlib()
    except (ResultsError, ImportError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    options.output.mkdir(parents=True, exist_ok=True)
    for name in PICTURES:
        figure = importlib.import_module(f"benchmarks.plots.{name}").draw(results, plt)
        if figure is None:
            print(f"{name}: no cells for it in these results", file=sys.stderr)
            continue
        path = options.output / f"{name}.png"
        figure.savefig(path, dpi=DOTS_PER_INCH)
        plt.close(figure)
        print(path)
    return 0
