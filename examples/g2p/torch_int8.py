"""The same network in PyTorch's dynamic int8, for comparison; needs torch."""

from __future__ import annotations

import copy
import warnings

import torch
from g2p import Float32Array, G2p

import fastgru


class _Stream:
    """Steps of a quantized GRU, as `fastgru.Stream` has them."""

    def __init__(self, module: torch.nn.Module, state: Float32Array) -> None:
        self._module = module
        self._state = torch.from_numpy(state)

    def step(self, x_t: Float32Array, *, out: Float32Array) -> Float32Array:
        """x_t: (B, E) -> (B, H)."""
        output, self._state = self._module(torch.from_numpy(x_t)[None], self._state)
        out[:] = output[0].numpy()
        return out


class _Quantized:
    """A GRU in PyTorch's int8, with the calls that `G2p` makes of `fastgru.GRU`."""

    def __init__(self, gru: fastgru.GRU) -> None:
        self.hidden_size = gru.hidden_size
        module = torch.nn.GRU(gru.input_size, gru.hidden_size)
        module.load_state_dict({k: torch.from_numpy(v) for k, v in gru.tensors().items()})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it announces its own replacement by another package
            # In a container, since a module that is itself of a listed type stays.
            (self._module,) = torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
                torch.nn.Sequential(module), {torch.nn.GRU}, dtype=torch.qint8
            )

    def __call__(self, x: Float32Array, *, lengths: Float32Array) -> tuple[None, Float32Array]:
        """Nothing, and the states (1, B, H) after x (T, B, E)."""
        pack = torch.nn.utils.rnn.pack_padded_sequence
        packed = pack(torch.from_numpy(x), torch.from_numpy(lengths), enforce_sorted=False)
        return None, self._module(packed)[1].numpy()

    def stream(self, batch_size: int, h_0: Float32Array) -> _Stream:
        """A stream of `batch_size` rows from h_0 (1, B, H)."""
        return _Stream(self._module, h_0)


def in_torch_int8(model: G2p) -> G2p:
    """The same tables around quantized GRUs."""
    torch.set_num_threads(1)
    other = copy.copy(model)
    other.encoder = _Quantized(model.encoder)  # type: ignore[assignment]
    other.decoder = _Quantized(model.decoder)  # type: ignore[assignment]
    return other
