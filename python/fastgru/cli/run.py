"""`fastgru run`: a file of sequences through a model, batch by batch, into a file.

Input and output stay in their files. The output appears when all of it is there; the batch size
changes no bit of it. Refuses to write where it reads.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import fastgru
from fastgru.arrays import Float32Array, as_int64, byte_text
from fastgru.chain import Layers, entry_of
from fastgru.cli.npy import create_npy, read_npy
from fastgru.cli.options import add_load_options, wanted_options
from fastgru.cli.paths import check_target
from fastgru.cli.terminal import progress, say
from fastgru.formats import load_all, warnings_of
from fastgru.formats.atomic import replacing
from fastgru.layers import Layer
from fastgru.options import positive
from fastgru.over_time import check_lengths


def add_command(commands: Any) -> None:
    """Adds `run` to the subparsers."""
    parser = commands.add_parser(
        "run",
        help="run the sequences of a .npy file through a model",
        description="Runs INPUT through MODEL, some sequences at a time, and writes what comes "
        "out: of a GRU its output, (T, B, H) for INPUT (T, B, I), of a Model what its last layer "
        "gives. Where MODEL is batch first, B is the first axis of both.",
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="what `fastgru.load` reads")
    parser.add_argument("input", metavar="INPUT.npy", type=Path)
    parser.add_argument("-o", "--output", metavar="OUTPUT.npy", type=Path, required=True)
    parser.add_argument(
        "--h-n", metavar="FILE.npy", type=Path, help="the final states of a GRU, (L*D, B, H)"
    )
    parser.add_argument(
        "--lengths", metavar="L.npy", type=Path, help="integers (B,): the sequences' lengths"
    )
    parser.add_argument(
        "--batch-size", metavar="N", type=int, default=64, help="sequences at a time (default 64)"
    )
    add_load_options(parser, "MODEL")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """The command."""
    size = positive("--batch-size", options.batch_size)
    _check_paths(options)
    loaded = load_all(options.model, options.prefix, wanted_options(options))
    for category, text in warnings_of(options.model, loaded, options.prefix, by_command=True):
        warnings.warn(text, category, stacklevel=1)
    model = loaded.model
    if options.h_n and not isinstance(model, fastgru.GRU):
        raise ValueError(f"--h-n: {options.model} is a Model, which gives no final states")
    try:
        shapes = _run(model, options, size)
    except (TypeError, IndexError) as error:  # dtypes of x and lengths, indices of an Embedding
        raise ValueError(str(error)) from error
    except MemoryError as error:
        raise ValueError(f"not enough memory; try a --batch-size below {size}") from error
    for path, shape in shapes.items():
        say(f"{path}: {shape} float32, {byte_text(path.stat().st_size)}")
    return 0


def _check_paths(options: argparse.Namespace) -> None:
    sources = [options.model, options.input, options.lengths]
    check_target("--output", options.output, sources)
    if options.h_n:
        check_target("--h-n", options.h_n, sources)
        if os.path.realpath(options.output) == os.path.realpath(options.h_n):
            raise ValueError("--h-n: expected another file than --output")


def _run(model: Any, options: argparse.Namespace, size: int) -> dict[Path, tuple[int, ...]]:
    """Writes the files; the shapes of what is in them."""
    layers: Layers = [model] if isinstance(model, fastgru.GRU) else model.layers
    entry = entry_of(layers)
    x = read_npy(options.input)
    steps, batch = entry.check_sequences(str(options.input), x.shape)
    lengths = None
    if options.lengths:
        lengths = as_int64(str(options.lengths), read_npy(options.lengths)).copy()
        at_least = int(any(isinstance(layer, Layer) and layer.over_time for layer in layers))
        check_lengths(lengths, steps, batch, at_least)
    with contextlib.ExitStack() as files:
        outputs = [_Output(options.output, files, batch, entry.batch_first)]
        if options.h_n:
            outputs.append(_Output(options.h_n, files, batch, False))
        with progress("sequences", batch or 1) as advance:
            for start in range(0, batch or 1, size):  # without sequences, one call that gives none
                rows = slice(start, start + size)
                part = x if batch is None else x[rows] if entry.batch_first else x[:, rows]
                result = model(part, lengths=None if lengths is None else lengths[rows])
                results = result if isinstance(result, tuple) else (result,)
                for output, values in zip(outputs, results, strict=False):  # h_n may be unwanted
                    output.write(rows, values)
                advance(min(size, (batch or 1) - start))
        return {output.path: output.close() for output in outputs}


class _Output:
    """A file that takes the place of `path` when `files` is left; its shape is the first rows'."""

    def __init__(
        self, path: Path, files: contextlib.ExitStack, batch: int | None, batch_first: bool
    ) -> None:
        self.path = path
        self._file = files.enter_context(replacing(path))  # now: what cannot be written is known
        self._batch, self._batch_first = batch, batch_first
        self._array: np.memmap[Any, np.dtype[np.float32]] | None = None

    def write(self, rows: slice, values: Float32Array) -> None:
        # behind Last, Mean and Max there is no time
        axis = 0 if self._batch_first or values.ndim == 2 else 1
        if self._array is None:
            shape = list(values.shape)
            if self._batch is not None:
                shape[axis] = self._batch
            try:
                self._array = create_npy(self._file, tuple(shape))
            except OSError as error:
                error.filename = os.fspath(self.path)  # the name that the user knows
                raise
        place = (slice(None),) * axis + (rows,) if self._batch is not None else ...
        self._array[place] = values

    def close(self) -> tuple[int, ...]:
        """Hands everything to the system, as far as it is not there yet; the shape."""
        assert self._array is not None
        self._array.flush()
        shape: tuple[int, ...] = self._array.shape
        return shape
