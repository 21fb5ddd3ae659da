"""bfloat16 and int8: what they compute, how far it is from float32, and what files keep of them.

The definition of correct is reference.py with products as precision.py and cpp/kernels/product/reduced.hpp
say, in NumPy: weights rounded once, states to 1/127, inputs to 16 bits a row and time step.
"""

from __future__ import annotations

import copy
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import fastgru
import reference
from conftest import (
    SUPPORTED_ISAS,
    Array,
    Weights,
    make_gru,
    random_input,
    random_state,
    random_weights,
    same_bits,
)
from fastgru.precision import quantize, round_to_bfloat16, state_steps

REDUCED = ["bfloat16", "int8"]
# Largest difference of outputs from a float64 network with the float32 weights: networks of this
# size are at 2e-3 to 8e-3, and a wrong scale or a missing plane is beyond 0.05.
CLOSE = {"bfloat16": 0.015, "int8": 0.02}


def emulated(weights: Weights, x: Array, h_0: Array, precision: str, **options: Any) -> Array:
    """Output of the reduced network, by its definition, in float64."""
    size = weights["weight_hh_l0"].shape[1]
    reduced = dict(weights)
    for name in weights:
        if name.startswith("weight") and precision == "bfloat16":
            reduced[name] = round_to_bfloat16(weights[name])
        elif name.startswith("weight"):
            integers, scale = quantize(weights[name])
            reduced[name] = integers.astype(np.float64) * scale[:, None]

    def matmul(values: Array, matrix: Array) -> Array:
        if precision == "bfloat16":
            rounded: Array = round_to_bfloat16(values.astype(np.float32)).astype(np.float64)
            return rounded @ matrix
        is_input = matrix.shape[1] == 3 * size
        bound = np.abs(values).max(axis=1, keepdims=True)
        bound = np.maximum(bound, 1e-30 if is_input else 1.0)
        inputs = weights["weight_ih_l0"].shape[1]
        steps = 32512 if is_input else state_steps(inputs, size)
        product: Array = (np.rint(values * steps / bound) * bound / steps) @ matrix
        return product

    return reference.gru(reduced, x, h_0, matmul=matmul, **options).output


@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("precision", REDUCED)
@pytest.mark.parametrize(
    ("inputs", "hidden"), [(1, 1), (3, 5), (8, 32), (9, 35), (40, 33), (64, 64), (257, 128)]
)
def test_is_what_it_is_defined_as(
    isa: str, inputs: int, hidden: int, precision: str, reset_after: bool
) -> None:
    """A tie that falls the other way in float32 costs a step of 1/127 or of bfloat16, once in a
    while; anything systematic would be larger than that on average."""
    rng = np.random.default_rng(inputs * 1000 + hidden)
    weights = random_weights(rng, inputs, hidden, 2)
    x, h_0 = random_input(rng, 12, 5, inputs), random_state(rng, weights, 5)
    gru = make_gru(weights, precision=precision, reset_after=reset_after, isa=isa)
    output, _ = gru(x, h_0)
    exact = emulated(weights, x, h_0, precision, reset_after=reset_after)
    error = np.abs(output - exact)
    assert np.mean(error) < 5e-5
    assert np.max(error) < 4e-3


def test_states_of_networks_with_few_inputs_are_fine(isa: str) -> None:
    """There the states' rounding would decide the error: 1/127 of a step is gone from it."""
    rng = np.random.default_rng(4)
    weights = random_weights(rng, 4, 64, 2)
    x = random_input(rng, 60, 4, 4)
    gru = make_gru(weights, precision="int8", isa=isa)
    rounded, _ = gru(x)
    of_weights = reference.gru(gru.tensors(), x).output
    wide = random_weights(rng, 32, 64, 2)
    wide_gru = make_gru(wide, precision="int8", isa=isa)
    wide_x = random_input(rng, 60, 4, 32)
    coarse = np.abs(wide_gru(wide_x)[0] - reference.gru(wide_gru.tensors(), wide_x).output).max()
    assert np.abs(rounded - of_weights).max() < 2e-4
    assert coarse > 1e-3  # what one rounding of the states to 1/127 does


@pytest.mark.parametrize("precision", REDUCED)
def test_is_close_to_float32(isa: str, precision: str) -> None:
    """The reduced network is the same network: 20 random ones."""
    worst = 0.0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        weights = random_weights(rng, 48, 96)
        x, h_0 = random_input(rng, 50, 4, 48), random_state(rng, weights, 4)
        output, _ = make_gru(weights, precision=precision, isa=isa)(x, h_0)
        worst = max(worst, np.abs(output - reference.gru(weights, x, h_0).output).max())
    assert 1e-5 < worst < CLOSE[precision]


@pytest.mark.parametrize("precision", REDUCED)
def test_forced_isas_agree(precision: str) -> None:
    """int8 sums are the same integers everywhere: only gates differ, in their last bits."""
    rng = np.random.default_rng(3)
    weights = random_weights(rng, 70, 90)
    x, h_0 = random_input(rng, 6, 9, 70), random_state(rng, weights, 9)
    results = {
        name: make_gru(weights, precision=precision, isa=name)(x, h_0)[0]
        for name, supported in fastgru._core.isa_levels()
        if supported
    }
    for name, result in results.items():
        # one step of 1/127 may fall on the other side where gates differ by a bit
        assert np.abs(result - results["portable"]).mean() < 1e-6, name


@pytest.mark.parametrize("activation", ["tanh", "relu", "identity"])
def test_states_beyond_one_are_not_cut_off(isa: str, activation: str) -> None:
    """A first state of 5, or an unbounded candidate, is rounded more coarsely, never saturated."""
    rng = np.random.default_rng(8)
    weights = random_weights(rng, 12, 32)
    x, h_0 = random_input(rng, 10, 3, 12), 5 * random_state(rng, weights, 3)
    gru = make_gru(weights, precision="int8", activation=activation, isa=isa)
    output, _ = gru(x, h_0)
    exact = reference.gru(weights, x, h_0, activation=activation).output
    assert np.abs(exact).max() > 2
    assert np.abs(output - exact).max() < 0.02 * np.abs(exact).max()


@pytest.mark.parametrize("precision", REDUCED)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_stays_in_its_row(isa: str, precision: str, value: float) -> None:
    """NaN in gives NaN out, in that row alone; in int8 infinity does, too."""
    rng = np.random.default_rng(4)
    weights = random_weights(rng, 8, 24)
    x = random_input(rng, 5, 6, 8)
    gru = make_gru(weights, precision=precision, isa=isa)
    clean, _ = gru(x)
    x[2, 3, 1] = value
    output, _ = gru(x)
    others = [0, 1, 2, 4, 5]
    assert same_bits(output[:, others], clean[:, others])
    assert same_bits(output[:2, 3], clean[:2, 3])
    if np.isnan(value) or precision == "int8":
        assert np.isnan(output[2:, 3]).all()


def test_small_and_large_inputs_keep_their_digits(isa: str) -> None:
    """One scale a row and time step: rows of very different sizes do not disturb each other."""
    rng = np.random.default_rng(6)
    weights = random_weights(rng, 20, 16)
    x = random_input(rng, 4, 3, 20) * np.array([1e-20, 1.0, 1e6], np.float32)[:, None]
    output, _ = make_gru(weights, precision="int8", isa=isa)(x)
    exact = reference.gru(weights, x).output
    assert np.abs(output - exact).max() < 0.02


def test_zero_rows_and_odd_sizes(isa: str) -> None:
    """Rows of zeros have no scale of their own; K of every remainder is padded."""
    for inputs in range(1, 9):
        rng = np.random.default_rng(inputs)
        weights = random_weights(rng, inputs, 5)
        weights["weight_ih_l0"][3] = 0
        weights["weight_hh_l0"][7] = 0
        x = random_input(rng, 3, 2, inputs)
        x[1, 0] = 0
        for precision in REDUCED:
            output, _ = make_gru(weights, precision=precision, isa=isa)(x)
            exact = reference.gru(weights, x).output
            assert np.abs(output - exact).max() < CLOSE[precision]


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**32))
def test_quantize(rows: int, columns: int, seed: int) -> None:
    """Integers in -127..127, the largest of each row +-127, none further off than half a step."""
    weight = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
    integers, scale = quantize(weight)
    assert np.array_equal(integers, np.rint(integers))
    assert np.abs(integers).max(axis=1).tolist() == [127] * rows
    assert np.all(np.abs(integers * scale[:, None] - weight) <= 0.5001 * scale[:, None])


def test_round_to_bfloat16_is_torchs(torch: Any) -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 100_000, dtype=np.uint32)
    x = bits.view(np.float32)
    expected = torch.from_numpy(x).to(torch.bfloat16).to(torch.float32).numpy()
    assert same_bits(round_to_bfloat16(x), expected)


# ---- the interface ----


def small(layers: int = 3, **options: Any) -> fastgru.GRU:
    rng = np.random.default_rng(1)
    return make_gru(random_weights(rng, 10, 20, layers, True), **options)


@pytest.mark.parametrize("precision", REDUCED)
def test_to(precision: str) -> None:
    """`to` gives what `precision=` gives, smaller, and leaves the model alone."""
    gru = small(num_threads=2, batch_first=True)
    reduced = gru.to(precision)
    assert (gru.precision, reduced.precision) == ("float32", precision)
    assert reduced.nbytes < gru.nbytes
    assert (reduced.num_threads, reduced.batch_first) == (2, True)
    assert f": {precision}, " in repr(reduced)
    x = random_input(np.random.default_rng(2), 2, 7, 10)
    assert same_bits(reduced(x)[0], small(precision=precision, batch_first=True)(x)[0])
    assert not same_bits(reduced(x)[0], gru(x)[0])
    assert same_bits(reduced.to(precision)(x)[0], reduced(x)[0])


def test_keep() -> None:
    """Layers that are kept have their float32 weights, to the bit, and their float32 results."""
    gru = small()
    kept = gru.to("int8", keep=[0, 2])
    before, after = gru.tensors(), kept.tensors()
    for name in before:
        assert same_bits(before[name], after[name]) == ("l1" not in name or "bias" in name), name
    assert "layers [0, 2] float32" in repr(kept)
    kernels = kept._core.kernels
    assert kernels[0] == kernels[2] == kept.isa
    assert kernels[1].startswith(kept.isa)  # or with instructions that the level does not ask for
    assert same_bits(
        gru.to("int8", keep=range(3)).tensors()["weight_hh_l1"], before["weight_hh_l1"]
    )
    assert repr(gru.to("int8", keep=range(3))) == repr(gru)
    x = random_input(np.random.default_rng(2), 4, 3, 10)
    first = kept.trace(x).hidden[:2]
    assert same_bits(first, gru.trace(x).hidden[:2])


def test_errors() -> None:
    gru = small()
    for precision in ("float16", None, "INT8"):
        with pytest.raises(ValueError, match=r"precision: expected 'float32' or 'bfloat16' or"):
            gru.to(precision)  # type: ignore[arg-type]
    for target in ("float32", "bfloat16"):
        with pytest.raises(ValueError, match="this model are int8 already"):
            gru.to("int8").to(target)
    with pytest.raises(ValueError, match=r"keep: expected 0 <= layer < 3, got 3"):
        gru.to("int8", keep=[3])
    for keep in ("a", 0, None, [True], [0.5]):
        with pytest.raises(TypeError, match="keep: expected layer numbers"):
            gru.to("int8", keep=keep)  # type: ignore[arg-type]
    weights = random_weights(np.random.default_rng(0), 4, 4)
    weights["weight_hh_l0"][2, 1] = np.inf
    with pytest.raises(ValueError, match="weight_hh_l0: int8 needs finite weights"):
        make_gru(weights, precision="int8")


def test_more_terms_than_int8_can_sum() -> None:
    """128 * 127 * K must stay below 2^31: a wider layer is refused, not summed wrongly."""
    weights = random_weights(np.random.default_rng(0), 132_105, 1)
    with pytest.raises(ValueError, match="int8: a layer may have at most 132104 inputs or units"):
        make_gru(weights, precision="int8")
    weights["weight_ih_l0"] = np.ascontiguousarray(weights["weight_ih_l0"][:, 1:])
    weights["weight_ih_l0"][:] = 1
    output, _ = make_gru(weights, precision="int8")(np.ones((1, 132_104), np.float32))
    assert output.tolist() == [[0.0]]  # z = 1: sums of 4.3e9 have not become negative


@pytest.mark.parametrize("precision", REDUCED)
def test_no_drift(precision: str) -> None:
    """A long stream forgets its rounding: late errors are no larger than early ones, twice."""
    weights = random_weights(np.random.default_rng(0), 16, 48)
    x = random_input(np.random.default_rng(1), 100_000, 1, 16)
    gru = make_gru(weights)
    error = np.abs(gru(x)[0] - gru.to(precision)(x)[0]).max(axis=(1, 2))
    assert 0 < error[-1000:].max() < 2 * error[:1000].max()


@pytest.mark.parametrize("precision", REDUCED)
def test_streams_pickles_and_copies(precision: str, isa: str) -> None:
    """Everything that a GRU can do, a reduced one can, with its own bits."""
    gru = make_gru(random_weights(np.random.default_rng(5), 6, 40, 2), precision=precision, isa=isa)
    x = random_input(np.random.default_rng(6), 9, 1, 6)
    output, h_n = gru(x)
    stream = gru.stream()
    steps = np.stack([stream.step(x[t, 0]) for t in range(9)])
    assert same_bits(steps, output[:, 0])
    assert same_bits(stream.state, h_n)
    for other in (pickle.loads(pickle.dumps(gru)), copy.copy(gru), copy.deepcopy(gru)):
        assert other.precision == precision
        assert same_bits(other(x)[0], output)
    assert same_bits(gru.trace(x).hidden[1], output)


# ---- compare ----


def test_compare() -> None:
    """Errors are those of the arrays; the table has a line a layer and direction."""
    gru = small(batch_first=True)
    reduced = gru.to("int8", keep=[0])
    x = random_input(np.random.default_rng(2), 4, 9, 10)
    report = fastgru.compare(gru, reduced, x)
    (output, h_n), (other, h_other) = gru(x), reduced(x)
    error = np.abs(output.astype(np.float64) - other)
    assert report.output.max == error.max()
    assert report.output.mean == pytest.approx(error.mean())
    assert report.output.worst_step == error.max(axis=(0, 2)).argmax()
    assert [s.max for s in report.states] == np.abs(h_n - h_other).max(axis=(1, 2)).tolist()
    assert [layer.max for layer in report.layers[:2]] == [0, 0]
    assert min(layer.max for layer in report.layers[2:]) > 0
    assert report.nbytes == (gru.nbytes, reduced.nbytes)
    assert report.output_state == report.states[-2:]
    lines = str(report).splitlines()
    assert lines[0].startswith("float32, ")
    assert [line.split()[:2] for line in lines[3:5]] == [["layer", "0"]] * 2
    assert len(lines) == 3 + 6 + 1


def test_compare_wants_models_of_one_shape() -> None:
    other = make_gru(random_weights(np.random.default_rng(0), 10, 20))
    with pytest.raises(ValueError, match="num_layers: 3 and 1"):
        fastgru.compare(small(), other, np.zeros((2, 1, 10), np.float32))
    with pytest.raises(TypeError, match="expected two GRUs, got GRU and NoneType"):
        fastgru.compare(small(), None, np.zeros((2, 1, 10), np.float32))  # type: ignore[arg-type]


def test_compare_tells_of_nan() -> None:
    gru = small(1)
    x = random_input(np.random.default_rng(2), 4, 2, 10)
    x[1, 0, 0] = np.nan
    report = fastgru.compare(gru, gru.to("int8"), x)
    assert np.isnan(report.output.max)
    assert report.output.worst_step == 0  # the reverse direction carries it to the first step
    assert fastgru.compare(gru, gru, x[:0]).output.max == 0


def badly_scaled(column: int, inputs: int = 6, hidden: int = 32) -> tuple[fastgru.GRU, Array]:
    """A network of a series that nobody normalised: an input near 10,000, its weights near 1e-4."""
    rng = np.random.default_rng(column)
    weights = random_weights(rng, inputs, hidden)
    weights["weight_ih_l0"][:, column] *= np.float32(1e-4 * np.sqrt(hidden))
    x = random_input(rng, 30, 4, inputs)
    x[..., column] *= 1e4
    return make_gru(weights), x


@pytest.mark.parametrize("column", range(6))
def test_compare_says_where_inputs_are_badly_scaled(column: int) -> None:
    """The note names the input, and what it advises makes the error small and the note go."""
    gru, x = badly_scaled(column)
    report = fastgru.compare(gru, gru.to("int8"), x)
    assert report.output.max > 0.3
    (note,) = report.notes
    assert f"for j = {column}: x[..., {column}] reaches {np.abs(x[..., column]).max():.3g} " in note
    assert str(report).endswith(f"\nnote: {note}")
    (told,) = re.findall(rf", (\d+) for j = {column};", note)
    tensors, scale = gru.tensors(), np.float32(told)
    tensors["weight_ih_l0"][:, column] *= scale
    x[..., column] /= scale
    better, same = make_gru(tensors), make_gru(gru.tensors())
    assert (
        np.abs(better(x)[0] - same(x * np.where(np.arange(6) == column, scale, 1))[0]).max() < 1e-5
    )
    advised = fastgru.compare(better, better.to("int8"), x)
    assert advised.notes == ()
    assert advised.output.max < 0.03
    x[..., column] *= scale
    assert fastgru.compare(gru, gru.to("int8", keep=[0]), x).notes == ()
    assert fastgru.compare(gru.to("int8"), gru, x).notes == report.notes
    x[0, 0] = np.nan  # a gap in the series, which makes the errors NaN
    assert fastgru.compare(gru, gru.to("int8"), x).notes


@pytest.mark.parametrize("precision", ["float32", *REDUCED])
def test_compare_has_no_note_where_inputs_are_well_scaled(precision: str) -> None:
    """Nor where x has a NaN or no step, nor for two reduced models: that is no rounding alone."""
    gru = small()
    x = random_input(np.random.default_rng(2), 40, 4, 10)
    assert fastgru.compare(gru, gru.to(precision), x).notes == ()
    assert fastgru.compare(gru, gru.to(precision), x[:0]).notes == ()
    x[3, 1, 2] = np.nan
    assert fastgru.compare(gru, gru.to(precision), x).notes == ()
    bad, x = badly_scaled(2)
    assert fastgru.compare(bad.to("bfloat16"), bad.to("int8"), x).notes == ()


@given(
    st.sampled_from([1, 3, 13, 40]),
    st.sampled_from([2, 16, 33]),
    st.integers(1, 9),
    st.booleans(),
    st.sampled_from(["tanh", "relu", "identity"]),
    st.sampled_from([np.nan, np.inf, -np.inf]),
    st.sampled_from(["x", "h_0"]),
)
def test_int8_gives_one_nan_on_every_isa(  # noqa: PLR0917
    inputs: int,
    hidden: int,
    rows: int,
    reset_after: bool,
    activation: str,
    value: float,
    where: str,
) -> None:
    """The positive one, so that a row's bits are the same, NaN or not."""
    rng = np.random.default_rng(inputs + rows)
    weights = random_weights(rng, inputs, hidden)
    x, h_0 = random_input(rng, 4, rows, inputs), random_state(rng, weights, rows)
    (x[1] if where == "x" else h_0[0])[rows // 2, 0] = value
    for isa in SUPPORTED_ISAS:
        gru = make_gru(weights, isa=isa, reset_after=reset_after, activation=activation)
        output, h_n = gru.to("int8")(x, h_0)
        for array in (output, h_n):
            bits = array[np.isnan(array)].view(np.uint32)
            assert bits.size
            assert set(bits.tolist()) == {0x7FC00000}


# ---- files ----


@pytest.mark.parametrize("keep", [(), (1,)])
@pytest.mark.parametrize("precision", REDUCED)
def test_save_and_load(tmp_path: Path, precision: str, keep: tuple[int, ...]) -> None:
    """A reduced file is smaller, loads as it is, and gives the same bits."""
    gru = small()
    reduced = gru.to(precision, keep=keep)
    gru.save(tmp_path / "full")
    reduced.save(tmp_path / "reduced")
    assert (tmp_path / "reduced").stat().st_size < (tmp_path / "full").stat().st_size
    loaded = fastgru.load(tmp_path / "reduced")
    assert repr(loaded) == repr(reduced)
    x = random_input(np.random.default_rng(2), 4, 3, 10)
    assert same_bits(loaded(x)[0], reduced(x)[0])
    assert same_bits(fastgru.load(tmp_path / "reduced", precision=precision)(x)[0], reduced(x)[0])
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "reduced").read_bytes()
    with pytest.raises(fastgru.FormatError, match="precision: the file says"):
        fastgru.load(tmp_path / "reduced", precision="float32")


@pytest.mark.parametrize("precision", REDUCED)
def test_a_float32_file_can_be_reduced(tmp_path: Path, precision: str) -> None:
    gru = small()
    gru.save(tmp_path / "full")
    np.savez(tmp_path / "bare.npz", **gru.tensors())  # type: ignore[arg-type]
    x = random_input(np.random.default_rng(2), 4, 3, 10)
    for name in ("full", "bare.npz"):
        loaded = fastgru.load(tmp_path / name, precision=precision)
        assert same_bits(loaded(x)[0], gru.to(precision)(x)[0])


def test_what_int8_cannot_hold_is_the_files_fault(tmp_path: Path) -> None:
    """Like any other weight that does not fit: a FormatError with the file's name."""
    weights = small().tensors()
    weights["weight_hh_l1"][2, 1] = np.nan
    np.savez(tmp_path / "nan.npz", **weights)  # type: ignore[arg-type]
    with pytest.raises(fastgru.FormatError, match=r"nan\.npz: weight_hh_l1: int8 needs finite"):
        fastgru.load(tmp_path / "nan.npz", precision="int8")


def test_float32_files_are_as_they_were(tmp_path: Path) -> None:
    """Older versions read what is not reduced: version 1, without a list of precisions."""
    small().save(tmp_path / "full")
    with safetensors.safe_open(tmp_path / "full", "numpy") as file:
        description = json.loads(file.metadata()["fastgru"])
    assert description["format_version"] == 1
    assert "precisions" not in description


def changed(tmp_path: Path, change: Callable[[dict[str, Array], dict[str, Any]], object]) -> Path:
    """An int8 file whose tensors or description `change` has altered."""
    make_gru(random_weights(np.random.default_rng(1), 3, 5)).to("int8").save(tmp_path / "sound")
    with safetensors.safe_open(tmp_path / "sound", "numpy") as file:
        description = json.loads(file.metadata()["fastgru"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors, description)
    path = tmp_path / "changed"
    safetensors.numpy.save_file(tensors, path, {"fastgru": json.dumps(description)})
    return path


SCALE = "weight_hh_l0_scale"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, d: p.pop(SCALE), rf"{SCALE}: missing, expected \(15,\)"),
        (
            lambda p, d: p.update({SCALE: p[SCALE].reshape(5, 3)}),
            rf"{SCALE}: expected F32 \(15,\), got",
        ),
        (lambda p, d: p[SCALE].fill(0), f"{SCALE}: expected positive finite"),
        (lambda p, d: p[SCALE].fill(np.nan), f"{SCALE}: expected positive finite"),
        (lambda p, d: p["weight_hh_l0"].fill(-128), "integers in -127..127"),
        (lambda p, d: p.pop("weight_hh_l0"), "weight_hh_l0: missing"),
        (lambda p, d: d.update(precision="bfloat16", precisions=["bfloat16"]), "expected BF16"),
        (
            lambda p, d: d.update(precision="float32", precisions=["float32"]),
            "precisions: expected",
        ),
        (lambda p, d: d.update(precisions=["int8", "int8"]), "precisions: expected 1 of"),
        (lambda p, d: d.update(precisions="int8"), "precisions: expected"),
        (lambda p, d: d.update(precisions=[1]), "precisions: expected"),
        (lambda p, d: d.pop("precisions"), "precisions: missing"),
        (lambda p, d: d.update(format_version=1), "precision: expected 'float32'|unknown field"),
        (lambda p, d: p.update(bias_hh_l0=np.zeros(15, np.int8)), "real floating dtype"),
    ],
)
def test_bad_files(tmp_path: Path, change: Any, message: str) -> None:
    """Damage to a reduced file is one FormatError that says what is wrong."""
    with pytest.raises(fastgru.FormatError, match=message):
        fastgru.load(changed(tmp_path, change))
    assert fastgru.load(changed(tmp_path, lambda p, d: None)).precision == "int8"
