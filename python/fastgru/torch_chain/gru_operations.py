"""torch.nn.GRU -> a GRU of the Model, its output and its h_n.

Here is learnt which axis is time. Refuses an h_0 that is not zeros, and GRUs of which some are
packed and some not: `lengths=` of a Model is for all.
"""

from __future__ import annotations

from typing import Any

from fastgru.convert import parts_of_torch_module
from fastgru.gru import GRU
from fastgru.spec import spec_from_tensors
from fastgru.torch_chain.state_operations import states_of
from fastgru.torch_chain.values import (
    BATCH,
    FEATURES,
    TIME,
    Facts,
    Packed,
    Refused,
    Size,
    Step,
    Zeros,
    tensor_of,
)


def gru(facts: Facts, module: Any, value: object, hx: object = None) -> tuple[object, object]:
    """torch.nn.GRU: its output and h_n."""
    try:
        tensors, batch_first = parts_of_torch_module(module)
        spec = spec_from_tensors(tensors, prefix="")
    except (TypeError, ValueError) as error:
        raise Refused(str(error)) from error
    packed = isinstance(value, Packed)
    x = value.tensor if isinstance(value, Packed) else tensor_of(value)
    if x.indices or len(x.axes) != 3:
        axes = facts.axes_text(x.axes)
        raise Refused(f"expected a batch of sequences of features, 3 axes, got {axes}")
    if not packed:
        for axis, role in zip(
            x.axes, (BATCH, TIME) if batch_first else (TIME, BATCH), strict=False
        ):
            if facts.role(axis) not in (None, role):
                raise Refused(
                    f"batch_first={batch_first} takes {facts.text(axis)} for the {role} axis: this "
                    f"GRU gets {facts.axes_text(x.axes)}"
                )
            facts.require(axis, role)
        if x.padded or facts.packed:
            raise Refused(
                "runs over the padding of pad_packed_sequence; in a Model, lengths= is for every "
                "GRU: pack its input too"
            )
    elif facts.packed is False:
        raise Refused(
            "gets packed input, and a GRU before it did not: in a Model lengths= is for all"
        )
    facts.packed = packed
    facts.require(x.axes[2], FEATURES)
    batch = next(axis for axis in x.axes if facts.role(axis) == BATCH)
    directions = 2 if spec.bidirectional else 1
    _check_start(hx, (spec.num_layers * directions, Size((batch,)), spec.hidden_size))
    step = Step(
        lambda build: GRU(
            spec, batch_first=build.batch_first, num_threads=build.num_threads, isa=build.isa
        ),
        directions,
        spec.hidden_size,
    )
    width = directions * spec.hidden_size
    output = x.then(step, (*x.axes[:2], FEATURES), width)
    last = x.then(step, (batch, FEATURES), width)
    states = states_of(last, spec.num_layers, directions)
    return Packed(output) if packed else output, states


def _check_start(hx: object, expected: tuple[int | Size, ...]) -> None:
    if hx is None:
        return
    if not isinstance(hx, Zeros):
        raise Refused(
            "starts from an h_0 that is not torch.zeros: a Model starts every sequence from zeros "
            "(model.stream() and model.pool() keep states between calls)"
        )
    if hx.shape != expected:
        raise Refused(
            f"h_0: expected torch.zeros({expected[0]}, BATCH, {expected[2]}) where BATCH is the "
            "size of the input's batch axis, as x.size(...) gives it"
        )
