"""Weights in reduced precision: what bfloat16 and int8 make of a float32 spec.

Rounding happens here, once, before packing; `_core` stores and multiplies what it is given. Refuses
to reduce twice, and weights that int8 cannot hold.

int8 has one scale for each row of weights, and one for all inputs of a row and time step, so it is
for inputs of about one magnitude, as normalised features are. An input near 10,000 whose weights
are near 1e-4, beside inputs near 1, loses its weights to rounding, and the others lose digits to
its scale: outputs are then off by 0.4 and more. `fastgru.compare` says so. A scale for each input
column is in cpp/README.md, "Tried and lost", with what it would win.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable

import numpy as np

from fastgru.arrays import Float32Array
from fastgru.spec import GruSpec, tensor_names

PRECISIONS = ("float32", "bfloat16", "int8")
MOST = 127
"""The largest integer of int8 weights."""


def round_to_bfloat16(x: Float32Array) -> Float32Array:
    """To the nearest bfloat16, ties to even, still as float32; NaN stays NaN.

    >>> import numpy as np
    >>> round_to_bfloat16(np.array([1.001, 3.14159], np.float32)).tolist()
    [1.0, 3.140625]
    """
    bits = np.ascontiguousarray(x).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    rounded = np.where(np.isnan(x), bits | np.uint32(0x400000), rounded)
    return (rounded & np.uint32(0xFFFF0000)).view(np.float32)


def quantize(weight: Float32Array) -> tuple[Float32Array, Float32Array]:
    """Rows as integers in -127..127 (still as float32), and each row's scale.

    weight: (3H, K) -> (3H, K), (3H,) with weight close to integers * scale[:, None].

    >>> import numpy as np
    >>> integers, scale = quantize(np.array([[0.5, -1.0], [0.0, 0.0]], np.float32))
    >>> integers.tolist()
    [[64.0, -127.0], [0.0, 0.0]]
    """
    scale = scale_of(weight)
    return np.rint(weight / scale[:, None]), scale


def scale_of(weight: Float32Array) -> Float32Array:
    """(3H,): what makes the largest weight of each row MOST."""
    scale: Float32Array = np.abs(weight).max(axis=1) / np.float32(MOST)
    scale[scale < np.finfo(np.float32).tiny] = 1  # zeros, or what kernels flush to zero
    return scale


def state_steps(input_size: int, hidden_size: int) -> int:
    """Into how many steps int8 products cut a state of 1: kUnitsPerInput in cpp/network/pack.cpp.

    >>> state_steps(64, 64), state_steps(10, 64)
    (127, 32512)
    """
    return 32512 if 4 * input_size <= hidden_size else 127


def check_finite(name: str, weight: Float32Array) -> None:
    """ValueError for a weight that int8 cannot hold."""
    if not np.isfinite(weight).all():
        raise ValueError(f"{name}: int8 needs finite weights, there is a NaN or infinity")


def reduce_spec(spec: GruSpec, precision: str, keep: Iterable[int] = ()) -> GruSpec:
    """The spec with weights in `precision`, but for the layers `keep`, which stay in float32.

    A spec that is reduced already is returned as it is. ValueError for a layer that does not exist
    and for weights that are not finite where they would be int8.
    """
    kept = kept_layers(keep, spec.num_layers)
    if spec.precisions or precision == "float32" or len(kept) == spec.num_layers:
        return spec
    precisions = tuple(
        "float32" if layer in kept else precision for layer in range(spec.num_layers)
    )
    tensors, scales = dict(spec.tensors), {}
    for layer, name in weight_names(spec):
        if precisions[layer] == "bfloat16":
            tensors[name] = round_to_bfloat16(tensors[name])
        elif precisions[layer] == "int8":
            check_finite(name, tensors[name])
            tensors[name], scales[name] = quantize(tensors[name])
    return dataclasses.replace(spec, tensors=tensors, precisions=precisions, scales=scales)


def weight_names(spec: GruSpec) -> list[tuple[int, str]]:
    """Layer and name of every weight, in `_core`'s order."""
    return [
        (layer, name)
        for layer in range(spec.num_layers)
        for name in tensor_names([layer], spec.bidirectional, bias=False)
    ]


def kept_layers(layers: Iterable[int], count: int) -> set[int]:
    """The option `keep` of a network of `count` layers; TypeError or ValueError."""
    found = set()
    if not isinstance(layers, Iterable):
        raise TypeError(f"keep: expected layer numbers, [0] for the first, got {layers!r}")
    for layer in layers:
        if isinstance(layer, (bool, np.bool_)):
            raise TypeError(f"keep: expected layer numbers, got {layer!r}")
        try:
            index = operator.index(layer)
        except TypeError:
            raise TypeError(f"keep: expected layer numbers, got {layer!r}") from None
        if not 0 <= index < count:
            raise ValueError(f"keep: expected 0 <= layer < {count}, got {index}")
        found.add(index)
    return found
