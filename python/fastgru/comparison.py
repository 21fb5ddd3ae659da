"""`compare`: how far two models are from one another on real data, a reduced one from its original.

Runs both and looks; refuses models that do not have the same shape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fastgru.arrays import Float32Array, as_float32, byte_text
from fastgru.problems import Problem, listed, raise_any

if TYPE_CHECKING:
    from fastgru.gru import GRU

NOTE_FROM = 0.05
"""How far rounding one input's weights must move a gate's sum, and the output differ, for a note:
ten times what networks of well-scaled inputs show (at most 0.004 for N(0, 1), H 16 to 512)."""

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
    `states`: of h_n, in the same order. `notes`: why int8 is off where inputs are badly scaled, and
    what to do; empty otherwise.
    """

    layers: tuple[Difference, ...]
    states: tuple[Difference, ...]
    output: Difference
    precision: tuple[str, str]
    nbytes: tuple[int, int]
    bidirectional: bool
    notes: tuple[str, ...] = ()

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
        return "\n".join([*rows, *(f"note: {note}" for note in self.notes)])


def compare(a: GRU, b: GRU, x: ArrayLike, h_0: ArrayLike | None = None) -> Comparison:
    """Runs two models of the same shape on x and says where they differ, and by how much.

    x and h_0 as in a call. Each model runs twice, once with a trace of all its gates, which takes
    4*L*D*T*B*H floats. Raises TypeError for anything but GRUs, ValueError if they differ in sizes
    or layout, ShapeError and TypeError as a call.

    int8 has one scale for each row of weights. Where one input is far larger than the others (a
    price near 10,000 beside inputs near 1), its weights are small beside the others in their row,
    and are rounded to a few steps, or to zero. The result names such inputs in `notes`.

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
    difference = _difference(*outputs)
    return Comparison(
        layers=tuple(_difference(*pair) for pair in zip(*hidden, strict=True)),
        states=tuple(_difference(p[None], q[None]) for p, q in zip(*states, strict=True)),
        output=difference,
        precision=(a.precision, b.precision),
        nbytes=(a.nbytes, b.nbytes),
        bidirectional=a.bidirectional,
        # An error of NaN, where x has one, hides how large the others are.
        notes=() if difference.max < NOTE_FROM else _notes(a, b, as_float32("x", x)),
    )


def _notes(a: GRU, b: GRU, x: Float32Array) -> tuple[str, ...]:
    """Which inputs' weights int8 rounds too coarsely for how large the inputs are."""
    if {a.precision, b.precision} != {"float32", "int8"}:
        return ()
    full, rounded = (gru.tensors() for gru in ((a, b) if b.precision == "int8" else (b, a)))
    names = [name for name in full if name.startswith("weight_ih_l0")]
    rounding = np.max([np.abs(full[name] - rounded[name]).max(axis=0) for name in names], axis=0)
    rows = np.abs(x.reshape(-1, a.input_size))
    largest = np.where(np.isfinite(rows), rows, 0).max(axis=0, initial=0)  # (I,)
    moved = rounding.astype(np.float64) * largest
    columns = np.flatnonzero(moved >= NOTE_FROM)
    if not columns.size:
        return ()
    worst = columns[moved[columns].argmax()]
    weights = np.max([np.abs(full[name]).max(axis=0) for name in names], axis=0)
    scale = 2.0 ** np.rint(np.log2(weights.max() / weights[worst]))
    text = (
        f"int8 rounds the weights of x[..., j] too coarsely for how large it is, for j = "
        f"{listed(columns)}: x[..., {worst}] reaches {largest[worst]:.3g} and its weights are off "
        f"by up to {rounding[worst]:.2g}, which moves a gate's sum by up to {moved[worst]:.2g}. "
        "Scale such inputs before to('int8'): divide x[..., j] by s and multiply "
        "weight_ih_l0[:, j] by s (and that of the reverse direction), with s a power of two that "
        f"makes these weights as large as the others, {scale:.6g} for j = {worst}; or keep layer 0 "
        "in float32 (keep=[0])."
    )
    return (text,)


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
