"""tests/README.md tells which tests protect which promise: it names what is there, all of it."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).parent
PAGE = (FOLDER / "README.md").read_text(encoding="utf-8")
CPP = {
    f"{path.stem.removeprefix('test_')}.{name}"
    for path in (FOLDER / "cpp").glob("test_*.cpp")
    for name in re.findall(r"^TEST\((\w+)\)", path.read_text(encoding="utf-8"), re.MULTILINE)
}


def test_every_file_is_named() -> None:
    """A new file of tests says what it protects."""
    named = set(re.findall(r"`(test_\w+\.py)", PAGE))
    assert named == {path.name for path in FOLDER.glob("test_*.py")}


def test_every_test_that_is_named_is_there() -> None:
    """A test that was renamed is looked for in vain."""
    names = re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE)
    assert names
    for file, name in names:
        assert f"def {name}(" in (FOLDER / file).read_text(encoding="utf-8"), (file, name)


def test_every_cpp_test_that_is_named_is_there() -> None:
    """By its own name, or with others of its stage; and no stage is left out."""
    stages = {name.partition(".")[0] for name in CPP}
    names = set(re.findall(rf"`((?:{'|'.join(stages)})\.[a-z0-9_*]+)`", PAGE))
    for name in names:
        assert name in CPP or (name.endswith(".*") and name[:-2] in stages), name
    assert {name.partition(".")[0] for name in names} == stages
