"""Small graphs of any kind around a GRU: `from_onnx` gives ONNX Runtime's result, or refuses.

What ONNX Runtime does with the graph at several sizes of T and B, of those that its input allows,
is the only judge. Sizes are few and small, so that numbers in a graph are equal by chance.
"""

from __future__ import annotations

import math
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import fastgru
from conftest import Array
from onnx_models import assert_near, gru_weights

I, H = 2, 3  # noqa: E741
SIZES = (1, 2, 3, 4)
CALCULATIONS = (
    "Abs", "Add", "Cast", "Div", "Max", "Min", "Mod", "Mul", "Neg", "RSub", "ReduceProd",
    "ReduceSum", "Sub", "Where",
)  # fmt: skip
RNG = np.random.default_rng(0)


class Sketch:
    """A graph while it is drawn: its nodes, and the shape of the last value at example sizes."""

    def __init__(self, data: st.DataObject) -> None:
        self.draw = data.draw
        self.nodes: list[Any] = []
        self.constants: dict[str, Array] = {}
        self.count = 0
        self.value = ""
        self.shape: tuple[int, ...] = ()
        self.x_shape: tuple[int, ...] = ()

    def name(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def constant(self, array: Any, dtype: Any = np.int64) -> str:
        name = self.name()
        self.constants[name] = np.array(array, dtype)
        return name

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = self.name()
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    # ---- integers: constants, sizes, and what is calculated of them, at example sizes ----

    def size(self) -> tuple[str, int]:
        """A vector of one: a size of the input or of the value, and arithmetic on it."""
        of, shape = self.draw(st.sampled_from([("x", self.x_shape), (self.value, self.shape)]))
        if not shape:
            of, shape = "x", self.x_shape
        axis = self.draw(st.integers(0, len(shape) - 1))
        told, number = self.node("Shape", of), shape[axis]
        name = self.node("Gather", told, self.constant([axis]))
        for _ in range(self.draw(st.integers(0, 2))):
            name, number = self.calculated(name, number)
        return name, number

    def calculated(self, name: str, number: int) -> tuple[str, int]:
        other = self.draw(st.sampled_from([-2, -1, 0, 1, 2, 3]))
        second = self.constant([other])
        op = self.draw(st.sampled_from(CALCULATIONS))
        if op in ("Div", "Mod") and other <= 0:
            op = "Add"
        results = {
            "Add": number + other,
            "Sub": number - other,
            "Mul": number * other,
            "Min": min(number, other),
            "Max": max(number, other),
            "Neg": -number,
            "Abs": abs(number),
            "RSub": other - number,
        }
        if op in {"Neg", "Abs"}:
            return self.node(op, name), results[op]
        if op == "RSub":
            return self.node("Sub", second, name), results[op]
        if op in ("ReduceProd", "ReduceSum"):
            both = self.node("Concat", name, second, axis=0)
            axes = {"axes": [0]} if op == "ReduceProd" else {}
            given = [both] if op == "ReduceProd" else [both, self.constant([0])]
            result = number * other if op == "ReduceProd" else number + other
            return self.node(op, *given, keepdims=1, **axes), result
        if op == "Cast":
            wide = self.node("Cast", name, to=TensorProto.FLOAT)
            return self.node("Cast", wide, to=TensorProto.INT64), number
        if op == "Where":
            compare = self.draw(st.sampled_from(["Less", "Equal", "Greater", "LessOrEqual"]))
            holds = {
                "Less": number < other,
                "Equal": number == other,
                "Greater": number > other,
                "LessOrEqual": number <= other,
            }[compare]
            which = self.node(compare, name, second)
            return self.node("Where", which, second, name), other if holds else number
        if op == "Div":
            return self.node("Div", name, second), int(number / other)
        if op == "Mod":
            return self.node("Mod", name, second), number % other
        return self.node(op, name, second), results[op]

    def integer(self, numbers: list[int]) -> tuple[str, int]:
        if self.draw(st.booleans()):
            return self.size()
        number = self.draw(st.sampled_from(numbers))
        return self.constant([number]), number

    # ---- operations on the value ----

    def step(self) -> None:
        """One more operation, valid at the example's sizes where that is easy to see."""
        likely = [self.around, self.around, self.around, self.one_step, self.layer, self.over_time]
        others = [self.reshape, self.transpose, self.squeeze, self.unsqueeze, self.flatten]
        others += [self.gather, self.slice, self.reduce, self.expand, self.add]
        is_sequence = len(self.shape) == 3
        kinds = likely if is_sequence and self.draw(st.integers(0, 3)) else others
        self.draw(st.sampled_from(kinds))()

    def spelled(self, axis: int) -> str:
        """A size of the value: as a number, as its Shape says, or calculated from that."""
        how = self.draw(st.sampled_from(["number", "number", "shape", "sum"]))
        if how == "number":
            return self.constant([self.shape[axis]])
        size = self.node("Gather", self.node("Shape", self.value), self.constant([axis]))
        if how == "sum":
            size = self.node("Sub", self.node("Add", size, self.constant([2])), self.constant([2]))
        return size

    def around(self) -> None:
        """A reshape of a sequence to rows, to the other order or to what it is, and maybe back."""
        first, second, features = self.shape
        sizes = [self.spelled(0), self.spelled(1), self.spelled(2)]
        rest, zero = self.constant([-1]), self.constant([0])
        for at in range(3):
            if self.draw(st.integers(0, 5)) == 0:
                sizes[at] = zero
        if self.draw(st.booleans()):
            sizes[self.draw(st.integers(0, 2))] = rest
        order = (first, second)
        if self.draw(st.integers(0, 4)) == 0 and zero not in sizes:
            sizes[:2] = sizes[1::-1]
            order = order[::-1]
        if self.draw(st.booleans()):
            to_rows = self.node("Concat", rest, self.constant([features]), axis=0)
            flat = self.node("Reshape", self.value, to_rows)
            if self.draw(st.booleans()):
                flat = self.node("Relu", flat)
            sizes = [self.constant([features]) if size == zero else size for size in sizes]
            self.value = flat
        shape = self.node("Concat", *sizes, axis=0)
        self.value, self.shape = self.node("Reshape", self.value, shape), (*order, features)

    def one_step(self) -> None:
        """A step of the first axis or of the second, first or last, by number or by size."""
        axis = self.draw(st.integers(0, 1))
        size = self.shape[axis]
        told = self.node("Gather", self.node("Shape", self.value), self.constant([axis]))
        back = self.draw(st.sampled_from([1, 1, 1, 2]))
        last = self.node("Sub", told, self.constant([back]))
        far = self.constant([2**63 - 1])
        minus, first = self.constant([-1]), self.constant([0])
        pairs = [(last, told), (last, far), (minus, far), (minus, told), (first, last)]
        pairs += [(self.constant([size - 1]), far), (first, self.constant([1]))]
        start, stop = self.draw(st.sampled_from(pairs))
        if self.draw(st.booleans()):
            index = start if self.draw(st.booleans()) else self.node("Squeeze", start)
            is_kept = index == start
            self.value = self.node("Gather", self.value, index, axis=axis)
        else:
            self.value = self.node("Slice", self.value, start, stop, self.constant([axis]))
            is_kept = True
        left = (1,) if is_kept else ()
        self.shape = (*self.shape[:axis], *left, *self.shape[axis + 1 :])

    def over_time(self) -> None:
        axis = self.draw(st.integers(0, 1))
        op = self.draw(st.sampled_from(["ReduceMean", "ReduceMax"]))
        self.value = self.node(op, self.value, axes=[axis], keepdims=0)
        self.shape = (*self.shape[:axis], *self.shape[axis + 1 :])

    def reshape(self) -> None:
        total = math.prod(self.shape)
        if not total:
            return
        parts: list[int] = []
        left, names = total, []
        for _ in range(self.draw(st.integers(0, 3))):
            name, number = self.integer([d for d in range(1, left + 1) if left % d == 0])
            if number < 1 or left % number:
                continue
            names.append(name)
            parts.append(number)
            left //= number
        at = self.draw(st.integers(0, len(parts)))
        rest = self.draw(st.sampled_from([-1, left]))
        parts.insert(at, left)
        names.insert(at, self.constant([rest]))
        if len(parts) <= len(self.shape) and self.draw(st.booleans()):
            keep = self.draw(st.integers(0, len(parts) - 1))
            if keep != at and parts[keep] == self.shape[keep]:
                names[keep] = self.constant([0])
        shape = self.node("Concat", *names, axis=0)
        self.value, self.shape = self.node("Reshape", self.value, shape), tuple(parts)

    def transpose(self) -> None:
        if not self.shape:
            return
        perm = self.draw(st.permutations(range(len(self.shape))))
        self.value = self.node("Transpose", self.value, perm=list(perm))
        self.shape = tuple(self.shape[axis] for axis in perm)

    def squeeze(self) -> None:
        ones = [axis for axis, size in enumerate(self.shape) if size == 1]
        if not ones:
            return
        if self.draw(st.booleans()):
            gone = [self.draw(st.sampled_from(ones))]
            self.value = self.node("Squeeze", self.value, self.constant(gone))
        else:
            gone = ones
            self.value = self.node("Squeeze", self.value)
        self.shape = tuple(s for axis, s in enumerate(self.shape) if axis not in gone)

    def unsqueeze(self) -> None:
        axis = self.draw(st.integers(0, len(self.shape)))
        self.value = self.node("Unsqueeze", self.value, self.constant([axis]))
        self.shape = (*self.shape[:axis], 1, *self.shape[axis:])

    def flatten(self) -> None:
        axis = self.draw(st.integers(0, len(self.shape)))
        self.value = self.node("Flatten", self.value, axis=axis)
        self.shape = (math.prod(self.shape[:axis]), math.prod(self.shape[axis:]))

    def axis(self) -> int:
        return self.draw(st.integers(0, len(self.shape) - 1))

    def gather(self) -> None:
        if not self.shape:
            return
        axis = self.axis()
        size = self.shape[axis]
        name, index = self.integer([-1, 0, size - 1])
        if not -size <= index < size:
            return
        keep = self.draw(st.booleans())
        if not keep:
            name = self.node("Squeeze", name)
        self.value = self.node("Gather", self.value, name, axis=axis)
        middle = (1,) if keep else ()
        self.shape = (*self.shape[:axis], *middle, *self.shape[axis + 1 :])

    def slice(self) -> None:
        if not self.shape:
            return
        axis = self.axis()
        size = self.shape[axis]
        first, start = self.integer([0, -1, size - 1, -size])
        far = 2**31 - 1
        last, stop = self.integer([far, 2**63 - 1, size, -1, 1, 2])
        step = self.draw(st.sampled_from([1, 1, 1, -1]))
        if step == -1:
            start, first = -1, self.constant([-1])
            stop = self.draw(st.sampled_from([-far, -(2**63), -size - 1]))
            last = self.constant([stop])
        length = len(np.arange(size)[start : None if stop < -size and step < 0 else stop : step])
        if not length:
            return
        given = [first, last, self.constant([axis]), self.constant([step])]
        self.value = self.node("Slice", self.value, *given)
        self.shape = (*self.shape[:axis], length, *self.shape[axis + 1 :])

    def reduce(self) -> None:
        if not self.shape:
            return
        axis, keep = self.axis(), self.draw(st.integers(0, 1))
        op = self.draw(st.sampled_from(["ReduceMean", "ReduceMax"]))
        self.value = self.node(op, self.value, axes=[axis], keepdims=keep)
        self.shape = (*self.shape[:axis], *((1,) if keep else ()), *self.shape[axis + 1 :])

    def layer(self) -> None:
        if not self.shape:
            return
        op = self.draw(st.sampled_from(["Relu", "MatMul", "Softmax"]))
        if op != "MatMul":
            self.value = self.node(op, self.value)
            return
        weight = self.constant(RNG.standard_normal((self.shape[-1], 2)), np.float32)
        self.value = self.node("MatMul", self.value, weight)
        self.shape = (*self.shape[:-1], 2)

    def expand(self) -> None:
        shape = [self.constant([1]) for _ in self.shape]
        if shape:
            at = self.axis()
            name, number = self.integer([1, self.shape[at]])
            if number in (1, self.shape[at]):
                shape[at] = name
            self.value = self.node("Expand", self.value, self.node("Concat", *shape, axis=0))

    def add(self) -> None:
        """A bias, maybe of a shape that a call decides."""
        if not self.shape:
            return
        if self.draw(st.booleans()):
            bias = self.constant(RNG.standard_normal(self.shape[-1]), np.float32)
        else:
            name, number = self.integer([1, self.shape[0], 2])
            if number not in (1, self.shape[0]):
                return
            ones = [self.constant([1]) for _ in self.shape[1:]]
            number_ = numpy_helper.from_array(np.array([0.5], np.float32))
            shape = self.node("Concat", name, *ones, axis=0)
            bias = self.node("ConstantOfShape", shape, value=number_)
        self.value = self.node("Add", self.value, bias)


def drawn(data: st.DataObject) -> tuple[Any, list[tuple[int, int]], bool]:
    """A model, the (T, B) that it is to be tried with, and whether its input is (B, T, I)."""
    sketch = Sketch(data)
    steps, rows = data.draw(st.sampled_from(SIZES)), data.draw(st.sampled_from(SIZES))
    free_steps, free_rows = data.draw(st.booleans()), data.draw(st.booleans())
    batch_first = data.draw(st.booleans())
    dims: list[Any] = ["T" if free_steps else steps, "B" if free_rows else rows, I]
    example = (steps, rows, I)
    if batch_first:
        dims, example = [dims[1], dims[0], I], (rows, steps, I)
    sketch.x_shape = example
    directions = data.draw(st.sampled_from([1, 2]))
    layers = data.draw(st.sampled_from([1, 1, 2]))
    x, states = "x", []
    if batch_first:
        x = sketch.node("Transpose", x, perm=[1, 0, 2])
    for layer in range(layers):
        weights = gru_weights(RNG, I if layer == 0 else directions * H, H, directions)
        names = [sketch.constant(array, np.float32) for array in weights.values()]
        if data.draw(st.booleans()):  # zeros for each row, which the size of x tells
            told = sketch.node("Gather", sketch.node("Shape", x), sketch.constant([1]))
            ends = sketch.constant([directions]), sketch.constant([H])
            shape = sketch.node("Concat", ends[0], told, ends[1], axis=0)
            names += ["", sketch.node("Expand", sketch.constant(0, np.float32), shape)]
        y, y_h = sketch.name(), sketch.name()
        direction = "bidirectional" if directions == 2 else "forward"
        sketch.nodes.append(
            helper.make_node(
                "GRU", [x, *names], [y, y_h], hidden_size=H, linear_before_reset=1,
                direction=direction,
            )
        )  # fmt: skip
        states.append(y_h)
        turned = sketch.node("Transpose", y, perm=[0, 2, 1, 3])
        x = sketch.node("Reshape", turned, sketch.constant([0, 0, -1]))
    start = data.draw(st.sampled_from(["Y", "rows", "rows", "rows", "rows", "Y_h", "all"]))
    sketch.value, sketch.shape = {
        "Y": (y, (steps, directions, rows, H)),
        "rows": (x, (steps, rows, directions * H)),
        "Y_h": (y_h, (directions, rows, H)),
        "all": ("", ()),
    }[start]
    if start == "all":
        sketch.value = sketch.node("Concat", *states, axis=0)
        sketch.shape = (layers * directions, rows, H)
    if batch_first and start == "rows" and data.draw(st.booleans()):
        sketch.value = sketch.node("Transpose", sketch.value, perm=[1, 0, 2])
        sketch.shape = (rows, steps, directions * H)
    for _ in range(data.draw(st.integers(1, 4))):
        sketch.step()
    if len(sketch.shape) == 3 and data.draw(st.booleans()):
        sketch.value = sketch.node("Transpose", sketch.value, perm=[1, 0, 2])
    sketch.value = sketch.node("Relu", sketch.value)  # a Model, whose shapes are the graph's
    graph = helper.make_graph(
        sketch.nodes,
        "drawn",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info(sketch.value, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in sketch.constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    all_steps = (steps, 1, 2, 5) if free_steps else (steps,)
    all_rows = (rows, 1, 2, 4) if free_rows else (rows,)
    return model, [(t, b) for t in all_steps for b in all_rows], batch_first


def session_of(model: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    # its optimizer turns sizes of reshapes into -1, and then takes other T than the graph does
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


LOADED = {"yes": 0, "no": 0}


@hypothesis.given(data=st.data())
@hypothesis.settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
)
def test_any_graph_gives_what_onnx_runtime_gives_or_is_refused(data: st.DataObject) -> None:
    """No wrong number, and no wrong shape, for any T and B that the graph's input allows.

    A graph that ONNX Runtime runs is sound, and is never called damaged.
    """
    model, sizes, batch_first = drawn(data)
    try:
        session = session_of(model)
    except Exception:  # its own shape inference: the graph is not valid
        hypothesis.reject()
    runs = {}
    for steps, rows in sizes:
        shape = (rows, steps, I) if batch_first else (steps, rows, I)
        x = RNG.standard_normal(shape).astype(np.float32)
        try:
            runs[steps, rows] = x, session.run(None, {"x": x})[0]
        except Exception:  # these sizes do not fit into the graph
            continue
    if not runs:
        hypothesis.reject()
    try:
        loaded = fastgru.from_onnx(model)
    except fastgru.UnsupportedLayerError:
        LOADED["no"] += 1
        return
    LOADED["yes"] += 1
    for x, expected in runs.values():
        assert_near(loaded(x), expected)
