"""Compares fastgru with the package g2p-en, phoneme by phoneme, and times both.

All contenders take the same words in turns, part by part, so that whatever else the machine does
meets all of them. What is timed is words in, phonemes out.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from g2p import G2p, Phonemes, load_reference, package_folder

import fastgru

PRECISIONS = ("float32", "bfloat16", "int8")
PARTS = 20  # the words are timed in as many parts, fewer words one by one
# Other words to calibrate with for each one compared: the default 10,000 take all others of
# Debian's list (53,875), and fewer words are done sooner.
CALIBRATION = 6


@dataclass
class Contender:
    """One way to compute phonemes, what it gave for each word, and its words/s in each part."""

    name: str
    batch_size: int
    predict: Callable[[Sequence[str]], list[Phonemes]]
    phonemes: dict[str, Phonemes] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)

    def run(self, words: Sequence[str]) -> None:
        """Predicts and times these words, in batches of words of similar length."""
        start = time.perf_counter()
        ordered = sorted(words, key=len) if self.batch_size > 1 else words
        for first in range(0, len(ordered), self.batch_size):
            batch = ordered[first : first + self.batch_size]
            self.phonemes.update(zip(batch, self.predict(batch), strict=True))
        self.rates.append(len(words) / (time.perf_counter() - start))


def read_words(path: Path, seed: int) -> list[str]:
    """The file's words of the letters a to z, in random order; ValueError, OSError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: no such file: apt-get install wamerican, or --words FILE, a word a line"
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected words in UTF-8, got {error}") from None
    words = sorted(set(re.findall(r"^[a-z]+$", text, re.MULTILINE)))
    if not words:
        raise ValueError(f"{path}: expected a word of the letters a to z in a line, got none")
    return random.Random(seed).sample(words, len(words))


def rounded_weights(model: G2p) -> G2p:
    """The same network in float32, with the weights that int8 makes of it."""
    other = copy.copy(model)
    for name in ("encoder", "decoder"):
        reduced = getattr(model, name).to("int8")
        setattr(other, name, fastgru.GRU.from_state_dict(reduced.tensors()))
    return other


def contenders(batch_size: int, calibration: Sequence[str]) -> list[Contender]:
    """The package first, then fastgru in each precision, one word at a time and in batches.

    int8 also with weights rounded by the words of `calibration`, if there are any. After them what
    int8 can be compared with: its weights alone, and PyTorch's if it is installed.
    """
    folder = package_folder()
    package = load_reference(folder)

    def predict(words: Sequence[str]) -> list[Phonemes]:
        return [package.predict(word) for word in words]

    entries = [Contender("g2p-en (NumPy)", 1, predict)]
    for precision in PRECISIONS:
        model = G2p(
            folder / "checkpoint20.npz", package.graphemes, package.phonemes, precision=precision
        )
        entries += [Contender(precision, size, model.predict) for size in (1, batch_size)]
        if precision == "float32":
            in_float32 = model
            others = [("int8 weights, the rest float32", rounded_weights(model))]
            if importlib.util.find_spec("torch"):
                from torch_int8 import in_torch_int8  # noqa: PLC0415

                others.append(("PyTorch's dynamic int8", in_torch_int8(model)))
    if calibration:
        model = in_float32.calibrated(calibration)
        entries += [Contender("int8, calibrated", size, model.predict) for size in (1, batch_size)]
    return entries + [Contender(name, batch_size, other.predict) for name, other in others]


def differing(entry: Contender, package: Contender) -> list[str]:
    """The words for which `entry` gave other phonemes than the package."""
    return [w for w, expected in package.phonemes.items() if entry.phonemes[w] != expected]


def report(entries: list[Contender], examples: int) -> None:
    """Prints the table, then some of the words that differ from the package's."""
    package = entries[0]
    print("| network | batch | identical | words/s | middle half of parts | times the package |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for entry in entries:
        share = 1 - len(differing(entry, package)) / len(package.phonemes)
        low, median, high = np.percentile(entry.rates, [25, 50, 75])
        ratios = [r / base for r, base in zip(entry.rates, package.rates, strict=True)]
        print(
            f"| {entry.name} | {entry.batch_size} | {share:.2%} | {median:,.0f} | "
            f"{low:,.0f} to {high:,.0f} | {statistics.median(ratios):.1f} |"
        )
    seen = [package.phonemes]
    for entry in entries:
        if entry.phonemes in seen:  # batches give what single words give
            continue
        seen.append(entry.phonemes)
        words = differing(entry, package)
        print(f"\n{entry.name}, batches of {entry.batch_size}: {len(words)} words differ")
        for word in words[:examples]:
            expected, got = " ".join(package.phonemes[word]), " ".join(entry.phonemes[word])
            print(f"  {word}: {expected} -> {got}")


def at_least(least: int) -> Callable[[str], int]:
    """What argparse reads a whole number with."""

    def read(text: str) -> int:
        number = int(text)
        if number < least:
            raise argparse.ArgumentTypeError(f"expected at least {least}, got {text}")
        return number

    read.__name__ = "whole number"  # what argparse calls it where `text` is none
    return read


def run(args: argparse.Namespace) -> None:
    """Compares and prints. ValueError, OSError and ImportError say what is wrong."""
    fastgru.set_num_threads(1)  # NumPy's threads are set outside, see README.md
    drawn = read_words(args.words, args.seed)
    words, others = drawn[: args.limit], drawn[args.limit :]
    some = CALIBRATION * len(words) if args.calibration is None else args.calibration
    entries = contenders(args.batch_size, others[:some])
    for entry in entries:
        entry.predict(words[:20])  # warms up
    parts = min(PARTS, len(words))
    for part in range(parts):
        for entry in entries:
            entry.run(words[part::parts])
    print(f"{len(words):,} words of {args.words}, calibrated with {len(others[:some]):,} others")
    print(f"NumPy {np.__version__}\n")
    report(entries, args.examples)


def main() -> None:
    """The command line; what is missing or wrong is one line on stderr and exit status 2."""
    parser = argparse.ArgumentParser(description="Compare fastgru with the package g2p-en.")
    parser.add_argument(
        "--words",
        type=Path,
        default=Path("/usr/share/dict/words"),
        help="a word a line (default: %(default)s, Debian's wamerican)",
    )
    parser.add_argument(
        "--limit", type=at_least(1), default=10_000, help="words (default %(default)s)"
    )
    parser.add_argument(
        "--calibration",
        type=at_least(0),
        metavar="N",
        help="as many of the other words to round int8's weights by "
        f"(default: {CALIBRATION} for each word compared, at most all)",
    )
    parser.add_argument("--seed", type=int, default=0, help="which words are drawn")
    parser.add_argument(
        "--batch-size", type=at_least(1), default=64, help="of the batches (default %(default)s)"
    )
    parser.add_argument("--examples", type=at_least(0), default=5, help="differing words to print")
    args = parser.parse_args()
    try:
        run(args)
    except (ValueError, OSError, ImportError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
