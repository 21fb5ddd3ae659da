"""Layers as an ONNX graph tells them, one by one, before anything is packed; and making them.

A plan is small and may be replaced by one that knows more: a product becomes a Linear with a bias
when the Add after it is seen. `model_of` turns a chain of them into fastgru's layers, GRU nodes
that agree into one GRU of several layers. Refuses to know where in a graph a plan came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from fastgru.errors import FormatError
from fastgru.formats.onnx.tensors import Array
from fastgru.formats.onnx.values import Source
from fastgru.gru import GRU
from fastgru.layers import Layer
from fastgru.model import Model
from fastgru.over_time import Last, Reverse
from fastgru.spec import GruSpec, spec_from_tensors
from fastgru.text import about, message_of, report

Settings = Mapping[str, Any]
"""precision, num_threads and isa, as the caller gave them."""


@dataclass(frozen=True, eq=False, slots=True)
class GruPlan:
    """A GRU node. `tensors`: PyTorch's names without the layer, `weight_ih` to `bias_hh_reverse`.

    `h_0`: None for zeros, else (the input, its first row, one past its last).
    """

    node: str
    tensors: Mapping[str, Array]
    options: Mapping[str, Any]  # of spec_from_tensors
    layout: int
    h_0: tuple[Source, int, int] | None = None
    lengths: Source | None = None

    @property
    def directions(self) -> int:
        """1 or 2."""
        return 2 if "weight_ih_reverse" in self.tensors else 1

    def stacks_on(self, below: GruPlan) -> bool:
        """Whether both can be layers of one GRU."""
        hidden, hidden_below = (len(p.tensors["weight_hh"]) for p in (self, below))
        return (
            hidden == hidden_below
            and self.tensors.keys() == below.tensors.keys()
            and self.options == below.options
        )


@dataclass(frozen=True, eq=False, slots=True)
class StatePlan:
    """The state at the end of each direction of the GRU before it: a Last."""

    directions: int
    reverse: bool


@dataclass(frozen=True, eq=False, slots=True)
class LayerPlan:
    """Any other layer: its class and arguments."""

    kind: type[Layer]
    tensors: Mapping[str, Array] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def make(self, isa: str | None) -> Layer:
        """The layer; ValueError or TypeError for arrays that do not fit."""
        forced = {"_isa": isa} if isa is not None and self.kind.uses_kernels else {}
        return self.kind(**self.tensors, **self.options, **forced)


Plan = GruPlan | StatePlan | LayerPlan


def stacks(plans: Sequence[GruPlan]) -> bool:
    """Whether these GRU nodes, one after the other, are one GRU's layers."""
    return all(above.stacks_on(below) for below, above in pairwise(plans))


def gru_of(plans: Sequence[GruPlan], batch_first: bool, settings: Settings) -> GRU:
    """One GRU of nodes that stack."""
    try:
        return GRU(_spec(plans), batch_first=batch_first, **settings)
    except ValueError as error:  # of weights that int8 cannot hold, too
        raise FormatError(message_of(error)) from error


def model_of(plans: Sequence[Plan], batch_first: bool, settings: Settings) -> Model:
    """A Model of a whole chain; FormatError listing every layer that cannot be made."""
    layers: list[Layer | GRU] = []
    problems: list[str] = []
    at = 0
    while at < len(plans):
        plan, end = plans[at], at + 1
        try:
            if isinstance(plan, GruPlan):
                run = [plan]
                while end < len(plans):
                    above = plans[end]
                    if not (isinstance(above, GruPlan) and above.stacks_on(run[-1])):
                        break
                    run.append(above)
                    end += 1
                layers.append(gru_of(run, batch_first, settings))
            elif isinstance(plan, StatePlan):
                layers += [Reverse()] if plan.reverse else []
                layers.append(Last(bidirectional=plan.directions == 2))
            else:
                layers.append(plan.make(settings["isa"]))
        except (ValueError, TypeError) as error:
            problems.append(about(f"layer {len(layers) + len(problems)}", error))
        at = end
    if not problems:
        try:
            return Model(layers)
        except ValueError as error:
            problems.append(message_of(error))
    raise FormatError(report("the model", problems))


def _spec(plans: Sequence[GruPlan]) -> GruSpec:
    tensors = {}
    for layer, plan in enumerate(plans):
        for name, array in plan.tensors.items():
            stem = name.removesuffix("_reverse")
            tensors[f"{stem}_l{layer}{name[len(stem) :]}"] = array
    return spec_from_tensors(tensors, prefix="", **plans[0].options)
