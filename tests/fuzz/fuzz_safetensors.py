"""Fuzzes the reader of safetensors files, guided by coverage: a model or a FormatError.

    pip install atheris
    mkdir /tmp/found
    python tests/fuzz/fuzz_safetensors.py /tmp/found tests/fuzz/corpus_safetensors \
        -max_total_time=600

An input's first byte says what the rest is: a file (0), the header of a file whose tensors are
there (1), the description of a native file (2), or that of a native file in reduced precision (3),
so that lengths need not be guessed. A crash is written to a file; give that instead of the folders
to see it again. `--seeds FOLDER` writes the inputs to start from. Not part of pytest, which only
replays the corpus.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

I, H = 3, 2  # noqa: E741
SHAPES = {
    "weight_ih_l0": [3 * H, I],
    "weight_hh_l0": [3 * H, H],
    "bias_ih_l0": [3 * H],
    "bias_hh_l0": [3 * H],
}
DESCRIPTION: dict[str, Any] = {
    "format_version": 1,
    "kind": "gru",
    "input_size": I,
    "hidden_size": H,
    "num_layers": 1,
    "bidirectional": False,
    "bias": True,
    "batch_first": False,
    "reset_after": True,
    "activation": "tanh",
    "recurrent_activation": "sigmoid",
    "precision": "float32",
}
REDUCED = DESCRIPTION | {"format_version": 2, "precision": "int8", "precisions": ["int8"]}
LAYERS = [
    {"kind": "one_hot", "num_classes": I},
    {name: value for name, value in DESCRIPTION.items() if name != "format_version"},
    {"kind": "layer_norm", "weight": False, "bias": False, "eps": 1e-5},
    {"kind": "last", "bidirectional": False},
]
MODEL = {"format_version": 4, "kind": "model", "layers": LAYERS}
DATA = bytes([0, 0, 128, 62]) * 200  # float32 0.25, and small integers


def header(reduced: bool, metadata: dict[str, str]) -> dict[str, Any]:
    """The header of a file of one GRU."""
    entries: dict[str, Any] = {"__metadata__": metadata}
    shapes = dict(SHAPES)
    if reduced:
        shapes |= {f"{name}_scale": [3 * H] for name in SHAPES if name.startswith("weight")}
    end = 0
    for name, shape in shapes.items():
        is_int8 = reduced and len(shape) == 2
        size = shape[0] * (shape[1] if len(shape) == 2 else 1) * (1 if is_int8 else 4)
        dtype = "I8" if is_int8 else "F32"
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    return entries


def size_of(entries: dict[str, Any]) -> int:
    """The bytes of its tensors."""
    return max(int(e["data_offsets"][1]) for n, e in entries.items() if n != "__metadata__")


def with_header(text: bytes, size: int) -> bytes:
    return len(text).to_bytes(8, "little") + text + DATA[:size]


def as_file(data: bytes) -> bytes:
    """The file that an input stands for."""
    kind, rest = data[:1], data[1:]
    if kind == b"\1":
        return with_header(rest, size_of(header(False, {})))
    if kind in (b"\2", b"\3"):
        entries = header(kind == b"\3", {"fastgru": rest.decode("latin-1")})
        return with_header(json.dumps(entries).encode(), size_of(entries))
    return rest


def seeds() -> Iterator[bytes]:
    plain = json.dumps(header(False, {"format": "pt"})).encode()
    yield b"\1" + plain
    yield b"\1" + plain.replace(b" ", b"").replace(b'"bias', b'"\\u0062ias')
    yield b"\0" + with_header(plain, size_of(header(False, {})))
    yield b"\2" + json.dumps(DESCRIPTION).encode()
    yield b"\2" + json.dumps(MODEL).encode()
    yield b"\3" + json.dumps(REDUCED).encode()
    for description in (DESCRIPTION, REDUCED):
        entries = header(description is REDUCED, {"fastgru": json.dumps(description)})
        yield b"\0" + with_header(json.dumps(entries).encode(), size_of(entries))


if __name__ == "__main__":
    import harness

    harness.run(as_file, seeds, as_file(next(seeds())))
