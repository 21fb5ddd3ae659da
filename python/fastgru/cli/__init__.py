"""The command line `fastgru`: argument parsing and error reporting; a command is a module.

A user error is one line on stderr and exit status 2, never a traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from fastgru import __version__
from fastgru.cli import demo, export, info, run, verify
from fastgru.cli.terminal import say
from fastgru.errors import LoadWarning
from fastgru.text import LINE_LIMIT, MESSAGE_LIMIT, printable

_COMMANDS = (demo, info, export, run, verify)


class _Parser(argparse.ArgumentParser):
    """Its errors are one line, too."""

    def error(self, message: str) -> NoReturn:
        told = printable(message, LINE_LIMIT)  # which may quote what the user gave
        say(f"{self.prog}: {told} (--help tells more)", file=sys.stderr, limit=MESSAGE_LIMIT)
        raise SystemExit(2)


@contextlib.contextmanager
def _held_warnings() -> Iterator[list[str]]:
    """What loading warns of while the block runs: for after it, since an error is one line."""
    told: list[str] = []
    with warnings.catch_warnings():
        show = warnings.showwarning

        def hold(message: Warning | str, category: type[Warning], *where: Any) -> None:
            if issubclass(category, LoadWarning):
                told.append(" ".join(str(message).split()))
            else:
                show(message, category, *where)

        warnings.showwarning = hold  # type: ignore[assignment]
        yield told


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 (a check failed) or 2 (a user error)."""
    parser = _Parser(prog="fastgru", description="Run trained GRU networks on CPUs, fast.")
    parser.add_argument("--version", action="version", version=f"fastgru {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_command(commands)
    options = parser.parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files and tensors can be anything
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with _held_warnings() as warned:
            status: int = options.run(options)
        sys.stdout.flush()
        for text in warned:
            line = f"fastgru {options.command}: warning: {text}"
            say(line, file=sys.stderr, limit=MESSAGE_LIMIT)
    except BrokenPipeError:  # the reader of our output went away, as in `fastgru demo | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130  # as a shell tells of it
    except MemoryError as error:
        told = " ".join(f"not enough memory: {error}".split()).rstrip(":")
        say(f"fastgru {options.command}: {told}", file=sys.stderr, limit=MESSAGE_LIMIT)
        return 2
    except (ImportError, OSError, ValueError) as error:
        # FormatError and the like are ValueErrors; an ImportError says which extra is missing. A
        # FormatError has a line for each problem; this is one line.
        told = " ".join(str(error).split())
        say(f"fastgru {options.command}: {told}", file=sys.stderr, limit=MESSAGE_LIMIT)
        return 2
    return status
