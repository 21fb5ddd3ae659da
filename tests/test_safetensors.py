"""The reader and the writer of safetensors files, which the safetensors package judges.

What the package writes we read, what we write it reads and would have written itself, and what it
refuses we refuse. Files of GRUs, and damage to them, are test_files.py's.
"""

from __future__ import annotations

import importlib.util
import json
import os
import struct
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import fastgru
from conftest import Array, random_weights, run_python, same_bits
from fastgru.formats import safetensors_file, safetensors_writer
from fastgru.formats.safetensors_header import BITS, read_header
from fastgru.formats.strict_json import parse_object

FUZZ = Path(__file__).parent / "fuzz"
NUMPY_DTYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?", "c8"]
TORCH_DTYPES = [
    "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
    "float8_e8m0fnu", "float4_e2m1fn_x2",
]  # fmt: skip
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(
    lambda name: name != "__metadata__"
)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
ENTRY = {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}


def with_header(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def entries_of(data: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    """Our reader's view: dtype, shape and bytes of each tensor; FormatError."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        header, metadata = read_header(file)
        return {
            name: (entry.dtype, entry.shape, data[entry.start : entry.start + entry.size])
            for name, entry in header.items()
        }, metadata


def package_entries(data: bytes) -> dict[str, Any]:
    """The package's view of the same; SafetensorError."""
    return {
        name: (found["dtype"], tuple(found["shape"]), bytes(found["data"]))
        for name, found in safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    }


@st.composite
def numpy_tensors(draw: st.DrawFn) -> dict[str, Array]:
    names = draw(st.lists(NAMES, max_size=5, unique=True))
    dtypes = st.sampled_from(NUMPY_DTYPES).map(np.dtype)
    return {name: draw(hnp.arrays(draw(dtypes), draw(SHAPES))) for name in names}


# ---- what the package writes ----


@hypothesis.given(numpy_tensors(), st.dictionaries(NAMES, NAMES, max_size=3))
def test_what_the_package_writes_is_read(
    tensors: dict[str, Array], metadata: dict[str, str]
) -> None:
    """Any names, NumPy's dtypes, shapes with axes of 0, metadata: the same bytes."""
    # The package itself cannot read what it writes of no tensors and empty metadata.
    data = safetensors.numpy.save(tensors, metadata or None)
    entries, found = entries_of(data)
    assert entries == package_entries(data)
    assert {name: entry[2] for name, entry in entries.items()} == {
        name: tensor.tobytes() for name, tensor in tensors.items()
    }
    assert found == metadata


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_dtypes_that_only_pytorch_has_stand_beside_a_gru(
    tmp_path: Path, torch: ModuleType, dtype: str
) -> None:
    """Also those of four bits: they are nobody's business where they are not the GRU's."""
    save_file = pytest.importorskip("safetensors.torch").save_file
    raw = torch.zeros(4, 6, dtype=torch.uint8)
    other = raw.view(getattr(torch, dtype)) if dtype != "bfloat16" else raw.to(torch.bfloat16)
    state = {f"rnn.{n}": torch.from_numpy(t) for n, t in weights().items()}
    save_file(state | {"other": other}, tmp_path / "file")
    gru = fastgru.load(tmp_path / "file", batch_first=False)
    assert all(same_bits(t, weights()[name]) for name, t in gru.tensors().items())


def test_the_package_has_no_dtype_that_we_do_not_know() -> None:
    """A dtype that a newer package writes fails here, not at a user's."""
    for dtype in [*BITS, "F4", "F6_E2M3"]:
        entry = {"dtype": dtype, "shape": [8], "data_offsets": [0, BITS[dtype]]}
        data = with_header(json.dumps({"a": entry}).encode(), bytes(BITS[dtype]))
        assert entries_of(data)[0] == package_entries(data)
    unknown = with_header(b'{"a":{"dtype":"F33","shape":[],"data_offsets":[0,0]}}')
    with pytest.raises(safetensors.SafetensorError) as caught:
        package_entries(unknown)
    listed = str(caught.value).partition("expected one of ")[2]
    if listed:
        assert {part.strip("` ") for part in listed.split(" at ")[0].split(",")} <= set(BITS)


# ---- what we write ----


@hypothesis.given(
    st.dictionaries(
        st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=20).filter(
            lambda name: name != "__metadata__"
        ),
        hnp.arrays(np.float32, SHAPES, elements=st.integers(-127, 127).map(float)),
        max_size=5,
    ),
    st.data(),
)
def test_the_package_reads_what_we_write(tensors: dict[str, Array], data: st.DataObject) -> None:
    """F32, BF16 and I8 in any mixture; without BF16, the package writes the same bytes."""
    kinds = {name: data.draw(st.sampled_from(["F32", "BF16", "I8"])) for name in tensors}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        safetensors_writer.write(path, tensors, {"k": '{"a": 1}'}, kinds)
        written = path.read_bytes()
        with path.open("rb") as file:
            sources, metadata = safetensors_file.read(file)
            assert metadata == {"k": '{"a": 1}'}
            for name, source in sources.items():
                assert same_bits(source.read(), tensors[name])
    dtypes = {"F32": np.float32, "BF16": ml_dtypes.bfloat16, "I8": np.int8}
    stored = {name: tensor.astype(dtypes[kinds[name]]) for name, tensor in tensors.items()}
    assert package_entries(written) == {
        name: (kinds[name], tensor.shape, tensor.tobytes()) for name, tensor in stored.items()
    }
    if "BF16" not in kinds.values():
        assert written == safetensors.numpy.save(stored, {"k": '{"a": 1}'})
    assert int.from_bytes(written[:8], "little") % 8 == 0


def test_big_tensors_are_converted_in_pieces(tmp_path: Path) -> None:
    """Every piece lands in its place, read and written."""
    rng = np.random.default_rng(0)
    tensor = rng.integers(-127, 128, (700, 1001)).astype(np.float32)
    for kind in ("F32", "BF16", "I8"):
        safetensors_writer.write(tmp_path / "file", {"a": tensor}, {}, {"a": kind})
        with (tmp_path / "file").open("rb") as file:
            assert same_bits(safetensors_file.read(file)[0]["a"].read(), tensor)
    for dtype in ("f8", "f2"):
        safetensors.numpy.save_file({"a": tensor.astype(dtype)}, tmp_path / "file")
        with (tmp_path / "file").open("rb") as file:
            assert same_bits(safetensors_file.read(file)[0]["a"].read(), tensor)


# ---- what is refused ----

SOUND = {
    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "b": {"dtype": "F4", "shape": [3, 2], "data_offsets": [8, 11]},
    "c": {"dtype": "BF16", "shape": [0, 4], "data_offsets": [11, 11]},
}
NUMBERS = st.sampled_from([-1, 0, 1, 2, 3, 8, 11, 12, 2**32, 2**61, 2**63, 2**64, 1.0, True, None])
FIELDS = st.one_of(
    st.tuples(st.just("dtype"), st.sampled_from(["F32", "F4", "F6_E2M3", "f32", "F33", "", None])),
    st.tuples(st.just("shape"), st.lists(NUMBERS, max_size=4)),
    st.tuples(st.just("data_offsets"), st.lists(NUMBERS, min_size=1, max_size=3)),
    st.tuples(st.just("more"), NUMBERS),
)


@hypothesis.given(
    st.lists(st.tuples(st.sampled_from("abcd"), FIELDS), max_size=3), st.integers(-2, 2)
)
@hypothesis.settings(max_examples=300)
def test_what_the_package_refuses_is_refused(changes: Any, extra: int) -> None:
    """Gaps, overlaps, sizes, overflows, bits that are no bytes, data that is missing or too much.

    What it takes we take, but for fields that the format does not have and shapes that no array
    can have.
    """
    header = {name: dict(entry) for name, entry in SOUND.items()}
    for name, (field, value) in changes:
        header.setdefault(name, {})[field] = value
    data = with_header(json.dumps(header).encode(), bytes(11 + extra))
    try:
        expected = package_entries(data)
    except safetensors.SafetensorError:
        with pytest.raises(fastgru.FormatError):
            entries_of(data)
        return
    reason = ""
    try:
        assert entries_of(data)[0] == expected
    except fastgru.FormatError as error:
        reason = str(error)
    assert not reason or '"more"' in reason or "larger than any memory" in reason


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b" {}", "at byte 0 expected {"),
        (b'{"a":1}', r'at byte 1 expected "name": {"dtype"'),
        (b"{} x", "at byte 2 expected the header's end, got ' x'"),
        (b"{}{}", "expected the header's end"),
        (b'{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},}', "at byte 55"),
        (b'{"a":{"dtype":"F32","shape":[3],"shape":[3]}}', "at byte 1"),
        (b'{"a":{"dtype":"F32","shape":[03],"data_offsets":[0,12]}}', "at byte 1"),
        (b'{"\\ud800":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}', "a string in UTF-8"),
        (b'{"\xff":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}', "a string in UTF-8"),
        (b'{"\n":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}', "at byte 1"),
        (b'{"__metadata__":{"a":1}}', "at byte 17 expected a string and its string"),
        (b'{"__metadata__":null}', "at byte 1"),
        (b'{"__metadata__":{},"__metadata__":{}}', "__metadata__: appears 2 times"),
        (b'{"__metadata__":{"a":"","\\u0061":""}}', "__metadata__: a: appears 2 times"),
        (b'{"__metadata__":{"a":""},}', "at byte 25"),
        (b'{"a":{"dtype":"F32","shape":[%b1],"data_offsets":[0,4]}}' % (b"1," * 64), "at byte 1"),
    ],
)
def test_the_message_says_where(header: bytes, message: str) -> None:
    """A header that has another form is refused at the first byte that has."""
    with pytest.raises(fastgru.FormatError, match=message):
        entries_of(with_header(header, bytes(12)))


def test_all_problems_are_told_at_once_and_not_more_than_a_dozen() -> None:
    bad = {f"t{i}": ENTRY | {"dtype": "F33"} for i in range(3)}
    with pytest.raises(fastgru.FormatError, match=r"(?s)3 problems.*t0: unknown dtype F33.*t2: "):
        entries_of(with_header(json.dumps(bad).encode()))
    many = {f"t{i}": ENTRY | {"dtype": "F33"} for i in range(30000)}
    with pytest.raises(fastgru.FormatError) as caught:
        entries_of(with_header(json.dumps(many).encode()))
    assert len(str(caught.value)) < 3000


def test_other_orders_and_spaces_are_sound(tmp_path: Path) -> None:
    """JSON may be written in many ways, and tensors may stand in any order."""
    header = b"""{ "b" : { "data_offsets" : [ 4 , 8 ] , "shape" : [ ] , "dtype" : "F32" },
    "__metadata__" : { } , "\\u0061" : {"shape":[1,1],"dtype":"F32","data_offsets":[0,4]} }  \n"""
    data = with_header(header, struct.pack("<2f", 1, 2))
    assert entries_of(data)[0] == package_entries(data)
    assert list(entries_of(data)[0]) == ["b", "a"]


# ---- memory ----


def weights() -> dict[str, Array]:
    return random_weights(np.random.default_rng(0), 3, 5)


def peak_of(action: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_only_the_tensors_chosen_are_read(tmp_path: Path) -> None:
    """One small GRU of a large file costs what the GRU costs."""
    state = {f"rnn.{n}": t for n, t in weights().items()}
    safetensors.numpy.save_file(
        state | {"embedding": np.zeros((1 << 22,), np.float32)}, tmp_path / "file"
    )
    fastgru.load(tmp_path / "file", batch_first=False)  # imports are not what is measured
    assert peak_of(lambda: fastgru.load(tmp_path / "file", batch_first=False)) < 500_000


def test_a_file_that_shrinks_meanwhile(tmp_path: Path) -> None:
    """Another process truncates it between two reads: FormatError, and no signal."""
    safetensors.numpy.save_file({"a": np.zeros(100_000, np.float32)}, tmp_path / "file")
    with (tmp_path / "file").open("rb") as file:
        tensors, _ = safetensors_file.read(file)
        os.truncate(tmp_path / "file", 50_000)
        with pytest.raises(fastgru.FormatError, match="a: cut off: expected 400000 bytes, got 49"):
            tensors["a"].read()
        os.truncate(tmp_path / "file", 8)
        with pytest.raises(fastgru.FormatError, match="at most 0 are possible"):
            safetensors_file.read(file)


def listed(count: int, entry: bytes) -> bytes:
    """`count` entries, each with its number where `entry` has %d."""
    return b",".join(entry.replace(b"%d", b"%x" % number) for number in range(count))


EMPTY = b'{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
DESCRIBED = b'{"__metadata__":{"fastgru":"{\\"a\\":[%b]}"}}'
HOSTILE = {
    "empty objects": b'{"a":[' + b"{}," * 330_000 + b"{}]}",
    "empty lists": b'{"a":[' + b"[]," * 330_000 + b"{}]}",
    "ones": b'{"a":{"dtype":"U8","shape":[' + b"1," * 500_000 + b'1],"data_offsets":[0,1]}}',
    "nested": b'{"a":' * 200_000,
    "no sizes": b"{" + listed(15_000, b'"%d":' + EMPTY) + b"}",
    "the same name": b"{" + b",".join([b'"a":' + EMPTY] * 15_000) + b"}",
    "modules": b"{" + listed(15_000, b'"%d.weight_ih_l0":' + EMPTY) + b"}",
    "metadata": b'{"__metadata__":{' + listed(90_000, b'"%d":""') + b"}}",
    "the same metadata": b'{"__metadata__":{' + b",".join([b'"":""'] * 150_000) + b"}}",
    "escapes": b'{"__metadata__":{"a":"' + b"ab\\n" * 250_000 + b'"}}',
    "wide": b'{"__metadata__":{"a":"' + b"a" * 1_000_000 + "\U0001f600".encode() + b'"}}',
    "described objects": DESCRIBED % (b"{}," * 330_000 + b"{}"),
    "described lists": DESCRIBED % (b"[]," * 330_000 + b"{}"),
    "described names": DESCRIBED % (b'{\\"a\\":1},' * 100_000 + b"{}"),
    "described numbers": DESCRIBED % (b"1," * 500_000 + b"1"),
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile_headers_cost_no_more_than_honest_ones(tmp_path: Path, name: str) -> None:
    """A megabyte of header: a few times its length, and what any file may take at least."""
    data = with_header(HOSTILE[name])
    honest = {f"tensor{i}": np.zeros(1, np.float32) for i in range(len(data) // 80)}
    safetensors.numpy.save_file(honest, tmp_path / "honest")

    def refuse(path: Path) -> None:
        with pytest.raises(fastgru.FormatError):
            fastgru.load(path, batch_first=False)

    (tmp_path / "file").write_bytes(data)
    refuse(tmp_path / "file")  # imports are not what is measured
    allowed = peak_of(lambda: refuse(tmp_path / "honest"))
    peak = peak_of(lambda: refuse(tmp_path / "file"))
    assert allowed < 8 * len(data)
    assert peak < 2 * allowed + (1 << 24)  # window.SPARE


def test_a_long_list_of_ids_is_no_attack(tmp_path: Path) -> None:
    """A snapshot's ids are most of its file where states are small."""
    gru = fastgru.GRU.from_state_dict(
        {"weight_ih_l0": np.ones((3, 1), np.float32), "weight_hh_l0": np.ones((3, 1), np.float32)}
    )
    pool, other = gru.pool(200_000), gru.pool(200_000)
    for _ in range(200_000):
        pool.open()
    pool.snapshot(tmp_path / "file")
    other.restore(tmp_path / "file")
    assert set(other.ids.tolist()) == set(pool.ids.tolist())


# ---- without the package ----


def test_the_package_is_not_needed(tmp_path: Path) -> None:
    """NumPy is the one run-time dependency: load, save, snapshot, restore, the demo."""
    safetensors.numpy.save_file(weights(), tmp_path / "file")
    code = f"""
import sys
sys.modules["safetensors"] = None
import numpy as np, fastgru
from fastgru.cli import main
gru = fastgru.load({str(tmp_path / "file")!r}, batch_first=False)
for precision in ("float32", "bfloat16", "int8"):
    fastgru.Model([gru.to(precision), fastgru.Last()]).save({str(tmp_path / "saved")!r})
    print(fastgru.load({str(tmp_path / "saved")!r})[0].precision)
pool = gru.pool(2)
session = pool.open()
pool.snapshot({str(tmp_path / "snapshot")!r})
pool.restore({str(tmp_path / "snapshot")!r})
print(session in pool)
main(["demo", "--prompt", "The ", "--length", "1"])
"""
    done = run_python(code)
    assert done.stdout.startswith("float32\nbfloat16\nint8\nTrue\n"), done.stderr
    assert done.returncode == 0, done.stderr


# ---- what fuzzers found ----


@pytest.mark.parametrize("kind", ["safetensors", "npz"])
def test_the_fuzzers_corpus(tmp_path: Path, kind: str) -> None:
    """What a fuzzer found to run lines of the reader: a model or a FormatError."""
    spec = importlib.util.spec_from_file_location(f"fuzz_{kind}", FUZZ / f"fuzz_{kind}.py")
    assert spec is not None
    assert spec.loader is not None
    fuzz = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzz)
    inputs = sorted((FUZZ / f"corpus_{kind}").iterdir())
    loaded = 0
    for path in inputs:
        (tmp_path / "file").write_bytes(fuzz.as_file(path.read_bytes()))
        try:
            fastgru.load(tmp_path / "file", batch_first=False)
        except fastgru.FormatError:
            continue
        loaded += 1
    assert loaded


def test_npy_headers_that_exhaust_the_parser(tmp_path: Path) -> None:
    """Python's parser raises MemoryError of deep nesting, where there is memory: FormatError."""
    for text in ("-" * 9000 + "1", "(" * 9000, "(" * 90 + ")" * 90, "not " * 2000 + "1"):
        header = b"\x93NUMPY\2\0" + len(text).to_bytes(4, "little") + text.encode()
        with zipfile.ZipFile(tmp_path / "file", "w") as archive:
            archive.writestr("weight_ih_l0.npy", header)
        with pytest.raises(fastgru.FormatError, match=r"damaged \.npy header"):
            fastgru.load(tmp_path / "file", batch_first=False)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 3 + "{}," * 300_000,
        "[]," * 300_000,
        '{"":0},' * 150_000,
        "1," * 500_000,
        '"\\n",' * 200_000,
    ],
)
def test_json_of_any_file_costs_a_few_times_its_length(text: str) -> None:
    """Also where it is Keras's config: refused before it is parsed."""
    whole = '{"a":[' + text + "0]}"

    def refuse() -> None:
        with pytest.raises(fastgru.FormatError, match="of JSON would take about"):
            parse_object(whole, "config")

    assert peak_of(refuse) < len(whole)
