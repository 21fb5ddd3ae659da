"""What a pickle's opcodes do with the globals that it names: naming one, and calling it.

A global is a string. A call of one that the Meaning knows gives the value that the Meaning says;
any other call gives a stand-in, which knows the name and nothing else. Hostile names are written
down, for the reader to refuse the file when it has seen them all. Refuses what Python could not
call either: FormatError.
"""

from __future__ import annotations

import sys
from typing import Any

from fastgru.errors import FormatError
from fastgru.formats.pickle_hostile import is_hostile
from fastgru.formats.pickle_machine import Machine
from fastgru.formats.pickle_values import Global, StandIn, printable

_MAX_GLOBAL = 500
_MAX_LISTED = 12
_STAND_IN = 64  # bytes, as in pickle_opcodes.py
_GETATTR = "builtins.getattr"
# Functions that make an object of the class that is their first argument.
_MAKERS = frozenset(
    f"{module}.{name}"
    for module in ("copyreg", "copy_reg")
    for name in ("_reconstructor", "__newobj__", "__newobj_ex__")
)


def push_global(machine: Machine) -> None:
    """GLOBAL: the module's and the global's name in a line each."""
    lines = [machine.window.line(_MAX_GLOBAL), machine.window.line(_MAX_GLOBAL)]
    try:
        module, name = (line.decode("utf-8") for line in lines)
    except UnicodeDecodeError as error:
        raise FormatError(f"a global named {b'.'.join(lines)!r}") from error
    _push(machine, module, name)


def stack_global(machine: Machine) -> None:
    """STACK_GLOBAL: both names are strings on the stack."""
    name, module = machine.stack.pop(), machine.stack.pop()
    if type(name) is not str or type(module) is not str:
        raise FormatError("a global whose name is no string")
    _push(machine, module, name)


def call(machine: Machine) -> None:
    """REDUCE and NEWOBJ: a function or a class, and its arguments in a tuple."""
    args, function = machine.stack.pop(), machine.stack.pop()
    if type(function) not in (Global, StandIn) or type(args) is not tuple:
        raise FormatError("a call of what is no global")
    machine.stack.append(_value_of(machine, function, args))


def call_with_names(machine: Machine) -> None:
    """NEWOBJ_EX: a class, arguments, arguments by name. No tensor is made like this."""
    _, _, function = machine.stack.pop(), machine.stack.pop(), machine.stack.pop()
    if type(function) not in (Global, StandIn):
        raise FormatError("a call of what is no global")
    machine.stack.append(_stand_in(machine, function.name))


def _push(machine: Machine, module: str, name: str) -> None:
    module = "builtins" if module == "__builtin__" else module  # Python 2's name
    full = f"{module}.{name}"
    machine.allowance.take(sys.getsizeof(full))
    if is_hostile(module, name):
        _note(machine.hostile, full)
    elif not machine.meaning.knows(full) and full != _GETATTR:
        _note(machine.meaning.foreign, full)
    machine.stack.append(Global(full))


def _value_of(machine: Machine, function: Global | StandIn, args: tuple[Any, ...]) -> Any:
    name = function.name
    if type(function) is StandIn:  # an object that can be called, such as a functools.partial
        return _stand_in(machine, name)
    if name == _GETATTR:
        return _attribute(machine, args)
    if machine.meaning.knows(name):
        return machine.meaning.call(name, args)
    if name in _MAKERS and args and type(args[0]) is Global:
        name = args[0].name
    return _stand_in(machine, name)


def _stand_in(machine: Machine, name: str) -> StandIn:
    machine.allowance.take(_STAND_IN)
    return StandIn(name)


def _attribute(machine: Machine, args: tuple[Any, ...]) -> Global | StandIn:
    """getattr(class, name): how protocols 2 and 3 write a class in a class, or a method.

    An attribute of a stand-in is a stand-in, and str.lower is a function. An attribute of what has
    another meaning here is refused: no program keeps it, and it may lead to anything.
    """
    owner: Any = args[0] if len(args) in (2, 3) else None  # dill says a default as well
    if type(owner) not in (Global, StandIn) or type(args[1]) is not str:
        _note(machine.hostile, _GETATTR)
        return _stand_in(machine, _GETATTR)
    name = f"{owner.name}.{args[1]}"
    machine.allowance.take(sys.getsizeof(name) + _STAND_IN)
    known = machine.meaning.knows(owner.name) and not owner.name.startswith("builtins.")
    if known or is_hostile(owner.name, args[1]):
        _note(machine.hostile, _GETATTR)
    return Global(name) if type(owner) is Global else StandIn(name)


def _note(names: dict[str, None], full: str) -> None:
    if len(names) < _MAX_LISTED:
        names[printable(full)] = None
