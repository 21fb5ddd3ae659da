"""What the commands of this folder read: texts, and the models that are there without training.

Refuses what cannot be read with one line that says what to do instead, as all commands here do.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NoReturn

import fastgru

CHAPTER = (
    Path(__file__).resolve().parent / "chapter_1.txt"
)  # 17,342 of the book's 178,887 characters
# The models that were trained on the whole book, by their names in README.md.
MODEL_FILES = {
    "torch": Path(fastgru.__file__).parent / "data/char_lm_torch.safetensors",  # the demo's
    "d2l": Path(__file__).resolve().parent / "char_lm_d2l.safetensors",
}
WHOLE_BOOK = (
    "the whole book is number 35 of Project Gutenberg, https://www.gutenberg.org/ebooks/35 "
    "(Plain Text UTF-8); without --text the first chapter is read"
)
# Project Gutenberg's files use typographic characters and mark emphasis by underscores.
TYPOGRAPHIC = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "—": "--", "_": ""})  # noqa: RUF001


def stop(error: object) -> NoReturn:
    """Ends the command with one line on stderr and exit status 2."""
    lines = [line.strip() for line in str(error).splitlines()]
    print(f"{Path(sys.argv[0]).name}: {'; '.join(lines)}", file=sys.stderr)
    raise SystemExit(2)


def model_file(name: str) -> Path:
    """The file of a model that is there ("torch" or "d2l"); any other name is a path.

    Raises FileNotFoundError for a name that is neither.
    """
    path = MODEL_FILES.get(name, Path(name))
    if not path.is_file():
        known = " or ".join(MODEL_FILES)
        raise FileNotFoundError(f"{name}: expected a file of train.py, or {known}; no such file")
    return path


def read_text(path: Path) -> str:
    """The text of a UTF-8 file; of one from Project Gutenberg the book alone, see `book_of`.

    Raises FileNotFoundError that says where the book can be had, OSError, and ValueError for what
    is no UTF-8 or has no characters.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; {WHOLE_BOOK}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected a text in UTF-8, got {error}") from None
    book = book_of(text)
    if not book.strip():
        raise ValueError(f"{path}: expected a text, got a file without one")
    return book


def book_of(text: str) -> str:
    """The book in a file of Project Gutenberg, as the models' text has it; other texts unchanged.

    Header and licence are cut off, each paragraph becomes one line with an empty line after it, and
    typographic quotes and dashes become those of ASCII.
    """
    start = re.search(r"^\*\*\* ?START OF .*$", text, re.MULTILINE)
    end = re.search(r"^\*\*\* ?END OF ", text, re.MULTILINE)
    if start is None or end is None:
        return text
    paragraphs = re.split(r"\n\s*\n", text[start.end() : end.start()].strip())
    lines = [" ".join(paragraph.split()) for paragraph in paragraphs]
    return "\n\n".join(lines).translate(TYPOGRAPHIC) + "\n"
