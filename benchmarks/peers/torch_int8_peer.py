"""PyTorch's dynamic quantization: int8 weights, activations quantized in every call."""

from __future__ import annotations

import warnings
from typing import Any

from benchmarks.peers import INT8_TOLERANCE, torch_peer


class Peer(torch_peer.Peer):
    precision = "int8"
    tolerance = INT8_TOLERANCE

    def prepared(self, module: Any) -> Any:
        """Quantized inside a container, since a module that is itself of a listed type stays."""
        nn, quantization = self.torch.nn, self.torch.ao.quantization
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it announces its own replacement by another package
            container = quantization.quantize_dynamic(
                nn.Sequential(module), {nn.GRU, nn.GRUCell}, dtype=self.torch.qint8
            )
        (quantized,) = container
        if type(quantized) is type(module):
            raise RuntimeError(f"{type(module).__name__} was not quantized")
        return quantized
