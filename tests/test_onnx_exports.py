"""What both of PyTorch's exporters write loads and matches ONNX Runtime and PyTorch.

Each module is exported once for a session: the newer exporter takes a second for one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxscript", reason="onnxscript, of torch's newer exporter, is not installed")

import torch
from torch import nn

import fastgru
from conftest import Array, same_bits
from onnx_models import assert_near, onnxruntime_run

T, B, I, H, N = 6, 3, 5, 8, 11  # noqa: E741


class Bare(nn.Module):
    """A GRU alone, as torch has it: output and h_n, with h_0 as a second input or without."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.rnn = nn.GRU(I, H, **options)

    def forward(self, x: Any, h_0: Any = None) -> Any:
        return self.rnn(x, h_0)


class Words(nn.Module):
    """Embedding, GRU, the last state by h_n, Linear, Softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(N, I)
        self.rnn = nn.GRU(I, H, num_layers=2, batch_first=True, dropout=0.5)
        self.head = nn.Linear(H, 4)

    def forward(self, x: Any) -> Any:
        _, h_n = self.rnn(self.table(x))
        return torch.softmax(self.head(h_n[-1]), -1)


class Tagger(nn.Module):
    """A bidirectional GRU, LayerNorm, ReLU, Linear, LogSoftmax: a result for each step."""

    def __init__(self, affine: bool = True) -> None:
        super().__init__()
        self.rnn = nn.GRU(I, H, bidirectional=True, batch_first=True)
        self.norm = nn.LayerNorm(2 * H, elementwise_affine=affine)
        self.head = nn.Linear(2 * H, 4, bias=affine)
        if affine:  # as training leaves them
            self.norm.weight.data = torch.randn(2 * H)
            self.norm.bias.data = torch.randn(2 * H)

    def forward(self, x: Any) -> Any:
        output, _ = self.rnn(x)
        return torch.log_softmax(self.head(torch.relu(self.norm(output))), -1)


class Mask(nn.Module):
    """Two GRUs of different sizes and a sigmoid mask: a noise suppressor's shape."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.GRU(I, H), nn.GRU(H, 5)
        self.dense, self.head = nn.Linear(I, I), nn.Linear(5, 9)

    def forward(self, x: Any) -> Any:
        x, _ = self.first(torch.tanh(self.dense(x)))
        x, _ = self.second(x)
        return torch.sigmoid(self.head(x))


class Characters(nn.Module):
    """One-hot characters, time first."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(N, H), nn.Linear(H, N)

    def forward(self, x: Any) -> Any:
        return self.head(self.rnn(nn.functional.one_hot(x, N).float())[0])


class Pooled(nn.Module):
    """A GRU of two layers and directions, time first, and a way to one row of it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.rnn = nn.GRU(I, H, num_layers=2, bidirectional=True)
        self.head, self.how = nn.Linear(2 * H, 4), how

    def forward(self, x: Any) -> Any:
        output, h_n = self.rnn(x)
        if self.how == "flattened":
            flat = self.head(output.reshape(-1, 2 * H))
            return flat.view(-1, x.shape[1], 4)
        rows: dict[str, Callable[[], Any]] = {
            "mean": lambda: output.mean(0),
            "max": lambda: output.max(0).values,
            "amax": lambda: output.amax(0),
            "last": lambda: output[-1],
            "first": lambda: output[0],
            "flipped": lambda: output.flip(0)[-1],
            "joined": lambda: torch.cat([h_n[-2], h_n[-1]], -1),
            "of the first layer": lambda: torch.cat((h_n[0], h_n[1]), 1),
            "viewed": lambda: h_n.view(2, 2, -1, H)[-1].transpose(0, 1).reshape(x.shape[1], 2 * H),
            "sliced": lambda: h_n[-2:].permute(1, 0, 2).flatten(1),
        }
        return self.head(rows[self.how]())


POOLS = (
    "mean", "max", "amax", "last", "first", "flipped", "joined", "of the first layer", "viewed",
    "sliced", "flattened",
)  # fmt: skip
GRUS: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch_first": {"batch_first": True},
    "bidirectional": {"bidirectional": True},
    "two layers": {"num_layers": 2},
    "no bias": {"bias": False},
    "all": {"num_layers": 2, "bidirectional": True, "batch_first": True, "bias": False},
}
MODELS: dict[str, Callable[[], Any]] = {
    "words": Words,
    "tagger": Tagger,
    "plain norm": partial(Tagger, affine=False),
    "mask": Mask,
    "characters": Characters,
    **{how: partial(Pooled, how) for how in POOLS},
}


class Exported(NamedTuple):
    path: str
    module: Any
    x: Array
    h_0: Array | None


EXPORTS: dict[tuple[Any, ...], Exported] = {}


def export(
    folder: Path,
    name: str,
    *,
    dynamo: bool,
    dynamic: bool = True,
    opset: int | None = None,
    with_h_0: bool = False,
) -> Exported:
    """A module of GRUS or MODELS, made and exported once."""
    key = name, dynamo, dynamic, opset, with_h_0
    if key in EXPORTS:
        return EXPORTS[key]
    torch.manual_seed(0)
    module = (Bare(**GRUS[name]) if name in GRUS else MODELS[name]()).eval()
    is_indices = name in ("words", "characters")
    batch_first = name in ("words", "tagger", "plain norm", "batch_first", "all")
    shape = (B, T) if batch_first else (T, B)
    x = torch.randint(0, N, shape) if is_indices else torch.randn(*shape, I)
    arguments = [x]
    if with_h_0:
        states = module.rnn.num_layers * (2 if module.rnn.bidirectional else 1)
        arguments.append(torch.rand(states, B, H) * 2 - 1)
    path = str(folder / f"{len(EXPORTS)}.onnx")
    options: dict[str, Any] = {"dynamo": dynamo, "opset_version": opset}
    axes = [{0: "first", 1: "second"}, {1: "rows"}][: len(arguments)]
    if dynamo and dynamic:
        auto = torch.export.Dim.AUTO
        options["dynamic_shapes"] = tuple(dict.fromkeys(names, auto) for names in axes)
    elif not dynamo:
        options["input_names"] = ["x", "h_0"][: len(arguments)]
        options["dynamic_axes"] = dict(zip(("x", "h_0"), axes, strict=False)) if dynamic else None
    if dynamo:
        options["verbose"] = False
    with warnings.catch_warnings():  # of the exporters about themselves, nothing of fastgru's
        warnings.simplefilter("ignore")
        torch.onnx.export(module, tuple(arguments), path, **options)
    arrays = [argument.numpy() for argument in arguments]
    EXPORTS[key] = Exported(path, module, arrays[0], arrays[1] if with_h_0 else None)
    return EXPORTS[key]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


def run(loaded: fastgru.GRU | fastgru.Model, x: Array, h_0: Array | None) -> list[Array]:
    return list(loaded(x, h_0)) if isinstance(loaded, fastgru.GRU) else [loaded(x)]


def in_torch(exported: Exported, x: Array, h_0: Array | None) -> list[Array]:
    with torch.no_grad():
        given = [torch.from_numpy(array) for array in (x, h_0) if array is not None]
        result = exported.module(*given)
    results = result if isinstance(result, tuple) else (result,)
    return [item.numpy() for item in results]


def check(exported: Exported, isa: str | None = None) -> fastgru.GRU | fastgru.Model:
    """As ONNX Runtime on the example's shape, as PyTorch on others, which any graph takes here."""
    loaded: fastgru.GRU | fastgru.Model = fastgru.from_onnx(exported.path, isa=isa)
    x, h_0 = exported.x, exported.h_0
    feeds = dict(zip(input_names(exported.path), (x, h_0), strict=False))
    expected = onnxruntime_run(exported.path, {k: v for k, v in feeds.items() if v is not None})
    for result, wanted in zip(run(loaded, x, h_0), expected, strict=True):
        assert_near(result, wanted)
    x = np.ascontiguousarray(np.concatenate([x, x[::-1]], 0)[:, :2])  # other sizes of T and of B
    if h_0 is not None:
        rows = len(x) if loaded.batch_first else 2
        h_0 = np.resize(h_0, (len(h_0), rows, H))
    for result, wanted in zip(run(loaded, x, h_0), in_torch(exported, x, h_0), strict=True):
        assert_near(result, wanted)
    return loaded


def input_names(path: str) -> list[str]:
    import onnx  # noqa: PLC0415

    return [item.name for item in onnx.load(path, load_external_data=False).graph.input]


# With the newer exporter each module once, since it takes a second or two: half of them with sizes
# of T and B that are fixed.
FIXED = ("batch_first", "no bias", "last", "flattened", "mask")
NEWER_POOLS = ("mean", "max", "joined", "viewed", "last", "flattened")


def cases(names: Iterable[str]) -> list[Any]:
    found = []
    for name in names:
        for dynamic in (False, True):
            label = f"{name}-{'dynamic' if dynamic else 'fixed'}"
            found.append(pytest.param(name, False, dynamic, id=f"{label}-older"))
            if dynamic != (name in FIXED) and (name not in POOLS or name in NEWER_POOLS):
                found.append(pytest.param(name, True, dynamic, id=f"{label}-newer"))
    return found


@pytest.mark.parametrize(("name", "dynamo", "dynamic"), cases(GRUS))
def test_a_gru_alone(name: str, dynamo: bool, dynamic: bool, folder: Path) -> None:
    """Comes back as a GRU with all its layers, and takes and gives what torch.nn.GRU does."""
    exported = export(folder, name, dynamo=dynamo, dynamic=dynamic)
    loaded = check(exported)
    assert isinstance(loaded, fastgru.GRU)
    rnn = exported.module.rnn
    for attribute in ("input_size", "hidden_size", "num_layers", "bidirectional", "bias"):
        assert getattr(loaded, attribute) == getattr(rnn, attribute), attribute
    assert (loaded.batch_first, loaded.reset_after) == (rnn.batch_first, True)


@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "dynamic"])
@pytest.mark.parametrize("name", GRUS)
def test_initial_states_are_an_input(name: str, dynamic: bool, folder: Path) -> None:
    """h_0 (L*D, B, H) of a call, for the older exporter."""
    check(export(folder, name, dynamo=False, dynamic=dynamic, with_h_0=True))


@pytest.mark.parametrize("name", ["plain", "all"])
def test_initial_states_by_the_newer_exporter(name: str, folder: Path) -> None:
    """Which cuts h_0 into rows even where there is one layer."""
    check(export(folder, name, dynamo=True, with_h_0=True))


@pytest.mark.parametrize(("name", "dynamo", "dynamic"), cases(MODELS))
def test_a_model(name: str, dynamo: bool, dynamic: bool, folder: Path) -> None:
    """Comes back as a Model with the layers that the module has."""
    loaded = check(export(folder, name, dynamo=dynamo, dynamic=dynamic))
    assert isinstance(loaded, fastgru.Model)
    kinds = [type(layer).__name__ for layer in loaded.layers]
    expected = {
        "words": ["Embedding", "GRU", "Last", "Linear", "Softmax"],
        "tagger": ["GRU", "LayerNorm", "ReLU", "Linear", "LogSoftmax"],
        "plain norm": ["GRU", "LayerNorm", "ReLU", "Linear", "LogSoftmax"],
        "mask": ["Linear", "Tanh", "GRU", "GRU", "Linear", "Sigmoid"],
        "characters": ["OneHot", "GRU", "Linear"],
        "mean": ["GRU", "Mean", "Linear"],
        "max": ["GRU", "Max", "Linear"],
        "flattened": ["GRU", "Linear"],
        "first": ["GRU", "Reverse", "Last", "Linear"],
        "flipped": ["GRU", "Reverse", "Last", "Linear"],
    }
    assert kinds == expected.get(name, kinds)
    gru = next(layer for layer in loaded.layers if isinstance(layer, fastgru.GRU))
    if name in POOLS:
        assert gru.num_layers == (1 if name == "of the first layer" else 2)


@pytest.mark.parametrize("opset", [9, 11, 13, 14, 17, 18, 20])
@pytest.mark.parametrize("name", ["all", "words", "tagger", "mean", "max", "joined"])
def test_opsets_of_the_older_exporter(name: str, opset: int, folder: Path) -> None:
    """Axes as attributes and as inputs, norms written out and as one node."""
    check(export(folder, name, dynamo=False, opset=opset))


@pytest.mark.parametrize("opset", [18, 21])
def test_opsets_of_the_newer_exporter(opset: int, folder: Path) -> None:
    """From 18 on."""
    check(export(folder, "tagger", dynamo=True, opset=opset))


@pytest.mark.parametrize("name", ["all", "words", "tagger", "characters"])
def test_every_isa(name: str, isa: str, folder: Path) -> None:
    """Every layer takes the ISA that is asked for."""
    for dynamo in (False, True):
        check(export(folder, name, dynamo=dynamo), isa)


@pytest.mark.parametrize(("name", "dynamo", "dynamic"), cases([*GRUS, *MODELS]))
def test_saved_and_loaded_again(
    name: str, dynamo: bool, dynamic: bool, folder: Path, tmp_path: Path
) -> None:
    """Whatever loads can be saved as a native file and gives the same bits."""
    exported = export(folder, name, dynamo=dynamo, dynamic=dynamic)
    loaded = fastgru.from_onnx(exported.path)
    loaded.save(tmp_path / "model.safetensors")
    again = fastgru.load(tmp_path / "model.safetensors")
    for a, b in zip(run(loaded, exported.x, None), run(again, exported.x, None), strict=True):
        assert same_bits(a, b)


@pytest.mark.parametrize("dynamo", [False, True], ids=["older", "newer"])
def test_large_weights(dynamo: bool, tmp_path: Path) -> None:
    """The newer exporter writes them beside the file, and leaves it to the reader to reorder them.

    More than 2**18 numbers in a tensor, from where on its optimizer does not calculate.
    """
    torch.manual_seed(1)
    module = nn.GRU(64, 300, num_layers=2, bidirectional=True, batch_first=True).eval()
    x = torch.randn(2, 4, 64)
    path = str(tmp_path / "large.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (x,), path, dynamo=dynamo)
    for result, wanted in zip(
        fastgru.from_onnx(path)(x), onnxruntime_run(path, {input_names(path)[0]: x.numpy()}),
        strict=True,
    ):  # fmt: skip
        assert_near(result, wanted)


def test_unbatched_sequences(tmp_path: Path) -> None:
    """(T, I), to which torch adds an axis and takes it away again."""
    torch.manual_seed(2)
    module = nn.GRU(I, H, num_layers=2).eval()
    x = torch.randn(T, I)
    for dynamo in (False, True):
        path = str(tmp_path / f"{dynamo}.onnx")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(module, (x,), path, dynamo=dynamo)
        expected = onnxruntime_run(path, {input_names(path)[0]: x.numpy()})
        for result, wanted in zip(fastgru.from_onnx(path)(x), expected, strict=True):
            assert_near(result, wanted)


def test_packed_sequences_become_lengths(tmp_path: Path) -> None:
    """pack_padded_sequence is sequence_lens in the graph, and lengths= of a call.

    ONNX Runtime does not run this export: the older exporter makes the initial state of T rows.
    """

    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(I, H, bidirectional=True, batch_first=True)
            self.head = nn.Linear(2 * H, 4)

        def forward(self, x: Any, lengths: Any) -> Any:
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
            output, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
            return self.head(output)

    torch.manual_seed(3)
    module = Packed().eval()
    x, lengths = torch.randn(B, T, I), torch.tensor([T, 4, 1])
    path = str(tmp_path / "packed.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (x, lengths),
            path,
            dynamo=False,
            input_names=["x", "lengths"],
            dynamic_axes={"x": {0: "B", 1: "T"}, "lengths": {0: "B"}},
        )
    model = fastgru.from_onnx(path)
    assert [type(layer).__name__ for layer in model.layers] == ["GRU", "Linear"]
    with torch.no_grad():
        assert_near(model(x, lengths=lengths), module(x, lengths).numpy())
