"""fastgru through its public interface."""

from __future__ import annotations

import importlib

import numpy as np

from benchmarks.cases import Case
from benchmarks.inputs import CHECK_STEPS, Answer, Inputs
from benchmarks.peers import FLOAT32_TOLERANCE, Runner, fastgru_models


class Peer:
    precision = "float32"
    tolerance = FLOAT32_TOLERANCE

    def __init__(self) -> None:
        self.fastgru = importlib.import_module("fastgru")
        self.version: str = self.fastgru.__version__

    def unsupported(self, case: Case) -> str | None:
        return None

    def build(self, case: Case, inputs: Inputs) -> list[Runner]:
        if case.model:
            return fastgru_models.build(self.fastgru, case, inputs, self.precision)
        gru = self.fastgru.GRU.from_state_dict(
            inputs.state,
            reset_after=case.reset_after,
            precision=self.precision,
            num_threads=case.threads,
        )
        x = inputs.x
        if case.mode == "call":
            lengths = np.array(case.lengths()) if case.ragged else None

            def call() -> Answer:
                answer: Answer = gru(x, lengths=lengths)
                return answer

            return [Runner(gru.isa, call if case.ragged else lambda: gru(x), call)]

        x_t = x[0, 0] if case.B == 1 else x[0]
        stream = gru.stream(case.B)
        out = np.empty((*x_t.shape[:-1], case.H), np.float32)

        def step() -> object:
            return stream.step(x_t)

        def step_out() -> object:
            return stream.step(x_t, out=out)

        run = step if case.mode == "step" else step_out

        def answer() -> Answer:
            stream.reset()
            for _ in range(CHECK_STEPS):
                y = np.asarray(run())
            return y.reshape(1, case.B, case.H).copy(), stream.state

        return [Runner(gru.isa, run, answer)]
