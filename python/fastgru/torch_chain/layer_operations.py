"""Modules and functions that become a layer of the Model: Linear, activations, GRU, Mean, ...

Each takes `Facts` and what torch's own takes, under torch's names, and gives the value that stands
for the result; `Refused` says why it cannot. Refuses what has no layer in fastgru.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastgru.layers as fg
from fastgru import over_time
from fastgru.torch_chain.values import (
    FEATURES,
    ONE,
    TIME,
    Constant,
    Facts,
    MaxResult,
    Missing,
    Refused,
    Size,
    Step,
    Tensor,
    position,
    tensor_of,
)


def features_last(facts: Facts, value: object) -> Tensor:
    """A tensor whose last axis is features; it may be the one that says so of the input."""
    x = tensor_of(value)
    if x.indices:
        raise Refused("takes the input, which is indices: an embedding comes first")
    if not x.axes or isinstance(x.axes[-1], tuple):
        raise Refused(f"expected features in the last axis, got {facts.axes_text(x.axes)}")
    facts.require(x.axes[-1], FEATURES)
    return x


def _apply(facts: Facts, value: object, make: Callable[..., fg.Layer], size: int = 0) -> Tensor:
    """A layer that treats each row of features by itself."""
    x = features_last(facts, value)
    kernels = getattr(make, "uses_kernels", False)
    step = Step(lambda build: make(_isa=build.isa) if kernels else make())
    return x.then(step, (*x.axes[:-1], FEATURES), size)


# ---- indices ----


def embedding(  # noqa: PLR0917
    facts: Facts,
    value: object,
    weight: object,
    padding_idx: object = None,
    max_norm: object = None,
    norm_type: object = 2.0,
    scale_grad_by_freq: object = False,
    sparse: object = False,
) -> Tensor:
    """torch.nn.functional.embedding; what concerns training does not matter."""
    if max_norm is not None:
        raise Refused("max_norm changes the table when it is used: expected None")
    table = constant(weight, "weight")
    x = indices(facts, value)
    step = Step(lambda _: fg.Embedding(table))
    return x.then(step, (*x.axes, FEATURES), int(table.shape[1]))


def one_hot(facts: Facts, value: object, num_classes: object = -1) -> Tensor:
    """torch.nn.functional.one_hot."""
    if not isinstance(num_classes, int) or num_classes < 1:
        raise Refused("num_classes: expected a number, without which the data decides")
    x = indices(facts, value)
    step = Step(lambda _: fg.OneHot(num_classes))
    return x.then(step, (*x.axes, FEATURES), num_classes)


def indices(facts: Facts, value: object) -> Tensor:
    """The input, if it is indices."""
    x = tensor_of(value)
    if x.chain:
        raise Refused("takes the result of a layer: in a Model only the input is indices")
    if not x.indices:
        facts.other_rank = True
        raise Refused("takes the input as indices")
    facts.took_indices = True
    return x


def constant(value: object, name: str) -> Any:
    """The tensor of a parameter or a buffer."""
    if not isinstance(value, Constant):
        raise Refused(f"{name}: expected a parameter, got what forward computes")
    return value.tensor


# ---- rows of features ----


def linear(facts: Facts, value: object, weight: object, bias: object = None) -> Tensor:
    """torch.nn.functional.linear."""
    w = constant(weight, "weight")
    b = None if bias is None else constant(bias, "bias")
    if w.ndim != 2:
        raise Refused(f"weight: expected 2 axes, got {w.ndim}")
    x = features_last(facts, value)
    step = Step(lambda build: fg.Linear(w, b, _isa=build.isa))
    return x.then(step, (*x.axes[:-1], FEATURES), int(w.shape[0]))


def layer_norm(  # noqa: PLR0917
    facts: Facts,
    value: object,
    normalized_shape: Any,
    weight: object = None,
    bias: object = None,
    eps: float = 1e-5,
) -> Tensor:
    """torch.nn.functional.layer_norm."""
    if len(tuple(normalized_shape)) != 1:
        raise Refused(f"expected a norm over the last axis, got {tuple(normalized_shape)}")
    w = None if weight is None else constant(weight, "weight")
    b = None if bias is None else constant(bias, "bias")
    x = features_last(facts, value)
    step = Step(lambda _: fg.LayerNorm(w, b, eps=eps))
    return x.then(step, (*x.axes[:-1], FEATURES))


def relu(facts: Facts, value: object, inplace: object = False) -> Tensor:
    return _apply(facts, value, fg.ReLU)


def tanh(facts: Facts, value: object) -> Tensor:
    return _apply(facts, value, fg.Tanh)


def sigmoid(facts: Facts, value: object) -> Tensor:
    return _apply(facts, value, fg.Sigmoid)


def softmax(
    facts: Facts, value: object, dim: object = None, _stacklevel: int = 3, dtype: object = None
) -> Tensor:
    return _softmax(facts, value, fg.Softmax, dim, dtype)


def log_softmax(
    facts: Facts, value: object, dim: object = None, _stacklevel: int = 3, dtype: object = None
) -> Tensor:
    return _softmax(facts, value, fg.LogSoftmax, dim, dtype)


def _softmax(
    facts: Facts, value: object, make: type[fg.Layer], dim: object, dtype: object
) -> Tensor:
    x = tensor_of(value)
    if dtype is not None and str(dtype) != "torch.float32":
        raise Refused(f"dtype: expected float32, got {dtype}")
    if dim is None:  # as torch chooses
        dim = 0 if len(x.axes) in (0, 1, 3) else 1
    axis = x.axes[position(dim, x.axes)]
    if axis != x.axes[-1]:
        raise Refused(f"over {facts.text(axis)}: expected the features, in the last axis")
    return _apply(facts, x, make)


def dropout(
    facts: Facts, value: object, p: object = 0.5, training: object = True, inplace: object = False
) -> Tensor:
    """Nothing, if it is off where the module is in eval mode."""
    if training is not False:
        raise Refused(
            "training=True drops in eval mode too, and gives other numbers each time: pass "
            "training=self.training"
        )
    return tensor_of(value)


# ---- over time ----


def over(facts: Facts, value: object, dim: object, layer: Any, keepdim: object = False) -> Tensor:
    """Last, Mean or Max, where `dim` is time."""
    x = tensor_of(value)
    if isinstance(dim, (tuple, list)) and len(dim) == 1:
        (dim,) = dim
    at = position(dim, x.axes)
    if x.indices:
        raise Refused("takes the input, which is indices: an embedding comes first")
    if x.axes[at] == FEATURES:
        raise Refused("over the features: fastgru has Mean, Max and Last over time only")
    facts.require(x.axes[at], TIME)
    if x.padded:
        raise Refused(
            "looks at the padding of pad_packed_sequence: take h_n, or leave packing out and call "
            "the Model with lengths=, which Last, Mean and Max honour"
        )
    kept = (ONE,) if keepdim else ()
    return x.then(Step(lambda _: layer()), (*x.axes[:at], *kept, *x.axes[at + 1 :]))


def mean(
    facts: Facts,
    value: object,
    dim: object = None,
    keepdim: object = False,
    *,
    dtype: object = None,
) -> Tensor:
    if dtype is not None and str(dtype) != "torch.float32":
        raise Refused(f"dtype: expected float32, got {dtype}")
    return over(facts, value, dim, over_time.Mean, keepdim)


def amax(facts: Facts, value: object, dim: object = (), keepdim: object = False) -> Tensor:
    return over(facts, value, dim, over_time.Max, keepdim)


def max_(facts: Facts, value: object, dim: object = None, keepdim: object = False) -> MaxResult:
    """torch.max with a dim."""
    values = over(facts, value, dim, over_time.Max, keepdim)
    return MaxResult(values, Missing("the indices of max"))


def flip(facts: Facts, value: object, *given: Any, dims: Any = ()) -> Tensor:
    """Over time: Reverse."""
    dims = given or (dims,)
    if isinstance(dims[0], (tuple, list)):
        dims = tuple(dims[0])
    x = tensor_of(value)
    if len(dims) != 1:
        raise Refused(f"expected to turn round the time axis alone, got dims {list(dims)}")
    facts.require(x.axes[position(dims[0], x.axes)], TIME)
    if facts.has_lengths or x.indices:
        what = "indices" if x.indices else "padding"
        raise Refused(f"turns {what} round too: put it between other layers, without packing")
    return x.then(Step(lambda _: over_time.Reverse()), x.axes)


def adaptive_avg_pool1d(facts: Facts, value: object, output_size: object) -> Tensor:
    return _pool_to_one(facts, value, output_size, over_time.Mean)


def adaptive_max_pool1d(
    facts: Facts, value: object, output_size: object, return_indices: object = False
) -> Tensor:
    if return_indices:
        raise Refused("return_indices: a Model does not give the indices of max")
    return _pool_to_one(facts, value, output_size, over_time.Max)


def _pool_to_one(facts: Facts, value: object, output_size: Any, layer: Any) -> Tensor:
    if output_size not in (1, (1,), [1]):
        raise Refused(f"output_size: expected 1, one value for all steps, got {output_size}")
    x = tensor_of(value)
    if len(x.axes) != 3:
        raise Refused(f"expected (batch, features, time), got {facts.axes_text(x.axes)}")
    return over(facts, x, -1, layer, keepdim=True)


def max_pool1d(  # noqa: PLR0917
    facts: Facts,
    value: object,
    kernel_size: Any,
    stride: Any = None,
    padding: object = 0,
    dilation: object = 1,
    ceil_mode: object = False,
    return_indices: object = False,
) -> Tensor:
    """As AdaptiveMaxPool1d(1), where the window is the whole of x."""
    x = tensor_of(value)
    window = kernel_size[0] if kernel_size and isinstance(kernel_size, list) else kernel_size
    whole = len(x.axes) == 3 and window == Size((x.axes[-1],))
    if not whole or stride not in (None, window) or (padding, dilation) != (0, 1):
        raise Refused("a window over steps: expected one over all of them, x.size(-1)")
    return adaptive_max_pool1d(facts, x, 1, return_indices)
