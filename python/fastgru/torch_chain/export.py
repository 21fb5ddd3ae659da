"""`from_torch`: a whole torch.nn.Module as a Model.

A copy is traced (tracing.py), its value becomes layers, and the result must give the module's own
numbers (check.py). Refuses anything but a chain of layers, with every reason at once.
"""

from __future__ import annotations

from typing import Any

from fastgru.convert import gru_paths
from fastgru.errors import UnsupportedLayerError
from fastgru.model import Model
from fastgru.options import check_isa, check_options, positive
from fastgru.spec import report
from fastgru.torch_chain.check import LIMIT, eval_copy, measured, own_error, quiet
from fastgru.torch_chain.values import BATCH, FEATURES, TIME, Build, Facts, Tensor


def from_torch(
    module: Any,
    *,
    precision: str = "float32",
    num_threads: int | None = None,
    isa: str | None = None,
) -> Model:
    """A Model of a torch.nn.Module whose forward is a chain of supported layers.

    Found with torch.fx, as in eval mode (dropout is left out), whatever mode the module is in: a
    copy is traced, the module stays as it is. Supported, as modules, functions and methods: an
    embedding or one_hot of the input; GRU, one or several, from no h_0 or one of torch.zeros;
    Linear, LayerNorm, ReLU, Tanh, Sigmoid, Softmax and LogSoftmax over the features; the last step
    (`[:, -1]`), `h_n[-1]` and both directions' last states joined; mean and max over time, also as
    adaptive pooling; flip over time; transposes between layouts, and reshapes that only merge and
    split time and batch. Where forward requires lengths as a second input for pack_padded_sequence,
    they are `lengths=` of the Model (whose output has x's T, where pad_packed_sequence cuts it to
    the longest).

    The model's x and result have the axes that the module's have; its batch_first is that of x.
    Model and module are compared in float32 on random input before `precision` is applied; how far
    they are apart tells `fastgru.max_error(module, model)`.

    Raises UnsupportedLayerError with a line for each operation that is none of these, naming it and
    the line of forward it stands in, and where the numbers differ by more than 1e-4, unless the
    module's own rounding is as large; TypeError for what is no torch.nn.Module, and for one that is
    not in CPU memory; ValueError for options.

    >>> import numpy as np, torch, fastgru
    >>> class Classifier(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.gru = torch.nn.GRU(4, 8, batch_first=True)
    ...         self.head = torch.nn.Linear(8, 3)
    ...     def forward(self, x):
    ...         output, h_n = self.gru(x)
    ...         return self.head(h_n[-1])
    >>> model = fastgru.from_torch(Classifier())
    >>> model(np.ones((2, 5, 4), np.float32)).shape
    (2, 3)
    """
    check_options(precision=precision)
    check_isa(isa)
    if num_threads is not None:
        positive("num_threads", num_threads)
    chain, facts = _trace(eval_copy(module))
    batch_first = facts.role(0) == BATCH
    build = Build(batch_first, num_threads, isa)
    model = Model([step.make(build) for step in chain.chain])
    copied = eval_copy(module)
    error = measured(copied, model)
    # 4: both round, and the largest of a few errors is luck
    if not error <= LIMIT and not error <= 4 * own_error(copied, model):
        raise UnsupportedLayerError(
            f"the module: on random input its numbers and the Model's are {error:.3g} apart, "
            f"expected at most {LIMIT:g}: it does something that its operations do not show\n  "
            f"{_what_to_do(module)}"
        )
    return model if precision == "float32" else model.to(precision)


def _trace(module: Any) -> tuple[Tensor, Facts]:
    """The value that forward returns, sound as a Model; UnsupportedLayerError."""
    import torch  # noqa: PLC0415

    from fastgru.torch_chain.tracing import ONE_AT_A_TIME, ChainTracer  # noqa: PLC0415

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
            tracer = ChainTracer(5 - rank)
            tracer.run(module)
    problems = tracer.problems or list(_no_model(tracer.output, tracer.facts))
    if problems:
        raise UnsupportedLayerError(f"{report('the module', problems)}\n  {_what_to_do(module)}")
    assert isinstance(tracer.output, Tensor)
    return tracer.output, tracer.facts


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


def _what_to_do(module: Any) -> str:
    paths = gru_paths(module)
    if not paths:
        return "What to do: nothing here, for there is no GRU in this module"
    return (
        f"What to do: build the chain from its parts, fastgru.Model([fastgru.GRU.from_torch("
        f"module.{paths[0]}), fastgru.Linear(...), ...]), or keep the module in PyTorch with "
        "fastgru's GRUs: fastgru.torch.replace_gru(module)"
    )
