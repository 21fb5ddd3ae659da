"""A Model against the module that it was made of: random input, and the largest difference.

Refuses to touch what is the caller's: a copy of the module is run, and the random numbers come from
a generator of their own.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgru.arrays import Float32Array
from fastgru.errors import UnsupportedLayerError
from fastgru.layers import Embedding, OneHot
from fastgru.model import Model
from fastgru.text import Message

LIMIT = 1e-4
"""Of the difference in float32; 1e-7 to 1e-6 is rounding, more is another function."""

# T, B; one of them twice: a module that keeps a state between calls gives other numbers then
_SHAPES = ((1, 1), (2, 3), (2, 3), (7, 2), (3, 7), (25, 4))


def max_error(module: Any, model: Model) -> float:
    """How far `model` is from the torch.nn.Module it was made of, on random input.

    The largest difference of the outputs, divided by the largest output where that is above 1. Both
    run on a few shapes: normal numbers, any indices where the model takes those, and random lengths
    where the module's forward requires a second input. The module runs in eval mode and in float32;
    a copy of it, so that nothing of the caller's changes. The model may be in any precision and may
    come from a file.

    Raises UnsupportedLayerError where shapes differ or the module fails on such input, TypeError
    for what is no torch.nn.Module or not in CPU memory.

    >>> import torch, fastgru
    >>> head = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh())
    >>> weight, bias = head[0].parameters()
    >>> model = fastgru.Model([fastgru.Linear(weight, bias), fastgru.Tanh()])
    >>> fastgru.max_error(head, model) < 1e-6
    True
    """
    if not isinstance(model, Model):
        raise TypeError(f"model: expected a Model, got {type(model).__name__}")
    return measured(eval_copy(module), model)


def eval_copy(module: Any) -> Any:
    """A copy in eval mode and float32, which shares the parameters where they are float32."""
    import torch  # noqa: PLC0415

    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module: expected a torch.nn.Module, got {type(module).__name__}")
    module = getattr(module, "_orig_mod", module)  # of torch.compile
    if isinstance(module, torch.nn.DataParallel):
        module = module.module
    tensors = [*module.parameters(), *module.buffers()]
    away = sorted({str(tensor.device) for tensor in tensors} - {"cpu"})
    if away:
        raise TypeError(
            f"module: expected it in CPU memory, got {', '.join(away)}; pass its .cpu()"
        )
    floats = all(p.dtype == torch.float32 for p in tensors if p.is_floating_point())
    # an embedding with max_norm changes its weight when it is called
    changes = any(getattr(part, "max_norm", None) is not None for part in module.modules())
    share = floats and not changes
    shared = {id(parameter): parameter for parameter in module.parameters()} if share else {}
    try:
        result = copy.deepcopy(module, shared)
    except Exception as error:
        raise UnsupportedLayerError(
            f"the module cannot be copied ({error}); the old weight_norm leaves such modules: make "
            "it permanent with torch.nn.utils.remove_weight_norm"
        ) from error
    return (result if floats else result.float()).eval()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No gradients, and the random numbers of the process stay as they are."""
    import torch  # noqa: PLC0415

    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        yield


def measured(module: Any, model: Model) -> float:
    """`max_error` of a module that may be run."""
    worst = 0.0
    for inputs, lengths in cases(module, model):
        theirs, ours = run(module, inputs), model(inputs[0], lengths=lengths)
        shapes = tuple(getattr(theirs, "shape", ())), ours.shape
        if shapes[0] != shapes[1]:
            x = tuple(inputs[0].shape)
            raise UnsupportedLayerError(
                f"for x {x} the module gives {shapes[0]}, the Model {shapes[1]}"
            )
        worst = max(worst, difference(ours, theirs.numpy()))
    return worst


def own_error(module: Any, model: Model) -> float:
    """How far a module in float32 is from itself in float64, on what `measured` runs; 0: unknown.

    Where a LayerNorm follows numbers that are almost equal, rounding alone is large.
    """
    import torch  # noqa: PLC0415

    double, worst = copy.deepcopy(module).double(), 0.0
    for inputs, _ in cases(module, model):
        wide = [part.double() if part.dtype == torch.float32 else part for part in inputs]
        try:
            exact = run(double, wide)
        except UnsupportedLayerError:  # torch.zeros in forward, for one, are float32
            return 0.0
        worst = max(worst, difference(run(module, inputs).numpy(), exact.numpy()))
    return worst


def cases(module: Any, model: Model) -> Iterator[tuple[list[Any], Any]]:
    """Inputs of the module, and lengths or None: the same ones each time."""
    import torch  # noqa: PLC0415

    from fastgru.torch_chain.tracing import required_inputs  # noqa: PLC0415

    generator = torch.Generator().manual_seed(0)
    with_lengths = len(required_inputs(module)) > 1
    for steps, batch in _SHAPES:
        x = _random_input(model, steps, batch, generator)
        if not with_lengths:
            yield [x], None
            continue
        # longest first, for packing may require it
        lengths = torch.randint(1, steps + 1, (batch,), generator=generator)
        lengths = lengths.sort(descending=True).values
        lengths[0] = steps
        yield [x, lengths], lengths


def run(module: Any, inputs: list[Any]) -> Any:
    """What the module gives; UnsupportedLayerError with the line of forward where it fails."""
    try:
        with quiet():
            return module(*inputs)
    except Exception as error:
        from fastgru.torch_chain.places import place_of  # noqa: PLC0415

        x, kind = tuple(inputs[0].shape), type(error).__name__
        told = f"the module fails on random x {x}{place_of(error)}: {kind}: {error}"
        raise UnsupportedLayerError(Message(*told.splitlines())) from error


def _random_input(model: Model, steps: int, batch: int, generator: Any) -> Any:
    import torch  # noqa: PLC0415

    first = model[0]
    shape = (batch, steps) if model.batch_first else (steps, batch)
    if isinstance(first, (Embedding, OneHot)):
        rows = first.num_embeddings if isinstance(first, Embedding) else first.num_classes
        return torch.randint(rows, shape, generator=generator)
    return torch.randn(*shape, model.input_size or 1, generator=generator)


def difference(ours: Float32Array, theirs: NDArray[Any]) -> float:
    """The largest, divided by the largest of `theirs` where that is above 1.

    Equal infinities, and NaN in both, are no difference; NaN in one is an infinite one.
    """
    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.where(same, 0, np.abs(ours.astype(np.float64) - theirs))
    largest = np.abs(theirs[np.isfinite(theirs)]).max(initial=1)
    return float(np.nan_to_num(error, nan=np.inf).max(initial=0) / largest)
