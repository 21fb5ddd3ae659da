"""Walks a graph from its inputs to its outputs and says what each output is.

Nodes run one after the other over what is known of values: constants are calculated, the rest is
bookkeeping. A node that is refused does not end the walk, so that one error can list all that are.
Refuses operations outside the tables below.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastgru.errors import FormatError, UnsupportedLayerError
from fastgru.formats.onnx import arguments, arithmetic, constants, layers, layout, picks
from fastgru.formats.onnx.graph import STANDARD, Graph, GraphInput, Node
from fastgru.formats.onnx.gru import gru
from fastgru.formats.onnx.sizes import Atom
from fastgru.formats.onnx.tensors import Tensors
from fastgru.formats.onnx.values import (
    Axes,
    Broken,
    Const,
    Data,
    Fill,
    Repeated,
    Source,
    Value,
)
from fastgru.formats.window import Allowance
from fastgru.text import Message, about, brief, printable, report

_MAX_LISTED = 12

Handler = Callable[[Node, layout.Values, int], Value]

_LAYOUT: dict[str, Handler] = {
    "Cast": layout.cast,
    "Concat": picks.concat,
    "Dropout": layers.dropout,
    "Flatten": layout.flatten,
    "Gather": picks.gather,
    "Identity": layers.identity,
    "Reshape": layout.reshape,
    "Shape": layout.shape,
    "Slice": picks.cut,
    "Squeeze": layout.squeeze,
    "Transpose": layout.transpose,
    "Unsqueeze": layout.unsqueeze,
}
_LAYERS: dict[str, Handler] = {
    "Add": arithmetic.add,
    "Div": arithmetic.div,
    "Equal": layers.equal,
    "Gemm": layers.gemm,
    "LayerNormalization": arithmetic.layer_normalization,
    "MatMul": layers.matmul,
    "Mul": arithmetic.mul,
    "OneHot": layers.one_hot,
    "Pow": arithmetic.power,
    "Sqrt": arithmetic.root,
    "Sub": arithmetic.sub,
    **dict.fromkeys(layers.ACTIVATIONS, layers.activation),
    **dict.fromkeys(layers.SOFTMAXES, layers.softmax),
    **dict.fromkeys(layers.REDUCTIONS, layers.reduction),
}
# graphs in a node: named before all else that is refused, since they are what the file is about
_CONTROL = {
    "If": "an If runs one of two graphs; torch.onnx.export writes one for squeeze() of an axis "
    "whose size is free: give that axis a fixed size, or index it",
    "Loop": "a Loop runs a graph for each step; tf2onnx writes one for a Keras GRU that cuDNN does "
    "not have (other activations, no bias, recurrent_dropout): fastgru.from_keras reads the Keras "
    "model itself",
    "Scan": "a Scan runs a graph for each step; fastgru reads GRU nodes: fastgru.from_torch or "
    "from_keras reads the model itself",
}
# what only moves a constant that is repeated as often as a call says, or calculates with it
_SUMS = ("Add", "Div", "Mul", "Sub")
_OF_REPEATED = frozenset([*_LAYOUT, *_SUMS, "Expand", "Tile"]) - {"Shape"}
_SUPPORTED = (
    "GRU nodes, Embedding (Gather), OneHot, Linear (MatMul and Add, Gemm), LayerNormalization, "
    "Relu, Tanh, Sigmoid, Softmax, LogSoftmax, the last step, ReduceMean and ReduceMax over time"
)


def walk(graph: Graph, tensors: Tensors, allowance: Allowance) -> list[tuple[str, Value | None]]:
    """Each output by name.

    Raises FormatError and UnsupportedLayerError, both with every problem that was found.
    """
    sources = _sources(graph.inputs)
    values: dict[str, Value] = {
        name: Data(source, source.axes, (source.axes or ((),))[-1], is_integer=source.is_integer)
        for name, source in sources.items()
    }
    problems: list[tuple[type[ValueError], str]] = []
    for node in graph.nodes:
        results: Sequence[Value]
        inputs: list[Value | None] = []
        try:
            inputs = [_value(name, values, tensors, graph) for name in node.inputs]
            if node.op in _CONTROL and node.domain in STANDARD:
                problems.insert(0, (UnsupportedLayerError, f"{node}: {_CONTROL[node.op]}"))
                results = [Broken()] * len(node.outputs)
            elif any(isinstance(value, Broken) for value in inputs):
                results = [Broken()] * len(node.outputs)
            else:
                results = _results(node, inputs, graph.opset, allowance)
        except (FormatError, UnsupportedLayerError) as error:
            problems.append((type(error), about(str(node), error)))
            results = [Broken()] * len(node.outputs)
        # NumPy, of arguments that contradict each other
        except (ValueError, TypeError, IndexError, OverflowError, ArithmeticError) as error:
            problems.append(_senseless(node, inputs, error))
            results = [Broken()] * len(node.outputs)
        values.update((n, v) for n, v in zip(node.outputs, results, strict=False) if n)
    if problems:
        damaged = any(kind is FormatError for kind, _ in problems)
        texts = [text for _, text in problems[:_MAX_LISTED]]
        text = report("the graph", texts)
        if damaged:
            raise FormatError(text)
        raise UnsupportedLayerError(Message(*text.lines, f"fastgru runs chains of {_SUPPORTED}"))
    return [(name, _value(name, values, tensors, graph)) for name in graph.outputs]


def _senseless(
    node: Node, inputs: Sequence[Value | None], error: Exception
) -> tuple[type[ValueError], str]:
    """A damaged file, unless sizes of a call are among what NumPy could not take."""
    if any(
        isinstance(value, Fill | Repeated)
        or (isinstance(value, Const) and value.array.dtype == arguments.OBJECT)
        for value in inputs
    ):
        text = "it calculates with the input's sizes in a way that fastgru does not follow"
        return UnsupportedLayerError, f"{node}: {text}"
    return FormatError, f"{node}: what it is given makes no sense: {error}"


def _sources(inputs: Sequence[GraphInput]) -> dict[str, Source]:
    """Inputs; axes that the file calls the same are the same, but for those of one input."""
    shared: dict[str, Atom] = {}
    sources = {}
    for item in inputs:
        axes: list[Atom] = []
        for at, dim in enumerate(item.dims or ()):
            name = dim if isinstance(dim, str) else f"{item.name}.{at}"
            atom = Atom(name, dim if isinstance(dim, int) else None)
            if isinstance(dim, str) and shared.setdefault(dim, atom) not in axes:
                atom = shared[dim]
            axes.append(atom)
        groups: Axes = tuple((atom,) for atom in axes)
        sources[item.name] = Source(item.name, groups, arguments.is_integer_type(item.elem_type))
    return sources


def _value(name: str, values: dict[str, Value], tensors: Tensors, graph: Graph) -> Value | None:
    if not name:
        return None
    if name not in values and name in tensors:
        values[name] = Const(tensors.read(name))
    if name not in values:  # an output that a node says it has and does not
        raise FormatError(f"{name!r}: the node that makes it has no such output")
    value = values[name]
    if isinstance(value, Data) and value.last is None and value.source.name == name:
        _check_input(next(item for item in graph.inputs if item.name == name))
    return value


def _check_input(item: GraphInput) -> None:
    if item.dims is None:
        raise FormatError(f"input {item.name!r}: the file does not say how many axes it has")
    if not (arguments.is_float_type(item.elem_type) or arguments.is_integer_type(item.elem_type)):
        raise UnsupportedLayerError(f"input {item.name!r}: data type {item.elem_type}")


def _results(
    node: Node, inputs: list[Value | None], opset: int, allowance: Allowance
) -> Sequence[Value]:
    if node.domain not in STANDARD:
        raise UnsupportedLayerError(
            f"operations of the domain {brief(node.domain)} are not supported"
        )
    if node.op == "GRU":
        return gru(node, inputs, opset, allowance)
    if all(value is None or isinstance(value, Const) for value in inputs):
        arrays = [value.array if isinstance(value, Const) else None for value in inputs]
        known = constants.evaluate(node, arrays, opset, allowance)
        if known is not None:
            return known
    if _is_repeated(node, inputs):
        return [Repeated()] * len(node.outputs)
    handler = _LAYOUT.get(node.op) or _LAYERS.get(node.op)
    if node.op == "Gather" and inputs and isinstance(inputs[0], Const):
        handler = layers.embedding
    if node.op == "Expand" and inputs and isinstance(inputs[0], Fill):
        return [layout.expand(inputs[0], inputs)]
    if handler is None:
        raise UnsupportedLayerError(f"{printable(node.op)} is no operation that fastgru supports")
    return [handler(node, inputs, opset)]


def _is_repeated(node: Node, inputs: Sequence[Value | None]) -> bool:
    """Whether a node makes a constant of several numbers in a shape that a call decides."""
    given = [value for value in inputs if value is not None]
    if node.op not in _OF_REPEATED or not given:
        return False
    if not all(isinstance(value, Const | Fill | Repeated) for value in given):
        return False
    if any(isinstance(value, Repeated) for value in given):
        return True
    if node.op == "Concat":
        return not all(isinstance(value, Fill) for value in given)
    return not isinstance(given[0], Fill) or node.op in _SUMS
