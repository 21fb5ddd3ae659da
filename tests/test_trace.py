"""`gru.trace`: what every gate did, in float32, and consistent with what a call returns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastgru
import reference
from conftest import (
    assert_promise_1,
    largest_error,
    make_gru,
    random_input,
    random_state,
    random_weights,
    reference_float32,
    same_bits,
)

T, B, I, H = 8, 5, 6, 19  # noqa: E741
GATES = ("reset", "update", "candidate", "hidden")


@pytest.mark.parametrize("reset_after", [True, False], ids=["after", "before"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one", "two"])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize(
    "activations", [("tanh", "sigmoid"), ("relu", "hard_sigmoid"), ("sigmoid", "hard_sigmoid_02")]
)
def test_gates_are_the_equations(
    activations: tuple[str, str], num_layers: int, bidirectional: bool, reset_after: bool, isa: str
) -> None:
    """reset, update, candidate and hidden of every layer and direction, against float64."""
    rng = np.random.default_rng(num_layers)
    weights = random_weights(rng, I, H, num_layers, bidirectional, scale=2)
    x, h_0 = random_input(rng, T, B, I), random_state(rng, weights, B)
    kinds: dict[str, Any] = {
        "reset_after": reset_after,
        "activation": activations[0],
        "recurrent_activation": activations[1],
    }
    trace = make_gru(weights, isa=isa, **kinds).trace(x, h_0)
    exact = reference.gru(weights, x, h_0, **kinds)
    plain = reference_float32(weights, x, h_0, **kinds)
    for name in GATES:
        gate = getattr(trace, name)
        assert gate.shape == (num_layers * (2 if bidirectional else 1), T, B, H)
        assert gate.dtype == np.float32
        error = largest_error(getattr(plain, name), getattr(exact, name))
        assert_promise_1(gate, getattr(exact, name), error)


@pytest.mark.parametrize("reset_after", [True, False], ids=["after", "before"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one", "two"])
@pytest.mark.parametrize("hidden_size", [1, 16, 19, 40])
def test_hidden_has_the_bits_of_the_output(
    hidden_size: int, bidirectional: bool, reset_after: bool, isa: str
) -> None:
    """A trace is of the very run that a call makes: same bits, whichever gates are recorded."""
    rng = np.random.default_rng(hidden_size)
    weights = random_weights(rng, I, hidden_size, 2, bidirectional)
    gru = make_gru(weights, isa=isa, reset_after=reset_after)
    directions = 2 if bidirectional else 1
    for batch in (1, 5, 12):
        x, h_0 = random_input(rng, T, batch, I), random_state(rng, weights, batch)
        for state in (None, h_0):
            output, h_n = gru(x, state)
            trace = gru.trace(x, state)
            last_layer = np.concatenate(list(trace.hidden[-directions:]), axis=-1)
            assert same_bits(last_layer, output)
            for index in range(2 * directions):
                last_step = 0 if bidirectional and index % 2 else T - 1
                assert same_bits(trace.hidden[index, last_step], h_n[index])


def test_layouts() -> None:
    """x in the model's own layout; the trace is always (L*D, T, B, H), B = 1 for unbatched x.

    h_0 of any strides, as a call takes it.
    """
    rng = np.random.default_rng(3)
    weights = random_weights(rng, I, H, 2)
    x, h_0 = random_input(rng, T, B, I), random_state(rng, weights, B)
    expected = make_gru(weights).trace(x, h_0)
    batch_first = make_gru(weights, batch_first=True).trace(x.swapaxes(0, 1), h_0)
    row = make_gru(weights).trace(x[:, 2], h_0[:, 2])
    wide = make_gru(weights).trace(x.astype(np.float64), np.asfortranarray(h_0))
    strided = make_gru(weights).trace(x, np.repeat(h_0, 2, axis=1)[:, ::2])
    for name in GATES:
        gate = getattr(expected, name)
        assert same_bits(getattr(batch_first, name), gate)
        assert same_bits(getattr(row, name), np.ascontiguousarray(gate[:, :, 2:3]))
        assert same_bits(getattr(wide, name), gate)
        assert same_bits(getattr(strided, name), gate)


def test_empty_traces() -> None:
    """No steps, no rows: empty arrays of the right shapes."""
    gru = make_gru(random_weights(np.random.default_rng(4), I, H, 2, bidirectional=True))
    for steps, batch in ((0, 3), (4, 0)):
        trace = gru.trace(np.zeros((steps, batch, I), np.float32))
        for name in GATES:
            assert getattr(trace, name).shape == (4, steps, batch, H)


def test_bad_input() -> None:
    """The errors of a call: ShapeError with both shapes, TypeError for integers."""
    gru = make_gru(random_weights(np.random.default_rng(5), I, H, 2))
    with pytest.raises(fastgru.ShapeError, match=r"6.*7"):
        gru.trace(np.zeros((T, B, 7), np.float32))
    with pytest.raises(fastgru.ShapeError, match="h_0"):
        gru.trace(np.zeros((T, B, I), np.float32), np.zeros((2, B + 1, H), np.float32))
    with pytest.raises(TypeError, match="x"):
        gru.trace(np.zeros((T, B, I), np.int32))
