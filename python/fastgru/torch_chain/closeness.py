"""Whether a module and the Model made of it are the same function although their numbers differ.

Rounding alone makes a large difference where a network amplifies it: a LayerNorm of almost equal
numbers does, and so does a GRU whose recurrent weights are so large that it is chaotic. Such a
module is compared where its numbers mean something, and with smaller weights everywhere. Refuses to
guess: a module that gives other numbers for the same input is told from one that rounds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from fastgru.model import Model
from fastgru.torch_chain.check import LIMIT, cases, difference, measured, own_error, quiet, run

_OWN = 4  # both round, and the largest of a few errors is luck
_SHAKE = 2.0**-21
"""Relative change of every weight: eight times what rounding it to float32 changes at most, since
rounding happens after every operation and not to the weights alone."""
_SHAKEN = 3  # copies with such weights
_SPREAD = 16  # how much more than they the Model may differ: what they show is luck, too
_MEANINGLESS = 0.01  # where they differ by more, rounding has become the result


def why_apart(module: Any, model: Model, error: float, build: Callable[[Any], Model]) -> str | None:
    """Why `model` is not `module`, which is `error` away from it; None where rounding explains it.

    `build` makes a Model of a module like this one with other weights.
    """
    if (change := _second_call(module, model)) > LIMIT:
        return (
            f"called twice with the same x it gives numbers that are {change:.3g} apart: it is "
            "keeping a state from one call to the next (a Model's .stream() does that), or draws "
            "random numbers"
        )
    if error <= _OWN * own_error(module, model):
        return None
    if _is_within_spread(module, model) and _is_same_when_tame(module, build):
        return None
    return (
        f"on random input its numbers and the Model's are {error:.3g} apart, expected at most "
        f"{LIMIT:g}, and rounding does not explain that: it does something that its operations do "
        "not show"
    )


def _second_call(module: Any, model: Model) -> float:
    """How far two calls with the same x are apart; few steps, which amplify no rounding."""
    import torch  # noqa: PLC0415

    worst = 0.0
    for inputs, _ in list(cases(module, model))[:2]:
        with quiet():  # which puts the random numbers back; between the calls they go on
            first, _, second = run(module, inputs), torch.rand(1), run(module, inputs)
        if first.shape != second.shape:
            return float("inf")
        worst = max(worst, difference(first.numpy(), second.numpy()))
    return worst


def _is_within_spread(module: Any, model: Model) -> bool:
    """Whether the Model is as near as copies of the module are whose weights are rounded otherwise.

    Where those are far from each other, no comparison means anything: these inputs do not count.
    """
    shaken = [_with_shaken_weights(module, seed) for seed in range(_SHAKEN)]
    for inputs, lengths in cases(module, model):
        theirs = run(module, inputs).numpy()
        spread = max(difference(run(other, inputs).numpy(), theirs) for other in shaken)
        error = difference(model(inputs[0], lengths=lengths), theirs)
        if spread <= _MEANINGLESS and not error <= max(LIMIT, _SPREAD * spread):
            return False
    return True


def _with_shaken_weights(module: Any, seed: int) -> Any:
    import torch  # noqa: PLC0415

    other, generator = copy.deepcopy(module), torch.Generator().manual_seed(seed)
    with quiet():
        for tensor in (*other.parameters(), *other.buffers()):
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator) * 2 - 1
                tensor.mul_(1 + _SHAKE * noise)
    return other


def _is_same_when_tame(module: Any, build: Callable[[Any], Model]) -> bool:
    """Whether the module and its Model agree on all inputs when its GRUs have small weights.

    What forward does with the GRUs does not depend on how large their weights are, and GRUs with
    weights as PyTorch starts with amplify nothing.
    """
    import torch  # noqa: PLC0415

    tame = copy.deepcopy(module)
    with quiet():
        for gru in (part for part in tame.modules() if isinstance(part, torch.nn.GRU)):
            for weight in gru.parameters():
                largest, most = float(weight.abs().max()), gru.hidden_size**-0.5
                if largest > most:
                    weight.mul_(most / largest)
    model = build(copy.deepcopy(tame))
    error = measured(tame, model)
    return error <= LIMIT or error <= _OWN * own_error(tame, model)
