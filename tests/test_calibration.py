"""`GRU.to("int8", calibration=...)`: weights rounded by what they are multiplied with (GPTQ)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastgru
import reference
from conftest import Array, Weights, make_gru, random_input, random_state, random_weights, same_bits
from fastgru.calibration import Moments, round_by
from fastgru.precision import scale_of
from fastgru.spec import spec_from_tensors

I, H = 48, 64  # noqa: E741  (I is the project's letter for the input size)


def correlated(rng: np.random.Generator, steps: int, batch: int) -> Array:
    """Inputs as real ones are: few directions, slow, and not around zero."""
    few = np.cumsum(rng.standard_normal((steps, batch, 6)), axis=0) / 4
    mixed = np.tanh(few) @ np.random.default_rng(0).standard_normal((6, I)) + 0.5
    return (mixed + 0.05 * rng.standard_normal((steps, batch, I))).astype(np.float32)


def error(gru: fastgru.GRU, weights: Weights, x: Array, **kinds: Any) -> float:
    """Root of the mean square of the output's error."""
    exact = reference.gru(weights, x, **kinds).output
    return float(np.sqrt(np.mean((gru(x)[0] - exact) ** 2)))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize(("num_layers", "bidirectional"), [(1, False), (2, True)])
def test_errors_on_data_of_that_kind_are_smaller(
    num_layers: int, bidirectional: bool, reset_after: bool, bias: bool
) -> None:
    """On other sequences than those of the calibration, in every kind of network."""
    rng = np.random.default_rng(1)
    weights = random_weights(rng, I, H, num_layers, bidirectional, bias=bias)
    gru = make_gru(weights, reset_after=reset_after)
    x = correlated(rng, 60, 8)
    plain = error(gru.to("int8"), weights, x, reset_after=reset_after)
    calibration = correlated(rng, 60, 16)
    calibrated = gru.to("int8", calibration=calibration)
    assert error(calibrated, weights, x, reset_after=reset_after) < 0.8 * plain


@given(
    inputs=st.integers(1, 40),
    rows=st.integers(1, 30),
    steps=st.integers(1, 100),
    far=st.sampled_from([0.0, 1.0, 1e6]),
    centred=st.booleans(),
)
def test_rounding(inputs: int, rows: int, steps: int, far: float, centred: bool) -> None:
    """Integers in range, and on the data itself never worse than to nearest."""
    rng = np.random.default_rng(inputs * rows)
    weight = rng.standard_normal((rows, inputs)).astype(np.float32)
    x = (rng.standard_normal((steps, inputs)) + far).astype(np.float32)
    moments = Moments()
    for part in np.array_split(x, 3):
        moments.add(part)
    scale = scale_of(weight)
    integers = round_by(weight, scale, moments, centred)
    assert np.array_equal(integers, np.rint(integers))
    assert np.abs(integers).max() <= 127
    seen = x - x.mean(axis=0) if centred else x

    def mean_square(rounded: Array) -> float:
        lost = weight.astype(np.float64) - rounded * scale.astype(np.float64)[:, None]
        return float(np.mean((seen.astype(np.float64) @ lost.T) ** 2))

    assert (
        mean_square(integers) <= mean_square(np.rint(weight / scale[:, None])) * (1 + 1e-6) + 1e-9
    )


def test_moments_are_those_of_all_rows() -> None:
    """In parts and far from zero, as numpy has them of the whole."""
    x = np.random.default_rng(2).standard_normal((50, 7)).astype(np.float32) + np.float32(1e4)
    moments = Moments()
    for part in (x[:1], x[1:20], x[20:20], x[20:]):
        moments.add(part)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(moments.mean(), exact.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(
        moments.second(centred=True), np.cov(exact.T, bias=True), rtol=1e-6, atol=1e-9
    )
    np.testing.assert_allclose(
        moments.second(centred=False), exact.T @ exact / len(exact), rtol=1e-12
    )


def test_biases_take_the_mean() -> None:
    """What rounding does to the products on average is gone, to float32's digits."""
    rng = np.random.default_rng(3)
    weights = random_weights(rng, I, H)
    x = correlated(rng, 40, 4)
    reduced = make_gru(weights).to("int8", calibration=x).tensors()
    rows = x.reshape(-1, I).astype(np.float64)
    before = rows @ weights["weight_ih_l0"].T + weights["bias_ih_l0"]
    after = rows @ reduced["weight_ih_l0"].T + reduced["bias_ih_l0"]
    without = rows @ reduced["weight_ih_l0"].T + weights["bias_ih_l0"]
    left = 1 - len(rows) / (len(rows) + I)  # few rows are not trusted altogether
    assert np.abs(before - without).mean(axis=0).max() > 1e-3
    np.testing.assert_allclose(
        (before - after).mean(axis=0), left * (before - without).mean(axis=0), atol=1e-6
    )


def test_batches_are_one_another_after() -> None:
    """An array, a list of parts, and (x, h_0) in any layout are the same data."""
    rng = np.random.default_rng(4)
    weights = random_weights(rng, I, H, 2)
    x = correlated(rng, 30, 4)
    h_0 = random_state(rng, weights, 4)
    gru = make_gru(weights)

    def of(calibration: Any, network: fastgru.GRU = gru) -> dict[str, Array]:
        return network.to("int8", calibration=calibration).tensors()

    def same(a: dict[str, Array], b: dict[str, Array]) -> bool:
        return all(np.abs(a[name] - b[name]).max() < 1e-5 for name in a)

    rows = [(x[:, b], h_0[:, b]) for b in range(4)]
    halves = [(x[:, :1], h_0[:, :1]), (x[:, 1:], h_0[:, 1:])]
    assert same(of([(x, h_0)]), of(halves))
    assert same(of([(x, h_0)]), of(rows))
    assert same(of(x), of([x]))
    assert same(of(x), of(part for part in (x[:, :2], x[:, 2:])))
    batch_first = make_gru(weights, batch_first=True)
    assert same(of(x), of(x.swapaxes(0, 1), batch_first))
    assert not same(of(x), of([(x, h_0)]))


def test_torch_tensors(torch: Any) -> None:
    """As everywhere else."""
    weights = random_weights(np.random.default_rng(5), I, H)
    x = correlated(np.random.default_rng(6), 20, 2)
    ours = make_gru(weights).to("int8", calibration=x)
    theirs = make_gru(weights).to("int8", calibration=torch.from_numpy(x))
    tensors = theirs.tensors()
    assert all(same_bits(tensor, tensors[name]) for name, tensor in ours.tensors().items())


def test_reverse_networks_see_later_states() -> None:
    """The moments of a network that runs backwards are those of its own steps."""
    weights = random_weights(np.random.default_rng(7), I, H)
    x = correlated(np.random.default_rng(8), 20, 3)
    reverse = fastgru.GRU(spec_from_tensors(weights, reverse=True))
    forward = make_gru(weights)
    a = reverse.to("int8", calibration=x).tensors()
    b = forward.to("int8", calibration=x[::-1]).tensors()
    assert all(np.abs(a[name] - b[name]).max() < 1e-5 for name in a)


def test_layers_that_are_kept_and_files(tmp_path: Any) -> None:
    """`keep` keeps a layer's float32 weights and biases; a file brings the same bits back."""
    weights = random_weights(np.random.default_rng(9), I, H, 2)
    x = correlated(np.random.default_rng(10), 20, 3)
    gru = make_gru(weights)
    reduced = gru.to("int8", keep=[0], calibration=x)
    assert reduced.precision == "int8"
    for name, tensor in reduced.tensors().items():
        assert same_bits(tensor, weights[name]) == ("_l0" in name), name
    reduced.save(tmp_path / "reduced")
    again = fastgru.load(tmp_path / "reduced")
    assert same_bits(again(x)[0], reduced(x)[0])
    assert same_bits(reduced.to("int8")(x)[0], reduced(x)[0])


def test_inputs_that_never_vary() -> None:
    """Zeros, constants and a single step are calibration too, if a poor one."""
    weights = random_weights(np.random.default_rng(11), I, H)
    gru = make_gru(weights)
    x = correlated(np.random.default_rng(12), 20, 3)
    for calibration in (np.zeros((5, 2, I)), np.ones((5, 2, I)), x[:1, :1]):
        calibrated = gru.to("int8", calibration=calibration)
        assert error(calibrated, weights, x) < 1.25 * error(gru.to("int8"), weights, x)


def test_refusals() -> None:
    """What is wrong is named, and nothing is made."""
    weights = random_weights(np.random.default_rng(13), I, H)
    gru = make_gru(weights)
    x = np.ones((4, 2, I), np.float32)
    with pytest.raises(ValueError, match="calibration: expected None for bfloat16"):
        gru.to("bfloat16", calibration=x)
    with pytest.raises(ValueError, match="calibration: expected None for float32"):
        gru.to("float32", calibration=x)
    with pytest.raises(ValueError, match="are int8 already"):
        gru.to("int8").to("int8", calibration=x)
    for nothing in ([], x[:0], [x[:, :0]]):
        with pytest.raises(ValueError, match="calibration: expected at least one time step"):
            gru.to("int8", calibration=nothing)
    with pytest.raises(ValueError, match="weight_ih_l0 is multiplied with NaN or infinity"):
        gru.to("int8", calibration=np.full((4, 2, I), np.inf, np.float32))
    with pytest.raises(fastgru.ShapeError, match="x: expected"):
        gru.to("int8", calibration=x[..., 1:])
    with pytest.raises(fastgru.ShapeError, match="h_0: expected"):
        gru.to("int8", calibration=[(x, x)])
    for wrong in (3, [[1.0, 2.0]], [(x, x, x)], [x.tolist()], (x, x)):
        with pytest.raises(TypeError, match="calibration"):
            gru.to("int8", calibration=wrong)
    with pytest.raises(ValueError, match="keep: expected 0 <= layer < 1"):
        gru.to("int8", keep=[1], calibration=x)
    broken = dict(weights, weight_hh_l0=np.full_like(weights["weight_hh_l0"], np.nan))
    with pytest.raises(ValueError, match="weight_hh_l0: int8 needs finite weights"):
        make_gru(broken).to("int8", calibration=x * 0)


def test_random_input_is_enough_where_there_is_no_other() -> None:
    """States have means and directions of their own whatever goes in."""
    rng = np.random.default_rng(14)
    weights = random_weights(rng, I, H, 2)
    gru = make_gru(weights)
    x = random_input(rng, 80, 8, I)
    calibrated = gru.to("int8", calibration=random_input(rng, 80, 16, I))
    assert error(calibrated, weights, x) < error(gru.to("int8"), weights, x)
