"""How the call of a replaced module meets what PyTorch does around calls.

Serves fastgru.torch alone: subclasses of Tensor, torch.compile, gradients. Refuses nothing itself.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import handle_torch_function

UNDO = "undo it first with a second fastgru.torch.replace_gru(model)"
_DISABLED: dict[Callable[..., Any], Callable[..., Any]] = {}  # the two modules' functions


def call_overridden(run: Callable[..., Any], module: Any, x: Any, hx: Any) -> Any:
    """`run(module, x, hx)` as torch calls its own operations on a subclass of Tensor.

    The subclass's __torch_function__ is called, whose default gives results of that class.
    """
    if isinstance(x, torch.fx.Proxy):  # it would put this call into a graph
        return run(module, x, hx)
    return handle_torch_function(run, (x, hx), module, x, hx)


def outside_compiler(run: Callable[..., Any]) -> Callable[..., Any]:
    """`run`, which torch.compile does not look into: it breaks its graph there."""
    if "torch._dynamo" not in sys.modules:  # seconds to import, and 0.4 us of every call
        return run
    disabled = _DISABLED.get(run)
    if disabled is None:
        disable: Any = torch.compiler.disable
        options = {"reason": f"a GRU replaced by fastgru cannot be part of a whole graph; {UNDO}"}
        if "reason" not in inspect.signature(disable).parameters:  # before PyTorch 2.7
            options = {}
        disabled = _DISABLED[run] = disable(run, **options)
    return disabled


def has_gradient(tensor: Tensor) -> bool:
    if torch.is_grad_enabled() and tensor.requires_grad:
        return True
    dual = forward_ad.unpack_dual(tensor)  # type: ignore[no-untyped-call]
    return dual.tangent is not None
