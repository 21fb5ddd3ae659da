"""Whole models in PyTorch, eager, and the same as ONNX bytes with fixed shapes.

A step's states go into the module and come out of it, since that is the only way to keep them there
and in ONNX. Imports torch: to be imported by the peers that need it, when they do.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import models
from benchmarks.cases import Case
from benchmarks.inputs import CHECK_STEPS, Answer, Inputs, no_states
from benchmarks.peers import Runner

OPSET = 17  # the first one with LayerNormalization as a single node


def _module(layer: models.Layer, *, cell: bool) -> Any:
    """None for what Chain does by itself."""
    nn = torch.nn
    sizes = layer.inputs, layer.outputs
    makers: dict[models.Kind, Callable[[], Any]] = {
        "embedding": lambda: nn.Embedding(*sizes),
        "linear": lambda: nn.Linear(*sizes),
        "layer_norm": lambda: nn.LayerNorm(layer.inputs),
        "relu": nn.ReLU,
        "sigmoid": nn.Sigmoid,
        "softmax": lambda: nn.Softmax(dim=-1),
        "log_softmax": lambda: nn.LogSoftmax(dim=-1),
        "last": nn.Identity,
        "gru": lambda: (
            nn.GRUCell(*sizes)
            if cell
            else nn.GRU(*sizes, layer.depth, bidirectional=layer.directions == 2)
        ),
    }
    return makers[layer.kind]()


class Chain(torch.nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
    """forward(x) -> y of whole sequences; forward(x, h, ...) -> y, h, ... of a step.

    x: (T, B, I), indices (T, B). With `cell` each GRU of a step is a GRUCell: x (B, I), h (B, H).
    """

    def __init__(self, case: Case, inputs: Inputs, *, cell: bool = False) -> None:
        super().__init__()
        described = models.layers(case)
        self.kinds = [layer.kind for layer in described]
        self.parts = torch.nn.ModuleList(_module(layer, cell=cell) for layer in described)
        for index, part in enumerate(self.parts):
            tensors = inputs.of_layer(index)
            names = {name.removesuffix("_l0") if cell else name: name for name in tensors}
            part.load_state_dict({ours: torch.from_numpy(tensors[n]) for ours, n in names.items()})
        self.cell, self.whole = cell, case.mode == "call"
        self.eval()

    def forward(self, x: Any, *states: Any) -> Any:
        before, after = iter(states), []
        for kind, part in zip(self.kinds, self.parts, strict=True):
            if kind == "last":
                x = x[-1] if self.whole else x
            elif kind != "gru":
                x = part(x)
            elif self.whole:
                x, _ = part(x)
            elif self.cell:
                x = part(x, next(before))
                after.append(x)
            else:
                x, state = part(x, next(before))
                after.append(state)
        return x if self.whole else (x, *after)


def _zeros(case: Case, *, cell: bool = False) -> list[Any]:
    return [
        torch.zeros(*(() if cell else (gru.depth,)), case.B, gru.outputs)
        for gru in models.grus(case)
    ]


def build(case: Case, inputs: Inputs) -> list[Runner]:
    """Under inference_mode, which the peer has entered; its number of threads is set."""
    if case.mode == "call":
        chain, x = Chain(case, inputs), torch.from_numpy(inputs.x)

        def answer() -> Answer:
            return chain(x).numpy().copy(), no_states(case)

        return [Runner("modules", lambda: chain(x), answer)]
    single = all(gru.depth == 1 for gru in models.grus(case))
    return [_step(case, inputs, cell=cell) for cell in ((False, True) if single else (False,))]


def _step(case: Case, inputs: Inputs, *, cell: bool) -> Runner:
    chain, x = Chain(case, inputs, cell=cell), torch.from_numpy(inputs.x)
    x = x[0] if cell else x
    zeros = _zeros(case, cell=cell)
    states = list(zeros)

    def run() -> Any:
        y, *states[:] = chain(x, *states)
        return y

    def answer() -> Answer:
        states[:] = zeros
        for _ in range(CHECK_STEPS):
            y = run()
        joined = torch.cat([state.reshape(-1, case.B, case.H) for state in states])
        return y.reshape(case.B, case.O).numpy().copy(), joined.numpy().copy()

    return Runner("modules, nn.GRUCell" if cell else "modules, nn.GRU", run, answer)


def to_onnx(case: Case, inputs: Inputs) -> bytes:
    """By torch's own exporter. Inputs x, h_0.0, h_0.1, ... and outputs y, h_n.0, h_n.1, ...

    The exporter that needs no onnxscript: it writes a GRU as one node with constant weights, the
    newer one slices and joins them in the graph.
    """
    written: Any = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # it announces the newer one
        # Made here, since what was made in inference mode cannot be traced.
        chain, x = Chain(case, inputs), torch.from_numpy(inputs.x)
        states = [] if case.mode == "call" else _zeros(case)
        torch.onnx.export(
            chain,
            (x, *states),
            written,
            dynamo=False,
            opset_version=OPSET,
            input_names=["x", *(f"h_0.{k}" for k in range(len(states)))],
            output_names=["y", *(f"h_n.{k}" for k in range(len(states)))],
        )
    model: bytes = written.getvalue()
    return model
