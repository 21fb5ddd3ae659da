"""Every command of every example's README runs as it stands there, or shortened by the table below.

In a copy of the examples, whose files are the same afterwards: no command writes where it was not
told to. Servers run until the next one starts, and must end in order.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from readme_commands import Command, blocks, commands, parse

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
FOLDERS = sorted(path.parent.name for path in EXAMPLES.glob("*/README.md"))
NEEDED = ("torch", "safetensors", "onnxruntime", "fastapi", "uvicorn", "websockets", "g2p_en")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]

pytestmark = [
    pytest.mark.skipif(not FOLDERS, reason="the examples are not beside the tests"),
    pytest.mark.skipif(bool(MISSING), reason=f'needs pip install ".[test]": no {MISSING}'),
]

# What runs instead of a command that takes long, or needs the network or what only root may do.
# "" runs nothing; another test says what is checked instead. /tmp/words is a list of words.
INSTEAD = {
    "pip install torch safetensors": "pip install --dry-run --no-index torch safetensors",
    "pip install torch": "pip install --dry-run --no-index torch",
    "pip install --no-deps g2p-en": "pip install --dry-run --no-index --no-deps g2p-en",
    'pip install ".[service]"': "pip install --dry-run --no-index fastapi uvicorn websockets",
    "apt-get install wamerican": "",
    "python train.py --model torch --out /tmp/my_torch.safetensors": (
        "python train.py --model torch --out /tmp/my_torch.safetensors --epochs 1"
    ),
    "python train.py --model d2l --out /tmp/my_d2l.safetensors": (
        "python train.py --model d2l --out /tmp/my_d2l.safetensors --epochs 1"
    ),
    "python precision.py --text timemachine.txt": "python precision.py d2l --text chapter_1.txt",
    "python train.py --text timemachine.txt --model torch --out /tmp/my_torch.safetensors": (
        "python train.py --text chapter_1.txt --model torch --out /tmp/my_torch.safetensors"
        " --epochs 1"
    ),
    "python train.py --text timemachine.txt --model d2l --out /tmp/my_d2l.safetensors": (
        "python train.py --text chapter_1.txt --model d2l --out /tmp/my_d2l.safetensors --epochs 1"
    ),
    "OPENBLAS_NUM_THREADS=1 python compare.py --limit 500": (
        "OPENBLAS_NUM_THREADS=1 python compare.py --limit 20 --words /tmp/words"
    ),
    "OPENBLAS_NUM_THREADS=1 python compare.py": (
        "OPENBLAS_NUM_THREADS=1 python compare.py --limit 30 --words /tmp/words"
    ),
    "python measure.py --rounds 7": "python measure.py --rounds 1",
    "python measure.py": "python measure.py --rounds 2",
    "python load.py --connections 10 --seconds 5 --verify": (
        "python load.py --connections 3 --seconds 1 --verify"
    ),
    "python load.py --model /tmp/models/SpeechMask.safetensors --connections 10 --seconds 5"
    " --verify": (
        "python load.py --model /tmp/models/SpeechMask.safetensors --connections 3 --seconds 1"
        " --verify"
    ),
    "python load.py --connections 100 --fps 50 --seconds 60 --verify": (
        "python load.py --connections 5 --fps 50 --seconds 1 --verify"
    ),
}


class Terminal:
    """Runs commands one after the other in a copy of the checkout's examples."""

    def __init__(self, checkout: Path, scratch: Path) -> None:
        """scratch: stands in for /tmp, so that two runs of the tests do not meet there."""
        self.folder = checkout
        self._scratch = scratch
        spelled = {"".join(parts) for parts in itertools.product("bdfgmpst", "aeiou", "lnr", "aeo")}
        (scratch / "words").write_text("\n".join(sorted(spelled)), encoding="utf-8")
        self._server: subprocess.Popen[str] | None = None
        self._url = ""

    def run(self, command: Command) -> None:
        """To its end, or until it is ready where it is a server. Fails unless its status is 0."""
        shorter: Command | None = command
        if command.text in INSTEAD:
            shorter = parse(INSTEAD[command.text])
        if shorter is None:
            return
        program, *arguments = [word.replace("/tmp", str(self._scratch)) for word in shorter.words]
        if program == "cd":
            self.folder /= arguments[0]
            assert self.folder.is_dir(), command.text
            return
        start = {
            "python": [sys.executable],
            "fastgru": [sys.executable, "-m", "fastgru"],
            "pip": [sys.executable, "-m", "pip", "--disable-pip-version-check"],
        }[program]
        environment = {**os.environ, **shorter.variables}
        if program == "python" and arguments[0] == "server.py":
            self._serve([*start, *arguments], environment)
            return
        if program == "python" and arguments[0] == "load.py":
            arguments += ["--url", self._url]
        result = subprocess.run(
            [*start, *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert result.returncode == 0, f"{command.text}\n{result.stdout}\n{result.stderr}"
        assert result.stdout or program == "pip", f"{command.text}: says nothing"
        if "--verify" in arguments:
            assert "answers missing | 0 |" in result.stdout
            assert "wrong or out of order | 0 |" in result.stdout

    def run_code(self, code: str) -> None:
        """A block of Python, as a program in the folder."""
        code = code.replace("/tmp", str(self._scratch))
        subprocess.run([sys.executable, "-c", code], cwd=self.folder, timeout=300, check=True)

    def _serve(self, words: list[str], environment: dict[str, str]) -> None:
        self._stop()
        free = ["0" if before == "--port" else word for before, word in itertools.pairwise(words)]
        self._server = subprocess.Popen(
            [words[0], *free],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._server.stdout is not None
        lines = iter(self._server.stdout.readline, "")  # ends where the server does
        self._url = next((s.split()[-1] for s in lines if s.startswith("listening")), "")
        assert self._url, f"{words} ended before it listened"

    def _stop(self) -> None:
        if self._server is None:
            return
        server, self._server = self._server, None
        server.send_signal(signal.SIGTERM)
        assert server.stdout is not None
        server.stdout.close()
        try:
            status = server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()
            status = server.wait()
        assert status == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()


def digests(folder: Path) -> dict[str, str]:
    """Of every file, but what Python keeps for itself."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.parametrize("name", FOLDERS)
def test_every_command_of_the_readme_runs(name: str, tmp_path: Path) -> None:
    """In the README's order, from the checkout's folder; no file of the examples is touched."""
    checkout, scratch = tmp_path / "checkout", tmp_path / "scratch"
    scratch.mkdir()
    shutil.copytree(
        EXAMPLES, checkout / "examples", ignore=shutil.ignore_patterns("__pycache__", ".*")
    )
    before = digests(checkout)
    readme = (EXAMPLES / name / "README.md").read_text(encoding="utf-8")
    found = commands(readme)
    assert any(command.words[0] == "python" for command in found)
    with Terminal(checkout, scratch) as terminal:
        for command in found:
            terminal.run(command)
        assert terminal.folder == checkout / "examples" / name
        for language, code in blocks(readme):
            if language == "python":
                terminal.run_code(code)
    assert digests(checkout) == before


def test_the_table_has_no_command_that_no_readme_has() -> None:
    """What was renamed in a README would run in its full length, and nobody would notice."""
    texts = [
        command.text
        for name in FOLDERS
        for command in commands((EXAMPLES / name / "README.md").read_text(encoding="utf-8"))
    ]
    assert set(INSTEAD) <= set(texts)


def test_missing_words_are_one_line_that_says_how_to_get_them(tmp_path: Path) -> None:
    """The one command that is not run here (it is root's) is what the error advises."""
    result = subprocess.run(
        [sys.executable, EXAMPLES / "g2p/compare.py", "--words", tmp_path / "none"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "apt-get install wamerican" in result.stderr


@pytest.mark.parametrize(
    "line",
    [
        "python a.py | head",
        "python a.py > b",
        "python a.py && python b.py",
        "python a.py &",
        "python $FILE",
        "python *.py",
        "python a.py \\",
        "make",
        "./a.py",
        "python 'a.py",
        "A=1",
        'python "$(pwd)"',
    ],
)
def test_a_command_that_is_not_understood_is_an_error(line: str) -> None:
    """Rather than left out."""
    with pytest.raises(ValueError, match=re.escape(line)):
        parse(line)


@pytest.mark.parametrize(
    "markdown",
    [
        "Text\n\n    python a.py\n",
        "```\npython a.py\n```\n",
        "```sh\npython a.py\n",
        "~~~sh\nx\n~~~",
    ],
)
def test_a_block_that_does_not_say_what_it_is_is_an_error(markdown: str) -> None:
    with pytest.raises(ValueError, match=r"expected|no end"):
        blocks(markdown)


def test_commands_are_found_with_variables_and_without_comments() -> None:
    markdown = (
        '```sh\n# first\nA=1 python a.py "x y"  # says x\n\ncd b\n```\n```python\nx = 1\n```\n'
    )
    assert commands(markdown) == [
        Command('A=1 python a.py "x y"', {"A": "1"}, ["python", "a.py", "x y"]),
        Command("cd b", {}, ["cd", "b"]),
    ]
