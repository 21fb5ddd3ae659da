"""Counts the parts of an ONNX file before protobuf makes objects of them.

An empty node takes two bytes in a file and a hundred in memory, so that a file may ask for fifty
times its size. Refuses more parts than any real graph has, and what protobuf would refuse.
"""

from __future__ import annotations

from typing import Any

from fastgru.errors import FormatError

MAX_PARTS = 2_000_000  # fields; 20,000 nodes with their names, inputs and attributes have 500,000
_MAX_DEPTH = 100  # protobuf's own
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5  # wire types


def check_parts(data: bytes, descriptor: Any) -> None:
    """Walks the fields of a message of this descriptor; FormatError for too many or damage."""
    kinds: dict[str, dict[int, Any]] = {}
    parts = 0
    stack = [(0, len(data), descriptor, 0)]
    while stack:
        at, end, kind, depth = stack.pop()
        if kind.full_name not in kinds:
            fields = kind.fields_by_number.items()
            kinds[kind.full_name] = {number: field.message_type for number, field in fields}
        inner = kinds[kind.full_name]
        while at < end:
            parts += 1
            if parts > MAX_PARTS:
                raise FormatError(f"an ONNX file of more than {MAX_PARTS} parts")
            tag, at = varint(data, at, end)
            wire = tag & 7
            if wire == _VARINT:
                _, at = varint(data, at, end)
            elif wire == _BYTES:
                length, at = varint(data, at, end)
                message = inner.get(tag >> 3)
                if message is not None:
                    stack.append((at, min(at + length, end), message, depth + 1))
                at += length
            elif wire in (_EIGHT, _FOUR):
                at += 8 if wire == _EIGHT else 4
            else:
                raise FormatError(f"not an ONNX file, or a damaged one: wire type {wire}")
        if at > end:
            raise FormatError("not an ONNX file, or a damaged one: it is cut off")
        if depth > _MAX_DEPTH:
            raise FormatError(f"an ONNX file that is nested more than {_MAX_DEPTH} deep")


def varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A number, and where it ends; FormatError."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise FormatError("not an ONNX file, or a damaged one: it is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise FormatError("not an ONNX file, or a damaged one: a number without end")
