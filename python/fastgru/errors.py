"""The exceptions that fastgru raises and the warnings that it gives, beside Python's own.

What they say may come from a file, so all of it is printable and bounded: see text.py.
Refuses to import anything else: the extension needs this module while the package is being
imported.
"""

from __future__ import annotations

from fastgru.text import message

__all__ = [
    "EquationWarning",
    "FormatError",
    "LayoutWarning",
    "LeftOutWarning",
    "LoadWarning",
    "PoolFullError",
    "ShapeError",
    "UnsupportedLayerError",
]


class _Printable(Exception):
    """Escapes and cuts what is said with it, for it may name what stands in a file."""

    def __init__(self, *told: object) -> None:
        super().__init__(*map(message, told))


class FormatError(_Printable, ValueError):
    """A file or a state dict does not hold a GRU that can be run.

    The message lists every problem at once, each with the name, what was expected and what is
    there. Nothing has been built when it is raised.

    >>> import fastgru
    >>> try:
    ...     fastgru.GRU.from_state_dict({})
    ... except fastgru.FormatError as error:
    ...     print(error)
    no GRU found: no name ends in weight_ih_l0 or weight_hh_l0; there are no tensors
    """


class ShapeError(ValueError):
    """An array does not have the shape that a call needs; no state has changed.

    >>> import fastgru
    >>> issubclass(fastgru.ShapeError, ValueError)
    True
    """


class UnsupportedLayerError(_Printable, ValueError):
    """A model holds a layer or an operation that fastgru does not have.

    The message names it, where it stands and what to do instead. The file or module itself may be
    sound: a damaged one raises FormatError.

    >>> import fastgru
    >>> issubclass(fastgru.UnsupportedLayerError, ValueError)
    True
    """


class PoolFullError(RuntimeError):
    """As many sessions of a pool are open as its capacity allows.

    >>> import numpy as np, fastgru
    >>> pool = fastgru.GRU.from_state_dict({"weight_ih_l0": np.ones((6, 3), np.float32),
    ...                                     "weight_hh_l0": np.ones((6, 2), np.float32)}).pool(1)
    >>> _ = pool.open()
    >>> try:
    ...     pool.open()
    ... except fastgru.PoolFullError as error:
    ...     print(error)
    all 1 sessions of this pool are open
    """


class LoadWarning(_Printable, UserWarning):
    """A file was loaded, but its network may be another one than the one that was trained.

    The three warnings below are its kinds. Each message names the file, what was assumed or left
    out, and the argument that settles the question. The argument is also the way to silence the
    warning; `warnings.filterwarnings("ignore", category=fastgru.LoadWarning)` silences all kinds.

    >>> import fastgru
    >>> issubclass(fastgru.LayoutWarning, fastgru.LoadWarning)
    True
    """


class LayoutWarning(LoadWarning):
    """The file does not say whether its GRU is batch_first, and the caller did not say it either.

    PyTorch's state dicts do not hold `batch_first`. Arrays of both layouts have three axes, so a
    wrong guess raises no error and gives wrong numbers. Pass `batch_first=True` or
    `batch_first=False` to silence the warning.
    """


class LeftOutWarning(LoadWarning):
    """The file holds tensors beside the GRU that could be its network's, such as a head or a norm.

    `fastgru.load` gives the GRU alone. The message names the tensors and how to keep them. Pass
    `prefix=` (the GRU alone is wanted, and this is where it stands) to silence the warning.
    """


class EquationWarning(LoadWarning):
    """The file says one GRU equation, and its producer is known to have written the wrong one.

    The message names the producer, its version and the argument that chooses the equation.
    """
