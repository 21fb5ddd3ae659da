"""Modules for x of other axes, and forwards that fail on the stand-in for x: reason and line.

Python's own words for what went wrong inside (`tuple index out of range`) are never the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastgru

pytest.importorskip("torch", reason="PyTorch is not installed")

from torch import nn

WORDS = ("no", "one", "two", "three", "four", "five", "six")
PYTHON = re.compile(
    r"out of range|values to unpack|not subscriptable|must be integers|unsupported operand|"
    r"object is not|has no attribute|invalid literal|not supported between|unhashable"
)


class Net(nn.Module):
    """Its forward is a function of the test's."""

    def __init__(self, function: Callable[..., Any], words: bool = False) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(4, 7, batch_first=True), nn.Linear(7, 2)
        self.names = {"a": 1}
        self.embedding = nn.Embedding(5, 4) if words else None
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(self, x)


def reasons(function: Callable[..., Any], words: bool = False) -> list[str]:
    """The problems that from_torch finds, without what Python says and what to do."""
    with pytest.raises(fastgru.UnsupportedLayerError) as caught:
        fastgru.from_torch(Net(function, words))
    lines = str(caught.value).splitlines()
    assert lines[-1].strip().startswith("What to do:")
    lines = lines[1:-1] if len(lines) > 2 else lines[:1]
    assert all(__file__ in line for line in lines), lines
    return [line.partition("; Python says: ")[0] for line in lines]


def unpacks(way: str, axes: int) -> Callable[[Any, Any], Any]:
    """A forward that knows how many axes x has, as people write it."""
    names = "".join(f"n{axis}, " for axis in range(axes))
    text = f"({names}) = {'x.size()' if way == 'size' else 'x.shape'}"
    space: dict[str, Any] = {}
    code = (
        f"def forward(net, x):\n    {text}\n    return net.gru(x.reshape(1, -1, n{axes - 1}))[0]\n"
    )
    # In this file, for a line of the user's.
    exec(compile(code, __file__, "exec"), space)
    forward: Callable[[Any, Any], Any] = space["forward"]
    return forward


@given(st.sampled_from(["size", "shape"]), st.integers(4, 6))
def test_too_many_sizes_of_x(way: str, axes: int) -> None:
    """`a, b, c, d = x.size()`: how many axes the module's x has, and how many a Model's."""
    told = reasons(unpacks(way, axes))
    assert len(told) == 1
    assert f"x has {WORDS[axes]} axes here: a Model's x has at most three axes" in told[0]


@given(st.sampled_from(["size", "shape"]))
def test_one_axis(way: str) -> None:
    """Too few: a module for single numbers over time, or for unbatched indices."""
    assert "x has one axis here, expected three" in reasons(unpacks(way, 1))[0]


@given(st.sampled_from(["size", "shape"]))
def test_three_sizes_of_indices(way: str) -> None:
    def forward(net: Any, x: Any) -> Any:
        a, b, c = x.size() if way == "size" else x.shape
        return net.gru(net.embedding(x.view(a * b, c)))[0]

    assert "x has three axes here, expected two" in reasons(forward, words=True)[0]


@given(st.integers(3, 6), st.sampled_from(["size", "shape", "negative", "transpose", "index"]))
def test_axes_that_x_has_not(axis: int, way: str) -> None:
    """Asked for one by one, the reason is the same."""

    def forward(net: Any, x: Any) -> Any:
        if way == "transpose":
            return net.gru(x.transpose(1, axis))[0]
        if way == "index":
            return net.gru(x[(slice(None),) * axis + (0,)])[0]
        last = {"size": lambda: x.size(axis), "shape": lambda: x.shape[axis]}
        size = last.get(way, lambda: x.shape[-axis - 1])()
        return net.gru(x.reshape(-1, x.size(1), size))[0]

    told = reasons(forward)[0]
    assert "a Model's x has at most three axes" in told
    assert not PYTHON.search(told)


def test_as_many_as_there_are() -> None:
    """Names, a rest and single sizes of an x with three axes are followed."""

    def forward(net: Any, x: Any) -> Any:
        rows, steps, _ = x.size()
        first, *rest = x.shape
        y = net.gru(x)[0].view(rows, steps, 7).view(first, *rest[:1], -1)
        return net.head(y).view(x.shape[-3], x.size(1), 2)

    model = fastgru.from_torch(Net(forward))
    assert len(model) == 2


def parts_of_the_result(net: Any, x: Any) -> Any:
    output, _, _ = net.gru(x)
    return output


def a_third_part(net: Any, x: Any) -> Any:
    return net.gru(x)[2]


def a_part_by_name(net: Any, x: Any) -> Any:
    return net.gru(x)["output"]


def a_look_up(net: Any, x: Any) -> Any:
    return net.gru(x)[0] * net.names[x.size(0)]


def a_list(net: Any, x: Any) -> Any:
    return net.gru(x)[0] * [1, 2][x.size(0)]


def a_range(net: Any, x: Any) -> Any:
    return [net.gru(x[:, step])[0] for step in range(x.size(1))]


def a_number(net: Any, x: Any) -> Any:
    return net.gru(x)[0] * float(x.size(1))


def an_attribute(net: Any, x: Any) -> Any:
    return net.gru(x)[0] + net.nothing


FORWARDS = [
    (parts_of_the_result, "takes 3 values where there are 2"),
    (a_third_part, "takes 3 values where there are 2"),
    (a_part_by_name, "expected a number as the index, got str"),
    (a_look_up, "KeyError while forward is traced"),
    (a_list, "TypeError while forward is traced"),
    (a_range, "TypeError while forward is traced"),
    (a_number, "TypeError while forward is traced"),
    (an_attribute, "AttributeError while forward is traced"),
]


@pytest.mark.parametrize(("forward", "text"), FORWARDS)
def test_what_fails_on_a_stand_in(forward: Any, text: str) -> None:
    """The line, and that it depends on numbers; Python's words stand behind that."""
    told = reasons(forward)[0]
    assert text in told
    assert not PYTHON.search(told)
    if "while" in text:
        assert "forward runs with a stand-in for x, and cannot depend on its numbers" in told


JUNK = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=2) | st.just(1.5)
METHODS = [
    "mean",
    "max",
    "amax",
    "flip",
    "transpose",
    "permute",
    "squeeze",
    "unsqueeze",
    "flatten",
    "reshape",
    "view",
    "select",
    "size",
    "softmax",
    "to",
    "float",
    "unbind",
    "t",
    "swapaxes",
    "long",
    "new_zeros",
]


@given(
    st.sampled_from(METHODS),
    st.lists(JUNK | st.lists(JUNK, max_size=3).map(tuple), max_size=4),
    st.sampled_from(["x", "output", "h_n"]),
)
def test_arguments_of_any_kind(method: str, arguments: list[Any], on: str) -> None:
    """Whatever a method is called with, there is a Model or a reason of fastgru's own."""

    def forward(net: Any, x: Any) -> Any:
        output, h_n = net.gru(x)
        value = {"x": x, "output": output, "h_n": h_n}[on]
        return getattr(value, method)(*arguments)

    try:
        fastgru.from_torch(Net(forward))
    except fastgru.UnsupportedLayerError as error:
        told = re.sub(r"; Python says: .*|\w+Error: .*", "", str(error))
        assert not PYTHON.search(told), told


def test_a_module_that_fails_on_random_x() -> None:
    """Traced, it looks like a chain; what torch says of its own, with the line of forward."""

    def forward(net: Any, x: Any) -> Any:
        return net.gru(x.view(x.size(0), x.size(1), 5))[0]

    with pytest.raises(fastgru.UnsupportedLayerError) as caught:
        fastgru.from_torch(Net(forward))
    assert f"the module fails on random x (1, 1, 4), {__file__}:" in str(caught.value)
