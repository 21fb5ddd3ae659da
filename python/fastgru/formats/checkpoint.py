"""A checkpoint, dicts in dicts, -> tensors by name: `state_dict.encoder.rnn.weight_ih_l0`.

Also lists and tuples count as containers, their items by number. A prefix may be said as the whole
path or as it is in a state dict inside, for who has saved {"epoch": 3, "state_dict": ...} knows
`encoder.rnn.`. Refuses names that stand for two things, and what is nested without end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fastgru.errors import FormatError
from fastgru.formats.pickle_values import Dict, Global, Other, StandIn
from fastgru.formats.torch_objects import Tensor
from fastgru.formats.window import Allowance
from fastgru.spec import gru_prefixes
from fastgru.text import Problems, printable, report

GRU_LIKE = re.compile(r"(?:weight|bias)_(?:ih|hh|hr)|_all_weight_values")  # of a quantized one
_MAX_DEPTH = 100
_CONTAINERS = (Dict, list, tuple)
_VISIT, _KEPT = 8, 300  # bytes paid for a look at a value, and for a name that is kept


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What has names. `tops`: paths of the containers with a GRU's names inside, "" for the whole.

    `values`: tensors, and whatever else has a GRU's name.
    """

    values: Mapping[str, Any]
    tops: list[str]


@dataclass(frozen=True, slots=True)
class _Place:
    path: str
    container: Any
    parent: _Place | None
    depth: int


def flatten(root: Any, allowance: Allowance) -> Checkpoint:
    """Names everything in `root` that may matter; FormatError for names that stand for two."""
    values: dict[str, Any] = {}
    twice: dict[str, None] = {}
    tops: dict[str, None] = {}
    places = [_Place("", root, None, 0)]
    for place in places:  # which grows: breadth first
        seen: set[str] = set()
        for key, value in _items(place.container, allowance):
            nested = type(value) in _CONTAINERS
            gru_like = not nested and GRU_LIKE.search(key) is not None
            if not (nested or gru_like or type(value) is Tensor):
                continue
            allowance.take(_KEPT + len(place.path) + len(key))
            name = place.path + key
            if key in seen or (gru_like and name in values):
                twice[name] = None
            seen.add(key)
            if nested:
                places.append(_Place(f"{name}.", value, place, place.depth + 1))
                if place.depth == _MAX_DEPTH:
                    raise FormatError(f"values are nested more than {_MAX_DEPTH} deep")
                continue
            values[name] = value
            if gru_like:
                above: _Place | None = place
                while above is not None and above.path not in tops:
                    tops[above.path] = None
                    above = above.parent
    problems = Problems(f"{printable(name)}: stands for two things" for name in twice)
    if problems:
        raise FormatError(report("the checkpoint", problems))
    return Checkpoint(values, list(tops))


def find_prefix(checkpoint: Checkpoint, prefix: str | None) -> str | None:
    """`prefix` in full, if it means exactly one; else as it is, for the validator to judge."""
    if not isinstance(prefix, str):
        return prefix
    there = gru_prefixes(checkpoint.values)
    as_given, inside = (
        {f"{top}{prefix}{dot}" for top in tops for dot in ("", ".")} & there
        for tops in ([""], checkpoint.tops)
    )
    return inside.pop() if len(inside) == 1 and not as_given else prefix


def kind_of(value: Any) -> str:
    """What an error calls a value that is no tensor."""
    if isinstance(value, (Global, Other, StandIn)):
        return value.kind
    return type(value).__name__


def _items(container: Any, allowance: Allowance) -> Iterator[tuple[str, Any]]:
    if type(container) is Dict:
        allowance.take(_VISIT * len(container.flat))
        for key, value in container.pairs():
            if type(key) is str:
                yield key, value
            elif type(key) is int and abs(key) < 1 << 63:
                yield str(key), value
    elif type(container) in _CONTAINERS:
        allowance.take(_VISIT * len(container))
        for index, value in enumerate(container):
            yield str(index), value
