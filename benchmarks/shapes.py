"""Shapes of published networks and benchmark suites, by name: reads shapes.json, makes no cases.

Each entry has its source, and `basis`: whether its sizes are known from weights, from code or from
the suite itself.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("shapes.json")


@cache
def entries() -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in json.loads(FILE.read_text())}


def fields(name: str) -> dict[str, Any]:
    """Of an entry, in the letters of a Case and with its name."""
    entry = entries()[name]
    return {
        "T": entry["seq_len"],
        "B": entry["batch"],
        "I": entry["input_size"],
        "H": entry["hidden_size"],
        "L": entry["layers"],
        "D": 2 if entry["bidirectional"] else 1,
        "reset_after": entry["reset"] == "after",
        "name": name,
    }
