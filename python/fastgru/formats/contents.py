"""What a file is, by its content and never by its name: its format, and the tensors it names.

The one place where formats are told apart. Refuses what is none of them, and says what it is
instead.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

from fastgru.arrays import TensorSource
from fastgru.errors import FormatError
from fastgru.formats import native, npz_file, safetensors_file, torch_file, zip_directory
from fastgru.formats.window import Allowance
from fastgru.importing import importing

NATIVE, SAFETENSORS, NPZ = "native", "safetensors", "npz"
TORCH_ZIP, TORCH_CHAIN = "torch zip", "torch chain"
ONNX, KERAS, KERAS_WEIGHTS = "onnx", "keras", "keras weights"

_EXPECTED = "a safetensors, .npz, .pt, ONNX or Keras file"
_HEAD = 512
_PICKLES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
_HDF5 = b"\x89HDF\r\n\x1a\n"


class Contents(NamedTuple):
    """A file that was looked into. Tensors are read from it when they are asked for."""

    format: str
    tensors: Mapping[str, TensorSource] = {}
    """By name; none of ONNX and Keras files, which have readers of their own."""
    prefix: str | None = None
    """The caller's, in full."""
    description: dict[str, Any] | None = None
    """Of a native file."""
    assumed: tuple[str, ...] = ()
    """Options of the GRU that the file does not say, or says to be only PyTorch's defaults."""

    @property
    def is_foreign(self) -> bool:
        """Whether another program's description of a whole network is in it."""
        return self.format in (ONNX, KERAS, KERAS_WEIGHTS)


def look_into(file: BinaryIO, prefix: str | None) -> Contents:
    """The contents of an open file, which must stay open; FormatError."""
    head = file.read(_HEAD)
    if head[8:9] == b"{":
        tensors, metadata = safetensors_file.read(file)
        if native.KEY not in metadata:
            return _state_dict(SAFETENSORS, tensors, prefix)
        assumed = native.parse_assumed(metadata.get(native.ASSUMED_KEY, ""))
        description = native.parse(metadata[native.KEY])
        return Contents(NATIVE, tensors, prefix, description, assumed)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        found = torch_file.read_zip(file, prefix)
        if found is not None:
            return _state_dict(TORCH_ZIP, *found)
        with importing():
            from fastgru.formats.keras.file import looks_like_keras  # noqa: PLC0415

        if looks_like_keras(_members(file)):
            return Contents(KERAS)
        return _state_dict(NPZ, npz_file.read(file), prefix)
    if head.startswith(_PICKLES):
        return _state_dict(TORCH_CHAIN, *torch_file.read_chain(file, prefix))
    if head.startswith(_HDF5):
        return Contents(KERAS_WEIGHTS, assumed=native.UNSAID[:2])  # biases tell the equation
    with importing():
        from fastgru.formats.onnx.file import looks_like_onnx  # noqa: PLC0415  (a dozen modules)

    if looks_like_onnx(head):
        return Contents(ONNX)
    raise FormatError(_what_it_is(head))


def _state_dict(kind: str, tensors: Mapping[str, TensorSource], prefix: str | None) -> Contents:
    return Contents(kind, tensors, prefix, assumed=native.UNSAID)


def _members(file: BinaryIO) -> set[str]:
    size = os.fstat(file.fileno()).st_size
    return {entry.name for entry in zip_directory.read(file, size, Allowance(size)).entries}


def _what_it_is(head: bytes) -> str:
    if not head:
        return "the file is empty"
    if head[257:262] == b"ustar":
        return (
            "a tar file (torch.save before 0.1.10?), which is not read; load it with an old torch "
            "and save it again"
        )
    if head.startswith(b"\x93NUMPY"):
        what = "a single .npy array; an .npz file holds named ones"
    else:
        what = f"one that starts with {head[:9]!r}"
    return f"expected {_EXPECTED}, got {what}"
