"""Files of models: what is saved comes back, what is damaged raises one FormatError.

The container, atomic writing and the rest of it are test_files.py's.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import fastgru
from conftest import Array, make_gru, random_input, random_weights, same_bits
from test_files import DESCRIPTION, safetensors_bytes, saved

I, H, V = 4, 6, 5  # noqa: E741

GRU_DESCRIPTION = {
    name: value
    for name, value in (DESCRIPTION | {"input_size": I, "hidden_size": H}).items()
    if name != "format_version"
}
LAYERS: list[dict[str, Any]] = [
    {"kind": "embedding"},
    GRU_DESCRIPTION,
    {"kind": "layer_norm", "weight": True, "bias": False, "eps": 1e-3},
    {"kind": "relu"},
    {"kind": "last"},
    {"kind": "linear", "bias": True},
    {"kind": "softmax"},
]


def numbers(*shape: int, seed: int = 0) -> Array:
    return random_input(np.random.default_rng(seed), *shape)


def gru(inputs: int = I, **options: Any) -> fastgru.GRU:
    return make_gru(random_weights(np.random.default_rng(1), inputs, H), **options)


def small_model(**options: Any) -> fastgru.Model:
    """The model that LAYERS describes."""
    return fastgru.Model([
        fastgru.Embedding(numbers(V, I)),
        gru(**options),
        fastgru.LayerNorm(numbers(H), eps=1e-3),
        fastgru.ReLU(),
        fastgru.Last(),
        fastgru.Linear(numbers(3, H), numbers(3)),
        fastgru.Softmax(),
    ])  # fmt: skip


def tensors_of(model: fastgru.Model, tmp_path: Path) -> dict[str, Array]:
    model.save(tmp_path / "tensors")
    return safetensors.numpy.load_file(tmp_path / "tensors")


def description_of(path: Path) -> Any:
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    return json.loads(header["__metadata__"]["fastgru"])


# ---- what is saved comes back ----

MODELS: dict[str, Callable[[], fastgru.Model]] = {
    "small": small_model,
    "features, batch_first, two directions": lambda: fastgru.Model([
        fastgru.LayerNorm(),
        make_gru(
            random_weights(np.random.default_rng(1), I, H, 2, True),
            batch_first=True,
            reset_after=False,
            activation="relu",
        ),
        fastgru.Sigmoid(),
        fastgru.Max(),
        fastgru.Linear(numbers(3, 2 * H)),
        fastgru.LogSoftmax(),
    ]),
    "bfloat16 and int8": lambda: fastgru.Model([
        fastgru.OneHot(V), gru(V, precision="bfloat16"), fastgru.Tanh(), fastgru.Mean(),
    ]),
    "int8": lambda: fastgru.Model([fastgru.OneHot(V), gru(V), gru(H)]).to("int8"),
    "no GRU": lambda: fastgru.Model([fastgru.Embedding(numbers(V, I)), fastgru.Mean()]),
}  # fmt: skip


@pytest.mark.parametrize("name", list(MODELS))
def test_a_file_brings_back_the_same_bits(tmp_path: Path, name: str) -> None:
    """Layers, tensors, outputs; and the file of what was loaded is the same file."""
    model = MODELS[name]()
    model.save(tmp_path / "model")
    again = fastgru.load(tmp_path / "model")
    assert type(again) is fastgru.Model
    assert repr(again) == repr(model)
    shape = (3, 2) if model.input_size is None else (3, 2, I)
    x = np.random.default_rng(0).integers(0, V, shape) if len(shape) == 2 else numbers(*shape)
    assert same_bits(again(x), model(x))
    again.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "model").read_bytes()


def test_what_is_written(tmp_path: Path) -> None:
    """Exactly the fields and names that are documented: a change needs a new version."""
    tensors = tensors_of(small_model(), tmp_path)
    assert description_of(tmp_path / "tensors") == {
        "format_version": 3,
        "kind": "model",
        "layers": LAYERS,
    }
    names = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]
    assert sorted(tensors) == sorted(
        ["layers.0.weight", "layers.2.weight", "layers.5.weight", "layers.5.bias"]
        + [f"layers.1.{name}" for name in names]
    )
    fastgru.Model([fastgru.OneHot(V), gru(V).to("int8")]).save(tmp_path / "int8")
    assert description_of(tmp_path / "int8")["layers"][1]["precisions"] == ["int8"]
    data = (tmp_path / "int8").read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    assert header["layers.1.weight_hh_l0"]["dtype"] == "I8"
    assert header["layers.1.weight_hh_l0_scale"]["dtype"] == "F32"


def test_format_version_3_stays_readable(tmp_path: Path) -> None:
    """Written here, not by `save`: what was once released must load for ever."""
    layers = [{"kind": "one_hot", "num_classes": I}, GRU_DESCRIPTION, {"kind": "log_softmax"}]
    weights = random_weights(np.random.default_rng(1), I, H)
    data = model_bytes({f"layers.1.{n}": t for n, t in weights.items()}, layers=layers)
    model = fastgru.load(saved(tmp_path, data))
    expected = fastgru.LogSoftmax()(make_gru(weights)(np.eye(I, dtype=np.float32))[0])
    assert same_bits(model(range(I)), expected)


def test_every_float_survives(tmp_path: Path) -> None:
    """NaN, infinities, denormals and -0 keep their bits in every layer's weights."""
    special = np.array([[np.nan, np.inf, -0.0, 1e-45, 3.4e38]], np.float32)
    layers = [fastgru.Embedding(special), fastgru.LayerNorm(special[0]), fastgru.Linear(special)]
    fastgru.Model(layers).save(tmp_path / "model")
    for layer in fastgru.load(tmp_path / "model").layers:
        assert layer._tensors()["weight"].tobytes() == special.tobytes()


# ---- options ----


def test_options(tmp_path: Path, isa: str) -> None:
    """Threads and the ISA reach the layers; what the file says already may be said again."""
    small_model().save(tmp_path / "model")
    model = fastgru.load(
        tmp_path / "model", num_threads=2, isa=isa, batch_first=False, activation="tanh", prefix=""
    )
    assert model.num_threads == 2
    assert [model[1].isa, model[5]._core.isa, model[6]._isa] == [isa] * 3


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_precision(tmp_path: Path, precision: str) -> None:
    """Reduced when loaded is as reduced with `to`; a reduced file can be asked for what it is."""
    small_model().save(tmp_path / "model")
    model = fastgru.load(tmp_path / "model", precision=precision)
    expected = small_model().to(precision)
    assert same_bits(model([1, 2]), expected([1, 2]))
    expected.save(tmp_path / "reduced")
    again = fastgru.load(tmp_path / "reduced", precision=precision)
    assert again[1].precision == precision


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prefix": "layers.1."}, "prefix: a model file has none, the argument 'layers.1.'"),
        ({"batch_first": True}, "layer 1 GRU: batch_first: the file says False, the argument True"),
        ({"reset_after": False, "activation": "relu"}, "(?s)2 problems.*reset_after.*activation"),
        ({"precision": "int8"}, "precision: the file says 'bfloat16', the argument 'int8'"),
    ],
)
def test_contradictions(tmp_path: Path, options: Any, message: str) -> None:
    """Options that say something else than the file are refused, all at once."""
    small_model(precision="bfloat16").save(tmp_path / "model")
    with pytest.raises(fastgru.FormatError, match=message):
        fastgru.load(tmp_path / "model", **options)


def test_wrong_options(tmp_path: Path) -> None:
    """As for a GRU's file."""
    small_model().save(tmp_path / "model")
    with pytest.raises(ValueError, match="unknown ISA 'sse9'") as caught:
        fastgru.load(tmp_path / "model", isa="sse9")
    assert not isinstance(caught.value, fastgru.FormatError)
    with pytest.raises(TypeError, match="isa: expected a name"):
        fastgru.load(tmp_path / "model", isa=1)  # type: ignore[arg-type]


def test_int8_of_weights_that_are_not_finite(tmp_path: Path) -> None:
    weights = random_weights(np.random.default_rng(1), I, H)
    weights["weight_hh_l0"][0, 0] = np.nan
    fastgru.Model([make_gru(weights)]).save(tmp_path / "model")
    with pytest.raises(fastgru.FormatError, match=r"layers.0: weight_hh_l0: int8 needs finite"):
        fastgru.load(tmp_path / "model", precision="int8")


# ---- damage ----


def model_bytes(tensors: dict[str, Array], **changed: Any) -> bytes:
    """A file whose description has other fields; None removes one."""
    description: dict[str, Any] = {"format_version": 3, "kind": "model", "layers": LAYERS} | changed
    description = {name: value for name, value in description.items() if value is not None}
    return safetensors_bytes(tensors, {"fastgru": json.dumps(description)})


def with_layer(index: int, **changed: Any) -> list[dict[str, Any]]:
    layers = [dict(layer) for layer in LAYERS]
    layers[index] = {n: v for n, v in (layers[index] | changed).items() if v is not None}
    return layers


HEAVY = "x" * 100_000
BAD_DESCRIPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "a newer version": ({"format_version": 5}, "this fastgru knows 1, 2, 3, 4, the file has 5"),
    "a GRU's version": ({"format_version": 1}, "kind: expected 'gru', got 'model'"),
    "no kind": ({"kind": None}, "(?s)kind: missing"),
    "another kind": ({"kind": "gru"}, "kind: expected 'model', got 'gru'"),
    "no layers": ({"layers": None}, "(?s)layers: missing"),
    "an empty list": ({"layers": []}, r"layers: expected a list of at least one, got \[\]"),
    "no list": ({"layers": {"0": LAYERS[0]}}, "layers: expected a list"),
    "an unknown field": ({"extra": 1}, "extra: unknown field"),
    "layers that are no objects": (
        {"layers": [1, None, "gru", [], True]},
        r"(?s)5 problems.*layers\[0\]: expected an object, got 1.*layers\[2\]: .*, got 'gru'",
    ),
    "an unknown layer": ({"layers": with_layer(3, kind="conv")}, r"layers\[3\]: kind: .*'conv'"),
    "a kind that is no string": ({"layers": with_layer(3, kind=["relu"])}, r"layers\[3\]: kind"),
    "a field too many": ({"layers": with_layer(3, bias=True)}, r"\[3\]: bias: unknown field"),
    "a field too few": ({"layers": with_layer(5, bias=None)}, r"layers\[5\]: bias: missing"),
    "a flag that is none": ({"layers": with_layer(5, bias=1)}, r"bias: expected true or false"),
    "eps that is none": ({"layers": with_layer(2, eps="1")}, r"eps: expected a number, got '1'"),
    "eps below 0": ({"layers": with_layer(2, eps=-1)}, r"layers.2: eps: expected a finite"),
    "eps that is NaN": ({"layers": with_layer(2, eps=float("nan"))}, r"layers.2: eps: expected"),
    "eps beyond doubles": ({"layers": with_layer(2, eps=10**400)}, r"layers.2: "),
    "classes that are none": (
        {"layers": [{"kind": "one_hot", "num_classes": 2.5}, *LAYERS[1:]]},
        "layers.0: num_classes: expected an integer",
    ),
    "too many classes": (
        {"layers": [{"kind": "one_hot", "num_classes": 10**30}, *LAYERS[1:]]},
        "layers.0: num_classes: expected at least 1",
    ),
    "a GRU without fields": ({"layers": [{"kind": "gru"}]}, r"(?s)layers\[0\]: input_size: miss"),
    "a GRU of another precision": (
        {"layers": with_layer(1, precision="int8")},
        r"layers\[1\]: precisions: missing",
    ),
    "a precision that is none": (
        {"layers": with_layer(1, precision=["int8"])},
        r"layers\[1\]: precision: expected 'float32'",
    ),
    "a GRU of other sizes": (
        {"layers": with_layer(1, hidden_size=10**12, num_layers=10**12)},
        "(?s)layers.1: .*hidden_size: the description says 1000000000000, the tensors 6",
    ),
    "layers that do not fit": (
        {"layers": [*LAYERS[:6], {"kind": "last"}]},
        "layer 6 Last: expected sequences, layer 4 Last gives one row",
    ),
    "tensors behind the last layer": (
        {"layers": LAYERS[:5]},
        "layers.5.weight: there are only 5 layers",
    ),
    "long strings": ({"layers": with_layer(3, kind=HEAVY)}, r"layers\[3\]: kind: expected"),
}


@pytest.mark.parametrize("name", list(BAD_DESCRIPTIONS))
def test_bad_descriptions(tmp_path: Path, name: str) -> None:
    """One FormatError that names the file and what is wrong, whatever the description says."""
    changed, message = BAD_DESCRIPTIONS[name]
    tensors = tensors_of(small_model(), tmp_path)
    if "classes" in name:
        del tensors["layers.0.weight"]
    path = saved(tmp_path, model_bytes(tensors, **changed))
    with pytest.raises(fastgru.FormatError, match=message) as caught:
        fastgru.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 10_000


BAD_TENSORS: dict[str, tuple[dict[str, Array | None], str]] = {
    "a missing weight": ({"layers.5.weight": None}, "layers.5: linear: weight: missing"),
    "a missing bias": ({"layers.5.bias": None}, "layers.5: linear: bias: missing"),
    "a missing tensor of a GRU": (
        {"layers.1.bias_hh_l0": None},
        r"layers.1: the GRU: bias_hh_l0: missing, expected \(18,\)",
    ),
    "no tensors": (
        {f"layers.{n}": None for n in ("0.weight", "2.weight", "5.weight", "5.bias")},
        "(?s)3 problems.*layers.0: embedding: weight: missing.*layers.2: .*layers.5: ",
    ),
    "another shape": ({"layers.5.bias": np.zeros(4, np.float32)}, r"Linear: bias: expected \(3,\)"),
    "another dtype": ({"layers.5.bias": np.zeros(3, np.int64)}, "expected a real floating dtype"),
    "an empty table": ({"layers.0.weight": np.zeros((0, I), np.float32)}, "at least 1 in each"),
    "sizes that do not fit": (
        {"layers.0.weight": numbers(V, I + 1)},
        "layer 1 GRU: expected 4 inputs, layer 0 Embedding gives 5",
    ),
    "a tensor too many": ({"layers.3.weight": numbers(2)}, "layers.3: relu: weight: no such"),
    "a layer too many": ({"layers.7.weight": numbers(2)}, "layers.7.weight: there are only 7"),
    "a tensor that no GRU has": (
        {"layers.1.weight_hh_l0_extra": numbers(2)},
        "layers.1: the GRU: weight_hh_l0_extra: no tensor of a GRU",
    ),
}


@pytest.mark.parametrize("name", list(BAD_TENSORS))
def test_bad_tensors(tmp_path: Path, name: str) -> None:
    """Each layer's own, with its number."""
    changed, message = BAD_TENSORS[name]
    tensors = tensors_of(small_model(), tmp_path) | changed
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    with pytest.raises(fastgru.FormatError, match=message):
        fastgru.load(saved(tmp_path, model_bytes(given)))


def test_other_tensors_are_ignored(tmp_path: Path) -> None:
    """What has no layer's name is nobody's business."""
    others = {"steps": np.zeros(2, np.int64), "layers": numbers(1), "layers.x.weight": numbers(1)}
    tensors = tensors_of(small_model(), tmp_path) | others
    assert len(fastgru.load(saved(tmp_path, model_bytes(tensors)))) == 7


def test_damaged_scales(tmp_path: Path) -> None:
    """A reduced GRU inside is looked at as closely as one alone."""
    model = fastgru.Model([fastgru.OneHot(V), gru(V).to("int8")])
    tensors = tensors_of(model, tmp_path)
    description = description_of(tmp_path / "tensors")
    tensors["layers.1.weight_ih_l0_scale"][0] = np.nan
    del tensors["layers.1.weight_hh_l0_scale"]
    data = safetensors_bytes(tensors, {"fastgru": json.dumps(description)})
    with pytest.raises(
        fastgru.FormatError, match=r"(?s)ih_l0_scale: expected pos.*hh_l0_scale: mi"
    ):
        fastgru.load(saved(tmp_path, data))


@pytest.mark.parametrize("kind", ["cut", "changed"])
def test_damaged_bytes(tmp_path: Path, kind: str) -> None:
    """A FormatError or a model, never another exception."""
    small_model().save(tmp_path / "model")
    whole = (tmp_path / "model").read_bytes()
    rng = np.random.default_rng(0)
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    failures = 0
    for _ in range(300):
        data = bytearray(whole)
        if kind == "cut":
            data = data[: rng.integers(0, len(data))]
        else:
            data[rng.integers(0, header)] = rng.integers(0, 256)
        try:
            fastgru.load(saved(tmp_path, bytes(data)))
        except fastgru.FormatError:
            failures += 1
    assert failures > 200


@pytest.mark.parametrize("options", [{}, {"precision": "int8"}])
def test_files_of_a_gru_are_as_they_were(tmp_path: Path, options: Any) -> None:
    """The bytes of a GRU's own file do not know of models."""
    gru(**options).save(tmp_path / "gru")
    description = description_of(tmp_path / "gru")
    assert list(description)[:2] == ["format_version", "kind"]
    assert description["format_version"] == (2 if options else 1)
    assert type(fastgru.load(tmp_path / "gru")) is fastgru.GRU
