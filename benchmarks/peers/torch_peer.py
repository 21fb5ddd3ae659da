"""PyTorch eager: torch.nn.GRU (and GRUCell for a single step) under inference_mode."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from typing import Any

from benchmarks.cases import Case
from benchmarks.inputs import CHECK_STEPS, Answer, Inputs
from benchmarks.peers import FLOAT32_TOLERANCE, Runner


class Peer:
    precision = "float32"
    tolerance = FLOAT32_TOLERANCE

    def __init__(self) -> None:
        self.torch: Any = importlib.import_module("torch")
        self.version: str = self.torch.__version__
        # Can be set once per process and only before the first parallel work.
        with contextlib.suppress(RuntimeError):
            self.torch.set_num_interop_threads(1)
        # Entered once, as a service would, and left with this object: entering costs time per call.
        self._mode = self.torch.inference_mode()
        self._mode.__enter__()

    def unsupported(self, case: Case) -> str | None:
        if case.mode == "pool":
            return "it has no pool"
        return None if case.reset_after else "torch.nn.GRU has no reset-before equation"

    def prepared(self, module: Any) -> Any:
        """The module to time instead of this one with its weights loaded: int8 overrides it."""
        return module

    def build(self, case: Case, inputs: Inputs) -> list[Runner]:
        torch = self.torch
        torch.set_num_threads(case.threads)
        if case.model:
            # Imports torch, which here may not be loaded before.
            from benchmarks.peers import torch_models  # noqa: PLC0415

            return torch_models.build(case, inputs)
        state = {name: torch.from_numpy(array) for name, array in inputs.state.items()}
        x = torch.from_numpy(inputs.x)
        zero = torch.zeros(case.L * case.D, case.B, case.H)

        gru = torch.nn.GRU(case.I, case.H, case.L, bidirectional=case.D == 2)
        gru.load_state_dict(state)
        gru = self.prepared(gru.eval())
        if case.ragged:
            return [self._packed(gru, case, x)]
        runners = [self._runner("nn.GRU", gru, case, x, zero)]
        if case.T == case.L == case.D == 1:  # what a PyTorch user may write for one step
            cell = torch.nn.GRUCell(case.I, case.H)
            cell.load_state_dict({name.removesuffix("_l0"): t for name, t in state.items()})
            cell = self.prepared(cell.eval())

            def as_gru(x: Any, h: Any = None) -> tuple[Any, Any]:
                h = cell(x, h)
                return h, h

            runners.append(self._runner("nn.GRUCell", as_gru, case, x[0], zero[0]))
        return runners

    def _packed(self, gru: Callable[..., Any], case: Case, x: Any) -> Runner:
        """Lengths the only way that PyTorch takes them: packing and padding are in the call."""
        rnn, lengths = self.torch.nn.utils.rnn, self.torch.tensor(case.lengths())

        def run() -> tuple[Any, Any]:
            packed = rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
            y, h_n = gru(packed)
            return rnn.pad_packed_sequence(y, total_length=case.T)[0], h_n

        def answer() -> Answer:
            y, h_n = run()
            return y.numpy().copy(), h_n.numpy().copy()

        return Runner("packed sequence", run, answer)

    @staticmethod
    def _runner(setting: str, gru: Callable[..., Any], case: Case, x: Any, zero: Any) -> Runner:
        """`gru(x[, h_0])` -> output, h_n; both lack the leading axis where it is a cell."""
        hidden = [zero]

        def call() -> Any:
            return gru(x)

        def step() -> Any:
            y, hidden[0] = gru(x, hidden[0])
            return y, hidden[0]

        def answer() -> Answer:
            hidden[0] = zero
            for _ in range(1 if case.mode == "call" else CHECK_STEPS):
                y, h_n = run()
            y_shape, h_shape = (case.T, case.B, -1), (-1, case.B, case.H)
            return y.reshape(y_shape).numpy().copy(), h_n.reshape(h_shape).numpy().copy()

        run = call if case.mode == "call" else step
        return Runner(setting, run, answer)
