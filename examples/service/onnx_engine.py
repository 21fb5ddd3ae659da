"""The same service on ONNX Runtime, for comparison: each session by itself, with its own state.

A graph with one GRU node a layer is built from fastgru's copy of the weights. Sessions' arrays are
bound once (IO binding), which is the fastest way that ONNX Runtime has for single steps. It steps
one after the other, on the event loop, since ONNX Runtime has no batches of sessions whose states
are not together in one array.

Letters: T time, L layers, I input, H hidden size.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from engines import Array, Network

import fastgru


def build_graph(gru: fastgru.GRU) -> bytes:
    """X [T, 1, I], h_0 [L, 1, H] -> y [T, 1, H], h_n [L, 1, H], as ONNX bytes."""
    onnx: Any = importlib.import_module("onnx")
    node, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    tensors, layers, hidden = gru.tensors(), gru.num_layers, gru.hidden_size
    zeros = np.zeros(3 * hidden, np.float32)

    def zrn(name: str) -> Array:
        """PyTorch's gate order r, z, n -> ONNX's z, r, h."""
        r, z, n = np.split(tensors.get(name, zeros), 3)
        return np.concatenate([z, r, n])

    constants: dict[str, Any] = {"one": np.array([1])}
    states = [f"h_0.{k}" for k in range(layers)]
    nodes = [node("Split", ["h_0"], states, axis=0, num_outputs=layers)]
    below = "x"
    for k, state in enumerate(states):
        constants[f"W.{k}"] = zrn(f"weight_ih_l{k}")[None]
        constants[f"R.{k}"] = zrn(f"weight_hh_l{k}")[None]
        constants[f"B.{k}"] = np.concatenate([zrn(f"bias_ih_l{k}"), zrn(f"bias_hh_l{k}")])[None]
        above = "y" if k == layers - 1 else f"y.{k}"
        nodes += [
            node(
                "GRU",
                [below, f"W.{k}", f"R.{k}", f"B.{k}", "", state],
                [f"Y.{k}", f"h_n.{k}"],
                hidden_size=hidden,
                linear_before_reset=int(gru.reset_after),
            ),
            node("Squeeze", [f"Y.{k}", "one"], [above]),  # [T, 1, 1, H] -> [T, 1, H]
        ]
        below = above
    nodes.append(node("Concat", [f"h_n.{k}" for k in range(layers)], ["h_n"], axis=0))
    number = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "gru",
        [
            info("x", number, ["T", 1, gru.input_size]),
            info("h_0", number, [layers, 1, hidden]),
        ],
        [info("y", number, ["T", 1, hidden]), info("h_n", number, [layers, 1, hidden])],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opset = onnx.helper.make_opsetid("", 18)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
    onnx.checker.check_model(model)
    serialized: bytes = model.SerializeToString()
    return serialized


class _Session:
    """One sequence: its arrays, and two bindings that carry the state to and fro between two."""

    def __init__(self, runtime: Any, gru: fastgru.GRU) -> None:
        self.x = np.zeros((1, 1, gru.input_size), np.float32)
        self.y = np.zeros((1, 1, gru.hidden_size), np.float32)
        shape = (gru.num_layers, 1, gru.hidden_size)
        states = [np.zeros(shape, np.float32) for _ in range(2)]
        self.turns = [
            self._binding(runtime, {"x": self.x, "h_0": h_0}, {"y": self.y, "h_n": h_n})
            for h_0, h_n in (states, reversed(states))
        ]
        self._states = states  # bindings do not keep them alive

    @staticmethod
    def _binding(runtime: Any, into: dict[str, Array], out: dict[str, Array]) -> Any:
        binding = runtime.io_binding()
        for bind, arrays in ((binding.bind_input, into), (binding.bind_output, out)):
            for name, array in arrays.items():
                bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        return binding


class OnnxEngine:
    """engines.Engine on ONNX Runtime; it cannot save sessions."""

    name = "onnxruntime"

    def __init__(self, gru: Network, capacity: int) -> None:
        """Refuses all but a bare GRU in float32 with PyTorch's activations (ValueError)."""
        if not isinstance(gru, fastgru.GRU):
            raise ValueError(f"onnxruntime: expected a bare GRU, got a {type(gru).__name__}")
        if (gru.precision, gru.activation, gru.recurrent_activation) != (
            "float32",
            "tanh",
            "sigmoid",
        ):
            raise ValueError("onnxruntime: expected float32, tanh and sigmoid")
        if gru.bidirectional:
            raise ValueError("onnxruntime: expected a unidirectional model")
        runtime: Any = importlib.import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = gru.num_threads or 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._runtime: Any = runtime.InferenceSession(
            build_graph(gru), sess_options=options, providers=["CPUExecutionProvider"]
        )
        self.input_size, self.output_size = gru.input_size, gru.hidden_size
        self._gru, self._capacity = gru, capacity
        self._sessions: dict[int, _Session] = {}
        self._opened = 0

    def open(self) -> int:
        if len(self._sessions) == self._capacity:
            raise fastgru.PoolFullError(f"all {self._capacity} sessions are open")
        self._opened += 1
        self._sessions[self._opened] = _Session(self._runtime, self._gru)
        return self._opened

    def close(self, session: int) -> None:
        del self._sessions[session]

    def sessions(self) -> list[int]:
        return list(self._sessions)

    async def step(self, session: int, x_t: Array) -> Array:
        arrays = self._sessions[session]
        arrays.x[0, 0] = x_t
        self._runtime.run_with_iobinding(arrays.turns[0])
        arrays.turns.reverse()
        return arrays.y.reshape(-1).copy()

    def sequence(self, x: Array) -> Array:
        h_0 = np.zeros((self._gru.num_layers, 1, self.output_size), np.float32)
        y: Array = self._runtime.run(["y"], {"x": x[:, None], "h_0": h_0})[0].squeeze(1)
        return y

    def counters(self) -> dict[str, float]:
        return {}

    async def aclose(self) -> None:
        pass

    def snapshot(self, path: Path) -> None:
        raise NotImplementedError

    restore = snapshot
