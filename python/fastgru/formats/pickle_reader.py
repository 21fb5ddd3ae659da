"""Pickles -> plain values, by reading the opcodes and nothing else.

There is no way from here to Python's own unpickler, to an import or to a call of what a pickle
names: a global is a string. What calling it would have given is for a `Meaning` to say, which
decides by that string; an object that has no meaning is never made, and a `StandIn` that knows its
name holds its place. BUILD, which could set attributes, changes nothing. Values are numbers, short
strings, tuples, lists, `Dict`, `Global`, `StandIn`, what the Meaning returns, and `Other` for what
nobody needs: sets, bytes, long strings, long integers.

So that no pickle costs more than its size allows: every opcode pays for what it keeps, lengths are
compared with the bytes that are there, keys are never hashed or compared (nested tuples, chosen
integers), and nothing recurses. Refuses text protocols (0 and 1), out-of-band buffers, the
extension registry, and what only an attack names (pickle_hostile.py): FormatError.
"""

from __future__ import annotations

from typing import Any

from fastgru.errors import FormatError
from fastgru.formats.pickle_machine import Machine
from fastgru.formats.pickle_opcodes import OPCODES
from fastgru.formats.pickle_values import Meaning
from fastgru.formats.window import Allowance, Window


class HostileGlobals(FormatError):
    """The pickle names globals that have no place in a checkpoint; `str` of it lists them."""


def read_pickle(window: Window, meaning: Meaning, allowance: Allowance) -> Any:
    """The value of the pickle that starts where `window` stands; it then stands behind it.

    Raises HostileGlobals, or FormatError for a damaged pickle.
    """
    machine = Machine(window, meaning, allowance)
    value = None
    try:
        value = _run(machine)
    except FormatError:
        if not machine.hostile:  # which are the news, whatever is damaged behind them
            raise
    if machine.hostile:
        raise HostileGlobals(", ".join(machine.hostile))
    return value


def _run(machine: Machine) -> Any:
    window, allowance = machine.window, machine.allowance
    while True:
        start = window.position
        code = window.read(1)
        if code == b".":
            break
        action, cost = OPCODES.get(code, (None, 0))
        if action is None:
            raise FormatError(f"byte {start}: opcode {code!r} is not read")
        allowance.take(cost)
        try:
            action(machine)
        except (IndexError, KeyError) as error:  # of the stack and the memo
            raise FormatError(f"byte {start}: opcode {code!r} has nothing to work on") from error
    if not machine.stack:
        raise FormatError(f"byte {start}: the pickle ends without a value")
    return machine.stack.pop()
