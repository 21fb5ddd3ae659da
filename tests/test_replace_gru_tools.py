"""Tools that look into a model meet a replaced GRU: each works, or says what to do instead.

Never a program that holds one call's numbers as constants.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest

import fastgru

pytest.importorskip("torch", reason="PyTorch is not installed")

import torch
import torch.ao.quantization
import torch.utils.checkpoint
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

replace_gru = fastgru.torch.replace_gru

KINDS = ("GRU", "GRUCell")
X = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def replaced(kind: str) -> tuple[Any, Any]:
    """A model, and x for it."""
    torch.manual_seed(0)
    part: Any = getattr(nn, kind)(3, 4)
    x = X if kind == "GRU" else X[0]
    return replace_gru(nn.Sequential(part).eval()), x


def first(result: Any) -> Any:
    return result[0] if isinstance(result, tuple) else result


def stacked(net: Any, x: Any) -> Any:
    """An ensemble, whose models differ in their weights alone."""
    parameters, buffers = torch.func.stack_module_state([net, copy.deepcopy(net)])

    def call(parameters: Any, buffers: Any, x: Any) -> Any:
        return first(torch.func.functional_call(net, (parameters, buffers), (x,)))

    return torch.vmap(call, in_dims=(0, 0, None))(parameters, buffers, x)


untyped: Any = torch  # much of it has no types
ONNX: Any = io.BytesIO()
PROGRAMS: dict[str, Callable[[Any, Any], Any]] = {
    "jit.script": lambda net, x: torch.jit.script(net),
    "jit.script of a parent": lambda net, x: torch.jit.script(nn.Sequential(nn.ReLU(), net)),
    "jit.trace": torch.jit.trace,
    "export": lambda net, x: torch.export.export(net, (x,)),
    "strict export": lambda net, x: torch.export.export(net, (x,), strict=True),
    "onnx": lambda net, x: torch.onnx.export(net, (x,), ONNX, dynamo=True, verbose=False),
    "old onnx": lambda net, x: torch.onnx.export(net, (x,), ONNX, dynamo=False),
    "fx": lambda net, x: torch.fx.symbolic_trace(net),
    "make_fx": lambda net, x: make_fx(net)(x),
    "make_fx of fake tensors": lambda net, x: make_fx(net, tracing_mode="fake")(x),
    "vmap": lambda net, x: torch.vmap(lambda x: first(net(x)))(torch.stack([x, x])),
    "vmap of models": stacked,
    "functionalize": lambda net, x: torch.func.functionalize(lambda x: first(net(x)))(x),
}
# torch.compile refuses every nn.GRU in these words, replaced or not; a cell it takes.
WHOLE_GRAPH = {"GRU": "Attempted to wrap RNN, GRU, or LSTM", "GRUCell": "undo it first"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", list(PROGRAMS))
def test_programs_and_transforms(name: str, kind: str) -> None:
    """The error names the replaced module's kind and the remedy, which works."""
    net, x = replaced(kind)
    with torch.no_grad():
        expected = first(net(x))
        with pytest.raises(Exception, match=r"(?s)fastgru.*undo it.*replace_gru\(model\)"):
            PROGRAMS[name](net, x)
        assert torch.equal(first(net(x)), expected)  # and the model still runs
        replace_gru(net)
        if name == "jit.script":
            assert torch.allclose(first(torch.jit.script(net)(x)), expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_jit_script_raises_runtime_error(kind: str) -> None:
    """As tracing and exporting do."""
    net, _ = replaced(kind)
    with pytest.raises(RuntimeError, match=rf"^a {kind} replaced by fastgru cannot be compiled by"):
        torch.jit.script(net)


@pytest.mark.parametrize("kind", KINDS)
def test_one_graph_of_torch_compile(kind: str) -> None:
    """fullgraph=True forbids the break that a replaced module makes."""
    net, x = replaced(kind)
    with torch.no_grad():
        compiled = untyped.compile(net, fullgraph=True, backend="eager")
        with pytest.raises(Exception, match=WHOLE_GRAPH[kind]):
            compiled(x)


GRADIENTS: dict[str, Callable[[Any, Any], Any]] = {
    "grad": lambda f, x: untyped.func.grad(lambda x: f(x).sum())(x),
    "vjp": untyped.func.vjp,
    "jvp": lambda f, x: untyped.func.jvp(f, (x,), (x,)),
    "jacrev": lambda f, x: untyped.func.jacrev(f)(x),
    "jacfwd": lambda f, x: untyped.func.jacfwd(f)(x),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", list(GRADIENTS))
def test_gradients_of_torch_func(name: str, kind: str) -> None:
    """There are none, and the error says so, also where torch.no_grad() is around it."""
    net, x = replaced(kind)
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"has no gradients.*undo it"):
        GRADIENTS[name](lambda x: first(net(x)), x)


WORK: dict[str, Callable[[Any, Any], Any]] = {
    "functional_call": lambda net, x: torch.func.functional_call(
        net, dict(net.named_parameters()), (x,)
    ),
    "deepcopy": lambda net, x: copy.deepcopy(net)(x),
    "quantize_dynamic": lambda net, x: untyped.ao.quantization.quantize_dynamic(net)(x),
    "compile": lambda net, x: untyped.compile(net, backend="eager")(x),
    "checkpoint": lambda net, x: untyped.utils.checkpoint.checkpoint(net, x, use_reentrant=False),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", list(WORK))
def test_what_works(name: str, kind: str) -> None:
    """The same bits as a call of the model."""
    net, x = replaced(kind)
    with torch.no_grad():
        expected = first(net(x))
        assert torch.equal(first(WORK[name](net, x)), expected)


def test_quantize_dynamic_leaves_the_gru_alone() -> None:
    """Its linear layers become int8, and the GRU stays fastgru's."""
    model = replace_gru(nn.ModuleDict({"gru": nn.GRU(3, 4), "head": nn.Linear(4, 2)}).eval())
    quantized = untyped.ao.quantization.quantize_dynamic(model, {nn.GRU, nn.Linear})
    assert "fastgru: float32" in repr(quantized["gru"])
    assert "Quantized" in repr(quantized["head"])


def test_tensors_without_memory_of_their_own() -> None:
    """Sparse, nested and fake ones: what was expected, what came, and what to do."""
    gru = replaced("GRU")[0]
    nested = torch.nested.nested_tensor([X[0], X[1]])
    with torch.no_grad():
        for x, text in ((X.to_sparse(), r"got torch\.sparse_coo"), (nested, "got a nested one")):
            with pytest.raises(TypeError, match=rf"input: expected a dense tensor, {text}"):
                gru(x)
        with (
            torch._subclasses.fake_tensor.FakeTensorMode(),
            pytest.raises(RuntimeError, match=r"input is a FakeTensor.*undo it first"),
        ):
            gru(torch.empty(5, 2, 3))
