"""Promise 1: sigmoid and tanh within 2e-7 everywhere, tanh within 4e-7 relative near 0.

`_core.Activation` runs the code that the kernels of an ISA use. The sweeps visit every float
exponent, crowd around the clamp points, and try all special values: millions of inputs, since an
approximation goes wrong between the points that somebody thought of.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest

import reference
from conftest import TOLERANCE, Array, same_bits
from fastgru import _core

NAMES = ["sigmoid", "tanh", "hard_sigmoid", "hard_sigmoid_02", "relu"]
EXACT = {**reference.RECURRENT, **reference.CANDIDATE}
SMALLEST_NORMAL = np.finfo(np.float32).smallest_normal


def apply(name: str, x: Array, isa: str) -> Array:
    return _core.Activation(name, isa).run(np.ascontiguousarray(x))


def floats(bits: Array) -> Array:
    """Positive floats with these bits, and their negatives."""
    positive = bits.astype(np.uint32).view(np.float32)
    return np.concatenate([positive, -positive])


def floats_between(low: float, high: float, stride: int = 1) -> Array:
    first, last = np.array([low, high], np.float32).view(np.uint32).astype(np.int64)
    return floats(np.arange(first, last + 1, stride))


@functools.cache
def sweep(name: str) -> Array:
    """Finite inputs to check `name` on."""
    rng = np.random.default_rng(0)
    mantissas = [0, 1, 2, 0x3FFFFF, 0x400000, 0x7FFFFE, 0x7FFFFF, *rng.integers(0, 1 << 23, 57)]
    every_exponent = (np.arange(255)[:, None] << 23 | np.array(mantissas)).ravel()
    parts = [
        floats(every_exponent),  # denormals included (exponent 0)
        floats(np.arange(0, 0x7F800000, 1499)),  # the whole float range, evenly by bits
        floats(np.arange(0x38000000, 0x42D20000, 97)),  # 2^-15 to 105, densely
        floats_between(87.2, 88.8),  # exp overflows and underflows around here
    ]
    if name == "sigmoid":
        parts += [floats_between(15.5, 18.5, 7), floats_between(102.5, 104.5, 3)]
    if name == "tanh":
        parts += [floats_between(7.5, 10.5, 7), floats_between(0.5, 0.7, 7)]
    if name.startswith("hard"):
        parts += [floats_between(2.4, 2.6), floats_between(2.9, 3.1)]
    return np.concatenate(parts)


@functools.cache
def exact(name: str) -> Array:
    return EXACT[name](sweep(name).astype(np.float64))


@functools.cache
def computed(name: str, isa: str) -> Array:
    return apply(name, sweep(name), isa)


@pytest.mark.parametrize("name", NAMES)
def test_absolute_error(name: str, isa: str) -> None:
    """Within 2e-7 of float64 over the whole float range; relu has no error at all."""
    error = np.abs(computed(name, isa) - exact(name))
    if name == "relu":  # denormals may count as zero
        error[np.abs(sweep(name)) < SMALLEST_NORMAL] = 0
    worst = np.argmax(error)
    limit = 0 if name == "relu" else TOLERANCE["activation"]
    assert error[worst] <= limit, f"{name}({sweep(name)[worst]!r}): error {error[worst]:.3g}"


def test_tanh_relative_error(isa: str) -> None:
    """Within 4e-7 relative for all normal floats: an input of 1e-30 keeps its digits."""
    x = sweep("tanh")
    normal = np.abs(x) >= SMALLEST_NORMAL
    error = np.abs(computed("tanh", isa)[normal] / exact("tanh")[normal] - 1)
    worst = np.argmax(error)
    assert error[worst] <= TOLERANCE["tanh_relative"], f"tanh({x[normal][worst]!r})"


def test_results_stay_inside_their_range(isa: str) -> None:
    """|tanh| <= 1 and 0 <= sigmoid <= 1 to the last bit: what |h| <= 1 rests on."""
    assert np.abs(computed("tanh", isa)).max() <= 1
    for name in ("sigmoid", "hard_sigmoid", "hard_sigmoid_02"):
        assert computed(name, isa).min() >= 0
        assert computed(name, isa).max() <= 1


def test_tanh_is_odd(isa: str) -> None:
    """tanh(-x) is -tanh(x) to the bit, zeros included."""
    x = sweep("tanh")
    assert same_bits(apply("tanh", -x, isa), -computed("tanh", isa))


def test_denormals(isa: str) -> None:
    """Denormals may be flushed to zero, and do nothing worse than that."""
    x = floats(np.concatenate([np.arange(0, 1 << 23, 101), [1, (1 << 23) - 1]]))
    tanh = apply("tanh", x, isa)
    assert np.all(np.abs(tanh) <= np.abs(x))
    assert np.all((tanh == 0) | (np.sign(tanh) == np.sign(x)))
    assert np.all(apply("sigmoid", x, isa) == 0.5)
    assert np.all(apply("hard_sigmoid", x, isa) == 0.5)


def test_saturation_is_exact(isa: str) -> None:
    """A gate driven far enough is exactly 1: z = 1 must keep the state. Below it is all but 0."""
    big = np.concatenate([np.arange(26, 120, 0.01), np.logspace(2, 38, 1000), [np.inf]])
    x = big.astype(np.float32)
    assert np.all(apply("sigmoid", x, isa) == 1)
    assert np.all(apply("sigmoid", -x[x > 104], isa) <= SMALLEST_NORMAL * 2)
    for name, flat in (("hard_sigmoid", 3), ("hard_sigmoid_02", 2.5)):
        beyond = np.concatenate([np.array([flat], np.float32), x])
        assert np.all(apply(name, beyond, isa) == 1)
        assert np.all(apply(name, -beyond, isa) == 0)


@pytest.mark.parametrize("name", NAMES)
def test_special_values(name: str, isa: str) -> None:
    """NaN in, NaN out, whatever its sign and payload; infinities are the limits."""
    quiet, negative, payload = 0x7FC00000, 0xFFC00000, 0x7FFFFFFF
    nans = np.array([quiet, negative, payload], np.uint32).view(np.float32)
    limits = {"tanh": (-1, 1), "relu": (0, np.inf)}.get(name, (0, 1))
    for position in range(17):  # every lane
        x = np.zeros(17, np.float32)
        for nan in nans:
            x[position] = nan
            y = apply(name, x, isa)
            assert np.isnan(y[position])
            assert np.isnan(y).sum() == 1
        for infinity, limit in zip((-np.inf, np.inf), limits, strict=True):
            x[position] = infinity
            y = apply(name, x, isa)[position]
            assert y == limit or abs(y - limit) <= TOLERANCE["activation"]
    middle = 0.5 if "sigmoid" in name else 0
    assert np.all(apply(name, np.array([0.0, -0.0], np.float32), isa) == middle)


@pytest.mark.parametrize("name", NAMES)
def test_neighbours_do_not_matter(name: str, isa: str) -> None:
    """Promise 2: a value's result does not depend on its lane or on the length of the array."""
    x = sweep(name)[::40_001].copy()
    whole = apply(name, x, isa)
    for length in range(41):
        part = slice(length, 2 * length)
        assert same_bits(apply(name, x[part], isa), whole[part])


@pytest.mark.parametrize("name", NAMES)
def test_avx2_and_avx512_agree_to_the_bit(name: str, both_isas: tuple[str, str]) -> None:
    """Promise 2 for activations, over the whole sweep."""
    avx2, avx512 = both_isas
    assert same_bits(computed(name, avx2), computed(name, avx512))
    special = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0] * 5, np.float32)
    assert same_bits(apply(name, special, avx2), apply(name, special, avx512))


def test_unknown_names_are_refused(isa: str) -> None:
    """The core is private, and still raises rather than reading past a table."""
    x = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match="softplus"):
        apply("softplus", x, isa)
    with pytest.raises(ValueError, match="nonsense"):
        apply("tanh", x, "nonsense")
