"""oneDNN through its C++ interface: onednn_peer.cpp, compiled on demand.

Headers and library are those of the packages onednn-devel-cpu-gomp and onednn-cpu-gomp, or of the
directory in ONEDNN_DIR (with include/ and lib/), which wins.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cases import Case
from benchmarks.compiled import build
from benchmarks.inputs import Array32, Inputs, suffixes
from benchmarks.peers import FLOAT32_TOLERANCE, Runner, native

SOURCE = Path(__file__).with_name("onednn_peer.cpp")
SHAPE = ("T", "B", "I", "H", "L", "D", "reset_after", "threads", "stacked")


class Shape(ctypes.Structure):
    """Of the source's name."""

    _fields_ = [(name, ctypes.c_int) for name in SHAPE]


def find() -> tuple[Path, Path]:
    """Directories of headers and library."""
    chosen = native.directory("ONEDNN_DIR")
    if chosen is None:
        header = native.installed("onednn-devel-cpu-gomp", "include/oneapi/dnnl/dnnl.hpp")
        return header.parents[2], native.installed("onednn-cpu-gomp", "libdnnl.so").parent
    libraries = [chosen / name for name in ("lib", "lib64") if (chosen / name).is_dir()]
    if not libraries or not (chosen / "include/oneapi/dnnl/dnnl.hpp").exists():
        raise ImportError(f"ONEDNN_DIR: {chosen} has no include/oneapi/dnnl/dnnl.hpp or no lib")
    return chosen / "include", libraries[0]


def _bias(b_i: Array32, b_h: Array32, reset_after: bool) -> Array32:
    """[4, H] with the candidate's recurrent bias last, or [3, H] where they can be added."""
    both, recurrent = native.zrn(b_i + b_h), native.zrn(b_h)
    if not reset_after:
        return both
    return np.stack([both[0], both[1], native.zrn(b_i)[2], recurrent[2]])


class Peer:
    precision = "float32"
    tolerance = FLOAT32_TOLERANCE

    def __init__(self) -> None:
        include, library = find()
        flags = ["-O2", "-std=c++17", "-fPIC", "-shared", "-fopenmp", f"-I{include}"]
        flags += [f"-L{library}", "-ldnnl", f"-Wl,-rpath,{library}"]
        try:
            loaded: Any = ctypes.CDLL(str(build(SOURCE, flags, ".so")))
        except OSError as error:
            raise ImportError(str(error)) from error
        loaded.fg_create.restype = ctypes.c_void_p
        loaded.fg_run.argtypes = [ctypes.c_void_p] * 3
        loaded.fg_destroy.argtypes = [ctypes.c_void_p]
        self.library = loaded
        version = loaded.fg_version()
        self.version = f"{version // 10000}.{version // 100 % 100}.{version % 100}"

    def unsupported(self, case: Case) -> str | None:
        return "its primitive takes no lengths" if case.ragged else None

    def build(self, case: Case, inputs: Inputs) -> list[Runner]:
        # One primitive for all layers is possible where they have the same shape.
        ways = [False] + ([True] if case.L > 1 and case.I == case.H and case.D == 1 else [])
        return [self._runner(case, inputs, stacked) for stacked in ways]

    def _runner(self, case: Case, inputs: Inputs, stacked: bool) -> Runner:
        x, y = inputs.x, np.empty((case.T, case.B, case.D * case.H), np.float32)
        layers = [_layer(case, inputs, k) for k in range(case.L)]
        parameters = []  # of weights_ih, weights_hh and bias: the layers' pointers
        kept: list[Array32] = []
        for kind in zip(*layers, strict=True):
            blocks = list(np.stack(kind)) if stacked else list(kind)  # views one behind the other
            kept += blocks
            parameters.append((ctypes.c_void_p * case.L)(*(block.ctypes.data for block in blocks)))
        fields = {name: int(getattr(case, name)) for name in SHAPE if name != "stacked"}
        error = ctypes.create_string_buffer(256)
        made = self.library.fg_create(
            ctypes.byref(Shape(**fields, stacked=int(stacked))),
            native.pointer(x),
            native.pointer(y),
            *parameters,
            error,
        )
        if not made:
            raise RuntimeError(error.value.decode(errors="replace"))
        handle, run = native.Handle(self.library, made, (x, y)), self.library.fg_run

        def call(h_0: ctypes.c_void_p, h_n: ctypes.c_void_p) -> None:
            if run(handle.address, h_0, h_n):
                raise RuntimeError("oneDNN failed")

        setting = "C++" if case.L == 1 else "C++, one primitive" if stacked else "C++, by layer"
        return native.runner(setting, case, y, call)


def _layer(case: Case, inputs: Inputs, layer: int) -> tuple[Array32, Array32, Array32]:
    """Its parameters in fg_create's layouts, contiguous."""
    state = inputs.state
    ends = [suffix for k, suffix in suffixes(case) if k == layer]
    w_i, w_h = (
        np.stack([native.weights(state[name + end]) for end in ends])
        for name in ("weight_ih", "weight_hh")
    )
    bias = [_bias(state["bias_ih" + end], state["bias_hh" + end], case.reset_after) for end in ends]
    return np.ascontiguousarray(w_i), np.ascontiguousarray(w_h), np.stack(bias)
