"""What the fuzzers share: an input becomes a file, which gives a model or a FormatError.

Needs atheris, which is no part of any extra (`pip install atheris`; Linux and macOS). Refuses
whatever imports a module, runs code or starts a process while a file is read. The readers of ONNX
and Keras files are not what is fuzzed here: an input that has become such a file is left alone.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

try:
    import atheris
except ImportError:
    sys.exit("this needs atheris: pip install atheris")
with atheris.instrument_imports(include=["fastgru.formats", "fastgru.spec"]):
    import fastgru
    from fastgru.formats import contents, model_file, npz_file, torch_file  # noqa: F401

FORBIDDEN = re.compile(r"import|exec|pickle\..*|os\.(system|exec|fork|posix_spawn)|subprocess.*")

watching = False


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if watching and FORBIDDEN.fullmatch(event):
        raise AssertionError(f"{event} {arguments[:1]}")


def one_file(data: bytes) -> None:
    """Loads the file; whatever it gives but a model or a FormatError ends the fuzzer."""
    global watching  # noqa: PLW0603
    fd = os.memfd_create("model")
    path = f"/proc/self/fd/{fd}"
    try:
        os.write(fd, data)
        watching = True
        try:
            with open(path, "rb") as file:
                if contents.look_into(file, None).is_foreign:
                    return
            model = fastgru.load(path, batch_first=False)
        except fastgru.FormatError:
            return
        finally:
            watching = False
        if isinstance(model, fastgru.GRU) and max(model.hidden_size, model.input_size) <= 64:
            model(np.zeros((1, 1, model.input_size), np.float32))
    finally:
        os.close(fd)


def run(
    as_file: Callable[[bytes], bytes], seeds: Callable[[], Iterable[bytes]], usual: bytes
) -> None:
    """The fuzzer's command: `--seeds FOLDER`, or libFuzzer's arguments.

    `as_file`: what file an input stands for; `usual`: a sound file, which is read once, so that
    what reading itself imports is there.
    """
    if sys.argv[1:2] == ["--seeds"]:
        for seed in seeds():
            (Path(sys.argv[2]) / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
        return
    one_file(usual)
    # These are imported by zipfile, by Counter and for a text that is not JSON, at their first use.
    for name in ("encodings.cp437", "heapq", "encodings.ascii"):
        importlib.import_module(name)
    sys.addaudithook(watch)
    atheris.Setup(sys.argv, lambda data: one_file(as_file(data)))
    atheris.Fuzz()
