"""Everything that is wrong with the arguments of a call, told in one exception.

A call checks its arguments on its way and stops at the first that is wrong, so that a right call
pays for nothing. `raise_all` then looks at all arguments again: where several are wrong it raises
one exception that lists them, otherwise the first one as it was. Refuses to judge a call that
worked: what is a mistake is decided by the call, and only told here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from fastgru.arrays import Float32Array, as_float32, as_int64, as_state, shape_text
from fastgru.errors import ShapeError
from fastgru.text import Message

MOST_LISTED = 12
"""Bad lengths that a message lists; `Listed` in cpp/run/listed.hpp has as many numbers."""

Shape = tuple[int, ...]
Pattern = tuple[int | str, ...]  # a letter stands for a size that nothing tells


class Problem(NamedTuple):
    """One line of a message, which stands for `number` problems of one kind."""

    kind: type[Exception]
    text: str
    number: int = 1


class Network(Protocol):
    """The sizes of a fastgru.GRU, or of a torch.nn.GRU."""

    @property
    def input_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def bidirectional(self) -> bool: ...
    @property
    def batch_first(self) -> bool: ...


class Layout(NamedTuple):
    """T and B as far as x tells them; `batched` is None where x could be meant either way."""

    steps: int | str = "T"
    batch: int | str = "B"
    batched: bool | None = None


def raise_all(subject: str, first: Exception, problems: Iterable[Problem]) -> NoReturn:
    """Raises one exception for all problems, or `first` where there are no several.

    TypeError where a type or dtype is wrong, else ShapeError where a shape is; else the kind that
    all problems have, or ValueError.

    >>> raise_all("GRU", ValueError("x"), [Problem(ShapeError, "x: ..."), Problem(ValueError, "y")])
    Traceback (most recent call last):
    fastgru.errors.ShapeError: GRU: 2 problems:
      x: ...
      y
    """
    found = list(problems)
    count = sum(problem.number for problem in found)
    if count < 2:
        raise first
    kinds = {problem.kind for problem in found}
    kind: type[Exception] = ValueError
    for candidate in (TypeError, ShapeError):
        if candidate in kinds:
            kind = candidate
            break
    else:
        if len(kinds) == 1:
            kind = kinds.pop()
    told = Message(f"{subject}: {count} problems:", *(problem.text for problem in found))
    raise kind(told) from None


def raise_any(subject: str, problems: Iterable[Problem]) -> None:
    """Raises one exception for all problems, if there are any."""
    found = list(problems)
    if found:
        raise_all(subject, found[0].kind(found[0].text), found)


def problem_of(check: Callable[[], object]) -> Iterator[Problem]:
    """What `check` raises, if it raises; RuntimeErrors are not about arguments and left out."""
    try:
        check()
    except (IndexError, KeyError, TypeError, ValueError) as error:
        yield Problem(type(error), str(error.args[0]) if error.args else str(error))
    except RuntimeError:
        pass


def seen(
    name: str, value: Any, read: Callable[[str, Any], NDArray[Any]]
) -> tuple[NDArray[Any] | None, Shape | None, list[Problem]]:
    """An argument as an array, its shape, and what is wrong with its dtype.

    The shape may be known where the array is not: of integers where floating numbers are meant.
    """
    problems = [*problem_of(lambda: read(name, value))]
    if not problems:
        array = read(name, value)
        return array, array.shape, problems
    try:
        return None, tuple(np.shape(value)), problems
    except (TypeError, ValueError):  # rows of different lengths
        return None, None, problems


def listed(items: Iterable[object]) -> str:
    """The first few of many: `0, 1 and 5 more`."""
    texts = [str(item) for item in items]
    more = len(texts) - MOST_LISTED
    return ", ".join(texts[:MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


def shape_problems(
    name: str, shape: Shape | None, *patterns: Pattern, kind: type[Exception] = ShapeError
) -> Iterator[Problem]:
    """A line where a shape that is known fits none of the patterns."""
    if shape is None or any(_fits(shape, pattern) for pattern in patterns):
        return
    expected = " or ".join(map(shape_text, patterns))
    yield Problem(kind, f"{name}: expected {expected}, got {shape_text(shape)}")


def _fits(shape: Shape, pattern: Pattern) -> bool:
    return len(shape) == len(pattern) and all(
        isinstance(want, str) or want == got for want, got in zip(pattern, shape, strict=True)
    )


def layout_of(shape: Shape | None, size: int | None, batch_first: bool, *, row: int = 1) -> Layout:
    """Of x (T, B, size), (B, T, size) or (T, size); `row` 0: of indices, without the last axis.

    A batch whose last axis is wrong tells T and B. (T, size) with another last axis does not: it
    may be a batch that lacks an axis.
    """
    if shape is not None and len(shape) == 2 + row:
        steps, batch = shape[1::-1] if batch_first else shape[:2]
        return Layout(steps, batch, True)
    if shape is not None and len(shape) == 1 + row and (row == 0 or size in (None, shape[-1])):
        return Layout(steps=shape[0], batched=False)
    return Layout()


def call_problems(
    network: Network, x: Any, h_0: Any = None, lengths: Any = None
) -> Iterator[Problem]:
    """Of a GRU's call: x, h_0 and lengths, each judged as far as x tells T and B."""
    size, hidden = network.input_size, network.hidden_size
    axes = ("B", "T") if network.batch_first else ("T", "B")
    _, shape, problems = seen("x", x, as_float32)
    yield from problems
    yield from shape_problems("x", shape, (*axes, size), ("T", size))
    layout = layout_of(shape, size, network.batch_first)
    if h_0 is not None:
        _, shape, problems = seen("h_0", h_0, as_state)
        yield from problems
        states = network.num_layers * (2 if network.bidirectional else 1)
        patterns: list[Pattern] = []
        if layout.batched is not False:
            patterns.append((states, layout.batch, hidden))
        if layout.batched is not True:
            patterns.append((states, hidden))
        yield from shape_problems("h_0", shape, *patterns)
    if lengths is not None:
        yield from length_problems(lengths, layout)


def length_problems(lengths: Any, layout: Layout, at_least: int = 0) -> Iterator[Problem]:
    """Every length that is out of range, the first few in a line each."""
    array, shape, problems = seen("lengths", lengths, as_int64)
    yield from problems
    if layout.batched is False:
        yield Problem(ShapeError, "lengths: expected a batch of sequences, got unbatched x")
        return
    yield from shape_problems("lengths", shape, (layout.batch,))
    if array is None or array.ndim != 1:
        return
    outside = array < at_least
    if isinstance(layout.steps, int):
        outside |= array > layout.steps
    rows = np.flatnonzero(outside)
    for row in rows[:MOST_LISTED]:
        text = f"expected {at_least} <= length <= {layout.steps}, got {array[row]}"
        yield Problem(ValueError, f"lengths[{row}]: {text}")
    more = len(rows) - MOST_LISTED
    if more > 0:
        yield Problem(ValueError, f"lengths: and {more} more out of this range", more)


def checked_out(out: Any) -> Float32Array | None:
    """What `_core` takes for `out`; ValueError for anything but a NumPy array or None."""
    if out is not None and not isinstance(out, np.ndarray):
        raise ValueError(f"out: expected a NumPy array, got {type(out).__name__}")
    return out


def out_problems(out: Any, x: Float32Array | None, *patterns: Pattern) -> Iterator[Problem]:
    """Of an array that a result is to be written to, beside the input x (None: not known)."""
    yield from problem_of(lambda: checked_out(out))
    if not isinstance(out, np.ndarray):
        return
    yield from shape_problems("out", out.shape, *patterns, kind=ValueError)
    if out.dtype != np.float32:
        yield Problem(ValueError, f"out: expected float32, got {out.dtype}")
    if not (out.flags.c_contiguous and out.flags.aligned):
        yield Problem(ValueError, "out: expected an aligned C-contiguous array")
    if not out.flags.writeable:
        yield Problem(ValueError, "out: expected a writable array, got a read-only one")
    if x is not None and np.may_share_memory(out, x):
        yield Problem(ValueError, "out: overlaps the input")


def states_problems(
    name: str, values: Sequence[Any], expected: Sequence[Shape]
) -> Iterator[Problem]:
    """Of the states of several GRUs, whose number is right: NAME[0], NAME[1], ..."""
    if len(values) != len(expected):
        yield Problem(ShapeError, f"{name}: expected {len(expected)} arrays, got {len(values)}")
    for index, (value, shape) in enumerate(zip(values, expected, strict=False)):
        label = f"{name}[{index}]"
        _, got, problems = seen(label, value, as_state)
        yield from problems
        yield from shape_problems(label if len(expected) > 1 else name, got, shape)
