"""What a model should give: its layers in float64 NumPy, written like their equations.

`fastgru verify` compares with it. Everything is time first, x (T, B, I) or integers (T, B). Another
`Arithmetic` shows what plain float32, or a reduced precision as it is defined, gets. Refuses to be
fast.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fastgru
from fastgru.layers import Layer
from fastgru.precision import round_to_bfloat16, state_steps

Array = NDArray[Any]
Lengths = Array | None  # (B,)


class Arithmetic(NamedTuple):
    """How numbers are kept and multiplied.

    `rounds`: whether GRUs in reduced precision round what goes into their products, too.
    """

    dtype: Any = np.float64
    matmul: Callable[[Array, Array], Array] = np.matmul
    rounds: bool = False


EXACT = Arithmetic()


@np.errstate(over="ignore")
def _sigmoid(x: Array) -> Array:
    y: Array = 1 / (1 + np.exp(-x))
    return y


_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "identity": lambda x: x,
    "sigmoid": _sigmoid,
    "hard_sigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "hard_sigmoid_02": lambda x: np.clip(x / 5 + 0.5, 0, 1),
}


@np.errstate(all="ignore")
def run_gru(
    gru: fastgru.GRU,
    x: Array,
    h_0: Array | None = None,
    lengths: Lengths = None,
    arithmetic: Arithmetic = EXACT,
) -> tuple[Array, Array]:
    """A GRU's equations with its weights: output (T, B, D*H) and h_n (L*D, B, H)."""
    dtype, matmul, rounds = arithmetic
    w = {name: tensor.astype(dtype) for name, tensor in gru.tensors().items()}
    precisions = gru._spec.precisions if rounds else ()
    sigma, phi = _FUNCTIONS[gru.recurrent_activation], _FUNCTIONS[gru.activation]
    (steps, batch), size = x.shape[:2], gru.hidden_size
    valid = np.arange(steps)[:, None] < (np.full(batch, steps) if lengths is None else lengths)
    zeros, no_bias = np.zeros((batch, size), dtype), np.zeros(3 * size, dtype)
    states: list[Array] = []
    values = x.astype(dtype)
    for layer in range(gru.num_layers):
        precision = precisions[layer] if precisions else "float32"
        state_rounded = functools.partial(
            _rounded,
            precision=precision,
            steps=state_steps(gru.input_size, size),
            least=1,  # states are taken to reach it
        )
        outputs = []
        for end in ["", "_reverse"] if gru.bidirectional else [""]:
            w_i, w_h = w[f"weight_ih_l{layer}{end}"], w[f"weight_hh_l{layer}{end}"]
            b_i = w.get(f"bias_ih_l{layer}{end}", no_bias)
            b_hr, b_hz, b_hn = np.split(w.get(f"bias_hh_l{layer}{end}", no_bias), 3)
            w_hr, w_hz, w_hn = (part.T for part in np.split(w_h, 3))
            h = zeros if h_0 is None else h_0[len(states)].astype(dtype)
            output = np.zeros((steps, batch, size), dtype)
            for t in range(steps)[:: -1 if end or gru.reverse else 1]:
                x_t, h_t = _rounded(values[t], precision, 32512), state_rounded(h)
                i_r, i_z, i_n = np.split(matmul(x_t, w_i.T) + b_i, 3, axis=1)
                r = sigma(i_r + matmul(h_t, w_hr) + b_hr)
                z = sigma(i_z + matmul(h_t, w_hz) + b_hz)
                if gru.reset_after:
                    n = phi(i_n + r * (matmul(h_t, w_hn) + b_hn))
                else:
                    n = phi(i_n + matmul(state_rounded(r * h), w_hn) + b_hn)
                now = valid[t][:, None]
                h = np.where(now, (1 - z) * n + z * h, h)
                output[t] = np.where(now, h, 0)
            outputs.append(output)
            states.append(h)
        values = np.concatenate(outputs, axis=-1)
    return values, np.stack(states)


def _rounded(
    values: Array, precision: str, steps: int, least: float = float(np.finfo(np.float32).tiny)
) -> Array:
    """Rows as a precision's products see them: bfloat16, or in steps of the largest / `steps`.

    `least`: what the largest is taken for where it is less.
    """
    if precision == "bfloat16":
        return round_to_bfloat16(values.astype(np.float32)).astype(values.dtype)
    if precision == "int8":
        largest = np.abs(values).max(axis=1, keepdims=True)
        step = np.maximum(largest, least) / steps
        return np.asarray(np.rint(values / step) * step)
    return values


def run_layers(
    layers: Iterable[Layer | fastgru.GRU],
    x: Array,
    lengths: Lengths = None,
    arithmetic: Arithmetic = EXACT,
) -> Array:
    """What a Model gives, (T, B, O), or (B, O) behind Last, Mean and Max."""
    for layer in layers:
        if isinstance(layer, fastgru.GRU):
            x = run_gru(layer, x, None, lengths, arithmetic)[0]
        else:
            x = _run_layer(layer, x, lengths, arithmetic)
    return x


@np.errstate(all="ignore")
def _run_layer(layer: Layer, x: Array, lengths: Lengths, arithmetic: Arithmetic) -> Array:
    dtype, matmul, _ = arithmetic
    w = {name: tensor.astype(dtype) for name, tensor in layer._tensors().items()}
    y: Array
    if isinstance(layer, fastgru.Embedding):
        y = w["weight"][x]
        return y
    if isinstance(layer, fastgru.OneHot):
        y = np.eye(layer.num_classes, dtype=dtype)[x]
        return y
    x = x.astype(dtype)
    if isinstance(layer, fastgru.Linear):
        y = matmul(x, w["weight"].T) + w.get("bias", dtype(0))
        return y
    if isinstance(layer, fastgru.LayerNorm):
        centered = x - x.mean(axis=-1, keepdims=True)
        deviation = np.sqrt((centered**2).mean(axis=-1, keepdims=True) + dtype(layer.eps))
        y = centered / deviation * w.get("weight", dtype(1)) + w.get("bias", dtype(0))
        return y
    if isinstance(layer, (fastgru.Softmax, fastgru.LogSoftmax)):
        x = x - x.max(axis=-1, keepdims=True)
        total = np.exp(x).sum(axis=-1, keepdims=True)
        y = np.exp(x) / total if isinstance(layer, fastgru.Softmax) else x - np.log(total)
        return y
    for kind, name in (
        (fastgru.ReLU, "relu"),
        (fastgru.Tanh, "tanh"),
        (fastgru.Sigmoid, "sigmoid"),
    ):
        if isinstance(layer, kind):
            return _FUNCTIONS[name](x)
    return _over_time(layer, x, lengths)


def _over_time(layer: Layer, x: Array, lengths: Lengths) -> Array:
    steps, batch = x.shape[:2]
    rows = np.arange(batch)
    length = np.full(batch, steps) if lengths is None else lengths
    step = np.arange(steps)[:, None]
    valid = (step < length)[..., None]
    if isinstance(layer, fastgru.Last):
        last, half = x[length - 1, rows], x.shape[-1] // 2
        return np.concatenate([last[:, :half], x[0, :, half:]], -1) if layer.bidirectional else last
    if isinstance(layer, fastgru.Mean):
        mean: Array = np.where(valid, x, 0).sum(axis=0) / length[:, None].astype(x.dtype)
        return mean
    if isinstance(layer, fastgru.Max):
        largest: Array = np.where(valid, x, -np.inf).max(axis=0).astype(x.dtype)
        return largest
    if isinstance(layer, fastgru.Reverse):
        return x[np.where(step < length, length - 1 - step, step), rows]
    raise fastgru.UnsupportedLayerError(f"fastgru verify does not know the layer {layer!r}")
