"""JSON from files that may be damaged or hostile: one object, or FormatError.

Refuses duplicate names, which Python's parser lets pass, and texts of which that parser would make
many times their size: two bytes `{}` become an object of 64. What a text would cost is worked out
from its punctuation before it is parsed.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from fastgru.arrays import byte_text
from fastgru.errors import FormatError
from fastgru.formats.window import SPARE
from fastgru.text import Problems, printable, report

# An upper bound of the bytes that Python keeps while it parses, for each of these characters. An
# object is a dict and the list of pairs that it is made from; a number is what follows a comma.
_COSTS = {"{": 240, "[": 88, ":": 160, ",": 48, '"': 32, "\\": 80}
_TIMES = 4  # a list of a pool's ids, each of 19 digits and a comma, costs three times its length


def parse_object(text: bytes | str, what: str) -> dict[str, Any]:
    """Parses `text` as one JSON object; `what` is how the error calls it."""
    duplicates = Problems()

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        parsed = dict(pairs)
        if len(parsed) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            duplicates.extend(
                f"{printable(name)}: appears {count} times"
                for name, count in counts.items()
                if count > 1
            )
        return parsed

    _check_cost(text, what)
    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        parsed = json.loads(decoded, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, nested without end
        raise FormatError(f"{what} is not valid JSON: {printable(str(error))}") from error
    if duplicates:
        raise FormatError(report(what, duplicates))
    if not isinstance(parsed, dict):
        raise FormatError(f"{what}: expected a JSON object, got {type(parsed).__name__}")
    return parsed


def _check_cost(text: bytes | str, what: str) -> None:
    if isinstance(text, bytes):
        cost = sum(text.count(mark.encode()) * each for mark, each in _COSTS.items())
    else:
        cost = sum(text.count(mark) * each for mark, each in _COSTS.items())
    if not text.isascii():
        cost += 4 * len(text)  # an emoji makes four bytes of every character
    limit = _TIMES * len(text) + SPARE
    if cost > limit:
        raise FormatError(
            f"{what}: {byte_text(len(text), 1024)} of JSON would take about "
            f"{byte_text(cost, 1024)} of memory, at most {byte_text(limit, 1024)} are allowed"
        )
