"""Objects beside the tensors of a `.pt` file: never made, in nobody's way, named where needed.

Everything here is written by torch.save. Pickles that no program writes: test_hostile_torch_files.
"""

from __future__ import annotations

import argparse
import collections
import copyreg
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import inspect
import ipaddress
import logging
import os
import pathlib
import random
import re
import types
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import fastgru
from conftest import random_weights, same_bits

I, H = 3, 5  # noqa: E741
PROTOCOLS = (2, 3, 4, 5)
NOT_MADE = "which fastgru does not make"

MADE: list[str] = []  # what a constructor, a __setstate__ or an __setitem__ here has been told


class Anything:
    """A class of the user's program, whose making would be noticed."""

    def __init__(self, value: Any = 1) -> None:
        self.value = value

    def __setstate__(self, state: Any) -> None:
        MADE.append("Anything.__setstate__")
        self.__dict__.update(state)

    def method(self) -> None: ...

    class Inner:
        """A class in a class, which protocols 2 and 3 get by getattr."""

        class Innermost(enum.Enum):
            """Two levels of it."""

            ONE = 1


@dataclasses.dataclass
class Config:
    """A configuration."""

    hidden: int = 6
    places: list[Path] = dataclasses.field(default_factory=lambda: [Path("/data")])


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenConfig:
    """Its state is a list for __setstate__."""

    hidden: int = 6


class Slots:
    """Its state is a tuple: (None, {slot: value})."""

    __slots__ = ("a", "b")

    def __init__(self) -> None:
        self.a, self.b = 1, Path("x")


class Mode(enum.Enum):
    """An enum."""

    BEST = "best"


class Bits(enum.Flag):
    """A flag."""

    A = 1
    B = 2


class Level(enum.IntEnum):
    """An enum of another type."""

    HIGH = 3


class Point(NamedTuple):
    """A tuple of its own class."""

    x: int
    y: Any


class MyList(list[Any]):
    """APPENDS on a stand-in."""

    def extend(self, values: Any) -> None:
        MADE.append("MyList.extend")
        super().extend(values)


class MyDict(dict[Any, Any]):
    """SETITEMS on a stand-in."""

    def __setitem__(self, key: Any, value: Any) -> None:
        MADE.append("MyDict.__setitem__")
        super().__setitem__(key, value)


class MyOrderedDict(collections.OrderedDict[Any, Any]):
    """A class that is like one that is known."""


class MySet(set[Any]):
    """Made by a call with a list."""


class MyInt(int):
    """A number of its own class."""


class WithNames:
    """NEWOBJ_EX, or a functools.partial of __new__ before protocol 4."""

    def __new__(cls, *, name: str) -> WithNames:
        return super().__new__(cls)

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, str]]:
        return (), {"name": "x"}


class Reduced:
    """All five parts of a reduction."""

    def __init__(self, *args: Any) -> None: ...

    def __reduce__(self) -> Any:
        return Reduced, (Path("x"),), {"a": 1}, iter([1, 2]), iter([("k", Mode.BEST)])

    def append(self, value: Any) -> None:
        MADE.append("Reduced.append")


class Reconstructed:
    """As protocols 0 and 1 write objects: copyreg._reconstructor."""

    def __reduce__(self) -> Any:
        return copyreg._reconstructor, (Reconstructed, object, None), {"a": 1}  # type: ignore[attr-defined]


class ModelCheckpoint:
    """Lightning before 1.5 has the class as a key."""


def a_function(*args: Any, **kwargs: Any) -> None:
    """A function of the user's program."""


def dumped(dtype: Any) -> Any:
    return np.zeros(2, dtype)


def plain_objects() -> dict[str, Any]:
    """What people keep beside a state dict, by what it is."""
    return {
        "a path": Path("/data"),
        "a pure path": pathlib.PureWindowsPath("C:\\"),
        "a namespace with a path": argparse.Namespace(data=Path("/data"), lr=0.1),
        "a simple namespace": types.SimpleNamespace(hidden=6, path=Path("x")),
        "an object": Anything(Anything()),
        "a dataclass": Config(),
        "a frozen dataclass": FrozenConfig(),
        "slots": Slots(),
        "enums": [Mode.BEST, Bits.A | Bits.B, Level.HIGH, Anything.Inner.Innermost.ONE],
        "times": [
            datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
            datetime.date(2026, 1, 1),
            datetime.timedelta(1),
        ],
        "numbers": [decimal.Decimal("1.5"), fractions.Fraction(1, 3), MyInt(3)],
        "a uuid": uuid.UUID(int=5),
        "an address": ipaddress.ip_address("127.0.0.1"),
        "a pattern": re.compile("a+"),
        "a logger": logging.getLogger("training"),
        "a signature": inspect.signature(a_function),
        "an exception": ValueError("x"),
        "constants": [..., NotImplemented, type(None), list[int], int | None],
        "classes": [ModelCheckpoint, Anything.Inner, int, np.float32],
        "a class as a key": {ModelCheckpoint: {"best": 0.5}, Mode.BEST: 1, Path("x"): 2},
        "functions": [os.path.join, a_function, print, len, str.lower, random.random],
        "methods": [Anything().method, Anything.method, MyDict.fromkeys],
        "partial": functools.partial(a_function, 1, k=Path("x")),
        "iterators": [iter([1, 2]), enumerate([1]), zip([1], [2], strict=False)],
        "a named tuple": Point(1, Path("x")),
        "a list of its own": MyList([1, MyList([2])]),
        "a list of one": MyList([1]),
        "a dict of its own": MyDict(a=1, b=MyDict(c=2)),
        "a dict of one": MyDict(a=1),
        "an ordered dict of its own": MyOrderedDict(a=1, b=2),
        "sets": [MySet([1, 2]), {Mode.BEST}, frozenset([Path("x")])],
        "a counter": collections.Counter("abca"),
        "default dicts": [
            collections.defaultdict(Anything, {1: Path("x")}),
            collections.defaultdict(a_function, {1: [2]}),
        ],
        "a deque": collections.deque([Path("x")], 3),
        "a chain map": collections.ChainMap({"a": Mode.BEST}),
        "names": WithNames(name="x"),
        "a reduction": Reduced(),
        "a reconstruction": Reconstructed(),
        "randomness": [random.Random(1), random.getstate()],
        "NumPy's randomness": [np.random.RandomState(0), np.random.default_rng(0)],
        "NumPy's state": np.random.RandomState(0).get_state(),
        "NumPy arrays": [
            np.ones((2, 3)),
            np.asfortranarray(np.ones((2, 3))),
            np.array([Anything(), None], dtype=object),
            dumped([("a", "f4"), ("b", "i8")]),
            dumped("M8[s]"),
            np.ma.array([1, 2], mask=[False, True]),
        ],
        "NumPy scalars": [np.float32(1), np.int64(2), np.str_("x"), np.datetime64("2020")],
        "NumPy functions": [np.mean, np.add, np.dtype("f4")],
        "the machine": os.uname() if hasattr(os, "uname") else None,
        "a terminal": os.terminal_size((80, 24)),
    }


def torch_objects(torch: ModuleType) -> dict[str, Any]:
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.note = Path("x")
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(1))])
    return {
        "a module": torch.nn.Sequential(torch.nn.LSTM(2, 2), torch.nn.Linear(2, 1)),
        "an optimizer": optimizer,
        "a schedule": torch.optim.lr_scheduler.StepLR(optimizer, 1),
        "a generator": torch.Generator(),
        "functions": [torch.relu, torch.nn.functional.gelu, torch.tanh, torch.nn.ReLU],
        "a parameter with a note": parameter,
        "a buffer": torch.nn.Buffer(torch.ones(2)),
        "a distribution": torch.distributions.Normal(0.0, 1.0),
        "a data set": torch.utils.data.TensorDataset(torch.ones(3)),
        "an object with tensors": Anything({"weight_hh_l0": torch.ones(2)}),
        "a class in modules": torch.nn.modules.rnn.GRU,
    }


PLAIN = list(plain_objects())
TORCH = [
    *("a module", "an optimizer", "a schedule", "a generator", "functions"),
    *("a parameter with a note", "a buffer", "a distribution", "a data set"),
    *("an object with tensors", "a class in modules"),
]


def weights(torch: ModuleType) -> dict[str, Any]:
    found = random_weights(np.random.default_rng(0), I, H)
    return {name: torch.from_numpy(value) for name, value in found.items()}


def save(torch: ModuleType, value: Any, path: Path, protocol: int, new: bool) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has no opinion here on what is deprecated
        torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=new)
    return path


def assert_loads(torch: ModuleType, value: Any, path: Path, **options: Any) -> None:
    """In every protocol and both containers: the GRU, and nothing is made."""
    expected = weights(torch)
    for protocol in PROTOCOLS:
        for new in (True, False):
            save(torch, value, path, protocol, new)
            MADE.clear()
            gru = fastgru.load(path, **options)
            assert MADE == []
            for name, tensor in gru.tensors().items():
                assert same_bits(tensor, expected[name].numpy()), (protocol, new, name)


def problem(path: Path, **options: Any) -> str:
    with pytest.raises(fastgru.FormatError) as caught:
        fastgru.load(path, **options)
    assert MADE == []
    return str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.pt"


@pytest.fixture(autouse=True)
def _nothing_was_made() -> None:
    MADE.clear()


@pytest.mark.parametrize("name", PLAIN)
def test_an_object_beside_the_tensors_stops_nobody(
    path: Path, torch: ModuleType, name: str
) -> None:
    """Before the state dict, behind it, and among its tensors."""
    state, value = weights(torch), plain_objects()[name]
    assert_loads(torch, {"extra": value, "state_dict": state, "again": [value]}, path)
    assert_loads(torch, state | {"extra": value}, path)


@pytest.mark.parametrize("name", TORCH)
def test_torchs_own_objects_stop_nobody(path: Path, torch: ModuleType, name: str) -> None:
    """Their tensors have storages in the file, which in an old one decide where others start."""
    state, value = weights(torch), torch_objects(torch)[name]
    assert_loads(torch, {"extra": value, "state_dict": state, "again": [value]}, path)


def test_several_objects_one_in_another(path: Path, torch: ModuleType) -> None:
    """All of the above in a checkpoint as Lightning writes it."""
    state = {f"net.{name}": value for name, value in weights(torch).items()}
    checkpoint = {
        "epoch": 3,
        "callbacks": {ModelCheckpoint: {"path": Path("x"), "mode": Mode.BEST}},
        "hyper_parameters": MyDict(plain_objects()),
        "state_dict": collections.OrderedDict(state),
        "loops": torch_objects(torch),
    }
    assert_loads(torch, checkpoint, path)
    assert_loads(torch, checkpoint, path, prefix="net.")


def test_attributes_of_a_needed_tensor_stop_nobody(path: Path, torch: ModuleType) -> None:
    """Its numbers are plain, whatever somebody has written on it."""
    state = weights(torch)
    noted = {name: torch.nn.Parameter(value) for name, value in state.items()}
    noted["bias_hh_l0"] = state["bias_hh_l0"].clone()
    for value in noted.values():
        value.note = [Anything(), Path("x"), Mode.BEST]
    assert_loads(torch, noted, path)


def wrappers() -> dict[str, Callable[[Any, Any], Any]]:
    """Ways to put a foreign value beside another one that stays reachable."""
    return {
        "list": lambda inner, foreign: [foreign, inner],
        "tuple": lambda inner, foreign: (inner, foreign),
        "dict": lambda inner, foreign: {"model": inner, "extra": foreign},
        "dict before": lambda inner, foreign: {"extra": foreign, "model": inner},
        "number": lambda inner, foreign: {0: foreign, 1: inner},
        "foreign key": lambda inner, foreign: {ModelCheckpoint: foreign, "model": inner},
        "ordered": lambda inner, foreign: collections.OrderedDict(extra=foreign, model=inner),
        "default": lambda inner, foreign: collections.defaultdict(
            Anything, {"model": inner, "extra": foreign}
        ),
        "deque": lambda inner, foreign: [inner, collections.deque([foreign])],
    }


FOREIGN_WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "object": Anything,
    "list": lambda value: [value, value],
    "dict": lambda value: {"weights": value, Mode.BEST: value},
    "my list": lambda value: MyList([value, 1]),
    "my dict": lambda value: MyDict(a=value),
    "partial": lambda value: functools.partial(a_function, value),
    "point": lambda value: Point(value, value),
    "namespace": lambda value: argparse.Namespace(a=value),
    "array": lambda value: np.array([value, None], dtype=object),
}


@pytest.mark.parametrize(
    ("wrapper", "name"),
    [
        ("object", "Anything"), ("my dict", "MyDict"), ("my list", "MyList"), ("point", "Point"),
        ("partial", "functools.partial"), ("namespace", "argparse.Namespace"),
    ],
)  # fmt: skip
def test_a_state_dict_inside_of_an_object_is_not_called_missing(
    wrapper: str, name: str, path: Path, torch: ModuleType
) -> None:
    """The refusal names the object that holds it: "there are no tensors" would be a lie."""
    torch.save(FOREIGN_WRAPPERS[wrapper](weights(torch)), path)
    with pytest.raises(fastgru.FormatError, match=NOT_MADE) as caught:
        fastgru.load(path, batch_first=False)
    assert name in str(caught.value)


@hypothesis.given(
    around=st.lists(st.sampled_from(list(wrappers())), min_size=1, max_size=5),
    foreign=st.lists(
        st.tuples(st.sampled_from(PLAIN), st.lists(st.sampled_from(list(FOREIGN_WRAPPERS)))),
        min_size=1,
        max_size=3,
    ),
    protocol=st.sampled_from(PROTOCOLS),
    new=st.booleans(),
)
@hypothesis.settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
def test_objects_nested_around_a_state_dict(  # noqa: PLR0917
    path: Path,
    torch: ModuleType,
    around: list[str],
    foreign: list[tuple[str, list[str]]],
    protocol: int,
    new: bool,
) -> None:
    """Wherever they stand and whatever they hold: the GRU is what its plain tensors say."""
    objects = plain_objects()
    value: Any = weights(torch)
    for place, wrapper in enumerate(around):
        name, inside = foreign[place % len(foreign)]
        beside = objects[name]
        for one in inside[:4]:
            beside = FOREIGN_WRAPPERS[one](beside)
        value = wrappers()[wrapper](value, beside)
    MADE.clear()
    gru = fastgru.load(save(torch, value, path, protocol, new))
    assert MADE == []
    expected = weights(torch)
    for name, tensor in gru.tensors().items():
        assert same_bits(tensor, expected[name].numpy())


# ---- where an object stands for something that is needed ----


def subclass(torch: ModuleType) -> Any:
    """A class of tensors whose numbers may mean anything. A global, so that it can be pickled."""
    if "QuantizedParameter" not in globals():
        kind = type("QuantizedParameter", (torch.Tensor,), {"__module__": __name__})
        globals()["QuantizedParameter"] = kind
    return globals()["QuantizedParameter"]


def stands_for_a_tensor(torch: ModuleType) -> dict[str, tuple[Any, str]]:
    here = __name__
    quantized = torch.ones(3 * H).as_subclass(subclass(torch))
    return {
        "an object": (Anything(), f"an object of {here}.Anything, {NOT_MADE}"),
        "a subclass": (quantized, f"an object of {here}.QuantizedParameter, {NOT_MADE}"),
        "a parameter of a subclass": (
            torch.nn.Parameter(quantized),
            f"an object of {here}.QuantizedParameter, {NOT_MADE}",
        ),
        "a reconstruction": (Reconstructed(), f"an object of {here}.Reconstructed, {NOT_MADE}"),
        "a call of a call": (WithNames(name="x"), f", {NOT_MADE}"),
        "a dict of its own": (MyDict(a=1), f"an object of {here}.MyDict, {NOT_MADE}"),
        "a path": (pathlib.PurePosixPath("x"), f"an object of pathlib.PurePosixPath, {NOT_MADE}"),
        "a class": (Anything, f"{here}.Anything, which fastgru does not import"),
        "a class in a class": (Anything.Inner, f"{here}.Anything.Inner, which"),
        "a function": (os.path.join, "posixpath.join, which fastgru does not import"),
        "a NumPy array": (np.ones(3 * H, np.float32), "a NumPy array"),
        "a number": (3, "int"),
        "nothing": (None, "NoneType"),
    }


STANDING = [
    *("an object", "a subclass", "a parameter of a subclass", "a reconstruction"),
    *("a call of a call", "a dict of its own", "a path", "a class", "a class in a class"),
    *("a function", "a NumPy array", "a number", "nothing"),
]


@pytest.mark.parametrize("name", STANDING)
def test_what_stands_for_a_tensor_is_named(path: Path, torch: ModuleType, name: str) -> None:
    """One problem, with the place, the kind and what to do; and only for who needs that tensor."""
    value, kind = stands_for_a_tensor(torch)[name]
    state = weights(torch)
    bad = {f"rnn.{key}": tensor for key, tensor in (state | {"bias_hh_l0": value}).items()}
    for protocol in PROTOCOLS:
        for new in (True, False):
            save(torch, bad, path, protocol, new)
            text = problem(path)
            assert "rnn.bias_hh_l0: expected a tensor, got " in text, text
            assert kind in text, text
            assert "problems" not in text
    good = {f"good.{key}": tensor for key, tensor in state.items()}
    assert_loads(torch, bad | good, path, prefix="good.")
    assert_loads(torch, {"extra": value, "model": state}, path)


def test_the_remedy_for_a_tensor_of_another_class(path: Path, torch: ModuleType) -> None:
    """A plain tensor in its place, as the error says."""
    state = weights(torch)
    state["bias_hh_l0"] = state["bias_hh_l0"].as_subclass(subclass(torch))
    save(torch, state, path, 2, True)
    assert "save a plain tensor in its place" in problem(path)
    state["bias_hh_l0"] = state["bias_hh_l0"].as_subclass(torch.Tensor)
    assert_loads(torch, state, path)


def test_tensors_inside_of_objects_are_not_found_but_the_objects_are_named(
    path: Path, torch: ModuleType
) -> None:
    """A module, and state dicts in dicts of other classes: the objects, and what to save."""
    state = weights(torch)
    for value, kind in (
        (torch.nn.GRU(I, H), "torch.nn.modules.rnn.GRU"),
        ({"net": torch.nn.GRU(I, H), "epoch": 3}, "torch.nn.modules.rnn.GRU"),
        (MyDict(state), f"{__name__}.MyDict"),
        (MyOrderedDict(state), f"{__name__}.MyOrderedDict"),
        (Anything(state), f"{__name__}.Anything"),
        ({"mean": torch.ones(2), "net": Anything(state)}, f"{__name__}.Anything"),
        (Point(1, state), f"{__name__}.Point"),
    ):
        for protocol in PROTOCOLS:
            for new in (True, False):
                text = problem(save(torch, value, path, protocol, new))
                assert kind in text, text
                assert NOT_MADE in text, text
                assert "torch.save(model.state_dict(), path)" in text, text
    assert "the names are mean" in problem(
        save(torch, {"mean": torch.ones(2), "net": Anything(state)}, path, 2, True)
    )
