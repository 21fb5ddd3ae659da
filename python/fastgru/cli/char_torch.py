"""The character models' step in PyTorch: what a program that ships PyTorch would run.

Only for timing beside fastgru; needs torch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from fastgru.cli.char_model import CharModel

Advance = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def torch_step(model: CharModel) -> Callable[[int], torch.Tensor]:
    """A function from a character's index to the logits (V,) of the next; keeps its state."""
    tensors = {name: torch.from_numpy(array) for name, array in model.tensors.items()}
    advance = _reset_after(model, tensors) if model.reset_after else _reset_before(tensors)
    x = torch.zeros(1, len(model.vocabulary))
    h = torch.zeros(1, model.gru.hidden_size)

    @torch.inference_mode()
    def step(index: int) -> torch.Tensor:
        nonlocal h
        x.zero_()
        x[0, index] = 1.0
        logits, h = advance(x, h)
        return logits[0]

    return step


# One-hot x (1, V) and h (1, H) -> logits (1, V) and the new h, for each of the two equations.


def _reset_after(model: CharModel, tensors: dict[str, torch.Tensor]) -> Advance:
    gru = torch.nn.GRU(len(model.vocabulary), model.gru.hidden_size)
    gru.load_state_dict({n[len("gru.") :]: t for n, t in tensors.items() if n.startswith("gru.")})
    weight, bias = tensors["head.weight"], tensors["head.bias"]

    def advance(x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output, h = gru(x, h)
        return torch.nn.functional.linear(output, weight, bias), h

    return advance


def _reset_before(t: dict[str, torch.Tensor]) -> Advance:
    def advance(x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z = torch.sigmoid(x @ t["W_xz"] + h @ t["W_hz"] + t["b_z"])
        r = torch.sigmoid(x @ t["W_xr"] + h @ t["W_hr"] + t["b_r"])
        n = torch.tanh(x @ t["W_xh"] + (r * h) @ t["W_hh"] + t["b_h"])
        h = z * h + (1 - z) * n
        return h @ t["W_hq"] + t["b_q"], h

    return advance
