"""What clients send, checked: frames of a stream and bodies of whole sequences.

Raises ValueError with a sentence for the client, whatever the bytes are. Values must be finite: a
NaN would stay in its session for ever.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from engines import Array


def frame_limit(input_size: int) -> int:
    """Most bytes of a frame: float64's longest decimal digits, a comma and a space a value."""
    return 32 * input_size + 64


def read_frame(message: Mapping[str, Any], input_size: int) -> tuple[Array, bool]:
    """x_t (I,) of a WebSocket message, and whether it came as JSON."""
    data = message.get("bytes")
    if data is None:
        return _finite("frame", _numbers("frame", _json(message["text"]), (input_size,))), True
    if len(data) != 4 * input_size:
        raise ValueError(
            f"frame: expected {input_size} float32 ({4 * input_size} bytes), got {len(data)} bytes"
        )
    return _finite("frame", np.frombuffer(data, "<f4")), False


def write_frame(y: Array, as_json: bool) -> str | bytes:
    """Y (O,) in the form in which its frame came. JSON has all digits: the same bits come out."""
    return json.dumps(y.tolist()) if as_json else y.astype("<f4", copy=False).tobytes()


def read_sequences(body: bytes, input_size: int, most_steps: int) -> list[Array]:
    """X (T, I) of each sequence in {"sequences": [[[number, ...], ...], ...]}."""
    fields = _json(body)
    if not (isinstance(fields, dict) and isinstance(fields.get("sequences"), list)):
        raise ValueError('body: expected {"sequences": [...]}')
    found = []
    for number, values in enumerate(fields["sequences"]):
        name = f"sequences[{number}]"
        if not isinstance(values, list):
            raise ValueError(f"{name}: expected a list of frames")
        if not values:
            raise ValueError(f"{name}: expected at least one frame")
        found.append(_finite(name, _numbers(name, values, (len(values), input_size))))
    steps = sum(map(len, found))
    if steps > most_steps:
        raise OverflowError(f"expected at most {most_steps} frames in all sequences, got {steps}")
    return found


def _json(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON: {error}") from None


def _numbers(name: str, values: Any, shape: tuple[int, ...]) -> Array:
    expected = f"{name}: expected numbers of shape {list(shape)}"
    if not isinstance(values, list):
        raise ValueError(f"{expected}, got {type(values).__name__}")
    try:
        array = np.array(values) if values else np.zeros(shape)
    except ValueError:
        raise ValueError(f"{expected}, got lists of different lengths") from None
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{expected}, got {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{expected}, got {list(array.shape)}")
    with np.errstate(over="ignore"):  # infinite, which is refused
        return array.astype(np.float32)


def _finite(name: str, x: Array) -> Array:
    if not np.isfinite(x).all():
        raise ValueError(f"{name}: expected finite float32 numbers")
    return x
