"""The layers around a GRU, one by one: what torch's give, from arguments that fit, on every ISA.

Promise 1 (accuracy), 2 (a row's bits depend on the row alone; AVX2 and AVX-512 agree) and 4 (wrong
arguments and calls raise one clear exception) for each.
"""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastgru
import reference
from conftest import (
    SUPPORTED_ISAS,
    TOLERANCE,
    Array,
    assert_close,
    assert_promise_1,
    elsewhere,
    largest_error,
    random_input,
    same_bits,
)
from fastgru.layers import Layer

SIZES = [1, 15, 16, 17, 31, 32, 33, 47, 48, 49, 97]  # around vectors, panels, three panels


def numbers(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    return random_input(np.random.default_rng(seed), *shape) * np.float32(scale)


def make(name: str, size: int = 17, isa: str | None = None) -> Any:
    """A layer of each kind, for `size` features or indices below it."""
    forced: Any = {"_isa": isa}
    layers: dict[str, Callable[[], Layer]] = {
        "Embedding": lambda: fastgru.Embedding(numbers(size, 5)),
        "OneHot": lambda: fastgru.OneHot(size),
        "Linear": lambda: fastgru.Linear(numbers(53, size), numbers(53, seed=1), **forced),
        "LayerNorm": lambda: fastgru.LayerNorm(numbers(size), numbers(size, seed=1)),
        "ReLU": lambda: fastgru.ReLU(**forced),
        "Tanh": lambda: fastgru.Tanh(**forced),
        "Sigmoid": lambda: fastgru.Sigmoid(**forced),
        "Softmax": lambda: fastgru.Softmax(**forced),
        "LogSoftmax": lambda: fastgru.LogSoftmax(**forced),
        "Last": fastgru.Last,
        "Mean": fastgru.Mean,
        "Max": fastgru.Max,
    }
    return layers[name]()


FEATURES = ["Linear", "LayerNorm", "ReLU", "Tanh", "Sigmoid", "Softmax", "LogSoftmax"]
INDICES = ["Embedding", "OneHot"]
OVER_TIME = ["Last", "Mean", "Max"]


# ---- promise 1: what torch gives ----


@pytest.mark.parametrize("inputs", [1, 17, 128, 300, 1024])
@pytest.mark.parametrize("outputs", [1, 7, 8, 16, 48, 49, 100, 500])
def test_linear(inputs: int, outputs: int, isa: str, torch: ModuleType) -> None:
    """At most twice torch's own error, with torch's initialisation."""
    bound = 1 / np.sqrt(inputs)
    rng = np.random.default_rng(inputs * outputs)
    weight = rng.uniform(-bound, bound, (outputs, inputs)).astype(np.float32)
    bias = rng.uniform(-bound, bound, outputs).astype(np.float32)
    x = random_input(rng, 4000 // outputs + 5, inputs)
    exact = x.astype(np.float64) @ weight.T.astype(np.float64) + bias
    theirs = torch.nn.functional.linear(*map(torch.from_numpy, (x, weight, bias))).numpy()
    layer = fastgru.Linear(weight, bias, _isa=isa)
    assert_promise_1(layer(x), exact, largest_error(theirs, exact))
    assert same_bits(layer.weight, weight)
    assert layer.bias is not None
    assert same_bits(layer.bias, bias)


def test_linear_without_bias(isa: str) -> None:
    """bias=None is a bias of zeros."""
    weight, x = numbers(20, 9), numbers(3, 9, seed=1)
    plain = fastgru.Linear(weight, _isa=isa)
    assert plain.bias is None
    assert same_bits(plain(x), fastgru.Linear(weight, np.zeros(20, np.float32), _isa=isa)(x))


@pytest.mark.parametrize("size", [*SIZES, 1000, 50_000])
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_softmax(size: int, scale: float, isa: str, torch: ModuleType) -> None:
    """Softmax and its logarithm; rows sum to 1."""
    x = numbers(3, size, seed=size, scale=scale)
    double = torch.from_numpy(x).double()
    y = fastgru.Softmax(_isa=isa)(x)
    assert_close(y, torch.softmax(double, -1).numpy())
    assert np.all(np.abs(y.sum(-1, dtype=np.float64) - 1) <= TOLERANCE["output"])
    assert_close(fastgru.LogSoftmax(_isa=isa)(x), torch.log_softmax(double, -1).numpy())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("offset", [0.0, 100.0])  # of the mean, which must not cost digits
@pytest.mark.parametrize("eps", [1e-5, 1e-3])
def test_layer_norm(size: int, offset: float, eps: float, torch: ModuleType) -> None:
    """With weight and bias, one of them, or neither."""
    x = numbers(40, size, scale=3.0) + np.float32(offset)
    parts = {"weight": numbers(size, seed=1), "bias": numbers(size, seed=2)}
    for names in (["weight", "bias"], ["weight"], ["bias"], []):
        given = {name: parts[name] for name in names}
        doubles = {name: torch.from_numpy(part).double() for name, part in given.items()}
        double = torch.from_numpy(x).double()
        exact = torch.nn.functional.layer_norm(double, (size,), **doubles, eps=eps).numpy()
        assert_close(fastgru.LayerNorm(**given, eps=eps)(x), exact)


@pytest.mark.parametrize("size", SIZES)
def test_activations(size: int, isa: str) -> None:
    """Those of test_activations.py, for any number of elements and axes."""
    x = numbers(2, 3, size, scale=5.0)
    for name, function in (
        ("ReLU", reference.CANDIDATE["relu"]),
        ("Tanh", reference.CANDIDATE["tanh"]),
        ("Sigmoid", reference.CANDIDATE["sigmoid"]),
    ):
        y = make(name, isa=isa)(x)
        assert np.abs(y - function(x.astype(np.float64))).max() <= TOLERANCE["activation"]


def test_embedding_and_one_hot(torch: ModuleType) -> None:
    """Rows to the bit, for indices of any shape and integer type."""
    table = numbers(11, 6)
    for dtype in (np.int64, np.int32, np.uint8, ">i2"):
        for shape in ((), (4,), (3, 4), (2, 3, 4), (0, 3)):
            index = np.random.default_rng(1).integers(0, 11, shape).astype(dtype)
            assert same_bits(fastgru.Embedding(table)(index), table[index.astype(np.int64)])
            one_hot = torch.nn.functional.one_hot(torch.from_numpy(index.astype(np.int64)), 11)
            assert same_bits(fastgru.OneHot(11)(index), one_hot.float().numpy())
    assert same_bits(fastgru.Embedding(table)(torch.tensor([3])), table[[3]])


@pytest.mark.parametrize("width", [1, 5, 16, 33])
@pytest.mark.parametrize("batch_first", [False, True])
def test_over_time(width: int, batch_first: bool) -> None:
    """Last, Mean and Max of the steps before each row's length, in each layout."""
    x, lengths = numbers(9, 4, width), [9, 1, 4, 8]
    given = np.ascontiguousarray(x.swapaxes(0, 1)) if batch_first else x
    for counts in (None, lengths):
        rows = [x[: counts[row] if counts else 9, row].astype(np.float64) for row in range(4)]
        for layer, exact in (
            (fastgru.Last(), [row[-1] for row in rows]),
            (fastgru.Mean(), [row.mean(axis=0) for row in rows]),
            (fastgru.Max(), [row.max(axis=0) for row in rows]),
        ):
            y = layer(given, lengths=counts, batch_first=batch_first)
            assert_close(y, np.stack(exact))
            assert same_bits(layer(x[: lengths[2], 2]), layer(x, lengths=lengths)[2])


def test_long_means_keep_their_digits() -> None:
    """A float's running sum of 100,000 ones and a bit would stop growing right."""
    x = np.full((100_000, 1), 1.1, np.float32)
    assert fastgru.Mean()(x) == np.float32(1.1)


# ---- NaN and infinity ----


@pytest.mark.parametrize("size", [1, 5, 16, 17, 40])
def test_softmax_of_special_values(size: int, isa: str, torch: ModuleType) -> None:
    """-inf counts as nothing; NaN, inf and only -inf make their row NaN, and no other row."""
    rows = np.tile(numbers(size), (5, 1))
    rows[0, 0] = np.nan
    rows[1, -1] = np.inf
    rows[2] = -np.inf
    rows[3, size // 2] = -np.inf
    for layer, function in (
        (fastgru.Softmax(_isa=isa), torch.softmax),
        (fastgru.LogSoftmax(_isa=isa), torch.log_softmax),
    ):
        y, theirs = layer(rows), function(torch.from_numpy(rows), -1).numpy()
        assert np.array_equal(np.isnan(y), np.isnan(theirs))
        assert np.array_equal(np.isinf(y), np.isinf(theirs))
        assert np.array_equal(y == 0, theirs == 0)
    huge = np.array([[3e38, -3e38, 3e38]], np.float32)
    assert fastgru.Softmax(_isa=isa)(huge).tolist() == [[0.5, 0.0, 0.5]]


def test_special_values_stay_in_their_row(isa: str, torch: ModuleType) -> None:
    """NaN and infinities in one row of a batch do what torch's do, and leave the others alone."""
    for name in FEATURES:
        layer, x = make(name, isa=isa), numbers(6, 17)
        clean = layer(x)
        for value in (np.nan, np.inf, -np.inf):
            x[3, 4] = value
            y = layer(x)
            assert same_bits(np.delete(y, 3, axis=0), np.delete(clean, 3, axis=0)), name
            if name in {"Linear", "LayerNorm"}:
                assert not np.isfinite(y[3]).any()
    assert np.isnan(fastgru.ReLU(_isa=isa)([np.nan])).all()


def test_max_gives_nan_for_nan() -> None:
    """Wherever it stands, as in torch."""
    for step in range(4):
        x = numbers(4, 2, 3)
        x[step, 1, 2] = np.nan
        assert np.isnan(fastgru.Max()(x)).tolist() == [[False] * 3, [False, False, True]]


# ---- promise 2: same bits ----


@given(
    st.sampled_from(FEATURES),
    st.integers(1, 90),
    st.integers(1, 140),
    st.sampled_from(SUPPORTED_ISAS),
    st.data(),
)
def test_rows_are_alone(name: str, size: int, rows: int, isa: str, data: st.DataObject) -> None:
    """A row has its bits in any batch, whatever the axes and earlier calls."""
    layer, x = make(name, size, isa), numbers(rows, size, seed=rows)
    whole = layer(x)
    cut = data.draw(st.integers(0, rows))
    assert same_bits(layer(x[:cut]), whole[:cut])
    assert same_bits(layer(x[cut:]), whole[cut:])
    assert same_bits(layer(x[-1]), whole[-1])
    assert same_bits(layer(x[:, None]), whole[:, None])
    layer(np.full((3, size), np.nan, np.float32))
    assert same_bits(layer(np.asfortranarray(x)), whole)


@given(st.sampled_from(FEATURES), st.integers(1, 300), st.integers(1, 9))
def test_avx2_and_avx512(both_isas: tuple[str, str], name: str, size: int, rows: int) -> None:
    """The two ISAs with FMAs agree bit for bit."""
    x = numbers(rows, size, seed=size, scale=4.0)
    first, second = (make(name, size, isa)(x) for isa in both_isas)
    assert same_bits(first, second)


def test_the_environment_chooses_the_isa(monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    """FASTGRU_ISA, or the best: chosen when a layer is made, as a GRU's is."""
    monkeypatch.setenv("FASTGRU_ISA", isa)
    assert fastgru.Linear(numbers(3, 2))._core.isa == isa
    monkeypatch.setenv("FASTGRU_ISA", "sse9")
    for name in ("Linear", "Softmax", "ReLU"):
        with pytest.raises(ValueError, match="unknown ISA 'sse9'"):
            make(name)


@pytest.mark.parametrize("name", [*FEATURES, *INDICES, *OVER_TIME])
def test_threads_share_a_layer(name: str) -> None:
    """Many threads in one layer give what one gives, with the GIL released or not."""
    layer = make(name)
    values: list[Any] = [
        np.random.default_rng(n).integers(0, 17, (n + 1, 5)) if name in INDICES
        # the largest are long enough for the GIL to be released
        else numbers(9, 10 ** (n % 4), 17, seed=n)
        for n in range(8)
    ]  # fmt: skip
    expected = [layer(value) for value in values]
    results: list[list[Array]] = [[] for _ in values]

    def work(index: int) -> None:
        results[index].extend(layer(values[index]) for _ in range(5))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(values))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result, one in zip(results, expected, strict=True):
        assert len(result) == 5
        assert all(same_bits(y, one) for y in result)


# ---- promise 4: what does not fit ----


@pytest.mark.parametrize(
    ("layer", "arguments", "error", "message"),
    [
        (
            fastgru.Linear,
            (np.ones((3, 2)), np.ones(4)),
            fastgru.ShapeError,
            r"Linear: bias: expected \(3,\), got \(4,\)",
        ),
        (fastgru.Linear, (np.ones(3),), fastgru.ShapeError, r"weight: expected \(O, I\), got"),
        (fastgru.Linear, (np.ones((0, 3)),), fastgru.ShapeError, "at least 1 in each axis"),
        (
            fastgru.Linear,
            (np.ones((3, 2), int), np.ones(4)),
            TypeError,
            r"(?s)2 problems.*weight: expected a real floating dtype, got int64.*bias: expected",
        ),
        (fastgru.Linear, (None,), TypeError, r"weight: expected \(O, I\), got \(\)"),
        (fastgru.Embedding, (np.ones(3),), fastgru.ShapeError, r"expected \(N, I\), got \(3,\)"),
        (fastgru.LayerNorm, ([1.0], [1.0, 2.0]), fastgru.ShapeError, r"bias: expected \(1,\)"),
        (fastgru.OneHot, (0,), ValueError, "num_classes: expected at least 1"),
        (fastgru.OneHot, (2.0,), TypeError, "num_classes: expected an integer, got 2.0"),
    ],
)
def test_arguments_that_do_not_fit(
    layer: type, arguments: Any, error: type[Exception], message: str
) -> None:
    """Every problem is named, with what was expected and what was given."""
    with pytest.raises(error, match=message):
        layer(*arguments)


@pytest.mark.parametrize("eps", [-1e-5, np.nan, np.inf, "1", None, True])
def test_eps(eps: Any) -> None:
    """A finite number of at least 0; 0 itself is one."""
    with pytest.raises(ValueError, match="eps: expected a finite number"):
        fastgru.LayerNorm(eps=eps)
    assert np.isnan(fastgru.LayerNorm(eps=0)([1.0, 1.0])).all()


@pytest.mark.parametrize("name", FEATURES)
def test_features_that_do_not_fit(name: str) -> None:
    """Another size of the last axis is a ShapeError, another dtype a TypeError."""
    layer = make(name)
    for wrong in (np.ones(17, int), np.ones(17, bool), np.ones(17, complex), ["a"] * 17):
        with pytest.raises(TypeError, match="x: expected float32"):
            layer(wrong)
    if layer.input_size is not None:
        with pytest.raises(fastgru.ShapeError, match=r"x: expected \(..., 17\), got \(3, 16\)"):
            layer(np.ones((3, 16)))
        with pytest.raises(fastgru.ShapeError, match=r"x: expected \(..., 17\), got \(\)"):
            layer(1.0)
    assert layer(np.ones((0, 17))).shape[0] == 0
    assert layer(np.ones((2, 0, 17))).shape[:2] == (2, 0)


@pytest.mark.parametrize("where", list(elsewhere(np.zeros(1))))
@pytest.mark.parametrize("name", [*FEATURES, *INDICES, *OVER_TIME])
def test_arrays_may_lie_anywhere(name: str, where: str) -> None:
    """Inputs, lengths and weights that C++ must not read as they lie give plain arrays' bits."""
    layer = make(name)
    x = np.arange(12).reshape(4, 3) if name in INDICES else numbers(4, 3, 17)
    assert same_bits(layer(elsewhere(x)[where]), layer(x))
    if name in OVER_TIME:
        lengths = np.array([4, 1, 3])
        ours = layer(elsewhere(x)[where], lengths=elsewhere(lengths)[where])
        assert same_bits(ours, layer(x, lengths=lengths))
    tensors = layer._tensors()
    odd = {key: elsewhere(tensor)[where] for key, tensor in tensors.items()}
    again = type(layer)(**odd, **layer._options())
    for key, tensor in again._tensors().items():
        assert same_bits(tensor, tensors[key])


@pytest.mark.parametrize("name", INDICES)
def test_every_bad_index_is_named(name: str) -> None:
    """Each once, a dozen at most, and how many more there are."""
    layer = make(name)
    with pytest.raises(IndexError, match=r"got 17, -1, 40$"):
        layer([[17, 3, -1], [40, 16, 17]])
    with pytest.raises(IndexError, match=r"got 17, 18, .*, 28 and 72 more$"):
        layer(np.arange(101))


@pytest.mark.parametrize("name", INDICES)
def test_indices_that_do_not_fit(name: str) -> None:
    """One IndexError with the value and the range; floats are no indices, nor are bools."""
    layer = make(name)
    for wrong in (-1, 17, 2**62, -(2**63), 2**63):
        dtype = np.uint64 if wrong == 2**63 else np.int64
        with pytest.raises(IndexError, match=r"x: expected 0 <= index < 17, got "):
            layer(np.array([[0, 16], [wrong, 1]], dtype))
    with pytest.raises(IndexError, match=r"got 17$"):
        layer(17)
    for bad in (np.zeros(3), np.zeros(3, bool), [None], 2**80):
        with pytest.raises(TypeError, match="x: expected integers"):
            layer(bad)


@pytest.mark.parametrize("name", OVER_TIME)
def test_sequences_that_do_not_fit(name: str) -> None:
    """No steps, wrong axes and lengths out of range, 0 included: there is no value for them."""
    layer, x = make(name), numbers(5, 3, 2)
    for lengths in ([1, 0, 2], [1, 6, 2], [1, -1, 2]):
        with pytest.raises(ValueError, match=r"lengths\[1\]: expected 1 <= length <= 5, got"):
            layer(x, lengths=lengths)
    with pytest.raises(fastgru.ShapeError, match=r"lengths: expected \(3,\), got \(2,\)"):
        layer(x, lengths=[1, 2])
    with pytest.raises(fastgru.ShapeError, match="lengths: expected a batch of sequences"):
        layer(x[:, 0], lengths=[5])
    with pytest.raises(TypeError, match="lengths: expected integers"):
        layer(x, lengths=[1.0, 2.0, 3.0])
    with pytest.raises(fastgru.ShapeError, match=r"x: expected \(T, B, I\) or \(T, I\), got \(5,"):
        layer(x[:, 0, 0])
    with pytest.raises(fastgru.ShapeError, match="at least one time step, got T = 0"):
        layer(x[:0])
    assert layer(x[:, :0]).shape == (0, 2)
    assert layer(np.zeros((0, 0, 2))).shape == (0, 2)


# ---- the objects ----


@pytest.mark.parametrize("name", [*FEATURES, *INDICES, *OVER_TIME])
def test_copies_and_pickles(name: str) -> None:
    """A layer is a value: its copy is itself, its pickle has the same weights, to the bit."""
    layer = make(name)
    assert copy.copy(layer) is layer
    assert copy.deepcopy([layer])[0] is layer
    again = pickle.loads(pickle.dumps(layer))
    assert repr(again) == repr(layer)
    assert (again.input_size, again.output_size) == (layer.input_size, layer.output_size)
    tensors = again._tensors()
    assert all(same_bits(tensor, tensors[n]) for n, tensor in layer._tensors().items())
    x = np.arange(12).reshape(4, 3) if name in INDICES else numbers(4, 3, 17)
    assert same_bits(again(x), layer(x))
    with pytest.raises(AttributeError):
        layer.input_size = 3


def test_a_pickle_keeps_a_forced_isa() -> None:
    assert pickle.loads(pickle.dumps(make("Linear", isa="portable")))._core.isa == "portable"


def test_weights_are_copied() -> None:
    """What becomes of the caller's arrays afterwards does not reach a layer, nor the reverse."""
    weight = numbers(4, 3)
    layers = [fastgru.Linear(weight), fastgru.Embedding(weight), fastgru.LayerNorm(weight[0])]
    kept = weight.copy()
    weight[:] = np.nan
    for layer in layers:
        layer._tensors()["weight"][:] = np.nan
        assert same_bits(layer._tensors()["weight"], kept if layer is not layers[2] else kept[0])


def test_weights_of_other_dtypes(torch: ModuleType) -> None:
    """float64, float16 and torch tensors, parameters too, are converted as a GRU's are."""
    weight = numbers(4, 3).astype(np.float16)
    expected = fastgru.Linear(weight.astype(np.float32))
    for value in (weight, weight.astype(np.float64), np.asfortranarray(weight)):
        assert same_bits(fastgru.Linear(value).weight, expected.weight)
    module = torch.nn.Linear(3, 4)
    layer = fastgru.Linear(module.weight, module.bias)
    assert same_bits(layer.weight, module.weight.detach().numpy())


def test_reprs_tell_sizes() -> None:
    """One line each."""
    assert repr(fastgru.Embedding(np.ones((100, 64)))) == "Embedding(100, 64: 25.6 kB)"
    assert repr(fastgru.Linear(np.ones((48, 16)))) == "Linear(16, 48, bias=False: 3.264 kB)"
    assert repr(fastgru.OneHot(28)) == "OneHot(num_classes=28)"
    assert repr(fastgru.LayerNorm([1.0, 1.0])) == "LayerNorm(2, bias=False, eps=1e-05)"
    assert repr(fastgru.Softmax()) == "Softmax()"
