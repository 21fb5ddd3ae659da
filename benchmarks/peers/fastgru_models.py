"""Whole models in fastgru: as users get them from `from_torch`, called, streamed and pooled.

With a step come its parts, each by itself on the same rows: what a whole step costs beyond its
layers is the difference. With a pool's step comes the step of a plain batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks import models
from benchmarks.cases import Case
from benchmarks.inputs import CHECK_STEPS, Answer, Array32, Inputs, no_states
from benchmarks.peers import Runner

SESSIONS_A_ROW = 4
"""Open sessions of a pool for each one in a step: those of a step do not lie side by side."""


def layer(fastgru: Any, case: Case, kind: models.Kind, state: Mapping[str, Array32]) -> Any:
    if kind == "gru":
        return fastgru.GRU.from_state_dict(
            state, reset_after=case.reset_after, num_threads=case.threads
        )
    names = {
        "embedding": "Embedding",
        "last": "Last",
        "linear": "Linear",
        "layer_norm": "LayerNorm",
        "relu": "ReLU",
        "sigmoid": "Sigmoid",
        "softmax": "Softmax",
        "log_softmax": "LogSoftmax",
    }
    return getattr(fastgru, names[kind])(*state.values())


def network(fastgru: Any, case: Case, inputs: Inputs) -> Any:
    """The fastgru.Model of a case."""
    return fastgru.Model(
        layer(fastgru, case, described.kind, inputs.of_layer(index))
        for index, described in enumerate(models.layers(case))
    )


def build(fastgru: Any, case: Case, inputs: Inputs, precision: str) -> list[Runner]:
    fastgru.set_num_threads(case.threads)  # of layers that have no number of their own
    model = network(fastgru, case, inputs)
    if precision != "float32":
        model = model.to(precision)
    model.num_threads = case.threads
    isa = next(part.isa for part in model.layers if isinstance(part, fastgru.GRU))
    make = {"call": _call, "step": _step, "pool": _pool}[case.mode]
    return [make(fastgru, model, isa, case, inputs)]


def _call(fastgru: Any, model: Any, isa: str, case: Case, inputs: Inputs) -> Runner:
    x = inputs.x

    def answer() -> Answer:
        return model(x), no_states(case)

    return Runner(isa, lambda: model(x), answer)


def _row(case: Case, x: Any) -> Any:
    """One step's input as a user has it: (B, I) or (I,), indices (B,) or one."""
    if case.B > 1:
        return x[0]
    return int(x[0, 0]) if x.ndim == 2 else x[0, 0]


def _joined(states: list[Array32]) -> Array32:
    return np.concatenate(states)


def _step(fastgru: Any, model: Any, isa: str, case: Case, inputs: Inputs) -> Runner:
    x_t = _row(case, inputs.x)
    stream = model.stream(case.B)

    def answer() -> Answer:
        stream.reset()
        for _ in range(CHECK_STEPS):
            y = stream.step(x_t)
        return y.reshape(case.B, case.O).copy(), _joined(stream.state)

    parts = _parts(fastgru, model, case, x_t, answer()[0])
    return Runner(isa, lambda: stream.step(x_t), answer, parts)


def _parts(
    fastgru: Any, model: Any, case: Case, x_t: Any, right: Array32
) -> dict[str, Callable[[], object]]:
    """GRUs' steps, linear layers, all layers in their order, and as many calls that do nothing.

    The rows are those of the model's own step number CHECK_STEPS, whose answer they have to give.
    What does next to nothing is a linear layer with one weight.
    """
    working = [part for part in model.layers if not isinstance(part, fastgru.Last)]
    run = [p.stream(case.B).step if isinstance(p, fastgru.GRU) else p for p in working]
    for _ in range(CHECK_STEPS):
        y, calls = x_t, []
        for function in run:
            calls.append(_bound(function, y))
            y = function(y)
    if not np.array_equal(y.reshape(case.B, case.O), right):
        raise RuntimeError("the layers one by one give something else than the model")
    one = _bound(fastgru.Linear(np.ones((1, 1), np.float32)), np.ones((1,), np.float32))

    def of(kind: Any) -> Callable[[], object]:
        return _all([c for c, part in zip(calls, working, strict=True) if isinstance(part, kind)])

    return {
        "gru": of(fastgru.GRU),
        "linear": of(fastgru.Linear),
        "layers": _all(calls),
        "calls": _all([one] * len(calls)),
    }


def _bound(function: Callable[[Any], object], row: Any) -> Callable[[], object]:
    return lambda: function(row)


def _all(calls: list[Callable[[], object]]) -> Callable[[], object]:
    if len(calls) == 1:
        return calls[0]

    def run() -> None:
        for call in calls:
            call()

    return run


def _pool(fastgru: Any, model: Any, isa: str, case: Case, inputs: Inputs) -> Runner:
    x = inputs.x[0]
    pool = model.pool(SESSIONS_A_ROW * case.B)
    opened = np.array([pool.open() for _ in range(SESSIONS_A_ROW * case.B)])
    ids = np.random.default_rng(0).permutation(opened)[: case.B]
    zeros = [np.zeros_like(state) for state in pool.get_state(ids[0])]
    batch = model.stream(case.B)

    def answer() -> Answer:
        for one in ids:
            pool.set_state(one, zeros)
        for _ in range(CHECK_STEPS):
            y = pool.step(ids, x)
        states = [_joined(pool.get_state(one)) for one in ids]  # B times (layers of all, H)
        return y, np.stack(states, axis=1)

    def plain() -> object:
        return batch.step(x_t)

    x_t = _row(case, inputs.x)
    return Runner(isa, lambda: pool.step(ids, x), answer, {"batch": plain})
