"""What a GRU node takes beside X and its weights: initial_h and sequence_lens.

Both are arguments of a call to fastgru, so that they must be inputs of the graph. Refuses states
and lengths that the file fixes, and those that it calculates, and says how to pass them instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastgru.errors import UnsupportedLayerError
from fastgru.formats.onnx.layout import Values
from fastgru.formats.onnx.values import (
    Const,
    Data,
    Fill,
    Frame,
    Piece,
    Repeated,
    Source,
    axes_text,
    size_of,
)


def initial_h(inputs: Values) -> tuple[Source, int, int] | None:
    """None for zeros; else the input of the graph, and which of its rows."""
    value = inputs[5] if len(inputs) > 5 else None
    if value is None or (isinstance(value, Fill) and not np.any(value.number)):
        return None
    if isinstance(value, Const) and value.array.dtype.kind == "f" and not np.any(value.array):
        return None
    if isinstance(value, Const | Fill | Repeated):
        how = "repeated for each row of the batch" if isinstance(value, Repeated) else "fixed"
        raise UnsupportedLayerError(
            f"initial_h: a state other than zeros (a learned initial state?), {how} in the file; "
            "fastgru takes it from a call: export the GRU without it, load that as a GRU, and pass "
            "the state as h_0 (L*D, B, H) in each call"
        )
    whole = value.whole if isinstance(value, Piece) else value
    if (
        not (isinstance(value, Data | Piece) and isinstance(whole, Data))
        or whole.last is not None
        or whole.is_integer
    ):
        raise UnsupportedLayerError("initial_h: it is calculated from the input")
    given = [atom for group in whole.source.axes for atom in group]
    if len(value.axes) != 3 or [atom for group in value.axes for atom in group] != given:
        raise UnsupportedLayerError(
            f"initial_h: expected an input as it is, (L*D, B, H), got {axes_text(value.axes)}"
        )
    if isinstance(value, Piece):
        return whole.source, value.start, value.stop
    rows = size_of(whole.source.axes[0])
    return whole.source, 0, rows if isinstance(rows, int) else -1


def lengths_of(inputs: Values, frame: Frame) -> Source | None:
    """The input of the graph that sequence_lens is; None where every row has all steps."""
    value = inputs[4] if len(inputs) > 4 else None
    if value is None:
        return None
    is_input = isinstance(value, Data) and value.last is None and value.is_integer
    if isinstance(value, Data) and is_input and len(value.axes) == len(value.source.axes) == 1:
        return value.source
    if isinstance(value, Const | Fill):
        numbers: Sequence[Any] = (
            [value.number] if isinstance(value, Fill) else value.array.reshape(-1).tolist()
        )
        steps = frame.time if frame.time.size is None else frame.time.size
        if all(number is steps or number == steps for number in numbers):
            return None
        raise UnsupportedLayerError(
            "sequence_lens: lengths fixed in the file; pass them as lengths="
        )
    raise UnsupportedLayerError("sequence_lens: expected an input as it is, (B,)")
