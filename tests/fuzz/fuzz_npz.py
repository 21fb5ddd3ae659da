"""Fuzzes the reader of `.npz` files, guided by coverage: a GRU or a FormatError.

    pip install atheris
    mkdir /tmp/found
    python tests/fuzz/fuzz_npz.py /tmp/found tests/fuzz/corpus_npz -max_total_time=600

An input's first byte says what the rest is: a file (0), one member of a sound archive (1), or the
header of one member (2), so that no CRC need be guessed. A crash is written to a file; give that
instead of the folders to see it again. `--seeds FOLDER` writes the inputs to start from. Not part
of pytest, which only replays the corpus.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

I, H = 3, 2  # noqa: E741
ARRAYS: dict[str, np.ndarray[Any, np.dtype[Any]]] = {
    "weight_ih_l0": np.full((3 * H, I), 0.25, np.float32),
    "weight_hh_l0": np.full((3 * H, H), 0.25, np.float16),
    "bias_ih_l0": np.full((3 * H,), 0.25, np.float64),
    "bias_hh_l0": np.full((3 * H,), 0.25, ">f4"),
}


def npy_bytes(array: np.ndarray[Any, np.dtype[Any]]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array)
    return file.getvalue()


def archive_of(changed: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A sound archive of a GRU, some of whose members have other bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in ({n: npy_bytes(a) for n, a in ARRAYS.items()} | changed).items():
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), data, compression)
    return file.getvalue()


def as_file(data: bytes) -> bytes:
    """The file that an input stands for."""
    kind, rest = data[:1], data[1:]
    if kind == b"\1":
        return archive_of({"weight_ih_l0": rest})
    if kind == b"\2":
        head = b"\x93NUMPY\2\0" + len(rest).to_bytes(4, "little")
        return archive_of({"weight_ih_l0": head + rest + ARRAYS["weight_ih_l0"].tobytes()})
    return rest


def seeds() -> Iterator[bytes]:
    member = npy_bytes(ARRAYS["weight_ih_l0"])
    yield b"\0" + archive_of({})
    yield b"\0" + archive_of({}, zipfile.ZIP_DEFLATED)
    yield b"\1" + member
    yield b"\1" + npy_bytes(np.asfortranarray(ARRAYS["weight_ih_l0"]))
    yield b"\2" + member[10:].partition(b"\n")[0]


if __name__ == "__main__":
    import harness

    harness.run(as_file, seeds, archive_of({}))
