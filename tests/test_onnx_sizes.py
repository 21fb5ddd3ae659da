"""Sizes in ONNX graphs: numbers that may be T, indices that are calculated, states per row.

Each test names the kind of graph; what ONNX Runtime gives is the judge wherever it runs the graph.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed")

import onnx
from onnx import TensorProto, helper

import fastgru
from conftest import Array, random_input
from fastgru.formats.onnx.sizes import (
    UNKNOWN,
    Atom,
    Size,
    bounds,
    equal,
    larger,
    less,
    less_or_equal,
    quotient,
    remainder,
    smaller,
)
from onnx_models import assert_near, gru_model, gru_weights, model_of, onnxruntime_run

I, H = 4, 3  # noqa: E741
RNG = np.random.default_rng(0)
GRU = helper.make_node(
    "GRU", ["x", "W", "R", "B"], ["Y", "Y_h"], hidden_size=H, linear_before_reset=1
)
CONSTANTS = {
    **gru_weights(RNG, I, H),
    **{f"i{n}": np.array([n], np.int64) for n in range(4)},
    "minus": np.array([-1], np.int64),
    "far": np.array([2**63 - 1], np.int64),
    "zero": np.array(0, np.int64),
    "one": np.array(1, np.int64),
}
SQUEEZE = helper.make_node("Squeeze", ["Y", "i1"], ["y"])


def node(op: str, *inputs: str, out: str = "out", **attributes: Any) -> Any:
    return helper.make_node(op, list(inputs), [out], **attributes)


def graph(*nodes: Any, x: Any = ("T", "B", I), **constants: Any) -> Any:
    """x -> GRU -> y (T, B, H) -> nodes -> out."""
    arrays = {name: np.asarray(value) for name, value in constants.items()}
    return model_of(
        [GRU, SQUEEZE, *nodes], {"x": list(x)}, ["out"], {**CONSTANTS, **arrays}, opset=17
    )


def output_of(loaded: Any, x: Array) -> Array:
    result = loaded(x)
    array: Array = result[0] if isinstance(result, tuple) else result
    return array


def check(model: Any, *shapes: tuple[int, int]) -> Any:
    """The model, which gives what ONNX Runtime gives at these (T, B)."""
    loaded = fastgru.from_onnx(model)
    for steps, rows in shapes:
        x = random_input(RNG, steps, rows, I)
        assert_near(output_of(loaded, x), onnxruntime_run(model, {"x": x})[0])
    return loaded


# ---- numbers that may be the T of an example ----


def declared(model: Any, name: str, shape: list[Any]) -> Any:
    model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return model


@pytest.mark.parametrize("x", [("T", 2, I), ("T", "B", I)])
@pytest.mark.parametrize("shape", [[2, -1, H], [-1, 2, H], [5, -1, H], [2, -1], [4, 1, -1]])
def test_a_number_is_not_taken_for_a_free_t(x: Any, shape: list[int]) -> None:
    """Where a -1 takes the rest, ONNX joins steps of several sequences for most T: refused."""
    model = graph(node("Reshape", "y", "s", out="r"), node("Relu", "r"), x=x, s=np.array(shape))
    if shape == [-1, 2, H] and x[1] == 2:
        check(model, (2, 2), (5, 2))
        return
    with pytest.raises(fastgru.UnsupportedLayerError, match=r"(?s)Reshape: it turns axes .*"):
        fastgru.from_onnx(model)


def test_the_refusal_says_what_to_do() -> None:
    """Both meanings of the number, and a remedy for each."""
    with pytest.raises(fastgru.UnsupportedLayerError) as caught:
        fastgru.from_onnx(graph(node("Reshape", "y", "s"), x=("T", 2, I), s=[2, -1, H]))
    for part in ("One of [2] may be the T of the example", "dynamo=False", "value_info"):
        assert part in str(caught.value)


def test_no_hint_where_no_number_can_be_t() -> None:
    """The number of features is none, nor is any number of a value without time."""
    for nodes in ([node("Reshape", "y", "s")], [node("Reshape", "Y_h", "s")]):
        shape = [-1, H] if nodes[0].input[0] == "y" else [-1, 2 * H]
        model = graph(*nodes, node("Relu", "out", out="r"), s=[*shape, 1, H][: len(shape)])
        model.graph.output[0].name = "r"
        with pytest.raises(fastgru.UnsupportedLayerError) as caught:
            fastgru.from_onnx(model)
        assert "of the example" not in str(caught.value)


def test_no_hint_where_the_reshape_keeps_t() -> None:
    """T stands in its shape already, so that no number of it can be the T of an example."""
    sizes = [node("Shape", "y", out="sizes"), node("Slice", "sizes", "i0", "i1", out="steps")]
    shape = node("Concat", "steps", "i2", "minus", out="s", axis=0)
    by_size = graph(*sizes, shape, node("Reshape", "y", "s"))
    by_zero = graph(node("Reshape", "y", "s"), s=[0, 2, -1])
    for model in (by_size, by_zero):
        with pytest.raises(fastgru.UnsupportedLayerError) as caught:
            fastgru.from_onnx(model)
        assert "it turns axes (T, B, 3) into" in str(caught.value)
        assert "of the example" not in str(caught.value)


@pytest.mark.parametrize("shape", [[0, 0, 2], [0, 0, -1], [0, -1, 2], [-1, 0, 2]])
def test_both_directions_of_one_unit(shape: list[int]) -> None:
    """Joined as torch's newer exporter joins them; an axis of 1 at the end belongs to them too."""
    both: Any = {"hidden_size": 1, "direction": "bidirectional"}
    nodes = [
        helper.make_node("GRU", ["x", "W", "R"], ["Y"], **both),
        node("Transpose", "Y", perm=[0, 2, 1, 3], out="y"),
        node("Reshape", "y", "s"),
    ]
    constants = {**gru_weights(RNG, I, 1, 2, bias=False), "s": np.array(shape)}
    check(model_of(nodes, {"x": ["T", "B", I]}, ["out"], constants), (5, 2), (1, 1), (2, 3))


def test_axes_of_equal_sizes_are_told_apart() -> None:
    """A refusal that says that (2, 2*3) is not (2, 2*3) would explain nothing."""
    both: Any = {"hidden_size": H, "direction": "bidirectional"}
    gru = helper.make_node("GRU", ["x", "W", "R"], ["", "Y_h"], **both)
    weights = gru_weights(RNG, I, H, 2, bias=False)
    nodes = [gru, node("Reshape", "Y_h", "s")]
    model = model_of(nodes, {"x": ["T", 2, I]}, ["out"], {**weights, "s": np.array([-1, 2 * H])})
    with pytest.raises(fastgru.UnsupportedLayerError) as caught:
        fastgru.from_onnx(model)
    assert "output 'out' is (D, B*H), where a Model gives (B, D*H)" in str(caught.value)


def test_a_number_is_t_where_the_file_declares_it() -> None:
    """torch's newer exporter: the -1 is declared to be B, so that the number can only be T."""
    reshape = node("Reshape", "y", "s", out="r")
    plain = graph(reshape, node("Relu", "r"), s=[6, -1, H])
    model = declared(plain, "r", [6, "B", H])
    loaded = check(model, (6, 2), (6, 5))
    assert loaded(np.zeros((4, 2, I), np.float32)).shape == (4, 2, H)


@pytest.mark.parametrize("shape", [["B", "T", H], [6, "T", H], [6, 2, H], [6, None, H], [6, "B"]])
def test_other_declared_shapes_do_not_decide(shape: list[Any]) -> None:
    """Only the name of the batch at the place of the -1 does."""
    model = graph(node("Reshape", "y", "s", out="r"), node("Relu", "r"), s=[6, -1, H])
    with pytest.raises(fastgru.UnsupportedLayerError, match="One of"):
        fastgru.from_onnx(declared(model, "r", shape))


def test_a_number_is_t_where_the_graph_runs_for_no_other() -> None:
    """Without a -1 there is one T that fits."""
    model = graph(node("Reshape", "y", "s", out="r"), node("Relu", "r"), x=("T", 2, I), s=[5, 2, H])
    check(model, (5, 2))


def test_a_constant_of_one_number_keeps_its_shape() -> None:
    """Added to a value, zeros of another shape make it larger: refused; of its features: a bias."""
    for shape, fits in (([200], True), ([70, 1, 1], False), ([1, 1, 200], True)):
        weight = random_input(RNG, H, 200)
        nodes = [
            node("ConstantOfShape", "s", out="c", value=helper.make_tensor("v", 1, [1], [0.5])),
            node("MatMul", "y", "w", out="m"),
            node("Add", "m", "c"),
        ]
        model = graph(*nodes, s=np.array(shape), w=weight)
        if fits:
            check(model, (1, 2), (3, 2))
        else:
            with pytest.raises(fastgru.UnsupportedLayerError, match="Add"):
                fastgru.from_onnx(model)


# ---- indices that are calculated from sizes ----

T_MINUS_1 = [
    node("Shape", "x", out="shape"),
    node("Gather", "shape", "zero", out="T"),
    node("Sub", "T", "one", out="last"),
]
LAST = {
    "T - 1": T_MINUS_1,
    "T + -1": [*T_MINUS_1[:2], node("Add", "T", "m1", out="last")],
    "-1 + T": [*T_MINUS_1[:2], node("Add", "m1", "T", out="last")],
    "2T // 2 - 1": [
        *T_MINUS_1[:2], node("Add", "T", "T", out="T2"), node("Div", "T2", "two", out="Th"),
        node("Sub", "Th", "one", out="last"),
    ],
    "-(1 - T)": [
        *T_MINUS_1[:2], node("Sub", "one", "T", out="n"), node("Neg", "n", out="last"),
    ],
    "max(T - 1, 0)": [*T_MINUS_1[:2], node("Sub", "T", "one", out="l"),
                      node("Max", "l", "zero", out="last")],
    "as Python counts": [
        *T_MINUS_1[:2], node("Sub", "T", "one", out="l"), node("Less", "l", "zero", out="is"),
        node("Add", "l", "T", out="m"), node("Where", "is", "m", "l", out="last"),
    ],
    "through int32": [
        *T_MINUS_1[:2], node("Cast", "T", to=TensorProto.INT32, out="t32"),
        node("Cast", "t32", to=TensorProto.INT64, out="t64"), node("Sub", "t64", "one", out="last"),
    ],
    "a product of sizes": [
        node("Shape", "x", out="shape"), node("Slice", "shape", "i0", "i1", out="Ts"),
        node("ReduceProd", "Ts", keepdims=0, out="T"), node("Sub", "T", "one", out="last"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("how", LAST)
def test_an_index_that_is_calculated_is_the_last_step(how: str) -> None:
    """T - 1, however it is spelled."""
    model = graph(*LAST[how], node("Gather", "y", "last", axis=0), m1=-1, two=2)
    loaded = check(model, (1, 2), (2, 2), (5, 3))
    assert [type(layer).__name__ for layer in loaded.layers] == ["GRU", "Last"]


def test_a_slice_from_a_calculated_index_is_the_last_step() -> None:
    """out[T - 1 : T], and out[0 : T], which is all of it."""
    nodes = [*T_MINUS_1, node("Unsqueeze", "last", "i0", out="start"),
             node("Unsqueeze", "T", "i0", out="stop")]  # fmt: skip
    for stop in ("stop", "far"):
        cut = [node("Slice", "y", "start", stop, "i0", out="c"), node("Squeeze", "c", "i0")]
        check(graph(*nodes, *cut), (1, 2), (5, 3))
    check(graph(*nodes, node("Slice", "y", "i0", "stop", "i0", out="c"), node("Relu", "c")), (4, 2))


OTHER = {
    "T - 2": [*T_MINUS_1[:2], node("Sub", "T", "two", out="last")],
    "T // 2": [*T_MINUS_1[:2], node("Div", "T", "two", out="last")],
    "T % 2": [*T_MINUS_1[:2], node("Mod", "T", "two", out="last")],
    "min(T - 1, 3)": [*T_MINUS_1, node("Min", "last", "two", out="l"),
                      node("Identity", "l", out="last2")],
    "T * B - 1": [
        *T_MINUS_1[:2], node("Gather", "shape", "one", out="b"), node("Mul", "T", "b", out="p"),
        node("Div", "p", "b", out="q"), node("Sub", "q", "one", out="last"),
    ],
    "as a float": [
        *T_MINUS_1[:2], node("Cast", "T", to=TensorProto.FLOAT, out="f"),
        node("Cast", "f", to=TensorProto.INT64, out="g"), node("Sub", "g", "one", out="last"),
    ],
    "where T is 5": [
        *T_MINUS_1, node("Equal", "T", "five", out="is"),
        node("Where", "is", "zero", "last", out="last2"),
    ],
    "a range": [*T_MINUS_1[:2], node("Range", "zero", "T", "one", out="r"),
                node("Gather", "r", "minus0", out="last")],
    "a sum of sizes": [node("Shape", "x", out="shape"),
                       node("ReduceSum", "shape", keepdims=0, out="s"),
                       node("Sub", "s", "s", out="last")],
    "without layers": [*T_MINUS_1, node("Relu", "last", out="last2")],
}  # fmt: skip


@pytest.mark.parametrize("how", OTHER)
def test_other_arithmetic_on_sizes_is_understood_or_unsupported(how: str) -> None:
    """A sound graph is never called damaged."""
    nodes = OTHER[how]
    model = graph(
        *nodes, node("Gather", "y", nodes[-1].output[0], axis=0), two=2, five=5, minus0=-1
    )
    with contextlib.suppress(fastgru.UnsupportedLayerError):
        check(model, (5, 2), (4, 1), (3, 3))


@hypothesis.given(
    steps=st.integers(1, 9),
    rows=st.integers(1, 9),
    plan=st.lists(
        st.tuples(st.sampled_from("+-*/%<=Mmn"), st.integers(-3, 3), st.booleans()), max_size=6
    ),
)
def test_arithmetic_of_sizes(steps: int, rows: int, plan: list[tuple[str, int, bool]]) -> None:
    """Whatever is known of a size is true for every T and B: the number, or its bounds."""
    axis_t, axis_b = Atom("T"), Atom("B")
    at = {axis_t: steps, axis_b: rows}
    size: Any = axis_t
    number = steps
    for op, by, is_size in plan:
        other, value = (axis_b, rows) if is_size else (by, by)
        if op in "/%" and value <= 0:
            continue
        if op == "+":
            size, number = size + other, number + value
        elif op == "-":
            size, number = other - size, value - number
        elif op == "*":
            size, number = size * other, number * value
        elif op == "/":
            size, number = quotient(size, other), int(number / value)
        elif op == "%":
            size, number = remainder(size, other), number % value
        elif op == "M":
            size, number = larger(size, other), max(number, value)
        elif op == "m":
            size, number = smaller(size, other), min(number, value)
        elif op == "n":
            size, number = (-size, -number)
        else:
            for function, truth in (
                (less, number < value), (less_or_equal, number <= value), (equal, number == value),
            ):  # fmt: skip
                told = function(size, other)
                assert told is UNKNOWN or told == truth
        low, high = bounds(size)
        assert low <= number <= high
        if size is not UNKNOWN:
            terms = getattr(size, "terms", {size: 1} if isinstance(size, Atom) else {})
            constant = getattr(size, "constant", 0 if isinstance(size, Size) else size)
            assert constant + sum(at[atom] * times for atom, times in terms.items()) == number


# ---- the order of nodes ----


@hypothesis.given(order=st.permutations(range(6)))
@hypothesis.settings(max_examples=30, deadline=None)
def test_nodes_may_stand_in_any_order(order: list[int]) -> None:
    """ONNX Runtime runs unsorted files, and its float16 converter writes them."""
    nodes = [*T_MINUS_1, node("Gather", "y", "last", axis=0)]
    model = graph(*nodes)
    shuffled = [model.graph.node[index] for index in order]
    copies = [onnx.NodeProto.FromString(item.SerializeToString()) for item in shuffled]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    check(model, (4, 2))


def test_cycles_and_missing_makers_are_damage() -> None:
    """In any order."""
    cycle = [node("Add", "y", "b", out="a"), node("Relu", "a", out="b"), node("Relu", "b")]
    with pytest.raises(fastgru.FormatError, match="is part of a cycle, or takes from one"):
        fastgru.from_onnx(graph(*cycle))
    with pytest.raises(fastgru.FormatError, match="nothing in the graph makes 'nowhere'"):
        fastgru.from_onnx(graph(node("Relu", "nowhere")))


# ---- graphs in nodes ----


@pytest.mark.parametrize("op", ["Loop", "Scan", "If"])
def test_a_graph_in_a_node_is_the_first_reason(op: str) -> None:
    """What it is fed with is refused too, and is not what the file is about."""
    body = helper.make_graph([], "body", [], [])
    nodes = [
        node("Erf", "y", out="e"),
        helper.make_node(op, ["e", "y"], ["out"], name="the loop", body=body),
    ]
    with pytest.raises(fastgru.UnsupportedLayerError) as caught:
        fastgru.from_onnx(graph(*nodes))
    first = str(caught.value).splitlines()[1]
    assert f"{op} 'the loop'" in first
    assert f" {op} runs" in first


# ---- rows without steps ----


def test_a_row_without_steps_keeps_its_state() -> None:
    """As everywhere in fastgru; ONNX does not define it, and ONNX Runtime gives 0."""
    model = gru_model(gru_weights(RNG, I, H), lengths=True, h_0=True, linear_before_reset=1)
    x, h_0 = random_input(RNG, 4, 3, I), random_input(RNG, 1, 3, H)
    lengths = np.array([4, 0, 2], np.int32)
    y, y_h = onnxruntime_run(model, {"X": x, "initial_h": h_0, "sequence_lens": lengths})
    output, h_n = fastgru.from_onnx(model)(x, h_0, lengths=lengths)
    assert_near(output, y[:, 0])
    assert_near(h_n[:, [0, 2]], y_h[:, [0, 2]])
    assert np.array_equal(h_n[:, 1], h_0[:, 1])
    assert not y_h[:, 1].any()


# ---- states and exporters ----


def exported(module: Any, x: Any, *, dynamo: bool, axes: dict[int, str]) -> Any:
    """A ModelProto by one of torch's exporters."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    with warnings.catch_warnings():  # of the exporters about themselves
        warnings.simplefilter("ignore")
        if dynamo:
            shapes = (dict.fromkeys(axes, torch.export.Dim.AUTO),)
            program = torch.onnx.export(
                module, (x,), dynamo=True, dynamic_shapes=shapes, verbose=False
            )
            return program.model_proto
        file = io.BytesIO()
        torch.onnx.export(
            module, (x,), file, dynamo=False, opset_version=17, input_names=["x"],
            dynamic_axes={"x": axes},
        )  # fmt: skip
        return onnx.load_from_string(file.getvalue())


@pytest.mark.parametrize("dynamo", [False, True], ids=["older", "newer"])
@pytest.mark.parametrize("axes", [{0: "b", 1: "t"}, {1: "t"}], ids=["both", "time"])
def test_pytorchs_last_step_by_size(dynamo: bool, axes: dict[int, str]) -> None:
    """out[:, x.size(1) - 1], exported with sizes that are free."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")

    class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.rnn = torch.nn.GRU(I, H, batch_first=True)
            self.head = torch.nn.Linear(H, 2)

        def forward(self, x: Any) -> Any:
            return self.head(self.rnn(x)[0][:, x.size(1) - 1])

    torch.manual_seed(0)
    net = Net().eval()
    loaded = fastgru.from_onnx(exported(net, torch.randn(2, 6, I), dynamo=dynamo, axes=axes))
    assert [type(layer).__name__ for layer in loaded.layers] == ["GRU", "Last", "Linear"]
    for steps in (1, 6, 9):
        x = torch.randn(2, steps, I)
        with torch.no_grad():
            assert_near(loaded(x), net(x).numpy())


@pytest.mark.parametrize("how", ["expand", "repeat", "plus zeros"])
@pytest.mark.parametrize("axes", [{0: "b", 1: "t"}, {1: "t"}], ids=["free", "fixed"])
def test_a_learned_initial_state_and_the_way_out(how: str, axes: dict[int, str]) -> None:
    """The error says that it is initial_h; its remedy gives what the module gives."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")

    class Learned(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.h_0 = torch.nn.Parameter(torch.randn(2, 1, H))
            self.rnn = torch.nn.GRU(I, H, num_layers=2, batch_first=True)

        def forward(self, x: Any) -> Any:
            rows = x.size(0)
            if how == "expand":
                return self.rnn(x, self.h_0.expand(-1, rows, -1).contiguous())[0]
            if how == "repeat":
                return self.rnn(x, self.h_0.repeat(1, rows, 1))[0]
            return self.rnn(x, self.h_0 + torch.zeros(2, rows, H))[0]

    torch.manual_seed(0)
    net, x = Learned().eval(), torch.randn(2, 5, I)
    with pytest.raises(fastgru.UnsupportedLayerError) as caught:
        fastgru.from_onnx(exported(net, x, dynamo=False, axes=axes))
    for part in ("GRU", "initial_h: a state other than zeros", "pass the state as h_0"):
        assert part in str(caught.value)
    gru = fastgru.from_onnx(exported(net.rnn, x, dynamo=False, axes=axes))
    assert isinstance(gru, fastgru.GRU)
    with torch.no_grad():
        expected = net(x).numpy()
        state = net.h_0.expand(-1, 2, -1).contiguous().numpy()
    assert_near(gru(x, state)[0], expected)
