"""What a pickle is read into: values, and names for what would have been objects.

Numbers, strings, tuples and lists are Python's own; these are the others. Refuses nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Global:
    """Something that the pickle would have imported: "module.name"."""

    name: str


@dataclass(frozen=True, slots=True)
class Other:
    """A value of which only the kind was kept, or a tensor that has no real numbers."""

    kind: str


@dataclass(slots=True, eq=False)
class Dict:
    """key, value, key, value, ... as they came: nothing is hashed."""

    flat: list[Any]

    def pairs(self) -> Iterator[tuple[Any, Any]]:
        """(key, value), ..."""
        values = iter(self.flat)
        return zip(values, values, strict=True)


class Meaning(Protocol):
    """What the globals of a pickle stand for."""

    def knows(self, name: str) -> bool:
        """Whether a pickle may name this global."""

    def call(self, name: str, args: tuple[Any, ...]) -> Any:
        """The value that a call of a known global stands for; nothing may be executed."""

    def persistent(self, identity: Any) -> Any:
        """The value that stands outside of the pickle under this identity."""
