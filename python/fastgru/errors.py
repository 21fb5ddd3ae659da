"""The exceptions that fastgru raises beside Python's own.

Refuses to import anything: the extension needs this module while the package is being imported.
"""

from __future__ import annotations

__all__ = ["FormatError", "PoolFullError", "ShapeError", "UnsupportedLayerError"]


class FormatError(ValueError):
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


class UnsupportedLayerError(ValueError):
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
