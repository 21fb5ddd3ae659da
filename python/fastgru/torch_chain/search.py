"""A module -> the layers that its forward is, made with its weights.

Refuses what returns something else than a Model would give: other axes, several values, no GRU.
"""

from __future__ import annotations

from typing import Any

import torch

from fastgru.convert import gru_paths
from fastgru.errors import UnsupportedLayerError
from fastgru.gru import GRU
from fastgru.layers import Layer
from fastgru.text import Message, report
from fastgru.torch_chain.check import quiet
from fastgru.torch_chain.tracing import ONE_AT_A_TIME, ChainTracer
from fastgru.torch_chain.values import BATCH, FEATURES, TIME, Build, Facts, Tensor


def layers_of(module: Any, num_threads: int | None, isa: str | None) -> list[Layer | GRU]:
    """What forward returns, as layers; UnsupportedLayerError with every problem."""
    if isinstance(module, torch.jit.ScriptModule):
        raise UnsupportedLayerError(
            "the module: is compiled by torch.jit; pass the torch.nn.Module it was made of"
        )
    if isinstance(module, torch.nn.RNNBase):
        raise UnsupportedLayerError(
            f"the module: is a {type(module).__name__} itself, which returns its output and h_n: "
            "fastgru.GRU.from_torch takes a torch.nn.GRU"
        )
    if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        raise UnsupportedLayerError(
            "the module: has forward hooks or a forward of its own, which would be lost: remove "
            "them"
        )
    rank = 2 if any(isinstance(part, torch.nn.Embedding) for part in module.modules()) else 3
    with ONE_AT_A_TIME, quiet():
        tracer = ChainTracer(rank)
        tracer.run(module)
        # an embedding may stand elsewhere, and one_hot is no module
        if tracer.facts.other_rank or (rank == 2 and not tracer.facts.took_indices):
            other = ChainTracer(5 - rank)
            other.run(module)
            if not other.facts.other_rank:
                tracer = other
    problems = tracer.problems or list(_no_model(tracer.output, tracer.facts))
    if problems:
        lines = report("the module", problems).lines
        raise UnsupportedLayerError(Message(*lines, what_to_do(module)))
    assert isinstance(tracer.output, Tensor)
    build = Build(tracer.facts.role(0) == BATCH, num_threads, isa)
    return [step.make(build) for step in tracer.output.chain]


def _no_model(output: object, facts: Facts) -> list[str]:
    """Why a Model cannot give what forward returns."""
    if isinstance(output, (tuple, list, dict)):
        count = len(output)
        problem = f"forward returns {count} values, a Model gives one array: return that alone, "
        return [f"{problem}or pass a module whose forward is `return self.module(x)[0]`"]
    if not isinstance(output, Tensor):
        kind = type(output).__name__
        return [f"forward returns no tensor of the chain of layers, but {kind}: expected one"]
    if not any(step.directions for step in output.chain):
        return ["no GRU in what forward returns: fastgru runs networks with GRUs"]
    problems = []
    inner = () if facts.rank == 2 else (FEATURES,)
    order = [str(facts.role(axis)) for axis in range(facts.rank)]
    if tuple(order) not in ((TIME, BATCH, *inner), (BATCH, TIME, *inner)):
        problems.append(
            f"x is {facts.axes_text(tuple(range(facts.rank)))}, a Model takes (time, batch, "
            "features) or (batch, time, features): leave the transpose out of forward and pass x "
            "transposed"
        )
    kept = [facts.role(axis) for axis in output.axes]
    whole = (*order[:2], FEATURES)
    if tuple(kept) not in (whole, (BATCH, FEATURES)):
        expected = f"({', '.join(whole)}) or (batch, features)"
        problems.append(
            f"forward returns {facts.axes_text(output.axes)}, a Model gives {expected}: leave the "
            "last transpose, squeeze or reshape out of forward and apply it to what the Model gives"
        )
    return problems


def what_to_do(module: Any) -> str:
    """The end of an error."""
    paths = gru_paths(module)
    if not paths:
        return "What to do: nothing here, for there is no GRU in this module"
    return (
        f"What to do: build the chain from its parts, fastgru.Model([fastgru.GRU.from_torch("
        f"module.{paths[0]}), fastgru.Linear(...), ...]), or keep the module in PyTorch with "
        "fastgru's GRUs: fastgru.torch.replace_gru(module)"
    )
