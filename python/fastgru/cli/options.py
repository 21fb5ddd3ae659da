"""Options that commands share: what a bare state dict does not say, and loading with them.

Refuses to judge their values: that is `fastgru.load`'s.
"""

from __future__ import annotations

import argparse
from typing import Any

from fastgru.spec import ACTIVATIONS, RECURRENT_ACTIVATIONS

_NAMES = ("prefix", "batch_first", "reset_after", "activation", "recurrent_activation")


def add_load_options(parser: argparse.ArgumentParser, file: str) -> None:
    """Adds those of `fastgru.load`, None where they are not given, for the argument `file`."""
    group = parser.add_argument_group(
        f"what {file} does not say", "where it is a bare state dict; PyTorch's default otherwise"
    )
    group.add_argument("--prefix", help='which GRU of several, as "encoder.rnn."')
    group.add_argument(
        "--batch-first",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="arrays are (B, T, ...), as where the module has batch_first=True, or (T, B, ...)",
    )
    equation = group.add_mutually_exclusive_group()
    equation.add_argument(
        "--reset-before",
        dest="reset_after",
        action="store_false",
        default=None,
        help="the reset gate comes before the product (Cho 2014)",
    )
    equation.add_argument(
        "--reset-after",
        action="store_true",
        default=None,
        help="it comes after the product (PyTorch), also where an ONNX file of PyTorch leaves that "
        "out",
    )
    group.add_argument("--activation", choices=ACTIVATIONS, help="the candidate's")
    group.add_argument("--recurrent-activation", choices=RECURRENT_ACTIVATIONS, help="the gates'")


def wanted_options(options: argparse.Namespace) -> dict[str, Any]:
    """Those that were given, but for the prefix: the `wanted` of fastgru.formats."""
    given = load_options(options)
    return {name: value for name, value in given.items() if name != "prefix" and value is not None}


def load_options(options: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments for `fastgru.load`."""
    return {name: getattr(options, name) for name in _NAMES}
