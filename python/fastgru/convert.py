"""Weights as other programs hold them -> tensors under PyTorch's names.

`parts_of_torch_module` reads torch.nn.GRU and GRUCell, `tensors_from_d2l` the from-scratch GRU of
"Dive into Deep Learning". They rearrange and name; spec.py judges.
Refuses modules whose forward pass is not torch's own: their weights would run another function.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastgru.arrays import Float32Array, TensorSource, shape_text, source_of
from fastgru.errors import FormatError
from fastgru.spec import tensor_names
from fastgru.text import listed, report

_D2L_NAMES = ("W_xz", "W_hz", "b_z", "W_xr", "W_hr", "b_r", "W_xh", "W_hh", "b_h")
_D2L_HEAD = ("W_hq", "b_q")
_TORCH_CLASSES = ("torch.nn.modules.rnn.GRU", "torch.nn.modules.rnn.GRUCell")


def parts_of_torch_module(module: Any) -> tuple[dict[str, Any], bool]:
    """The tensors of a torch.nn.GRU or GRUCell under torch.nn.GRU's names, and batch_first.

    Known by the class's name, so that torch need not be imported. Raises TypeError for anything
    else, subclasses with a forward of their own included.
    """
    base = _torch_class(module)
    if base is None:
        raise TypeError(_not_a_gru(module))
    kind = base.__name__
    if type(module).forward is not base.forward:
        raise TypeError(
            f"{type(module).__name__} is a {kind} with a forward of its own, which would be lost; "
            "to run the plain GRU with its weights use GRU.from_state_dict(module.state_dict())"
        )
    hooked = [name for name in ("_forward_pre_hooks", "_forward_hooks") if getattr(module, name)]
    if hooked or "forward" in vars(module):
        raise TypeError(
            f"this {kind} has forward hooks or a forward of its own, which would be lost "
            "(weight_norm and prune leave such hooks): make them permanent with "
            "torch.nn.utils.remove_weight_norm or torch.nn.utils.prune.remove, or remove them"
        )
    # By attribute, not from state_dict: so torch.nn.utils.parametrizations give effective weights.
    if kind == "GRU":
        names = tensor_names(range(module.num_layers), module.bidirectional, module.bias)
        return {name: getattr(module, name) for name in names}, bool(module.batch_first)
    names = tensor_names([0], False, module.bias)
    return {name: getattr(module, name.removesuffix("_l0")) for name in names}, False


def gru_paths(module: Any) -> list[str]:
    """Where in a torch.nn.Module there are GRUs and GRUCells."""
    return [path for path, part in module.named_modules() if _torch_class(part) is not None]


def _torch_class(module: object) -> Any:
    names = ((base, f"{base.__module__}.{base.__qualname__}") for base in type(module).__mro__)
    return next((base for base, name in names if name in _TORCH_CLASSES), None)


def _not_a_gru(module: Any) -> str:
    message = f"expected a torch.nn.GRU or torch.nn.GRUCell, got {type(module).__name__}"
    if isinstance(module, Mapping):
        return f"{message}; a state dict goes to GRU.from_state_dict"
    if isinstance(module, type) or not hasattr(module, "named_modules"):
        return message
    inside = gru_paths(module)
    if inside:
        paths = ", ".join(inside)
        return (
            f"{message}; it holds GRUs at {paths}: pass one of those, or it to fastgru.from_torch"
        )
    return f"{message}; if it holds GRU weights use GRU.from_state_dict(module.state_dict())"


def tensors_from_d2l(
    params: Mapping[str, ArrayLike] | Sequence[ArrayLike], *, head: bool = False
) -> dict[str, Float32Array]:
    """PyTorch-named tensors of a "Dive into Deep Learning" GRU, for `reset_after=False`.

    `params`: W_xz W_hz b_z W_xr W_hr b_r W_xh W_hh b_h by name or in this order (W_hq b_q may
    follow), where W_x* are (I, H), W_h* (H, H) and b_* (H,): they multiply from the right and have
    one bias per gate. With `head` also W_hq (H, O) and b_q (O,), as head.weight (O, H) and
    head.bias (O,). Raises FormatError listing every problem.

    >>> tensors = tensors_from_d2l([np.ones(s) for s in [(3, 2), (2, 2), (2,)] * 3])
    >>> {name: tensor.shape for name, tensor in tensors.items()}["weight_ih_l0"]
    (6, 3)
    """
    names = _D2L_NAMES + _D2L_HEAD if head else _D2L_NAMES
    sources = _d2l_sources(params, names)
    problems: list[str] = []
    shapes = {name: source.shape for name, source in sources.items()}
    hidden = _most_common([shapes[n][-1] for n in _D2L_NAMES if shapes.get(n)])
    inputs = _most_common([shapes[n][0] for n in _D2L_NAMES[::3] if len(shapes.get(n, ())) == 2])
    outputs = _most_common([shapes[n][-1] for n in _D2L_HEAD if shapes.get(n)])
    for name in names:
        columns = outputs if name in _D2L_HEAD else hidden
        expected = {"W_x": (inputs, columns), "W_h": (hidden, columns)}.get(name[:3], (columns,))
        source = sources.get(name)
        if source is None:
            problems.append(f"{name}: missing")
            continue
        if source.shape != expected and not (name[0] == "b" and source.shape == (1, columns)):
            got = shape_text(source.shape)
            problems.append(f"{name}: expected {shape_text(expected)}, got {got}")
        if not source.is_real_float:
            problems.append(f"{name}: expected a real floating dtype, got {source.dtype}")
    if problems:
        raise FormatError(report("the d2l GRU", problems))
    array = {name: source.read() for name, source in sources.items()}
    gates = "rzh"  # PyTorch's order
    tensors = {
        "weight_ih_l0": np.concatenate([array[f"W_x{gate}"].T for gate in gates]),
        "weight_hh_l0": np.concatenate([array[f"W_h{gate}"].T for gate in gates]),
        "bias_ih_l0": np.concatenate([array[f"b_{gate}"].reshape(-1) for gate in gates]),
        "bias_hh_l0": np.zeros(3 * hidden, np.float32),
    }
    if head:
        tensors["head.weight"] = np.ascontiguousarray(array["W_hq"].T)
        tensors["head.bias"] = array["b_q"].reshape(-1)
    return tensors


def _d2l_sources(
    params: Mapping[str, ArrayLike] | Sequence[ArrayLike], names: tuple[str, ...]
) -> dict[str, TensorSource]:
    if isinstance(params, Mapping):
        named = {name: params[name] for name in names if name in params}
        if not named:
            seen = listed(params) or "none"
            raise FormatError(f"the d2l GRU: none of {', '.join(names)} found; names: {seen}")
    elif isinstance(params, (list, tuple)):
        if len(params) not in {len(names), 11}:
            or_more = ", or 11 with W_hq and b_q" if names == _D2L_NAMES else ""
            raise FormatError(
                f"the d2l GRU: expected {len(names)} arrays ({', '.join(names)}){or_more}, "
                f"got {len(params)}"
            )
        named = dict(zip(names, params, strict=False))
    else:
        raise TypeError(f"params: expected a list or a dict of arrays, got {type(params).__name__}")
    return {name: source_of(name, value) for name, value in named.items()}


def _most_common(sizes: list[int]) -> int:
    return max(sizes, key=sizes.count, default=0)
