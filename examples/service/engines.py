"""What computes for the service: its interface, and fastgru's, a pool with a batcher before it.

The other engine, ONNX Runtime, is in onnx_engine.py. Both have the weights that `load_weights`
gives, so that a client with the same options can check answers.

Letters: T time, I input, H hidden size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import fastgru
import fastgru.aio

Array = NDArray[np.float32]


def load_weights(model: Path | None, prefix: str | None, shape: str, threads: int) -> fastgru.GRU:
    """The GRU in a file, or one of random weights, always the same, of the shape "I,H"."""
    if model is not None:
        gru = fastgru.load(model, prefix=prefix, num_threads=threads)
        if not isinstance(gru, fastgru.GRU):
            raise ValueError(f"{model}: expected a GRU, got {type(gru).__name__}")
        return gru
    sizes = shape.split(",")
    if len(sizes) != 2 or not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise ValueError(f"--shape: expected I,H such as 64,128, got {shape}")
    input_size, hidden_size = map(int, sizes)
    rng, bound = np.random.default_rng(0), hidden_size**-0.5
    shapes: dict[str, tuple[int, ...]] = {
        "weight_ih_l0": (3 * hidden_size, input_size),
        "weight_hh_l0": (3 * hidden_size, hidden_size),
        "bias_ih_l0": (3 * hidden_size,),
        "bias_hh_l0": (3 * hidden_size,),
    }
    state = {name: rng.uniform(-bound, bound, s).astype(np.float32) for name, s in shapes.items()}
    return fastgru.GRU.from_state_dict(state, num_threads=threads)


class Engine(Protocol):
    """Live sessions and whole sequences of one model."""

    name: str
    input_size: int
    hidden_size: int

    def open(self) -> int:
        """A new session's id; fastgru.PoolFullError where there are too many."""

    def close(self, session: int) -> None:
        """Ends an open session."""

    def sessions(self) -> list[int]:
        """The open sessions' ids."""

    async def step(self, session: int, x_t: Array) -> Array:
        """One step of an open session: (I,) -> (H,)."""

    def sequence(self, x: Array) -> Array:
        """A whole sequence from a zero state, on any thread: (T, I) -> (T, H)."""

    def counters(self) -> dict[str, float]:
        """Numbers for /metrics, by name."""

    async def aclose(self) -> None:
        """Returns when every step that was called is done."""

    def snapshot(self, path: Path) -> None:
        """Writes all sessions to a file, on any thread."""

    def restore(self, path: Path) -> None:
        """Replaces all sessions by those of a file."""


class FastgruEngine:
    """All sessions in one pool; what arrives at the same time is one step."""

    name = "fastgru"

    def __init__(self, gru: fastgru.GRU, capacity: int, **options: Any) -> None:
        """options: of fastgru.aio.Batcher."""
        self.input_size, self.hidden_size = gru.input_size, gru.hidden_size
        self._gru = gru
        self._pool = gru.pool(capacity)
        self._batcher = fastgru.aio.Batcher(self._pool, **options)
        self.open, self.close = self._pool.open, self._pool.close
        self.step, self.aclose = self._batcher.step, self._batcher.aclose
        self.snapshot, self.restore = self._pool.snapshot, self._pool.restore

    def sessions(self) -> list[int]:
        ids: list[int] = self._pool.ids.tolist()
        return ids

    def sequence(self, x: Array) -> Array:
        return self._gru(x)[0]

    def counters(self) -> dict[str, float]:
        return {f"batcher_{name}_total": n for name, n in vars(self._batcher.stats).items()}
