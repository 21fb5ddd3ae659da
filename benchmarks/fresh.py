"""A measurement in a fresh process of any Python that has fastgru, for what a used one would hide.

Parent and child are the same command: the child is told so by CHILD, measures once and prints JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import environment

CHILD = "--in-this-process"


class ChildError(RuntimeError):
    """What the child said on stderr when it failed."""


def measured(python: Path | None, command: str, options: list[str]) -> Any:
    """What `python -m benchmarks COMMAND` measures once; ours where `python` is None."""
    variables = dict(os.environ)
    if python:  # it may be what makes this Python import our build
        variables.pop("PYTHONPATH", None)
    done = subprocess.run(
        [str(python or sys.executable), "-m", "benchmarks", command, CHILD, *options],
        cwd=environment.CHECKOUT,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise ChildError(f"{python or 'ours'}: {last[0]}")
    return json.loads(done.stdout)


def builds(against: Path | None) -> dict[str, Path | None]:
    """Ours and, if asked for, the other one: names for people, and their Pythons."""
    return {"ours": None} | ({"before": against.absolute()} if against else {})
