"""Exports the modules of modules.py, one file each, and says how far each is from PyTorch."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

try:
    import torch
    from modules import MODULES
except ModuleNotFoundError as error:
    print(f"export.py: {error}: pip install torch", file=sys.stderr)
    raise SystemExit(2) from None

import fastgru


def run(directory: Path) -> None:
    """Writes the files; OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    for make in MODULES:
        module = make()  # and load_state_dict, where it is trained
        path = directory / f"{make.__name__}.safetensors"
        fastgru.from_torch(module).save(path)
        error = fastgru.max_error(module, fastgru.load(path))
        print(f"{path}: maximum error {error:.2g}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="where the files go")
    try:
        run(parser.parse_args().directory)
    except OSError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
