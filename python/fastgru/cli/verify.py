"""`fastgru verify`: whether a model is a checkpoint's, and runs as exactly as it should.

Runs both on random inputs: the model as it is, the checkpoint's weights in float64 NumPy, and, to
see how much error is no bug, in PyTorch's float32 where that is installed. Refuses to call a model
sound that differs in kind, in a reduced weight or by more than the bound that is printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fastgru
from fastgru.chain import Layers, entry_of
from fastgru.cli import reference, yardstick
from fastgru.cli.options import add_load_options, wanted_options
from fastgru.cli.reference import Array
from fastgru.cli.terminal import print_table, say
from fastgru.cli.yardstick import Yardstick, precision_of
from fastgru.formats import Loaded, load_all
from fastgru.layers import Layer
from fastgru.text import printable

# (T, B): one step of many rows, then sequences, these with lengths, too.
_SHAPES = ((1, 1024), (8, 32), (40, 8))
_ENOUGH = 200_000  # values of one step: rows of larger networks are fewer, but a quarter at least
# How many times the yardstick's largest and mean error are no bug, beside its own factor. In one
# step the mean error is no luck, the largest is: of 256 rows of the demo's model it was 0.9 to 2.4
# times PyTorch's (12 seeds), of 1024 rows once 2.5 times, while up to the 99.99th percentile it was
# 1.3 times. In sequences errors grow from step to step: after 40 the largest was 0.7 to 4.2 times
# PyTorch's, the mean 0.9 to 1.8 times.
_LUCK = {"step": (2, 1), "sequence": (4, 4)}
# Largest and mean error that are no bug whatever the yardstick's, of max(1, |y|): the promise of
# float32, and what one rounding that falls the other way makes (tests/test_precision.py).
_FLOORS = {"float32": (5e-7, 2.5e-7), "reduced": (4e-3, 1e-4)}
_OF_A_GRU = ("input_size", "hidden_size", "num_layers", "bidirectional", "reverse", "bias")
_OF_THE_EQUATION = ("reset_after", "activation", "recurrent_activation")


def add_command(commands: Any) -> None:
    """Adds `verify` to the subparsers."""
    parser = commands.add_parser(
        "verify",
        help="check a model against the checkpoint that it was made from",
        description="Runs MODEL, and CHECKPOINT's weights in float64 and in PyTorch where that is "
        "installed, on random inputs. Prints the errors and their bounds; the exit status is 1 "
        "where one is beyond its bound, or where the two differ in kind.",
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="what `fastgru.load` reads")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="likewise")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs (default 0)")
    add_load_options(parser, "CHECKPOINT")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """The command; exit status 1 if the model is not the checkpoint's."""
    if options.seed < 0:
        raise ValueError(f"--seed: expected at least 0, got {options.seed}")
    loaded = load_all(options.model, None, {})
    checkpoint = load_all(options.checkpoint, options.prefix, wanted_options(options))
    model, original = loaded.model, checkpoint.model
    say(*f"MODEL      {printable(str(options.model))}: {model!r}".splitlines())
    say(*f"CHECKPOINT {printable(str(options.checkpoint))}: {original!r}".splitlines(), "")
    problems = list(_differences_in_kind(model, original))
    if not problems:
        problems = list(_differences_in_layout(loaded, checkpoint))
    problems = problems or list(_wrong_weights(model, original))
    if not problems:
        problems = list(_measure(model, original, options.seed))
    for problem in problems:
        say(f"FAILED: {problem}")
    if not problems:
        say("ok")
    return 1 if problems else 0


def _layers(model: Any) -> Layers:
    return [model] if isinstance(model, fastgru.GRU) else model.layers


def _differences_in_kind(model: Any, original: Any) -> Iterator[str]:
    """What makes a comparison of numbers pointless, a line for each."""
    kinds = [type(m).__name__ for m in (model, original)]
    if kinds[0] != kinds[1]:
        yield f"MODEL is a {kinds[0]}, CHECKPOINT a {kinds[1]}"
        return
    pairs = _layers(model), _layers(original)
    if len(pairs[0]) != len(pairs[1]):
        yield f"MODEL has {len(pairs[0])} layers, CHECKPOINT {len(pairs[1])}"
        return
    unsaid = False
    for index, (a, b) in enumerate(zip(*pairs, strict=True)):
        where = f"layer {index}: " if len(pairs[0]) > 1 else ""
        if isinstance(a, fastgru.GRU) and isinstance(b, fastgru.GRU):
            for name in _OF_A_GRU + _OF_THE_EQUATION:
                values = getattr(a, name), getattr(b, name)
                if values[0] != values[1]:
                    unsaid |= name in _OF_THE_EQUATION
                    yield f"{where}{name}: MODEL has {values[0]!r}, CHECKPOINT {values[1]!r}"
            if b.precision not in ("float32", a.precision):
                yield f"{where}precision: MODEL has {a.precision}, CHECKPOINT only {b.precision}"
        elif _told(a) != _told(b):
            yield f"{where}MODEL has {a!r}, CHECKPOINT {b!r}"
    if unsaid:
        yield "what a state dict does not say of its equation are options: see --help"


def _differences_in_layout(model: Loaded, checkpoint: Loaded) -> Iterator[str]:
    """Whether both are batch first; a line is printed where CHECKPOINT does not say."""
    first = model.model.batch_first, checkpoint.model.batch_first
    if "batch_first" in checkpoint.assumed:
        assumed = " only because nothing said so" if "batch_first" in model.assumed else ""
        say(
            "layout: CHECKPOINT does not say whether it is batch first (--batch-first or "
            f"--no-batch-first does); MODEL is {'batch' if first[0] else 'time'} first{assumed}",
            "",
        )
    elif first[0] != first[1]:
        yield f"batch_first: MODEL has {first[0]!r}, CHECKPOINT {first[1]!r}"


def _told(layer: Any) -> tuple[Any, ...]:
    """All of a layer but its numbers."""
    if isinstance(layer, fastgru.GRU):
        return (fastgru.GRU,)
    shapes = {name: tensor.shape for name, tensor in layer._tensors().items()}
    return type(layer), layer._options(), shapes


def _wrong_weights(model: Any, original: Any) -> Iterator[str]:
    """Weights that are not the original's, or what rounding those gives, bit for bit.

    The bound on outputs is too wide to see another epoch of the same training, and few rows of a
    large vocabulary are ever looked up.
    """
    for index, (a, b) in enumerate(zip(_layers(model), _layers(original), strict=True)):
        where = f"layer {index}: " if len(_layers(model)) > 1 else ""
        if isinstance(a, Layer) and isinstance(b, Layer):
            yield from _other_numbers(where, a._tensors(), b._tensors(), "CHECKPOINT's")
            continue
        assert isinstance(a, fastgru.GRU)  # the same kinds, or nobody would ask
        assert isinstance(b, fastgru.GRU)
        kept = [n for n, p in enumerate(a._spec.precisions) if p == "float32"]
        expected = b.to(a.precision, keep=kept) if b.precision == "float32" else b
        if a._spec.precisions != expected._spec.precisions:
            found = ", ".join(a._spec.precisions)
            yield f"{where}precisions: MODEL has {found}, CHECKPOINT other ones"
            continue
        meant = "CHECKPOINT's"
        if a.precision != b.precision:
            meant = f"what {a.precision} makes of CHECKPOINT's by rounding to nearest"
        for ours, theirs in zip(a._stored(), expected._stored(), strict=True):
            yield from _other_numbers(where, ours, theirs, meant)


def _other_numbers(
    where: str, ours: Mapping[str, Array], theirs: Mapping[str, Array], meant: str
) -> Iterator[str]:
    for name, tensor in ours.items():
        if not np.array_equal(tensor, theirs[name], equal_nan=True):
            yield f"{where}{name}: not {meant}"


class _Exact(NamedTuple):
    """What the checkpoint gives in float64, time first, and the state that it started from."""

    h_0: Array | None
    results: dict[str, Array]


def _measure(model: Any, original: Any, seed: int) -> Iterator[str]:
    """Prints a table of errors; a line for each that is beyond its bound."""
    rng = np.random.default_rng(seed)
    scale = yardstick.choose(model, original)
    floors = _FLOORS["float32" if precision_of(model) == "float32" else "reduced"]
    rows, problems = [], []
    widest = max(
        (la.hidden_size for la in _layers(model) if isinstance(la, fastgru.GRU)), default=1
    )
    for steps, most in _SHAPES:
        batch = most if steps > 1 else min(most, max(most // 4, _ENOUGH // widest))
        x = _input(rng, _layers(original), steps, batch)
        exact = _exact(original, rng, x, None)
        theirs = _errors(scale.run(x, exact.h_0), exact.results)
        ours = _errors(_run(model, x, exact.h_0, None), exact.results)
        if steps > 1:
            lengths = rng.integers(1, steps + 1, batch)
            exact = _exact(original, rng, x, lengths)
            padded = _errors(_run(model, x, exact.h_0, lengths), exact.results)
            ours = {name: _worse(ours[name], padded[name]) for name in ours}
        limits = _limits(scale, floors, list(theirs.values()), steps)
        for name, errors in ours.items():
            found = errors.largest, errors.mean
            rows.append([f"{steps} x {batch}", name])
            rows[-1] += [f"{n:.2e}" for pair in zip(found, limits, strict=True) for n in pair]
            problems += [
                f"{name} of {steps} steps: {kind} error {error:.2e}, expected at most {limit:.2e}"
                for kind, error, limit in zip(("largest", "mean"), found, limits, strict=True)
                if not error <= limit
            ]
    print_table(["steps x rows", "", "max error", "bound", "mean error", "bound"], rows)
    say("", f"errors against float64; bounds from those of {scale.name} on the same inputs")
    yield from problems


class _Errors(NamedTuple):
    """Of an array: absolute, or relative where a value is above 1."""

    largest: float
    mean: float


def _errors(actual: dict[str, Array], exact: dict[str, Array]) -> dict[str, _Errors]:
    result = {}
    for name, expected in exact.items():
        with np.errstate(invalid="ignore"):
            error = np.abs(actual[name].astype(np.float64) - expected)
            error /= np.maximum(1, np.abs(expected))
        same = (actual[name] == expected) | (np.isnan(actual[name]) & np.isnan(expected))
        error[same] = 0  # infinities, too
        result[name] = _Errors(float(error.max()), float(error.mean()))
    return result


def _worse(a: _Errors, b: _Errors) -> _Errors:
    return _Errors(*np.maximum(a, b).tolist())  # NaN, where either is


def _limits(
    scale: Yardstick, floors: tuple[float, float], theirs: list[_Errors], steps: int
) -> tuple[float, float]:
    """Of the largest and of the mean error."""
    luck = _LUCK["step" if steps == 1 else "sequence"]
    worst = max(e.largest for e in theirs), max(e.mean for e in theirs)
    largest, mean = (
        max(scale.times * times * error, floor)
        for times, error, floor in zip(luck, worst, floors, strict=True)
    )
    return largest, mean


def _input(rng: np.random.Generator, layers: Layers, steps: int, batch: int) -> Array:
    first = layers[0]
    if isinstance(first, fastgru.Embedding):
        return rng.integers(0, first.num_embeddings, (steps, batch))
    if isinstance(first, fastgru.OneHot):
        return rng.integers(0, first.num_classes, (steps, batch))
    size = entry_of(layers).size or 8  # any will do where the layers do not say
    return rng.standard_normal((steps, batch, size)).astype(np.float32)


def _exact(original: Any, rng: np.random.Generator, x: Array, lengths: Array | None) -> _Exact:
    if not isinstance(original, fastgru.GRU):
        return _Exact(None, {"output": reference.run_layers(original.layers, x, lengths)})
    stacks = original.num_layers * (2 if original.bidirectional else 1)
    h_0 = rng.uniform(-1, 1, (stacks, x.shape[1], original.hidden_size)).astype(np.float32)
    output, h_n = reference.run_gru(original, x, h_0, lengths)
    return _Exact(h_0, {"output": output, "final state": h_n})


def _run(model: Any, x: Array, h_0: Array | None, lengths: Array | None) -> dict[str, Array]:
    """What MODEL gives, time first."""
    inputs = np.ascontiguousarray(x.swapaxes(0, 1)) if model.batch_first else x
    if isinstance(model, fastgru.GRU):
        output, h_n = model(inputs, h_0, lengths=lengths)
        return {"output": _time_first(model, output), "final state": h_n}
    return {"output": _time_first(model, model(inputs, lengths=lengths))}


def _time_first(model: Any, output: Array) -> Array:
    return output.swapaxes(0, 1) if model.batch_first and output.ndim == 3 else output
