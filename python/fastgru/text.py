"""Text that names things from files: printable, a line where it should be one, and bounded.

Whatever a file says (names, fields, values, sizes) may hold escape sequences of terminals, line
ends that forge a line of a log, or megabytes. `printable`, `brief`, `number_text` and `listed` put
such text into a message, and `Message`, `report` and `about` make a message of several lines. The
exceptions in errors.py pass what they are given through `message`, so that a place that has
forgotten this module cannot leak: its text comes out on one line, escaped and cut.
Refuses to import anything of fastgru: errors.py needs it while the package is being imported.
"""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import Any, SupportsIndex

NAME_LIMIT = 200
PROBLEM_LIMIT = 500
LINE_LIMIT = 2_000
MESSAGE_LIMIT = 8_000
MAX_LISTED = 12
_MAX_BITS = 128  # of an integer that is written out; beyond 4,300 digits Python refuses to
_INDENT = "\n  "
_CUT = "..."


def printable(text: str, limit: int = NAME_LIMIT) -> str:
    r"""`text` on one line of at most `limit` characters, what is not printable as repr has it.

    That is control characters, line ends, invisible marks that turn the direction of a line, and
    halves of surrogate pairs. Text that is printable and short stays as it is.

    >>> print(printable("rnn\x1b[31m\n.weight"), printable("x" * 50, limit=8))
    rnn\x1b[31m\n.weight xxxxx...
    """
    start = text[: limit + 1]  # escapes only make it longer
    if not start.isprintable():
        start = "".join(c if c.isprintable() else repr(c)[1:-1] for c in start)
    return start if len(start) <= limit else start[: limit - len(_CUT)] + _CUT


def number_text(number: int) -> str:
    """An integer from a file, which may have a million digits.

    >>> number_text(512), number_text(1 << 40000)
    ('512', 'an integer of 40001 bits')
    """
    if number.bit_length() <= _MAX_BITS:
        return str(number)
    return f"an integer of {number.bit_length()} bits"


class _Brief(reprlib.Repr):
    """Looks at a few items of a container and at the ends of a string, whatever their sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxstring = self.maxother = 100

    def repr_int(self, x: int, level: int) -> str:
        return number_text(x)

    def repr_bytes(self, x: bytes, level: int) -> str:
        return repr(x[: self.maxstring]) + (_CUT if len(x) > self.maxstring else "")


_BRIEF = _Brief()


def brief(value: object, limit: int = NAME_LIMIT) -> str:
    """The repr of a value from a file, at most `limit` characters of it.

    >>> brief("tanh"), brief([0] * 1000)
    ("'tanh'", '[0, 0, 0, 0, 0, 0, ...]')
    """
    return printable(_BRIEF.repr(value), limit)


def listed(items: Collection[Any], limit: int = MAX_LISTED, *, of: int | None = None) -> str:
    """The first of `items`, and how many more there are; `of`: where they are only the first.

    >>> listed(["a", "b", "c"], limit=2), listed(["a", "b"], of=1000)
    ('a, b and 1 more', 'a, b and 998 more')
    """
    texts = [printable(str(item)) for item in islice(items, limit)]
    more = (len(items) if of is None else of) - len(texts)
    return ", ".join(texts) + (f" and {more} more" if more > 0 else "")


class Message(str):
    r"""A message of several lines: each is printable and cut, and all but the first are indented.

    A line end inside one of `lines` is escaped like all that is not printable, so that the lines
    of a Message are those that fastgru made.

    >>> print(Message("the GRU has 1 problem:", "forged\nline"))
    the GRU has 1 problem:
      forged\nline
    """

    __slots__ = ()

    def __new__(cls, *lines: str) -> Message:
        kept: list[str] = []
        room = MESSAGE_LIMIT - len(_INDENT + _CUT)
        for line in lines:
            kept.append(printable(line, LINE_LIMIT))
            room -= len(kept[-1]) + len(_INDENT)
            if room < 0:
                kept[-1] = _CUT
                break
        return super().__new__(cls, _INDENT.join(kept))

    @property
    def lines(self) -> list[str]:
        """Without the indentation that all but the first have."""
        return self.split(_INDENT)

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:  # pickle and copy
        return Message, tuple(self.lines)


class Problems:
    """What is wrong with something: the first few, and how many there are.

    A small file can have a million; a list of them all would be many times its size.

    >>> problems = Problems()
    >>> problems.extend(f"layer {index}: missing" for index in range(9999))
    >>> len(problems), len(list(problems))
    (9999, 12)
    """

    def __init__(self, problems: Iterable[str] = ()) -> None:
        self._first: list[str] = []
        self._count = 0
        self.extend(problems)

    def append(self, problem: str) -> None:
        self._count += 1
        if len(self._first) < MAX_LISTED:
            self._first.append(problem)

    def extend(self, problems: Iterable[str]) -> None:
        for problem in problems:
            self.append(problem)

    def __iadd__(self, problems: Iterable[str]) -> Problems:
        self.extend(problems)
        return self

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return iter(self._first)


def report(subject: str, problems: Collection[str] | Problems) -> Message:
    """One message for all problems; a line each where there are several.

    >>> print(report("the GRU", ["weight_ih_l0: missing", "weight_hh_l0: missing"]))
    the GRU has 2 problems:
      weight_ih_l0: missing
      weight_hh_l0: missing
    """
    first = list(islice(problems, MAX_LISTED))
    if len(problems) == 1:
        return about(subject, _within(first[0]))
    lines = [f"{printable(subject, PROBLEM_LIMIT)} has {len(problems)} problems:"]
    for problem in first:
        head, *others = _within(problem).lines
        lines += [head, *(f"  {line}" for line in others)]
    more = len(problems) - len(first)
    return Message(*lines, *([f"and {more} more"] if more else []))


def _within(problem: str) -> Message:
    """One of several problems, which must leave room for the others."""
    head, *others = problem.lines if isinstance(problem, Message) else [problem]
    return Message(printable(head, PROBLEM_LIMIT), *others)


def about(place: str, told: BaseException | str) -> Message:
    """What an error, or a message, says about `place`: its lines stay lines.

    An f-string with an error in it has no lines any more: they come out escaped.

    >>> print(about("model.pt", report("the GRU", ["bias_ih_l0: missing", "bias_hh_l0: missing"])))
    model.pt: the GRU has 2 problems:
      bias_ih_l0: missing
      bias_hh_l0: missing
    """
    text = message_of(told) if isinstance(told, BaseException) else told
    head, *others = text.lines if isinstance(text, Message) else [text]
    return Message(f"{printable(place, PROBLEM_LIMIT)}: {head}", *others)


def advised(told: BaseException | str, *advice: str) -> Message:
    """What an error, or a message, says, with lines behind it that tell what to do.

    >>> print(advised("no GRU found", "pick one with prefix=..."))
    no GRU found
      pick one with prefix=...
    """
    text = message_of(told) if isinstance(told, BaseException) else told
    return Message(*(text.lines if isinstance(text, Message) else [text]), *advice)


def message_of(error: BaseException) -> str:
    """What `error` says; a Message if it was raised with one."""
    told = error.args[0] if error.args else ""
    return told if isinstance(told, Message) else str(error)


def message(told: object) -> object:
    """What an exception of fastgru keeps of what it is raised with: its last line of defence."""
    if isinstance(told, Message) or not isinstance(told, str):
        return told
    return printable(told, MESSAGE_LIMIT)
