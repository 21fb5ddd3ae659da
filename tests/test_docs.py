"""Examples in docstrings run and give what they say (anything public has one)."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import inspect
import pkgutil
from pathlib import Path

import pytest

import fastgru

MODULES = [
    "fastgru",
    *sorted(
        module.name
        for module in pkgutil.walk_packages(fastgru.__path__, "fastgru.")
        if module.name.rsplit(".", 1)[-1] not in ("__main__", "_core")
    ),
]
OPTIONAL = ("torch", "onnx")  # what examples may use
MISSING = [name for name in OPTIONAL if importlib.util.find_spec(name) is None]


def examples_of(module_name: str) -> list[doctest.DocTest]:
    """The docstrings with examples that are written in this module."""
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        pytest.skip(f"{module_name} needs an extra: {error}")
    return [test for test in doctest.DocTestFinder().find(module) if test.examples]


@pytest.mark.parametrize("module_name", MODULES)
def test_examples(module_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example, in a directory of its own, since some save files."""
    monkeypatch.chdir(tmp_path)
    skipped = 0
    for test in examples_of(module_name):
        if any(name in example.source for name in MISSING for example in test.examples):
            skipped += 1
            continue
        report: list[str] = []
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        assert runner.run(test, out=report.append).failed == 0, "".join(report)
    if skipped:
        pytest.skip(f"{skipped} examples need {' or '.join(MISSING)}")


def test_the_public_interface_has_examples() -> None:
    """Every public function, and every class by itself or by its methods, shows how to be used."""
    with_examples = {test.name for name in MODULES for test in examples_of(name)}
    missing = []
    for name in fastgru.__all__:
        thing = getattr(fastgru, name)
        if not (inspect.isclass(thing) or inspect.isfunction(thing)):
            continue
        assert thing.__doc__, name
        if inspect.isclass(thing) and issubclass(thing, (Exception, tuple)):
            continue  # an exception or a record shows in the example of what gives it
        path = f"{thing.__module__}.{thing.__qualname__}"
        if not any(found == path or found.startswith(path + ".") for found in with_examples):
            missing.append(name)
    assert not missing
