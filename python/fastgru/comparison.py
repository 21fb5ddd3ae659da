"""`compare`: how far two models are from one another on real data, a reduced one from its original.

Runs both and looks; refuses models that do not have the same shape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fastgru.arrays import Float32Array, byte_text
from fastgru.problems import Problem, raise_any

if TYPE_CHECKING:
    from fastgru.gru import GRU

_SHAPE = ("input_size", "hidden_size", "num_layers", "bidirectional", "reverse", "batch_first")


class Difference(NamedTuple):
    """Of two arrays with a time axis, or of states: absolute, NaN where either is NaN."""

    max: float
    mean: float
    worst_step: int
    """The time step with the largest difference, the first of several; 0 for states."""


class Comparison(NamedTuple):
    """What `fastgru.compare` found. Prints as a table.

    `layers`: of the hidden states that each layer and direction gives, first layer first, forward
    before reverse: what a layer's own weights do comes on top of what the layers before it did.
    `states`: of h_n, in the same order.
    """

    layers: tuple[Difference, ...]
    states: tuple[Difference, ...]
    output: Difference
    precision: tuple[str, str]
    nbytes: tuple[int, int]
    bidirectional: bool

    @property
    def output_state(self) -> tuple[Difference, ...]:
        """Of the last layer's h_n, by direction."""
        return self.states[-2 if self.bidirectional else -1 :]

    def __str__(self) -> str:
        sizes = [f"{p}, {byte_text(n)}" for p, n in zip(self.precision, self.nbytes, strict=True)]
        rows = [f"{sizes[0]}  against  {sizes[1]}", ""]
        rows.append(f"{'':<16}{'max':>11}{'mean':>11}{'worst step':>12}{'h_n max':>11}")
        for index, (layer, state) in enumerate(zip(self.layers, self.states, strict=True)):
            name = f"layer {index // 2 if self.bidirectional else index}"
            if self.bidirectional:
                name += " reverse" if index % 2 else " forward"
            rows.append(_row(name, layer, state.max))
        worst = float(np.max([state.max for state in self.output_state]))
        rows.append(_row("output", self.output, worst))
        return "\n".join(rows)


def compare(a: GRU, b: GRU, x: ArrayLike, h_0: ArrayLike | None = None) -> Comparison:
    """Runs two models of the same shape on x and says where they differ, and by how much.

    x and h_0 as in a call. Each model runs twice, once with a trace of all its gates, which takes
    4*L*D*T*B*H floats. Raises TypeError for anything but GRUs, ValueError if they differ in sizes
    or layout, ShapeError and TypeError as a call.

    >>> import numpy as np, fastgru
    >>> rng = np.random.default_rng(0)
    >>> gru = fastgru.GRU.from_state_dict({"weight_ih_l0": rng.random((6, 3), np.float32),
    ...                                    "weight_hh_l0": rng.random((6, 2), np.float32)})
    >>> report = fastgru.compare(gru, gru.to("int8"), rng.random((5, 4, 3), np.float32))
    >>> 0 < report.output.max < 0.01
    True
    """
    from fastgru.gru import GRU  # noqa: PLC0415  (which imports what this module does)

    models: tuple[object, object] = (a, b)
    if not all(isinstance(model, GRU) for model in models):
        raise TypeError(f"expected two GRUs, got {type(a).__name__} and {type(b).__name__}")
    problems = [
        Problem(ValueError, f"{name}: {getattr(a, name)!r} and {getattr(b, name)!r}")
        for name in _SHAPE
        if getattr(a, name) != getattr(b, name)
    ]
    raise_any("compare", problems)
    outputs, states, hidden = [], [], []
    for gru in (a, b):
        output, h_n = gru(x, h_0)
        outputs.append(output.swapaxes(0, 1) if gru.batch_first and output.ndim == 3 else output)
        states.append(h_n)
        hidden.append(gru.trace(x, h_0).hidden.copy())  # without the gates behind it
    return Comparison(
        layers=tuple(_difference(*pair) for pair in zip(*hidden, strict=True)),
        states=tuple(_difference(p[None], q[None]) for p, q in zip(*states, strict=True)),
        output=_difference(*outputs),
        precision=(a.precision, b.precision),
        nbytes=(a.nbytes, b.nbytes),
        bidirectional=a.bidirectional,
    )


def _difference(a: Float32Array, b: Float32Array) -> Difference:
    """Of arrays with time first."""
    error = np.abs(a.astype(np.float64) - b)
    if error.size == 0:
        return Difference(0.0, 0.0, 0)
    by_step = error.reshape(len(error), -1).max(axis=1)
    return Difference(float(by_step.max()), float(error.mean()), int(by_step.argmax()))


def _row(name: str, difference: Difference, state: float) -> str:
    numbers = f"{difference.max:>11.2e}{difference.mean:>11.2e}{difference.worst_step:>12}"
    return f"{name:<16}{numbers}{state:>11.2e}"
