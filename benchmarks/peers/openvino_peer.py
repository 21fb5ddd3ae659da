"""OpenVINO, CPU plugin: the ONNX graph of onnx_graph.py, latency hint, float32 forced.

Arrays are set once as the request's own tensors and `infer` is called without arguments: handing
arrays over in each call costs several times as much as a small GRU does.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any

import numpy as np

from benchmarks.cases import Case
from benchmarks.inputs import CHECK_STEPS, Answer, Array32, Inputs
from benchmarks.peers import FLOAT32_TOLERANCE, Runner, onnx_graph


class Peer:
    precision = "float32"
    tolerance = FLOAT32_TOLERANCE
    precision_hint = "f32"

    def __init__(self) -> None:
        self.openvino: Any = importlib.import_module("openvino")
        importlib.import_module("onnx")
        self.core: Any = self.openvino.Core()
        self.version: str = importlib.metadata.version("openvino")

    def unsupported(self, case: Case) -> str | None:
        return onnx_graph.unsupported(case)

    def build(self, case: Case, inputs: Inputs) -> list[Runner]:
        model = onnx_graph.build(case, inputs)
        runners = []
        # Pinning moves worker threads to fixed cores: a gain or a loss only where there are any.
        for pinned in (False, True) if case.threads > 1 else (False,):
            compiled = self._compile(model, case.threads, pinned)
            setting = "bound tensors" + (", pinned" if pinned else "")
            build = self._bound if case.mode == "call" else self._live
            runners.append(build(compiled, case, inputs, setting))
        return runners

    def _compile(self, model: bytes, threads: int, pinned: bool) -> Any:
        compiled = self.core.compile_model(
            self.core.read_model(model),
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": "1",
                "INFERENCE_NUM_THREADS": threads,
                "INFERENCE_PRECISION_HINT": self.precision_hint,
                "ENABLE_CPU_PINNING": pinned,
            },
        )
        got = compiled.get_property("INFERENCE_NUM_THREADS")
        if got != threads:
            raise RuntimeError(f"OpenVINO uses {got} threads, asked for {threads}")
        return compiled

    def _request(self, compiled: Any, into: dict[str, Array32], out: dict[str, Array32]) -> Any:
        """A request that reads and writes these arrays in place."""
        request = compiled.create_infer_request()
        for name, array in (into | out).items():
            request.set_tensor(name, self.openvino.Tensor(array, shared_memory=True))
        return request

    def _bound(self, compiled: Any, case: Case, inputs: Inputs, setting: str) -> Runner:
        y = np.empty((case.T, case.B, case.D * case.H), np.float32)
        h_n = np.empty((case.L * case.D, case.B, case.H), np.float32)
        infer = self._request(compiled, {"x": inputs.x}, {"y": y, "h_n": h_n}).infer

        def run() -> None:
            infer(share_outputs=True)

        def answer() -> Answer:
            run()
            return y.copy(), h_n.copy()

        return Runner(setting, run, answer)

    def _live(self, compiled: Any, case: Case, inputs: Inputs, setting: str) -> Runner:
        """The state goes back and forth between two arrays, so that no call has to copy it."""
        y = np.empty((1, case.B, case.H), np.float32)
        states = [np.zeros((case.L, case.B, case.H), np.float32) for _ in range(2)]
        turns = []  # (infer, the state it writes); the first one runs next
        for i in range(2):
            into = {"x": inputs.x, "h_0": states[i]}
            request = self._request(compiled, into, {"y": y, "h_n": states[1 - i]})
            turns.append((request.infer, states[1 - i]))

        def run() -> None:
            turns[0][0](share_outputs=True)
            turns.reverse()

        def answer() -> Answer:
            for state in states:
                state[:] = 0
            for _ in range(CHECK_STEPS):
                run()
            return y.copy(), turns[-1][1].copy()

        return Runner(setting, run, answer)
