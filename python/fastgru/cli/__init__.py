"""The command line `fastgru`: argument parsing and error reporting; a command is a module.

A user error is one line on stderr and exit status 2, never a traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from fastgru import __version__
from fastgru.cli import demo


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 (a check failed) or 2 (a user error)."""
    parser = argparse.ArgumentParser(
        prog="fastgru", description="Run trained GRU networks on CPUs, fast."
    )
    parser.add_argument("--version", action="version", version=f"fastgru {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo.add_command(commands)
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output went away, as in `fastgru demo | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, ValueError) as error:  # FormatError and ShapeError are ValueErrors
        # A FormatError has a line for each problem; this is one line.
        print(f"fastgru {options.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return status
