"""Which of the two GRU equations the nodes of a file have, where its producer got that wrong.

torch.nn.GRU applies its reset gate after the product with R: `linear_before_reset=1`. torch's newer
exporter takes the GRU from the onnxscript package, and its versions 0.5.7 to 0.7.0 left the
attribute out, so that the file says another network than the one that was trained
(https://github.com/microsoft/onnxscript/issues/2852). Refuses to correct a file unasked: it warns.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import warnings

import fastgru
from fastgru.errors import EquationWarning, FormatError
from fastgru.formats.onnx.graph import STANDARD, Graph, Node
from fastgru.text import Problems, report

_ATTRIBUTE = "linear_before_reset"
_PYTORCH = "pytorch"  # what both of its exporters call themselves
_MAX_LISTED = 3
_MAX_TEXT = 50


def settle_equation(graph: Graph, reset_after: bool | None, file: str) -> Graph:
    """The graph with the equation that the caller asks for; None: the file's, maybe a warning.

    0 is ONNX's default, so a node that has it may never have chosen, and takes the caller's. 1 is a
    choice: FormatError where the caller says something else.
    """
    if reset_after is None:
        _warn(graph, file)
        return graph
    problems = Problems()
    for node in graph.nodes:
        if _is_gru(node) and node.integer(_ATTRIBUTE, 0) != 0 and not reset_after:
            problems.append(f"{node}: reset_after: the file says True, the argument False")
    if problems:
        raise FormatError(report("contradiction", problems))
    nodes = tuple(_with_equation(node, reset_after) for node in graph.nodes)
    return dataclasses.replace(graph, nodes=nodes)


def _is_gru(node: Node) -> bool:
    return node.op == "GRU" and node.domain in STANDARD


def _with_equation(node: Node, reset_after: bool) -> Node:
    if not _is_gru(node):
        return node
    attributes = {**node.attributes, _ATTRIBUTE: int(reset_after)}
    return dataclasses.replace(node, attributes=attributes)


def _warn(graph: Graph, file: str) -> None:
    producer, version = graph.producer
    doubtful = [
        str(node)
        for node in graph.nodes
        if _is_gru(node) and node.attributes.get(_ATTRIBUTE, 0) == 0
    ]
    if producer.lower() != _PYTORCH or not doubtful:
        return
    more = f" and {len(doubtful) - _MAX_LISTED} more" if len(doubtful) > _MAX_LISTED else ""
    warnings.warn(
        f"{file}: {', '.join(doubtful[:_MAX_LISTED])}{more}: linear_before_reset is not 1, so that "
        "the reset gate comes before the product, but torch.nn.GRU has it after the product; the "
        f"file's producer is {producer!r} {version[:_MAX_TEXT]!r}, whose newer exporter left the "
        "attribute out with onnxscript 0.5.7 to 0.7.0. If a torch.nn.GRU was exported, pass "
        "reset_after=True (--reset-after in commands) to get the network that was trained, or "
        "export again with onnxscript 0.7.1 or newer, or with dynamo=False; reset_after=False "
        "(--reset-before) says that the file is right",
        EquationWarning,
        stacklevel=_level_of_caller(),
    )


def _level_of_caller() -> int:
    """The `stacklevel` that names the line outside of fastgru from which all this was called."""
    folder = os.path.dirname(os.path.abspath(fastgru.__file__)) + os.sep
    level = 1
    frame = sys._getframe(1)  # the caller of warnings.warn, which is level 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(folder):
        frame = frame.f_back
        level += 1
    return level
