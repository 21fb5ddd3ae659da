"""Files: what is saved comes back, what is damaged raises one FormatError, nothing is run.

Bad files are built here byte by byte, because no library would write them.
"""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import re
import stat
import struct
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import fastgru
from conftest import Array, Weights, random_input, random_weights, same_bits
from fastgru import _core

I, H = 3, 5  # noqa: E741
DESCRIPTION = {
    "format_version": 1,
    "kind": "gru",
    "input_size": I,
    "hidden_size": H,
    "num_layers": 1,
    "bidirectional": False,
    "bias": True,
    "batch_first": False,
    "reset_after": True,
    "activation": "tanh",
    "recurrent_activation": "sigmoid",
    "precision": "float32",
}


def weights(*args: Any, seed: int = 0, **kwargs: Any) -> Weights:
    return random_weights(np.random.default_rng(seed), I, H, *args, **kwargs)


def safetensors_bytes(
    tensors: Weights, metadata: dict[str, str] | None = None, **changed: Any
) -> bytes:
    """A safetensors file; `changed` replaces what the header says of a tensor."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    data = b""
    for name, tensor in tensors.items():
        offsets = [len(data), len(data) + tensor.nbytes]
        dtype = {"f": "F", "i": "I", "u": "U"}[tensor.dtype.kind] + str(8 * tensor.itemsize)
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": offsets}
        header[name] |= changed.get(name, {})
        data += tensor.tobytes()
    return with_header(json.dumps(header).encode(), data)


def with_header(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def native_bytes(tensors: Weights | None = None, **changed: Any) -> bytes:
    """A native file; `changed` replaces fields of its description, None removes them."""
    description = {k: v for k, v in (DESCRIPTION | changed).items() if v is not None}
    metadata = {"fastgru": json.dumps(description)}
    return safetensors_bytes(weights() if tensors is None else tensors, metadata)


def npy_bytes(array: Array) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array)
    return file.getvalue()


def npy_with_header(header: str, data: bytes = b"", version: int = 1) -> bytes:
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header.encode("latin-1") + data


def zip_bytes(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def npz_bytes(
    tensors: Weights, compression: int = zipfile.ZIP_STORED, **changed: bytes | None
) -> bytes:
    """A .npz; `changed` replaces members."""
    members: dict[str, bytes | None] = {n: npy_bytes(t) for n, t in tensors.items()}
    members |= changed
    return zip_bytes({f"{n}.npy": m for n, m in members.items() if m is not None}, compression)


def doubled(members: list[str]) -> bytes:
    """A zip archive in which names stand twice."""
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore")
        for name in members:
            archive.writestr(name, npy_bytes(weights()["bias_ih_l0"]))
    return file.getvalue()


def patched(data: bytes, *changes: tuple[bytes, bytes]) -> bytes:
    for old, new in changes:
        assert old in data
        data = data.replace(old, new)
    return data


class Executed(Exception):
    """Raised by what must never run."""


class Bomb:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("from test_files import Executed; raise Executed",)


def object_npy() -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.array([Bomb()] * 15, dtype=object), allow_pickle=True)
    return file.getvalue()


def saved(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "file"
    path.write_bytes(data)
    return path


# ---- what is saved comes back ----


@pytest.mark.parametrize(("layers", "bidirectional", "bias"), [(1, False, True), (3, True, False)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_first": True, "reset_after": False, "activation": "relu"},
        {"recurrent_activation": "hard_sigmoid_02", "activation": "identity"},
    ],
)
def test_a_native_file_brings_back_the_same_bits(
    tmp_path: Path, layers: int, bidirectional: bool, bias: bool, options: dict[str, Any]
) -> None:
    """Tensors, outputs and everything that tensors do not say."""
    gru = fastgru.GRU.from_state_dict(weights(layers, bidirectional, bias), **options)
    path = tmp_path / "model.safetensors"
    gru.save(path)
    again = fastgru.load(path)
    assert repr(again) == repr(gru)
    for name in DESCRIPTION.keys() - {"format_version", "kind"}:
        assert getattr(again, name) == getattr(gru, name)
    tensors = gru.tensors()
    assert all(same_bits(tensor, tensors[name]) for name, tensor in again.tensors().items())
    x = random_input(np.random.default_rng(1), 4, 2, I)
    assert same_bits(again(x)[0], gru(x)[0])


def test_saving_twice_gives_the_same_file(tmp_path: Path) -> None:
    """Also after a round trip: files can be compared."""
    gru = fastgru.GRU.from_state_dict(weights(2, True))
    gru.save(tmp_path / "a")
    fastgru.load(tmp_path / "a").save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_every_float_survives(tmp_path: Path) -> None:
    """NaN weights are accepted; infinities, denormals and -0 keep their bits."""
    state = weights()
    special = [np.nan, np.inf, -np.inf, -0.0, 1e-45, np.float32(1.1754942e-38), 3.4e38]
    state["bias_hh_l0"][: len(special)] = special
    fastgru.GRU.from_state_dict(state).save(tmp_path / "model")
    for data in (None, safetensors_bytes(state), npz_bytes(state)):
        path = tmp_path / "model" if data is None else saved(tmp_path, data)
        loaded = fastgru.load(path).tensors()["bias_hh_l0"]
        assert loaded.tobytes() == state["bias_hh_l0"].tobytes()


def test_other_programs_can_read_a_native_file(tmp_path: Path, torch: ModuleType) -> None:
    """It is a state dict of torch.nn.GRU."""
    state = weights(2, True)
    fastgru.GRU.from_state_dict(state).save(tmp_path / "model")
    loaded = safetensors.numpy.load_file(tmp_path / "model")
    module = torch.nn.GRU(I, H, 2, bidirectional=True)
    module.load_state_dict({name: torch.from_numpy(t) for name, t in loaded.items()}, strict=True)
    assert all(same_bits(tensor, state[name]) for name, tensor in loaded.items())


def test_format_version_1_stays_readable(tmp_path: Path) -> None:
    """Written here, not by `save`: what was once released must load for ever."""
    data = native_bytes(batch_first=True, reset_after=False, activation="relu")
    gru = fastgru.load(saved(tmp_path, data))
    assert (gru.batch_first, gru.reset_after, gru.activation) == (True, False, "relu")
    assert all(same_bits(tensor, weights()[name]) for name, tensor in gru.tensors().items())


def test_save_writes_format_version_1(tmp_path: Path) -> None:
    """Exactly the fields that are documented: a change needs a new version."""
    fastgru.GRU.from_state_dict(weights()).save(tmp_path / "model")
    data = (tmp_path / "model").read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    assert json.loads(header["__metadata__"]["fastgru"]) == DESCRIPTION


@pytest.mark.parametrize("dtype", ["float64", "float16", "float32", "bfloat16"])
def test_safetensors_of_a_state_dict(tmp_path: Path, dtype: str) -> None:
    """Every real floating dtype, found by names under a prefix, among other tensors."""
    state = {f"rnn.{name}": t.astype(np.dtype(dtype)) for name, t in weights(2).items()}
    others: Weights = {"head.weight": np.zeros((2, H)), "steps": np.zeros(3, np.int64)}
    safetensors.numpy.save_file(state | others, tmp_path / "model", {"format": "pt"})
    gru = fastgru.load(tmp_path / "model", reset_after=False, activation="relu", num_threads=1)
    assert (gru.reset_after, gru.activation, gru.num_threads) == (False, "relu", 1)
    for name, tensor in gru.tensors().items():
        assert same_bits(tensor, state[f"rnn.{name}"].astype(np.float32))


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f2"])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz(tmp_path: Path, dtype: str, compression: int, order: Any) -> None:
    """Byte orders, compression, Fortran order; other arrays beside."""
    state = {f"rnn.{n}": np.array(t, dtype, order=order) for n, t in weights(2, True).items()}
    data = npz_bytes(state | {"x": np.zeros((2, 3)), "names": np.array(["a"])}, compression)
    gru = fastgru.load(saved(tmp_path, data), batch_first=True)
    assert gru.batch_first
    for name, tensor in gru.tensors().items():
        assert same_bits(tensor, state[f"rnn.{name}"].astype(np.float32))


def test_npz_from_numpy(tmp_path: Path) -> None:
    """What np.savez and np.savez_compressed write."""
    state: dict[str, Any] = weights()
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "model.npz", **state)
        gru = fastgru.load(tmp_path / "model.npz")
        assert all(same_bits(tensor, state[name]) for name, tensor in gru.tensors().items())


def test_only_the_tensors_needed_are_read(tmp_path: Path) -> None:
    """Objects, damage and strange dtypes in other members are nobody's business."""
    data = npz_bytes(weights(), config=object_npy(), notes=b"no array", x=npy_bytes(np.zeros(3)))
    assert fastgru.load(saved(tmp_path, data)).hidden_size == H
    other: dict[str, Any] = {"b.weight_ih_l0": object_npy()}
    several = npz_bytes({f"a.{n}": t for n, t in weights().items()}, **other)
    assert fastgru.load(saved(tmp_path, several), prefix="a.").hidden_size == H


def test_detection_is_by_content(tmp_path: Path) -> None:
    """A name is no promise."""
    (tmp_path / "model.npz").write_bytes(native_bytes())
    (tmp_path / "model.safetensors").write_bytes(npz_bytes(weights()))
    assert fastgru.load(tmp_path / "model.npz").hidden_size == H
    assert fastgru.load(tmp_path / "model.safetensors").hidden_size == H


def test_prefix_works_in_files(tmp_path: Path) -> None:
    state = {f"a.{n}": t for n, t in weights().items()}
    state |= {f"b.{n}": t for n, t in weights(seed=1).items()}
    for data in (safetensors_bytes(state), npz_bytes(state)):
        path = saved(tmp_path, data)
        with pytest.raises(fastgru.FormatError, match=r"'a\.'.*'b\.'"):
            fastgru.load(path)
        tensors = fastgru.load(path, prefix="b").tensors()
        assert same_bits(tensors["weight_ih_l0"], state["b.weight_ih_l0"])


@pytest.mark.parametrize("kind", [str, Path, os.fsencode])
def test_paths(tmp_path: Path, kind: Callable[[Any], Any]) -> None:
    """str, PathLike and bytes."""
    path = kind(str(tmp_path / "model \u00e9.safetensors"))
    fastgru.GRU.from_state_dict(weights()).save(path)
    assert fastgru.load(path).hidden_size == H


# ---- contradictions ----


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("batch_first", True),
        ("reset_after", False),
        ("activation", "relu"),
        ("recurrent_activation", "hard_sigmoid"),
        ("prefix", "rnn."),
    ],
)
def test_contradicting_a_native_file(tmp_path: Path, option: str, value: Any) -> None:
    """The file knows how it was trained; saying the same is no contradiction."""
    path = saved(tmp_path, native_bytes())
    with pytest.raises(fastgru.FormatError, match=f"{option}: .*{value!r}"):
        fastgru.load(path, **{option: value})
    same: Any = "" if option == "prefix" else DESCRIPTION[option]
    assert fastgru.load(path, **{option: same}).hidden_size == H


def test_contradictions_are_reported_at_once(tmp_path: Path) -> None:
    path = saved(tmp_path, native_bytes())
    with pytest.raises(fastgru.FormatError, match=r"(?s)2 problems.*batch_first.*activation"):
        fastgru.load(path, batch_first=True, activation="relu")


@pytest.mark.parametrize("option", ["batch_first", "activation", "precision"])
def test_unknown_options_are_value_errors(tmp_path: Path, option: str) -> None:
    """A wrong argument is not the file's fault."""
    with pytest.raises(ValueError, match=f"{option}: expected") as caught:
        fastgru.load(tmp_path / "missing", **{option: "int3"})  # type: ignore[arg-type]
    assert not isinstance(caught.value, fastgru.FormatError)


# ---- bad files ----

RNN = {n: np.zeros((H, *t.shape[1:]), np.float32) for n, t in weights().items()}
LSTM = {n: np.zeros((4 * H, *t.shape[1:]), np.float32) for n, t in weights().items()}
WRONG_SHAPE = weights() | {"weight_hh_l0": np.zeros((15, 4), np.float32)}
WRONG_DTYPE = weights() | {"weight_hh_l0": np.zeros((15, 5), np.int32)}
MISSING = {n: t for n, t in weights(2).items() if n != "bias_ih_l1"}
MISFIT = weights() | {"weight_hh_l0_v": np.zeros(3, np.float32)}
BIAS = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
HUGE = 1 << 60
NPY = "{'descr': '<f4', 'fortran_order': False, 'shape': (15,)}"

BAD: dict[str, tuple[bytes, str]] = {
    # any file
    "empty": (b"", "empty"),
    "one byte": (b"\0", "expected a safetensors, .npz, .pt, ONNX"),
    "text": (b"weights, trust me" * 100, "expected a safetensors, .npz, .pt, ONNX"),
    "random": (np.random.default_rng(0).bytes(5000), "expected a safetensors, .npz, .pt, ONNX"),
    "zeros": (bytes(5000), "expected a safetensors, .npz, .pt, ONNX"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5"),
    "npy": (npy_bytes(weights()["bias_ih_l0"]), "single .npy"),
    "pickle": (pickle.dumps(Bomb()), "pickle"),
    "old torch.save": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "torch.save file: cut off"),
    # the GRU inside
    "no tensors": (safetensors_bytes({}), "no GRU found"),
    "no gru": (safetensors_bytes({"w": np.zeros(3, np.float32)}), "no GRU found.*w"),
    "rnn": (safetensors_bytes(RNN), "looks like an RNN"),
    "lstm": (safetensors_bytes(LSTM), "looks like an LSTM"),
    "shape": (safetensors_bytes(WRONG_SHAPE), r"weight_hh_l0: expected \(15, 5\), got \(15, 4\)"),
    "dtype": (safetensors_bytes(WRONG_DTYPE), "weight_hh_l0: expected a real float.*I32"),
    "missing": (safetensors_bytes(MISSING), r"bias_ih_l1: missing, expected \(15,\)"),
    "misfit": (safetensors_bytes(MISFIT), "weight_hh_l0_v: no tensor of a GRU"),
    "npz rnn": (npz_bytes(RNN), "looks like an RNN"),
    "npz shape": (npz_bytes(WRONG_SHAPE), r"weight_hh_l0: expected \(15, 5\), got \(15, 4\)"),
    "npz dtype": (npz_bytes(WRONG_DTYPE), "weight_hh_l0: expected a real float.*<i4"),
    "npz missing": (npz_bytes(MISSING), r"bias_ih_l1: missing, expected \(15,\)"),
    "npz misfit": (npz_bytes(MISFIT), "weight_hh_l0_v: no tensor of a GRU"),
    # safetensors
    "header only begun": (with_header(b'{"weight_ih_l0"'), "header is not valid JSON"),
    "header size": (struct.pack("<Q", 1 << 63) + b"{}", "header claims 9223372036854775808 bytes"),
    "header beyond": (struct.pack("<Q", 99) + b"{}" + bytes(50), "header claims 99 bytes"),
    "header utf-8": (with_header(b'{"\xff": 1}'), "header is not valid JSON"),
    "header nested": (with_header(b'{"a":' * 10**5 + b"}" * 10**5), "header is not valid JSON"),
    "header number": (with_header(b'{"a":' + b"9" * 10**4 + b"}"), "header is not valid JSON"),
    "header list in entry": (with_header(b'{"a": []}'), "damaged safetensors"),
    "duplicate": (
        with_header(b'{"bias_ih_l0":%b,"bias_ih_l0":%b}' % ((BIAS.encode(),) * 2), bytes(4)),
        "bias_ih_l0: appears 2 times",
    ),
    "duplicate, escaped": (
        with_header(b'{"a":%b,"\\u0061":%b}' % ((BIAS.encode(),) * 2), bytes(4)),
        "a: appears 2 times",
    ),
    "overlap": (
        safetensors_bytes(weights(), bias_hh_l0={"data_offsets": [0, 60]}),
        "damaged safetensors",
    ),
    "too large": (
        safetensors_bytes(weights(), bias_hh_l0={"shape": [HUGE]}),
        "damaged safetensors",
    ),
    "product overflows": (
        safetensors_bytes(weights(), bias_hh_l0={"shape": [HUGE, HUGE, 0]}),
        "damaged safetensors",
    ),
    "negative": (
        safetensors_bytes(weights(), bias_hh_l0={"shape": [-15]}),
        "damaged safetensors",
    ),
    "offset": (
        safetensors_bytes(weights(), bias_hh_l0={"data_offsets": [HUGE, HUGE + 60]}),
        "damaged safetensors",
    ),
    "unknown dtype": (safetensors_bytes(weights(), bias_hh_l0={"dtype": "F33"}), "damaged"),
    "bool": (
        safetensors_bytes(
            weights() | {"bias_hh_l0": np.zeros(15, np.uint8)}, bias_hh_l0={"dtype": "BOOL"}
        ),
        "bias_hh_l0: expected a real floating dtype, got BOOL",
    ),
    "metadata": (with_header(b'{"__metadata__": {"fastgru": 1}}'), "damaged"),
    "trailing bytes": (safetensors_bytes(weights()) + b"x", "damaged"),
    # the description
    "newer version": (native_bytes(format_version=5), "knows 1, 2, 3, 4, the file has 5.*upgrade"),
    "version 0": (native_bytes(format_version=0), "knows 1, 2, 3, 4, the file has 0"),
    "version true": (native_bytes(format_version=True), "knows 1, 2, 3, 4, the file has True"),
    "version 1.0": (native_bytes(format_version=1.0), "knows 1, 2, 3, 4, the file has 1.0"),
    "no version": (native_bytes(format_version=None), "knows 1, 2, 3, 4, the file has None"),
    "newer, other fields": (
        native_bytes(format_version=9, kind=None, x=1),
        "knows 1, 2, 3, 4, the file has 9",
    ),
    "kind": (native_bytes(kind="lstm"), "kind: expected 'gru', got 'lstm'"),
    "unknown field": (native_bytes(colour="red"), "colour: unknown field"),
    "missing field": (native_bytes(reset_after=None), "reset_after: missing"),
    "precision": (native_bytes(precision="int8"), "precision: expected 'float32', got 'int8'"),
    "activation": (native_bytes(activation="gelu"), "activation: expected .* got 'gelu'"),
    "flag": (native_bytes(batch_first="no"), "batch_first: expected true or false, got 'no'"),
    "size of zero": (native_bytes(hidden_size=0), "hidden_size: expected an integer of at least 1"),
    "size true": (native_bytes(num_layers=True), "num_layers: expected an integer"),
    "size huge": (
        native_bytes(hidden_size=1 << 80),
        f"hidden_size: the description says {1 << 80}, the tensors 5",
    ),
    "other layers": (
        native_bytes(num_layers=2),
        "num_layers: the description says 2, the tensors 1",
    ),
    "other bias": (native_bytes(bias=False), "bias: the description says False, the tensors True"),
    "many problems": (
        native_bytes(kind="x", input_size=-1, bias=None),
        "(?s)3 problems.*bias: missing.*kind: .*input_size: ",
    ),
    "not json": (safetensors_bytes(weights(), {"fastgru": "{"}), "description is not valid JSON"),
    "no object": (safetensors_bytes(weights(), {"fastgru": "[1]"}), "expected a JSON object"),
    "twice": (
        safetensors_bytes(weights(), {"fastgru": '{"format_version":1,"format_version":1}'}),
        "format_version: appears 2 times",
    ),
    "native tensors": (native_bytes(WRONG_SHAPE), r"expected \(15, 5\), got \(15, 4\)"),
    "native prefix": (native_bytes({f"rnn.{n}": t for n, t in weights().items()}), "no GRU under"),
    # zip and npy
    "empty zip": (zip_bytes({}), "no GRU found"),
    "zip of text": (zip_bytes({"a.txt": b"hello"}), "no GRU found"),
    "torch.save": (
        zip_bytes({"archive/data.pkl": pickle.dumps(Bomb())}),
        r"builtins.exec; .*model.state_dict\(\)",
    ),
    "keras": (zip_bytes({"config.json": b"{}", "model.weights.h5": b""}), "metadata.json is miss"),
    "npz duplicate": (doubled(["bias_ih_l0.npy"] * 2), "bias_ih_l0: appears 2 times"),
    "npz object": (npz_bytes(weights(), bias_hh_l0=object_npy()), "bias_hh_l0: .*got [|]O"),
    "npz no array": (npz_bytes(weights(), bias_hh_l0=b"x" * 99), "bias_hh_l0: not a .npy"),
    "npz empty member": (npz_bytes(weights(), bias_hh_l0=b""), "bias_hh_l0: not a .npy"),
    "npy version": (npz_bytes(weights(), bias_hh_l0=npy_with_header(NPY, version=4)), "not a .npy"),
    "npy header length": (
        npz_bytes(weights(), bias_hh_l0=b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(99)),
        "bias_hh_l0: a .npy header of 4294967295 bytes",
    ),
    "npy too little": (
        npz_bytes(weights(), bias_hh_l0=npy_with_header(NPY, bytes(59))),
        r"bias_hh_l0: expected \d+ bytes for \(15,\) of float32, got \d+",
    ),
    "npy too much": (
        npz_bytes(weights(), bias_hh_l0=npy_with_header(NPY, bytes(61))),
        r"bias_hh_l0: expected \d+ bytes",
    ),
    "npy huge": (
        npz_bytes(weights(), bias_hh_l0=npy_with_header(NPY.replace("15", str(HUGE)), bytes(60))),
        rf"bias_hh_l0: expected \d+ bytes for \({HUGE},\)",
    ),
    **{
        f"npy header {header}": (
            npz_bytes(weights(), bias_hh_l0=npy_with_header(header, bytes(60))),
            "bias_hh_l0: ",
        )
        for header in (
            "",
            "{",
            "[1]",
            "{1: 2}",
            NPY.replace("15", "-15"),
            NPY.replace("(15,)", "15"),
            NPY.replace("15", "15.0"),
            NPY.replace("15", "True"),
            NPY.replace("False", "0"),
            NPY.replace("}", ", 'more': 1}"),
            NPY.replace("<f4", "<f3"),
            NPY.replace("<f4", "\\d"),
            NPY.replace("'<f4'", "[('a', '<f4')]"),
            "(" * 5000,
            "{'descr': __import__('os').abort(), 'fortran_order': False, 'shape': ()}",
        )
    },
    "npz crc": (
        patched(npz_bytes(weights()), (weights()["bias_hh_l0"].tobytes(), bytes(60))),
        "bias_hh_l0: damaged",
    ),
    "npz encrypted": (
        patched(
            npz_bytes(weights()),
            (b"PK\x03\x04\x14\0\0\0", b"PK\x03\x04\x14\0\1\0"),
            (b"PK\x01\x02\x14\x03\x14\0\0\0", b"PK\x01\x02\x14\x03\x14\0\1\0"),
        ),
        "bias_hh_l0: encrypted",
    ),
    "npz method": (npz_bytes(weights(), zipfile.ZIP_LZMA), "compression method 14"),
    "npz not deflated": (
        patched(
            npz_bytes(weights(), zipfile.ZIP_DEFLATED),
            (zlib.compress(npy_bytes(weights()["bias_hh_l0"]), wbits=-15)[:20], b"\xff" * 20),
        ),
        "bias_hh_l0: damaged",
    ),
    "npz many problems": (
        npz_bytes(weights(), bias_hh_l0=b"x", bias_ih_l0=npy_with_header("{")),
        "(?s)2 problems.*bias_ih_l0.*bias_hh_l0|(?s:2 problems.*bias_hh_l0.*bias_ih_l0)",
    ),
    "zip cut": (npz_bytes(weights())[:-30], "damaged zip"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """One FormatError that says what is wrong and in which file; no model was begun."""
    data, problem = BAD[name]
    path = saved(tmp_path, data)
    monkeypatch.setattr(_core, "GRU", lambda *args, **kwargs: pytest.fail("a model was built"))
    with pytest.raises(fastgru.FormatError) as caught:
        fastgru.load(path)
    assert re.search(problem, str(caught.value)), str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    "name", ["too large", "header size", "npy huge", "npy header length", "size huge"]
)
def test_absurd_sizes_allocate_nothing(tmp_path: Path, name: str) -> None:
    """Memory stays in proportion to the file, whatever it claims."""
    path = saved(tmp_path, BAD[name][0])
    with pytest.raises(fastgru.FormatError):
        fastgru.load(path)  # imports are not what is measured
    tracemalloc.start()
    try:
        with pytest.raises(fastgru.FormatError):
            fastgru.load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200_000 + 20 * len(BAD[name][0])


def test_a_member_that_claims_more_than_deflate_can_hold(tmp_path: Path) -> None:
    """The archive's own sizes are checked before a byte is inflated."""
    shape = (15, 1 << 40)
    header = npy_with_header(NPY.replace("(15,)", str(shape)))
    data = npz_bytes(weights(), zipfile.ZIP_DEFLATED, weight_ih_l0=header)
    size = struct.pack("<L", len(header))
    where = data.index(b"weight_ih_l0.npy", data.index(b"PK\x01\x02")) - 46 + 24
    assert data[where : where + 4] == size
    data = data[:where] + struct.pack("<L", 0xFFFFFFF0) + data[where + 4 :]
    with pytest.raises(
        fastgru.FormatError, match="weight_ih_l0: 4294967280 bytes cannot come from"
    ):
        fastgru.load(saved(tmp_path, data))


FUZZED = {
    "native": native_bytes(),
    "stored": npz_bytes(weights()),
    "deflated": npz_bytes(weights(), zipfile.ZIP_DEFLATED),
}


def load_or_format_error(path: Path, data: bytes) -> bool:
    """Whether `data` loads; anything but a model or a FormatError fails the test."""
    path.write_bytes(data)
    try:
        gru = fastgru.load(path)
    except fastgru.FormatError:
        return False
    gru(np.zeros((1, 1, gru.input_size), np.float32))
    return True


@pytest.mark.parametrize("kind", list(FUZZED))
def test_truncated_files(tmp_path: Path, kind: str) -> None:
    """Cut anywhere: FormatError."""
    data = FUZZED[kind]
    for length in range(len(data)):
        assert not load_or_format_error(tmp_path / "file", data[:length]), length


@pytest.mark.parametrize("kind", list(FUZZED))
def test_corrupted_files(tmp_path: Path, kind: str) -> None:
    """Any bit flipped, any bytes overwritten, cut out or doubled: a model or FormatError."""
    data, rng = FUZZED[kind], np.random.default_rng(0)
    loaded = 0
    for _ in range(1500):
        bad = bytearray(data)
        where, length = int(rng.integers(len(data))), int(rng.integers(1, 9))
        match rng.integers(5):
            case 0:
                bad[where] ^= 1 << rng.integers(8)
            case 1:
                bad[where : where + length] = rng.bytes(length)
            case 2:
                del bad[where : where + length]
            case 3:
                bad[where:where] = bad[where : where + length]
            case 4:
                bad[where : where + length] = rng.choice([b"\0", b"\xff"]) * length
        loaded += load_or_format_error(tmp_path / "file", bytes(bad))
    assert loaded < 1500  # damage is noticed, where the format can


def test_damaged_data_in_a_zip_is_always_noticed(tmp_path: Path) -> None:
    """Members have checksums: no flipped bit of a weight gets through."""
    data = FUZZED["stored"]
    start = data.index(weights()["weight_hh_l0"].tobytes())
    for bit in range(0, 8 * 300, 7):
        bad = bytearray(data)
        bad[start + bit // 8] ^= 1 << bit % 8
        assert not load_or_format_error(tmp_path / "file", bytes(bad))


# ---- the file system ----


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        fastgru.load(tmp_path / "nothing")


def test_a_directory_is_a_directory(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        fastgru.load(tmp_path)
    with pytest.raises(IsADirectoryError):
        fastgru.GRU.from_state_dict(weights()).save(tmp_path)


def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(fastgru.FormatError, match="not a regular file"):
        fastgru.load(tmp_path / "pipe")


@pytest.mark.parametrize("path", [0, None, 1.5, [b"x"]])
def test_a_path_is_a_path(path: Any) -> None:
    """In particular 0 is not standard input."""
    with pytest.raises(TypeError):
        fastgru.load(path)
    with pytest.raises(TypeError):
        fastgru.GRU.from_state_dict(weights()).save(path)


def failing(name: str) -> Callable[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, f"no space left, says {name}")

    return fail


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("existing", [True, False])
def test_a_save_that_fails_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, existing: bool
) -> None:
    """The old file whole, or no file; nothing temporary beside it."""
    path = tmp_path / "model"
    if existing:
        path.write_bytes(native_bytes())
    monkeypatch.setattr(os, call, failing(call))
    with pytest.raises(OSError, match=f"says {call}"):
        fastgru.GRU.from_state_dict(weights(seed=1)).save(path)
    monkeypatch.undo()
    assert [entry.name for entry in tmp_path.iterdir()] == (["model"] if existing else [])
    if existing:
        assert path.read_bytes() == native_bytes()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_is_an_os_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that stops half way, from the kernel this time."""
    plain_open = open
    monkeypatch.setattr("builtins.open", lambda name, mode="r": plain_open("/dev/full", "wb"))
    with pytest.raises(OSError, match="No space left"):
        fastgru.GRU.from_state_dict(weights()).save(tmp_path / "model")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_readers_see_the_old_file_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the rename the old one, complete: the new one is written and synced beside it."""
    path = tmp_path / "model"
    old = fastgru.GRU.from_state_dict(weights(seed=1))
    old.save(path)
    before, steps = path.read_bytes(), list[str]()
    plain = {"fsync": os.fsync, "replace": os.replace}

    def watched(name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if "replace" not in steps:
                assert path.read_bytes() == before
            steps.append(name)
            return plain[name](*args)  # type: ignore[operator]

        return call

    for name in plain:
        monkeypatch.setattr(os, name, watched(name))
    fastgru.GRU.from_state_dict(weights(seed=2)).save(path)
    assert steps[:2] == ["fsync", "replace"]
    assert same_bits(fastgru.load(path).tensors()["weight_ih_l0"], weights(seed=2)["weight_ih_l0"])


@pytest.fixture
def umask() -> Iterator[int]:
    """A umask that is not the usual one, for the time of a test."""
    mask = 0o027
    before = os.umask(mask)
    yield mask
    os.umask(before)


def test_permissions_are_those_of_a_new_file(tmp_path: Path, umask: int) -> None:
    """Not those of a temporary file, which only its owner may read."""
    fastgru.GRU.from_state_dict(weights()).save(tmp_path / "model")
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o666 & ~umask


def test_a_symbolic_link_stays(tmp_path: Path) -> None:
    """Its target is replaced."""
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "model", tmp_path / "link"
    link.symlink_to(target)
    fastgru.GRU.from_state_dict(weights()).save(link)
    assert link.is_symlink()
    assert fastgru.load(target).hidden_size == H


def test_relative_paths_and_long_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The temporary file needs a shorter name than the longest that is allowed."""
    monkeypatch.chdir(tmp_path)
    name = "m" * 255
    fastgru.GRU.from_state_dict(weights()).save(name)
    assert fastgru.load(name).hidden_size == H


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """The error names the path that the user gave, not a temporary one."""
    path = tmp_path / "nowhere" / "model"
    with pytest.raises(FileNotFoundError) as caught:
        fastgru.GRU.from_state_dict(weights()).save(path)
    assert caught.value.filename == str(path)


def test_bfloat16_in_npz_is_named(tmp_path: Path) -> None:
    """NumPy's format has no bfloat16 and writes raw bytes: an error, never wrong numbers."""
    state: dict[str, Any] = {n: t.astype(ml_dtypes.bfloat16) for n, t in weights().items()}
    np.savez(tmp_path / "model.npz", **state)
    with pytest.raises(fastgru.FormatError, match=r"weight_hh_l0: expected a real float.*V2"):
        fastgru.load(tmp_path / "model.npz")


def test_saving_keeps_the_permissions_of_a_file(tmp_path: Path) -> None:
    """Private weights stay private."""
    path = tmp_path / "model"
    path.write_bytes(b"")
    path.chmod(0o600)
    fastgru.GRU.from_state_dict(weights()).save(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_saving_replaces_only_regular_files(tmp_path: Path) -> None:
    """A pipe, a link loop or a folder's name is refused and stays."""
    gru = fastgru.GRU.from_state_dict(weights())
    pipe, loop = tmp_path / "pipe", tmp_path / "loop"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    for path in (pipe, loop, f"{tmp_path}/folder/", ""):
        with pytest.raises(OSError, match=r"regular|directory|symbolic|No such"):
            gru.save(path)
    assert pipe.is_fifo()
    assert loop.is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["loop", "pipe"]
