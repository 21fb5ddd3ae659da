"""PyTorch's tensors as arrays for the engine, and its results as the tensors that PyTorch gives.

Serves fastgru.torch alone. What a tensor shows beside its numbers (strides, dtype, being a view) is
that of torch.nn.GRU's results, since a model's code may rely on it: `.view` works or raises by
strides alone. Refuses tensors that have no memory of their own in the CPU, and other dtypes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fastgru.arrays import Float32Array, as_float32, as_state

_AUTOCAST = (torch.bfloat16, torch.float16)  # what the layer before gives in an autocast region
_interpreter = torch._C._functorch.peek_interpreter_stack  # of torch.func; None outside of it


def result_dtype(x: Tensor, hx: Tensor | None) -> torch.dtype:
    """Of the results: PyTorch's rule in an autocast region, float32 everywhere else.

    The state is added to gates of the region's dtype, and without hx it has the dtype of x.
    """
    dtype = x.dtype if hx is None else hx.dtype
    if dtype is torch.float32:
        return dtype
    return torch.promote_types(dtype, torch.get_autocast_dtype("cpu"))


def read_tensor(name: str, tensor: Tensor, module: Callable[[], str]) -> Float32Array:
    """The tensor's memory where possible; TypeError. `module()` is how errors call the module."""
    dtype = tensor.dtype
    if not tensor.is_cpu:
        raise TypeError(
            f"{name}: expected a tensor in CPU memory, got one on {tensor.device}; pass its .cpu()"
        )
    if dtype is not torch.float32:
        if dtype not in _AUTOCAST or not torch.is_autocast_enabled("cpu"):
            raise TypeError(f"{name}: expected torch.float32, got {dtype}; pass its .float()")
        tensor = tensor.float()
    # torch.func.functionalize gives tensors whose memory NumPy would read and which holds nothing.
    if _interpreter() is not None and torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        raise RuntimeError(
            f"{module()} cannot run under torch.vmap and the other transforms of torch.func, where "
            f"{name} stands for other tensors: call it outside, with a batch, or undo it first "
            "with a second fastgru.torch.replace_gru(model)"
        )
    try:
        if tensor.is_neg():  # the imaginary part of a conjugate, which NumPy has no such view of
            tensor = tensor.resolve_neg()
        array = tensor.numpy()
    except (TypeError, RuntimeError) as error:
        raise _no_memory(name, tensor, module, error) from error
    return as_float32(name, array)


def read_state(hx: Tensor | None, module: Callable[[], str]) -> Float32Array | None:
    """As `read_tensor`, and C-contiguous."""
    return None if hx is None else as_state("hx", read_tensor("hx", hx, module))


def _no_memory(name: str, tensor: Tensor, module: Callable[[], str], error: Exception) -> Exception:
    """Why a tensor that is float32 and on the CPU has no memory that NumPy could see."""
    if tensor.layout is not torch.strided or tensor.is_nested:
        kind = "a nested one" if tensor.is_nested else str(tensor.layout)
        return TypeError(f"{name}: expected a dense tensor, got {kind}; pass it dense or padded")
    return RuntimeError(
        f"{module()} needs tensors with numbers in memory, and {name} is a {type(tensor).__name__} "
        f"({error}); undo it first with a second fastgru.torch.replace_gru(model)"
    )


def as_tensor(array: Float32Array, dtype: torch.dtype) -> Tensor:
    """A fresh result of the engine, which is C-contiguous, in the same memory where it can be."""
    if array.size:
        tensor = torch.from_numpy(array)
    else:  # NumPy's strides are zeros then, torch's are not
        tensor = torch.empty(array.shape, dtype=torch.float32)
    return tensor if dtype is torch.float32 else tensor.to(dtype)


def as_next_state(array: Float32Array, dtype: torch.dtype, hx: Tensor | None) -> Tensor:
    """A cell's result (B, H), in memory column by column where the state before is so."""
    if hx is not None and not hx.is_contiguous() and 0 < hx.stride(0) < hx.stride(1):
        array = np.array(array.T, order="C").T
    return as_tensor(array, dtype)


def as_output(array: Float32Array, dtype: torch.dtype, batch_first: bool) -> Tensor:
    """The output (T, B, D*H) of a batch, as torch.nn.GRU gives it.

    With batch_first torch too runs time first, and transposes the result without copying it.
    """
    tensor = as_tensor(array, dtype)
    return tensor.transpose_(0, 1) if batch_first else tensor


def as_unbatched(array: Float32Array, dtype: torch.dtype, batch_first: bool) -> Tensor:
    """Unbatched output or states, (n, H): in torch a view of what a batch of one gives."""
    batch_of_one = array.reshape(len(array), 1, -1)  # [:, None] would have a stride of 0
    return as_output(batch_of_one, dtype, batch_first).squeeze(0 if batch_first else 1)
