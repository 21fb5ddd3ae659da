"""`from_onnx`: a GRU, or a chain of layers with GRUs in it, from an ONNX file.

Reads the file, with limits, and hands on: graph.py makes plain data of it, walk.py finds
out what the outputs are, result.py makes the GRU or Model. The onnx package parses, nothing
is run. Refuses files that protobuf cannot hold.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from fastgru.errors import FormatError, UnsupportedLayerError
from fastgru.formats.onnx.parts import check_parts, varint
from fastgru.formats.regular import open_regular
from fastgru.formats.window import Allowance
from fastgru.options import check_isa, check_options, positive
from fastgru.text import about

if TYPE_CHECKING:
    from types import ModuleType

    from fastgru.gru import GRU
    from fastgru.model import Model

_MAX_FILE = 2**31 - 1  # protobuf's own limit
_MAX_IR_VERSION = 64
# ModelProto's fields before its graph: texts (wire type 2), and a number
_HEAD_FIELDS = {2: 2, 3: 2, 4: 2, 5: 0, 6: 2}
_GRAPH = 7
_IN_GRAPH = bytes(field << 3 | 2 for field in (1, 2, 5, 10, 11, 12, 13, 14, 15))


def from_onnx(
    path: str | os.PathLike[str],
    *,
    reset_after: bool | None = None,
    precision: str = "float32",
    num_threads: int | None = None,
    isa: str | None = None,
) -> Any:
    """Loads an ONNX file (or an onnx.ModelProto): a GRU, or a Model; extra `onnx`.

    Reads GRU nodes (both directions, reverse, layout 0 and 1, linear_before_reset 0 and 1) and what
    both of PyTorch's exporters write around them. Which of the two comes back the graph says, so
    that type checkers are told Any: `gru: fastgru.GRU = ...`.

    A **GRU** where the graph is one GRU node, or several that stack as torch.nn.GRU's layers do,
    and its outputs are nothing but theirs: Y and all of Y_h, or either. A **Model** otherwise, of
    the chain of layers from the input to the one output; GRU nodes in a row that agree in size,
    directions, biases and activations become one GRU in it. Shapes are then those of fastgru:

    ==========================================  ===============================================
    in the graph                                of what is loaded
    ==========================================  ===============================================
    X (T, B, I), with a Transpose or layout 1   x the same; batch_first where it is (B, T, I)
    (B, T, I), without a batch (T, I)
    indices (T, B) or (B, T)                    x the same: an Embedding or a OneHot comes first
    Y (T, D, B, H), of layout 1 (B, T, D, H)    output (T, B, D*H) or (B, T, D*H), as in torch
    Y_h (D, B, H), of layout 1 (B, D, H);       h_n (L*D, B, H)
    several one after the other
    initial_h, an input; of layout 1 (B, D, H)  h_0 (L*D, B, H) of a call; only a GRU has one
    sequence_lens, an input                     lengths= of a call
    the output of a chain                       the same (a chain that ends otherwise is refused)
    ==========================================  ===============================================

    Sizes of T and B that the file fixes are not kept: any will do. But where a file fixes one at 1,
    it does not tell the first step from the last one, or T from B; export with a longer example if
    other sizes are to come. Initial states that are zeros are dropped. Floating types of the file
    do not matter, all is calculated in float32. `precision` reduces the GRUs, as `GRU.to` does.
    External data is read from a regular file in the same folder.

    `reset_after` is the equation of all GRU nodes: None takes what each node says
    (`linear_before_reset`, 0 where it says nothing). True is also taken where a node says 0, which
    is ONNX's default. A file of PyTorch whose GRU says 0 gives an EquationWarning, because
    torch.nn.GRU is 1 and some of its exports left that out.

    Rows of length 0 keep their h_0, as everywhere in fastgru: nothing was read, so nothing has
    changed, and a stream that pauses goes on. ONNX does not define that case; ONNX Runtime gives 0.

    A number in a Reshape that may be the T of the exporter's example, or may join parts of several
    sequences, is decided by the shapes that the file declares (value_info), and else refused. A
    learned initial state is refused: export the GRU without it and pass h_0 to each call.

    Raises UnsupportedLayerError naming every operation that fastgru has no layer for, and where it
    stands (clip, other activations, other domains, several outputs, ...); FormatError listing every
    problem of a file that is damaged, or whose weights are not in it; ImportError without the onnx
    package; ValueError for an unknown option; OSError if the file cannot be read.

    >>> import fastgru, numpy as np, onnx
    >>> weights = [onnx.numpy_helper.from_array(np.ones((1, 6, columns), np.float32), name)
    ...            for name, columns in (("W", 3), ("R", 2))]
    >>> x = onnx.helper.make_tensor_value_info("X", onnx.TensorProto.FLOAT, ["T", "B", 3])
    >>> y = onnx.helper.make_tensor_value_info("Y", onnx.TensorProto.FLOAT, ["T", 1, "B", 2])
    >>> node = onnx.helper.make_node("GRU", ["X", "W", "R"], ["Y"], hidden_size=2)
    >>> graph = onnx.helper.make_graph([node], "example", [x], [y], weights)
    >>> onnx.save(onnx.helper.make_model(graph), "gru.onnx")
    >>> output, h_n = fastgru.from_onnx("gru.onnx")(np.ones((5, 4, 3), np.float32))
    >>> output.shape, h_n.shape
    ((5, 4, 2), (1, 4, 2))
    """
    check_options(precision=precision)
    if reset_after is not None:
        check_options(reset_after=reset_after)
    check_isa(isa)
    if num_threads is not None:
        positive("num_threads", num_threads)
    settings = {"precision": precision, "num_threads": num_threads, "isa": isa}
    how: dict[str, Any] = {"reset_after": reset_after, "settings": settings}
    onnx = _onnx()
    if isinstance(path, onnx.ModelProto):
        return _load(onnx, path, None, size=path.ByteSize(), **how)
    name = os.fspath(path)  # before open, which would take 0 for standard input
    try:
        with open_regular(name) as file:
            size = os.fstat(file.fileno()).st_size
            if size > _MAX_FILE:
                raise FormatError(f"an ONNX file has at most {_MAX_FILE} bytes, got {size}")
            data = file.read(_MAX_FILE + 1)
        return _load(onnx, _parsed(onnx, data), os.fsdecode(name), size=len(data), **how)
    except (FormatError, UnsupportedLayerError) as error:
        raise type(error)(about(os.fsdecode(name), error)) from error.__cause__


def looks_like_onnx(head: bytes) -> bool:
    """Whether a file that starts with `head` (a few hundred bytes will do) is an ONNX model.

    A ModelProto is written in the order of its fields: a small ir_version, texts that say who made
    it, the graph. Everything in `head` up to the graph must fit.

    >>> looks_like_onnx(bytes([8, 8, 18, 7]) + b"pytorch" + bytes([58, 20, 10, 18]))
    True
    >>> looks_like_onnx(bytes([8, 8]) + b"something else")
    False
    """
    if len(head) < 4 or head[0] != 8 or not 1 <= head[1] <= _MAX_IR_VERSION:
        return False
    at, before = 2, 1
    try:
        while at < len(head):
            tag, at = varint(head, at, len(head))
            field, wire = tag >> 3, tag & 7
            length, at = varint(head, at, len(head))
            if field == _GRAPH:
                return wire == 2 and length > 0 and (at >= len(head) or head[at] in _IN_GRAPH)
            if field < before or wire != _HEAD_FIELDS.get(field):
                return False
            before = field
            if wire == 2:
                if not _is_text(head[at : at + length]):
                    return False
                at += length
    except FormatError:
        return False
    return at > len(head)  # in the middle of a text


def _is_text(data: bytes) -> bool:
    text = data.decode("utf-8", "ignore")
    return len(text.encode()) >= len(data) - 3 and all(c.isprintable() or c.isspace() for c in text)


def _onnx() -> ModuleType:
    try:
        import onnx  # noqa: PLC0415  (heavy)
        import onnx.defs  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            'from_onnx needs the onnx package, which parses the file: pip install "fastgru[onnx]"'
        ) from error
    module: ModuleType = onnx
    return module


def _parsed(onnx: ModuleType, data: bytes) -> Any:
    if not data:
        raise FormatError("the file is empty")
    check_parts(data, onnx.ModelProto.DESCRIPTOR)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as error:  # DecodeError, of whichever protobuf is installed
        if isinstance(error, MemoryError):
            raise
        raise FormatError(f"not an ONNX file, or a damaged one: {error}") from error
    if not model.HasField("graph"):
        raise FormatError("not an ONNX file: there is no graph in it")
    return model


def _load(
    onnx: ModuleType,
    model: Any,
    name: str | None,
    *,
    size: int,
    reset_after: bool | None,
    settings: dict[str, Any],
) -> GRU | Model:
    # Importing fastgru must stay fast and needs none of these.
    from fastgru.formats.onnx.equation import settle_equation  # noqa: PLC0415
    from fastgru.formats.onnx.graph import read_graph  # noqa: PLC0415
    from fastgru.formats.onnx.result import result_of  # noqa: PLC0415
    from fastgru.formats.onnx.tensors import COPIES, Tensors  # noqa: PLC0415
    from fastgru.formats.onnx.walk import walk  # noqa: PLC0415

    allowance = Allowance(COPIES * size // 2)
    folder = None if name is None else os.path.dirname(os.path.abspath(name))
    tensors = Tensors(folder, allowance)
    graph = read_graph(model, tensors, onnx.defs.onnx_opset_version())
    graph = settle_equation(graph, reset_after, "the model" if name is None else name)
    return result_of(walk(graph, tensors, allowance), settings)
