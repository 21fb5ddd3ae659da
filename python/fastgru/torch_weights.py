"""The packed copy of a PyTorch GRU's weights, and whether it is still what the module has.

Serves fastgru.torch alone. Refuses weights that are not the module's own float32 parameters in CPU
memory: what computes them would have to run before every call.

Note [Changed weights]: packed weights are a copy, and a model that still ran the old ones after
load_state_dict would be wrong in silence. So every call looks whether the parameters are those that
were packed: the same objects (`module.weight = ...`, functional_call) at the same address
(`p.data = ...`, `.to()`) with the same version, which torch counts up with every change in place.
It does not count changes through `p.data` or a NumPy view, and parameters made in inference mode
have no version: therefore up to 16 elements of each are compared too, bit by bit. Only a change
through `p.data` or NumPy that leaves all of these alone is missed. All that takes 0.4 us for each
parameter (Zen 4), 1.7 us for a cell whose call takes 10.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastgru.gru import GRU
from fastgru.spec import spec_from_tensors, tensor_names

_SAMPLES = 4  # along each axis of a weight; a bias has as many


class Seen(NamedTuple):
    """A parameter as it was when it was packed."""

    name: str
    tensor: Tensor
    version: int | None
    data_ptr: Callable[[], int]
    address: int
    sample: Callable[[], bytes]  # reads the memory at `address`, while the tensor is there
    bits: bytes


@dataclass(frozen=True)
class PackedWeights:
    """A fastgru GRU and the parameters that it was made of."""

    gru: GRU
    seen: tuple[Seen, ...]

    def is_current(self, parameters: Mapping[str, Tensor | None]) -> bool:
        """Whether `parameters`, a module's own, are what was packed: Note [Changed weights]."""
        for name, tensor, version, data_ptr, address, sample, bits in self.seen:
            if (
                parameters.get(name) is not tensor
                or (version is not None and tensor._version != version)
                or data_ptr() != address
                or sample() != bits
            ):
                return False
        return bool(self.seen)


def pack_weights(module: Any, precision: str, num_threads: int | None) -> PackedWeights:
    """Of a module that has no `problems_of`."""
    seen = see_weights(module)  # before they are read: what changes meanwhile is found later
    spec = spec_from_tensors({name: module._parameters[name] for name in _names(module)}, prefix="")
    return PackedWeights(GRU(spec, precision=precision, num_threads=num_threads), seen)


def see_weights(module: Any) -> tuple[Seen, ...]:
    """The module's parameters as they are now."""
    seen = []
    for name in _names(module):
        tensor = module._parameters[name]
        array = tensor.detach().numpy()
        some = array[tuple(slice(None, None, -(-size // _SAMPLES)) for size in array.shape)]
        version = None if tensor.is_inference() else tensor._version
        data_ptr, sample = tensor.data_ptr, some.tobytes
        seen.append(Seen(name, tensor, version, data_ptr, data_ptr(), sample, sample()))
    return tuple(seen)


def problems_of(module: Any) -> Iterator[str]:
    """Why this module's weights cannot be packed, or are not what its forward would use."""
    if "forward" in vars(module):
        yield "the instance has a forward of its own, which would hide fastgru's: remove it"
    names = _names(module)
    computed = [name for name in names if module._parameters.get(name) is None]
    if computed:
        yield (
            f"{', '.join(computed)}: expected parameters of the module's own; weight_norm, prune "
            "and parametrizations compute them: make that permanent with remove_weight_norm, "
            "prune.remove or remove_parametrizations of torch.nn.utils"
        )
        return
    tensors = [module._parameters[name] for name in names]
    if any(torch._C._functorch.is_functorch_wrapped_tensor(tensor) for tensor in tensors):
        yield (
            "weights: torch.vmap and other transforms of torch.func cannot look into fastgru: call "
            "each model by itself, or undo it with a second fastgru.torch.replace_gru(model)"
        )
        return
    places = {str(tensor.device) for tensor in tensors if tensor.device.type != "cpu"}
    if places:
        yield f"weights: expected CPU memory, got {', '.join(sorted(places))}; call .cpu() first"
    dtypes = {str(tensor.dtype) for tensor in tensors if tensor.dtype != torch.float32}
    if dtypes:
        yield f"weights: expected torch.float32, got {', '.join(sorted(dtypes))}; call .float()"


def _names(module: Any) -> list[str]:
    """Of the weights, as the module has them."""
    if isinstance(module, nn.GRU):
        return tensor_names(range(module.num_layers), module.bidirectional, module.bias)
    return [name.removesuffix("_l0") for name in tensor_names([0], False, module.bias)]
