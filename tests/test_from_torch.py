"""`fastgru.from_torch`: a module that is a chain of layers becomes a Model with its numbers.

Each way of writing such a forward is one of chain_modules.py; what is refused is in
test_from_torch_refusals.py.
"""

from __future__ import annotations

import copy
import importlib.util
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastgru
from conftest import SUPPORTED_ISAS, Array, run_python, same_bits

pytest.importorskip("torch", reason="PyTorch is not installed")

import torch
from torch import nn

from chain_modules import SMALL, H, I, O, V

EXAMPLE = Path(__file__).resolve().parent.parent / "examples/export/modules.py"
FIVE = ["SequenceClassifier", "Tagger", "Forecaster", "TextClassifier", "SpeechMask"]
MOST = 1e-5  # the promise of export; all of these are some 1e-7, rounding
LAYERS = {
    "SequenceClassifier": ["GRU", "Last", "LayerNorm", "Linear"],
    "Tagger": ["Embedding", "GRU", "Linear", "LogSoftmax"],
    "Forecaster": ["GRU", "Last", "Linear", "ReLU", "Linear"],
    "TextClassifier": ["Embedding", "GRU", "Last", "Linear"],
    "SpeechMask": ["Linear", "Tanh", "GRU", "GRU", "Linear", "Sigmoid"],
}


@pytest.fixture(scope="module")
def modules() -> ModuleType:
    if not EXAMPLE.exists():
        pytest.skip("the examples are not beside the tests")
    spec = importlib.util.spec_from_file_location("export_modules", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def kinds(model: fastgru.Model) -> list[str]:
    return [type(layer).__name__ for layer in model.layers]


def example_input(model: fastgru.Model, steps: int, batch: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    shape = (batch, steps) if model.batch_first else (steps, batch)
    first = model[0]
    if isinstance(first, fastgru.Embedding):
        return rng.integers(0, first.num_embeddings, shape)
    if isinstance(first, fastgru.OneHot):
        return rng.integers(0, first.num_classes, shape)
    return rng.standard_normal((*shape, model.input_size or 1)).astype(np.float32)


def error_of(module: nn.Module, model: fastgru.Model, x: Array, *lengths: Any) -> float:
    """The largest difference, by hand: nothing here is what from_torch itself compares with."""
    with torch.no_grad():
        theirs: Array = module.eval()(torch.from_numpy(x), *map(torch.tensor, lengths)).numpy()
    ours = model(x, **({"lengths": lengths[0]} if lengths else {}))
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max())


# ---- the five typical modules ----


@pytest.mark.parametrize("name", FIVE)
def test_typical_modules(name: str, modules: ModuleType, tmp_path: Path) -> None:
    """One line to export, one to load; at most 1e-5 from the module, and the same bits again."""
    torch.manual_seed(0)
    module, path = getattr(modules, name)(), tmp_path / "model.safetensors"

    fastgru.from_torch(module).save(path)
    model = fastgru.load(path)

    assert kinds(model) == LAYERS[name]
    assert fastgru.max_error(module, model) <= MOST
    x = example_input(model, 31, 6)
    lengths = [[31, 4, 1, 17, 30, 2]] if name == "TextClassifier" else []
    assert error_of(module, model, x, *lengths) <= MOST
    assert same_bits(model(x), fastgru.from_torch(module)(x))
    assert all(f"{word}(" in repr(model) for word in LAYERS[name])


def test_the_example(modules: ModuleType, tmp_path: Path) -> None:
    """The program beside the modules, as its README calls it."""
    command = [sys.executable, str(EXAMPLE.with_name("export.py")), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [Path(line.split(":")[0]).stem for line in lines] == FIVE
    assert all(float(line.split()[-1]) <= MOST for line in lines)
    assert sorted(path.stem for path in (tmp_path / "out").iterdir()) == sorted(FIVE)


def test_loading_needs_no_torch(modules: ModuleType, tmp_path: Path) -> None:
    """In a process in which torch cannot be imported."""
    expected = {}
    for name in FIVE:
        model = fastgru.from_torch(getattr(modules, name)())
        model.save(tmp_path / f"{name}.safetensors")
        x = example_input(model, 9, 3)
        np.save(tmp_path / f"{name}.npy", x)
        expected[name] = model(x)
    code = f"""
import sys
sys.modules["torch"] = None
import numpy as np, fastgru
for name in {FIVE}:
    path = {str(tmp_path)!r} + "/" + name
    np.save(path + ".out.npy", fastgru.load(path + ".safetensors")(np.load(path + ".npy")))
print("done")
"""
    done = run_python(code)
    assert done.stdout == "done\n", done.stderr
    for name in FIVE:
        assert same_bits(np.load(tmp_path / f"{name}.out.npy"), expected[name])


def test_importing_fastgru_does_not_import_torch() -> None:
    """from_torch is there, torch is not, until it is used."""
    done = run_python("import sys, fastgru; fastgru.from_torch; print('torch' in sys.modules)")
    assert done.stdout == "False\n", done.stderr


@pytest.mark.parametrize("name", ["Tagger", "SequenceClassifier", "SpeechMask", "Forecaster"])
def test_streams(name: str, modules: ModuleType) -> None:
    """Those that only run forwards step through a sequence with the bits of the whole."""
    model = fastgru.from_torch(getattr(modules, name)())
    if name == "Tagger":
        with pytest.raises(ValueError, match="reverse direction"):
            model.stream()
        return
    x = example_input(model, 7, 2)
    stream, whole = model.stream(batch_size=2), model(x)
    for step in range(7):
        y = stream.step(x[:, step] if model.batch_first else x[step])
    assert same_bits(y, whole[:, -1] if whole.ndim == 3 else whole)


# ---- ways of writing a forward ----


@pytest.mark.parametrize("name", SMALL)
def test_ways_of_writing_it(name: str) -> None:
    """Each gives the module's numbers and shapes, for several T and B."""
    torch.manual_seed(1)
    module = SMALL[name]()
    model = fastgru.from_torch(module)
    assert fastgru.max_error(module, model) <= MOST
    for steps, batch in ((1, 1), (6, 2), (2, 6)):
        x = example_input(model, steps, batch)
        lengths = [[steps, *range(1, batch)][:batch]] if name.startswith("packed") else []
        if "sorted" in name:
            lengths = [[steps] * batch]
        if lengths and max(lengths[0]) > steps:
            continue
        assert error_of(module, model, x, *lengths) <= MOST


def test_layouts_follow_the_input() -> None:
    """Where GRUs differ in batch_first, all take that of x, with the same numbers."""
    model = fastgru.from_torch(SMALL["two layouts"]())
    assert model.batch_first
    assert not fastgru.from_torch(SMALL["output[-1]"]()).batch_first
    assert [layer.batch_first for layer in model.layers if isinstance(layer, fastgru.GRU)] == [
        True,
        True,
    ]


def test_lengths_of_packed_sequences() -> None:
    """lengths= are forward's second input; the result keeps x's T where torch's is cut."""
    module = SMALL["packed"]()
    model = fastgru.from_torch(module)
    x, lengths = example_input(model, 9, 4), [3, 7, 1, 2]
    with torch.no_grad():
        theirs = module(torch.from_numpy(x), torch.tensor(lengths)).numpy()
    ours = model(x, lengths=lengths)
    assert (theirs.shape, ours.shape) == ((4, 7, O), (4, 9, O))
    assert np.abs(ours[:, :7] - theirs).max() <= MOST


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_module_stays_as_it_is(mode: str) -> None:
    """Training flags, parameters, buffers, attributes and the random numbers of the process."""
    module = nn.Sequential(SMALL["functional"](), nn.Dropout(0.5))
    getattr(module, mode)()
    module[1].eval()
    before = copy.deepcopy(module.state_dict())
    pointers = [p.data_ptr() for p in module.parameters()]
    flags = [part.training for part in module.modules()]
    names = [sorted(vars(part)) for part in module.modules()]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    fastgru.max_error(module, fastgru.from_torch(module))
    assert torch.equal(torch.get_rng_state(), state)
    assert [part.training for part in module.modules()] == flags
    assert [p.data_ptr() for p in module.parameters()] == pointers
    assert all(p.requires_grad and p.grad is None for p in module.parameters())
    assert [sorted(vars(part)) for part in module.modules()] == names
    after = module.state_dict()
    assert all(same_tensors(after[name], tensor) for name, tensor in before.items())
    assert torch.zeros(2).shape == (2,)
    assert torch.zeros.__name__ == "zeros"
    assert not hasattr(torch.zeros, "__wrapped__")


def test_other_threads() -> None:
    """Modules run in other threads, and are exported there, while one is traced."""
    modules = [SMALL["packed state"](), SMALL["cat h_n"](), SMALL["parametrized"]()]
    served = nn.Sequential(SMALL["h_n[-1]"](), nn.Softmax(-1)).eval()
    x = torch.randn(3, 7, I, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = served(x)
    call = nn.Module.__call__
    done = threading.Event()
    wrong: list[object] = []

    def serve() -> None:
        try:
            while not done.is_set():
                with torch.no_grad():
                    y = served(x)
                if not (isinstance(y, torch.Tensor) and torch.equal(y, expected)):
                    wrong.append(y)
        except Exception as error:
            wrong.append(error)

    def export(module: nn.Module) -> None:
        try:
            for _ in range(10):
                fastgru.from_torch(module)
        except Exception as error:
            wrong.append(error)

    server = threading.Thread(target=serve)
    exports = [threading.Thread(target=export, args=(module,)) for module in modules]
    for thread in (server, *exports):
        thread.start()
    for thread in exports:
        thread.join()
    done.set()
    server.join()
    assert not wrong
    assert nn.Module.__call__ is call


def test_buffers_that_forward_changes() -> None:
    """A forward that counts its calls counts in the copy."""

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(I, H)
            self.calls: torch.Tensor
            self.register_buffer("calls", torch.zeros(1))
            self.last: Any = None

        def forward(self, x: Any) -> Any:
            self.calls += 1
            self.last, _ = self.gru(x)
            return self.last

    module = Counting()
    fastgru.max_error(module, fastgru.from_torch(module))
    assert module.last is None
    assert module.calls.item() == 0


def test_an_embedding_that_renews_its_weight() -> None:
    """max_norm changes the weight of the embedding that is called: not the caller's."""
    module = nn.Embedding(9, 4, max_norm=0.1)
    before = module.weight.detach().clone()
    model = fastgru.Model([fastgru.Embedding(before)])
    fastgru.max_error(module, model)
    assert torch.equal(module.weight, before)


def test_a_state_that_is_kept_between_calls() -> None:
    """The numbers of the first call are a Model's, those of the second one are not."""

    class Stateful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(I, H, batch_first=True)
            self.state: Any = None

        def forward(self, x: Any) -> Any:
            if self.state is None or self.state.size(1) != x.size(0):
                self.state = torch.zeros(1, x.size(0), H)
            output, state = self.gru(x, self.state)
            self.state = state.detach()
            return output

    with pytest.raises(fastgru.UnsupportedLayerError, match="from one call to the next"):
        fastgru.from_torch(Stateful())


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_dtypes(dtype: str) -> None:
    """Parameters of other dtypes are widened or rounded to float32, in copies."""
    module = SMALL["h_n[-1]"]().to(getattr(torch, dtype))
    assert fastgru.max_error(module, fastgru.from_torch(module)) <= MOST
    assert all(str(p.dtype) == f"torch.{dtype}" for p in module.parameters())


def test_options(isa: str) -> None:
    """precision, num_threads and isa, as of GRU.from_torch; the check is done in float32."""
    module = SMALL["cat h_n"]()
    model = fastgru.from_torch(module, precision="int8", num_threads=1, isa=isa)
    gru, head = model[0], model[2]
    assert isinstance(gru, fastgru.GRU)
    assert (gru.precision, gru.isa, model.num_threads) == ("int8", isa, 1)
    assert head._isa == isa  # type: ignore[union-attr]
    assert MOST < fastgru.max_error(module, model) < 0.1
    with pytest.raises(ValueError, match="precision: expected 'float32'"):
        fastgru.from_torch(module, precision="float16")
    with pytest.raises(ValueError, match="num_threads"):
        fastgru.from_torch(module, num_threads=0)
    with pytest.raises(ValueError, match="isa"):
        fastgru.from_torch(module, isa="avx1024")


def test_compiled_modules() -> None:
    """What torch.compile gives stands for the module inside."""
    module = SMALL["h_n[-1]"]()
    compiled = torch.compile(module, backend="eager")
    assert fastgru.max_error(compiled, fastgru.from_torch(compiled)) <= MOST


# ---- max_error ----


def test_max_error_is_an_error() -> None:
    """Of another module, NaN, infinities, and of larger outputs relative to them."""
    module = SMALL["h_n[-1]"]()
    model = fastgru.from_torch(module)
    other: Any = copy.deepcopy(module)
    with torch.no_grad():
        other.head.bias[1] += 0.25
    assert abs(fastgru.max_error(other, model) - 0.25) < 1e-5
    with torch.no_grad():
        other.head.bias += 1e6
    assert 0.99 < fastgru.max_error(other, model) < 1.01
    with torch.no_grad():
        other.head.bias[1] = np.nan
    assert fastgru.max_error(other, model) == np.inf
    assert fastgru.max_error(other, fastgru.from_torch(other)) <= MOST
    with torch.no_grad():
        other.head.bias[1] = np.inf
    assert fastgru.max_error(other, fastgru.from_torch(other)) <= MOST
    with pytest.raises(fastgru.UnsupportedLayerError, match=r"the module gives .* the Model"):
        fastgru.max_error(SMALL["torch.zeros"](), model)
    with pytest.raises(TypeError, match="model: expected a Model"):
        fastgru.max_error(module, module)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"module: expected a torch\.nn\.Module"):
        fastgru.max_error(model, model)


def test_rounding_is_no_other_function() -> None:
    """Where the module itself is far from exact, it exports; max_error says how far they are."""
    module: Any = SMALL["norm"]()
    module.head = nn.Sequential(nn.Linear(H, H), nn.LayerNorm(H, eps=1e-12))
    with torch.no_grad():
        module.head[0].weight *= 1e-4
        module.head[0].bias[:] = 100
    before = copy.deepcopy(module.state_dict())
    model = fastgru.from_torch(module)
    assert fastgru.max_error(module, model) > 1e-4
    after = module.state_dict()
    assert all(same_tensors(after[name], tensor) for name, tensor in before.items())


def same_tensors(a: Any, b: Any) -> bool:
    return bool(a.dtype == b.dtype and torch.equal(a, b))


# ---- any chain ----

Part = tuple[str, Any]


@st.composite
def chains(draw: st.DrawFn) -> tuple[list[Part], bool, bool]:
    """Layers by name and what they need, whether x is indices, and batch_first."""
    words = draw(st.booleans())
    pointwise = st.sampled_from(["linear", "norm", "relu", "tanh", "sigmoid", "softmax", "dropout"])
    layers: list[Part] = [(name, None) for name in draw(st.lists(pointwise, max_size=2))]
    for _ in range(draw(st.integers(1, 2))):
        options = (draw(st.integers(1, 2)), draw(st.booleans()), draw(st.booleans()))
        layers.append(("gru", options))
        layers += [(name, None) for name in draw(st.lists(pointwise, max_size=2))]
    ending = draw(st.sampled_from(["none", "last", "mean", "max", "state"]))
    if ending == "state":
        layers.append(("state", (draw(st.integers(1, 2)), draw(st.booleans()), True)))
    elif ending != "none":
        layers.append((ending, None))
    layers += [(name, None) for name in draw(st.lists(pointwise, max_size=3))]
    return layers, words, draw(st.booleans())


class Chain(nn.Module):
    def __init__(self, parts: list[Part], words: bool, batch_first: bool) -> None:
        super().__init__()
        self.names = [name for name, _ in parts]
        self.time = 1 if batch_first else 0
        size = I
        self.table = nn.Embedding(V, I) if words else None
        made: list[nn.Module] = []
        for name, options in parts:
            if name in ("gru", "state"):
                layers, both, bias = options
                made.append(nn.GRU(size, H, layers, bias, batch_first, bidirectional=both))
                size = H * (2 if both else 1)
            elif name == "linear":
                made.append(nn.Linear(size, O))
                size = O
            else:
                modules: dict[str, Callable[[], nn.Module]] = {
                    "norm": lambda size=size: nn.LayerNorm(size, eps=1e-2),  # type: ignore[misc]
                    "relu": nn.ReLU,
                    "tanh": nn.Tanh,
                    "sigmoid": nn.Sigmoid,
                    "softmax": lambda: nn.Softmax(-1),
                    "dropout": nn.Dropout,
                }
                made.append(modules.get(name, nn.Identity)())
        self.parts = nn.ModuleList(made)

    def forward(self, x: Any) -> Any:
        if self.table is not None:
            x = self.table(x)
        for name, part in zip(self.names, self.parts, strict=True):
            if name == "gru":
                x = part(x)[0]
            elif name == "state":
                _, h_n = part(x)
                both = part.bidirectional
                x = torch.cat([h_n[-2], h_n[-1]], -1) if both else h_n[-1]
            elif name == "last":
                x = x[:, -1] if self.time else x[-1]
            elif name == "mean":
                x = x.mean(self.time)
            elif name == "max":
                x = x.max(self.time)[0]
            else:
                x = part(x)
        return x


@given(chains(), st.integers(1, 9), st.integers(1, 4), st.sampled_from(SUPPORTED_ISAS), st.data())
def test_any_chain(
    chain: tuple[list[Part], bool, bool], steps: int, batch: int, isa: str, data: st.DataObject
) -> None:
    """Random layers in random order: the module's numbers, and the same bits from a file."""
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    module = Chain(*chain)
    model = fastgru.from_torch(module, isa=isa)
    x = example_input(model, steps, batch)
    with torch.no_grad():
        theirs: Array = module.eval()(torch.from_numpy(x)).numpy()
        exact = module.double()(torch.from_numpy(x if chain[1] else x.astype(np.float64))).numpy()
    y = model(x)
    assert y.shape == theirs.shape
    # norms of almost equal numbers make large errors of small ones, torch's too
    most = max(MOST, 4 * np.abs(theirs - exact).max(initial=0))
    assert np.abs(y - theirs).max(initial=0) <= most
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.safetensors"
        model.save(path)
        assert same_bits(fastgru.load(path, isa=isa)(x), y)
