"""`fastgru demo`: a character model continues prompts, checked against PyTorch's own record.

Works from the wheel alone: the model and the record of what PyTorch computed are in it; no extra,
no PyTorch and no download is needed. PyTorch, where installed, is timed on the same work.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from fastgru import FormatError
from fastgru.cli.char_model import CharModel, Writer
from fastgru.cli.terminal import say

# Logits are sums of 256 products of about 1; PyTorch's and our rounding differ by about 1e-5 after
# 200 characters, while the record's smallest gap between two best logits is above 1e-3.
LOGIT_TOLERANCE = 2e-4

Step = Callable[[int], Any]  # the index of a character -> logits (V,) of the next


def add_command(commands: Any) -> None:
    """Adds `demo` to the subparsers."""
    parser = commands.add_parser(
        "demo",
        help="continue text with the bundled character model, checked against PyTorch's record",
        description="A character model trained on The Time Machine continues prompts through a "
        "stream, one character at a time; text and logits are compared with PyTorch's.",
    )
    parser.add_argument("--prompt", help="continue this text instead of the recorded prompts")
    parser.add_argument(
        "--length", type=int, default=200, help="characters to write for --prompt (default 200)"
    )
    parser.add_argument(
        "--model",
        type=Path,
        help="another model of examples/char_lm, with its record (.json) beside it",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """The command; exit status 1 if anything differs from PyTorch's record."""
    if options.length < 1:
        raise ValueError(f"--length: expected at least 1, got {options.length}")
    if options.prompt == "":
        raise ValueError("--prompt: expected at least one character")
    if options.model is None:
        bundled = resources.files("fastgru") / "data" / "char_lm_torch.safetensors"
        with resources.as_file(bundled) as path:
            return _demo(CharModel(path), path.with_suffix(".json"), options)
    return _demo(CharModel(options.model), options.model.with_suffix(".json"), options)


def _demo(model: CharModel, record_path: Path, options: argparse.Namespace) -> int:
    say(repr(model.gru), f"{len(model.vocabulary)} characters, one-hot", "")
    microseconds: list[float] = []
    if options.prompt is not None:
        text, _, _ = _continue(model, options.prompt, options.length, microseconds)
        _say_text(f"[{options.prompt}]{text}")
        say("")
        prompts, failures = [options.prompt], []
    else:
        record = _read_record(record_path, len(model.vocabulary))
        prompts = [entry["prompt"] for entry in record["prompts"]]
        failures = [_check(model, entry, microseconds) for entry in record["prompts"]]
        failures = [failure for failure in failures if failure]
        if not failures:
            say(
                f"Text and logits are PyTorch {record['torch_version']}'s for all "
                f"{len(prompts)} prompts."
            )
    p50, p99 = np.percentile(microseconds, [50, 99])
    say(f"{p50:.1f} us per character (p50), {p99:.1f} us (p99): GRU step, head and argmax")
    _compare_speed(model, prompts[0])
    for failure in failures:
        say(f"DIFFERS: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _say_text(text: str) -> None:
    """In full, for the user has said how long it is to be."""
    say(text, limit=10 * len(text))  # an escape takes ten characters at most


def _continue(
    model: CharModel, prompt: str, length: int, microseconds: list[float]
) -> tuple[str, Any, Any]:
    """Greedy text of `length` characters, and the logits after the prompt and after the text."""
    step = Writer(model).step
    logits = [step(index) for index in model.indices(prompt)][-1]
    after_prompt = logits
    text = []
    for _ in range(length):
        start = time.perf_counter()
        index = int(logits.argmax())
        logits = step(index)
        microseconds.append((time.perf_counter() - start) * 1e6)
        text.append(model.vocabulary[index])
    return "".join(text), after_prompt, logits


def _check(model: CharModel, entry: dict[str, Any], microseconds: list[float]) -> str | None:
    """Continues one recorded prompt; says what differs, if anything."""
    expected = entry["continuation"]
    text, *logits = _continue(model, entry["prompt"], len(expected), microseconds)
    error = max(
        float(np.abs(got - np.asarray(entry[name])).max())
        for got, name in zip(logits, ("prompt_logits", "final_logits"), strict=True)
    )
    _say_text(f"[{entry['prompt']}]{text}")
    say(f"(logits within {error:.1e} of PyTorch's)", "")
    if text != expected:
        place = next(
            i for i, pair in enumerate(zip(text, expected, strict=True)) if len(set(pair)) > 1
        )
        return f"{entry['prompt']!r}: the text, from character {place} on"
    if not error <= LOGIT_TOLERANCE:
        return f"{entry['prompt']!r}: logits, by {error:.1e}"
    return None


def _read_record(path: Path, size: int) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version, prompts = str(record["torch_version"]), list(record["prompts"])
        for entry in prompts:
            texts = [entry["prompt"], entry["continuation"]]
            logits = [entry["prompt_logits"], entry["final_logits"]]
            if not all(isinstance(text, str) and text for text in texts):
                raise ValueError("a prompt or continuation is not a text")
            if any(np.asarray(values, np.float64).shape != (size,) for values in logits):
                raise ValueError(f"logits: expected {size} numbers")
        if not prompts:
            raise ValueError("no prompts")
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(
            f"{path}: not a record of examples/char_lm/record.py ({error!r})"
        ) from error
    return {"torch_version": version, "prompts": prompts}


def _compare_speed(model: CharModel, prompt: str, characters: int = 300) -> None:
    """Prints how much longer PyTorch takes for a character, both timed in turns."""
    if importlib.util.find_spec("torch") is None:
        say("PyTorch is not installed here, so there is nothing to compare the time with.")
        return
    import torch  # noqa: PLC0415

    from fastgru.cli.char_torch import torch_step  # noqa: PLC0415

    first = model.indices(prompt)[-1]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # its best for one step, and what fastgru uses
    try:
        steps: list[Step] = [Writer(model).step, torch_step(model)]
        times: list[list[float]] = [[], []]
        for turn in range(characters):
            for step, measured in zip(steps, times, strict=True):
                start = time.perf_counter()
                int(step(first).argmax())
                if turn >= characters // 10:  # the rest warms up
                    measured.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    ours, theirs = (float(np.median(measured)) * 1e6 for measured in times)
    say(
        f"PyTorch {torch.__version__}: {theirs:.1f} us per character, fastgru {ours:.1f} us "
        f"(medians, taken in turns): {theirs / ours:.1f} times faster"
    )
