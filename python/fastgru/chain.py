"""Layers one after the other: what fits what, what may go into the first one, and running them.

Shared by `Model`, which runs whole sequences, and by what keeps its GRUs' states between calls: the
one part that differs, running a GRU, is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastgru.arrays import Float32Array, Int64Array, as_float32, as_int64, as_state, shape_text
from fastgru.errors import ShapeError
from fastgru.gru import GRU
from fastgru.layers import Embedding, Layer, OneHot
from fastgru.over_time import Last, SequenceLayer
from fastgru.packed_sequence import is_packed
from fastgru.problems import Layout, Problem, layout_of, listed, problem_of, seen, shape_problems

Layers = Sequence[Layer | GRU]
# (which of the GRUs, the GRU itself, its input) -> its output
RunGRU = Callable[[int, GRU, Float32Array], Float32Array]


def name_of(layers: Layers, index: int) -> str:
    return f"layer {index} {type(layers[index]).__name__}"


def misfits(layers: Layers) -> Iterator[str]:
    """What is wrong with this order of layers, a line for each problem."""
    size, giver, reduced, first = None, "", "", ""
    batch_first = False
    for index, layer in enumerate(layers):
        name = name_of(layers, index)
        is_gru = isinstance(layer, GRU)
        if index and _takes_indices(layer):
            yield f"{name}: expected to be the first layer, since it takes indices"
        if reduced and (is_gru or isinstance(layer, SequenceLayer)):
            yield f"{name}: expected sequences, {reduced} gives one row for each"
        if isinstance(layer, GRU):
            if first and layer.batch_first != batch_first:
                yield (
                    f"{name}: batch_first: expected {batch_first} as in {first}, "
                    f"got {layer.batch_first}"
                )
            elif not first:
                first, batch_first = name, layer.batch_first
        wanted = layer.input_size
        if None not in (size, wanted) and size != wanted:
            yield f"{name}: expected {wanted} inputs, {giver} gives {size}"
        if isinstance(layer, Last) and layer.bidirectional and size is not None and size % 2:
            yield f"{name}: expected two directions, an even number of inputs, {giver} gives {size}"
        given = output_size(layer)
        if given is not None:
            size, giver = given, name
        if isinstance(layer, Layer) and layer.over_time:
            reduced = name


def never_by_steps(layers: Layers) -> Iterator[str]:
    """Why these layers cannot run step by step, a line for each that cannot."""
    for index, layer in enumerate(layers):
        name = name_of(layers, index)
        if isinstance(layer, GRU):
            if layer.bidirectional or layer.reverse:
                yield (
                    f"{name}: the reverse direction starts at the end of a sequence, which a "
                    "stream or pool never sees"
                )
        elif isinstance(layer, SequenceLayer) and not (
            isinstance(layer, Last) and not layer.bidirectional
        ):
            yield (
                f"{name}: needs all steps of a sequence, which a stream or pool never sees; "
                "call the model on whole sequences"
            )


def output_size(layer: Layer | GRU) -> int | None:
    """Of the last axis of what comes out; None: that of what goes in."""
    if isinstance(layer, GRU):
        return layer.hidden_size * (2 if layer.bidirectional else 1)
    return layer.output_size


def _takes_indices(layer: Layer | GRU) -> bool:
    return isinstance(layer, Layer) and layer.takes_indices


class Entry(NamedTuple):
    """What goes into the first layer of a chain."""

    takes_indices: bool
    size: int | None
    """Of the last axis of features; None: any, or indices."""
    classes: int | None
    """Of indices: they are below it; None for features."""
    batch_first: bool
    convert: Callable[[str, Any], Float32Array | Int64Array]

    def read(self, name: str, value: Any) -> Float32Array | Int64Array:
        """An argument as an array that the first layer takes; TypeError."""
        if not isinstance(value, (np.ndarray, int)) and is_packed(value):
            raise TypeError(
                f"{name}: expected an array, got a PackedSequence: pass the padded array and "
                "lengths"
            )
        return self.convert(name, value)

    def check_sequences(self, name: str, shape: tuple[int, ...]) -> tuple[int, int | None]:
        """T, and B or None where there is no batch; ShapeError."""
        batched = len(shape) == (2 if self.takes_indices else 3)
        if not (batched or len(shape) == (1 if self.takes_indices else 2)) or self._is_other(shape):
            axes = ("B", "T") if self.batch_first else ("T", "B")
            raise ShapeError(
                f"{name}: expected {self._text(*axes)} or {self._text('T')}, got {shape}"
            )
        if not batched:
            return shape[0], None
        return (shape[1], shape[0]) if self.batch_first else (shape[0], shape[1])

    def check_rows(
        self, name: str, shape: tuple[int, ...], rows: int, *, single: bool = True
    ) -> None:
        """One step of `rows` sequences, a `single` one also without that axis; ShapeError."""
        row = 0 if self.takes_indices else 1
        single = single and rows == 1
        single_row = len(shape) == row and single
        if not (single_row or (len(shape) == row + 1 and shape[0] == rows)) or self._is_other(
            shape
        ):
            row_text = f" or {self._text()}" if single else ""
            raise ShapeError(f"{name}: expected {self._text(rows)}{row_text}, got {shape}")

    def check_indices(self, name: str, x: Float32Array | Int64Array) -> None:
        """IndexError for indices out of range, which lists the first few of them."""
        if self.classes is None:
            return
        outside = np.unique(x[(x < 0) | (x >= self.classes)]).tolist()
        if outside:
            raise IndexError(f"{name}: expected 0 <= index < {self.classes}, got {listed(outside)}")

    def layout(self, x: Any) -> Layout:
        """T and B as far as x tells them."""
        _, shape, _ = seen("x", x, self.read)
        return layout_of(shape, self.size, self.batch_first, row=0 if self.takes_indices else 1)

    def problems(
        self, name: str, x: Any, rows: tuple[int | str, ...] | None = None
    ) -> Iterator[Problem]:
        """All that is wrong with x: of sequences, or of a step where `rows` are its first axes."""
        array, shape, problems = seen(name, x, self.read)
        yield from problems
        last: tuple[int | str, ...] = () if self.takes_indices else (self.size or "I",)
        axes = ("B", "T") if self.batch_first else ("T", "B")
        patterns = [(*axes, *last), ("T", *last)] if rows is None else [(*rows, *last)]
        yield from shape_problems(name, shape, *patterns)
        if array is not None:
            yield from problem_of(lambda: self.check_indices(name, array))

    def _is_other(self, shape: tuple[int, ...]) -> bool:
        return self.size is not None and shape[-1] != self.size

    def _text(self, *axes: int | str) -> str:
        last = () if self.takes_indices else ("I" if self.size is None else self.size,)
        return shape_text((*axes, *last))


def entry_of(layers: Layers) -> Entry:
    """Of layers that fit."""
    first = layers[0]
    takes_indices = _takes_indices(first)
    others = as_float32 if isinstance(first, GRU) else as_state
    sizes = () if takes_indices else (layer.input_size for layer in layers)
    return Entry(
        takes_indices=takes_indices,
        classes=_classes(first),
        size=next((size for size in sizes if size is not None), None),
        batch_first=any(isinstance(layer, GRU) and layer.batch_first for layer in layers),
        convert=as_int64 if takes_indices else others,
    )


def _classes(layer: Layer | GRU) -> int | None:
    if isinstance(layer, Embedding):
        return layer.num_embeddings
    return layer.num_classes if isinstance(layer, OneHot) else None


def run_layers(
    layers: Layers,
    x: Any,
    lengths: Int64Array | None,
    batch_first: bool,
    run_gru: RunGRU,
) -> Float32Array:
    """x, checked and read by the Entry, through all layers."""
    grus = 0
    for layer in layers:
        if isinstance(layer, GRU):
            x = run_gru(grus, layer, x)
            grus += 1
        elif isinstance(layer, SequenceLayer):
            x = layer._run(x, lengths, batch_first)
        else:
            x = layer._core.run(x)
    result: Float32Array = x
    return result
