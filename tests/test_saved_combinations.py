"""Whatever combination of GRUs, layers, precisions and options can be made is saved to the bit.

Loaded, it gives the same tensors and outputs, and saved once more the same file.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np

import fastgru
from conftest import Array, random_input, random_weights, same_bits
from fastgru.gru import GRU
from fastgru.precision import PRECISIONS
from fastgru.spec import ACTIVATIONS, RECURRENT_ACTIVATIONS, spec_from_tensors

SIZES = st.integers(1, 5)


@st.composite
def grus(draw: st.DrawFn, input_size: int, batch_first: bool) -> fastgru.GRU:
    """Any GRU of this input size."""
    layers = draw(st.integers(1, 3))
    direction = draw(st.sampled_from(["forward", "reverse", "bidirectional"]))
    weights = random_weights(
        np.random.default_rng(draw(st.integers(0, 99))),
        input_size,
        draw(SIZES),
        layers,
        direction == "bidirectional",
        draw(st.booleans()),
    )
    spec = spec_from_tensors(
        weights,
        reset_after=draw(st.booleans()),
        activation=draw(st.sampled_from(ACTIVATIONS)),
        recurrent_activation=draw(st.sampled_from(RECURRENT_ACTIVATIONS)),
        reverse=direction == "reverse",
    )
    return GRU(
        spec,
        batch_first=batch_first,
        precision=draw(st.sampled_from(PRECISIONS)),
        keep=draw(st.sets(st.integers(0, layers - 1))),
    )


@st.composite
def models(draw: st.DrawFn) -> fastgru.Model:
    """Any layers that fit, several GRUs among them, each in its own precision."""
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    size, batch_first = draw(SIZES), draw(st.booleans())
    layers: list[Any] = []
    first = draw(st.sampled_from(["embedding", "one_hot", "none"]))
    if first == "embedding":
        layers.append(fastgru.Embedding(random_input(rng, 4, size)))
    elif first == "one_hot":
        layers.append(fastgru.OneHot(size))
    for _ in range(draw(st.integers(0, 3))):
        layer: Any = draw(grus(size, batch_first))
        size = layer.hidden_size * (2 if layer.bidirectional else 1)
        layers.append(layer)
        match draw(st.sampled_from(["none", "none", "linear", "norm", "activation", "reverse"])):
            case "linear":
                outputs = draw(SIZES)
                bias = [random_input(rng, outputs)] if draw(st.booleans()) else []
                layers.append(fastgru.Linear(random_input(rng, outputs, size), *bias))
                size = outputs
            case "norm":
                parts = [random_input(rng, size) for _ in range(draw(st.integers(0, 2)))]
                layers.append(fastgru.LayerNorm(*parts, eps=draw(st.sampled_from([1e-5, 0.1]))))
            case "activation":
                kinds = [fastgru.ReLU, fastgru.Tanh, fastgru.Sigmoid, fastgru.Softmax]
                layers.append(draw(st.sampled_from([*kinds, fastgru.LogSoftmax]))())
            case "reverse":
                layers.append(fastgru.Reverse())
    end: Any = draw(st.sampled_from([None, fastgru.Last, fastgru.Mean, fastgru.Max]))
    if end is not None:
        layers.append(end())
    hypothesis.assume(layers)
    return fastgru.Model(layers)


def outputs(model: Any, size: int) -> list[Array]:
    first = model if isinstance(model, fastgru.GRU) else model[0]
    rng = np.random.default_rng(0)
    x: Array = random_input(rng, 3, 2, size)
    if isinstance(first, fastgru.Embedding):
        x = rng.integers(0, first.num_embeddings, (3, 2))
    elif isinstance(first, fastgru.OneHot):
        x = rng.integers(0, first.num_classes, (3, 2))
    result = model(x)
    return list(result) if isinstance(result, tuple) else [result]


def stored(model: Any) -> dict[str, Array]:
    """Every tensor, with the scales of int8."""
    if isinstance(model, fastgru.GRU):
        tensors, scales = model._stored()
        return dict(tensors) | {f"{name}_scale": scale for name, scale in scales.items()}
    return {
        f"{index}.{name}": tensor
        for index, layer in enumerate(model.layers)
        for name, tensor in (
            stored(layer) if isinstance(layer, fastgru.GRU) else layer._tensors()
        ).items()
    }


@hypothesis.given(st.one_of(grus(3, False), grus(3, True), models()))
@hypothesis.settings(max_examples=200)
def test_every_combination_is_saved_to_the_bit(model: Any) -> None:
    """Options, tensors and outputs come back; the file of what was loaded is the same file."""
    with tempfile.TemporaryDirectory() as folder:
        one, two = Path(folder) / "one", Path(folder) / "two"
        model.save(one)
        again = fastgru.load(one)
        again.save(two)
        assert one.read_bytes() == two.read_bytes()
    assert repr(again) == repr(model)
    tensors, expected = stored(again), stored(model)
    assert tensors.keys() == expected.keys()
    assert all(same_bits(tensor, expected[name]) for name, tensor in tensors.items())
    size = 3 if isinstance(model, fastgru.GRU) else model.input_size or _first_size(model)
    assert all(map(same_bits, outputs(again, size), outputs(model, size)))


def _first_size(model: fastgru.Model) -> int:
    """What the first layer that asks for one wants."""
    sizes = (getattr(layer, "input_size", None) for layer in model.layers)
    return next((size for size in sizes if size), 3)


def test_one_gru_in_int8_and_another_in_bfloat16(tmp_path: Path) -> None:
    """The two kinds of reduced tensors stand in one file."""
    rng = np.random.default_rng(0)
    model = fastgru.Model([
        GRU(spec_from_tensors(random_weights(rng, 3, 4)), precision="int8"),
        GRU(spec_from_tensors(random_weights(rng, 4, 4)), precision="bfloat16"),
    ])  # fmt: skip
    model.save(tmp_path / "file")
    again = fastgru.load(tmp_path / "file")
    assert [again[0].precision, again[1].precision] == ["int8", "bfloat16"]
    assert all(map(same_bits, outputs(again, 3), outputs(model, 3)))
