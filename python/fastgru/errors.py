"""The exceptions that fastgru raises beside Python's own.

Refuses to import anything: the extension needs this module while the package is being imported.
"""

from __future__ import annotations

__all__ = ["FormatError", "ShapeError"]


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
