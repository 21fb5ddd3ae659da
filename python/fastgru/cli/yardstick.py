"""How exact a model can be asked to be: what PyTorch, or plain NumPy, gets for the same weights.

`fastgru verify` allows a multiple of that error. Refuses to judge.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import fastgru
from fastgru.cli import reference
from fastgru.cli.reference import Arithmetic, Array

# x (T, B, I), h_0 (L*D, B, H) or None -> arrays by name
Run = Callable[[Array, Array | None], dict[str, Array]]


class Yardstick(NamedTuple):
    """`times`: how many times its largest error of single steps is no bug."""

    name: str
    times: float
    run: Run


def choose(model: Any, original: Any) -> Yardstick:
    """PyTorch's GRU, else its products in the same equations, else NumPy's.

    Of a model in reduced precision what that is defined as, in float64.
    """
    if precision_of(model) != "float32":
        arithmetic = Arithmetic(rounds=True)
        return Yardstick(f"{precision_of(model)} as defined", 2, _in_numpy(model, arithmetic))
    try:
        import torch  # noqa: PLC0415
    except ImportError:
        # NumPy's products are up to twice as exact as PyTorch's for some shapes.
        return Yardstick("NumPy in float32", 4, _in_numpy(original, Arithmetic(np.float32)))
    if isinstance(original, fastgru.GRU) and _is_torchs(original):
        name = f"torch.nn.GRU of PyTorch {torch.__version__}"
        return Yardstick(name, 2, _in_torch(torch, original))

    def matmul(a: Array, b: Array) -> Array:
        product: Array = torch.matmul(torch.tensor(a), torch.tensor(b)).numpy()
        return product

    # A Model's other sums (LayerNorm, Softmax, Mean) are NumPy's here, and exacter, likewise.
    times = 2 if isinstance(original, fastgru.GRU) else 4
    arithmetic = Arithmetic(np.float32, matmul)
    name = f"float32 with products of PyTorch {torch.__version__}"
    return Yardstick(name, times, _in_numpy(original, arithmetic))


def precision_of(model: Any) -> str:
    """That of a GRU or of a Model's GRUs, which is float32 unless one is reduced."""
    grus = [model] if isinstance(model, fastgru.GRU) else model._grus()
    return next((gru.precision for gru in grus if gru.precision != "float32"), "float32")


def _is_torchs(gru: fastgru.GRU) -> bool:
    kind = gru.reset_after, gru.activation, gru.recurrent_activation, gru.reverse
    return kind == (True, "tanh", "sigmoid", False)


def _in_torch(torch: Any, gru: fastgru.GRU) -> Run:
    names = ("input_size", "hidden_size", "num_layers", "bidirectional", "bias")
    module = torch.nn.GRU(**{name: getattr(gru, name) for name in names})
    module.load_state_dict({name: torch.tensor(w) for name, w in gru.tensors().items()})

    def run(x: Array, h_0: Array | None) -> dict[str, Array]:
        with torch.no_grad():
            output, h_n = module(torch.tensor(x), None if h_0 is None else torch.tensor(h_0))
        return {"output": output.numpy(), "final state": h_n.numpy()}

    return run


def _in_numpy(model: Any, arithmetic: Arithmetic) -> Run:
    def run(x: Array, h_0: Array | None) -> dict[str, Array]:
        if isinstance(model, fastgru.GRU):
            output, h_n = reference.run_gru(model, x, h_0, None, arithmetic)
            return {"output": output, "final state": h_n}
        return {"output": reference.run_layers(model.layers, x, None, arithmetic)}

    return run
