"""Promise 2: a row's bits depend on its own values and weights, and on nothing else.

Not on the batch it ran in, its place there, its neighbours' lengths, what padding holds, the
memory layout, the number of threads, or where the sequence was cut; and AVX2 and AVX-512 agree.
Hypothesis draws networks, and every comparison is of bits, never within a tolerance.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastgru
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
from fastgru import _core


class Net(NamedTuple):
    """A random network; everything is drawn from `seed`, so that examples shrink and print well."""

    seed: int
    input_size: int
    hidden_size: int
    num_layers: int
    bidirectional: bool
    bias: bool
    reset_after: bool
    activation: str
    recurrent_activation: str
    precision: str
    isa: str

    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    def weights(self) -> Weights:
        return draw_weights(self)

    def gru(self, **options: Any) -> fastgru.GRU:
        kinds: dict[str, Any] = {
            "reset_after": self.reset_after,
            "activation": self.activation,
            "recurrent_activation": self.recurrent_activation,
            "precision": self.precision,
            "isa": self.isa,
            "num_threads": 1,
        }
        return make_gru(self.weights(), **{**kinds, **options})

    def data(self, steps: int, batch: int) -> tuple[Array, Array]:
        rng = self.rng()
        x = random_input(rng, steps, batch, self.input_size)
        return x, random_state(rng, self.weights(), batch)


@functools.lru_cache(maxsize=2)
def draw_weights(net: Net) -> Weights:
    size = net.input_size, net.hidden_size, net.num_layers
    return random_weights(net.rng(), *size, net.bidirectional, bias=net.bias, scale=2.0)


# Around multiples of the panel width of 16, and beyond one block of 256 terms.
HIDDEN = st.one_of(st.integers(1, 70), st.sampled_from([1, 15, 16, 17, 32, 48, 255, 256, 257, 300]))
INPUT = st.one_of(st.integers(1, 40), st.sampled_from([1, 256, 257, 300]))
BATCH = st.integers(1, 40)
STEPS = st.integers(1, 12)


def nets(directions: st.SearchStrategy[bool]) -> st.SearchStrategy[Net]:
    return st.builds(
        Net,
        seed=st.integers(0, 2**32),
        input_size=INPUT,
        hidden_size=HIDDEN,
        num_layers=st.integers(1, 3),
        bidirectional=directions,
        bias=st.booleans(),
        reset_after=st.booleans(),
        activation=st.sampled_from(["tanh", "tanh", "relu", "sigmoid", "identity"]),
        recurrent_activation=st.sampled_from(["sigmoid", "hard_sigmoid", "hard_sigmoid_02"]),
        precision=st.sampled_from(["float32", "float32", "bfloat16", "int8"]),
        isa=st.sampled_from(SUPPORTED_ISAS),
    )


any_net, one_way = nets(st.booleans()), nets(st.just(False))


def assert_same(first: tuple[Array, Array], second: tuple[Array, Array]) -> None:
    assert same_bits(first[0], second[0]), "output"
    assert same_bits(first[1], second[1]), "h_n"


def take_rows(result: tuple[Array, Array], rows: Any) -> tuple[Array, Array]:
    return result[0][:, rows], result[1][:, rows]


@given(any_net, STEPS, BATCH, st.data())
def test_batch_split(net: Net, steps: int, batch: int, data: st.DataObject) -> None:
    """A batch run as two parts, each of any size, gives the bits of the whole."""
    gru, (x, h_0) = net.gru(), net.data(steps, batch)
    whole = gru(x, h_0)
    cut = data.draw(st.integers(0, batch))
    for rows in (slice(0, cut), slice(cut, batch)):
        assert_same(gru(x[:, rows], h_0[:, rows]), take_rows(whole, rows))


@given(any_net, STEPS, BATCH)
def test_every_row_alone(net: Net, steps: int, batch: int) -> None:
    """Each row of a batch has the bits it gets alone, as a batch of one and unbatched."""
    gru, (x, h_0) = net.gru(), net.data(steps, batch)
    whole = gru(x, h_0)
    for row in {0, batch // 2, batch - 1}:
        alone = gru(x[:, row : row + 1], h_0[:, row : row + 1])
        assert_same(alone, take_rows(whole, slice(row, row + 1)))
        assert_same(gru(x[:, row], h_0[:, row]), take_rows(whole, row))


@given(any_net, STEPS, BATCH, st.data())
def test_permutation(net: Net, steps: int, batch: int, data: st.DataObject) -> None:
    """Rows in another order, lengths with them, give the same rows in that order."""
    gru, (x, h_0) = net.gru(), net.data(steps, batch)
    order = np.array(data.draw(st.permutations(range(batch))))
    lengths = net.rng().integers(0, steps + 1, batch)
    assert_same(gru(x[:, order], h_0[:, order]), take_rows(gru(x, h_0), order))
    assert_same(
        gru(x[:, order], h_0[:, order], lengths=lengths[order]),
        take_rows(gru(x, h_0, lengths=lengths), order),
    )


@given(one_way, st.integers(1, 40), st.integers(1, 20), st.data())
def test_time_chunks(net: Net, steps: int, batch: int, data: st.DataObject) -> None:
    """A sequence cut anywhere, the state carried over by h_n -> h_0, has the bits of the whole."""
    gru, (x, h_0) = net.gru(), net.data(steps, batch)
    whole = gru(x, h_0)
    cuts = sorted(data.draw(st.lists(st.integers(0, steps), max_size=3)))
    outputs, h = [], h_0
    for first, last in zip([0, *cuts], [*cuts, steps], strict=True):
        output, h = gru(x[first:last], h)
        outputs.append(output)
    assert_same((np.concatenate(outputs), h), whole)


@given(one_way, st.integers(1, 30), st.integers(1, 9), st.data())
def test_streams(net: Net, steps: int, batch: int, data: st.DataObject) -> None:
    """Any mixture of Stream.step and Stream.run has the bits of one call."""
    gru, (x, h_0) = net.gru(), net.data(steps, batch)
    stream = gru.stream(batch, h_0)
    outputs, t = [], 0
    while t < steps:
        count = data.draw(st.integers(0, steps - t), label="steps in this call, 0: one by step()")
        chunk = stream.run(x[t : t + count]) if count else stream.step(x[t])[None]
        outputs.append(chunk)
        t += max(count, 1)
    assert_same((np.concatenate(outputs), stream.state), gru(x, h_0))


@given(any_net, STEPS, BATCH)
def test_lengths_of_neighbours(net: Net, steps: int, batch: int) -> None:
    """A row of length n among any others has the bits of its first n steps run alone."""
    gru, (x, h_0) = net.gru(), net.data(steps, batch)
    lengths = net.rng().integers(0, steps + 1, batch)
    output, h_n = gru(x, h_0, lengths=lengths)
    for row, length in enumerate(lengths):
        alone = gru(x[:length, row], h_0[:, row])
        assert_same(alone, (output[:length, row], h_n[:, row]))
        assert not output[length:, row].any()


@given(any_net, STEPS, BATCH, st.sampled_from([np.nan, np.inf, -np.inf, 3e38, 1e-45]))
def test_padding_content(net: Net, steps: int, batch: int, garbage: float) -> None:
    """What x holds past a row's length is never looked at."""
    gru, (x, h_0) = net.gru(), net.data(steps, batch)
    lengths = net.rng().integers(0, steps + 1, batch)
    clean = gru(x, h_0, lengths=lengths)
    x[np.arange(steps)[:, None] >= lengths] = garbage
    assert_same(gru(x, h_0, lengths=lengths), clean)


@given(any_net, STEPS, BATCH)
def test_full_lengths_are_no_lengths(net: Net, steps: int, batch: int) -> None:
    """lengths = [T, T, ...] is the call without lengths."""
    gru, (x, h_0) = net.gru(), net.data(steps, batch)
    assert_same(gru(x, h_0, lengths=[steps] * batch), gru(x, h_0))


@given(any_net, STEPS, BATCH)
def test_memory_layout(net: Net, steps: int, batch: int) -> None:
    """Strided, reversed, Fortran-ordered and batch-first views have the bits of plain arrays."""
    gru, (x, h_0) = net.gru(), net.data(steps, batch)
    plain = gru(x, h_0)
    rng = net.rng()

    wide = random_input(rng, steps * 2, batch * 3, net.input_size * 2)
    every_axis = wide[1::2, 2::3, ::2]
    every_axis[:] = x
    assert_same(gru(every_axis, h_0), plain)
    padded_rows = wide[:steps, :batch, : net.input_size]
    padded_rows[:] = x
    assert_same(gru(padded_rows, np.asfortranarray(h_0)), plain)
    assert_same(gru(np.asfortranarray(x), np.ascontiguousarray(h_0[:, ::-1])[:, ::-1]), plain)
    backwards = np.ascontiguousarray(x[::-1, ::-1, ::-1])
    assert_same(gru(backwards[::-1, ::-1, ::-1], h_0), plain)

    output, h_n = net.gru(batch_first=True)(x.swapaxes(0, 1), h_0)
    assert_same((output.swapaxes(0, 1), h_n), plain)
    batch_major = np.ascontiguousarray(x.swapaxes(0, 1))
    output, h_n = net.gru(batch_first=True)(batch_major, h_0)
    assert_same((output.swapaxes(0, 1), h_n), plain)
    assert_same(gru(batch_major.swapaxes(0, 1), h_0), plain)


@given(any_net, STEPS, BATCH, st.integers(2, 3))
def test_threads_small(net: Net, steps: int, batch: int, threads: int) -> None:
    """Any thread count, for shapes that may or may not be worth splitting."""
    x, h_0 = net.data(steps, batch)
    lengths = net.rng().integers(0, steps + 1, batch)
    one, many = net.gru(), net.gru(num_threads=threads)
    assert_same(many(x, h_0), one(x, h_0))
    assert_same(many(x, h_0, lengths=lengths), one(x, h_0, lengths=lengths))


@pytest.mark.parametrize("reset_after", [True, False], ids=["after", "before"])
@pytest.mark.parametrize(
    "shape",  # hidden_size, num_layers, bidirectional, steps, batch
    [
        (256, 1, False, 30, 32),
        (200, 2, True, 20, 17),
        (320, 1, True, 60, 1),
        (513, 1, False, 60, 1),
        (64, 3, False, 50, 7),
        (18, 1, False, 5, 513),
    ],
)
def test_threads_large(shape: tuple[int, int, bool, int, int], reset_after: bool, isa: str) -> None:
    """1, 2 and 3 threads give the same bits where the work is surely split; lengths or not."""
    hidden_size, num_layers, bidirectional, steps, batch = shape
    rng = np.random.default_rng(hidden_size)
    weights = random_weights(rng, 64, hidden_size, num_layers, bidirectional)
    x, h_0 = random_input(rng, steps, batch, 64), random_state(rng, weights, batch)
    lengths = rng.integers(0, steps + 1, batch)
    gru = make_gru(weights, reset_after=reset_after, isa=isa)
    results = []
    for threads in (1, 2, 3):
        gru.num_threads = threads
        results.append((gru(x, h_0), gru(x, h_0, lengths=lengths)))
    for full, ragged in results[1:]:
        assert_same(full, results[0][0])
        assert_same(ragged, results[0][1])


@given(any_net, st.integers(1, 30), BATCH)
def test_avx2_and_avx512(both_isas: tuple[str, str], net: Net, steps: int, batch: int) -> None:
    """The two ISAs with FMAs agree bit for bit; so does a trained service on either machine.

    Not where a product sums in an order of its own, as bfloat16's instruction does.
    """
    x, h_0 = net.data(steps, batch)
    lengths = net.rng().integers(0, steps + 1, batch)
    first, second = (net.gru(isa=isa) for isa in both_isas)
    own = {
        product["name"]
        for product in _core.products()
        if product["precision"] == net.precision and product["sums"] == "own"
    }
    if own & {*first._core.kernels, *second._core.kernels}:
        first, second = (net._replace(precision="int8").gru(isa=isa) for isa in both_isas)
    assert_same(first(x, h_0), second(x, h_0))
    assert_same(first(x, h_0, lengths=lengths), second(x, h_0, lengths=lengths))


@given(any_net, STEPS, BATCH)
def test_history(net: Net, steps: int, batch: int) -> None:
    """Earlier calls of other shapes, which leave scratch memory dirty, change nothing."""
    gru, (x, h_0) = net.gru(), net.data(steps, batch)
    first = gru(x, h_0)
    gru(np.full((steps + 3, batch + 9, net.input_size), np.nan, np.float32))
    gru(np.full((1, 1, net.input_size), 1e30, np.float32))
    assert_same(gru(x, h_0), first)
    assert_same(net.gru()(x, h_0), first)  # nor does packing the weights again


@pytest.mark.parametrize("reset_after", [True, False], ids=["after", "before"])
@pytest.mark.parametrize("hidden_size", [16, 100, 300])
def test_long_sequence_in_pieces(hidden_size: int, reset_after: bool, isa: str) -> None:
    """Thousands of steps cut into pieces of 1, 7, 100 and the rest: time blocks do not show."""
    rng = np.random.default_rng(3)
    weights = random_weights(rng, 10, hidden_size, 2)
    gru = make_gru(weights, reset_after=reset_after, isa=isa)
    x, h_0 = random_input(rng, 1200, 3, 10), random_state(rng, weights, 3)
    whole = gru(x, h_0)
    outputs, h = [], h_0
    for first, last in ((0, 1), (1, 8), (8, 108), (108, 1200)):
        output, h = gru(x[first:last], h)
        outputs.append(output)
    assert_same((np.concatenate(outputs), h), whole)


@pytest.mark.parametrize("reset_after", [True, False], ids=["after", "before"])
def test_outputs_beyond_any_cache(reset_after: bool, isa: str) -> None:
    """A two-layer, two-way stack whose intermediate output is large: blocks of rows do not show."""
    rng = np.random.default_rng(4)
    weights = random_weights(rng, 3, 20, 2, bidirectional=True)
    gru = make_gru(weights, reset_after=reset_after, isa=isa)
    x, h_0 = random_input(rng, 6000, 40, 3), random_state(rng, weights, 40)
    whole = gru(x, h_0)
    for rows in (slice(0, 5), slice(17, 18), slice(5, 40)):
        assert_same(gru(x[:, rows], h_0[:, rows]), take_rows(whole, rows))
