"""torch's PackedSequence in and out, by duck typing: what torch.nn.GRU does with one.

Inside, the rows are laid out padded, in the PackedSequence's own (sorted) order. Refuses a
PackedSequence whose parts contradict each other. torch is never imported here: an object of its
type can only come from a process that has.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import numpy as np

from fastgru.arrays import Float32Array, Int64Array, as_float32, as_int64, is_torch_tensor
from fastgru.problems import Network, Problem, listed, raise_any, seen, shape_problems


class PackedSequenceLike(Protocol):
    """The parts of a torch.nn.utils.rnn.PackedSequence."""

    @property
    def data(self) -> Any: ...
    @property
    def batch_sizes(self) -> Any: ...
    @property
    def sorted_indices(self) -> Any: ...
    @property
    def unsorted_indices(self) -> Any: ...


Packed = TypeVar("Packed", bound=PackedSequenceLike)
# x (T, B, I), h_0 (L*D, B, H) or None, lengths (B,) -> output (T, B, D*H), h_n (L*D, B, H)
Run = Callable[[Float32Array, Float32Array | None, Int64Array], tuple[Float32Array, Float32Array]]


def is_packed(x: object) -> bool:
    return hasattr(x, "batch_sizes") and hasattr(x, "sorted_indices")


def run_packed(
    run: Run, x: Packed, h_0: Float32Array | None, network: Network
) -> tuple[Packed, Float32Array]:
    """Runs a packed `x`; h_0 and h_n are in the user's order, as in torch.

    Raises ShapeError for data that is not (total, I) and an h_0 that is not (L*D, B, H), ValueError
    for a PackedSequence that contradicts itself; the message lists all that is wrong.
    """
    raise_any("the packed call", _problems(x, h_0, network))
    data = as_float32("x.data", x.data)
    sizes = as_int64("x.batch_sizes", x.batch_sizes)
    batch = int(sizes[0])
    if h_0 is not None:
        h_0 = _permuted(h_0, x.sorted_indices)

    valid = np.arange(batch) < sizes[:, None]  # (T, B); in row-major order this is data's order
    padded = np.zeros((*valid.shape, data.shape[1]), np.float32)
    padded[valid] = data
    output, h_n = run(padded, h_0, np.count_nonzero(valid, axis=0).astype(np.int64))
    result: Any = output[valid]
    if is_torch_tensor(x.data):
        result = sys.modules["torch"].from_numpy(result)
    packed = type(x)(result, x.batch_sizes, x.sorted_indices, x.unsorted_indices)  # type: ignore[call-arg]
    return packed, _permuted(h_n, x.unsorted_indices)


def _problems(
    x: PackedSequenceLike, h_0: Float32Array | None, network: Network
) -> Iterator[Problem]:
    """All that is wrong with a PackedSequence and its h_0."""
    _, shape, problems = seen("x.data", x.data, as_float32)
    yield from problems
    yield from shape_problems("x.data", shape, ("total", network.input_size))
    sizes, _, problems = seen("x.batch_sizes", x.batch_sizes, as_int64)
    yield from problems
    batch: int | str = "B"
    if sizes is not None:
        if sizes.ndim != 1 or not sizes.size or sizes[-1] < 1 or np.any(sizes[1:] > sizes[:-1]):
            text = "expected positive integers that never grow"
            yield Problem(ValueError, f"x.batch_sizes: {text}")
        else:
            batch = int(sizes[0])
            if shape and sizes.sum() != shape[0]:
                text = f"expected a sum of {shape[0]}, got {sizes.sum()}"
                yield Problem(ValueError, f"x.batch_sizes: {text}")
    if h_0 is not None:
        states = network.num_layers * (2 if network.bidirectional else 1)
        yield from shape_problems("h_0", h_0.shape, (states, batch, network.hidden_size))
    for name in ("sorted_indices", "unsorted_indices"):
        indices = getattr(x, name)
        if indices is None:  # packed with enforce_sorted=True
            continue
        order, _, problems = seen(f"x.{name}", indices, as_int64)
        yield from problems
        if order is None or isinstance(batch, str):
            continue
        if not np.array_equal(np.sort(order, axis=None), np.arange(batch)):
            text = f"expected a permutation of 0..{batch - 1}, got [{listed(order.ravel())}]"
            yield Problem(ValueError, f"x.{name}: {text}")


def _permuted(states: Float32Array, indices: Any) -> Float32Array:
    if indices is None:  # packed with enforce_sorted=True
        return states
    # np.take: even axes of size 1 have the strides of a C-contiguous array.
    return np.take(states, as_int64("indices", indices), axis=1)
