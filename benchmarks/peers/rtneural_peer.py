"""RTNeural, sizes fixed when rtneural_peer.cpp is compiled, with the flags that it recommends.

By hand only: RTNEURAL_DIR names a checkout of it (`--rtneural DIR`), and xsimd's headers must be
on the compiler's path (Debian: libxsimd-dev; elsewhere CPLUS_INCLUDE_PATH).
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cases import Case
from benchmarks.compiled import build
from benchmarks.inputs import Inputs
from benchmarks.peers import Runner, native

SOURCE = Path(__file__).with_name("rtneural_peer.cpp")
FLAGS = ("-O3", "-march=native", "-ffast-math", "-std=c++17", "-fPIC", "-shared")

LARGEST = 128
"""H and I beyond which it is not compiled: it is meant for small networks, and unrolls by size."""


class Peer:
    precision = "float32"
    tolerance = 1e-4  # -ffast-math and xsimd's own exp and tanh

    def __init__(self) -> None:
        chosen = native.directory("RTNEURAL_DIR")
        if chosen is None:
            raise ImportError("give --rtneural DIR, a checkout of it")
        if not (chosen / "RTNeural/gru/gru.h").exists():
            raise ImportError(f"RTNEURAL_DIR: {chosen} has no RTNeural/gru/gru.h")
        self.directory = chosen
        self.version = "checkout"
        self._library(1, 8)  # now, so that a missing xsimd is said once

    def _library(self, columns: int, H: int) -> Any:
        flags = [*FLAGS, f"-I{self.directory}", f"-DPEER_I={columns}", f"-DPEER_H={H}"]
        loaded = ctypes.CDLL(str(build(SOURCE, flags, ".so")))
        loaded.fg_create.restype = ctypes.c_void_p
        loaded.fg_create.argtypes = [ctypes.c_size_t] + [ctypes.c_void_p] * 5
        loaded.fg_run.argtypes = [ctypes.c_void_p] * 3
        loaded.fg_run.restype = None
        loaded.fg_destroy.argtypes = [ctypes.c_void_p]
        return loaded

    def unsupported(self, case: Case) -> str | None:
        if case.B != 1 or case.L != 1 or case.D != 1 or not case.reset_after or case.ragged:
            return "one layer, one direction, batch 1, reset after only"
        if case.threads != 1:
            return "one thread only"
        return f"sizes above {LARGEST}" if max(case.H, case.I) > LARGEST else None

    def build(self, case: Case, inputs: Inputs) -> list[Runner]:
        library = self._library(case.I, case.H)
        x, y = inputs.x, np.empty((case.T, 1, case.H), np.float32)
        state = inputs.state
        w_i, w_h = (
            np.ascontiguousarray(native.weights(state[name]))
            for name in ("weight_ih_l0", "weight_hh_l0")
        )
        bias = np.stack([native.zrn(state[name]) for name in ("bias_ih_l0", "bias_hh_l0")])
        made = library.fg_create(case.T, *(native.pointer(a) for a in (x, y, w_i, w_h, bias)))
        handle, run = native.Handle(library, made, (x, y)), library.fg_run

        def call(h_0: ctypes.c_void_p, h_n: ctypes.c_void_p) -> None:
            run(handle.address, h_0, h_n)

        return [native.runner("C++, fast-math", case, y, call)]
