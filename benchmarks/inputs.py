"""Weights, input and the right answer of a case: one generator for all peers."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import models
from benchmarks.cases import Case

Array32 = NDArray[np.float32]
Array64 = NDArray[np.float64]
Answer = tuple[NDArray[np.float32], NDArray[np.float32]]
"""output [T, B, D*H] and final state [L*D, B, H].

Of a whole model the output is what its last layer gives: [T, B, O], or [B, O] behind a Last and for
a step. The states are those of all its GRUs, one after the other, [layers of all, B, H]; after a
call there are none to be had, [0, B, H]."""

CHECK_STEPS = 8
"""Steps of a live sequence, from a zero state, after which the outputs of a step are compared."""


@dataclass(frozen=True)
class Inputs:
    """`state`: PyTorch's names and gate order r, z, n. `x`: [T, B, I].

    Names of a whole model start with the place of the layer, as in torch.nn.Sequential:
    `1.weight_ih_l0`. `x` of a model that starts with an embedding is int64 [T, B].
    """

    state: dict[str, Array32]
    x: NDArray[Any]

    def of_layer(self, index: int) -> dict[str, Array32]:
        """The tensors of one layer of a whole model, without the place in their names."""
        prefix = f"{index}."
        return {n.removeprefix(prefix): v for n, v in self.state.items() if n.startswith(prefix)}


def _suffixes(depth: int, directions: int) -> list[tuple[int, str]]:
    return [(k, f"_l{k}" + "_reverse" * d) for k in range(depth) for d in range(directions)]


def suffixes(case: Case) -> list[tuple[int, str]]:
    """(layer, end of PyTorch's parameter name) of every direction of every layer, in order."""
    return _suffixes(case.L, case.D)


def _gru_tensors(rng: np.random.Generator, gru: models.Layer) -> Iterator[tuple[str, Array32]]:
    bound = gru.outputs**-0.5
    for layer, suffix in _suffixes(gru.depth, gru.directions):
        columns = gru.inputs if layer == 0 else gru.width
        for name, shape in (
            ("weight_ih", (3 * gru.outputs, columns)),
            ("weight_hh", (3 * gru.outputs, gru.outputs)),
            ("bias_ih", (3 * gru.outputs,)),
            ("bias_hh", (3 * gru.outputs,)),
        ):
            yield name + suffix, rng.uniform(-bound, bound, shape).astype(np.float32)


def _tensors(rng: np.random.Generator, layer: models.Layer) -> Iterator[tuple[str, Array32]]:
    """PyTorch's own initialisation; but a layer norm that changes something, to see that it ran."""
    n, m = layer.inputs, layer.outputs
    if layer.kind == "gru":
        yield from _gru_tensors(rng, layer)
    elif layer.kind == "embedding":
        yield "weight", rng.standard_normal((n, m)).astype(np.float32)
    elif layer.kind == "linear":
        yield "weight", rng.uniform(-(n**-0.5), n**-0.5, (m, n)).astype(np.float32)
        yield "bias", rng.uniform(-(n**-0.5), n**-0.5, m).astype(np.float32)
    elif layer.kind == "layer_norm":
        yield "weight", rng.uniform(0.5, 1.5, n).astype(np.float32)
        yield "bias", rng.uniform(-0.5, 0.5, n).astype(np.float32)


def _bare(case: Case) -> models.Layer:
    """The GRU of a case that is no whole model."""
    return models.Layer("gru", case.I, case.H, case.L, case.D)


def make_inputs(case: Case) -> Inputs:
    """PyTorch's own initialisation, uniform within 1/sqrt(H), and a standard normal input.

    Depends on the network's shape only, not on B, T or threads in the case of the weights.
    """
    network = f"{case.I} {case.H} {case.L} {case.D} {case.reset_after}"
    network += f" {case.model} {case.O}" if case.model else ""
    rng = np.random.default_rng(zlib.crc32(network.encode()))
    if not case.model:
        state = dict(_gru_tensors(rng, _bare(case)))
        return Inputs(state, _features(rng, case))
    layers = models.layers(case)
    state = {
        f"{index}.{name}": array
        for index, layer in enumerate(layers)
        for name, array in _tensors(rng, layer)
    }
    if layers[0].kind == "embedding":
        return Inputs(state, rng.integers(0, layers[0].inputs, (case.T, case.B)))
    return Inputs(state, _features(rng, case))


def _features(rng: np.random.Generator, case: Case) -> Array32:
    return rng.standard_normal((case.T, case.B, case.I)).astype(np.float32)


def _sigmoid(v: Array64) -> Array64:
    return 0.5 + 0.5 * np.tanh(0.5 * v)


def _run_gru(
    case: Case, gru: models.Layer, state: Mapping[str, Array32], sequence: Array64
) -> tuple[Array64, list[Array64]]:
    """Output and the final state of every direction of every layer, from the equations."""
    lengths = np.array(case.lengths())[:, None]  # [B, 1]
    final = []
    for layer in range(gru.depth):
        outputs = []
        for suffix in [s for k, s in _suffixes(gru.depth, gru.directions) if k == layer]:
            w_i, w_h, b_i, b_h = (
                state[name + suffix].astype(np.float64)
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            h, H = np.zeros((case.B, gru.outputs)), gru.outputs
            hidden = np.zeros((len(sequence), case.B, H))
            order = range(len(sequence))
            for t in reversed(order) if suffix.endswith("_reverse") else order:
                x_t = sequence[t]
                gates = x_t @ w_i.T + b_i
                rz = _sigmoid(gates[:, : 2 * H] + h @ w_h[: 2 * H].T + b_h[: 2 * H])
                r, z = rz[:, :H], rz[:, H:]
                if case.reset_after:
                    n = np.tanh(gates[:, 2 * H :] + r * (h @ w_h[2 * H :].T + b_h[2 * H :]))
                else:
                    n = np.tanh(gates[:, 2 * H :] + (r * h) @ w_h[2 * H :].T + b_h[2 * H :])
                stepped = z * h + (1 - z) * n
                if case.ragged:  # rows that are over keep their state and answer 0
                    h = np.where(t < lengths, stepped, h)
                    hidden[t] = np.where(t < lengths, stepped, 0)
                else:
                    hidden[t] = h = stepped
            outputs.append(hidden)
            final.append(h)
        sequence = np.concatenate(outputs, axis=2)
    return sequence, final


def _run_rows(kind: models.Kind, state: Mapping[str, Array32], x: Array64) -> Array64:
    """A layer that treats each row by itself; x (..., features)."""
    if kind == "linear":
        product: Array64 = x @ state["weight"].astype(np.float64).T + state["bias"]
        return product
    if kind == "layer_norm":
        centred = x - x.mean(-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)  # torch's eps
        scaled: Array64 = centred / spread * state["weight"] + state["bias"]
        return scaled
    if kind == "relu":
        return np.maximum(x, 0)
    if kind == "sigmoid":
        return _sigmoid(x)
    shifted = x - x.max(-1, keepdims=True)
    total: Array64 = np.exp(shifted).sum(-1, keepdims=True)
    if kind == "softmax":
        shares: Array64 = np.exp(shifted) / total
        return shares
    logarithms: Array64 = shifted - np.log(total)
    return logarithms


def _run_model(case: Case, inputs: Inputs, x: NDArray[Any]) -> tuple[Array64, list[Array64]]:
    final: list[Array64] = []
    sequence = x
    for index, layer in enumerate(models.layers(case)):
        state = inputs.of_layer(index)
        if layer.kind == "gru":
            sequence, states = _run_gru(case, layer, state, sequence)
            final += states
        elif layer.kind == "embedding":
            sequence = state["weight"].astype(np.float64)[sequence]
        elif layer.kind != "last":  # which takes the last step below
            sequence = _run_rows(layer.kind, state, sequence)
    return sequence, final


def right_answer(case: Case, inputs: Inputs) -> Answer:
    """The case in float64, straight from the equations.

    A live sequence is fed the same x CHECK_STEPS times and answers its last output.
    """
    x = inputs.x if inputs.x.dtype.kind == "i" else inputs.x.astype(np.float64)
    if case.mode != "call":
        x = np.repeat(x, CHECK_STEPS, axis=0)
    if not case.model:
        sequence, final = _run_gru(case, _bare(case), inputs.state, x)
        if case.mode != "call":
            sequence = sequence[-1:]
        return sequence.astype(np.float32), np.stack(final).astype(np.float32)
    sequence, final = _run_model(case, inputs, x)
    if case.mode != "call":
        return sequence[-1].astype(np.float32), np.stack(final).astype(np.float32)
    if any(layer.kind == "last" for layer in models.layers(case)):
        sequence = sequence[-1]
    return sequence.astype(np.float32), no_states(case)


def no_states(case: Case) -> Array32:
    """The states of an answer that has none."""
    return np.zeros((0, case.B, case.H), np.float32)


def largest_difference(answer: Answer, right: Answer) -> float:
    """Maximum absolute difference over both arrays; infinite for a wrong shape, dtype or a NaN."""
    worst = 0.0
    for got, want in zip(answer, right, strict=True):
        if got.shape != want.shape or got.dtype != want.dtype:
            return float("inf")
        for one, right_one in zip(got, want, strict=True):  # the whole may be 256 MB
            if one.size:
                difference = float(np.abs(one.astype(np.float64) - right_one).max())
                worst = max(worst, float("inf") if np.isnan(difference) else difference)
    return worst
