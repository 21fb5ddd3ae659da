"""What a message or a command says of a file: printable, on fastgru's own lines, and bounded."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import json
import pickle
import tempfile
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import fastgru
import hostile_names
from fastgru import text
from fastgru.cli import main
from fastgru.errors import LayoutWarning
from hostile_names import FORGED, I, Place
from hostile_names import hostile_names as names

OUTPUT_LIMIT = 40_000  # of a command's tables, for the few parts of the files in here
REFUSALS = (fastgru.FormatError, fastgru.UnsupportedLayerError)


def assert_safe(said: str, limit: int = text.MESSAGE_LIMIT) -> None:
    """Whatever stands in the file, this may go to a terminal and to a log."""
    assert len(said) <= limit
    first, *others = said.split("\n")
    assert first.isprintable(), ascii(first)
    for line in others:
        assert line.isprintable(), ascii(line)
        assert line.startswith("  "), ascii(line)
        assert not line.lstrip().startswith(FORGED), ascii(line)


def assert_safe_output(said: str) -> None:
    """A command's: its own lines start anywhere, but none that a file could have made."""
    assert len(said) <= OUTPUT_LIMIT
    for line in said.split("\n"):
        assert line.isprintable(), ascii(line)
        assert not line.lstrip().startswith(FORGED), ascii(line)


def chained(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those that a traceback shows with it."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def assert_safe_call(call: Callable[[], object]) -> None:
    """What it gives, warns of or raises, and a traceback of it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            made = call()
        except REFUSALS as error:
            assert_safe(str(error), text.MESSAGE_LIMIT)
            for cause in chained(error):
                told = str(cause)
                assert len(told) <= text.MESSAGE_LIMIT
                assert told.replace("\n", "").isprintable(), ascii(told)
        else:
            assert repr(made).replace("\n", "").isprintable()
    for warning in caught:
        assert_safe(str(warning.message))


def run_command(*arguments: str) -> tuple[int, str, str]:
    """In this process: its status, and what it prints."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(arguments)
        except SystemExit as error:
            status = int(error.code or 0)
    return status, out.getvalue(), err.getvalue()


def assert_safe_command(*arguments: str) -> None:
    _, out, err = run_command(*arguments)
    assert_safe_output(out)
    assert_safe_output(err)
    assert len(err) <= text.MESSAGE_LIMIT + 1 + 2_000 * err.count("\n")  # warnings before it


@functools.cache
def places_of(group: str) -> dict[str, Place]:
    if group in ("safetensors", "snapshot"):
        make = {"safetensors": hostile_names.safetensors_places}.get(group)
        with tempfile.TemporaryDirectory() as folder:
            return (make or hostile_names.snapshot_places)(Path(folder))
    if group == "npz":
        return hostile_names.npz_places()
    if group == "torch":
        return hostile_names.torch_places()
    if group == "keras":
        return hostile_names.keras_places()
    if group == "hdf5":
        return hostile_names.hdf5_places(pytest.importorskip("h5py"))
    pytest.importorskip("onnx")
    return hostile_names.onnx_places()


GROUPS = pytest.mark.parametrize("group", ["safetensors", "npz", "torch", "keras", "hdf5", "onnx"])
SHARED_FOLDER = hypothesis.settings(
    suppress_health_check=[
        hypothesis.HealthCheck.function_scoped_fixture,
        hypothesis.HealthCheck.too_slow,
    ],
    max_examples=12,
)


@GROUPS
@SHARED_FOLDER
@hypothesis.given(data=st.data())
def test_messages_about_hostile_names(group: str, tmp_path: Path, data: st.DataObject) -> None:
    """Whatever name a file has anywhere, what `load` raises or warns of is safe to show."""
    places = places_of(group)
    path = tmp_path / "file"
    for place in data.draw(st.lists(st.sampled_from(sorted(places)), min_size=1, max_size=8)):
        hypothesis.note(place)
        path.write_bytes(places[place](data.draw(names)))
        assert_safe_call(lambda: fastgru.load(path))
        assert_safe_call(lambda: fastgru.load(path, prefix="encoder", batch_first=True))


@GROUPS
@hypothesis.settings(SHARED_FOLDER, max_examples=4)
@hypothesis.given(data=st.data())
def test_commands_about_hostile_names(group: str, tmp_path: Path, data: st.DataObject) -> None:
    """Whatever name a file has anywhere, what the commands print is safe to show."""
    places = places_of(group)
    path, out = str(tmp_path / "file"), str(tmp_path / "out")
    x = str(tmp_path / "x.npy")
    np.save(x, np.zeros((2, 1, I), np.float32))
    place = data.draw(st.sampled_from(sorted(places)))
    Path(path).write_bytes(places[place](data.draw(names)))
    assert_safe_command("info", path)
    assert_safe_command("export", path, out)
    assert_safe_command("run", path, x, "-o", out)
    assert_safe_command("verify", path, path)
    _, printed, _ = run_command("info", "--json", path)
    assert printed.isascii()
    assert printed.count("\n") <= 1


@SHARED_FOLDER
@hypothesis.given(data=st.data())
def test_snapshots_with_hostile_names(tmp_path: Path, data: st.DataObject) -> None:
    """What a pool says of a snapshot is safe to show, and the pool is as it was."""
    places = places_of("snapshot")
    pool = hostile_names.pool_of_snapshots()
    path = tmp_path / "file"
    for place in data.draw(st.lists(st.sampled_from(sorted(places)), min_size=1, max_size=8)):
        hypothesis.note(place)
        path.write_bytes(places[place](data.draw(names)))
        assert_safe_call(lambda: pool.restore(path))


@hypothesis.given(name=names, other=names)
def test_state_dicts_with_hostile_names(name: str, other: str) -> None:
    """Names of a mapping may come from a file that something else has read."""
    sound = hostile_names.WEIGHTS
    weight = sound["weight_ih_l0"]
    for state in (
        {f"{name}.{n}": array for n, array in sound.items()},
        {f"{name}.weight_ih_l0": weight, f"{other}x.weight_ih_l0": weight},
        {f"{name}.weight_ih_l0": weight.astype(int), f"{name}.weight_hr_l0{other}": weight},
        {f"{name}.weight_ih_l0": [[1], [1, 2]], f"{name}.bias_ih_{other}": weight},
        {name: weight, other: weight},
        sound | {f"bias_hh{name}": weight},
    ):
        load = functools.partial(fastgru.GRU.from_state_dict, state)
        assert_safe_call(load)
        assert_safe_call(functools.partial(load, prefix=other))
    assert_safe_call(lambda: fastgru.GRU.from_d2l({name: weight, other: weight}))


@SHARED_FOLDER
@hypothesis.given(name=names, option=st.sampled_from(["--prefix", "--activation", "--x"]))
def test_command_lines_with_hostile_text(tmp_path: Path, name: str, option: str) -> None:
    """Names of files and values of options are the user's own, and come from scripts as well."""
    path = str(tmp_path / "sound.npz")
    weights: dict[str, Any] = dict(hostile_names.WEIGHTS)
    np.savez(path, **weights)
    assert_safe_command("info", path, option, name)
    assert_safe_command("info", f"{tmp_path}/{name}")
    assert_safe_command(f"x{name}")
    assert_safe_command("export", path, f"{tmp_path}/{name}/out")
    assert_safe_command("run", path, f"{tmp_path}/{name}", "-o", f"{tmp_path}/{name}")
    assert_safe_command("export", "-", str(tmp_path / "out"), "--module", name)


def test_files_with_hostile_names_of_their_own(tmp_path: Path) -> None:
    """A message begins with the path, and commands print it."""
    path = tmp_path / "a\x1b[31m\nINFO all is well"
    weights: dict[str, Any] = dict(hostile_names.WEIGHTS)
    with open(path, "wb") as file:
        np.savez(file, **weights)
    for command in ("info", "verify"):
        assert_safe_command(command, str(path), *[str(path)] * (command == "verify"))
    path.write_bytes(b"nothing")
    assert_safe_call(lambda: fastgru.load(path))
    assert_safe_call(lambda: hostile_names.pool_of_snapshots().restore(path))
    assert_safe_command("info", str(path))


# ---- messages of many parts ----


def header_of(entries: Iterator[str]) -> bytes:
    return hostile_names.safetensors_file("{" + ",".join(entries) + "}", b"")


def empty(name: str, shape: str = "[0]") -> str:
    return f'{json.dumps(name)}:{{"dtype":"F32","shape":{shape},"data_offsets":[0,0]}}'


MANY: dict[str, Callable[[], bytes]] = {
    "layers": lambda: header_of(empty(f"weight_ih_l{i}") for i in range(9999)),
    "prefixes": lambda: header_of(empty(f"{i}.weight_ih_l0") for i in range(1_000)),
    "names": lambda: header_of(empty(f"{i}") for i in range(1_000)),
    "names of a GRU": lambda: header_of(empty(f"weight_ih_x{i}") for i in range(1_000)),
    "names that appear twice": lambda: header_of(f'"{i}":1,"{i}":1' for i in range(100_000)),
    "a long name": lambda: header_of(iter([empty("\x1b" * 10**6 + ".weight_ih_l0")])),
    "axes": lambda: header_of(iter([empty("weight_ih_l0", str([0] * 10**5))])),
    "a huge number": lambda: header_of(iter([empty("weight_ih_l0", f"[1{'0' * 10**6}]")])),
    "a number of many digits": lambda: header_of(iter([empty("weight_ih_l0", f"[{'9' * 4000}]")])),
    "a dtype": lambda: header_of(iter([f'"a":{{"dtype":"{"x" * 10**6}","shape":[]}}'])),
    "fields of a description": lambda: native_of({f"\x1b{i}": i for i in range(50_000)}),
    "a value of a description": lambda: native_of({"kind": ["\x1b" * 10**6] * 3}),
    "a deep value": lambda: native_of({"kind": [[[["\x1b" * 999] * 99] * 9] * 9]}),
    "layers of a description": lambda: native_of(
        {"format_version": 3, "kind": "model", "layers": [{"kind": "x"}] * 50_000}
    ),
    "members": lambda: hostile_names.zip_file({f"{i}weight_ih.npy": b"\x1b" for i in range(5_000)}),
}


def native_of(description: Any) -> bytes:
    metadata = {"fastgru": json.dumps({"format_version": 1} | description)}
    return hostile_names.safetensors_file(json.dumps({"__metadata__": metadata}), b"")


@pytest.mark.parametrize("name", list(MANY))
def test_messages_do_not_grow_with_the_file(tmp_path: Path, name: str) -> None:
    """A file with a hundred thousand faults gives a message of the first few and their number."""
    path = tmp_path / "file"
    path.write_bytes(MANY[name]())
    with pytest.raises(fastgru.FormatError) as caught:
        fastgru.load(path)
    assert_safe(str(caught.value))
    status, out, err = run_command("info", str(path))
    assert len(out) + len(err) <= 100_000
    assert out.replace("\n", "").isprintable()
    assert_safe(err.rstrip("\n"))
    assert status == 2 or name in ("prefixes", "names")


def test_making_a_message_takes_little_memory() -> None:
    """Of a million problems, each with a name of its own, a few are ever kept."""
    tracemalloc.start()
    try:
        problems = text.Problems(f"layer {index}: missing" for index in range(10**5))
        report = text.report("the GRU", problems)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000
    assert report.startswith("the GRU has 100000 problems:\n  layer 0: missing\n")
    assert report.endswith("\n  and 99988 more")


def test_tables_are_cut_after_many_rows(tmp_path: Path) -> None:
    """`info` of a checkpoint with a thousand GRUs prints the first and says how many more."""
    path = tmp_path / "many.npz"
    weights: dict[str, Any] = {
        f"{index}.{name}": array
        for index in range(300)
        for name, array in hostile_names.WEIGHTS.items()
    }
    np.savez(path, **weights)
    status, out, _ = run_command("info", str(path))
    assert status == 0
    assert out.startswith(f"{path}: a state dict in .npz\n300 networks, ")
    assert out.endswith("\nand 100 more\n")


# ---- the exceptions and warnings themselves ----

KINDS = [fastgru.FormatError, fastgru.UnsupportedLayerError, LayoutWarning]


@pytest.mark.parametrize("kind", KINDS)
@hypothesis.given(name=names)
def test_a_forgotten_place_cannot_leak(kind: type[Exception], name: str) -> None:
    """An exception that is raised with text as it stands in a file escapes and cuts it itself."""
    error = kind(f"damaged: {name}")
    assert_safe(str(error))
    assert "\n" not in str(error)
    assert str(kind(str(error))) == str(error)  # told again, it stays as it is


@pytest.mark.parametrize("kind", KINDS)
@hypothesis.given(lines=st.lists(names, max_size=20), place=names)
def test_only_fastgru_makes_lines(kind: type[Exception], lines: list[str], place: str) -> None:
    """A report has a line for each problem; about a place, inside another, copied or pickled."""
    report = text.report(place, ["a", *lines])
    inside = text.report("outside", ["b", text.about(place, kind(report))])
    for message in (report, text.about(place, kind(report)), inside):
        error = kind(message)
        assert_safe(str(error))
        for other in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
            assert type(other) is kind
            assert str(other) == str(error)
            assert text.message_of(other).split("\n") == text.message_of(error).split("\n")
    assert report.count("\n") == (min(len(lines) + 1, 12) + (len(lines) > 11) if lines else 0)
    assert len(inside.split("\n")) <= 12 * 13


@hypothesis.given(st.text())
def test_printable_text_stays_as_it_is(value: str) -> None:
    """What is printable and short is not touched, and escaping twice is escaping once."""
    shown = text.printable(value)
    assert shown.isprintable()
    assert len(shown) <= text.NAME_LIMIT
    assert text.printable(shown) == shown
    if value.isprintable() and len(value) <= text.NAME_LIMIT:
        assert shown == value


HOSTILE_VALUES = st.recursive(
    st.one_of(names, st.integers(), st.floats(), st.none(), st.booleans(), st.binary())
    | st.integers(1, 10**6).map(lambda bits: -(1 << bits))
    | st.integers(1, 10**6).map(lambda size: b"\x1b" * size),
    lambda inner: st.lists(inner) | st.dictionaries(names, inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@hypothesis.given(HOSTILE_VALUES)
def test_values_are_brief(value: Any) -> None:
    """Any value that a parser of JSON, of a pickle or of a .npy header gives can be shown."""
    assert text.brief(value).isprintable()
    assert len(text.brief(value)) <= text.NAME_LIMIT


@pytest.mark.parametrize("value", ["tanh", 3, -(2**63), None, True, [1, "a"], {"a": 1}, 0.5, (1,)])
def test_ordinary_values_are_shown_as_repr_has_them(value: object) -> None:
    """Errors name what is there."""
    assert text.brief(value) == repr(value)
