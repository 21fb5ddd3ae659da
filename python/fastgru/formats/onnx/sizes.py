"""Integers that a call decides, such as T - 1, and the arithmetic of a graph on them.

An `Atom` is one axis. A `Sum` is a sum of axes' sizes, each times an integer, plus an integer.
Whatever cannot be written so is UNKNOWN, and never a guess. Every axis has at least one element.
Refuses nothing: who needs an integer and meets UNKNOWN refuses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


class Size:
    """An integer that may depend on a call: an Atom, a Sum, or UNKNOWN.

    >>> steps = Atom("T")
    >>> steps - 1, (steps + 1) - steps, 2 * steps // 2 is steps, steps * steps
    (T - 1, 1, True, ?)
    """

    __slots__ = ()

    def __add__(self, other: Any) -> Any:
        return _sum(self, 1, other, 1)

    def __sub__(self, other: Any) -> Any:
        return _sum(self, 1, other, -1)

    def __rsub__(self, other: Any) -> Any:
        return _sum(self, -1, other, 1)

    def __neg__(self) -> Any:
        return _sum(self, -1, 0, 1)

    def __mul__(self, other: Any) -> Any:
        return _sum(self, int(other), 0, 1) if is_integer(other) else UNKNOWN

    def __floordiv__(self, other: Any) -> Any:
        terms, constant = _parts(self)
        divides = is_integer(other) and other > 0
        if not divides or terms is None or any(n % other for n in (*terms.values(), constant)):
            return UNKNOWN
        return _made({atom: n // other for atom, n in terms.items()}, constant // other)

    def __rfloordiv__(self, other: Any) -> Any:
        return 0 if is_integer(other) and other == 0 else UNKNOWN

    __radd__ = __add__
    __rmul__ = __mul__


class Atom(Size):
    """An axis as an input or a layer made it, known by identity; as a number, its size."""

    __slots__ = ("name", "size")

    def __init__(self, name: str, size: int | None = None) -> None:
        self.name = name
        self.size = size

    def __repr__(self) -> str:
        return self.name if self.size is None else str(self.size)


class Sum(Size):
    """`terms`: how often each axis counts, never 0; made by arithmetic alone."""

    __slots__ = ("constant", "terms")

    def __init__(self, terms: Mapping[Atom, int], constant: int) -> None:
        self.terms = terms
        self.constant = constant

    def __repr__(self) -> str:
        text = " + ".join(repr(a) if n == 1 else f"{n}*{a!r}" for a, n in self.terms.items())
        sign = "-" if self.constant < 0 else "+"
        return f"{text} {sign} {abs(self.constant)}" if self.constant else text


UNKNOWN = Atom("?")  # an integer of which nothing is known

_LIMIT = 1 << 63
_MAX_TERMS = 8  # a graph of nothing but additions must not take quadratic time


def within_int64(value: Any) -> Any:
    """The value, or UNKNOWN for an integer that int64 does not hold and would wrap round."""
    return UNKNOWN if is_integer(value) and not -_LIMIT <= value < _LIMIT else value


def is_integer(value: Any) -> bool:
    """Whether this is a known integer."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _parts(value: Any) -> tuple[Mapping[Atom, int] | None, int]:
    """Terms and the constant; None for terms of which nothing is known."""
    if is_integer(value):
        return {}, int(value)
    if isinstance(value, Sum):
        return value.terms, value.constant
    if isinstance(value, Atom) and value is not UNKNOWN:
        return {value: 1}, 0
    return None, 0


def _made(terms: Mapping[Atom, int], constant: int) -> Any:
    left = {atom: count for atom, count in terms.items() if count}
    if any(not -_LIMIT <= number < _LIMIT for number in (constant, *left.values())):
        return UNKNOWN  # int64 would wrap round
    if not left:
        return constant
    if len(left) == 1 and constant == 0 and next(iter(left.values())) == 1:
        return next(iter(left))
    return Sum(left, constant) if len(left) <= _MAX_TERMS else UNKNOWN


def _sum(a: Any, times_a: int, b: Any, times_b: int) -> Any:
    terms_a, constant_a = _parts(a)
    terms_b, constant_b = _parts(b)
    if terms_a is None or terms_b is None:
        return UNKNOWN
    terms = {atom: count * times_a for atom, count in terms_a.items()}
    for atom, count in terms_b.items():
        terms[atom] = terms.get(atom, 0) + count * times_b
    return _made(terms, constant_a * times_a + constant_b * times_b)


def bounds(value: Any) -> tuple[float, float]:
    """The least and the greatest that this may be, whatever a call's sizes are."""
    terms, constant = _parts(value)
    if terms is None:
        return float("-inf"), float("inf")
    at_one = constant + sum(terms.values())  # where every axis has one element
    low = at_one if all(count > 0 for count in terms.values()) else float("-inf")
    high = at_one if all(count < 0 for count in terms.values()) else float("inf")
    return low, high


# ---- what a graph calculates with sizes; booleans are bool, or UNKNOWN ----


def less(a: Any, b: Any) -> Any:
    """A < b."""
    low, high = bounds(a - b)
    return True if high < 0 else False if low >= 0 else UNKNOWN


def less_or_equal(a: Any, b: Any) -> Any:
    """A <= b."""
    low, high = bounds(a - b)
    return True if high <= 0 else False if low > 0 else UNKNOWN


def equal(a: Any, b: Any) -> Any:
    """A == b; of two booleans as well."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a == b if isinstance(a, bool) and isinstance(b, bool) else UNKNOWN
    low, high = bounds(a - b)
    return True if low == high == 0 else False if low > 0 or high < 0 else UNKNOWN


def smaller(a: Any, b: Any) -> Any:
    """The smaller of both."""
    first = less_or_equal(a, b)
    return a if first is True else b if first is False else UNKNOWN


def larger(a: Any, b: Any) -> Any:
    """The larger of both."""
    first = less_or_equal(b, a)
    return a if first is True else b if first is False else UNKNOWN


def chosen(which: Any, a: Any, b: Any) -> Any:
    """A where `which` is True, else b."""
    if isinstance(which, Size):
        return a if a is b or equal(a, b) is True else UNKNOWN
    return a if which else b


def quotient(a: Any, b: Any) -> Any:
    """An integer division, which ONNX rounds towards zero; UNKNOWN by zero."""
    if is_integer(a) and is_integer(b):
        return UNKNOWN if b == 0 else int(abs(a) // abs(b)) * (1 if (a < 0) == (b < 0) else -1)
    return a // b


def remainder(a: Any, b: Any) -> Any:
    """A % b, with the sign of b."""
    if is_integer(a) and is_integer(b):
        return UNKNOWN if b == 0 else a % b
    return 0 if a // b is not UNKNOWN else UNKNOWN


def negation(a: Any) -> Any:
    """Not a."""
    return UNKNOWN if isinstance(a, Size) else not a


def both(a: Any, b: Any) -> Any:
    """A and b."""
    if a is False or b is False:
        return False
    return UNKNOWN if isinstance(a, Size) or isinstance(b, Size) else bool(a and b)


def either(a: Any, b: Any) -> Any:
    """A or b."""
    if a is True or b is True:
        return True
    return UNKNOWN if isinstance(a, Size) or isinstance(b, Size) else bool(a or b)


def magnitude(a: Any) -> Any:
    """|a|."""
    low, high = bounds(a)
    return a if low >= 0 else -a if high <= 0 else UNKNOWN


def as_bool(a: Any) -> Any:
    """Whether a is not 0."""
    return negation(equal(a, 0)) if not isinstance(a, bool) else a
