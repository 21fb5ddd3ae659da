"""`fastgru export`: whatever loads, as fastgru's own file, which leaves nothing unsaid.

Refuses to replace what it reads, and leaves the old file where anything goes wrong.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import fastgru
from fastgru.arrays import byte_text
from fastgru.cli.options import add_load_options, load_options
from fastgru.cli.paths import check_target
from fastgru.cli.terminal import say
from fastgru.precision import PRECISIONS


def add_command(commands: Any) -> None:
    """Adds `export` to the subparsers."""
    parser = commands.add_parser(
        "export",
        help="write a checkpoint as fastgru's own file",
        description="Writes the GRU or Model in CHECKPOINT to OUT, a safetensors file with a "
        "description of the network. With --module a PyTorch module is built by your code, which "
        "is run for that, and becomes a Model.",
    )
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="what `fastgru.load` reads; with --module a state dict for the module, - for none",
    )
    parser.add_argument("out", metavar="OUT", type=Path)
    parser.add_argument(
        "--precision", choices=PRECISIONS, help="reduce float32 weights (default: as they are)"
    )
    parser.add_argument(
        "--module",
        metavar="PACKAGE.MODULE:FACTORY",
        help="a function without arguments, or a class, that makes the torch.nn.Module",
    )
    add_load_options(parser, "CHECKPOINT")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """The command."""
    checkpoint = Path(options.checkpoint)
    check_target("OUT", options.out, [checkpoint])
    if options.module:
        _refuse_load_options(options)
        from fastgru.cli.export_module import export_module  # noqa: PLC0415  (imports torch)

        state = None if options.checkpoint == "-" else checkpoint
        model, error = export_module(options.module, state, options.precision or "float32")
    else:
        model = fastgru.load(checkpoint, precision=options.precision, **load_options(options))
    model.save(options.out)
    say(f"{options.out}: {byte_text(options.out.stat().st_size)}", *repr(model).splitlines())
    if options.module:
        say(f"largest difference from the PyTorch module on random inputs: {error:.2e}")
    return 0


def _refuse_load_options(options: argparse.Namespace) -> None:
    given = [name for name, value in load_options(options).items() if value is not None]
    if given:
        raise ValueError(f"{', '.join(given)}: with --module the module says that")
