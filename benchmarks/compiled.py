"""C++ pieces of the benchmark, compiled on demand into a cache directory of the user's.

Refuses to download anything; a missing compiler is a CompileError, which callers report and skip.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path


class CompileError(ImportError):
    """No compiler, or one that refuses. An ImportError: a peer that needs it is "not installed"."""


def cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fastgru-benchmarks"


def build(source: Path, flags: Sequence[str], suffix: str = "") -> Path:
    """The compiled file: `$CXX (or c++) FLAGS source`, reused while nothing has changed.

    `flags` may hold directories with headers; their contents are not watched.
    """
    compiler = os.environ.get("CXX", "c++")
    try:
        version = subprocess.run(
            [compiler, "--version"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise CompileError(f"{source.name} needs a C++ compiler: {error}") from error
    key = hashlib.sha256()
    # The node name stands for the CPU that -march=native meant, where a home directory is shared.
    for part in (source.read_text(), compiler, version, platform.node(), *flags):
        key.update(part.encode() + b"\0")
    target = cache_directory() / f"{source.stem}-{key.hexdigest()[:16]}{suffix}"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        fresh = Path(temporary) / target.name
        command = [compiler, str(source), "-o", str(fresh), *flags]  # libraries after the source
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = "\n".join(done.stderr.splitlines()[:10])
            raise CompileError(f"{' '.join(command)} failed:\n{last}")
        fresh.replace(target)  # atomic: two runs may build at once
    return target
