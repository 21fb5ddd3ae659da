"""Weights, input and the right answer of a case: one generator for all peers."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases import Case

Array32 = NDArray[np.float32]
Answer = tuple[NDArray[np.float32], NDArray[np.float32]]
"""output [T, B, D*H] and final state [L*D, B, H]."""

CHECK_STEPS = 8
"""Steps of a live sequence, from a zero state, after which the outputs of a step are compared."""


@dataclass(frozen=True)
class Inputs:
    """`state`: PyTorch's names and gate order r, z, n. `x`: [T, B, I]."""

    state: dict[str, Array32]
    x: Array32


def suffixes(case: Case) -> list[tuple[int, str]]:
    """(layer, end of PyTorch's parameter name) of every direction of every layer, in order."""
    return [(k, f"_l{k}" + "_reverse" * d) for k in range(case.L) for d in range(case.D)]


def make_inputs(case: Case) -> Inputs:
    """PyTorch's own initialisation, uniform within 1/sqrt(H), and a standard normal input.

    Depends on the network's shape only, not on B, T or threads in the case of the weights.
    """
    network = f"{case.I} {case.H} {case.L} {case.D} {case.reset_after}"
    rng = np.random.default_rng(zlib.crc32(network.encode()))
    bound = case.H**-0.5
    state = {}
    for layer, suffix in suffixes(case):
        columns = case.I if layer == 0 else case.D * case.H
        for name, shape in (
            ("weight_ih", (3 * case.H, columns)),
            ("weight_hh", (3 * case.H, case.H)),
            ("bias_ih", (3 * case.H,)),
            ("bias_hh", (3 * case.H,)),
        ):
            state[name + suffix] = rng.uniform(-bound, bound, shape).astype(np.float32)
    x = rng.standard_normal((case.T, case.B, case.I)).astype(np.float32)
    return Inputs(state, x)


def _sigmoid(v: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 + 0.5 * np.tanh(0.5 * v)


def right_answer(case: Case, inputs: Inputs) -> Answer:
    """The case in float64, straight from the equations.

    A live sequence is fed the same x CHECK_STEPS times and answers its last output.
    """
    sequence = inputs.x.astype(np.float64)
    lengths = np.array(case.lengths())[:, None]  # [B, 1]
    if case.mode != "call":
        sequence = np.repeat(sequence, CHECK_STEPS, axis=0)
    final = []
    for layer in range(case.L):
        outputs = []
        for suffix in [s for k, s in suffixes(case) if k == layer]:
            w_i, w_h, b_i, b_h = (
                inputs.state[name + suffix].astype(np.float64)
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            h, H = np.zeros((case.B, case.H)), case.H
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
    if case.mode != "call":
        sequence = sequence[-1:]
    return sequence.astype(np.float32), np.stack(final).astype(np.float32)


def largest_difference(answer: Answer, right: Answer) -> float:
    """Maximum absolute difference over both arrays; infinite for a wrong shape, dtype or a NaN."""
    worst = 0.0
    for got, want in zip(answer, right, strict=True):
        if got.shape != want.shape or got.dtype != want.dtype:
            return float("inf")
        if got.size:
            difference = float(np.abs(got.astype(np.float64) - want).max())
            worst = max(worst, float("inf") if np.isnan(difference) else difference)
    return worst
