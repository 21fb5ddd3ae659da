"""What bfloat16 and int8 do to the character models: perplexity, and greedy text.

fastgru runs the models; PyTorch is not needed. Perplexity is that of `train.py`: the same windows
of the same text. Greedy text is compared with that of `record.py`, PyTorch's in float32: 200
characters after each recorded prompt, where the record of a model is beside its file.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from files import CHAPTER, MODEL_FILES, model_file, read_text, stop

import fastgru
from fastgru.cli.char_model import CharModel, Writer

WINDOW = 35  # as in train.py
PRECISIONS = ("float32", "bfloat16", "int8")
BATCH = 512  # windows that run at once


def in_precision(model: CharModel, precision: str) -> CharModel:
    """The same vocabulary and head (in float32) around a GRU in `precision`."""
    reduced = copy.copy(model)
    reduced.gru = model.gru.to(precision)
    return reduced


def perplexity(model: CharModel, text: str) -> float:
    """Perplexity over consecutive windows of 35 characters, each from a zero state."""
    data = np.array(model.indices(text))
    windows = (len(data) - 1) // WINDOW
    inputs = data[: windows * WINDOW].reshape(windows, WINDOW)
    targets = data[1 : windows * WINDOW + 1].reshape(windows, WINDOW)
    one_hot = np.eye(len(model.vocabulary), dtype=np.float32)
    total = 0.0
    for first in range(0, windows, BATCH):
        x, y = inputs[first : first + BATCH].T, targets[first : first + BATCH].T
        output, _ = model.gru(one_hot[x])
        logits = (output @ model.head.T + model.head_bias).astype(np.float64)
        logits -= logits.max(axis=2, keepdims=True)
        chosen = np.take_along_axis(logits, y[:, :, None], axis=2)
        total += float(np.log(np.exp(logits).sum(axis=2)).sum() - chosen.sum())
    return math.exp(total / (windows * WINDOW))


def greedy(model: CharModel, prompt: str, length: int) -> str:
    """The `length` most likely characters after `prompt`, one after the other."""
    step = Writer(model).step
    logits = [step(index) for index in model.indices(prompt)][-1]
    text = ""
    for _ in range(length):
        index = int(logits.argmax())
        text += model.vocabulary[index]
        logits = step(index)
    return text


@dataclass
class Agreement:
    """How much of a text is another's, which is as long."""

    before: int  # characters before the first difference
    overall: int  # characters that are the same in the same place
    length: int


def agreement(text: str, expected: str) -> Agreement:
    """Compares two texts of the same length, place by place."""
    same = [a == b for a, b in zip(text, expected, strict=True)]
    before = same.index(False) if False in same else len(same)
    return Agreement(before, sum(same), len(same))


def known_part(path: Path, model: CharModel, text: str) -> str:
    """The text without the characters that the model has never seen, which are named on stderr."""
    unknown = sorted(set(text) - set(model.vocabulary))
    if unknown:
        print(f"{path}: characters unknown to it are left out: {unknown}", file=sys.stderr)
    found = "".join(character for character in text if character in model.vocabulary)
    if len(found) <= WINDOW:
        raise ValueError(f"--text: expected over {WINDOW} characters that {path} knows")
    return found


def recorded(path: Path) -> dict[str, str]:
    """Each prompt of the record beside a model, with PyTorch's text after it; none without one."""
    record = path.with_suffix(".json")
    if not record.exists():
        return {}
    try:
        entries = json.loads(record.read_text(encoding="utf-8"))["prompts"]
        return {str(entry["prompt"]): str(entry["continuation"]) for entry in entries}
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{record}: expected a record of record.py") from None


def run(paths: list[Path], text_file: Path) -> None:
    """Prints the table; ValueError and OSError say which file is wrong."""
    text = read_text(text_file)
    models = {path: CharModel(path) for path in paths}
    records = {path: recorded(path) for path in paths}

    print("| model | precision | perplexity | change | weights | before a difference | the same |")
    print("| --- | --- | ---: | ---: | ---: | --- | ---: |")
    for path, original in models.items():
        name = "torch" if original.reset_after else "d2l"
        known = known_part(path, original, text)
        baseline = perplexity(original, known)
        for precision in PRECISIONS:
            model = in_precision(original, precision)
            result = perplexity(model, known)
            texts = [agreement(greedy(model, p, len(c)), c) for p, c in records[path].items()]
            same = f"{sum(a.overall for a in texts):,} of {sum(a.length for a in texts):,}"
            print(
                f"| `{name}` | {precision} | {result:.4f} | "
                f"{result / baseline - 1:+.3%} | {model.gru.nbytes:,} bytes | "
                f"{', '.join(str(a.before) for a in texts) or 'no record'} | "
                f"{same if texts else ''} |"
            )
    print(f"\nfastgru {fastgru.__version__}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Character models in reduced precision.")
    parser.add_argument(
        "models",
        nargs="*",
        default=list(MODEL_FILES),
        help="files of train.py, their records (.json) beside them if there are any "
        f"(default: {' and '.join(MODEL_FILES)}, which are there)",
    )
    parser.add_argument(
        "--text", type=Path, default=CHAPTER, help="a text, UTF-8 (default: the book's chapter I)"
    )
    args = parser.parse_args()
    try:
        run([model_file(name) for name in args.models], args.text)
    except (ValueError, OSError) as error:
        stop(error)


if __name__ == "__main__":
    main()
