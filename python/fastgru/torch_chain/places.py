"""Where in the user's source an operation stands: the line of forward, not that of a library.

Refuses to know torch.fx: frames and tracebacks tell.
"""

from __future__ import annotations

import dis
import linecache
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from types import CodeType, FrameType

import torch

_OURS = os.path.dirname(__file__) + os.sep
_LIBRARIES = tuple(
    sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
_TORCH = os.path.dirname(torch.__file__) + os.sep


def frames_within(outermost: CodeType) -> Iterator[tuple[str, int]]:
    """Files and lines that are being run, innermost first, as far as the function `outermost`."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not outermost:
        yield frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back


def place(frames: Iterable[tuple[str, int]]) -> str:
    """`, model.py:12: "y = x * 2"`; nothing where no line of the user's has been run."""
    there = [(file, line) for file, line in frames if not file.startswith((_OURS, _TORCH))]
    if not there:
        return ""
    # the user's own, rather than that of a library that is called there
    file, line = next((at for at in there if not at[0].startswith(_LIBRARIES)), there[0])
    text = linecache.getline(file, line).strip()
    text = f"{text[:77]}..." if len(text) > 80 else text
    return f', {file}:{line}: "{text}"' if text else f", {file}:{line}"


def place_of(error: Exception) -> str:
    """As `place`, of the line where `error` was raised; nothing before it came to our code."""
    frames, trace = [], error.__traceback__
    while trace is not None:
        frames.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    inside = frames[next((n for n, (file, _) in enumerate(frames) if file.startswith(_OURS)), 0) :]
    return place(reversed(inside))


def cannot_trace(error: Exception) -> str:
    """What forward did that torch.fx cannot follow.

    Python's own words come last: they speak of stand-ins, which the user has never seen.
    """
    told = str(error).split(". ")[0].strip()
    return (
        f"{type(error).__name__} while forward is traced{place_of(error)}: forward runs with a "
        "stand-in for x, and cannot depend on its numbers or sizes (if, for, range, an index into "
        f"a list or a dict){f'; Python says: {told}' if told else ''}"
    )


def names_to_unpack(frame: FrameType) -> int | None:
    """How many names `a, b = ...` has, which `frame` is at; None where it does something else."""
    at = frame.f_lasti
    for instruction in dis.get_instructions(frame.f_code):
        if instruction.offset >= at:
            return instruction.argval if instruction.opname == "UNPACK_SEQUENCE" else None
    return None
