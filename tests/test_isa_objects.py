"""Each ISA's object file exports one symbol and no weak ones.

A weak symbol (any std:: template, any inline function) that was compiled with AVX-512 flags may be
the copy that the linker keeps for the whole module, and then runs on CPUs without AVX-512. So the
ISA files are compiled here as CMakeLists.txt says, optimised and not, and nm is asked.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fastgru import _core

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ROOT / "cpp" / "kernels"
CMAKE = ROOT / "CMakeLists.txt"


# Every file of cpp/kernels/levels.inc: an ISA level, or a product with more instructions.
FILES = sorted({product["name"] for product in _core.products()})


def isa_flags() -> dict[str, list[str]]:
    """What CMakeLists.txt compiles each ISA with: add_isa's own flags and those of each call."""
    text = CMAKE.read_text()
    common = re.search(r"target_compile_options\(isa_\$\{name\} PRIVATE(.*)\$\{ARGN\}\)", text)
    assert common, "add_isa() sets its flags in another way: teach this test"
    calls = re.findall(r"^\s*add_isa\((\w+)([^)]*)\)", text, re.MULTILINE)
    return {name: [*common[1].split(), *flags.split()] for name, flags in calls}


def test_list() -> None:
    """What is listed is what there is: a source each, and flags in CMakeLists.txt."""
    sources = {path.stem.removeprefix("isa_") for path in (KERNELS / "isa").glob("isa_*.cpp")}
    if not (sources and CMAKE.exists()):
        pytest.skip("no source tree beside the tests")
    assert set(isa_flags()) == sources
    assert set(FILES) <= sources  # fewer where a build is for another processor


@pytest.mark.parametrize("optimisation", ["-O0", "-O3"])
@pytest.mark.parametrize("name", FILES)
def test_one_symbol_and_no_weak_ones(name: str, optimisation: str, tmp_path: Path) -> None:
    """One global function, and nothing that the linker may merge with another ISA's."""
    compiler, nm = shutil.which(os.environ.get("CXX", "c++")), shutil.which("nm")
    source = KERNELS / "isa" / f"isa_{name}.cpp"
    if not (source.exists() and CMAKE.exists()):
        pytest.skip("no source tree beside the tests")
    if compiler is None or nm is None:
        pytest.skip("no C++ compiler or no nm")
    flags = isa_flags()
    assert name in flags, f"CMakeLists.txt has no add_isa({name} ...)"
    object_file = tmp_path / f"{name}.o"
    command = [compiler, "-std=c++17", optimisation, "-fPIC", "-ffp-contract=off", *flags[name]]
    command += ["-I", str(ROOT / "cpp"), "-c", str(source), "-o", str(object_file)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    lines = subprocess.run(
        [nm, "-C", str(object_file)], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    symbols = [re.fullmatch(r"[0-9a-f ]*(\w) (.*)", line) for line in lines]
    kinds = [(match[1], match[2]) for match in symbols if match]
    assert len(kinds) == len(lines)
    weak = [symbol for kind, symbol in kinds if kind in "WwVvu"]
    assert not weak
    exported = [symbol for kind, symbol in kinds if kind.isupper() and kind != "U"]
    assert len(exported) == 1, exported
    assert f"{name}_kernels" in exported[0]
    # What it needs from elsewhere is C: no C++ function of another translation unit.
    needed = [symbol for kind, symbol in kinds if kind == "U"]
    assert not [symbol for symbol in needed if "::" in symbol or "(" in symbol]
