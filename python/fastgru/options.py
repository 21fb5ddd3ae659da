"""Checks of the options that several constructors share: an error says what is allowed.

Refuses to convert: 1 is not True, and "Tanh" is not "tanh".
"""

from __future__ import annotations

import operator

import numpy as np

from fastgru import _core
from fastgru.precision import PRECISIONS
from fastgru.spec import ACTIVATIONS, RECURRENT_ACTIVATIONS


def check_options(
    *,
    batch_first: object = False,
    reset_after: object = True,
    activation: object = "tanh",
    recurrent_activation: object = "sigmoid",
    precision: object = "float32",
) -> None:
    """Raises ValueError for the first option that is not one of its choices.

    >>> check_options(precision="float16")
    Traceback (most recent call last):
    ValueError: precision: expected 'float32' or 'bfloat16' or 'int8', got 'float16'
    """
    for name, flag in (("batch_first", batch_first), ("reset_after", reset_after)):
        if not isinstance(flag, (bool, np.bool_)):
            raise ValueError(f"{name}: expected True or False, got {flag!r}")
    for name, value, choices in (
        ("activation", activation, ACTIVATIONS),
        ("recurrent_activation", recurrent_activation, RECURRENT_ACTIVATIONS),
        ("precision", precision, PRECISIONS),
    ):
        if not (isinstance(value, str) and value in choices):
            raise ValueError(f"{name}: expected {' or '.join(map(repr, choices))}, got {value!r}")


def check_isa(isa: object) -> None:
    """TypeError or ValueError for what is neither None nor the name of an ISA that runs here."""
    if isa is not None and not isinstance(isa, str):
        raise TypeError(f"isa: expected a name or None, got {isa!r}")
    if isa == "":  # which the core takes for None
        raise ValueError("isa: expected a name or None, got ''")
    _core.Softmax(False, isa)


def integer(name: str, value: object, expected: str = "an integer") -> int:
    """Any integer that is no bool, as an int; TypeError for what else there is."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected {expected}, got {value!r}")
    try:
        return operator.index(value)  # type: ignore[arg-type]  # that is what is being asked
    except TypeError:
        raise TypeError(f"{name}: expected {expected}, got {value!r}") from None


def positive(name: str, count: object) -> int:
    """A number of threads or rows; TypeError for no integer, ValueError outside 1..2**31-1."""
    number = integer(name, count)
    if not 1 <= number < 2**31:
        raise ValueError(f"{name}: expected at least 1 (and below 2**31), got {number}")
    return number
