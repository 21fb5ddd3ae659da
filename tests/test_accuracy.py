"""Promise 1: float32 results are as close to the float64 equations as PyTorch's own, or closer.

Every case runs with every ISA forced, against `reference.gru` (what is right) and, for the
reset-after equation, live against torch.nn.GRU (how far float32 may be from it).
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest

import reference
from conftest import (
    Array,
    Weights,
    assert_promise_1,
    largest_error,
    make_gru,
    random_input,
    random_state,
    random_weights,
    reference_float32,
    torch_gru,
)

HIDDEN_SIZES = [1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 96, 200, 400]
INPUT_SIZES = [1, 3, 40, 257, 300]
BATCHES = [1, 2, 3, 5, 7, 8, 9, 17, 33]

# Promise 1 compares two maxima. The maximum of a few errors is luck; that of thousands is not.
ENOUGH = 20_000
SEED = 0


class Case(NamedTuple):
    """A network, its input, the exact answer and that of PyTorch.

    The input has at least ENOUGH elements of output, however small the network: as many sequences
    as that takes, which `check` runs in batches of any size.
    """

    weights: Weights
    x: Array
    h_0: Array
    exact: reference.Result
    torch_error: float


@functools.cache
def make_case(
    input_size: int,
    hidden_size: int,
    steps: int = 6,
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    bias: bool = True,
    scale: float = 1.0,
    input_scale: float = 1.0,
    reset_after: bool = True,
    activation: str = "tanh",
    recurrent_activation: str = "sigmoid",
) -> Case:
    rng = np.random.default_rng([SEED, input_size, hidden_size, steps, num_layers])
    weights = random_weights(
        rng, input_size, hidden_size, num_layers, bidirectional, bias=bias, scale=scale
    )
    rows = max(4, ENOUGH // (steps * hidden_size))
    x = random_input(rng, steps, rows, input_size) * np.float32(input_scale)
    h_0 = random_state(rng, weights, rows)
    equation: dict[str, Any] = {
        "reset_after": reset_after,
        "activation": activation,
        "recurrent_activation": recurrent_activation,
    }
    exact = reference.gru(weights, x, h_0, **equation)
    if reset_after and (activation, recurrent_activation) == ("tanh", "sigmoid"):
        torch = pytest.importorskip("torch")
        with torch.no_grad():
            module = torch_gru(torch, weights)
            output = module(torch.from_numpy(x), torch.from_numpy(h_0))[0].numpy()
    else:
        output = reference_float32(weights, x, h_0, **equation).output
    return Case(weights, x, h_0, exact, largest_error(output, exact.output))


def check(case: Case, batch: int, **options: Any) -> None:
    gru = make_gru(case.weights, **options)
    assert options["isa"] == gru.isa
    results = []
    for first in range(0, case.x.shape[1], batch):
        rows = slice(first, first + batch)
        results.append(gru(case.x[:, rows], case.h_0[:, rows]))
    output, h_n = (np.concatenate(parts, axis=1) for parts in zip(*results, strict=True))
    assert_promise_1(output, case.exact.output, case.torch_error)
    assert_promise_1(h_n, case.exact.h_n, case.torch_error)


pytestmark = pytest.mark.usefixtures("torch")
equations = pytest.mark.parametrize("reset_after", [True, False], ids=["after", "before"])


@equations
@pytest.mark.parametrize("input_size", INPUT_SIZES)
@pytest.mark.parametrize("hidden_size", HIDDEN_SIZES)
def test_every_size(hidden_size: int, input_size: int, reset_after: bool, isa: str) -> None:
    """Around every vector and panel width, with short and long input sums (two blocks of 256)."""
    case = make_case(input_size, hidden_size, reset_after=reset_after)
    for batch in (1, 4):
        check(case, batch, isa=isa, reset_after=reset_after)


@equations
@pytest.mark.parametrize("hidden_size", [1, 16, 33, 96])
@pytest.mark.parametrize("batch", BATCHES)
def test_every_batch(batch: int, hidden_size: int, reset_after: bool, isa: str) -> None:
    """Tile kernels and every remainder of them."""
    case = make_case(20, hidden_size, reset_after=reset_after)
    check(case, batch, isa=isa, reset_after=reset_after)


@equations
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one", "two"])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_stacks(
    num_layers: int, bidirectional: bool, bias: bool, reset_after: bool, isa: str
) -> None:
    """Layers feed on all directions of the one before; biases are optional; h_0 goes to its own."""
    for hidden_size in (5, 20):
        case = make_case(
            7,
            hidden_size,
            num_layers=num_layers,
            bidirectional=bidirectional,
            bias=bias,
            reset_after=reset_after,
        )
        check(case, 3, isa=isa, reset_after=reset_after)


@equations
@pytest.mark.parametrize("hidden_size", [300, 513])
def test_sums_longer_than_a_block(hidden_size: int, reset_after: bool, isa: str) -> None:
    """State and input sums of two and three blocks of 256 lose no digits, over many steps."""
    case = make_case(hidden_size, hidden_size, 8, reset_after=reset_after)
    for batch in (1, 6):
        check(case, batch, isa=isa, reset_after=reset_after)


@equations
def test_long_sequence(reset_after: bool, isa: str) -> None:
    """Errors do not pile up over many time blocks."""
    case = make_case(10, 24, 1500, reset_after=reset_after)
    check(case, 2, isa=isa, reset_after=reset_after)


@equations
@pytest.mark.parametrize("scale", [0.01, 2.0])
def test_weights_of_other_sizes(scale: float, reset_after: bool, isa: str) -> None:
    """Tiny weights keep relative digits; larger ones, in the curved part of the gates, too."""
    case = make_case(30, 48, scale=scale, reset_after=reset_after)
    check(case, 4, isa=isa, reset_after=reset_after)


@equations
@pytest.mark.parametrize("recurrent_activation", sorted(reference.RECURRENT))
@pytest.mark.parametrize("activation", sorted(reference.CANDIDATE))
def test_every_activation_pair(
    activation: str, recurrent_activation: str, reset_after: bool, isa: str
) -> None:
    """Both equations take every activation, in one and in two directions."""
    kinds: dict[str, Any] = {
        "reset_after": reset_after,
        "activation": activation,
        "recurrent_activation": recurrent_activation,
    }
    # Inputs so large that hard_sigmoid reaches its flat parts. (Large weights would do that too,
    # and make unbounded candidates amplify rounding without bound.)
    for bidirectional in (False, True):
        case = make_case(9, 21, bidirectional=bidirectional, input_scale=8.0, **kinds)
        check(case, 5, isa=isa, **kinds)


def test_hard_sigmoids_reach_their_flat_parts() -> None:
    """The case above means something only if gates are exactly 0 and exactly 1 in it."""
    for name in ("hard_sigmoid", "hard_sigmoid_02"):
        exact = make_case(9, 21, input_scale=8.0, recurrent_activation=name).exact
        assert (exact.update == 0).any()
        assert (exact.update == 1).any()


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one", "two"])
def test_h_0_defaults_to_zeros(bidirectional: bool, isa: str) -> None:
    """As in PyTorch, no h_0 means zeros."""
    case = make_case(6, 18, num_layers=2, bidirectional=bidirectional)
    exact = reference.gru(case.weights, case.x)
    output, h_n = make_gru(case.weights, isa=isa)(case.x)
    assert_promise_1(output, exact.output, case.torch_error)
    assert_promise_1(h_n, exact.h_n, case.torch_error)


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one", "two"])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("hidden_size", [5, 33])
def test_lengths_are_pack_padded_sequence(
    hidden_size: int, num_layers: int, bidirectional: bool, isa: str, torch: ModuleType
) -> None:
    """Lengths in any order give what PyTorch's pack_padded_sequence(enforce_sorted=False) gives."""
    rnn = torch.nn.utils.rnn
    for batch in (1, 4, 9, 20):
        rng = np.random.default_rng([hidden_size, num_layers, batch])
        weights = random_weights(rng, 6, hidden_size, num_layers, bidirectional)
        x, h_0 = random_input(rng, 11, batch, 6), random_state(rng, weights, batch)
        lengths = rng.integers(1, 12, batch)
        with torch.no_grad():
            packed = rnn.pack_padded_sequence(
                torch.from_numpy(x), torch.from_numpy(lengths), enforce_sorted=False
            )
            y, h = torch_gru(torch, weights)(packed, torch.from_numpy(h_0))
            y, _ = rnn.pad_packed_sequence(y, total_length=11)
        exact = reference.gru(weights, x, h_0, lengths)
        error = max(largest_error(y.numpy(), exact.output), largest_error(h.numpy(), exact.h_n))
        assert error < 1e-5  # the reference and PyTorch mean the same
        output, h_n = make_gru(weights, isa=isa)(x, h_0, lengths=lengths)
        assert_promise_1(output, exact.output, error)
        assert_promise_1(h_n, exact.h_n, error)


@equations
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one", "two"])
def test_lengths_of_zero(bidirectional: bool, reset_after: bool, isa: str) -> None:
    """PyTorch refuses length 0; here it gives h_0 and zeros, in every layer and direction."""
    for batch in (2, 7, 18):
        rng = np.random.default_rng(batch)
        weights = random_weights(rng, 4, 19, 2, bidirectional)
        x, h_0 = random_input(rng, 6, batch, 4), random_state(rng, weights, batch)
        lengths = rng.integers(0, 7, batch)
        lengths[batch // 2] = 0
        exact = reference.gru(weights, x, h_0, lengths, reset_after=reset_after)
        plain = reference_float32(weights, x, h_0, lengths, reset_after=reset_after)
        error = largest_error(plain.output, exact.output)
        gru = make_gru(weights, isa=isa, reset_after=reset_after)
        output, h_n = gru(x, h_0, lengths=lengths)
        assert_promise_1(output, exact.output, error)
        assert_promise_1(h_n, exact.h_n, error)
        assert np.array_equal(h_n[:, lengths == 0], h_0[:, lengths == 0])
        assert not output[:, lengths == 0].any()


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one", "two"])
def test_batch_first_and_unbatched_are_torchs(
    bidirectional: bool, isa: str, torch: ModuleType
) -> None:
    """(B, T, I) in, (B, T, D*H) out, h_0 and h_n still (L*D, B, H); (T, I) and (L*D, H)."""
    case = make_case(6, 18, num_layers=2, bidirectional=bidirectional)
    x, h_0 = np.ascontiguousarray(case.x.swapaxes(0, 1)), case.h_0
    gru = make_gru(case.weights, batch_first=True, isa=isa)
    with torch.no_grad():
        module = torch_gru(torch, case.weights, batch_first=True)
        y, h = module(torch.from_numpy(x), torch.from_numpy(h_0))
        y_1, h_1 = module(torch.from_numpy(x[1]), torch.from_numpy(h_0[:, 1]))
    output, h_n = gru(x, h_0)
    assert_promise_1(output, case.exact.output.swapaxes(0, 1), case.torch_error)
    assert_promise_1(h_n, case.exact.h_n, case.torch_error)
    assert (output.shape, h_n.shape) == (y.shape, h.shape)

    for batch_first in (False, True):
        gru = make_gru(case.weights, batch_first=batch_first, isa=isa)
        output, h_n = gru(x[1], h_0[:, 1])
        assert_promise_1(output, case.exact.output[:, 1], case.torch_error)
        assert_promise_1(h_n, case.exact.h_n[:, 1], case.torch_error)
        assert (output.shape, h_n.shape) == (y_1.shape, h_1.shape)
