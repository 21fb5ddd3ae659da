"""JSON from files that may be damaged or hostile: one object, or FormatError.

Refuses duplicate names, which Python's parser lets pass.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from fastgru.errors import FormatError
from fastgru.text import Problems, printable, report


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
