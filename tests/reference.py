"""The definition of correct: a GRU in float64, written like the equations it stands for.

Weights are a dict of PyTorch's names (`weight_ih_l0`, `bias_hh_l1_reverse`, ...), rows in the order
r, z, n. Everything is (T, B, ...). This is the only place that says what the engine should
compute; it refuses to be fast. `dtype` and `matmul` can be replaced to see what a plain float32
implementation would get (conftest.py does, where PyTorch has no layer to compare with).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@np.errstate(over="ignore")
def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


CANDIDATE: dict[str, Callable[[Array], Array]] = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": sigmoid,
    "identity": lambda x: x,
}
RECURRENT: dict[str, Callable[[Array], Array]] = {
    "sigmoid": sigmoid,
    "hard_sigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),  # PyTorch, Keras 3
    "hard_sigmoid_02": lambda x: np.clip(x / 5 + 0.5, 0, 1),  # Keras 2, ONNX
}


class Result(NamedTuple):
    output: Array  # (T, B, D*H)
    h_n: Array  # (L*D, B, H)
    hidden: Array  # what every layer and direction did at every step, each (L*D, T, B, H)
    reset: Array
    update: Array
    candidate: Array


@np.errstate(all="ignore")
def gru(
    weights: Mapping[str, Array],
    x: Array,  # (T, B, I)
    h_0: Array | None = None,  # (L*D, B, H)
    lengths: Any = None,  # (B,) integers; past its length a row keeps its state and outputs 0
    *,
    reset_after: bool = True,
    activation: str = "tanh",
    recurrent_activation: str = "sigmoid",
    dtype: Any = np.float64,
    matmul: Callable[[Array, Array], Array] = np.matmul,
) -> Result:
    def times(values: Array, matrix: Array) -> Array:
        return matmul(values, matrix.T)

    w = {name: np.asarray(value, dtype) for name, value in weights.items()}
    directions = ["", "_reverse"] if "weight_ih_l0_reverse" in w else [""]
    suffixes = [[f"_l{n}{d}" for d in directions] for n in range(64) if f"weight_ih_l{n}" in w]
    (steps, batch, _), size = np.shape(x), w["weight_hh_l0"].shape[1]
    length = np.full(batch, steps) if lengths is None else np.asarray(lengths)
    zeros = np.zeros((len(suffixes) * len(directions), batch, size))
    h_n = np.array(zeros if h_0 is None else h_0, dtype)
    gates = np.zeros((4, len(h_n), steps, batch, size), dtype)
    sigma, phi = RECURRENT[recurrent_activation], CANDIDATE[activation]

    values = np.asarray(x, dtype)
    for layer, names in enumerate(suffixes):
        for direction, name in enumerate(names):
            w_hr, w_hz, w_hn = np.split(w["weight_hh" + name], 3)
            b_i = w.get("bias_ih" + name, np.zeros(3 * size, dtype))
            b_hr, b_hz, b_hn = np.split(w.get("bias_hh" + name, np.zeros(3 * size, dtype)), 3)
            index = layer * len(directions) + direction
            h = h_n[index]
            for t in range(steps)[:: -1 if direction else 1]:
                i_r, i_z, i_n = np.split(times(values[t], w["weight_ih" + name]) + b_i, 3, axis=1)
                r = sigma(i_r + times(h, w_hr) + b_hr)
                z = sigma(i_z + times(h, w_hz) + b_hz)
                if reset_after:
                    n = phi(i_n + r * (times(h, w_hn) + b_hn))
                else:
                    n = phi(i_n + times(r * h, w_hn) + b_hn)
                h = np.where((t < length)[:, None], (1 - z) * n + z * h, h)
                gates[:, index, t] = h, r, z, n
            h_n[index] = h
        hidden = gates[0, layer * len(directions) : (layer + 1) * len(directions)]
        valid = np.arange(steps)[:, None, None] < length[:, None]
        values = np.where(valid, np.concatenate(list(hidden), axis=-1), 0)
    return Result(values, h_n, *gates)
