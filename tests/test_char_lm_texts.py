"""examples/char_lm: texts are read as the models were trained, and what is wrong is one line.

The commands are tried as a user types them; none may end in a traceback or write without --out.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

EXAMPLE = Path(__file__).resolve().parent.parent / "examples/char_lm"

pytestmark = pytest.mark.skipif(
    not EXAMPLE.exists(), reason="the examples are not beside the tests"
)
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"
)
BEFORE = "The Project Gutenberg eBook of a book\n\n*** START OF THE PROJECT GUTENBERG EBOOK A ***\n"
AFTER = "\n\n*** END OF THE PROJECT GUTENBERG EBOOK A ***\n\nSection 1. General Terms of Use\n"


@pytest.fixture(scope="module")
def files() -> ModuleType:
    spec = importlib.util.spec_from_file_location("char_lm_files", EXAMPLE / "files.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


word = st.text(alphabet="abcXYZ'\"-,.!", min_size=1, max_size=12)
paragraph = st.lists(word, min_size=1, max_size=30).map(" ".join)


@given(paragraphs=st.lists(paragraph, min_size=1, max_size=5), width=st.integers(20, 80))
def test_a_file_of_project_gutenberg_gives_the_book_alone(
    files: ModuleType, paragraphs: list[str], width: int
) -> None:
    """Without header, licence, broken lines and typographic characters."""
    book = "\n\n".join(paragraphs) + "\n"
    wrapped = "\n\n\n".join(
        "\n".join(textwrap.wrap(p, width, break_long_words=False, break_on_hyphens=False))
        for p in paragraphs
    )
    typographic = wrapped.replace("--", "\u2014").replace("'", "\u2019").replace('"', "\u201d")
    assert files.book_of(f"{BEFORE}\n{typographic}{AFTER}") == book


@given(text=st.text())
def test_any_other_text_is_taken_as_it_is(files: ModuleType, text: str) -> None:
    assert files.book_of(text) == text


def test_the_chapter_is_text_that_both_models_know(files: ModuleType) -> None:
    """So that the commands run without any other text."""
    from fastgru.cli.char_model import CharModel  # noqa: PLC0415

    chapter = files.read_text(files.CHAPTER)
    assert len(chapter) > 10_000
    for path in files.MODEL_FILES.values():
        CharModel(path).indices(chapter)


def run(folder: Path, script: str, *options: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, EXAMPLE / script, *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def assert_one_line(folder: Path, script: str, *options: str | Path, reason: str) -> None:
    result = run(folder, script, *options)
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith(f"{script}: ")
    assert reason in result.stderr


def bad_files(folder: Path) -> None:
    (folder / "empty").write_bytes(b"")
    (folder / "bytes").write_bytes(b"\xff\xfe\x00")
    (folder / "short").write_text("abc", encoding="utf-8")
    (folder / "folder").mkdir()


@needs_torch
def test_train_says_what_is_wrong_before_it_trains(tmp_path: Path) -> None:
    """Missing, broken and short texts, and places where no file can be written."""
    bad_files(tmp_path)
    command = ["train.py", "--model", "d2l", "--out"]
    for options, reason in (
        (["m", "--text", "missing"], "https://www.gutenberg.org/ebooks/35"),
        (["m", "--text", "bytes"], "bytes: expected a text in UTF-8"),
        (["m", "--text", "short"], "short: expected at least 1,122 characters"),
        (["nowhere/m"], "--out: expected a file in a folder that exists"),
    ):
        assert_one_line(tmp_path, *command, *options, reason=reason)


@needs_torch
def test_record_says_what_is_wrong(tmp_path: Path) -> None:
    """Files that are no model of train.py, and prompts that it cannot be asked."""
    bad_files(tmp_path)
    for options, reason in (
        (["missing"], "missing: expected a file of train.py, or torch or d2l"),
        (["empty"], "empty: not a safetensors file"),
        (["d2l", "--prompt", "\N{SNOWMAN}"], "characters outside the vocabulary"),
    ):
        assert_one_line(tmp_path, "record.py", *options, reason=reason)


def test_precision_says_what_is_wrong(tmp_path: Path) -> None:
    """The same of precision.py; what a model does not know is left out, and said."""
    bad_files(tmp_path)
    for options, reason in (
        (["missing"], "missing: expected a file of train.py, or torch or d2l"),
        (["bytes"], "bytes: not a safetensors file"),
        (["--text", "missing"], "https://www.gutenberg.org/ebooks/35"),
        (["--text", "short"], "expected over 35 characters"),
    ):
        assert_one_line(tmp_path, "precision.py", *options, reason=reason)
    (tmp_path / "text").write_text("The Time Traveller \N{SNOWMAN} " * 4, encoding="utf-8")
    result = run(tmp_path, "precision.py", "d2l", "--text", "text")
    assert result.returncode == 0, result.stderr
    assert "left out: ['\N{SNOWMAN}']" in result.stderr


@needs_torch
def test_nothing_is_written_without_out(tmp_path: Path) -> None:
    """record.py leaves the record that is there alone."""
    before = {path: path.read_bytes() for path in EXAMPLE.iterdir() if path.is_file()}
    result = run(tmp_path, "record.py", "d2l")
    assert result.returncode == 0, result.stderr
    assert not list(tmp_path.iterdir())
    assert {path: path.read_bytes() for path in EXAMPLE.iterdir() if path.is_file()} == before
