"""Named tensors -> a safetensors file, tensor by tensor.

The bytes are those that the safetensors package writes for the same tensors, and the same each
time, so that files can be compared. What is converted is converted in pieces: writing needs no
second copy of a tensor.
Refuses nothing itself: which names and dtypes there are is the caller's business.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgru.arrays import Float32Array
from fastgru.formats.atomic import replacing
from fastgru.formats.safetensors_header import BITS, METADATA

_ORDER = ("F32", "BF16", "I8")  # as the package sorts what it writes: dtypes, then names
_PIECE = 1 << 18  # elements that are converted at once


def write(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Float32Array],
    metadata: Mapping[str, str],
    dtypes: Mapping[str, str] | None = None,
) -> None:
    """Writes a file to `path`, atomically; OSError.

    `dtypes`: BF16 or I8 for those whose values these hold exactly; the others are F32.
    """
    kinds = {name: (dtypes or {}).get(name, "F32") for name in tensors}
    names = sorted(tensors, key=lambda name: (_ORDER.index(kinds[name]), name))
    header: dict[str, Any] = {METADATA: dict(metadata)}
    end = 0
    for name in names:
        begin, end = end, end + tensors[name].size * BITS[kinds[name]] // 8
        header[name] = {
            "dtype": kinds[name],
            "shape": tensors[name].shape,
            "data_offsets": (begin, end),
        }
    # Files that hold bfloat16 have had these spaces since there are any.
    separators = (", ", ": ") if "BF16" in kinds.values() else (",", ":")
    text = json.dumps(header, ensure_ascii=False, separators=separators).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in names:
            for piece in _pieces(tensors[name], kinds[name]):
                file.write(piece.data)


def _pieces(tensor: Float32Array, dtype: str) -> Iterator[NDArray[Any]]:
    """The bytes of a tensor, in order."""
    flat = np.ascontiguousarray(tensor, "<f4").reshape(-1)
    if dtype == "F32":
        yield flat
        return
    for index in range(0, flat.size, _PIECE):
        piece = flat[index : index + _PIECE]
        if dtype == "BF16":  # the upper half of a float32
            yield np.ascontiguousarray(piece.view("<u2")[1::2])
        else:
            yield piece.astype(np.int8)
