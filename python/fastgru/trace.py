"""Every gate of every step, for plots and debugging: `GRU.trace`.

Runs layer by layer and keeps everything, so it takes 4*L*D*T*B*H floats and far more time than a
call. Refuses lengths and packed input: trace a row at a time instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fastgru.arrays import Float32Array, as_float32, as_state
from fastgru.problems import call_problems, raise_any

if TYPE_CHECKING:
    from fastgru.gru import GRU


class Trace(NamedTuple):
    """What each gate did: float32 arrays, each (L*D, T, B, H).

    hidden_t = (1 - update_t) * candidate_t + update_t * hidden_{t-1}, where the reverse direction's
    t - 1 is the later step. B is 1 for unbatched input. `fastgru.GRU.trace` has an example.
    """

    reset: Float32Array
    update: Float32Array
    candidate: Float32Array
    hidden: Float32Array


def trace(gru: GRU, x: ArrayLike, h_0: ArrayLike | None) -> Trace:
    """See `GRU.trace`."""
    raise_any("trace", call_problems(gru, x, h_0))  # takes no time beside the rest
    directions = 2 if gru.bidirectional else 1
    layer_input = as_float32("x", x)
    state = None if h_0 is None else as_state("h_0", h_0)
    if layer_input.ndim == 2:
        layer_input = layer_input[:, None]
        state = None if state is None else state[:, None]
    elif gru.batch_first:
        layer_input = layer_input.swapaxes(0, 1)

    layers = []
    for layer in range(gru.num_layers):
        first = layer * directions
        h_layer = None if state is None else state[first : first + directions]
        gates = gru._core.trace_layer(layer, layer_input, h_layer)  # (4, D, T, B, H)
        layers.append(gates)
        layer_input = np.concatenate(list(gates[0]), axis=-1)  # (T, B, D*H)
    hidden, reset, update, candidate = np.concatenate(layers, axis=1)
    return Trace(reset, update, candidate, hidden)
