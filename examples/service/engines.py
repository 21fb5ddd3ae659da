"""What computes for the service: its interface, and fastgru's, a pool with a batcher before it.

The other engine, ONNX Runtime, is in onnx_engine.py. Both have the weights that `load_network`
gives, so that a client with the same options can check answers.

Letters: T time, I input, O output size, which is H, the hidden size, of a bare GRU.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

import fastgru
import fastgru.aio

Array = NDArray[np.float32]
Network = fastgru.GRU | fastgru.Model


def stop(error: object) -> NoReturn:
    """Ends the command with one line on stderr and exit status 2."""
    lines = [line.strip() for line in str(error).splitlines()]
    print(f"{Path(sys.argv[0]).name}: {'; '.join(lines)}", file=sys.stderr)
    raise SystemExit(2)


def load_network(model: Path | None, prefix: str | None, shape: str, threads: int) -> Network:
    """The GRU or Model in a file, or a GRU of random weights, always the same, of the shape "I,H".

    Raises what `fastgru.load` does, and ValueError for a network that this service cannot run.
    """
    if model is None:
        return random_gru(shape, threads)
    with warnings.catch_warnings():
        # A frame is one step of one sequence: whether arrays are batch_first makes no difference.
        warnings.simplefilter("ignore", fastgru.LayoutWarning)
        network: Network = fastgru.load(model, prefix=prefix, num_threads=threads)
    try:
        network.pool(1)  # says why there can be no live sessions of it
    except ValueError as error:
        raise ValueError(f"{model}: this service steps live sessions: {error}") from None
    if isinstance(network, fastgru.Model) and network.input_size is None:
        first = type(network.layers[0]).__name__
        raise ValueError(
            f"{model}: this service takes frames of numbers, and the model takes indices: expected "
            f"none of Embedding and OneHot, got {first}; "
            "fastgru.Model(model.layers[1:]).save(...) writes the layers behind it"
        )
    return network


def random_gru(shape: str, threads: int) -> fastgru.GRU:
    """A GRU of random weights, always the same; ValueError for what is no shape "I,H"."""
    numbers = shape.split(",")
    if len(numbers) != 2 or not all(n.isdecimal() and int(n) > 0 for n in numbers):
        raise ValueError(f"--shape: expected I,H such as 64,128, got {shape}")
    input_size, hidden_size = map(int, numbers)
    rng, bound = np.random.default_rng(0), hidden_size**-0.5
    shapes: dict[str, tuple[int, ...]] = {
        "weight_ih_l0": (3 * hidden_size, input_size),
        "weight_hh_l0": (3 * hidden_size, hidden_size),
        "bias_ih_l0": (3 * hidden_size,),
        "bias_hh_l0": (3 * hidden_size,),
    }
    state = {name: rng.uniform(-bound, bound, s).astype(np.float32) for name, s in shapes.items()}
    return fastgru.GRU.from_state_dict(state, num_threads=threads)


def sizes(network: Network) -> tuple[int, int]:
    """I and O of what `load_network` gives."""
    if isinstance(network, fastgru.GRU):
        return network.input_size, network.hidden_size
    assert network.input_size is not None
    assert network.output_size is not None
    return network.input_size, network.output_size


class Engine(Protocol):
    """Live sessions and whole sequences of one model."""

    name: str
    input_size: int
    output_size: int

    def open(self) -> int:
        """A new session's id; fastgru.PoolFullError where there are too many."""

    def close(self, session: int) -> None:
        """Ends an open session."""

    def sessions(self) -> list[int]:
        """The open sessions' ids."""

    async def step(self, session: int, x_t: Array) -> Array:
        """One step of an open session: (I,) -> (O,)."""

    def sequence(self, x: Array) -> Array:
        """A whole sequence from a zero state, on any thread: (T, I) -> (T, O)."""

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

    def __init__(self, network: Network, capacity: int, **options: Any) -> None:
        """options: of fastgru.aio.Batcher."""
        self.input_size, self.output_size = sizes(network)
        self._network = network
        self._pool = network.pool(capacity)
        self._batcher = fastgru.aio.Batcher(self._pool, **options)
        self.open, self.close = self._pool.open, self._pool.close
        self.step, self.aclose = self._batcher.step, self._batcher.aclose
        self.snapshot, self.restore = self._pool.snapshot, self._pool.restore

    def sessions(self) -> list[int]:
        ids: list[int] = self._pool.ids.tolist()
        return ids

    def sequence(self, x: Array) -> Array:
        return self._network.stream().run(x)

    def counters(self) -> dict[str, float]:
        return {f"batcher_{name}_total": n for name, n in vars(self._batcher.stats).items()}
