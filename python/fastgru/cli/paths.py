"""Where commands may write: anywhere but over what they read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def check_target(name: str, target: Path, sources: Iterable[Path | None]) -> None:
    """ValueError if `target` is one of `sources`, by whatever path."""
    for source in sources:
        if source is not None and _is_same(target, source):
            raise ValueError(f"{name}: would replace {source}, which is read")


def _is_same(a: Path, b: Path) -> bool:
    if os.path.realpath(a) == os.path.realpath(b):
        return True
    return a.exists() and b.exists() and a.samefile(b)
