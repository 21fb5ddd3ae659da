"""Keras files that lie: FormatError, UnsupportedLayerError or a sound model; little memory.

What h5py can write but Keras does not is written with h5py; the rest is changed byte by byte.
"""

from __future__ import annotations

import io
import json
import struct
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import fastgru
from conftest import run_python
from fastgru.formats import window

DATA = Path(__file__).parent / "data" / "keras"
TAGGER = (DATA / "tagger_3.weights.h5").read_bytes()
I, H = 3, 4  # noqa: E741
MEBIBYTE = 1 << 20
UNDEFINED = 0xFFFFFFFFFFFFFFFF

Members = dict[str, bytes]


def members_of(model: str) -> Members:
    with zipfile.ZipFile(DATA / f"{model}.keras") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zip_file(members: Members, method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


CLASSIFIER = members_of("classifier_3")
CONFIG = json.loads(CLASSIFIER["config.json"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model"


@pytest.fixture
def spare(monkeypatch: pytest.MonkeyPatch) -> int:
    """A smaller constant in the bound of memory, for smaller bombs."""
    monkeypatch.setattr(window, "SPARE", MEBIBYTE)
    return MEBIBYTE


@pytest.fixture
def h5py() -> Any:
    return pytest.importorskip("h5py", reason="h5py is not installed")


def outcome(path: Path, data: bytes, **options: Any) -> str:
    """The error's message, or "" for what loads; nothing else may happen."""
    path.write_bytes(data)
    before = set(sys.modules)
    try:
        fastgru.from_keras(path, masks_as_lengths=True, **options)
    except (fastgru.FormatError, fastgru.UnsupportedLayerError) as error:
        message = str(error)
    else:
        return ""
    assert not {name for name in set(sys.modules) - before if not name.startswith("fastgru")}
    assert message.startswith(f"{path}: ")
    assert len(message) < 10_000
    return message


def h5_file(h5py: Any, fill: Callable[[Any], object], **options: Any) -> bytes:
    """With a sound GRU at `gru`, then whatever `fill` does."""
    file = io.BytesIO()
    with h5py.File(file, "w", **options) as root:
        cell = root.create_group("gru/cell/vars")
        for number, shape in enumerate([(I, 3 * H), (H, 3 * H), (2, 3 * H)]):
            cell[str(number)] = np.ones(shape, np.float32)
        fill(root)
    return file.getvalue()


def test_what_is_built_here_is_sound(path: Path, h5py: Any) -> None:
    """Else the tests below would prove nothing."""
    assert outcome(path, h5_file(h5py, lambda root: None)) == ""
    assert outcome(path, TAGGER) == ""
    assert outcome(path, zip_file(CLASSIFIER)) == ""


# ---- what Keras does not write into HDF5 ----


def kernel(make: Callable[[Any, Any], object]) -> Callable[[Any], None]:
    """Makes the kernel anew, in the group that holds it."""

    def fill(root: Any) -> None:
        group = root["gru/cell/vars"]
        del group["0"]
        make(sys.modules["h5py"], group)

    return fill


def virtual(h5py: Any, group: Any) -> None:
    layout = h5py.VirtualLayout((I, 3 * H), np.float32)
    layout[:] = h5py.VirtualSource("/etc/passwd", "data", (I, 3 * H))
    group.create_virtual_dataset("0", layout)


def committed(h5py: Any, group: Any) -> None:
    group.file["type"] = np.dtype(np.float32)
    group.create_dataset("0", (I, 3 * H), group.file["type"])
    group["0"][...] = 1


SHAPE = (I, 3 * H)
OTHERS: dict[str, tuple[Callable[[Any, Any], object], str]] = {
    "soft link": (
        lambda h5py, group: group.update({"0": h5py.SoftLink("/gru/cell/vars/1")}),
        "a link to elsewhere, which Keras does not write",
    ),
    "external link": (
        lambda h5py, group: group.update({"0": h5py.ExternalLink("/etc/passwd", "/x")}),
        "a group in a newer form of HDF5",
    ),
    "virtual": (virtual, "expected data in one piece"),
    "external data": (
        lambda _, group: group.create_dataset(
            "0", SHAPE, np.float32, external=[("/etc/passwd", 0, 144)]
        ),
        "external data, which Keras does not write",
    ),
    "chunks": (
        lambda _, group: group.create_dataset("0", data=np.ones(SHAPE, "f4"), chunks=(1, 12)),
        "expected data in one piece",
    ),
    "compressed": (
        lambda _, group: group.create_dataset("0", data=np.ones(SHAPE, "f4"), compression="gzip"),
        "compressed data, which Keras does not write",
    ),
    "huge and empty": (
        lambda _, group: group.create_dataset("0", (1 << 40, 12), "f4", chunks=(1024, 12)),
        "expected data in one piece",
    ),
    "huge and not written": (
        lambda _, group: group.create_dataset("0", (1 << 40, 12), "f4"),
        "makes no sense|cut off",
    ),
    "committed type": (committed, "message 3 of an object makes no sense"),
    "no shape": (
        lambda h5py, group: group.update({"0": h5py.Empty("f4")}),
        "a shape that makes no sense",
    ),
    "a group": (lambda _, group: group.create_group("0"), "expected an array, got something else"),
    "other names": (
        lambda _, group: group.update({"kernel": np.ones(SHAPE, "f4")}),
        "expected names 0, 1, ..., got 1, 2, kernel",
    ),
    "integers": (
        lambda _, group: group.update({"0": np.ones(SHAPE, np.int32)}),
        "expected floating numbers, got no floating numbers",
    ),
    "strings": (
        lambda _, group: group.update({"0": np.full(SHAPE, b"text")}),
        "expected floating numbers, got no floating numbers",
    ),
    "objects": (
        lambda h5py, group: group.create_dataset("0", SHAPE, h5py.string_dtype()),
        "expected floating numbers, got no floating numbers",
    ),
    "references": (
        lambda h5py, group: group.create_dataset("0", SHAPE, h5py.ref_dtype),
        "expected floating numbers, got no floating numbers",
    ),
    "complex": (
        lambda _, group: group.update({"0": np.ones(SHAPE, np.complex64)}),
        "expected floating numbers, got no floating numbers",
    ),
    "big-endian": (
        lambda _, group: group.update({"0": np.ones(SHAPE, ">f4")}),
        "other floating numbers of 4 bytes (big-endian?)",
    ),
    "another shape": (
        lambda _, group: group.update({"0": np.ones((I, 3 * H, 1), "f4")}),
        "gru/cell/vars/0 (kernel): expected (I, 12), got (3, 12, 1)",
    ),
    "no rows": (
        lambda _, group: group.update({"0": np.ones((0, 3 * H), "f4")}),
        "gru/cell/vars/0 (kernel): expected (I, 12), got (0, 12)",
    ),
}


@pytest.mark.parametrize("name", list(OTHERS))
def test_what_keras_does_not_write(path: Path, h5py: Any, name: str) -> None:
    """Nothing that reaches elsewhere, grows or is no floating number; each is named."""
    make, expected = OTHERS[name]
    message = outcome(path, h5_file(h5py, kernel(make)))
    assert any(text in message for text in expected.split("|")), message


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_every_width(path: Path, h5py: Any, dtype: str) -> None:
    data = h5_file(h5py, kernel(lambda _, group: group.update({"0": np.full(SHAPE, 0.5, dtype)})))
    assert outcome(path, data) == ""
    assert np.all(fastgru.from_keras(path).tensors()["weight_ih_l0"] == 0.5)


def test_newer_forms(path: Path, h5py: Any) -> None:
    """Which h5py writes if it is asked to."""
    for libver, version in (("v108", 2), ("latest", 3)):
        message = outcome(path, h5_file(h5py, lambda root: None, libver=libver))
        assert f"HDF5 in version {version} of its format: expected 0" in message
    assert "expected a .keras archive" in outcome(
        path, bytes(512) + h5_file(h5py, lambda root: None)
    )


def test_many_names_and_deep_groups(path: Path, h5py: Any) -> None:
    """Sound ones: an index of several levels."""

    def fill(root: Any) -> None:
        for number in range(1500):
            root.create_group(f"many/name {number}")
        root.create_group("/".join("abcdefghij"))

    assert outcome(path, h5_file(h5py, fill)) == ""


def test_groups_that_hold_each_other(path: Path, h5py: Any) -> None:
    """Hard links in circles: few bytes, names without end."""

    def fill(root: Any) -> None:
        for name in "ab":
            root[f"gru/{name}"] = root["gru"]

    assert "its groups hold each other" in outcome(path, h5_file(h5py, fill))


def test_many_names_for_one_array(path: Path, h5py: Any, spare: int) -> None:
    """Layers that share a weight of 1 MB, which together would take 30."""

    def fill(root: Any) -> None:
        root["recurrent"] = np.ones((300, 900), np.float32)
        for number in range(30):
            group = root.create_group(
                f"layers/gru_{number}/cell/vars" if number else "layers/gru/cell/vars"
            )
            group["0"] = group["1"] = root["recurrent"]

    entry = CONFIG["config"]["layers"][5]
    entry = entry | {"config": entry["config"] | {"units": 300, "use_bias": False}}
    layers = [entry] * 30
    config = {"class_name": "Sequential", "config": {"layers": layers}}
    path.write_bytes(h5_file(h5py, fill))
    tracemalloc.start()
    with pytest.raises(fastgru.FormatError, match="takes more memory than"):
        fastgru.from_keras(path, config=config)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 3 * path.stat().st_size + 5 * spare


def test_loading_takes_few_times_the_files_size(path: Path, h5py: Any) -> None:
    """A weight is held as it was read, and once more with its gates in torch's order."""

    def fill(root: Any) -> None:
        for name in ("0", "1", "2"):
            del root[f"gru/cell/vars/{name}"]
        for number, shape in enumerate([(1024, 1536), (512, 1536)]):
            root[f"gru/cell/vars/{number}"] = np.ones(shape, np.float32)

    data = h5_file(h5py, fill)
    outcome(path, data)  # imports are not what is measured
    tracemalloc.start()
    gru = fastgru.from_keras(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert gru.hidden_size == 512
    assert peak <= 3 * len(data) + MEBIBYTE


# ---- structures that lie ----


def changed(data: bytes, place: int, layout: str, *values: int) -> bytes:
    patch = struct.pack(layout, *values)
    return data[:place] + patch + data[place + len(patch) :]


def places(data: bytes, magic: bytes) -> list[int]:
    found, place = [], data.find(magic)
    while place >= 0:
        found.append(place)
        place = data.find(magic, place + 1)
    return found


@pytest.mark.parametrize("value", [0, 8, 96, 1 << 20, 1 << 62, UNDEFINED])
@pytest.mark.parametrize(
    ("magic", "offset", "layout"),
    [
        (b"HEAP", 8, "<Q"),  # how long the names are
        (b"HEAP", 24, "<Q"),  # where they are: HDF5's own library never ends for 0xA8
        (b"TREE", 6, "<H"),  # how many tables there are
        (b"TREE", 32, "<Q"),  # where the first is
        (b"SNOD", 6, "<H"),  # how many names are in it
        (b"SNOD", 8, "<Q"),  # the first one's place
        (b"SNOD", 16, "<Q"),  # and its object
    ],
)
def test_addresses_and_lengths_that_lie(
    path: Path, magic: bytes, offset: int, layout: str, value: int
) -> None:
    """Of every group in turn; what still loads is sound."""
    value &= (1 << 8 * struct.calcsize(layout)) - 1
    found = places(TAGGER, magic)
    assert found
    for place in found:
        outcome(path, changed(TAGGER, place + offset, layout, value))


def test_an_index_that_holds_itself(path: Path) -> None:
    """A node of every level whose children are the node."""
    for place in places(TAGGER, b"TREE"):
        for level in (1, 255):
            data = changed(TAGGER, place + 5, "<BH", level, 16)
            data = changed(data, place + 24, "<33Q", *[place] * 33)
            assert "damaged HDF5 file" in outcome(path, data)


def test_an_object_that_goes_on_without_end(path: Path) -> None:
    """Its header says that it goes on where it is."""
    root = struct.unpack_from("<Q", TAGGER, 64)[0]
    count = struct.pack("<BxHLL4x", 1, 0xFFFF, 1, 24)
    again = struct.pack("<2HB3x2Q", 0x10, 16, 0, root + 16, 24)
    data = TAGGER[:root] + count + again + TAGGER[root + len(count + again) :]
    assert "make no sense" in outcome(path, data)


def test_the_superblock(path: Path) -> None:
    for place, layout, value, expected in [
        (8, "<B", 1, "HDF5 in version 1 of its format"),
        (13, "<B", 4, "damaged"),
        (24, "<Q", 512, "damaged"),
        (40, "<Q", len(TAGGER) + 1, "it should have"),
        (40, "<Q", UNDEFINED, "it should have"),
        (64, "<Q", UNDEFINED, "make no sense"),
    ]:
        assert expected in outcome(path, changed(TAGGER, place, layout, value))


# ---- archives ----


def without(name: str) -> Members:
    return {key: value for key, value in CLASSIFIER.items() if key != name}


def with_version(version: object) -> Members:
    return CLASSIFIER | {"metadata.json": json.dumps({"keras_version": version}).encode()}


ARCHIVES: dict[str, tuple[bytes, str]] = {
    "compressed": (
        zip_file(CLASSIFIER, zipfile.ZIP_DEFLATED),
        "the archive is compressed, which Keras does not do",
    ),
    "no config": (zip_file(without("config.json")), "config.json is missing"),
    "no version": (zip_file(without("metadata.json")), "metadata.json is missing"),
    "no weights": (zip_file(without("model.weights.h5")), "model.weights.h5 is missing"),
    "no members": (zip_file({}), "is missing"),
    "version 4": (zip_file(with_version("4.0")), "keras_version: expected 2.x or 3.x, got '4.0'"),
    "version 33": (zip_file(with_version("33.0")), "got '33.0'"),
    "version number": (zip_file(with_version(3)), "keras_version: expected 2.x or 3.x, got 3"),
    "no JSON": (zip_file(CLASSIFIER | {"config.json": b"{"}), "config.json is not valid JSON"),
    "list": (zip_file(CLASSIFIER | {"config.json": b"[]"}), "expected a JSON object, got list"),
    "twice": (
        zip_file(CLASSIFIER | {"config.json": b'{"a": 1, "a": 2}'}),
        "config.json: a: appears 2 times",
    ),
    "deep": (
        zip_file(CLASSIFIER | {"config.json": b'{"a":' + b"[" * 100_000}),
        "config.json is not valid JSON",
    ),
    "large": (
        zip_file(CLASSIFIER | {"config.json": b" " * (1 << 21) + b"{}"}),
        "config.json: expected at most 2097152 bytes",
    ),
    "text": (zip_file(CLASSIFIER | {"model.weights.h5": b"t" * 400}), "expected an HDF5 file"),
    "no bytes": (zip_file(CLASSIFIER | {"model.weights.h5": b""}), "damaged HDF5 file"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(ARCHIVES))
def test_archives_that_keras_does_not_write(path: Path, name: str) -> None:
    data, expected = ARCHIVES[name]
    assert expected in outcome(path, data)


def test_damaged_weights_in_an_archive_are_always_noticed(path: Path) -> None:
    """Members have checksums: no flipped bit gets through."""
    data = zip_file(CLASSIFIER)
    start = data.index(b"\x89HDF")
    for bit in range(0, 8 * len(CLASSIFIER["model.weights.h5"]), 1009):
        bad = bytearray(data)
        bad[start + bit // 8] ^= 1 << bit % 8
        assert "expected the CRC" in outcome(path, bytes(bad))


# ---- configs ----


def nested(levels: int) -> dict[str, Any]:
    model: dict[str, Any] = {"class_name": "GRU", "config": {}}
    for _ in range(levels):
        model = {"class_name": "Sequential", "config": {"layers": [model]}}
    return model


def config_with(index: int, **changed: Any) -> Any:
    config = json.loads(CLASSIFIER["config.json"])
    config["config"]["layers"][index]["config"] |= changed
    return config


CONFIGS: list[tuple[Any, str]] = [
    ({}, "the model: expected class_name and config, got []"),
    ({"class_name": "Sequential", "config": []}, "the model: expected class_name and config"),
    ({"class_name": "Sequential", "config": {}}, "model: expected a list of layers, got None"),
    ({"class_name": "Sequential", "config": {"layers": []}}, "expected a list of layers, got []"),
    (
        {"class_name": "Sequential", "config": {"layers": [1]}},
        "model.layers[0]: expected an object, got 1",
    ),
    (
        {"class_name": "Functional", "config": {"layers": [{"class_name": "GRU", "config": {}}]}},
        "expected layers with names of their own",
    ),
    (nested(20), "models in models: expected at most 16"),
    (nested(100), "models in models: expected at most 16"),
    (config_with(5, units=None), "units: expected a positive integer, got None"),
    (config_with(5, units=8), "layers/gru/cell/vars/0 (kernel): expected (I, 24), got (8, 12)"),
    (config_with(5, use_bias=1), "use_bias: expected true or false, got 1"),
    (config_with(5, use_bias=False), "expected 2 arrays (kernel, recurrent_kernel), got 3"),
    (config_with(3, epsilon=10**400), "epsilon: expected a number of at least 0"),
    (config_with(3, epsilon=float("nan")), "epsilon: expected a number of at least 0, got nan"),
]


@pytest.mark.parametrize("number", range(len(CONFIGS)))
def test_configs_that_make_no_sense(path: Path, number: int) -> None:
    config, expected = CONFIGS[number]
    message = outcome(path, zip_file(CLASSIFIER | {"config.json": json.dumps(config).encode()}))
    assert expected in message


def test_int8_of_weights_that_are_not_finite(path: Path, h5py: Any) -> None:
    """What `GRU.to` says is said of the file."""
    data = h5_file(h5py, kernel(lambda _, group: group.update({"0": np.full(SHAPE, np.nan, "f4")})))
    assert "int8 needs finite weights" in outcome(path, data, precision="int8")


def ways_into(value: Any, steps: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to everything in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, item in inner:
        found.append((*steps, key))
        if isinstance(item, (dict, list)):
            found += ways_into(item, (*steps, key))
    return found


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats()
    | st.sampled_from(["GRU", "Sequential", "Functional", "linear", "layers", "", "x" * 5000]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@pytest.mark.parametrize("model", ["classifier_3", "chain_3", "chain_2", "masked_backwards_3"])
@hypothesis.given(data=st.data())
@hypothesis.settings(
    max_examples=100, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_changed_configs(path: Path, model: str, data: Any) -> None:
    """Anything in the place of anything else."""
    members = members_of(model)
    config = json.loads(members["config.json"])
    for _ in range(data.draw(st.integers(1, 2))):
        ways = ways_into(config)
        if not ways:
            break
        *steps, last = data.draw(st.sampled_from(ways))
        place = config
        for step in steps:
            place = place[step]
        place[last] = data.draw(JUNK)
    outcome(path, zip_file(members | {"config.json": json.dumps(config).encode()}))


# ---- any damage ----

SMALL = {"weights": TAGGER, "archive": (DATA / "stateful_3.keras").read_bytes()}


@pytest.mark.parametrize("name", list(SMALL))
def test_truncated_files(path: Path, name: str) -> None:
    """Cut anywhere: FormatError."""
    data = SMALL[name]
    for length in [*range(0, len(data), 61), len(data) - 1]:
        assert outcome(path, data[:length]), length


@pytest.mark.parametrize("name", list(SMALL))
@hypothesis.given(
    changes=st.lists(
        st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=4
    )
)
@hypothesis.settings(
    max_examples=200, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_changed_bytes(path: Path, name: str, changes: list[tuple[int, int]]) -> None:
    """In the archive's records, in HDF5's or in the data."""
    data = bytearray(SMALL[name])
    for where, value in changes:
        data[where % len(data)] = value
    outcome(path, bytes(data))


SPOTS = [place for place, byte in enumerate(CLASSIFIER["model.weights.h5"]) if byte]


@hypothesis.given(
    changes=st.lists(
        st.tuples(st.integers(0, 1 << 20), st.sampled_from([0, 1, 2, 3, 8, 16, 127, 255])),
        min_size=1,
        max_size=4,
    )
)
@hypothesis.settings(
    max_examples=200, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_changed_structures(path: Path, changes: list[tuple[int, int]]) -> None:
    """Where bytes are not 0, which is where HDF5 says something; with the config too."""
    data = bytearray(CLASSIFIER["model.weights.h5"])
    for where, value in changes:
        data[SPOTS[where % len(SPOTS)]] = value
    outcome(path, bytes(data))
    outcome(path, bytes(data), config=CONFIG)


def test_nothing_that_a_file_names_is_run(path: Path, tmp_path: Path) -> None:
    """A Lambda, a class and a module of its own: names are data."""
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    members = dict(CLASSIFIER)
    config = json.loads(members["config.json"])
    config["config"]["layers"][4] |= {"module": "trap", "class_name": "Trap"}
    config["config"]["layers"][3] |= {"class_name": "Lambda", "config": {"function": ["4wAA"]}}
    members["config.json"] = json.dumps(config).encode()
    path.write_bytes(zip_file(members))
    code = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
import fastgru
try:
    fastgru.from_keras({str(path)!r})
except fastgru.UnsupportedLayerError as error:
    print(error)
"""
    done = run_python(code)
    assert "model.layers[2] Lambda: fastgru has no such layer" in done.stdout, done.stderr
    assert "model.layers[3] Trap 'spatial_dropout1d': a class of its own ('trap')" in done.stdout
