"""`Model`: layers in a chain give what the layers give one by one, as wholes and in streams.

Promise 2: a stream's steps have the bits of the whole sequence. Promise 4: what does not fit is
refused when the model is made, or before a call has changed anything.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import pickle
import sys
import threading
import weakref
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
    Array,
    assert_close,
    assert_promise_1,
    elsewhere,
    largest_error,
    make_gru,
    random_input,
    random_weights,
    run_python,
    same_bits,
    torch_gru,
)
from test_d2l import NAMES, book_gru, book_params

I, H, O, V = 6, 19, 11, 13  # noqa: E741


def numbers(*shape: int, seed: int = 0) -> Array:
    return random_input(np.random.default_rng(seed), *shape)


def indices(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, V, shape)


def gru(inputs: int = I, layers: int = 1, bidirectional: bool = False, **options: Any) -> Any:
    weights = random_weights(np.random.default_rng(1), inputs, H, layers, bidirectional)
    return make_gru(weights, **options)


def linear(inputs: int = H, outputs: int = O) -> fastgru.Linear:
    return fastgru.Linear(numbers(outputs, inputs, seed=2), numbers(outputs, seed=3))


def character_model(**options: Any) -> fastgru.Model:
    """Indices in, probabilities out, two GRUs."""
    return fastgru.Model([
        fastgru.Embedding(numbers(V, I)),
        gru(**options),
        fastgru.LayerNorm(numbers(H), numbers(H, seed=1)),
        fastgru.Tanh(),
        gru(H, layers=2, **options),
        linear(),
        fastgru.Softmax(),
    ])  # fmt: skip


# ---- what a model gives ----


@pytest.mark.parametrize("where", list(elsewhere(np.zeros(1))))
def test_arrays_may_lie_anywhere(where: str) -> None:
    """Indices, features, lengths, ids and states that C++ must not read as they lie."""
    ends = [fastgru.Reverse(), fastgru.Last()]
    features = fastgru.Model([linear(I, I), gru(), *ends])
    one_hot = fastgru.Model([fastgru.OneHot(V), gru(V)])

    def use(given: Any) -> list[Array]:
        model, lengths = character_model(), given(np.array([3, 0, 5]))
        x = given(indices(5, 3))
        results = [model(x, lengths=lengths), one_hot(x), fastgru.OneHot(V)(x)]
        results += [features(given(numbers(5, 3, I)), lengths=given(np.array([3, 1, 5])))]
        stream, pool = model.stream(3), model.pool(3)
        results += [stream.step(x[0]), stream.run(x)]
        stream.state = [given(state) for state in stream.state]
        stream.reset(given(np.array([1])))
        ids = np.array([pool.open(), pool.open([given(numbers(1, H)), given(numbers(2, H))])])
        results += [*stream.state, pool.step(given(ids), given(indices(2)))]
        return results

    for ours, plain in zip(use(lambda a: elsewhere(a)[where]), use(lambda a: a), strict=True):
        assert same_bits(ours, plain)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("ending", ["Last", "Mean", "Max"])
def test_a_classifier(
    ending: str, bidirectional: bool, torch: ModuleType, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Embedding, GRU, reduction over time, head: promise 1 against the same in torch."""
    monkeypatch.setenv("FASTGRU_ISA", isa)
    weights = random_weights(np.random.default_rng(1), I, 32, 1, bidirectional)
    width = 64 if bidirectional else 32
    table, head = numbers(V, I), numbers(O, width, seed=2) / np.float32(np.sqrt(width))
    model = fastgru.Model([
        fastgru.Embedding(table),
        make_gru(weights),
        getattr(fastgru, ending)(),
        fastgru.Linear(head, numbers(O, seed=3)),
        fastgru.LogSoftmax(),
    ])  # fmt: skip
    x = indices(20, 100)

    def theirs(dtype: Any) -> Array:
        module = torch_gru(torch, weights).to(dtype)
        parts = [torch.from_numpy(part).to(dtype) for part in (table, head, numbers(O, seed=3))]
        with torch.no_grad():
            output, _ = module(parts[0][torch.from_numpy(x)])
            steps = {"Last": output[-1], "Mean": output.mean(0), "Max": output.amax(0)}
            logits = torch.nn.functional.linear(steps[ending], *parts[1:])
            result: Array = torch.log_softmax(logits, -1).numpy()
        return result

    exact = theirs(torch.float64)
    assert_promise_1(model(x), exact, largest_error(theirs(torch.float32), exact))


@pytest.mark.parametrize("batch_first", [False, True])
def test_layouts(batch_first: bool) -> None:
    """(T, B) or (B, T), and (T,) unbatched; batch_first is what the GRUs say."""
    model = character_model(batch_first=batch_first)
    assert model.batch_first == batch_first
    x = indices(7, 4)
    expected = character_model()(x)
    assert expected.shape == (7, 4, O)
    y = model(x.T if batch_first else x)
    assert same_bits(np.ascontiguousarray(y.swapaxes(0, 1)) if batch_first else y, expected)
    assert y.flags.c_contiguous
    assert same_bits(model(x[:, 2]), expected[:, 2])


def test_a_model_is_its_layers_one_by_one() -> None:
    """The same bits, for features, any strides, and what a call converts."""
    layers = [gru(), fastgru.ReLU(), linear(), fastgru.LogSoftmax()]
    model, x = fastgru.Model(layers), numbers(7, 4, I)
    y = x
    for layer in layers:
        y = layer(y)[0] if isinstance(layer, fastgru.GRU) else layer(y)
    for given_x in (x, x.astype(np.float64), np.asfortranarray(x), np.repeat(x, 2, 1)[:, ::2]):
        assert same_bits(model(given_x), y)
    assert same_bits(
        fastgru.Model([fastgru.ReLU(), gru()])(x[::-1]), gru()(fastgru.ReLU()(x[::-1]))[0]
    )


def test_lengths() -> None:
    """A row of length n is that row's first n steps alone; padding may hold anything."""
    layers: list[Any] = [fastgru.Embedding(numbers(V, I)), gru(bidirectional=True)]
    head: list[Any] = [linear(2 * H), fastgru.Softmax()]
    x, lengths = indices(9, 4), [9, 1, 5, 8]
    garbage = x.copy()
    garbage[np.arange(9)[:, None] >= lengths] = 0
    for reduction in (fastgru.Last(), fastgru.Mean(), fastgru.Max()):
        model = fastgru.Model([*layers, reduction, *head])
        y = model(x, lengths=lengths)
        assert y.shape == (4, O)
        assert same_bits(model(garbage, lengths=lengths), y)
        for row, length in enumerate(lengths):
            assert same_bits(model(x[:length, row]), y[row])
    model = fastgru.Model([*layers, *head])
    y = model(x, lengths=[9, 0, 5, 8])
    assert same_bits(y[:5, 2], model(x[:5, 2]))
    bias = fastgru.Softmax()(
        head[0]._tensors()["bias"]
    )  # what a head makes of the zeros of padding
    assert all(same_bits(step, bias) for step in [*y[:, 1], *y[5:, 2]])


def test_the_last_of_two_directions() -> None:
    """output[length - 1]: the reverse direction has seen one step there, as in torch."""
    layer, x = gru(bidirectional=True), numbers(5, 3, I)
    y = fastgru.Model([layer, fastgru.Last()])(x, lengths=[5, 2, 1])
    output, _ = layer(x, lengths=[5, 2, 1])
    assert same_bits(y, np.stack([output[4, 0], output[1, 1], output[0, 2]]))


def test_models_without_a_gru() -> None:
    """A chain is a chain; without a GRU that says otherwise, time comes first."""
    model = fastgru.Model([linear(I), fastgru.Mean()])
    assert not model.batch_first
    assert model(numbers(5, 3, I)).shape == (3, O)
    assert fastgru.Model([fastgru.Softmax()]).input_size is None


def test_empty_calls() -> None:
    """No steps, or no rows, give as much; only a row of no steps has no last one."""
    model = character_model()
    assert model(np.zeros((0, 3), int)).shape == (0, 3, O)
    assert model(np.zeros((3, 0), int)).shape == (3, 0, O)
    last = fastgru.Model([gru(), fastgru.Last()])
    assert last(np.zeros((3, 0, I), np.float32)).shape == (0, H)
    with pytest.raises(fastgru.ShapeError, match="at least one time step"):
        last(np.zeros((0, 3, I), np.float32))


# ---- streams ----


@given(
    st.integers(1, 12),
    st.integers(1, 5),
    st.booleans(),
    st.tuples(st.sampled_from(["float32", "bfloat16", "int8"]), st.sampled_from(SUPPORTED_ISAS)),
    st.data(),
)
def test_streams_have_the_bits_of_whole_calls(
    steps: int, batch: int, batch_first: bool, kind: tuple[str, str], data: st.DataObject
) -> None:
    """Any mixture of step and run, of indices or features."""
    model = character_model(batch_first=batch_first, precision=kind[0], isa=kind[1])
    if data.draw(st.booleans(), label="features"):
        model = fastgru.Model(model.layers[1:])
        x: Array = numbers(steps, batch, I, seed=steps)
    else:
        x = indices(steps, batch, seed=steps)

    def turned(values: Array) -> Array:
        return np.ascontiguousarray(values.swapaxes(0, 1)) if batch_first else values

    stream, rows, t = model.stream(batch), [], 0
    while t < steps:
        count = data.draw(st.integers(0, steps - t), label="steps in this call, 0: one by step()")
        if count:
            rows.append(turned(stream.run(turned(x[t : t + count]))))
        else:
            rows.append(stream.step(x[t])[None])
        t += max(count, 1)
    whole = model(turned(x))
    assert same_bits(np.concatenate(rows), turned(whole))
    assert same_bits(turned(model(turned(x[:, :1]))), np.ascontiguousarray(turned(whole)[:, :1]))


def test_a_stream_of_one() -> None:
    """A number or (I,) -> (O,); with the axis of the batch as well; run (T,) -> (T, O)."""
    model, x = character_model(), indices(6)
    expected = model(x)
    first, second, third = model.stream(), model.stream(), model.stream()
    for t in range(6):
        y = first.step(int(x[t]))
        assert y.shape == (O,)
        assert same_bits(y, expected[t])
        assert same_bits(second.step(x[t : t + 1]), expected[t : t + 1])
    assert same_bits(third.run(x), expected)
    assert same_bits(model.stream().run(x[:, None]), expected[:, None])
    features = fastgru.Model([gru(), linear()])
    assert features.stream().step(numbers(I)).shape == (O,)
    assert features.stream().run(numbers(4, I)).shape == (4, O)


def test_last_is_each_step_in_a_stream() -> None:
    """Each step gives what the model gives for the sequence up to there."""
    model = fastgru.Model([gru(), fastgru.Last(), linear(), fastgru.Softmax()])
    x = numbers(5, 3, I)
    stream = model.stream(3)
    for t in range(5):
        assert same_bits(stream.step(x[t]), model(x[: t + 1]))
    assert model.stream(3).run(x).shape == (5, 3, O)


def test_states() -> None:
    """One for each GRU; read as copies, assigned all or none."""
    model, x = character_model(), indices(8, 2)
    stream = model.stream(2)
    stream.run(x[:3])
    states = stream.state
    assert [state.shape for state in states] == [(1, 2, H), (2, 2, H)]
    kept = [state.copy() for state in states]
    rest = stream.run(x[3:])
    assert all(same_bits(*pair) for pair in zip(states, kept, strict=True))
    other = model.stream(2)
    other.state = states
    assert same_bits(other.run(x[3:]), rest)
    with pytest.raises(fastgru.ShapeError, match="state: expected 2 arrays, got 1"):
        other.state = states[:1]
    with pytest.raises(fastgru.ShapeError, match=r"state\[1\]: expected \(2, 2, 19\), got \(1, 2"):
        other.state = [states[0], states[0]]
    with pytest.raises(TypeError, match=r"state\[1\]: expected float32"):
        other.state = [states[0], np.zeros((2, 2, H), int)]
    assert all(same_bits(*pair) for pair in zip(other.state, stream.state, strict=True))


def test_reset_and_copy() -> None:
    """reset brings rows back to zeros; a copy goes its own way."""
    model, x = character_model(), indices(5, 3)
    fresh = model.stream(3).run(x)
    stream = model.stream(3)
    stream.run(x)
    twin = stream.copy()
    stream.reset(rows=[1])
    y, carried_on = stream.run(x), twin.run(x)
    assert same_bits(y[:, 1], fresh[:, 1])
    assert same_bits(y[:, [0, 2]], carried_on[:, [0, 2]])
    stream.reset()
    assert same_bits(copy.copy(stream).run(x), fresh)
    assert same_bits(copy.deepcopy(stream).run(x), fresh)
    with pytest.raises(IndexError, match="rows"):
        stream.reset(rows=3)
    assert stream.batch_size == 3
    assert repr(stream).startswith("ModelStream(batch_size=3, Model(")


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([gru(bidirectional=True)], "layer 0 GRU: the reverse direction starts at the end"),
        ([gru(), fastgru.Mean()], "layer 1 Mean: needs all steps of a sequence"),
        (
            [gru(bidirectional=True), fastgru.Max()],
            "(?s)2 problems.*layer 0 GRU: .*layer 1 Max: needs all steps",
        ),
    ],
)
def test_models_that_cannot_stream(layers: Any, message: str) -> None:
    """What needs the end of a sequence says so, all of it at once."""
    with pytest.raises(ValueError, match=message):
        fastgru.Model(layers).stream()


def test_a_refused_step_changes_nothing() -> None:
    """Promise 4: shapes, dtypes and indices are looked at before the first GRU advances."""
    model = character_model()
    stream = model.stream(2)
    stream.step([1, 2])
    before = stream.state
    refused: list[tuple[Any, type[Exception], str]] = [
        ([1, V], IndexError, f"x: expected 0 <= index < {V}, got {V}"),
        ([-1, 2], IndexError, "got -1"),
        ([1, 2, 3], fastgru.ShapeError, r"x_t: expected \(2,\), got \(3,\)"),
        (3, fastgru.ShapeError, r"x_t: expected \(2,\), got \(\)"),
        ([[1, 2]], fastgru.ShapeError, r"got \(1, 2\)"),
        ([1.0, 2.0], TypeError, "x_t: expected integers, got float64"),
    ]
    for x, error, message in refused:
        with pytest.raises(error, match=message):
            stream.step(x)
    with pytest.raises(fastgru.ShapeError, match=r"chunk: expected a batch of 2, got \(4, 3\)"):
        stream.run(indices(4, 3))
    with pytest.raises(fastgru.ShapeError, match="chunk: expected a batch of 2"):
        stream.run(indices(4))
    features = fastgru.Model([linear(I), fastgru.ReLU(), gru(O)]).stream()
    for wrong in (numbers(1, 1, I), numbers(2, I), numbers(I + 1), numbers()):
        with pytest.raises(fastgru.ShapeError, match=r"x_t: expected \(1, 6\) or \(6,\), got"):
            features.step(wrong)
    assert all(same_bits(*pair) for pair in zip(stream.state, before, strict=True))
    assert not features.state[0].any()


def test_a_step_that_fails_half_way_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt or a lack of memory behind a GRU puts its state back."""

    class Failing:
        def run(self, x: Array) -> Array:
            raise KeyboardInterrupt

    model = character_model()
    stream = model.stream()
    stream.step(3)
    before = stream.state
    softmax: Any = model[-1]
    whole = softmax._core
    softmax._core = Failing()
    with pytest.raises(KeyboardInterrupt):
        stream.step(4)
    with pytest.raises(KeyboardInterrupt):
        stream.run([4, 5])
    softmax._core = whole
    assert all(same_bits(*pair) for pair in zip(stream.state, before, strict=True))
    assert same_bits(stream.step(4), model([3, 4])[1])


def test_one_caller_at_a_time() -> None:
    """A second call on a stream while one runs raises, and the first one is right."""
    model, x = character_model(num_threads=1), indices(20_000, 1)
    stream = model.stream()
    done, refused = threading.Event(), 0
    result: list[Array] = []

    def work() -> None:
        try:
            while not result:  # the other thread may be the first one
                with contextlib.suppress(RuntimeError):
                    result.append(stream.run(x))
        finally:
            done.set()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        thread = threading.Thread(target=work)
        thread.start()
        while not done.is_set():
            try:
                _ = stream.state
            except RuntimeError:
                refused += 1
        thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert refused
    assert same_bits(result[0], model(x))


def test_results_are_fresh() -> None:
    """Writing to a result reaches neither the state nor the input."""
    x = numbers(3, 2, I)
    for model in (fastgru.Model([fastgru.Last()]), fastgru.Model([gru(), fastgru.Last()])):
        stream = model.stream(2)
        for y in (stream.step(x[0]), stream.run(x), model(x)):
            assert not np.shares_memory(x, y)
            y.fill(np.nan)
        assert not any(np.isnan(state).any() for state in stream.state)


# ---- what fits ----


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            [fastgru.Embedding(numbers(V, 64)), gru(64), linear(128, O)],
            "the model: layer 2 Linear: expected 128 inputs, layer 1 GRU gives 19",
        ),
        (
            [gru(bidirectional=True), fastgru.ReLU(), linear(H)],
            "layer 2 Linear: expected 19 inputs, layer 0 GRU gives 38",
        ),
        ([fastgru.OneHot(5), gru()], "layer 1 GRU: expected 6 inputs, layer 0 OneHot gives 5"),
        (
            [gru(), fastgru.LayerNorm([1.0])],
            "layer 1 LayerNorm: expected 1 inputs, layer 0 GRU gives 19",
        ),
        ([gru(), fastgru.OneHot(5)], "layer 1 OneHot: expected to be the first layer"),
        (
            [gru(), fastgru.Last(), gru(H)],
            "layer 2 GRU: expected sequences, layer 1 Last gives one row for each",
        ),
        ([gru(), fastgru.Mean(), fastgru.Max()], "layer 2 Max: expected sequences"),
        (
            [gru(batch_first=True), gru(H)],
            "layer 1 GRU: batch_first: expected True as in layer 0 GRU, got False",
        ),
        (
            [gru(), linear(5), fastgru.Last(), fastgru.Embedding(numbers(3, 3))],
            "(?s)2 problems.*layer 1 Linear: expected 5 inputs.*layer 3 Embedding: expected to be",
        ),
        ([], "layers: expected at least one, got none"),
    ],
)
def test_layers_that_do_not_fit(layers: Any, message: str) -> None:
    """Each is named, with what it expects and what it gets, when the model is made."""
    with pytest.raises(ValueError, match=message):
        fastgru.Model(layers)


def test_what_is_no_layer() -> None:
    """All of it at once, classes without their brackets included."""
    wrong: Any = [gru(), fastgru.Softmax, "relu"]
    with pytest.raises(TypeError, match=r"(?s)2 problems.*layer 1: expected .*layer 2: .*'str'"):
        fastgru.Model(wrong)
    nothing: Any = gru()
    with pytest.raises(TypeError, match="layers: expected a list of layers, got GRU"):
        fastgru.Model(nothing)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (numbers(5, 3, I + 1), fastgru.ShapeError, r"x: expected \(T, B, 6\) or \(T, 6\), got \(5"),
        (numbers(I), fastgru.ShapeError, r"x: expected \(T, B, 6\) or \(T, 6\), got \(6,\)"),
        (numbers(1, 1, 1, I), fastgru.ShapeError, r"got \(1, 1, 1, 6\)"),
        (np.ones((5, 3, I), int), TypeError, "x: expected float32"),
        ("text", TypeError, "x: expected float32"),
    ],
)
def test_calls_that_do_not_fit(x: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fastgru.Model([fastgru.ReLU(), gru()])(x)


def test_other_calls_that_do_not_fit(torch: ModuleType) -> None:
    """Indices, lengths and PackedSequences."""
    model = character_model(batch_first=True)
    with pytest.raises(
        fastgru.ShapeError, match=r"x: expected \(B, T\) or \(T,\), got \(1, 1, 1\)"
    ):
        model([[[1]]])
    with pytest.raises(TypeError, match="x: expected integers, got float32"):
        model(numbers(3, 2))
    with pytest.raises(IndexError, match="x: expected 0 <= index < 13, got 13"):
        model([[1, V]])
    for lengths, message in (
        ([4, 1], r"lengths\[0\]: expected 0 <= length <= 3, got 4"),
        ([3, -1], r"lengths\[1\]: expected 0 <= length <= 3, got -1"),
        ([3], r"lengths: expected \(2,\), got \(1,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            model(indices(2, 3), lengths=lengths)
    with pytest.raises(fastgru.ShapeError, match="lengths: expected a batch of sequences"):
        model(indices(3), lengths=[3])
    with pytest.raises(ValueError, match=r"lengths\[1\]: expected 1 <= length <= 3, got 0"):
        fastgru.Model([gru(), fastgru.Last()])(numbers(3, 2, I), lengths=[3, 0])
    with pytest.raises(ValueError, match=r"lengths\[0\]: expected 0 <= length <= 3"):
        fastgru.Model([linear(I)])(numbers(3, 2, I), lengths=[4, 0])
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.zeros(3, 2, I), [3, 2])
    with pytest.raises(TypeError, match="x: expected an array, got a PackedSequence"):
        fastgru.Model([gru()])(packed)


# ---- the object ----


@pytest.mark.parametrize("how", ["copy", "deepcopy", "pickle"])
def test_copies(how: str) -> None:
    """The same bits, and threads of its own; pickles in reduced precision too."""
    for precision in ("float32", "int8"):
        model, x = character_model(precision=precision), indices(5, 3)
        model.num_threads = 3
        make_copy = getattr(copy, how, lambda m: pickle.loads(pickle.dumps(m)))
        other = make_copy(model)
        assert repr(other) == repr(model)
        assert same_bits(other(x), model(x))
        assert other.num_threads == 3
        other.num_threads = 1
        assert model.num_threads == 3


def test_a_model_has_its_own_grus() -> None:
    """num_threads of the GRU that was passed is the caller's; the weights are shared."""
    layer = gru(num_threads=2)
    model = fastgru.Model([layer, linear()])
    assert model.num_threads == 2
    model.num_threads = None
    assert layer.num_threads == 2
    inside: Any = model[0]
    assert inside._core is layer._core
    with pytest.raises(ValueError, match="num_threads"):
        model.num_threads = 0


def test_attributes() -> None:
    """Layers, sizes, bytes, and a line for each layer."""
    model = character_model()
    assert len(model) == len(model.layers) == 7
    assert model[-1] is model.layers[6]
    assert (model.input_size, model.output_size) == (None, O)
    assert fastgru.Model([fastgru.Tanh(), gru(), fastgru.Last()]).input_size == I
    assert model.nbytes == sum(layer.nbytes for layer in model.layers)
    lines = repr(model).splitlines()
    assert (lines[0], len(lines), lines[-1]) == ("Model(", 9, ")")
    assert lines[2].startswith("  1: GRU(6, 19: float32, ")
    with pytest.raises(AttributeError):
        model.layers = ()  # type: ignore[misc]


def test_to() -> None:
    """GRUs are reduced, heads are not; what GRU.to refuses is refused."""
    model, x = character_model(), indices(9, 3)
    small = model.to("int8")
    assert [getattr(layer, "precision", None) for layer in small.layers].count("int8") == 2
    assert small.nbytes < model.nbytes
    assert 0 < largest_error(small(x), model(x)) < 0.05
    assert small[5] is model[5]
    with pytest.raises(ValueError, match="already"):
        small.to("float32")
    with pytest.raises(ValueError, match="precision: expected"):
        model.to("float16")


def test_threads_share_a_model() -> None:
    """Many threads in one model give what one gives."""
    model = character_model()
    inputs = [indices(40 * (n + 1), 1 + 7 * n, seed=n) for n in range(6)]
    expected = [model(x) for x in inputs]
    results: list[list[Array]] = [[] for _ in inputs]

    def work(n: int) -> None:
        results[n].extend(model(inputs[n]) for _ in range(5))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result, one in zip(results, expected, strict=True):
        assert len(result) == 5
        assert all(same_bits(y, one) for y in result)


def test_streams_do_not_leak() -> None:
    """A stream is gone when nobody has it any more, and its model with it."""
    stream = character_model().stream()
    stream.step(1)
    gone = weakref.ref(stream), weakref.ref(stream._model)
    del stream
    gc.collect()
    assert [reference_to() for reference_to in gone] == [None, None]


def test_every_isa_in_a_process_of_its_own(isa: str) -> None:
    """FASTGRU_ISA reaches every layer of a model."""
    code = """
import numpy as np, fastgru
model = fastgru.from_d2l([np.ones(s) for s in [(3, 2), (2, 2), (2,)] * 3 + [(2, 3), (3,)]])
print(model[1].isa, model[2]._core.isa, model([0, 1]).shape)
"""
    done = run_python(code, {"FASTGRU_ISA": isa})
    assert done.stdout == f"{isa} {isa} (2, 3)\n", done.stderr


# ---- from_d2l ----


@pytest.mark.parametrize(("vocabulary", "hiddens"), [(28, 32), (28, 256), (5, 7)])
def test_from_d2l(vocabulary: int, hiddens: int, isa: str, torch: ModuleType) -> None:
    """One-hot, the book's GRU and its output layer, against both in float64."""
    params = book_params(torch, vocabulary, hiddens, 0.1)
    x = np.random.default_rng(1).integers(0, vocabulary, (35, 40))
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(x), vocabulary)

    def theirs(dtype: Any) -> Array:
        with torch.no_grad():
            given_params = [param.to(dtype) for param in params]
            state = torch.zeros(40, hiddens, dtype=dtype)
            output, _ = book_gru(torch, one_hot.to(dtype), state, given_params)
            result: Array = (output @ given_params[9] + given_params[10]).numpy()
        return result

    exact = theirs(torch.float64)
    weights = {
        "weight_ih_l0": np.concatenate([params[k].detach().numpy().T for k in (3, 0, 6)]),
        "weight_hh_l0": np.concatenate([params[k].detach().numpy().T for k in (4, 1, 7)]),
        "bias_ih_l0": np.concatenate([params[k].detach().numpy() for k in (5, 2, 8)]),
    }
    hidden = reference.gru(weights, np.eye(vocabulary)[x], reset_after=False).output
    assert_close((hidden @ params[9].detach().numpy() + params[10].detach().numpy()), exact)

    model = fastgru.from_d2l(params, isa=isa)
    assert [type(layer).__name__ for layer in model.layers] == ["OneHot", "GRU", "Linear"]
    assert_promise_1(model(x), exact, largest_error(theirs(torch.float32), exact))
    by_name = dict(zip(NAMES, params, strict=True))
    y = fastgru.from_d2l(by_name, batch_first=True, isa=isa)(x.T)
    assert same_bits(np.ascontiguousarray(y.swapaxes(0, 1)), model(x))
    assert getattr(fastgru.from_d2l(params, precision="int8")[1], "precision", "") == "int8"


def test_from_d2l_names_what_does_not_fit(torch: ModuleType) -> None:
    """The GRU's arrays and the head's, all at once."""
    params = dict(zip(NAMES, book_params(torch, 11, 19, 0.3), strict=True))
    params["W_hr"] = torch.zeros(3, 3)
    params["W_hq"] = torch.zeros(7, 11)
    del params["b_q"]
    with pytest.raises(fastgru.FormatError) as caught:
        fastgru.from_d2l(params)
    for line in (
        "W_hr: expected (19, 19), got (3, 3)",
        "W_hq: expected (19, 11), got (7, 11)",
        "b_q: missing",
    ):
        assert line in str(caught.value)
    with pytest.raises(fastgru.FormatError, match="expected 11 arrays"):
        fastgru.from_d2l(list(params.values())[:9])
