"""Fuzzes the reader of `.pt` files, guided by coverage: a GRU or a FormatError, nothing run.

    pip install atheris                             # not part of any extra; Linux and macOS
    mkdir /tmp/found                                # where new inputs go
    python tests/fuzz/fuzz_torch_file.py /tmp/found tests/fuzz/corpus -max_total_time=600

An input's first byte says what the rest is: a file (0), the pickle of a zip archive with sound
checksums (1), or the pickle of a chain as before torch 1.6 (2), so that the pickle's opcodes are
reached without guessing a CRC. A crash is written to a file; give that instead of the folders to
see it again. `python tests/fuzz/fuzz_torch_file.py --seeds tests/fuzz/corpus` writes the inputs to
start from out of tests/data. Not part of pytest, which only replays the corpus; new inputs go there
if they run lines that none there does.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path

MAGIC = 0x1950A86A20F9469CFC6C
HEAD = b"".join(
    pickle.dumps(part, 2) for part in (MAGIC, 1001, {"little_endian": True, "type_sizes": {}})
)
KEYS = [str(key) for key in range(8)]
DATA = bytes(range(64)) * 64
DATA_FILES = Path(__file__).parents[1] / "data"


def as_file(data: bytes) -> bytes:
    """The file that an input stands for."""
    kind, rest = data[:1], data[1:]
    if kind == b"\1":
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(zipfile.ZipInfo("a/data.pkl"), rest)
            for key in KEYS:
                archive.writestr(zipfile.ZipInfo(f"a/data/{key}"), DATA[: 8 << int(key)])
        return file.getvalue()
    if kind == b"\2":
        storages = b"".join(
            (2 << int(key)).to_bytes(8, "little") + DATA[: 8 << int(key)] for key in KEYS
        )
        return HEAD + rest + pickle.dumps(KEYS, 2) + storages
    return rest


def seeds() -> Iterator[bytes]:
    for path in sorted(DATA_FILES.glob("*.pt")):
        data = path.read_bytes()
        yield b"\0" + data
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                yield b"\1" + archive.read(name)


if __name__ == "__main__":
    import harness

    harness.run(as_file, seeds, (DATA_FILES / "strided.pt").read_bytes())
