"""`fastgru export`: whatever loads, as fastgru's own file, which leaves nothing unsaid.

Refuses to replace what it reads, and leaves the old file where anything goes wrong.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fastgru.arrays import byte_text
from fastgru.cli.options import add_load_options, load_options, wanted_options
from fastgru.cli.paths import check_target
from fastgru.cli.terminal import say
from fastgru.formats import Loaded, load_all
from fastgru.formats.left_out import EXPORT_MODULE, names_text
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
    model: Any
    if options.module:
        _refuse_load_options(options)
        from fastgru.cli.export_module import export_module  # noqa: PLC0415  (imports torch)

        state = None if options.checkpoint == "-" else checkpoint
        model, error = export_module(options.module, state, options.precision or "float32")
    else:
        wanted = wanted_options(options)
        if options.precision:
            wanted["precision"] = options.precision
        loaded = load_all(checkpoint, options.prefix, wanted)
        model = loaded.model
    model.save(options.out)
    say(f"{options.out}: {byte_text(options.out.stat().st_size)}", *repr(model).splitlines())
    if options.module:
        say(f"largest difference from the PyTorch module on random inputs: {error:.2e}")
    else:
        _print_unsaid(loaded)
    return 0


def _print_unsaid(loaded: Loaded) -> None:
    """What the file did not say, and what of it is not in the new one."""
    if loaded.assumed:
        said = ", ".join(f"{name} {getattr(loaded.model, name)}" for name in loaded.assumed)
        say(f"assumed, since CHECKPOINT does not say: {said}")
    if "batch_first" in loaded.assumed:
        say(
            "  if the module was trained with batch_first=True, results will be wrong: export it "
            "again with --batch-first, or with --no-batch-first to settle that it was not"
        )
    if loaded.left_out:
        say(
            f"left out: {names_text(loaded.left_out)}",
            f"  to keep the whole network: fastgru {EXPORT_MODULE}",
        )


def _refuse_load_options(options: argparse.Namespace) -> None:
    given = [name for name, value in load_options(options).items() if value is not None]
    if given:
        raise ValueError(f"{', '.join(given)}: with --module the module says that")
