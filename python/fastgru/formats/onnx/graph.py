"""An ONNX graph as plain data: nodes, inputs, outputs and where each constant lies.

`read_graph` is the one place that touches protobuf objects; what it gives has been looked at once,
so that nothing after it meets a wrong type or text that is no text. Refuses graphs of absurd size,
names that stand for two things and versions that the installed onnx package does not know.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastgru.errors import FormatError
from fastgru.formats.onnx.tensors import Array, Tensors
from fastgru.text import brief, printable, report

MAX_NODES = 20_000  # an exported GRU of 64 layers has fewer than 3,000
_MAX_RANK = 8
_MAX_LISTED = 12
_MAX_ATTRIBUTE = 1 << 16  # numbers in a list; larger constants are tensors
OLDEST_OPSET = 7  # before it Add and Mul do not broadcast as they do since
STANDARD = ("", "ai.onnx")

# AttributeProto.AttributeType -> the field that holds it; others (graphs, sparse tensors) are kept
# as what they are not: of no type that a node may ask for.
_FIELDS = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints", 8: "strings"}


@dataclass(frozen=True, slots=True)
class Node:
    """One operation. `attributes`: int, float, bytes, a tuple of these, an array, or None.

    `declared`: the shape that the file declares for a Reshape's result, if it declares one.
    """

    index: int
    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    declared: tuple[int | str | None, ...] | None = None

    def __str__(self) -> str:
        kind = self.op if self.domain in STANDARD else f"{self.domain}.{self.op}"
        name = f" {brief(self.name)}" if self.name else ""
        return f"node {self.index} {printable(kind)}{name}"

    def integer(self, name: str, default: int | None = None) -> int:
        """An attribute that is an integer."""
        value: int = self._get(name, default, lambda value: type(value) is int, "an integer")
        return value

    def number(self, name: str, default: float) -> float:
        """An attribute that is a float."""
        value: float = self._get(name, default, lambda value: type(value) is float, "a float")
        return value

    def text(self, name: str, default: str) -> str:
        """An attribute that is a string."""
        value = self._get(name, default.encode(), lambda v: type(v) is bytes, "a string")
        return str(value, "utf-8", "replace")

    def many(self, name: str, kind: type) -> tuple[Any, ...] | None:
        """An attribute that is a list of int, float or bytes; None where there is none."""
        values: tuple[Any, ...] | None = self._get(
            name,
            None,
            lambda v: type(v) is tuple and all(type(item) is kind for item in v),
            f"a list of {kind.__name__}",
        )
        return values

    def _get(self, name: str, default: Any, fits: Callable[[Any], bool], expected: str) -> Any:
        if name not in self.attributes:
            return default
        value = self.attributes[name]
        if not fits(value):
            raise FormatError(f"attribute {name}: expected {expected}, got {brief(value, 50)}")
        return value


@dataclass(frozen=True, slots=True)
class GraphInput:
    """`dims`: a size, the name of one, or None each; None as a whole where the file is silent."""

    name: str
    elem_type: int
    dims: tuple[int | str | None, ...] | None


@dataclass(frozen=True, slots=True)
class Graph:
    """What a file says. `nodes`: those that the outputs need, each after what it takes."""

    opset: int
    inputs: tuple[GraphInput, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    producer: tuple[str, str]  # its name and version; either may be empty


def read_graph(model: Any, tensors: Tensors, newest_opset: int) -> Graph:
    """The graph of an onnx.ModelProto, its initializers handed to `tensors`; FormatError."""
    try:
        return _read(model, tensors, newest_opset)
    except UnicodeDecodeError as error:
        raise FormatError(f"damaged: a name in it is not UTF-8 ({error})") from error


def _read(model: Any, tensors: Tensors, newest_opset: int) -> Graph:
    graph = model.graph
    opsets = [item.version for item in model.opset_import if item.domain in STANDARD]
    if len(opsets) != 1 or not OLDEST_OPSET <= opsets[0] <= newest_opset:
        raise FormatError(
            f"ONNX opset version: expected {OLDEST_OPSET} to {newest_opset} (the newest that the "
            f"installed onnx package knows), got {', '.join(map(str, opsets[:3])) or 'none'}"
        )
    if len(graph.node) > MAX_NODES:
        raise FormatError(f"a graph of {len(graph.node)} nodes, expected at most {MAX_NODES}")
    for proto in graph.initializer:
        tensors.add(str(proto.name), proto)
    inputs = tuple(_input(item) for item in graph.input if str(item.name) not in tensors)
    declared = {str(item.name): item for item in (*graph.value_info, *graph.output)}
    nodes = [_node(index, proto, tensors, declared) for index, proto in enumerate(graph.node)]
    outputs = tuple(str(item.name) for item in graph.output)
    makers = _makers(nodes, inputs, tensors)
    if not outputs:
        raise FormatError("the graph has no output")
    needed = _ordered(nodes, _needed(nodes, outputs, makers), makers)
    producer = str(model.producer_name), str(model.producer_version)
    return Graph(opsets[0], inputs, outputs, tuple(nodes[index] for index in needed), producer)


def _input(proto: Any) -> GraphInput:
    kind = proto.type.tensor_type
    dims: list[int | str | None] = []
    if not proto.type.HasField("tensor_type") or not kind.HasField("shape"):
        return GraphInput(str(proto.name), int(kind.elem_type), None)
    for dim in kind.shape.dim[: _MAX_RANK + 1]:
        if dim.HasField("dim_value"):
            dims.append(int(dim.dim_value) if dim.dim_value >= 0 else None)
        else:
            dims.append(str(dim.dim_param) or None)
    return GraphInput(str(proto.name), int(kind.elem_type), tuple(dims))


def _node(index: int, proto: Any, tensors: Tensors, declared: Mapping[str, Any]) -> Node:
    is_reshape = proto.op_type == "Reshape" and len(proto.output) == 1
    info = declared.get(str(proto.output[0])) if is_reshape else None
    return Node(
        index,
        str(proto.op_type),
        str(proto.domain),
        str(proto.name),
        tuple(map(str, proto.input)),
        tuple(map(str, proto.output)),
        {str(item.name): _attribute(item, tensors) for item in proto.attribute},
        None if info is None else _input(info).dims,
    )


def _attribute(proto: Any, tensors: Tensors) -> Any:
    field = _FIELDS.get(proto.type)
    if field is None or proto.ref_attr_name:
        return None
    value = getattr(proto, field)
    if field == "t":
        return LazyTensor(value, tensors)
    if field.endswith("s") and field != "s":
        return tuple(value) if len(value) <= _MAX_ATTRIBUTE else None
    return value


@dataclass(frozen=True, slots=True)
class LazyTensor:
    """A tensor in an attribute, read when it is asked for."""

    proto: Any
    tensors: Tensors

    def read(self) -> Array:
        """The array; FormatError."""
        return self.tensors.decode(self.proto)


def _makers(nodes: list[Node], inputs: tuple[GraphInput, ...], tensors: Tensors) -> dict[str, int]:
    """Which node makes a name; -1 for what is there from the start. FormatError for two makers."""
    makers = dict.fromkeys(tensors.names(), -1)
    twice = dict.fromkeys(tensors.twice)
    named = [(item.name, -1) for item in inputs]
    named += [(name, node.index) for node in nodes for name in node.outputs if name]
    for name, index in named:
        if name in makers:
            twice[name] = None
        makers[name] = index
    if twice:
        listed = [f"{brief(name)}: stands for two values" for name in list(twice)[:_MAX_LISTED]]
        raise FormatError(report("the graph", listed))
    return makers


def _needed(nodes: list[Node], outputs: tuple[str, ...], makers: dict[str, int]) -> set[int]:
    """Numbers of the nodes that outputs come from; FormatError where something is missing."""
    problems: dict[str, None] = {}
    needed: set[int] = set()
    wanted = [(name, f"output {name!r}") for name in outputs]
    while wanted:
        name, who = wanted.pop()
        index = makers.get(name)
        if index is None:
            problems[f"{who}: nothing in the graph makes {name!r}"] = None
        elif index >= 0 and index not in needed:
            needed.add(index)
            node = nodes[index]
            wanted += [(item, str(node)) for item in node.inputs if item]
    if problems:
        raise FormatError(report("the graph", list(problems)[:_MAX_LISTED]))
    return needed


def _ordered(nodes: list[Node], needed: set[int], makers: dict[str, int]) -> list[int]:
    """The needed nodes, each after those that it takes from; FormatError for a cycle.

    ONNX asks for that order, but ONNX Runtime runs files without it and its float16 converter
    writes them. A file that is in order keeps its order.
    """
    waits_for = {
        index: {maker for name in nodes[index].inputs if name and (maker := makers[name]) >= 0}
        for index in needed
    }
    followers: dict[int, list[int]] = {index: [] for index in needed}
    for index, before in waits_for.items():
        for maker in before:
            followers[maker].append(index)
    ready = [index for index, before in waits_for.items() if not before]
    heapq.heapify(ready)
    order = []
    while ready:
        order.append(heapq.heappop(ready))
        for index in followers[order[-1]]:
            waits_for[index].discard(order[-1])
            if not waits_for[index]:
                heapq.heappush(ready, index)
    if len(order) < len(needed):
        left = sorted(needed.difference(order))
        listed = [f"{nodes[index]}: is part of a cycle, or takes from one" for index in left]
        raise FormatError(report("the graph", listed[:_MAX_LISTED]))
    return order
