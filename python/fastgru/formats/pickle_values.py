"""What a pickle is read into: values, and names for what would have been objects.

Numbers, strings, tuples and lists are Python's own; these are the others. Refuses nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

_MAX_SHOWN = 100


@dataclass(frozen=True, slots=True)
class Global:
    """Something that the pickle would have imported: "module.name"."""

    name: str

    @property
    def kind(self) -> str:
        """What an error calls it."""
        return f"{printable(self.name)}, which fastgru does not import"


@dataclass(frozen=True, slots=True)
class StandIn:
    """Holds the place of an object that is never made. `name` is its class or its maker.

    Whatever the pickle does to the object (calls, items, attributes) is done to nothing.
    """

    name: str

    @property
    def kind(self) -> str:
        """What an error calls it."""
        return f"an object of {printable(self.name)}, which fastgru does not make"


@dataclass(frozen=True, slots=True)
class Other:
    """A value of which only the kind was kept, or a tensor that has no real numbers."""

    kind: str
    is_tensor: bool = False


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

    foreign: dict[str, None]
    """An ordered set of the first names that a pickle used and that have no meaning."""

    def knows(self, name: str) -> bool:
        """Whether a call of this global stands for a value; any other gives a stand-in."""

    def call(self, name: str, args: tuple[Any, ...]) -> Any:
        """The value that a call of a known global stands for; nothing may be executed."""

    def persistent(self, identity: Any) -> Any:
        """The value that stands outside of the pickle under this identity."""


def printable(name: str) -> str:
    """A global's name for a message, which goes to a terminal."""
    return name[:_MAX_SHOWN] if name.isprintable() else ascii(name[:_MAX_SHOWN])
