"""What `from_onnx` does not run it says: which operation, where it stands, what to do instead.

Also damaged and hostile files: one FormatError or UnsupportedLayerError, never anything else.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed")

import onnx
from onnx import TensorProto, helper

import fastgru
from conftest import Array, random_input
from fastgru.formats import window
from fastgru.formats.onnx import graph as onnx_graph
from fastgru.formats.onnx import parts as onnx_parts
from fastgru.formats.onnx.file import looks_like_onnx
from onnx_models import (
    assert_near,
    gru_model,
    gru_weights,
    model_of,
    onnxruntime_run,
    with_initializer,
)

T, B, I, H = 6, 2, 3, 4  # noqa: E741
RNG = np.random.default_rng(0)
WEIGHTS = gru_weights(RNG, I, H)
SECOND = {f"{name}2": array for name, array in gru_weights(RNG, H, H).items()}
HEAD = {
    "head": random_input(RNG, H, 2),
    "bias": random_input(RNG, 2),
    "scale": random_input(RNG, H),
    "one": np.array([1], np.int64),
    "last": np.array(-1, np.int64),
    "two": np.array(2.0, np.float32),
}
GRU = helper.make_node("GRU", ["x", "W", "R", "B"], ["Y", "Y_h"], name="rnn", hidden_size=H)
SQUEEZE = helper.make_node("Squeeze", ["Y", "one"], ["y"])


def chain(*nodes: Any, output: str = "out", before: Any = (), **constants: Array) -> Any:
    """x -> GRU -> y (T, B, H) -> nodes -> output."""
    return model_of(
        [*before, GRU, SQUEEZE, *nodes],
        {"x": ["T", "B", I]},
        [output],
        {**WEIGHTS, **SECOND, **HEAD, **constants},
    )


def node(op: str, *inputs: str, out: str = "out", **attributes: Any) -> Any:
    return helper.make_node(op, list(inputs), [out], name=f"the {op}", **attributes)


def refused(model: Any, error: type[Exception] = fastgru.UnsupportedLayerError) -> str:
    """The message."""
    with pytest.raises(error) as caught:
        fastgru.from_onnx(model)
    assert caught.type is error
    return str(caught.value)


# ---- what loads ----


@pytest.mark.parametrize(
    ("nodes", "kinds"),
    [
        ([node("Identity", "y")], ["GRU"]),
        ([node("Relu", "y")], ["GRU", "ReLU"]),
        ([node("MatMul", "y", "head")], ["GRU", "Linear"]),
        (
            [node("MatMul", "y", "head", out="m"), node("Add", "m", "bias")],
            ["GRU", "Linear"],
        ),
        (
            [node("MatMul", "y", "head", out="m"), node("Add", "bias", "m")],
            ["GRU", "Linear"],
        ),
        ([node("Gather", "y", "last", axis=0)], ["GRU", "Last"]),
        (
            [
                node("Gather", "y", "last", axis=0, out="g"),
                node("Gemm", "g", "head", "bias", transB=0),
            ],
            ["GRU", "Last", "Linear"],
        ),
        ([node("ReduceMean", "y", "zero", keepdims=0)], ["GRU", "Mean"]),
        ([node("ReduceMax", "y", "zero", keepdims=0)], ["GRU", "Max"]),
        ([node("LayerNormalization", "y", "scale", epsilon=1e-3)], ["GRU", "LayerNorm"]),
        ([node("Dropout", "y", "half")], ["GRU"]),
        (
            [node("Cast", "y", to=TensorProto.DOUBLE, out="d"),
             helper.make_node("Cast", ["d"], ["out"], to=TensorProto.FLOAT)],
            ["GRU"],
        ),
        ([node("Squeeze", "Y_h", "zero")], ["GRU", "Last"]),
        (
            [helper.make_node("GRU", ["y", "W2", "R2", "B2"], ["Z"], hidden_size=H),
             node("Squeeze", "Z", "one")],
            ["GRU"],
        ),
        (
            [helper.make_node("GRU", ["y", "W2", "R2", "B2"], ["Z"], hidden_size=H,
                              linear_before_reset=1),
             node("Squeeze", "Z", "one")],
            ["GRU", "GRU"],
        ),
        (
            [node("Relu", "y", out="z"),
             helper.make_node("GRU", ["z", "W2", "R2", "B2"], ["Z"], hidden_size=H),
             node("Squeeze", "Z", "one")],
            ["GRU", "ReLU", "GRU"],
        ),
    ],
)  # fmt: skip
def test_chains(nodes: list[Any], kinds: list[str]) -> None:
    """A layer by hand each, against ONNX Runtime; GRU nodes that agree become one GRU."""
    model = chain(*nodes, zero=np.array([0], np.int64), half=np.array(0.5, np.float32))
    loaded = fastgru.from_onnx(model)
    layers = loaded.layers if isinstance(loaded, fastgru.Model) else (loaded,)
    assert [type(layer).__name__ for layer in layers] == kinds
    x = random_input(RNG, T, B, I)
    result = loaded(x)
    (expected,) = onnxruntime_run(model, {"x": x})
    assert_near(result[0] if isinstance(result, tuple) else result, expected)


def test_a_reverse_gru_in_a_chain() -> None:
    """Its last state is that of step 0, also with lengths."""
    gru = helper.make_node(
        "GRU", ["x", "W", "R", "B", "n"], ["", "Y_h"], hidden_size=H, direction="reverse"
    )
    nodes = [gru, node("Squeeze", "Y_h", "zero", out="h"), node("MatMul", "h", "head")]
    constants = {**WEIGHTS, **HEAD, "zero": np.array([0], np.int64)}
    model = model_of(nodes, {"x": ["T", "B", I], "n": ("l", ["B"])}, ["out"], constants)
    x, n = random_input(RNG, T, B, I), np.array([6, 2], np.int32)
    (expected,) = onnxruntime_run(model, {"x": x, "n": n})
    assert_near(fastgru.from_onnx(model)(x, lengths=n), expected)


def test_the_input_may_come_through_layers() -> None:
    """A Linear and an activation before the GRU."""
    before = [node("MatMul", "x", "first", out="f"), node("Tanh", "f", out="t")]
    gru = helper.make_node("GRU", ["t", "W", "R", "B"], ["Y", "Y_h"], hidden_size=H)
    constants = {**WEIGHTS, "first": random_input(RNG, 7, I), "one": HEAD["one"]}
    nodes = [*before, gru, node("Squeeze", "Y", "one")]
    model = model_of(nodes, {"x": ["T", "B", 7]}, ["out"], constants)
    x = random_input(RNG, T, B, 7)
    assert_near(fastgru.from_onnx(model)(x), onnxruntime_run(model, {"x": x})[0])


# ---- what does not ----

UNSUPPORTED: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "an operation": (
        lambda: chain(node("Erf", "y")),
        ["node 2 Erf 'the Erf': Erf is no operation", "fastgru runs chains of GRU nodes"],
    ),
    "several operations": (
        lambda: chain(node("Erf", "y", out="e"), node("Gelu", "Y"),
                      node("Add", "e", "out", out="z"), output="z"),
        ["2 problems", "the Erf", "the Gelu"],
    ),
    "another domain": (
        lambda: chain(node("FusedMatMul", "y", "head", domain="com.microsoft")),
        ["com.microsoft.FusedMatMul", "domain 'com.microsoft'"],
    ),
    "an LSTM": (
        lambda: model_of(
            [helper.make_node("LSTM", ["x", "W", "R"], ["", "out"], hidden_size=H)],
            {"x": ["T", "B", I]}, ["out"], WEIGHTS,
        ),
        ["node 0 LSTM"],
    ),
    "no GRU": (
        lambda: model_of([node("Relu", "x")], {"x": ["T", "B", I]}, ["out"], {}),
        ["no GRU node"],
    ),
    "clip": (lambda: gru_model(WEIGHTS, clip=3.0), ["node 0 GRU: clip"]),
    "an activation": (
        lambda: gru_model(WEIGHTS, activations=["Sigmoid", "Softsign"]),
        ["softsign for the candidate", "supported are tanh"],
    ),
    "another slope": (
        lambda: gru_model(WEIGHTS, activations=["HardSigmoid", "Tanh"], activation_alpha=[0.25]),
        ["hardsigmoid(0.25, 0.5) for the gates", "hardsigmoid(0.2, 0.5)"],
    ),
    "different directions": (
        lambda: gru_model(
            gru_weights(RNG, I, H, 2), direction="bidirectional",
            activations=["Sigmoid", "Tanh", "Sigmoid", "Relu"],
        ),
        ["different activations for the two directions"],
    ),
    "a state in the file": (
        lambda: model_of(
            [helper.make_node("GRU", ["X", "W", "R", "", "", "h"], ["Y"], hidden_size=H)],
            {"X": ["T", B, I]}, ["Y"], {**WEIGHTS, "h": np.ones((1, B, H), np.float32)},
        ),
        ["initial_h: a state other than zeros"],
    ),
    "lengths in the file": (
        lambda: model_of(
            [helper.make_node("GRU", ["X", "W", "R", "", "n"], ["Y"], hidden_size=H)],
            {"X": ["T", B, I]}, ["Y"], {**WEIGHTS, "n": np.array([3, 3], np.int32)},
        ),
        ["sequence_lens: lengths fixed in the file"],
    ),
    "a state for a model": (
        lambda: model_of(
            [helper.make_node("GRU", ["x", "W", "R", "", "", "h"], ["Y"], name="g", hidden_size=H),
             SQUEEZE, node("Relu", "y")],
            {"x": ["T", "B", I], "h": [1, "B", H]}, ["out"], {**WEIGHTS, **HEAD},
        ),
        ["node 0 GRU 'g': initial_h is the input 'h'", "starts from zeros"],
    ),
    "two outputs": (
        lambda: model_of([GRU, SQUEEZE, node("Relu", "y")], {"x": ["T", "B", I]}, ["out", "Y_h"],
                         {**WEIGHTS, **HEAD}),
        ["2 outputs ('out', 'Y_h')"],
    ),
    "another arrangement": (
        lambda: chain(node("Transpose", "y", perm=[1, 0, 2])),
        ["output 'out' is (B, T, 4), where a Model gives (T, B, 4)"],
    ),
    "features in front": (
        lambda: chain(node("Transpose", "y", perm=[2, 0, 1], out="t"), node("MatMul", "t", "head")),
        ["is not the features"],
    ),
    "a step that is not the last": (
        lambda: chain(node("Gather", "y", "one", axis=0)),
        ["takes steps 1 to 2; fastgru.Last takes the last one"],
    ),
    "softmax over time": (
        lambda: chain(node("Softmax", "y", axis=0)), ["over axis 0 of (T, B, 4)"],
    ),
    "a mean over the batch": (
        lambda: chain(node("ReduceMean", "y", "one", keepdims=0)), ["over axis 1 of (T, B, 4)"],
    ),
    "a residual": (lambda: chain(node("Add", "y", "y")), ["both depend on the input"]),
    "a factor": (lambda: chain(node("Mul", "y", "two")), ["it is times a constant"]),
    "a constant on the left": (
        lambda: chain(node("MatMul", "head", "y")), ["a constant times the input"],
    ),
    "a bias twice": (
        lambda: chain(node("MatMul", "y", "head", out="m"), node("Add", "m", "bias", out="n"),
                      node("Add", "n", "bias")),
        ["no product or norm that has no bias yet"],
    ),
    "training": (
        lambda: chain(node("Dropout", "y", "half", "yes"), half=np.array(0.5, np.float32),
                      yes=np.array(True)),
        ["dropout as in training"],
    ),
    "padding that counts": (
        lambda: model_of(
            [helper.make_node("GRU", ["x", "W", "R", "", "n"], ["Y"], hidden_size=H), SQUEEZE,
             node("Gather", "y", "last", axis=0)],
            {"x": ["T", "B", I], "n": ("l", ["B"])}, ["out"], {**WEIGHTS, **HEAD},
        ),
        ["Last after a GRU with sequence_lens", "take the last states"],
    ),
    "one step": (
        lambda: model_of([node("Unsqueeze", "x", "zero", out="X"),
                          helper.make_node("GRU", ["X", "W", "R"], ["", "out"], hidden_size=H)],
                         {"x": ["B", I]}, ["out"], {**WEIGHTS, "zero": np.array([0], np.int64)}),
        ["one axis of the input must be time"],
    ),
    "axes in another order": (
        lambda: model_of([node("Transpose", "x", perm=[2, 0, 1], out="X"),
                          helper.make_node("GRU", ["X", "W", "R"], ["Y"], hidden_size=H), SQUEEZE,
                          node("Relu", "y")],
                         {"x": ["B", I, "T"]}, ["out"], {**WEIGHTS, **HEAD}),
        ["the last axis of its X"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported(name: str) -> None:
    """The operation, its name, and what there is instead."""
    make, parts = UNSUPPORTED[name]
    message = refused(make())
    for part in parts:
        assert part in message


def change_dims(tensor: Any, *dims: int) -> None:
    del tensor.dims[:]
    tensor.dims.extend(dims)


def test_all_weights_that_do_not_fit_are_listed() -> None:
    """Name, expected, actual."""
    model = gru_model(WEIGHTS)
    model = with_initializer(model, "R", lambda tensor: change_dims(tensor, 1, 6, 8))
    model = with_initializer(model, "B", lambda tensor: change_dims(tensor, 24, 1))
    message = refused(model, fastgru.FormatError)
    assert "R: expected (1, 12, 4), got (1, 6, 8)" in message
    assert "B: expected (1, 24), got (24, 1)" in message


@pytest.mark.parametrize(
    ("dims", "text"),
    [
        ([1 << 40, 1 << 40], "expected 4835703278458516698824704 bytes"),
        ([-1, 12, 3], "its shape (-1, 12, 3) makes no sense"),
        ([1, 12, 2], "expected 96 bytes"),
        ([1 << 62, 0], "its shape (4611686018427387904, 0) makes no sense"),
        ([0, 1 << 40, 3], "expected 0 bytes"),
        ([1] * 100, "its shape (1, 1, 1, 1, 1, 1, 1, 1, 1) makes no sense"),
    ],
)
def test_shapes_that_lie(dims: list[int], text: str) -> None:
    """Nothing is allocated on a shape's word."""
    model = with_initializer(gru_model(WEIGHTS), "W", lambda tensor: change_dims(tensor, *dims))
    assert f"initializer 'W': {text}" in refused(model, fastgru.FormatError)


@pytest.mark.parametrize(
    "location",
    [
        "../data",
        "/etc/passwd",
        "a/../../data",
        "sub/data",
        ".",
        "..",
        "",
        "..\\data",
        "C:data",
        "a\0b",
    ],
)
def test_external_data_elsewhere(location: str, tmp_path: Path) -> None:
    """Only a file in the model's own folder is read."""
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for where in (tmp_path / "data", folder / "sub" / "data"):
        where.write_bytes(WEIGHTS["W"].tobytes())
    message = external(folder, location)
    assert "expected the name of a file in the model's folder" in message


def external(folder: Path, location: str, **more: str) -> str:
    """The message for a model whose W lies at `location`."""

    def outside(tensor: Any) -> None:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **more}.items():
            tensor.external_data.add(key=key, value=value)

    path = folder / "model.onnx"
    path.write_bytes(with_initializer(gru_model(WEIGHTS), "W", outside).SerializeToString())
    with pytest.raises(fastgru.FormatError) as caught:
        fastgru.from_onnx(path)
    return str(caught.value)


def test_external_data_that_is_no_file_of_that_size(tmp_path: Path) -> None:
    """Links, folders, files that end too early, numbers that are none."""
    size = WEIGHTS["W"].nbytes
    (tmp_path / "target").write_bytes(bytes(size))
    (tmp_path / "short").write_bytes(bytes(size - 1))
    (tmp_path / "folder").mkdir()
    os.symlink(tmp_path / "target", tmp_path / "link")
    os.mkfifo(tmp_path / "pipe")
    assert "'link' is not a regular file" in external(tmp_path, "link")
    assert "'folder' is not a regular file" in external(tmp_path, "folder")
    assert "'pipe' is not a regular file" in external(tmp_path, "pipe")
    assert f"expected {size} bytes from 0 on in 'short'" in external(tmp_path, "short")
    assert f"expected {size} bytes from 9 on" in external(tmp_path, "target", offset="9")
    for offset in ("-1", "1e3", "٣", "9" * 30, " 0"):
        assert "make no sense" in external(tmp_path, "target", offset=offset)
    assert f"expected {size} bytes" in external(tmp_path, "target", length="7")


def test_external_data_needs_a_file(tmp_path: Path) -> None:
    """A ModelProto in memory has no folder."""
    path = tmp_path / "model.onnx"
    onnx.save_model(
        gru_model(WEIGHTS), path, save_as_external_data=True, location="data", size_threshold=0
    )
    model = onnx.load(path, load_external_data=False)
    assert "the model is in no file" in refused(model, fastgru.FormatError)


FORMAT: dict[str, tuple[Callable[[], Any], str]] = {
    "weights as inputs": (
        lambda: model_of([GRU], {"x": ["T", "B", I], "W": [1, 12, I], "R": [1, 12, H],
                                 "B": [1, 24]}, ["Y"], {}),
        "weights must be in the file",
    ),
    "a name that nothing makes": (
        lambda: model_of([GRU], {"x": ["T", "B", I]}, ["Y"], {"W": WEIGHTS["W"]}),
        "nothing in the graph makes 'R'",
    ),
    "an output that nothing makes": (
        lambda: model_of([GRU], {"x": ["T", "B", I]}, ["Z"], WEIGHTS),
        "nothing in the graph makes 'Z'",
    ),
    "a cycle": (
        lambda: chain(node("Relu", "b", out="a"), node("Relu", "a", out="b"), output="b"),
        "is part of a cycle",
    ),
    "a node that feeds itself": (
        lambda: chain(node("Relu", "out")), "is part of a cycle",
    ),
    "a name twice": (
        lambda: chain(node("Relu", "y"), node("Tanh", "y")), "'out': stands for two values",
    ),
    "no output": (lambda: model_of([GRU], {"x": ["T", "B", I]}, [], WEIGHTS), "no output"),
    "an old opset": (lambda: gru_model(WEIGHTS, opset=6), "ONNX opset version: expected 7 to"),
    "a future opset": (lambda: gru_model(WEIGHTS, opset=999), "got 999"),
    "too few activations": (
        lambda: gru_model(WEIGHTS, activations=["Sigmoid"]), "activations: expected 2, got 1",
    ),
    "too many numbers": (
        lambda: gru_model(WEIGHTS, activation_alpha=[1.0]), "more numbers than activations take",
    ),
    "a direction": (lambda: gru_model(WEIGHTS, direction="up"), "direction: expected 'forward'"),
    "a hidden size": (
        lambda: model_of([helper.make_node("GRU", ["x", "W", "R"], ["Y"], hidden_size=5)],
                         {"x": ["T", "B", I]}, ["Y"], WEIGHTS),
        "W: expected (1, 15, 3), got (1, 12, 3)",
    ),
    "an attribute's type": (
        lambda: chain(node("Transpose", "y", perm="up")), "attribute perm: expected a list of int",
    ),
    "features": (
        lambda: model_of([GRU], {"x": ["T", "B", 9]}, ["Y"], WEIGHTS), "X: expected 3 features",
    ),
    "integers as weights": (
        lambda: model_of([GRU], {"x": ["T", "B", I]}, ["Y"],
                         {**WEIGHTS, "R": WEIGHTS["R"].astype(np.int32)}),
        "R: expected a real floating dtype, got int32",
    ),
    "an input without axes": (
        lambda: without_shape(gru_model(WEIGHTS)), "does not say how many axes",
    ),
    "a graph without end": (
        lambda: chain(*(node("Relu", f"a{n}", out=f"a{n + 1}")
                        for n in range(onnx_graph.MAX_NODES))),
        "expected at most",
    ),
    "no inputs at all": (lambda: chain(node("Transpose")), "input 0 is missing"),
}  # fmt: skip


def without_shape(model: Any) -> Any:
    model.graph.input[0].type.tensor_type.ClearField("shape")
    return model


@pytest.mark.parametrize("name", FORMAT)
def test_damaged(name: str) -> None:
    """FormatError, with what was expected."""
    make, text = FORMAT[name]
    assert text in refused(make(), fastgru.FormatError)


def test_deep_graphs() -> None:
    """5,000 layers one after the other: no recursion anywhere."""
    count = 5000
    nodes = [node("Relu", "y" if n == 0 else f"a{n}", out=f"a{n + 1}") for n in range(count)]
    assert len(fastgru.from_onnx(chain(*nodes, output=f"a{count}"))) == count + 1


def test_constants_that_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by the file's size: doublings and repetitions end."""
    monkeypatch.setattr(window, "SPARE", 1 << 20)
    doublings = [node("Concat", f"c{n}", f"c{n}", out=f"c{n + 1}", axis=0) for n in range(60)]
    message = refused(
        chain(*doublings, node("MatMul", "y", "c60"), c0=np.ones((4, 2), np.float32)),
        fastgru.FormatError,
    )
    assert "takes more memory" in message
    expand = [
        node("Expand", "scale", "shape", out="big"), node("Transpose", "big", out="turned"),
        node("MatMul", "y", "turned"),
    ]  # fmt: skip
    message = refused(chain(*expand, shape=np.array([1 << 40, H], np.int64)), fastgru.FormatError)
    assert "takes more memory" in message


def test_parts_that_take_more_memory_than_bytes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two bytes in a file are an empty node, and a hundred in memory: they are counted first."""
    monkeypatch.setattr(onnx_parts, "MAX_PARTS", 1000)
    empty = b"\x0a\x00" * 1001  # nodes of a graph, attributes in a node, tensors in these, ...
    for nested in range(4):
        message = outcome(path, b"\x08\x08" + wrapped(empty, [7, 1, 5, 6][: nested + 1]))
        assert "more than 1000 parts" in message


def wrapped(data: bytes, fields: list[int]) -> bytes:
    for field in reversed(fields):
        size = bytes([len(data) & 127 | 128, len(data) >> 7 & 127 | 128, len(data) >> 14])
        data = bytes([field << 3 | 2]) + size + data
    return data


def test_messages_in_messages(path: Path) -> None:
    """Graphs in attributes of nodes of graphs."""
    for depth in (20, 200, 2000):
        assert outcome(path, b"\x08\x08" + wrapped(b"", [7, *([1, 5, 6] * depth)]))


def outcome(path: Path, data: bytes) -> str:
    """The error's message, or "" for a network, which runs; nothing else may happen."""
    path.write_bytes(data)
    try:
        loaded = fastgru.from_onnx(path)
    except (fastgru.FormatError, fastgru.UnsupportedLayerError) as error:
        message = str(error)
        assert message.startswith(f"{path}: ")
        assert len(message) < 10_000
        return message
    size = loaded.input_size
    loaded(np.zeros((2, 1), np.int64) if size is None else np.zeros((2, 1, size), np.float32))
    return ""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile") / "model.onnx"


def larger_model() -> bytes:
    """Most operations, in one chain."""
    zero = np.array([0], np.int64)
    ids = {"table": random_input(RNG, 5, I), "zero": zero, "shape": np.array([0, 0, -1], np.int64)}
    two = {f"{name}b": array for name, array in gru_weights(RNG, I, H, 2).items()}
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("Shape", ["e"], ["s"]),
        helper.make_node("Slice", ["s", "one", "at", "zero"], ["b"]),
        helper.make_node("Concat", ["pair", "b", "units"], ["hs"], axis=0),
        helper.make_node("ConstantOfShape", ["hs"], ["h0"]),
        helper.make_node(
            "GRU", ["e", "Wb", "Rb", "Bb", "", "h0"], ["Y", "Y_h"], hidden_size=H,
            direction="bidirectional",
        ),
        helper.make_node("Transpose", ["Y"], ["Yt"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["Yt", "shape"], ["y"]),
        helper.make_node("LayerNormalization", ["y", "norm"], ["n"], axis=-1),
        helper.make_node("ReduceMean", ["n", "zero"], ["m"], keepdims=0),
        helper.make_node("Gemm", ["m", "out_w", "bias"], ["g"], transB=1),
        helper.make_node("Softmax", ["g"], ["p"], axis=-1),
    ]  # fmt: skip
    constants = {
        **ids, **two, "one": HEAD["one"], "at": np.array([2], np.int64), "bias": HEAD["bias"],
        "pair": np.array([2], np.int64), "units": np.array([H], np.int64),
        "norm": random_input(RNG, 2 * H), "out_w": random_input(RNG, 2, 2 * H),
    }  # fmt: skip
    data: bytes = model_of(nodes, {"ids": ("i", ["T", "B"])}, ["p"], constants).SerializeToString()
    return data


SMALL = {
    "gru": gru_model(WEIGHTS, h_0=True, lengths=True).SerializeToString(),
    "model": larger_model(),
}


@pytest.mark.parametrize("name", SMALL)
def test_the_files_to_be_damaged_are_sound(name: str, path: Path) -> None:
    """Else the tests below would show nothing."""
    assert outcome(path, SMALL[name]) == ""


@pytest.mark.parametrize("name", SMALL)
def test_every_cut(name: str, path: Path) -> None:
    """A file that ends anywhere."""
    data = SMALL[name]
    for end in range(0, len(data), 1 if name == "gru" else 3):
        assert outcome(path, data[:end])


@hypothesis.given(
    name=st.sampled_from(list(SMALL)),
    changes=st.lists(
        st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=4
    ),
    cut=st.integers(0, 3),
)
@hypothesis.settings(
    max_examples=500, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_changed_bytes(path: Path, name: str, changes: list[tuple[int, int]], cut: int) -> None:
    """In names, types, shapes and data."""
    data = bytearray(SMALL[name])
    for where, value in changes:
        data[where % len(data)] = value
        del data[where % len(data) : where % len(data) + cut]
    outcome(path, bytes(data))


@hypothesis.given(data=st.data())
@hypothesis.settings(
    max_examples=300, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_changed_graphs(path: Path, data: st.DataObject) -> None:
    """Sound protobuf, senseless graphs: other operations, inputs, attributes and constants."""
    model = onnx.ModelProto.FromString(SMALL["model"])
    nodes, tensors = model.graph.node, model.graph.initializer
    names = sorted({name for n in nodes for name in (*n.input, *n.output)} | {"", "nowhere"})
    integers = st.sampled_from([-(2**63), -7, -2, -1, 0, 1, 2, 3, 5, 2**31, 2**63 - 1])
    for _ in range(data.draw(st.integers(1, 3))):
        target = data.draw(st.sampled_from(range(len(nodes))))
        kind = data.draw(st.sampled_from(["op", "input", "attribute", "constant", "drop"]))
        if kind == "op":
            nodes[target].op_type = data.draw(st.sampled_from(OPERATIONS))
        elif kind == "input" and nodes[target].input:
            at = data.draw(st.sampled_from(range(len(nodes[target].input))))
            nodes[target].input[at] = data.draw(st.sampled_from(names))
        elif kind == "drop" and nodes[target].input:
            del nodes[target].input[-1]
        elif kind == "attribute":
            name = data.draw(st.sampled_from(ATTRIBUTES))
            value = data.draw(st.one_of(integers, st.lists(integers, max_size=4), st.just("x")))
            nodes[target].attribute.append(
                helper.make_attribute(name, value, attr_type=onnx.AttributeProto.INTS)
                if isinstance(value, list)
                else helper.make_attribute(name, value)
            )
        else:
            small = [tensor for tensor in tensors if tensor.data_type == TensorProto.INT64]
            tensor = data.draw(st.sampled_from(small))
            values = data.draw(st.lists(integers, max_size=4))
            tensor.CopyFrom(
                helper.make_tensor(tensor.name, TensorProto.INT64, [len(values)], values)
            )
    outcome(path, model.SerializeToString())


OPERATIONS = (
    "Add", "Cast", "Concat", "ConstantOfShape", "Constant", "Div", "Dropout", "Equal", "Expand",
    "Flatten", "GRU", "Gather", "Gemm", "Identity", "LayerNormalization", "LogSoftmax", "MatMul",
    "Mul", "OneHot", "Pow", "Range", "ReduceMax", "ReduceMean", "Relu", "Reshape", "Shape",
    "Sigmoid", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Tanh", "Transpose",
    "Unsqueeze", "Where",
)  # fmt: skip
ATTRIBUTES = (
    "axis", "axes", "perm", "starts", "ends", "keepdims", "direction", "layout", "hidden_size",
    "to", "allowzero", "transB", "start", "end", "value", "value_ints", "split", "epsilon",
)  # fmt: skip


# ---- known by content ----


def test_onnx_files_are_known_by_their_first_bytes() -> None:
    """`load` asks; what other programs write first, and any head that is long enough."""
    named = gru_model(WEIGHTS)
    named.producer_name, named.producer_version = "pytorch", "2.13.0"
    named.doc_string, named.domain, named.model_version = "a model", "org.example", 3
    for data in (*SMALL.values(), named.SerializeToString()):
        for length in (16, 64, 512, len(data)):
            assert looks_like_onnx(data[:length]), length


@hypothesis.given(data=st.binary(max_size=200), start=st.sampled_from([b"", b"\x08", b"\x08\x07"]))
@hypothesis.settings(max_examples=500)
def test_junk_is_not_taken_for_onnx(data: bytes, start: bytes) -> None:
    """It must get `load`'s own message; what looks like ONNX has a graph right after texts."""
    if looks_like_onnx(start + data):
        head = start + data
        assert head[0] == 8
        assert head[2] in (0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A)


def test_other_files_are_not_taken_for_onnx() -> None:
    """What `load` reads, and a file of the same letters."""
    heads = (b"", b"\x08", b"PK\x03\x04" + bytes(30), b"\x80\x02}q\x00.", b"\x89HDF\r\n\x1a\n")
    for head in (*heads, b"\x93NUMPY\x01\x00", b'\x08\x00\x00\x00\x00\x00\x00\x00{"a":1}'):
        assert not looks_like_onnx(head)
    rng = np.random.default_rng(1)
    junk = rng.integers(0, 256, (20_000, 64), np.uint8)
    junk[:, 0] = 8
    assert sum(looks_like_onnx(row.tobytes()) for row in junk) <= 10  # here none or one


def test_many_failures_are_one_error(path: Path) -> None:
    """5,000 nodes that all fail: a dozen are listed."""
    nodes = [node("Erf", "y", out=f"a{n}") for n in range(5000)]
    model = chain(*nodes, node("Concat", *(f"a{n}" for n in range(5000)), axis=0))
    assert "12 problems" in outcome(path, model.SerializeToString())


@pytest.mark.parametrize("candidate", ["Affine", "ScaledTanh"])
def test_activations_whose_numbers_are_not_agreed_upon(candidate: str) -> None:
    """ONNX's specification and ONNX Runtime have other defaults: the file has to give them."""
    weights = gru_weights(np.random.default_rng(0), I, H)
    activations = ["Sigmoid", candidate]
    assert candidate.lower() in refused(gru_model(weights, activations=activations)).lower()
    numbers: dict[str, Any] = {
        "activation_alpha": [1.0],
        "activation_beta": [0.0 if candidate == "Affine" else 1.0],
    }
    fastgru.from_onnx(gru_model(weights, activations=activations, **numbers))


@pytest.mark.parametrize("narrow", [TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16])
def test_indices_that_are_made_narrow(narrow: int) -> None:
    """They would wrap round."""
    nodes = [
        helper.make_node("Cast", ["x"], ["narrow"], to=narrow),
        helper.make_node("Cast", ["narrow"], ["wide"], to=TensorProto.INT64),
        helper.make_node("Gather", ["E", "wide"], ["out"]),
    ]
    table = {"E": np.zeros((200, 3), np.float32)}
    assert "may not fit" in refused(model_of(nodes, {"x": ("i", ["T", "B"])}, ["out"], table))
