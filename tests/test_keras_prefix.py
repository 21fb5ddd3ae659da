"""`prefix` gives one GRU of a Keras model, whatever surrounds it, by its path or its name.

`graph_3.keras` is no chain; what its GRUs give in Keras is in `outputs_graph_3.npz`. Both are
made by data/make_keras_files.py.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastgru
from conftest import TOLERANCE, Array, same_bits
from test_from_keras import DATA, MODELS, config_of, edited, refusal, weights_of

GRAPH = DATA / "graph_3.keras"
OUTPUTS: dict[str, Array] = dict(np.load(DATA / "outputs_graph_3.npz"))
PATHS = [name.removesuffix(".x") for name in OUTPUTS if name.endswith(".x")]
BACKWARDS = ("layers/gru",)
NAMES = {
    "layers/bidirectional": ("both_ways", "ways", "forward_ways"),
    "layers/gru": ("decoder",),
    "layers/time_distributed/layer": ("of_each", "time_distributed/of_each"),
    "layers/rnn": ("of_cells", "rnn"),
    "layers/pair/first": ("pair/first", "first"),
    "layers/pair/second": ("pair/second", "second"),
    "layers/sequential/layers/gru": ("deep", "inside/deep", "sequential/layers/gru"),
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `.weights.h5` in the `.keras`."""
    return weights_of("graph_3", tmp_path_factory.mktemp("weights"))


def check(gru: fastgru.GRU, path: str) -> None:
    """What Keras's layer gives, all steps or the last one."""
    x, expected = OUTPUTS[f"{path}.x"], OUTPUTS[f"{path}.y"]
    output, h_n = gru(x[:, ::-1] if path in BACKWARDS else x)
    actual = output if expected.ndim == 3 else h_n[-1]
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= TOLERANCE["keras"]


@pytest.mark.parametrize("path", PATHS)
def test_every_gru_of_a_graph_gives_what_keras_gives(path: str, isa: str) -> None:
    """Beside branches, several inputs and outputs, and layers that fastgru does not have."""
    check(fastgru.from_keras(GRAPH, prefix=path, isa=isa), path)
    check(fastgru.load(GRAPH, prefix=path, isa=isa), path)


@pytest.mark.parametrize(("path", "name"), [(p, n) for p, names in NAMES.items() for n in names])
def test_a_layers_own_name_picks_it(path: str, name: str, weights: Path) -> None:
    """As the config has it, also behind the names of the layers that it stands in."""
    config = config_of("graph_3")
    if path == "layers/bidirectional":  # Keras renames the layer that it was given
        layer = next(e for e in config["config"]["layers"] if e["class_name"] == "Bidirectional")
        layer["config"]["layer"]["config"]["name"] = "forward_ways"
    check(fastgru.from_keras(weights, config=config, prefix=name), path)


@pytest.mark.parametrize("path", PATHS)
def test_weights_alone_and_with_a_config(path: str, weights: Path) -> None:
    """The same tensors by the path; alone, the arguments say what the config would."""
    expected = fastgru.from_keras(GRAPH, prefix=path)
    said = {
        "activation": expected.activation,
        "recurrent_activation": expected.recurrent_activation,
    }
    for gru in (
        fastgru.from_keras(weights, prefix=path, **said),
        fastgru.load(weights, prefix=path, **said),
        fastgru.from_keras(weights, prefix=path, config=config_of("graph_3")),
    ):
        assert repr(gru) == repr(expected)
        for name, tensor in expected.tensors().items():
            assert same_bits(gru.tensors()[name], tensor)


@pytest.mark.parametrize("model", MODELS)
def test_names_of_every_keras(model: str, tmp_path: Path) -> None:
    """Keras 2.13, 2 and 3 number their groups in different ways; names mean the same layers."""
    names: list[str] = []

    def name_all(config: Any) -> None:
        for entry in config["config"]["layers"]:
            if "layers" in entry["config"]:
                name_all(entry)
            elif entry["class_name"] in ("GRU", "Bidirectional"):
                entry["config"]["name"] = f"{entry['class_name']}_number_{len(names)}"
                names.append(entry["config"]["name"])

    path = edited(tmp_path, model, name_all)
    whole = fastgru.from_keras(DATA / f"{model}.keras", masks_as_lengths=True)._grus()
    whole = sorted(whole, key=lambda gru: gru.activation == "sigmoid")  # the one in a model is last
    picked = [fastgru.from_keras(path, prefix=name) for name in names]
    picked = sorted(picked, key=lambda gru: gru.activation == "sigmoid")
    assert len(picked) == len(whole) > 0
    for gru, layer in zip(picked, whole, strict=True):
        for name, tensor in layer.tensors().items():
            assert same_bits(gru.tensors()[name], tensor)


# ---- whatever surrounds it ----

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "gru", "decoder", "x/y"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["class_name", "config", "name", "layers", "layer", "args"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
OTHERS = ("Attention", "Add", "Lambda", "MyOwnLayer", "Functional", "TimeDistributed", "RNN")


@given(data=st.data())
def test_nothing_around_it_is_looked_at(weights: Path, data: st.DataObject) -> None:
    """Other layers may be anything and be connected in any way, and the GRU is the same."""
    config = config_of("graph_3")
    for entry in config["config"]["layers"]:
        keep = entry["config"]["name"] == "decoder"
        if data.draw(st.booleans()):
            entry["inbound_nodes"] = data.draw(JUNK)
        if keep or entry["class_name"] in ("GRU", "Sequential"):
            continue
        if data.draw(st.booleans()):
            entry["config"] = {"name": entry["config"]["name"], "it": data.draw(JUNK)}
            entry["class_name"] = data.draw(st.sampled_from(OTHERS[:4]))
    for name in ("input_layers", "output_layers"):
        config["config"][name] = data.draw(JUNK)
    check(fastgru.from_keras(weights, config=config, prefix="decoder"), "layers/gru")


@given(index=st.integers(0, 15), kind=st.sampled_from(OTHERS), inner=JUNK, name=JUNK)
def test_a_config_that_lies_raises_one_error(
    weights: Path, index: int, kind: str, inner: Any, name: Any
) -> None:
    """Whatever an entry says, loading gives a GRU or an error of fastgru's."""
    config = config_of("graph_3")
    entries = config["config"]["layers"]
    entries[index % len(entries)] |= {"class_name": kind}
    entries[index % len(entries)]["config"] = {"name": name, "layers": inner, "layer": inner}
    for prefix in (*PATHS, "decoder", "deep"):
        try:
            gru = fastgru.from_keras(weights, config=config, prefix=prefix)
        except (fastgru.FormatError, fastgru.UnsupportedLayerError) as error:
            assert str(weights) in str(error)  # noqa: PT017
        else:
            assert type(gru) is fastgru.GRU


def nested(depth: int) -> dict[str, Any]:
    config: dict[str, Any] = {"class_name": "GRU", "config": {"units": 2}}
    for _ in range(depth):
        config = {"class_name": "Sequential", "config": {"layers": [config]}}
    return config


def test_models_in_models_without_end(weights: Path) -> None:
    with pytest.raises(fastgru.FormatError, match="expected at most 16"):
        fastgru.from_keras(weights, config=nested(40), prefix="gru")


# ---- which one is meant ----


def test_no_such_gru_and_several(weights: Path) -> None:
    """The error lists them by both their names."""
    message = refusal(GRAPH, fastgru.FormatError, prefix="dense")
    assert (
        "no GRU under 'dense': the GRUs are 'layers/bidirectional' (named 'both_ways')" in message
    )
    for path in PATHS:
        assert repr(path) in message
    assert "'layers/sequential/layers/gru' (named 'inside/deep')" in message
    message = refusal(GRAPH, fastgru.FormatError, prefix="gru")
    expected = (
        "several GRUs found, pick one with prefix=...: 'layers/gru' (named 'decoder'), "
        "'layers/sequential/layers/gru' (named 'inside/deep')"
    )
    assert expected in message
    message = refusal(weights, fastgru.FormatError, prefix="dense")
    assert "no GRU under 'dense': the GRUs are 'layers/bidirectional', 'layers/gru'" in message


def rename(name: str, new: str) -> Callable[[Any], None]:
    def change(config: Any) -> None:
        for entry in config["config"]["layers"]:
            if entry["config"]["name"] == name:
                entry["config"]["name"] = new

    return change


def test_a_name_that_is_another_ones_path(tmp_path: Path) -> None:
    """Neither is chosen in silence; whole paths always mean what stands there."""
    path = edited(tmp_path, "graph_3", rename("of_cells", "gru"))
    message = refusal(path, fastgru.FormatError, prefix="gru")
    assert "several GRUs found" in message
    assert "'layers/rnn' (named 'gru')" in message
    check(fastgru.from_keras(path, prefix="layers/gru"), "layers/gru")
    check(fastgru.from_keras(path, prefix="layers/rnn"), "layers/rnn")


def test_the_advice_for_a_model_that_is_no_chain() -> None:
    """It names the GRUs that prefix= can pick."""
    message = refusal(GRAPH)
    assert "the layers are not a chain" in message
    assert "prefix=..., and what surrounds it run elsewhere: 'layers/bidirectional'" in message
    assert "(named 'decoder')" in message


def test_a_shared_layer_is_described_twice(tmp_path: Path) -> None:
    """Its weights are saved once, where Keras first met it, and there its name finds them."""

    def change(config: Any) -> None:
        entries = config["config"]["layers"]
        again = copy.deepcopy(next(e for e in entries if e["config"]["name"] == "decoder"))
        inner = {"name": "inner", "layers": [again]}
        entries.append(
            {"class_name": "Functional", "config": inner, "name": "inner", "inbound_nodes": []}
        )

    check(
        fastgru.from_keras(edited(tmp_path, "graph_3", change), prefix="decoder"),
        "layers/gru",
    )


def test_a_gru_that_the_weights_lack(tmp_path: Path) -> None:
    """The config describes it, and the error says what is missing."""

    def change(config: Any) -> None:
        entries = config["config"]["layers"]
        entries.append(copy.deepcopy(next(e for e in entries if e["config"]["name"] == "decoder")))
        entries[-1]["config"]["name"] = "lost"

    path = edited(tmp_path, "graph_3", change)
    message = refusal(path, fastgru.FormatError, prefix="lost")
    assert "GRU 'lost': layers/gru_1/cell: expected 3 arrays" in message


# ---- its own layer is what matters ----


def own(name: str, **entry: Any) -> Callable[[Any], None]:
    def change(config: Any) -> None:
        next(e for e in config["config"]["layers"] if e["config"]["name"] == name).update(entry)

    return change


@pytest.mark.parametrize("module", [None, "mine"])
def test_a_class_of_the_users_own(module: str | None, tmp_path: Path) -> None:
    """A subclass may compute anything, also one that is called GRU and stands in no module."""
    change = own("decoder", module=module, registered_name="GRU")
    path = edited(tmp_path, "graph_3", change)
    message = refusal(path, prefix="decoder")
    assert "GRU 'decoder': a class of its own" in message
    assert "prefix='layers/gru' loads it" in message
    alone = weights_of("graph_3", tmp_path)
    check(fastgru.from_keras(alone, prefix="layers/gru"), "layers/gru")  # as the error says
    check(fastgru.from_keras(path, prefix="both_ways"), "layers/bidirectional")


def test_cells_that_are_no_gru_cells(tmp_path: Path) -> None:
    """Weights of the right shapes do not make a cell of the user's own a GRU."""

    def change(config: Any) -> None:
        entry = next(e for e in config["config"]["layers"] if e["class_name"] == "RNN")
        entry["config"]["cell"] |= {"module": "mine", "registered_name": "mine>GRUCell"}

    message = refusal(edited(tmp_path, "graph_3", change), prefix="of_cells")
    assert "RNN 'of_cells': fastgru has no RNN of 'mine>GRUCell'" in message


def test_several_cells_in_one_layer(tmp_path: Path) -> None:
    """Their weights stand where no single cell's do, and the layer is refused by what it is."""

    def change(config: Any) -> None:
        entries = config["config"]["layers"]
        entries.append(copy.deepcopy(next(e for e in entries if e["class_name"] == "RNN")))
        cells = {"name": "cells", "cells": [entries[-1]["config"]["cell"]]}
        stacked = {"module": "keras.layers", "class_name": "StackedRNNCells", "config": cells}
        entries[-1]["config"] |= {"name": "of_several", "cell": stacked}

    message = refusal(edited(tmp_path, "graph_3", change), prefix="of_several")
    assert "RNN 'of_several': fastgru has no RNN of StackedRNNCells" in message


def test_arguments_that_contradict_its_layer(tmp_path: Path) -> None:
    """The config of the GRU itself is what is compared."""
    message = refusal(GRAPH, fastgru.FormatError, prefix="deep", activation="tanh")
    assert "activation: the file says 'sigmoid', the argument 'tanh'" in message
    check(fastgru.from_keras(GRAPH, prefix="deep", activation="sigmoid"), PATHS[-1])


def test_a_model_that_is_a_program(tmp_path: Path) -> None:
    """Its config says nothing of its layers, and its GRUs load by their paths."""

    def change(config: Any) -> None:
        config |= {"class_name": "Mine", "module": None, "registered_name": "Mine", "config": {}}

    path = edited(tmp_path, "graph_3", change)
    message = refusal(path)
    assert "the model is a 'Mine': expected Sequential or Functional" in message
    assert "prefix=..., and what surrounds it run elsewhere: 'layers/bidirectional'" in message
    gru = fastgru.from_keras(path, prefix="sequential/layers/gru", activation="sigmoid")
    check(gru, "layers/sequential/layers/gru")


def test_a_model_of_many_layers(weights: Path) -> None:
    """They are walked once, and none of them matters."""
    config = config_of("graph_3")
    entries = config["config"]["layers"]
    other = {"class_name": "Attention", "config": {"name": "a"}, "inbound_nodes": [[]]}
    entries += [json.loads(json.dumps(other)) for _ in range(2000)]
    check(fastgru.from_keras(weights, config=config, prefix="decoder"), "layers/gru")
