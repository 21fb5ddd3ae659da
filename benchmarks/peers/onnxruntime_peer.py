"""ONNX Runtime, CPU provider: the ONNX graph of onnx_graph.py, one thread pool of the case's size.

Whole models are what torch.onnx.export makes of PyTorch's.

Arrays bound once (IO binding) save several microseconds a call; plain `run` is offered to the
harness beside it, since for large outputs either may win.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks import models
from benchmarks.cases import Case
from benchmarks.inputs import CHECK_STEPS, Answer, Array32, Inputs, no_states
from benchmarks.peers import FLOAT32_TOLERANCE, Runner, onnx_graph


class Peer:
    precision = "float32"
    tolerance = FLOAT32_TOLERANCE

    def __init__(self) -> None:
        self.ort: Any = importlib.import_module("onnxruntime")
        importlib.import_module("onnx")
        self.version: str = self.ort.__version__

    def unsupported(self, case: Case) -> str | None:
        if case.mode == "pool":
            return "it has no pool"
        if case.model and importlib.util.find_spec("torch") is None:
            return "torch, which exports whole models, is not installed"
        return onnx_graph.unsupported(case)

    def build(self, case: Case, inputs: Inputs) -> list[Runner]:
        if case.model:
            return self._whole(case, inputs)
        model = onnx_graph.build(case, inputs)
        runners = []
        for session, spins in self._sessions(model, case.threads):
            if case.mode == "call":
                runners.append(self._bound(session, case, inputs, "binding" + spins))
                runners.append(self._plain(session, inputs, "run" + spins))
            else:
                runners.append(self._live(session, case, inputs, "binding" + spins))
        return runners

    def _sessions(self, model: bytes, threads: int) -> Iterator[tuple[Any, str]]:
        """With what its setting adds. Spinning needs a second thread, and suits some calls only."""
        for spinning in (True, False) if threads > 1 else (False,):
            yield self._session(model, threads, spinning), " spinning" if spinning else ""

    def _session(self, model: bytes, threads: int, spinning: bool) -> Any:
        options = self.ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = self.ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = self.ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
        return self.ort.InferenceSession(
            model, sess_options=options, providers=["CPUExecutionProvider"]
        )

    @staticmethod
    def _binding(session: Any, into: dict[str, Array32], out: dict[str, Array32]) -> Any:
        """Reads and writes these arrays in place; they must outlive it."""
        binding = session.io_binding()
        for bind, arrays in ((binding.bind_input, into), (binding.bind_output, out)):
            for name, array in arrays.items():
                bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        return binding

    def _bound(self, session: Any, case: Case, inputs: Inputs, setting: str) -> Runner:
        y = np.empty((case.T, case.B, case.D * case.H), np.float32)
        h_n = np.empty((case.L * case.D, case.B, case.H), np.float32)
        binding = self._binding(session, {"x": inputs.x}, {"y": y, "h_n": h_n})

        def answer() -> Answer:
            session.run_with_iobinding(binding)
            return y.copy(), h_n.copy()

        return Runner(setting, lambda: session.run_with_iobinding(binding), answer)

    @staticmethod
    def _plain(session: Any, inputs: Inputs, setting: str) -> Runner:
        feed = {"x": inputs.x}

        def run() -> Any:
            return session.run(None, feed)

        def answer() -> Answer:
            y, h_n = run()
            return y, h_n

        return Runner(setting, run, answer)

    def _live(self, session: Any, case: Case, inputs: Inputs, setting: str) -> Runner:
        """The state goes back and forth between two arrays, so that no call has to copy it."""
        y = np.empty((1, case.B, case.H), np.float32)
        states = [np.zeros((case.L, case.B, case.H), np.float32) for _ in range(2)]
        turns = []  # (binding, the state it writes); the first one runs next
        for i in range(2):
            into = {"x": inputs.x, "h_0": states[i]}
            out = {"y": y, "h_n": states[1 - i]}
            turns.append((self._binding(session, into, out), states[1 - i]))

        def run() -> None:
            session.run_with_iobinding(turns[0][0])
            turns.reverse()

        def answer() -> Answer:
            for state in states:
                state[:] = 0
            for _ in range(CHECK_STEPS):
                run()
            return y.copy(), turns[-1][1].copy()

        return Runner(setting, run, answer)

    def _whole(self, case: Case, inputs: Inputs) -> list[Runner]:
        # Imports torch, which only these cases need.
        from benchmarks.peers import torch_models  # noqa: PLC0415

        model = torch_models.to_onnx(case, inputs)
        runners = []
        for session, spins in self._sessions(model, case.threads):
            if case.mode == "call":
                runners += self._whole_call(session, case, inputs, spins)
            else:
                runners.append(self._whole_step(session, case, inputs, "binding" + spins))
        return runners

    def _whole_call(self, session: Any, case: Case, inputs: Inputs, spins: str) -> list[Runner]:
        (output,) = session.get_outputs()
        y = np.empty(output.shape, np.float32)
        binding = self._binding(session, {"x": inputs.x}, {"y": y})
        feed = {"x": inputs.x}

        def bound() -> Answer:
            session.run_with_iobinding(binding)
            return y, no_states(case)

        def plain() -> Answer:
            return session.run(None, feed)[0], no_states(case)

        return [
            Runner("binding" + spins, lambda: session.run_with_iobinding(binding), bound),
            Runner("run" + spins, lambda: session.run(None, feed), plain),
        ]

    def _whole_step(self, session: Any, case: Case, inputs: Inputs, setting: str) -> Runner:
        """The states of each GRU go back and forth between two arrays, as in `_live`."""
        y = np.empty(session.get_outputs()[0].shape, np.float32)  # [1, B, O]
        shapes = [(gru.depth, case.B, gru.outputs) for gru in models.grus(case)]
        states = [[np.zeros(shape, np.float32) for shape in shapes] for _ in range(2)]
        turns = []  # (binding, the states it writes); the first one runs next
        for i in range(2):
            into = {"x": inputs.x} | {f"h_0.{k}": state for k, state in enumerate(states[i])}
            out = {"y": y} | {f"h_n.{k}": state for k, state in enumerate(states[1 - i])}
            turns.append((self._binding(session, into, out), states[1 - i]))

        def run() -> None:
            session.run_with_iobinding(turns[0][0])
            turns.reverse()

        def answer() -> Answer:
            for state in [*states[0], *states[1]]:
                state[:] = 0
            for _ in range(CHECK_STEPS):
                run()
            return y.reshape(case.B, case.O).copy(), np.concatenate(turns[-1][1])

        return Runner(setting, run, answer)
