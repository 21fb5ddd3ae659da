"""What happens at the ends: saturated gates, huge, tiny, infinite and NaN values, and no data.

Promises: z = 1 keeps the state to the bit; |h| <= 1; a row's NaN is its own; FTZ/DAZ restored.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fastgru
import reference
from conftest import (
    Array,
    Weights,
    assert_close,
    make_gru,
    random_input,
    random_state,
    random_weights,
    run_python,
    same_bits,
)

equations = pytest.mark.parametrize("reset_after", [True, False], ids=["after", "before"])
DENORMAL = np.float32(1e-40)


def with_update_gate(weights: Weights, bias: float) -> Weights:
    """The same network with its update gate's pre-activation fixed at `bias`."""
    forced = {name: w.copy() for name, w in weights.items()}
    for name, w in forced.items():
        size = w.shape[0] // 3
        w[size : 2 * size] = bias if name.startswith("bias_ih") else 0
    return forced


def denormals_work() -> bool:
    """Whether this thread's float arithmetic neither flushes results nor reads denormals as 0."""
    x = np.full(64, DENORMAL, np.float32)
    return bool(np.all(x * np.float32(2) > x) and np.all(x + x > 0))


@equations
@pytest.mark.parametrize("recurrent_activation", ["sigmoid", "hard_sigmoid", "hard_sigmoid_02"])
def test_update_gate_of_one_keeps_the_state(
    recurrent_activation: str, reset_after: bool, isa: str
) -> None:
    """z = 1 keeps h to the bit over 10,000 steps, in every row and unit."""
    rng = np.random.default_rng(1)
    weights = with_update_gate(random_weights(rng, 3, 20, scale=3), 100)
    gru = make_gru(
        weights, reset_after=reset_after, recurrent_activation=recurrent_activation, isa=isa
    )
    h_0 = random_state(rng, weights, 2)
    output, h_n = gru(random_input(rng, 10_000, 2, 3), h_0)
    assert same_bits(h_n, h_0)
    assert same_bits(output, np.broadcast_to(h_0, output.shape))


@equations
def test_update_gate_of_zero_gives_the_candidate(reset_after: bool, isa: str) -> None:
    """z = 0 leaves nothing of the old state: where the candidate ignores it, so does the result."""
    rng = np.random.default_rng(2)
    weights = with_update_gate(random_weights(rng, 3, 20), -200)
    weights["weight_hh_l0"][:] = 0
    gru = make_gru(weights, reset_after=reset_after, isa=isa)
    x, h_0 = random_input(rng, 30, 4, 3), random_state(rng, weights, 4)
    output, h_n = gru(x, h_0)
    without, _ = gru(x)
    assert same_bits(output, without)
    candidate = reference.gru(weights, x, h_0, reset_after=reset_after).candidate[0]
    assert_close(output, candidate)
    assert same_bits(output[-1:], h_n)


@equations
def test_saturated_gates(reset_after: bool, isa: str) -> None:
    """Pre-activations of thousands: every gate is 0 or 1, every candidate -1 or 1, as exact."""
    rng = np.random.default_rng(3)
    weights = random_weights(rng, 5, 18, 2)
    for name, w in weights.items():  # no sum comes near 0, where rounding would decide
        w[:] = 1024 * rng.choice([-1, 1], w.shape) if name.startswith("bias_ih") else w * 8
    x = random_input(rng, 20, 5, 5)
    exact = reference.gru(weights, x, reset_after=reset_after)
    output, h_n = make_gru(weights, reset_after=reset_after, isa=isa)(x)
    assert_close(output, exact.output)
    assert_close(h_n, exact.h_n)


@equations
@pytest.mark.parametrize("hidden_size", [5, 17, 32])
def test_huge_inputs(hidden_size: int, reset_after: bool, isa: str) -> None:
    """Inputs of 1e30 saturate and stay finite; the state recovers as the exact one does."""
    rng = np.random.default_rng(4)
    weights = random_weights(rng, 6, hidden_size)
    x = random_input(rng, 12, 7, 6)
    x[3:6] *= np.float32(1e30)
    exact = reference.gru(weights, x, reset_after=reset_after)
    output, h_n = make_gru(weights, reset_after=reset_after, isa=isa)(x)
    assert_close(output, exact.output)
    assert_close(h_n, exact.h_n)


@equations
@pytest.mark.parametrize("hidden_size", [1, 5, 16, 33])
@pytest.mark.parametrize("input_size", [1, 3, 16, 257])
def test_infinite_inputs(input_size: int, hidden_size: int, reset_after: bool, isa: str) -> None:
    """One infinity in a row is 0s and 1s, not NaN: padding must never be multiplied by it."""
    rng = np.random.default_rng(5)
    scale = min(1, np.sqrt(hidden_size / input_size))  # sums of about 1, rounding not amplified
    weights = random_weights(rng, input_size, hidden_size, scale=scale)
    x = random_input(rng, 8, 9, input_size)
    gru = make_gru(weights, reset_after=reset_after, isa=isa)
    clean, _ = gru(x)
    x[2, 1, -1], x[4, 6, 0] = np.inf, -np.inf
    exact = reference.gru(weights, x, reset_after=reset_after)
    assert not np.isnan(exact.output).any()
    output, h_n = gru(x)
    assert_close(output, exact.output)
    assert_close(h_n, exact.h_n)
    others = [0, 2, 3, 4, 5, 7, 8]
    assert same_bits(output[:, others], clean[:, others])


@equations
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one", "two"])
@pytest.mark.parametrize("hidden_size", [1, 5, 16, 33])
def test_nan_stays_in_its_row(
    hidden_size: int, bidirectional: bool, reset_after: bool, isa: str
) -> None:
    """NaN in x or h_0 spreads through its own row from its own step on, and nowhere else."""
    rng = np.random.default_rng(6)
    for batch in (1, 4, 11, 37):
        weights = random_weights(rng, 3, hidden_size, 1, bidirectional)
        x, h_0 = random_input(rng, 7, batch, 3), random_state(rng, weights, batch)
        gru = make_gru(weights, reset_after=reset_after, isa=isa)
        clean, clean_h = gru(x, h_0)
        row, step = batch // 2, 3
        x[step, row, 1] = np.nan
        output, h_n = gru(x, h_0)
        others = np.arange(batch) != row
        assert same_bits(output[:, others], clean[:, others])
        assert same_bits(h_n[:, others], clean_h[:, others])
        assert same_bits(output[:step, row, :hidden_size], clean[:step, row, :hidden_size])
        assert np.isnan(output[step:, row, :hidden_size]).all()
        assert np.isnan(output[: step + 1, row, hidden_size:]).all()  # the reverse direction
        assert np.isnan(h_n[:, row]).all()
        assert same_bits(gru(np.nan_to_num(x), h_0)[0][:, others], clean[:, others])

        x[step, row, 1] = 0
        h_0[:, row, -1] = np.nan
        _, h_n = gru(x, h_0)
        assert np.isnan(h_n[:, row]).all()
        assert same_bits(h_n[:, others], clean_h[:, others])


def test_a_nan_call_leaves_nothing_behind(isa: str) -> None:
    """Scratch memory full of NaN and garbage does not reach the next call's results."""
    rng = np.random.default_rng(7)
    weights = random_weights(rng, 5, 21, 2, bidirectional=True)
    gru = make_gru(weights, isa=isa)
    x = random_input(rng, 9, 6, 5)
    before = gru(x)
    gru(np.full((40, 50, 5), np.nan, np.float32))
    gru(np.full((3, 2, 5), np.inf, np.float32))
    after = gru(x)
    assert same_bits(before[0], after[0])
    assert same_bits(before[1], after[1])


def test_nan_weights_propagate(isa: str) -> None:
    """A NaN in a weight is not an error, and reaches the unit it belongs to at once."""
    rng = np.random.default_rng(8)
    weights = random_weights(rng, 5, 21)
    weights["weight_ih_l0"][2 * 21 + 7, 3] = np.nan  # candidate of unit 7
    output, _ = make_gru(weights, isa=isa)(random_input(rng, 3, 2, 5))
    assert np.isnan(output[0, :, 7]).all()
    assert np.isnan(output[0]).sum() == 2
    assert np.isnan(output[2]).all()


@equations
def test_denormals(reset_after: bool, isa: str) -> None:
    """Denormal inputs, states and weights count as (almost) nothing, and break nothing."""
    rng = np.random.default_rng(9)
    normal = random_weights(rng, 5, 21)
    tiny = {name: w * DENORMAL for name, w in normal.items()}
    x, h_0 = random_input(rng, 6, 3, 5), random_state(rng, normal, 3)
    for weights, values, state in (
        (normal, x * DENORMAL, h_0),
        (normal, x, h_0 * DENORMAL),
        (tiny, x, h_0),
        (tiny, x * DENORMAL, h_0 * DENORMAL),
    ):
        exact = reference.gru(weights, values, state, reset_after=reset_after)
        output, h_n = make_gru(weights, reset_after=reset_after, isa=isa)(values, state)
        assert_close(output, exact.output)
        assert_close(h_n, exact.h_n)


@equations
@pytest.mark.parametrize("exponent", [-30, -3, 0, 1, 2, 4, 8, 30])
def test_state_never_leaves_minus_one_to_one(exponent: int, reset_after: bool, isa: str) -> None:
    """|h| <= 1 to the last bit whenever |h_0| <= 1, whatever finite weights do."""
    rng = np.random.default_rng(10)
    for hidden_size in (3, 16, 40):
        weights = random_weights(rng, 4, hidden_size)
        for w in weights.values():
            w[:] = rng.uniform(-1, 1, w.shape) * 10.0**exponent
        h_0 = rng.choice(np.array([-1, 1, 0, 0.5], np.float32), (1, 16, hidden_size))
        gru = make_gru(weights, reset_after=reset_after, isa=isa)
        output, h_n = gru(random_input(rng, 60, 16, 4), h_0)
        assert np.all(np.abs(output) <= 1)
        assert np.all(np.abs(h_n) <= 1)


@pytest.mark.parametrize("sign", [-1, 1])
def test_mixing_plus_one_with_plus_one(sign: int, isa: str) -> None:
    """fma(z, h, (1 - z) * n) with h = n = 1 is never above 1, for 200,000 values of z."""
    values = np.concatenate([np.linspace(-20, 20, 150_000), -np.logspace(-6, 2, 50_000)])
    weights: dict[str, Any] = {
        "weight_ih_l0": np.array([[0], [1], [0]], np.float32),  # z = sigmoid(x)
        "weight_hh_l0": np.zeros((3, 1), np.float32),
        "bias_ih_l0": np.array([0, 0, 100 * sign], np.float32),  # n = +-1
        "bias_hh_l0": np.zeros(3, np.float32),
    }
    x = values.astype(np.float32).reshape(1, -1, 1)
    h_0 = np.full((1, x.shape[1], 1), sign, np.float32)
    output, _ = make_gru(weights, isa=isa)(x, h_0)
    assert np.all(np.abs(output) <= 1)
    assert_close(output, np.full(output.shape, float(sign)))


def test_denormal_arithmetic_is_as_it_was(isa: str) -> None:
    """FTZ/DAZ are the call's own: denormals work before and after it, also where it raised."""
    rng = np.random.default_rng(11)
    weights = random_weights(rng, 5, 21)
    gru, x = make_gru(weights, isa=isa), random_input(rng, 50, 8, 5)
    assert denormals_work()
    gru(x)
    assert denormals_work()
    with pytest.raises(ValueError, match="5"):
        gru(np.zeros((2, 2, 6), np.float32))
    assert denormals_work()
    stream = gru.stream()
    stream.step(x[0, 0])
    assert denormals_work()
    stream.run(x[:, 0])
    assert denormals_work()
    gru.trace(x)
    assert denormals_work()


@pytest.fixture
def flushing(torch: ModuleType) -> Iterator[None]:
    """A caller who has switched denormals off for the thread."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush denormals")
    yield
    torch.set_flush_denormal(False)


@pytest.mark.usefixtures("flushing")
def test_a_callers_own_flushing_is_kept(isa: str) -> None:
    """Restored means as it was, not switched off."""
    assert not denormals_work()
    rng = np.random.default_rng(12)
    make_gru(random_weights(rng, 5, 21), isa=isa)(random_input(rng, 5, 2, 5))
    assert not denormals_work()


def test_results_do_not_depend_on_the_callers_flushing(isa: str, torch: ModuleType) -> None:
    """The call sets its own mode, so a caller's cannot change a bit."""
    rng = np.random.default_rng(13)
    gru = make_gru(random_weights(rng, 5, 21, scale=1e-19), isa=isa)
    x: Array = random_input(rng, 5, 2, 5) * np.float32(1e-19)
    normal = gru(x)
    torch.set_flush_denormal(True)
    try:
        flushed = gru(x)
    finally:
        torch.set_flush_denormal(False)
    assert same_bits(normal[0], flushed[0])
    assert same_bits(normal[1], flushed[1])


def test_every_thread_flushes_denormals(isa: str) -> None:
    """Promise 2 for results so small that they are flushed: in all threads, or in none."""
    rng = np.random.default_rng(17)
    weights = random_weights(rng, 64, 256, bias=False, scale=1e-19)
    x = random_input(rng, 30, 32, 64) * np.float32(1e-19)
    one, two = (make_gru(weights, isa=isa, num_threads=threads)(x) for threads in (1, 2))
    assert same_bits(one[0], two[0])
    assert same_bits(one[1], two[1])


ROUNDING = {"down": 0x400, "up": 0x800, "to zero": 0xC00}  # of fesetround, on x86
x86_glibc = pytest.mark.skipif(
    platform.machine() not in {"x86_64", "AMD64"} or sys.platform != "linux",
    reason="the numbers of fesetround and feenableexcept are those of Linux on x86",
)


def result_of(result: Any) -> Array:
    output: Array = result[0] if isinstance(result, tuple) else result
    return output


@x86_glibc
@pytest.mark.parametrize("mode", ROUNDING)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_results_do_not_depend_on_the_callers_rounding(mode: str, precision: str, isa: str) -> None:
    """Promise 2: a program with interval arithmetic gets the same bits, on one thread and on two.

    Its rounding mode, as its flushing of denormals, is afterwards what it was.
    """
    libm = ctypes.CDLL("libm.so.6")
    rng = np.random.default_rng(20)
    weights, x = random_weights(rng, 64, 256), random_input(rng, 30, 16, 64)
    for threads in (1, 2):
        gru = make_gru(weights, isa=isa, precision=precision, num_threads=threads)
        model = fastgru.Model([gru, fastgru.Tanh(), fastgru.LayerNorm(), fastgru.Mean()])
        for network in (gru, model):
            nearest = result_of(network(x))
            libm.fesetround(ROUNDING[mode])
            try:
                other = result_of(network(x))
            finally:
                found = libm.fegetround()
                libm.fesetround(0)
            assert found == ROUNDING[mode]
            assert same_bits(other, nearest), f"{threads} threads"


@x86_glibc
@pytest.mark.parametrize(
    "network",
    ["gru('float32')", "gru('int8')", *(f"fastgru.{n}()" for n in ("Softmax", "Sigmoid", "Tanh"))],
)
def test_a_caller_that_traps_exceptions_is_not_killed(network: str) -> None:
    """Promise 4: finite input underflows or is inexact somewhere; that is no reason for SIGFPE."""
    code = f"""
import ctypes
import numpy as np, fastgru
rng = np.random.default_rng(0)
def gru(precision):
    weights = {{f"weight_{{k}}h_l0": rng.uniform(-1, 1, (192, 64)) for k in "ih"}}
    return fastgru.GRU.from_state_dict(weights, precision=precision)
network = {network}
x = (rng.standard_normal((20, 40, 64)) * 30).astype(np.float32)
ctypes.CDLL("libm.so.6").feenableexcept(0x1D)  # all but inexact: Python is that, too
network(x)
print("lives")
"""
    done = run_python(code)
    assert done.stdout.strip() == "lives", done


@equations
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one", "two"])
def test_no_time_steps(bidirectional: bool, reset_after: bool, isa: str) -> None:
    """T = 0 gives an empty output and h_n = h_0, in memory of its own."""
    rng = np.random.default_rng(14)
    weights = random_weights(rng, 5, 21, 2, bidirectional)
    gru = make_gru(weights, reset_after=reset_after, isa=isa)
    h_0 = random_state(rng, weights, 3)
    output, h_n = gru(np.zeros((0, 3, 5), np.float32), h_0)
    assert output.shape == (0, 3, 42 if bidirectional else 21)
    assert same_bits(h_n, h_0)
    assert not np.shares_memory(h_n, h_0)
    assert not gru(np.zeros((0, 3, 5), np.float32))[1].any()
    output, h_n = gru(np.zeros((0, 5), np.float32), h_0[:, 0])
    assert output.shape == (0, 42 if bidirectional else 21)
    assert same_bits(h_n, np.ascontiguousarray(h_0[:, 0]))


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one", "two"])
def test_no_rows(bidirectional: bool, isa: str) -> None:
    """B = 0 gives empty arrays of the right shapes, with and without lengths."""
    rng = np.random.default_rng(15)
    gru = make_gru(random_weights(rng, 5, 21, 2, bidirectional), isa=isa)
    directions = 2 if bidirectional else 1
    for lengths in (None, np.zeros(0, np.int64)):
        output, h_n = gru(np.zeros((4, 0, 5), np.float32), lengths=lengths)
        assert output.shape == (4, 0, 21 * directions)
        assert h_n.shape == (2 * directions, 0, 21)


def test_all_lengths_zero(isa: str) -> None:
    """Nothing but padding: zeros out, h_0 back."""
    rng = np.random.default_rng(16)
    weights = random_weights(rng, 5, 21, 2, bidirectional=True)
    h_0 = random_state(rng, weights, 4)
    x = np.full((6, 4, 5), np.nan, np.float32)
    output, h_n = make_gru(weights, isa=isa)(x, h_0, lengths=[0, 0, 0, 0])
    assert output.shape == (6, 4, 42)
    assert not output.any()
    assert same_bits(h_n, h_0)
