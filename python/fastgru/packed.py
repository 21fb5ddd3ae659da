"""torch's PackedSequence in and out, by duck typing: what torch.nn.GRU does with one.

Inside, the rows are laid out padded, in the PackedSequence's own (sorted) order. Refuses a
PackedSequence whose parts contradict each other. torch is never imported here: an object of its
type can only come from a process that has.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np

from fastgru.arrays import Float32Array, Int64Array, as_float32, as_int64, is_torch_tensor
from fastgru.errors import ShapeError


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
    run: Run, x: Packed, h_0: Float32Array | None, num_states: int
) -> tuple[Packed, Float32Array]:
    """Runs a packed `x`; h_0 and h_n are in the user's order, as in torch.

    `num_states` is L*D. Raises ShapeError for an h_0 that is not (L*D, B, H), ValueError for a
    PackedSequence that contradicts itself.
    """
    data = as_float32("x.data", x.data)
    sizes = as_int64("x.batch_sizes", x.batch_sizes)
    if data.ndim != 2:
        raise ShapeError(f"x.data: expected (total, I), got {data.shape}")
    if sizes.ndim != 1 or not sizes.size or sizes[-1] < 1 or np.any(sizes[1:] > sizes[:-1]):
        raise ValueError("x.batch_sizes: expected positive integers that never grow")
    if sizes.sum() != len(data):
        raise ValueError(f"x.batch_sizes: expected a sum of {len(data)}, got {sizes.sum()}")
    batch = int(sizes[0])
    if h_0 is not None:
        if h_0.ndim != 3 or h_0.shape[:2] != (num_states, batch):
            raise ShapeError(f"h_0: expected ({num_states}, {batch}, H), got {h_0.shape}")
        h_0 = _permuted(h_0, "x.sorted_indices", x.sorted_indices)

    valid = np.arange(batch) < sizes[:, None]  # (T, B); in row-major order this is data's order
    padded = np.zeros((*valid.shape, data.shape[1]), np.float32)
    padded[valid] = data
    output, h_n = run(padded, h_0, np.count_nonzero(valid, axis=0).astype(np.int64))
    result: Any = output[valid]
    if is_torch_tensor(x.data):
        result = sys.modules["torch"].from_numpy(result)
    packed = type(x)(result, x.batch_sizes, x.sorted_indices, x.unsorted_indices)  # type: ignore[call-arg]
    return packed, _permuted(h_n, "x.unsorted_indices", x.unsorted_indices)


def _permuted(states: Float32Array, name: str, indices: Any) -> Float32Array:
    if indices is None:  # packed with enforce_sorted=True
        return states
    order = as_int64(name, indices)
    batch = states.shape[1]
    if not np.array_equal(np.sort(order), np.arange(batch)):
        raise ValueError(f"{name}: expected a permutation of 0..{batch - 1}, got {order.tolist()}")
    return np.take(states, order, axis=1)  # of which even axes of size 1 have a C array's strides
