"""Random networks of every kind of layer, run in every way: the same bits, and close to NumPy's.

Promise 2 for whole networks: a row's result does not depend on the batch, the threads, padding, or
on how its time was cut into calls, steps of a stream and steps of a pool. Promise 1: each layer is
within its tolerance of its definition in float64. Hypothesis draws the networks. What single GRUs
and single layers promise is in test_same_bits.py, test_accuracy.py and test_layers.py.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastgru
import reference
from conftest import SUPPORTED_ISAS, TOLERANCE, Array, make_gru, random_weights, same_bits
from test_precision import CLOSE

INDICES = 11  # below which indices are, for an Embedding or a OneHot


class Part(NamedTuple):
    """One layer of a random network."""

    kind: str
    inputs: int
    outputs: int
    tensors: dict[str, Array]
    options: dict[str, Any]

    def make(self, isa: str) -> Any:
        if self.kind == "GRU":
            return make_gru(self.tensors, isa=isa, **self.options)
        if self.kind == "OneHot":
            return fastgru.OneHot(INDICES)
        return getattr(fastgru, self.kind)(**self.tensors, **self.options)


class Network(NamedTuple):
    """Layers that fit, and what is needed to make inputs for them."""

    parts: list[Part]
    batch_first: bool
    isa: str
    seed: int

    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    def layers(self) -> list[Any]:
        with forced(self.isa):
            return [part.make(self.isa) for part in self.parts]

    def model(self, *, but: str = "") -> fastgru.Model:
        """The network, without the layers of the kind `but`."""
        layers = zip(self.parts, self.layers(), strict=True)
        return fastgru.Model([layer for part, layer in layers if part.kind != but])

    @property
    def over_time(self) -> bool:
        """Whether it gives one row for each sequence."""
        return any(part.kind in {"Last", "Mean", "Max"} for part in self.parts)

    def x(self, steps: int, batch: int) -> Array:
        """(T, B, I), or indices (T, B)."""
        if self.parts[0].kind in {"Embedding", "OneHot"}:
            return self.rng().integers(0, INDICES, (steps, batch))
        shape = (steps, batch, self.parts[0].inputs)
        return self.rng().standard_normal(shape).astype(np.float32)

    def lengths(self, steps: int, batch: int) -> Array:
        return self.rng().integers(int(self.over_time), steps + 1, batch)

    def turn(self, array: Array) -> Array:
        """From (T, B, ...) to how the network takes and gives sequences, and back."""
        return array.swapaxes(0, 1) if self.batch_first else array

    def run(self, model: fastgru.Model, x: Array, lengths: Array | None = None) -> Array:
        """x (T, B, ...) -> (T, B, O), or (B, O)."""
        y = model(self.turn(x), lengths=lengths)
        return y if self.over_time else self.turn(y)

    def __repr__(self) -> str:  # what Hypothesis prints of a counterexample
        parts = [f"{p.kind}({p.inputs}, {p.outputs}, {p.options})" for p in self.parts]
        return f"Network({parts}, batch_first={self.batch_first}, {self.isa}, seed={self.seed})"


@contextlib.contextmanager
def forced(isa: str) -> Iterator[None]:
    """Layers are made for this ISA."""
    before = os.environ.get("FASTGRU_ISA")
    os.environ["FASTGRU_ISA"] = isa
    try:
        yield
    finally:
        os.environ.pop("FASTGRU_ISA")
        if before is not None:
            os.environ["FASTGRU_ISA"] = before


# ---- how they are drawn ----

SIZE = st.one_of(st.integers(1, 40), st.sampled_from([1, 15, 16, 17, 48, 64, 65]))
# Enough outputs that few rows of them are work for several threads.
WIDE = st.sampled_from([300, 3000])
ROW_BY_ROW = ["Linear", "Linear", "LayerNorm", "ReLU", "Tanh", "Sigmoid", "Softmax", "LogSoftmax"]


def draw_gru(draw: Any, rng: np.random.Generator, inputs: int, stepwise: bool) -> Part:
    hidden, layers = draw(SIZE), draw(st.integers(1, 2))
    both_ways = not stepwise and draw(st.booleans())
    weights = random_weights(rng, inputs, hidden, layers, both_ways, bias=draw(st.booleans()))
    for name in weights:
        if name.startswith("weight_ih_l0"):  # sums of many inputs as large as those of states
            weights[name] *= np.float32(np.sqrt(hidden / max(hidden, inputs)))
    precision = draw(st.sampled_from(["float32", "float32", "bfloat16", "int8"]))
    # Unbounded candidates only in float32: CLOSE is about bounded ones.
    bounded = ["tanh", "tanh", "sigmoid"]
    options = {
        "precision": precision,
        "reset_after": draw(st.booleans()),
        "activation": draw(
            st.sampled_from(bounded + ["relu", "identity"] * (precision == "float32"))
        ),
        "recurrent_activation": draw(
            st.sampled_from(["sigmoid", "sigmoid", "hard_sigmoid", "hard_sigmoid_02"])
        ),
    }
    return Part("GRU", inputs, hidden * (1 + both_ways), weights, options)


def draw_rows(draw: Any, rng: np.random.Generator, size: int, *, wide: bool = False) -> Part:
    """A layer that treats each row by itself."""
    kind = draw(st.sampled_from(ROW_BY_ROW))
    tensors: dict[str, Array] = {}
    outputs = size
    if kind == "Linear":
        outputs = draw(st.one_of(SIZE, WIDE) if wide else SIZE)
        tensors["weight"] = rng.uniform(-1, 1, (outputs, size)) / np.sqrt(size)
        if draw(st.booleans()):
            tensors["bias"] = rng.uniform(-1, 1, outputs)
    elif kind == "LayerNorm" and draw(st.booleans()):
        tensors = {"weight": rng.uniform(0.5, 1.5, size), "bias": rng.uniform(-1, 1, size)}
    return Part(kind, size, outputs, {n: t.astype(np.float32) for n, t in tensors.items()}, {})


@st.composite
def networks(draw: Any, stepwise: bool = False, has_gru: bool = False) -> Network:
    """Up to nine layers that fit; `stepwise`: those that a stream takes."""
    seed = draw(st.integers(0, 2**32))
    rng = np.random.default_rng(seed)
    parts: list[Part] = []
    size = draw(SIZE)
    first = draw(st.sampled_from(["features", "features", "Embedding", "OneHot"]))
    if first == "OneHot":
        size = INDICES
        parts.append(Part("OneHot", 0, size, {}, {}))
    elif first == "Embedding":
        table = rng.uniform(-1, 1, (INDICES, size)).astype(np.float32)
        parts.append(Part("Embedding", 0, size, {"weight": table}, {}))
    kinds = ["GRU", "GRU", "rows", "rows"] + ["Reverse"] * (not stepwise)
    body = draw(st.lists(st.sampled_from(kinds), min_size=not parts, max_size=5))
    if has_gru and "GRU" not in body:
        body.append("GRU")
    for kind in body:
        if kind == "GRU":
            parts.append(draw_gru(draw, rng, size, stepwise))
        elif kind == "rows":
            parts.append(draw_rows(draw, rng, size))
        else:
            parts.append(Part(kind, size, size, {}, {}))
        size = parts[-1].outputs
    ends = ["", "Last"] if stepwise else ["", "Last", "Mean", "Max", "both"]
    end = draw(st.sampled_from(ends))
    if end == "both" and size % 2 == 0:
        parts.append(Part("Last", size, size, {}, {"bidirectional": True}))
    elif end:
        parts.append(Part("Last" if end == "both" else end, size, size, {}, {}))
    for _ in range(draw(st.integers(0, 2))):
        parts.append(draw_rows(draw, rng, size, wide=True))
        size = parts[-1].outputs
    batch_first = draw(st.booleans()) and any(part.kind == "GRU" for part in parts)
    if batch_first:
        parts = [
            part._replace(options=part.options | {"batch_first": True})
            if part.kind == "GRU"
            else part
            for part in parts
        ]
    return Network(parts, batch_first, draw(st.sampled_from(SUPPORTED_ISAS)), seed)


any_network, one_way = networks(), networks(stepwise=True)
# Steps and rows: few, or so many that threads, and blocks of rows, are used.
SHAPE = st.one_of(
    st.tuples(st.integers(1, 9), st.integers(1, 20)), st.sampled_from([(30, 70), (200, 2)])
)


# ---- the definition ----


def exact_layer(part: Part, layer: Any, x: Array, lengths: Array, dtype: Any) -> Array:
    """One layer of (T, B, I) or (B, I) by its definition. What lies past a length is not told."""
    t = {name: tensor.astype(dtype) for name, tensor in part.tensors.items()}
    x = x if part.kind in {"Embedding", "OneHot"} else x.astype(dtype)
    if part.kind == "GRU":
        options = {n: v for n, v in part.options.items() if n not in {"precision", "batch_first"}}
        return reference.gru(layer.tensors(), x, None, lengths, dtype=dtype, **options).output
    if part.kind == "LayerNorm":
        centred = x - x.mean(axis=-1, keepdims=True)
        y: Array = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + dtype(1e-5))
        y *= t.get("weight", dtype(1))
        y += t.get("bias", dtype(0))
        return y
    if part.kind in {"Softmax", "LogSoftmax"}:
        shifted = x - x.max(axis=-1, keepdims=True)
        y = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        return np.exp(y) if part.kind == "Softmax" else y
    if part.kind in {"Last", "Mean", "Max", "Reverse"}:
        return over_time(part, x, lengths)
    functions: dict[str, Callable[[], Array]] = {
        "Embedding": lambda: t["weight"][x],
        "OneHot": lambda: np.eye(INDICES, dtype=dtype)[x],
        "Linear": lambda: x @ t["weight"].T + t.get("bias", dtype(0)),
        "ReLU": lambda: np.maximum(x, 0),
        "Tanh": lambda: np.tanh(x),
        "Sigmoid": lambda: reference.sigmoid(x),
    }
    return functions[part.kind]()


def over_time(part: Part, x: Array, lengths: Array) -> Array:
    """The layers that look at all valid steps of a sequence."""
    rows = [x[:length, row] for row, length in enumerate(lengths)]
    if part.kind == "Reverse":
        y = np.zeros_like(x)
        for row, values in enumerate(rows):
            y[: len(values), row] = values[::-1]
        return y
    if part.options.get("bidirectional"):
        half = x.shape[-1] // 2
        return np.stack([np.concatenate([row[-1, :half], row[0, half:]]) for row in rows])
    functions = {"Last": lambda r: r[-1], "Mean": lambda r: r.mean(0), "Max": lambda r: r.max(0)}
    return np.stack([functions[part.kind](row) for row in rows])


def tolerance(part: Part, layer: Any, x: Array, lengths: Array, exact: Array) -> Array:
    """How far a layer may be from its definition, element by element: promise 1.

    Twice the error of float32 arithmetic on the same data, or the table's floor; in reduced
    precision what test_precision.py says.
    """
    floor = TOLERANCE["output"] * np.maximum(1, np.abs(exact))
    rounded = x.astype(np.float32) if x.dtype == np.float64 else x
    plain = exact_layer(part, layer, rounded, lengths, np.float32)
    error = np.abs(plain - exact).max(initial=0)
    limit: Array = np.maximum(TOLERANCE["times_torch"] * error, floor)
    if part.options.get("precision", "float32") != "float32":
        limit = np.maximum(limit, CLOSE[part.options["precision"]])
    return limit


def exact_network(
    network: Network, layers: list[Any], x: Array, lengths: Array, rng: np.random.Generator | None
) -> tuple[Array, Array]:
    """The network in float64, and the last layer's tolerance.

    With `rng` each layer is off by as much as it may be, to either side: so errors of one layer go
    through the others.
    """
    limit = np.zeros(())
    for part, layer in zip(network.parts, layers, strict=True):
        y = exact_layer(part, layer, x, lengths, np.float64)
        limit = tolerance(part, layer, x, lengths, y)
        x = y if rng is None else y + limit * rng.choice([-1.0, 1.0], y.shape)
    return x, limit


@given(any_network, st.integers(1, 9), st.integers(1, 8))
def test_definition(network: Network, steps: int, batch: int) -> None:
    """A whole network is its layers' definitions one after the other, in float64."""
    x, lengths = network.x(steps, batch), network.lengths(steps, batch)
    layers = network.layers()
    y = network.run(fastgru.Model(layers), x, lengths)
    exact, limit = exact_network(network, layers, x, lengths, None)
    spread = np.zeros(exact.shape)
    for draw in range(8):
        off, _ = exact_network(network, layers, x, lengths, np.random.default_rng(draw))
        spread = np.maximum(spread, np.abs(off - exact))
    # Of eight draws none need have hit an element; none is off by more than others of its row.
    limit = limit + 2 * spread.max(axis=-1, keepdims=True)
    valid = np.ones(exact.shape, bool)
    if not network.over_time:
        valid[...] = (np.arange(steps)[:, None] < lengths)[..., None]
    assert y.shape == exact.shape
    error = np.abs(y - exact)[valid]
    assert np.all(error <= limit[valid]), f"largest error {error.max()}"


# ---- the same bits ----


def one_by_one(network: Network, x: Array, lengths: Array | None) -> tuple[Array, list[Array]]:
    """The layers called by themselves, (T, B, ...) between them; and each GRU's h_n."""
    states = []
    for layer in network.layers():
        if isinstance(layer, fastgru.GRU):
            y, h_n = layer(network.turn(x), lengths=lengths)
            x = network.turn(y)
            states.append(h_n)
        elif isinstance(layer, (fastgru.Last, fastgru.Mean, fastgru.Max, fastgru.Reverse)):
            x = layer(x, lengths=lengths)
        else:
            x = layer(x)
    return x, states


@given(any_network, SHAPE)
def test_a_network_is_its_layers(network: Network, shape: tuple[int, int]) -> None:
    """A call has the bits of its layers called one after the other, with lengths and without."""
    model, x = network.model(), network.x(*shape)
    for lengths in (None, network.lengths(*shape)):
        assert same_bits(network.run(model, x, lengths), one_by_one(network, x, lengths)[0])


@given(any_network, SHAPE, st.data())
def test_threads_and_batches(network: Network, shape: tuple[int, int], data: Any) -> None:
    """One thread or two, the batch whole, in two parts, in another order, a row alone."""
    (_, batch), x, lengths = shape, network.x(*shape), network.lengths(*shape)
    model, time = network.model(), 0 if network.over_time else 1
    model.num_threads = 1
    whole = network.run(model, x, lengths)
    two = network.model()
    two.num_threads = 2
    assert same_bits(network.run(two, x, lengths), whole)

    model = data.draw(st.sampled_from([model, two]), label="threads")
    cut = data.draw(st.integers(0, batch), label="cut of the batch")
    parts = [slice(0, cut), slice(cut, batch)]
    parts_y = [network.run(model, x[:, rows], lengths[rows]) for rows in parts]
    assert same_bits(np.concatenate(parts_y, axis=time), whole)

    order = network.rng().permutation(batch)
    shuffled = network.run(model, x[:, order], lengths[order])
    assert same_bits(shuffled, whole.take(order, axis=time))

    row = data.draw(st.integers(0, batch - 1), label="row")
    length = lengths[row]
    alone = model(x[:length, row])
    assert same_bits(alone, whole[row] if network.over_time else whole[:length, row])


@given(any_network, SHAPE)
def test_padding(network: Network, shape: tuple[int, int]) -> None:
    """What x holds past a row's length changes nothing before it."""
    (steps, _), x, lengths = shape, network.x(*shape), network.lengths(*shape)
    model, padding = network.model(), np.arange(steps)[:, None] >= lengths
    clean = network.run(model, x, lengths)
    x[padding] = 0 if x.ndim == 2 else 1e30
    dirty = network.run(model, x, lengths)
    if not network.over_time:
        clean[padding] = dirty[padding] = 0
    assert same_bits(dirty, clean)


def cuts(data: Any, steps: int) -> Iterator[tuple[int, int]]:
    """Steps cut into calls: (first, last) of each, or last = first for `step`."""
    at = 0
    while at < steps:
        count = data.draw(st.integers(0, min(steps - at, 40)), label="steps, 0: one by step()")
        yield at, at + count
        at += max(count, 1)


@given(one_way, SHAPE, st.sampled_from([1, 2]), st.data())
def test_streams(network: Network, shape: tuple[int, int], threads: int, data: Any) -> None:
    """Any mixture of `step` and `run` has the bits of a call, and its states are the GRUs' h_n.

    Where there is a Last, each step gives what the whole sequence up to there would.
    """
    (steps, batch), x = shape, network.x(*shape)
    model, every_step = network.model(), network.model(but="Last")
    model.num_threads = threads
    wanted = network.turn(every_step(network.turn(x)))
    stream, outputs = model.stream(batch), []
    for first, last in cuts(data, steps):
        if first == last:
            outputs.append(stream.step(x[first])[None])
        else:
            outputs.append(network.turn(stream.run(network.turn(x[first:last]))))
    assert same_bits(np.concatenate(outputs), wanted)
    if network.over_time:
        assert same_bits(network.run(model, x), wanted[-1])
    states = one_by_one(network, x, None)[1]
    assert len(stream.state) == len(states)
    assert all(same_bits(a, b) for a, b in zip(stream.state, states, strict=True))


@given(
    networks(stepwise=True, has_gru=True),
    SHAPE.filter(lambda shape: shape[0] < 100),
    st.sampled_from([1, 2]),
    st.data(),
)
def test_pools(network: Network, shape: tuple[int, int], threads: int, data: Any) -> None:
    """Sessions that advance by turns, in any company and order, are rows of a call."""
    (steps, batch), x = shape, network.x(*shape)
    model, every_step = network.model(), network.model(but="Last")
    model.num_threads = threads
    wanted = network.turn(every_step(network.turn(x)))
    pool = model.pool(batch + 3)
    others = [pool.open() for _ in range(3)]
    ids = np.array([pool.open() for _ in range(batch)])
    pool.close(others[1])
    at, rng = np.zeros(batch, np.int64), network.rng()
    share = data.draw(st.sampled_from([0.2, 0.7, 1.0]), label="share of sessions in a step")
    while (ready := np.flatnonzero(at < steps)).size:
        rows = rng.permutation(ready[rng.random(ready.size) < share])
        if not rows.size:
            rows = ready[:1]
        y = pool.step(ids[rows], x[at[rows], rows])
        assert same_bits(y, wanted[at[rows], rows])
        at[rows] += 1
    states = one_by_one(network, x, None)[1]
    for row, session in enumerate(ids):
        for ours, whole in zip(pool.get_state(int(session)), states, strict=True):
            assert same_bits(ours, whole[:, row])
    assert not any(state.any() for state in pool.get_state(others[0])), "nobody else's state"


@given(any_network, SHAPE)
@settings(max_examples=20)
def test_isas_agree(network: Network, shape: tuple[int, int]) -> None:
    """ISAs with FMAs have the same bits, but for bfloat16 where it has an instruction."""
    if any(part.options.get("precision") == "bfloat16" for part in network.parts):
        return
    results: Sequence[Array] = [
        network._replace(isa=isa).run(network._replace(isa=isa).model(), network.x(*shape))
        for isa in SUPPORTED_ISAS
        if isa != "portable"
    ]
    if len(results) < 2:
        pytest.skip("needs two ISAs with FMAs")
    for result in results[1:]:
        assert same_bits(result, results[0])
