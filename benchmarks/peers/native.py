"""Peers that are C++ libraries: where their headers are, and calls into them through ctypes.

Everything such a peer needs is bound beforehand, so that a timed call passes a few pointers. Knows
no library in particular.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cases import Case
from benchmarks.inputs import CHECK_STEPS, Answer, Array32
from benchmarks.peers import Runner


def directory(variable: str) -> Path | None:
    """Where the user says that a library is; ImportError if there is nothing."""
    text = os.environ.get(variable)
    if not text:
        return None
    path = Path(text)
    if not path.is_dir():
        raise ImportError(f"{variable}: {text} is not a directory")
    return path


def installed(distribution: str, end: str) -> Path:
    """The installed file of a distribution whose path ends so; ImportError if there is none."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise ImportError(f"no package {distribution}") from error
    for file in files:
        if str(file).endswith(end):
            return Path(str(file.locate())).resolve()
    raise ImportError(f"package {distribution} has no {end}")


def pointer(array: Array32) -> ctypes.c_void_p:
    """To its first float; the array must outlive what keeps it."""
    return ctypes.c_void_p(array.ctypes.data)


def zrn(rows: Array32) -> Array32:
    """PyTorch's gates r, z, n along the first axis, [3*H, ...] -> z, r, n, [3, H, ...].

    This is oneDNN's order u, r, o: its update gate keeps the old state, as z does.
    """
    return rows.reshape(3, -1, *rows.shape[1:])[[1, 0, 2]]


def weights(rows: Array32) -> Array32:
    """[3*H, K] -> [K, 3, H], gates z, r, n."""
    return zrn(rows).transpose(2, 0, 1)


class Handle:
    """Owns what a library's fg_create made, and keeps the arrays that it points to."""

    def __init__(self, library: Any, address: int, arrays: tuple[Array32, ...]) -> None:
        self.library, self.address, self.arrays = library, address, arrays

    def __del__(self) -> None:
        self.library.fg_destroy(self.address)


def runner(
    setting: str, case: Case, y: Array32, call: Callable[[ctypes.c_void_p, ctypes.c_void_p], object]
) -> Runner:
    """Of `call(h_0, h_n)`, states [L*D, B, H], which writes into y [T, B, D*H].

    A live sequence's state goes back and forth between two arrays, so that no call has to copy it.
    """
    states = [np.zeros((case.L * case.D, case.B, case.H), np.float32) for _ in range(2)]
    turns = [(pointer(states[0]), pointer(states[1]))]
    turns.append(turns[0][::-1])
    carried = case.mode != "call"

    def step() -> None:
        call(*turns[0])
        turns.reverse()

    def whole() -> None:
        call(*turns[0])

    def answer() -> Answer:
        for state in states:
            state[:] = 0
        for _ in range(CHECK_STEPS if carried else 1):
            run()
        # Whole: written into the second array. Step: an even number of turns ends in the first.
        return y.copy(), states[0 if carried else 1].copy()

    run = step if carried else whole
    return Runner(setting, run, answer)
