"""The state of one reading of a pickle: the stack, the marks and the memo of Python's pickle.py.

Refuses nothing: what does not fit is for the opcodes to say.
"""

from __future__ import annotations

from typing import Any

from fastgru.formats.pickle_values import Meaning
from fastgru.formats.window import Allowance, Window


class Machine:
    """The state of one reading: stacks as in Python's pickle.py."""

    __slots__ = ("allowance", "hostile", "marked", "meaning", "memo", "stack", "window")

    def __init__(self, window: Window, meaning: Meaning, allowance: Allowance) -> None:
        self.window = window
        self.meaning = meaning
        self.allowance = allowance
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}
        self.hostile: dict[str, None] = {}  # an ordered set of names

    def mark(self) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def above_mark(self) -> list[Any]:
        values = self.stack
        self.stack = self.marked.pop()
        return values
