"""Files of Keras give what Keras gives, or one error that says why not.

The files and Keras's own outputs are made by data/make_keras_files.py; damaged and hostile ones are
test_hostile_keras_files.py's.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastgru
import reference
from conftest import TOLERANCE, Array, run_python, same_bits
from fastgru.formats.keras.file import looks_like_keras

DATA = Path(__file__).parent / "data" / "keras"
OUTPUTS = {
    version: dict(np.load(DATA / f"outputs_{version}.npz")) for version in ("2.13", "2", "3")
}
MODELS = [
    f"{name.removesuffix('.y')}_{version}"
    for version, arrays in OUTPUTS.items()
    for name in arrays
    if name.endswith(".y")
]
TAGGER = DATA / "tagger_3.weights.h5"


def keras_outputs(model: str) -> tuple[Array, Array]:
    name, _, version = model.rpartition("_")
    return OUTPUTS[version][f"{name}.x"], OUTPUTS[version][f"{name}.y"]


def loaded(model: str, **options: Any) -> fastgru.Model:
    options.setdefault("masks_as_lengths", model.startswith("masked"))
    result = fastgru.from_keras(DATA / f"{model}.keras", **options)
    assert type(result) is fastgru.Model
    return result


def lengths_of(model: str, x: Array) -> Array | None:
    return (x != 0).sum(1) if model.startswith("masked") else None


def config_of(model: str) -> dict[str, Any]:
    with zipfile.ZipFile(DATA / f"{model}.keras") as archive:
        config: dict[str, Any] = json.loads(archive.read("config.json"))
    return config


def weights_of(model: str, tmp_path: Path) -> Path:
    """The `.weights.h5` inside, which is what save_weights writes."""
    path = tmp_path / f"{model}.weights.h5"
    with zipfile.ZipFile(DATA / f"{model}.keras") as archive:
        path.write_bytes(archive.read("model.weights.h5"))
    return path


def edited(tmp_path: Path, model: str, change: Callable[[Any], object]) -> Path:
    """A copy whose config `change` has changed."""
    path = tmp_path / "edited.keras"
    config = config_of(model)
    change(config)
    with (
        zipfile.ZipFile(DATA / f"{model}.keras") as old,
        zipfile.ZipFile(path, "w") as new,
    ):
        for name in old.namelist():
            is_config = name == "config.json"
            new.writestr(name, json.dumps(config) if is_config else old.read(name))
    return path


def refusal(path: Path, kind: type[Exception] = fastgru.UnsupportedLayerError, **kw: Any) -> str:
    with pytest.raises(kind) as caught:
        fastgru.from_keras(path, **kw)
    assert str(path) in str(caught.value)
    return str(caught.value)


# ---- what Keras gives ----


@pytest.mark.parametrize("model", MODELS)
def test_outputs_are_those_of_keras(model: str, isa: str) -> None:
    """Of every version, both equations, every layer and option that is supported."""
    x, expected = keras_outputs(model)
    actual = loaded(model, isa=isa)(x, lengths=lengths_of(model, x))
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= TOLERANCE["keras"]


@pytest.mark.parametrize("model", MODELS)
def test_a_native_file_of_it_gives_the_same_bits(model: str, tmp_path: Path) -> None:
    """Whatever loads can be saved."""
    x, _ = keras_outputs(model)
    first = loaded(model)
    first.save(tmp_path / "model.safetensors")
    again = fastgru.load(tmp_path / "model.safetensors")
    assert repr(again) == repr(first)
    lengths = lengths_of(model, x)
    assert same_bits(again(x, lengths=lengths), first(x, lengths=lengths))


@pytest.mark.parametrize("model", MODELS)
def test_weights_with_a_config_are_the_same_model(model: str, tmp_path: Path) -> None:
    """A `.weights.h5` and to_json(), as text, as a file and as a dict, which name no version."""
    x, _ = keras_outputs(model)
    weights, config = weights_of(model, tmp_path), config_of(model)
    as_file = tmp_path / "config.json"
    as_file.write_text(json.dumps(config))
    lengths = lengths_of(model, x)
    expected = loaded(model)(x, lengths=lengths)
    for given in (config, json.dumps(config), as_file, str(as_file)):
        again = fastgru.from_keras(weights, config=given, masks_as_lengths=lengths is not None)
        assert same_bits(again(x, lengths=lengths), expected)


def test_to_json_of_keras_2(tmp_path: Path) -> None:
    """Its older form names its version, and so which hard_sigmoid is meant."""
    x, expected = keras_outputs("classifier_2")
    weights = weights_of("classifier_2", tmp_path)
    model = fastgru.from_keras(weights, config=DATA / "classifier_2.json")
    assert model[1].recurrent_activation == "hard_sigmoid_02"
    assert np.abs(model(x) - expected).max() <= TOLERANCE["keras"]


@pytest.mark.parametrize("model", ["masked_3", "masked_backwards_3"])
def test_lengths_are_keras_masks(model: str) -> None:
    """Each row is what its valid steps give by themselves, which is what Keras's mask means."""
    x, expected = keras_outputs(model)
    for row, length in enumerate((x != 0).sum(1)):
        alone = loaded(model)(x[row : row + 1, :length])
        assert np.abs(alone[0] - expected[row]).max() <= TOLERANCE["keras"]


def test_a_stream_is_keras_stateful() -> None:
    """Its calls start from zeros; what Keras keeps between calls a stream keeps."""
    x, expected = keras_outputs("stateful_3")
    model = loaded("stateful_3")
    stream = model.stream()
    parts = [stream.run(x[:, :4]), stream.run(x[:, 4:])]
    assert np.abs(np.concatenate(parts, 1) - expected).max() <= TOLERANCE["keras"]
    assert same_bits(model(x), model(x))


def test_hard_sigmoid_is_that_of_its_keras() -> None:
    """x/5 + 1/2 in Keras 2, x/6 + 1/2 in Keras 3."""
    for generation, expected in (("2", "hard_sigmoid_02"), ("3", "hard_sigmoid")):
        gru = fastgru.from_keras(DATA / f"classifier_{generation}.keras", prefix="bidirectional")
        assert gru.recurrent_activation == expected


def test_bfloat16_weights() -> None:
    """Keras stores them as opaque bytes; widening is exact."""
    gru = loaded("bfloat16_3")[0]
    assert isinstance(gru, fastgru.GRU)
    weights = np.random.default_rng(0).normal(0, 0.7, (3, 12)).astype(np.float32)  # the kernel
    z, r, h = np.split(weights, 3, 1)
    expected = np.concatenate([r, z, h], 1).T
    error = np.abs(gru.tensors()["weight_ih_l0"] - expected)
    assert np.all(error <= np.abs(expected) / 256)  # half a unit in the last of 8 bits
    assert error.any()


# ---- one GRU ----


def test_prefix_picks_a_gru_of_a_keras_file() -> None:
    """With the config's activations, whatever surrounds it, in full or from a slash on."""
    x, _ = keras_outputs("classifier_3")
    model = loaded("classifier_3")
    for prefix in ("layers/bidirectional", "bidirectional", "bidirectional/"):
        gru = fastgru.from_keras(DATA / "classifier_3.keras", prefix=prefix)
        assert type(gru) is fastgru.GRU
        embedding, first = model[0], model[1]
        assert isinstance(embedding, fastgru.Embedding)
        assert isinstance(first, fastgru.GRU)
        embedded = embedding(x)
        assert same_bits(gru(embedded)[0], first(embedded)[0])
    nested = fastgru.from_keras(DATA / "chain_3.keras", prefix="sequential/layers/gru")
    assert nested.activation == "sigmoid"
    message = refusal(DATA / "classifier_3.keras", fastgru.FormatError, prefix="lstm")
    assert "the GRUs are 'layers/bidirectional' (named 'bidirectional" in message
    assert "'layers/gru' (named 'gru" in message


def test_the_gru_of_a_subclassed_model() -> None:
    """Such a model is a program; its weights file has the GRU under the attribute's name."""
    gru = fastgru.from_keras(TAGGER)
    assert (gru.input_size, gru.hidden_size, gru.batch_first) == (3, 4, True)
    assert not gru.reset_after  # from the bias's shape
    assert same_bits(
        fastgru.from_keras(TAGGER, prefix="encoder").tensors()["weight_hh_l0"],
        gru.tensors()["weight_hh_l0"],
    )
    x = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)
    for activation, gates in (("tanh", "sigmoid"), ("relu", "hard_sigmoid_02")):
        gru = fastgru.from_keras(TAGGER, activation=activation, recurrent_activation=gates)
        exact = reference.gru(
            gru.tensors(),
            x.transpose(1, 0, 2),
            reset_after=False,
            activation=activation,
            recurrent_activation=gates,
        )
        assert np.abs(gru(x)[0] - exact[0].transpose(1, 0, 2)).max() <= TOLERANCE["keras"]


def test_weights_alone_give_the_same_gru(tmp_path: Path) -> None:
    """Gates, directions and biases: the same tensors as with the config."""
    weights = weights_of("classifier_3", tmp_path)
    message = refusal(weights, fastgru.FormatError)
    assert "several GRUs found, pick one with prefix=...: 'layers/bidirectional', 'layers/gru'" in (
        message
    )
    for prefix in ("layers/bidirectional", "gru"):
        alone = fastgru.from_keras(weights, prefix=prefix)
        whole = fastgru.from_keras(DATA / "classifier_3.keras", prefix=prefix)
        assert alone.bidirectional == whole.bidirectional
        assert alone.reset_after == whole.reset_after
        for name, tensor in whole.tensors().items():
            assert same_bits(alone.tensors()[name], tensor)


def test_without_bias_the_caller_says_the_equation(tmp_path: Path) -> None:
    """With one its shape does, and saying something else is a contradiction."""
    weights = weights_of("backwards_3", tmp_path)
    assert fastgru.from_keras(weights, prefix="layers/gru").reset_after
    assert not fastgru.from_keras(weights, prefix="layers/gru", reset_after=False).reset_after
    assert not fastgru.from_keras(weights, prefix="layers/gru", reset_after=False).bias
    message = refusal(weights, fastgru.FormatError, prefix="gru_1", reset_after=True)
    assert "reset_after: the shape of its bias says False, the argument True" in message


def test_other_networks_are_named(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    path = tmp_path / "other"
    with h5py.File(path, "w") as file:
        cell = file.create_group("layers/lstm/cell/vars")
        for number, shape in enumerate([(3, 16), (4, 16), (16,)]):
            cell[str(number)] = np.zeros(shape, np.float32)
    expected = "no GRU found: 'layers/lstm' (recurrent kernel (4, 16): an LSTM)"
    assert expected in refusal(path, fastgru.FormatError)
    with h5py.File(path, "w") as file:
        file.create_group("model_weights/gru/gru/gru_cell")
    assert "old HDF5 format" in refusal(path, fastgru.FormatError)
    with h5py.File(path, "w") as file:
        file.create_group("weights")
    assert "no GRU found: names in the file: weights" in refusal(path, fastgru.FormatError)


# ---- options ----


def test_precision_and_threads_reach_the_grus() -> None:
    model = loaded("classifier_3", precision="int8", num_threads=2)
    assert [gru.precision for gru in model._grus()] == ["int8", "int8"]
    assert model.num_threads == 2
    assert fastgru.from_keras(TAGGER, precision="bfloat16").precision == "bfloat16"


def test_options_that_contradict_the_config() -> None:
    path = DATA / "classifier_3.keras"
    assert loaded("classifier_3", activation="tanh")[1].activation == "tanh"  # type: ignore[union-attr]
    message = refusal(path, fastgru.FormatError, recurrent_activation="sigmoid")
    expected = "recurrent_activation: the file says 'hard_sigmoid', the argument 'sigmoid'"
    assert "model.layers[1] Bidirectional 'bidirectional" in message
    assert expected in message
    message = refusal(path, fastgru.FormatError, config={})
    assert "config: a .keras file has its own" in message


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"precision": "float16"}, ValueError, "precision"),
        ({"activation": "swish"}, ValueError, "activation"),
        ({"masks_as_lengths": 1}, ValueError, "masks_as_lengths"),
        ({"prefix": 3}, TypeError, "prefix"),
        ({"num_threads": 0}, ValueError, "num_threads"),
        ({"isa": "mmx"}, ValueError, "mmx"),
        ({"config": "{"}, fastgru.FormatError, "config is not valid JSON"),
        ({"config": "/no/such/file"}, FileNotFoundError, "/no/such/file"),
    ],
)
def test_bad_options(options: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        fastgru.from_keras(TAGGER, **options)


def test_files_that_are_not_there_and_not_of_keras(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        fastgru.from_keras(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        fastgru.from_keras(tmp_path)
    (tmp_path / "text").write_bytes(b"text")
    assert "expected a .keras archive" in refusal(tmp_path / "text", fastgru.FormatError)
    assert looks_like_keras(["metadata.json", "config.json", "model.weights.h5"])
    assert not looks_like_keras(["config.json", "archive/data.pkl"])


def test_nothing_else_is_imported() -> None:
    """Not Keras, nor what it runs on, nor h5py: the file is read by fastgru alone."""
    others = ("keras", "tf_keras", "tensorflow", "torch", "jax", "h5py")
    code = f"""
import sys
sys.modules.update(dict.fromkeys({others}))  # import raises ImportError
import fastgru
for path in ({str(DATA / "classifier_3.keras")!r}, {str(TAGGER)!r}):
    fastgru.from_keras(path)
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr


# ---- what fastgru cannot run ----


def layer(config: Any, index: int) -> Any:
    return config["config"]["layers"][index]["config"]


def replace(index: int, class_name: str, **options: Any) -> Callable[[Any], None]:
    def change(config: Any) -> None:
        entry = config["config"]["layers"][index]
        entry["class_name"], entry["config"] = class_name, {"name": "it", **options}

    return change


def options(index: int, **values: Any) -> Callable[[Any], None]:
    return lambda config: layer(config, index).update(values)


def direction(name: str, **values: Any) -> Callable[[Any], None]:
    return lambda config: layer(config, 2)[name]["config"].update(values)


def own_class(config: Any) -> None:
    config["config"]["layers"][5] |= {"module": "mine", "registered_name": "mine>GRU"}


FUNCTION = {"class_name": "function", "config": "f", "registered_name": "f"}
CLASSIFIER: dict[str, tuple[Callable[[Any], object], str]] = {
    # InputLayer, Embedding, Bidirectional, LayerNormalization, SpatialDropout1D, GRU, Dense
    "unknown": (replace(3, "Conv1D"), "model.layers[2] Conv1D 'it': fastgru has no such layer"),
    "its own": (own_class, "a class of its own ('mine>GRU'), which is a program"),
    "model": (lambda c: c.update(class_name="Tagger"), "the model is a Tagger"),
    "no GRU": (lambda c: c["config"].update(layers=c["config"]["layers"][:2]), "no GRU in it"),
    "quantized": (
        options(6, dtype={"class_name": "QuantizedDTypePolicy", "config": {}}),
        "model.layers[5] Dense 'dense': its weights are quantized",
    ),
    "mask": (options(1, mask_zero=True), "pass masks_as_lengths=True"),
    "masking": (replace(4, "Masking", mask_value=0.0), "every step that is all mask_value"),
    "state": (options(5, return_state=True), "return_state: expected False, got True"),
    "gates": (
        options(5, recurrent_activation="tanh"),
        "recurrent_activation: expected sigmoid or hard_sigmoid, got tanh",
    ),
    "candidate": (
        options(5, activation="elu"),
        "activation: expected tanh or relu or sigmoid or linear, got elu",
    ),
    "function": (options(6, activation=FUNCTION), "got a class or function of its own"),
    "dense": (options(6, activation="gelu"), "got gelu"),
    "merge": (options(2, merge_mode="sum"), "merge_mode: expected concat, got 'sum'"),
    "unlike": (
        direction("layer", activation="relu"),
        "directions that are alike, the first one forwards, got activation relu and tanh",
    ),
    "turned": (
        lambda c: [
            direction("layer", go_backwards=True)(c),
            direction("backward_layer", go_backwards=False)(c),
        ],
        "got the first one backwards",
    ),
    "lstm": (
        lambda c: layer(c, 2)["layer"].update(class_name="LSTM"),
        "fastgru has no LSTM",
    ),
    "axis": (options(3, axis=[1]), "axis: expected -1"),
    "rms": (options(3, rms_scaling=True), "rms_scaling: expected False, got True"),
    "distributed": (
        replace(4, "TimeDistributed", layer={"class_name": "GRU", "config": {}}),
        "no TimeDistributed of a GRU",
    ),
    "relu": (replace(4, "ReLU", max_value=6.0), "max_value: expected None, got 6.0"),
    "softmax": (replace(4, "Softmax", axis=1), "axis: expected -1"),
    "pooling": (
        replace(4, "GlobalMaxPooling1D", keepdims=True),
        "keepdims: expected False, got True",
    ),
}


@pytest.mark.parametrize("name", list(CLASSIFIER))
def test_layers_and_options_that_are_other_functions(name: str, tmp_path: Path) -> None:
    """Named with its place and what was expected; nothing is loaded that would differ."""
    change, text = CLASSIFIER[name]
    assert text in refusal(edited(tmp_path, "classifier_3", change))


def test_every_such_layer_is_listed(tmp_path: Path) -> None:
    def change(config: Any) -> None:
        replace(3, "Conv1D")(config)
        options(6, activation="gelu")(config)

    message = refusal(edited(tmp_path, "classifier_3", change))
    assert "the Keras model has 2 problems" in message
    assert "prefix=" in message


@pytest.mark.parametrize(
    ("index", "class_name", "text"),
    [
        (4, "GlobalMaxPooling1D", "behind a mask"),
        (3, "Softmax", "a Softmax layer behind a mask"),
    ],
)
def test_what_masks_would_change(index: int, class_name: str, text: str, tmp_path: Path) -> None:
    """These do something else with a mask than lengths do."""
    path = edited(tmp_path, "masked_3", replace(index, class_name))
    assert text in refusal(path, masks_as_lengths=True)


def test_backwards_sequences_behind_a_mask(tmp_path: Path) -> None:
    path = edited(tmp_path, "masked_3", options(3, go_backwards=True))
    assert "where Keras puts the padding first" in refusal(path, masks_as_lengths=True)


def second_input(config: Any) -> None:
    entry = {"name": "more", "batch_shape": [None, None, 3]}
    config["config"]["layers"].append(
        {"class_name": "InputLayer", "config": entry, "name": "more", "inbound_nodes": []}
    )


def two_consumers(config: Any) -> None:
    first, *_, last = config["config"]["layers"]
    last["inbound_nodes"] = [
        {
            "args": [{"config": {"keras_history": [first["name"], 0, 0]}}],
            "kwargs": {"initial_state": [1]},
        }
    ]


def only_one_takes_it(config: Any) -> None:
    layers = config["config"]["layers"]
    last = layers[-1]
    another = json.loads(json.dumps(last)) | {"name": "another"}
    another["inbound_nodes"][0]["args"][0]["config"]["keras_history"][0] = last["name"]
    another["inbound_nodes"][0]["kwargs"]["mask"] = None
    layers.append(another)
    config["config"]["output_layers"] = ["another", 0, 0]


def another_mask(config: Any) -> None:
    entry = next(e for e in config["config"]["layers"] if e["class_name"] == "NotEqual")
    entry["inbound_nodes"][0]["args"][1] = 3


def test_masks_of_functional_models(tmp_path: Path) -> None:
    """Written out, where not all layers need take them; lengths are for all."""
    path = DATA / "masked_backwards_3.keras"
    assert "a mask, by which Keras skips every step with index 0" in refusal(path)
    path = edited(tmp_path, "masked_backwards_3", only_one_takes_it)
    assert "a mask that not all layers take" in refusal(path, masks_as_lengths=True)
    path = edited(tmp_path, "masked_backwards_3", another_mask)
    assert "NotEqual 'not_equal" in refusal(path, masks_as_lengths=True)


def used_twice(config: Any) -> None:
    nodes = config["config"]["layers"][1]["inbound_nodes"]
    nodes.append(nodes[0])


CHAIN: dict[str, tuple[Callable[[Any], object], str]] = {
    "inputs": (second_input, "expected one input, got 2"),
    "branch": (two_consumers, "takes initial_state too"),
    "twice": (used_twice, "expected to be used once, is used 2 times"),
    "outputs": (
        lambda c: c["config"].update(output_layers=[["gru", 0, 0], ["dense", 0, 0]]),
        "expected one output, that of the last layer, got ['gru', 'dense']",
    ),
}


@pytest.mark.parametrize("generation", "23")
@pytest.mark.parametrize("name", list(CHAIN))
def test_functional_models_that_are_no_chain(name: str, generation: str, tmp_path: Path) -> None:
    change, text = CHAIN[name]
    assert text in refusal(edited(tmp_path, f"chain_{generation}", change))
