"""What each opcode of a pickle does to the stacks and the memo: protocols 2 to 5.

Each comes with a price, the bytes that it keeps; see pickle_reader.py for why. Refuses whatever
does not fit what is on the stack: FormatError, or an IndexError or KeyError for too little there.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from typing import Any

from fastgru.errors import FormatError
from fastgru.formats.pickle_globals import call, call_with_names, push_global, stack_global
from fastgru.formats.pickle_machine import Machine
from fastgru.formats.pickle_values import Dict, Other, StandIn

_MAX_TEXT = 4096  # of a string that is kept; no name is longer

# What a value takes, in bytes: one to two times what tracemalloc measures under Python 3.11.
_SLOT = 20  # in a stack or a list that grows
_NUMBER = 36
_LIST = 90
_DICT = 150
_TUPLE = 64
_GLOBAL = 150
_MARK = 110
_MEMO = 140


# ---- values ----


def _constant(value: Any) -> Callable[[Machine], None]:
    return lambda machine: machine.stack.append(value)


def _number(layout: str) -> Callable[[Machine], None]:
    unpack, size = struct.Struct(layout).unpack, struct.calcsize(layout)
    return lambda machine: machine.stack.append(unpack(machine.window.read(size))[0])


def _length(machine: Machine, layout: str) -> int:
    count = int(struct.unpack(layout, machine.window.read(struct.calcsize(layout)))[0])
    if count < 0:
        raise FormatError(f"a length of {count}")
    return count


def _long(machine: Machine) -> None:
    data = machine.window.read(_length(machine, "<B"))
    machine.allowance.take(len(data))
    machine.stack.append(int.from_bytes(data, "little", signed=True))


def _text(layout: str) -> Callable[[Machine], None]:
    def action(machine: Machine) -> None:
        count = _length(machine, layout)
        if count > _MAX_TEXT:
            machine.window.skip(count)
            machine.stack.append(_LONG_TEXT)
            return
        data = machine.window.read(count)
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:  # Python 2's strings may be any bytes
            machine.stack.append(_BYTES)
            return
        machine.allowance.take(sys.getsizeof(text))
        machine.stack.append(text)

    return action


def _skipped(layout: str, other: Other) -> Callable[[Machine], None]:
    def action(machine: Machine) -> None:
        machine.window.skip(_length(machine, layout))
        machine.stack.append(other)

    return action


# ---- containers ----


def _tuple(machine: Machine) -> None:
    values = machine.above_mark()
    machine.allowance.take(8 * len(values))
    machine.stack.append(tuple(values))


def _short_tuple(count: int) -> Callable[[Machine], None]:
    def action(machine: Machine) -> None:
        values = machine.stack[-count:]
        if len(values) < count:
            raise IndexError
        machine.stack[-count:] = [tuple(values)]

    return action


def _list(machine: Machine) -> None:
    values = machine.above_mark()  # which changes the stack
    machine.stack.append(values)


def _dict(machine: Machine) -> None:
    values = machine.above_mark()
    machine.stack.append(Dict([]))
    _add(machine, values, Dict)


def _frozen_set(machine: Machine) -> None:
    machine.above_mark()
    machine.stack.append(_SET)


def _add(machine: Machine, values: list[Any], kind: type) -> None:
    """Adds `values` to the container on the stack, unless it is one of which nothing is kept."""
    target = machine.stack[-1]
    if type(target) is Dict and kind is Dict:
        if len(values) % 2:
            raise FormatError("a key without a value")
        target.flat.extend(values)
    elif type(target) is list and kind is list:
        target.extend(values)
    elif type(target) not in (Other, StandIn):
        raise FormatError(f"items are put into what is no {kind.__name__.lower()}")


def _append(machine: Machine) -> None:
    _add(machine, [machine.stack.pop()], list)


def _set_item(machine: Machine) -> None:
    value = machine.stack.pop()
    _add(machine, [machine.stack.pop(), value], Dict)


def _add_all(kind: type) -> Callable[[Machine], None]:
    return lambda machine: _add(machine, machine.above_mark(), kind)


# ---- memo and marks ----


def _put(layout: str) -> Callable[[Machine], None]:
    def action(machine: Machine) -> None:
        machine.memo[_length(machine, layout)] = machine.stack[-1]

    return action


def _memoize(machine: Machine) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _get(layout: str) -> Callable[[Machine], None]:
    return lambda machine: machine.stack.append(machine.memo[_length(machine, layout)])


# ---- what stands outside of the pickle ----


def _persistent(machine: Machine) -> None:
    machine.stack.append(machine.meaning.persistent(machine.stack.pop()))


_BYTES = Other("bytes")
_LONG_TEXT = Other("a long string")
_SET = Other("a set")

# Opcode -> what it does, and the bytes that this keeps beside what it counts itself.
OPCODES: dict[bytes, tuple[Callable[[Machine], object], int]] = {
    b"\x80": (lambda machine: machine.window.skip(1), 0),  # PROTO
    b"\x95": (lambda machine: machine.window.skip(8), 0),  # FRAME: how much to read at once
    b"N": (_constant(None), _SLOT),
    b"\x88": (_constant(True), _SLOT),
    b"\x89": (_constant(False), _SLOT),
    b"J": (_number("<i"), _SLOT + _NUMBER),
    b"K": (_number("<B"), _SLOT),
    b"M": (_number("<H"), _SLOT + _NUMBER),
    b"\x8a": (_long, _SLOT + _NUMBER),
    b"\x8b": (_skipped("<i", Other("a long integer")), _SLOT),
    b"G": (_number(">d"), _SLOT + _NUMBER),
    b"T": (_text("<i"), _SLOT),
    b"U": (_text("<B"), _SLOT),
    b"X": (_text("<I"), _SLOT),
    b"\x8c": (_text("<B"), _SLOT),
    b"\x8d": (_text("<Q"), _SLOT),
    b"B": (_skipped("<I", _BYTES), _SLOT),
    b"C": (_skipped("<B", _BYTES), _SLOT),
    b"\x8e": (_skipped("<Q", _BYTES), _SLOT),
    b"\x96": (_skipped("<Q", _BYTES), _SLOT),
    b"]": (lambda machine: machine.stack.append([]), _SLOT + _LIST),
    b"}": (lambda machine: machine.stack.append(Dict([])), _SLOT + _DICT),
    b")": (_constant(()), _SLOT),
    b"\x8f": (_constant(_SET), _SLOT),
    b"t": (_tuple, _SLOT + _TUPLE),
    b"\x85": (_short_tuple(1), _SLOT + _TUPLE),
    b"\x86": (_short_tuple(2), _TUPLE),
    b"\x87": (_short_tuple(3), _TUPLE),
    b"l": (_list, _SLOT + _LIST),
    b"d": (_dict, _SLOT + _DICT),
    b"\x91": (_frozen_set, _SLOT),
    b"a": (_append, _SLOT),
    b"e": (_add_all(list), _SLOT),
    b"s": (_set_item, 2 * _SLOT),
    b"u": (_add_all(Dict), _SLOT),
    b"\x90": (_add_all(set), _SLOT),
    b"(": (Machine.mark, _MARK),
    b"0": (lambda machine: machine.stack.pop(), 0),
    b"1": (Machine.above_mark, 0),
    b"2": (lambda machine: machine.stack.append(machine.stack[-1]), _SLOT),
    b"q": (_put("<B"), 0),
    b"r": (_put("<I"), _MEMO),
    b"\x94": (_memoize, _MEMO),
    b"h": (_get("<B"), _SLOT),
    b"j": (_get("<I"), _SLOT),
    b"c": (push_global, _SLOT + _GLOBAL),
    b"\x93": (stack_global, _SLOT + _GLOBAL),
    b"R": (call, _SLOT),
    b"\x81": (call, _SLOT),
    b"\x92": (call_with_names, _SLOT),
    b"b": (lambda machine: machine.stack.pop(), 0),  # BUILD: attributes, of which none matters
    b"Q": (_persistent, _SLOT),
}
