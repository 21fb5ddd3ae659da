"""Commands and Python code in the README of an example, as a user would copy them.

Every block is fenced and says what it holds: `sh`, a command a line, or `python`. Refuses, with
ValueError, whatever it does not understand, so that no command is left out by mistake.
"""

from __future__ import annotations

import re
import shlex
from typing import NamedTuple

PROGRAMS = ("python", "pip", "apt-get", "fastgru", "cd")
SHELL = set("|&;<>()$`*?[]{}~!\\")  # needs a shell; brackets of an extra stand in quotes


class Command(NamedTuple):
    """NAME=VALUE before the program, then the program and its arguments; `text` is all of it."""

    text: str
    variables: dict[str, str]
    words: list[str]


def blocks(markdown: str) -> list[tuple[str, str]]:
    """(language, content) of every block of code; ValueError for one that is not fenced so."""
    found: list[tuple[str, str]] = []
    language, lines = "", list[str]()
    for number, line in enumerate(markdown.splitlines(), 1):
        fence = re.match(r"\s*(```+|~~~+)(.*)$", line)
        if fence and language:
            found.append((language, "\n".join(lines) + "\n"))
            language, lines = "", []
        elif fence:
            language = fence[2].strip()
            if language not in ("sh", "python") or not line.startswith("```"):
                raise ValueError(f"line {number}: expected ```sh or ```python, got {line!r}")
        elif language:
            lines.append(line)
        elif line.startswith(("    ", "\t")) and line.strip():
            raise ValueError(f"line {number}: expected a fenced block, got an indented one: {line}")
    if language:
        raise ValueError(f"a block of {language} has no end")
    return found


def parse(line: str) -> Command | None:
    """One line of an `sh` block; None where there is only a comment. ValueError for a shell's."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:  # a quotation without its end
        raise ValueError(f"{error}: {line}") from None
    if not words:
        return None
    text = line.split(" #", maxsplit=1)[0].rstrip()
    unquoted = re.sub(r"\"[^\"$`\\]*\"|'[^']*'", "", text)
    if special := sorted(SHELL & set(unquoted)):
        raise ValueError(f"expected a plain command, got one with {' '.join(special)}: {line}")
    variables = {}
    while words and (match := re.fullmatch(r"([A-Z_]+)=(.*)", words[0])):
        variables[match[1]] = match[2]
        words.pop(0)
    if not words or words[0] not in PROGRAMS:
        raise ValueError(f"expected one of {', '.join(PROGRAMS)}: {line}")
    return Command(text, variables, words)


def commands(markdown: str) -> list[Command]:
    """All commands of a README, in their order."""
    shell = [content for language, content in blocks(markdown) if language == "sh"]
    parsed = [parse(line) for content in shell for line in content.splitlines()]
    return [command for command in parsed if command is not None]
