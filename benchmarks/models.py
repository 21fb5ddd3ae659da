"""The whole models that are measured: which layers stand in which order, and their sizes.

Imports nothing heavy and runs nothing; weights are made in inputs.py and each peer builds the
layers with its own library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from benchmarks.cases import Case

Kind = Literal[
    "embedding", "gru", "last", "linear", "layer_norm", "relu", "sigmoid", "softmax", "log_softmax"
]


@dataclass(frozen=True)
class Layer:
    """One layer. `inputs` is the number of rows of an embedding's table, `outputs` a GRU's H.

    Layers without weights have neither.
    """

    kind: Kind
    inputs: int = 0
    outputs: int = 0
    depth: int = 1
    """Layers of a GRU that are stacked."""
    directions: int = 1

    @property
    def width(self) -> int:
        """Features of a GRU's output."""
        return self.directions * self.outputs


def _classifier(case: Case) -> tuple[Layer, ...]:
    gru = Layer("gru", case.I, case.H, case.L, case.D)
    return gru, Layer("last"), Layer("linear", gru.width, case.O), Layer("softmax")


def _tagger(case: Case) -> tuple[Layer, ...]:
    gru = Layer("gru", case.I, case.H, case.L, case.D)
    return gru, Layer("linear", gru.width, case.O), Layer("log_softmax")


def _characters(case: Case) -> tuple[Layer, ...]:
    gru = Layer("gru", case.I, case.H, case.L, case.D)
    return Layer("embedding", case.O, case.I), gru, Layer("linear", gru.width, case.O)


def _mask(case: Case) -> tuple[Layer, ...]:
    first = Layer("gru", case.H, case.H, case.L, case.D)
    second = Layer("gru", first.width, case.H, case.L, case.D)
    return (
        Layer("linear", case.I, case.H),
        Layer("relu"),
        first,
        Layer("layer_norm", first.width, first.width),
        second,
        Layer("linear", second.width, case.O),
        Layer("sigmoid"),
    )


MODELS: dict[str, Callable[[Case], tuple[Layer, ...]]] = {
    "classifier": _classifier,  # one row of probabilities for a whole sequence
    "tagger": _tagger,  # logarithms of probabilities for every step, seen from both sides
    "characters": _characters,  # the next character, or word, at every step
    "mask": _mask,  # a gain for every frequency of every frame
}


def layers(case: Case) -> tuple[Layer, ...]:
    """Of a case that is a whole model, first to last."""
    return MODELS[case.model](case)


def grus(case: Case) -> list[Layer]:
    return [layer for layer in layers(case) if layer.kind == "gru"]


def working(case: Case) -> list[Layer]:
    """Layers that have something to do in a step: every step is a sequence's last one so far."""
    return [layer for layer in layers(case) if layer.kind != "last"]
