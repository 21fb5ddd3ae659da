"""Which operation of torch is which of ours: functions, methods and modules, by what torch calls.

A name stands for torch.NAME, torch.nn.functional.NAME, operator.NAME and the method NAME alike:
their arguments are the same. Refuses nothing: what is not here has no meaning here.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

from fastgru.torch_chain import layer_operations as layer
from fastgru.torch_chain import part_operations as part
from fastgru.torch_chain import shape_operations as shape
from fastgru.torch_chain import size_operations as size
from fastgru.torch_chain import state_operations as states
from fastgru.torch_chain.gru_operations import gru
from fastgru.torch_chain.values import Constant, Facts, tensor_of

Operation = Callable[..., object]

OPERATIONS: dict[str, Operation] = {
    "embedding": layer.embedding,
    "one_hot": layer.one_hot,
    "linear": layer.linear,
    "layer_norm": layer.layer_norm,
    "relu": layer.relu,
    "tanh": layer.tanh,
    "sigmoid": layer.sigmoid,
    "softmax": layer.softmax,
    "log_softmax": layer.log_softmax,
    "dropout": layer.dropout,
    "mean": layer.mean,
    "amax": layer.amax,
    "max": layer.max_,
    "flip": layer.flip,
    "adaptive_avg_pool1d": layer.adaptive_avg_pool1d,
    "adaptive_max_pool1d": layer.adaptive_max_pool1d,
    "max_pool1d": layer.max_pool1d,
    "transpose": shape.transpose,
    "swapaxes": shape.transpose,
    "swapdims": shape.transpose,
    "t": shape.transposed,
    "permute": shape.permute,
    "squeeze": shape.squeeze,
    "unsqueeze": shape.unsqueeze,
    "flatten": shape.flatten,
    "reshape": shape.reshape,
    "view": shape.reshape,
    "select": part.select,
    "getitem": part.getitem,
    "cat": states.cat,
    "concat": states.cat,
    "concatenate": states.cat,
    "hstack": states.hstack,
    "unbind": states.unbind,
    "size": size.size,
    "dim": size.dim,
    "getattr": size.attribute,
    "zeros": size.zeros,
    "new_zeros": size.new_zeros,
    "pack_padded_sequence": size.pack,
    "pad_packed_sequence": size.unpack,
    "to": shape.to,
    "type": shape.to,
    "float": shape.to_float,
    "long": shape.to_integers,
    "int": shape.to_integers,
}
_SAME = ("contiguous", "clone", "detach", "cpu", "requires_grad_", "type_as")
OPERATIONS |= dict.fromkeys(_SAME, shape.same)
_ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "eq", "ne", "lt", "le", "gt", "ge")
OPERATIONS |= {name: size.arithmetic(name) for name in _ARITHMETIC}
IN_PLACE = ("relu_", "tanh_", "sigmoid_")


def _gru(facts: Facts, module: Any, x: object, hx: object = None) -> object:
    return gru(facts, module, x, hx)


def _embedding(facts: Facts, module: Any, x: object) -> object:
    return layer.embedding(facts, x, Constant(module.weight), max_norm=module.max_norm)


def _linear(facts: Facts, module: Any, x: object) -> object:
    return layer.linear(facts, x, Constant(module.weight), _constant(module.bias))


def _layer_norm(facts: Facts, module: Any, x: object) -> object:
    parts = _constant(module.weight), _constant(module.bias)
    return layer.layer_norm(facts, x, module.normalized_shape, *parts, module.eps)


def _constant(tensor: object) -> Constant | None:
    return None if tensor is None else Constant(tensor)


def _identity(facts: Facts, module: Any, x: object) -> object:
    return tensor_of(x)


MODULES: dict[str, Operation] = {
    "GRU": _gru,
    "Embedding": _embedding,
    "Linear": _linear,
    "LayerNorm": _layer_norm,
    "ReLU": lambda facts, module, x: layer.relu(facts, x),
    "Tanh": lambda facts, module, x: layer.tanh(facts, x),
    "Sigmoid": lambda facts, module, x: layer.sigmoid(facts, x),
    "Softmax": lambda facts, module, x: layer.softmax(facts, x, module.dim),
    "LogSoftmax": lambda facts, module, x: layer.log_softmax(facts, x, module.dim),
    "AdaptiveAvgPool1d": lambda facts, module, x: layer.adaptive_avg_pool1d(
        facts, x, module.output_size
    ),
    "AdaptiveMaxPool1d": lambda facts, module, x: layer.adaptive_max_pool1d(
        facts, x, module.output_size, module.return_indices
    ),
    "Flatten": lambda facts, module, x: shape.flatten(facts, x, module.start_dim, module.end_dim),
}
_NOTHING = ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout")
MODULES |= dict.fromkeys((*_NOTHING, "Identity"), _identity)


@functools.cache
def functions_by_name() -> dict[object, str]:
    """The names of torch's functions that are in the table."""
    import torch  # noqa: PLC0415

    places = (torch, torch.nn.functional, torch.nn.utils.rnn, operator)
    found: dict[object, str] = {getattr: "getattr"}
    for name in (*OPERATIONS, *IN_PLACE):
        for place in places:
            function = getattr(place, name, None)
            if callable(function):
                found[function] = name
    return found


def name_of(target: object) -> str | None:
    """The name of an operation: of a method, or a function if it is in the table."""
    return target if isinstance(target, str) else functions_by_name().get(target)


def module_kind(module: Any) -> str | None:
    """Which of MODULES it is: its class, or a subclass that runs the same forward."""
    import torch  # noqa: PLC0415

    for base in type(module).__mro__:
        if base.__name__ in MODULES and base is getattr(torch.nn, base.__name__, None):
            return base.__name__ if type(module).forward is base.forward else None
    return None


def wrapped_functions() -> tuple[Callable[..., object], ...]:
    """Functions that torch.fx calls instead of recording, unless it is told not to."""
    import torch  # noqa: PLC0415

    rnn = torch.nn.utils.rnn
    return torch.zeros, rnn.pack_padded_sequence, rnn.pad_packed_sequence
