"""What bfloat16 and int8 do to the character models: perplexity, and greedy text.

fastgru runs the models; PyTorch is not needed. Perplexity is that of `train.py`: the same windows
of the same text. Greedy text is compared with that of `record.py`, PyTorch's in float32: 200
characters after each recorded prompt.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

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


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Character models in reduced precision.")
    parser.add_argument("text", type=Path, help="the text they were trained on, UTF-8")
    parser.add_argument(
        "models", type=Path, nargs="+", help="files of train.py, their records (.json) beside them"
    )
    args = parser.parse_args()
    text = args.text.read_text(encoding="utf-8")

    print("| model | precision | perplexity | change | weights | before a difference | the same |")
    print("| --- | --- | ---: | ---: | ---: | --- | ---: |")
    for path in args.models:
        original = CharModel(path)
        record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        prompts = {entry["prompt"]: entry["continuation"] for entry in record["prompts"]}
        baseline = perplexity(original, text)
        for precision in PRECISIONS:
            model = in_precision(original, precision)
            result = perplexity(model, text)
            texts = [agreement(greedy(model, p, len(c)), c) for p, c in prompts.items()]
            print(
                f"| `{record['model']}` | {precision} | {result:.4f} | "
                f"{result / baseline - 1:+.3%} | {model.gru.nbytes:,} bytes | "
                f"{', '.join(str(a.before) for a in texts)} | "
                f"{sum(a.overall for a in texts):,} of {sum(a.length for a in texts):,} |"
            )
    print(f"\nfastgru {fastgru.__version__}")


if __name__ == "__main__":
    main()
