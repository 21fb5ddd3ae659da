"""What commands print: lines, tables and progress bars.

Names of files and what stands in files is printed as it is only where it is printable: `say` and
`print_table` are the ways to the terminal, and escape all else. Tables and bars come with rich
on a terminal where the extra `cli` is installed, else plain. What is not a terminal gets plain
lines, and no progress: another program or a log file reads them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from fastgru.text import LINE_LIMIT, printable

_CELL_LIMIT = 600  # a problem of a network takes 500
MAX_ROWS = 200


def say(*lines: str, file: TextIO | None = None, limit: int = LINE_LIMIT) -> None:
    """Prints `lines`, to stdout if no `file` is given; line ends inside of one are escaped."""
    for line in lines:
        print(printable(line, limit), file=file)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """To stdout, columns aligned; of a file's thousand parts the first and how many more."""
    cut = [[printable(cell, _CELL_LIMIT) for cell in row] for row in rows[:MAX_ROWS]]
    _print_rows(header, cut)
    if len(rows) > len(cut):
        say(f"and {len(rows) - len(cut)} more")


def _print_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if _is_rich(sys.stdout):
        from rich.console import Console  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        table = Table(box=None, pad_edge=False)
        for name in header:
            table.add_column(Text(name))
        for row in rows:
            table.add_row(*map(Text, row))  # not markup: "[0]" is a name like any other
        Console().print(table)
        return
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        say("  ".join(cells).rstrip())


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr while the block runs, which calls the function with what it has done."""
    if not _is_rich(sys.stderr):
        yield lambda done: None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


def _is_rich(stream: object) -> bool:
    is_terminal = getattr(stream, "isatty", lambda: False)()
    return is_terminal and importlib.util.find_spec("rich") is not None
