"""`.pt` files that lie: FormatError or a sound GRU, nothing run, nothing imported, little memory.

Pickles and archives are put together here opcode by opcode, because no library would write them.
"""

from __future__ import annotations

import encodings.cp437  # noqa: F401  (which zipfile imports for other names)
import importlib.util
import io
import os
import pickle
import re
import struct
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import fastgru
from conftest import random_weights
from fastgru.formats import window

I, H = 3, 2  # noqa: E741
DATA = Path(__file__).parent / "data"
FUZZ = Path(__file__).parent / "fuzz"
MAGIC = 0x1950A86A20F9469CFC6C
SYSTEM = {"protocol_version": 1001, "little_endian": True}
MEBIBYTE = 1 << 20

WEIGHTS = random_weights(np.random.default_rng(0), I, H)


# ---- pickles, opcode by opcode ----


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value) if abs(value) < 1 << 31 else long_number(value)


def long_number(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def tuple_of(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def dict_of(values: dict[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(name) + value for name, value in values.items()) + b"u"


def call(name: str, *args: bytes) -> bytes:
    module, _, leaf = name.rpartition(".")
    return f"c{module}\n{leaf}\n".encode() + tuple_of(*args) + b"R"


def storage(key: str, count: int, kind: str = "torch.FloatStorage", *more: bytes) -> bytes:
    module, _, leaf = kind.rpartition(".")
    parts = text("storage"), f"c{module}\n{leaf}\n".encode(), text(key), text("cpu"), number(count)
    return tuple_of(*parts, *more) + b"Q"


def tensor(
    key: str,
    shape: tuple[int, ...],
    *,
    count: int | None = None,
    offset: int = 0,
    stride: tuple[int, ...] | None = None,
) -> bytes:
    size = int(np.prod(shape))
    steps = [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
    return call(
        "torch._utils._rebuild_tensor_v2",
        storage(key, size if count is None else count),
        number(offset),
        tuple_of(*map(number, shape)),
        tuple_of(*map(number, steps if stride is None else stride)),
        b"\x89",
        call("collections.OrderedDict"),
    )


def state(**changed: bytes) -> bytes:
    """A state dict's opcodes; `changed` replaces tensors or adds others."""
    values = {name: tensor(name, array.shape) for name, array in WEIGHTS.items()}
    return dict_of(values | changed)


def pickled(value: bytes) -> bytes:
    return b"\x80\x02" + value + b"."


# ---- files ----


def zip_file(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return file.getvalue()


def members(value: bytes | None = None, **changed: bytes) -> dict[str, bytes]:
    """Of an archive with this pickled value and the data of WEIGHTS."""
    found = {"data.pkl": pickled(state() if value is None else value), "byteorder": b"little"}
    found["version"] = b"3\n"
    found |= {f"data/{name}": array.tobytes() for name, array in WEIGHTS.items()}
    return {f"archive/{name}": data for name, data in (found | changed).items()}


def archive(value: bytes | None = None, **changed: bytes) -> bytes:
    return zip_file(members(value, **changed))


def chain(value: bytes | None = None, keys: Any = None, data: bytes | None = None) -> bytes:
    """A file of torch before 1.6."""
    value = state() if value is None else value
    value = re.sub(rb"(J....)tQ", rb"\1NtQ", value, flags=re.DOTALL)  # the view of a storage
    parts = [pickle.dumps(part, 2) for part in (MAGIC, 1001, SYSTEM)]
    parts += [pickled(value), pickle.dumps(list(WEIGHTS) if keys is None else keys, 2)]
    if data is None:
        data = b"".join(struct.pack("<q", w.size) + w.tobytes() for w in WEIGHTS.values())
    return b"".join([*parts, data])


CONTAINERS: dict[str, Callable[..., bytes]] = {"zip": archive, "chain": chain}
BOTH = pytest.mark.parametrize("container", list(CONTAINERS))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.pt"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where what a pickle ran would leave its sentinel."""
    fastgru.load(DATA / "checkpoint.pt")  # what reading itself imports
    monkeypatch.chdir(tmp_path)
    yield
    assert {entry.name for entry in tmp_path.iterdir()} <= {"model.pt"}


# What Python tells its audit hooks while a file is loaded. A hook cannot be removed again.
WATCHED: list[str] = []
ACTIONS = re.compile(
    r"import|exec|compile|pickle\..*|os\.(system|exec|fork|posix_spawn)|subprocess.*"
)
watching = False


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if watching and ACTIONS.fullmatch(event):
        WATCHED.append(f"{event} {arguments[:1]}")


sys.addaudithook(watch)


def outcome(path: Path, data: bytes) -> str:
    """The error's message, or "" for a GRU, which runs; nothing else may happen."""
    global watching  # noqa: PLW0603
    path.write_bytes(data)
    message = ""
    WATCHED.clear()
    watching = True
    try:
        gru = fastgru.load(path)
        gru(np.zeros((1, 1, gru.input_size), np.float32))
    except fastgru.FormatError as error:
        message = str(error)
    finally:
        watching = False
    assert WATCHED == []
    assert message == "" or message.startswith(f"{path}: ")
    assert len(message) < 10_000
    return message


@pytest.fixture
def spare(monkeypatch: pytest.MonkeyPatch) -> int:
    """A smaller constant in the bound of memory, for smaller bombs."""
    monkeypatch.setattr(window, "SPARE", MEBIBYTE)
    return MEBIBYTE


def message_within(path: Path, data: bytes, spare: int) -> str:
    """The outcome, if loading took no more than twice the file's size, `spare` and buffers."""
    path.write_bytes(data)
    size = len(data)
    del data
    tracemalloc.start()
    try:
        fastgru.load(path)
        message = ""
    except fastgru.FormatError as error:
        message = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak <= 2 * size + spare + MEBIBYTE
    return message


@BOTH
def test_what_is_built_here_is_sound(path: Path, container: str, torch: ModuleType) -> None:
    """Else the tests below would prove nothing."""
    assert outcome(path, CONTAINERS[container]()) == ""
    for name, loaded in torch.load(path, weights_only=False).items():
        assert np.array_equal(loaded.numpy(), WEIGHTS[name])


# ---- pickles that would do something ----

RUN = 'open("sentinel", "w")'
SYSTEM_CALL = call("os.system", text("touch sentinel"))
EXECUTION = {
    "os.system": SYSTEM_CALL,
    "posix.system": call("posix.system", text("touch sentinel")),
    "builtins.exec": call("builtins.exec", text(RUN)),
    "__builtin__.eval": call("__builtin__.eval", text(RUN)),
    "a module's import": b"cthis\ns\n",
    "a dotted name": text("collections") + text("OrderedDict.__class__") + b"\x93",
    "a dotted module": text("torch._utils.os") + text("system") + b"\x93)R",
    "getattr": call("builtins.getattr", b"ccollections\nOrderedDict\n", text("fromkeys")),
    "reduce in a reduce": call("builtins.apply", b"cos\nsystem\n", tuple_of(text("true"))),
    "copyreg": call("copyreg._reconstructor", b"cos\nsystem\n", b"cbuiltins\nobject\n", b"N"),
    "copy_reg": call("copy_reg._reconstructor", b"cos\nsystem\n", b"cbuiltins\nobject\n", b"N"),
    "newobj": b"csubprocess\nPopen\n" + tuple_of(text("touch sentinel")) + b"\x81",
    "newobj with names": b"csubprocess\nPopen\n" + tuple_of(text("true")) + b"}\x92",
    "a class in another": call(
        "torch._tensor._rebuild_from_type_v2", b"cos\nsystem\n", b"ctorch\nTensor\n", b"(tN"
    ),
    "setstate": b"ccollections\nOrderedDict\n)R"
    + dict_of({"__setstate__": b"cos\nsystem\n"})
    + b"b",
    "slots": b"ccollections\nOrderedDict\n)R" + tuple_of(b"N", b"}cos\nsystem\n\x88s") + b"b",
    "numpy's loader": call("numpy.load", text("x"), b"N", b"\x88"),
    "torch.load": call("torch.load", text("x")),
    "torch.hub": call("torch.hub.load", text("x"), text("y")),
    "torch.jit": call("torch.jit.load", text("x")),
    "storage's load": call("torch.storage._load_from_bytes", b"C\x01."),
    "pickle in a pickle": call("_pickle.loads", b"C\x01."),
    "a default factory": b"ccollections\ndefaultdict\ncos\nsystem\n\x85R",
    "a value": b"cposix\nsystem\n",
    "a key": b"}cnt\nsystem\nNs",
    "partial": call("functools.partial", b"cos\npopen\n", text("true")),
    "an attribute of an attribute": call(
        "builtins.getattr", b"cmypackage\nThing\n", text("__globals__")
    ),
    "an attribute of an object": call(
        "builtins.getattr", call("pathlib.PosixPath", text("x")), text("write_text")
    ),
    "a method of a path": text("pathlib") + text("Path.unlink") + b"\x93",
    "getattr of a tensor": call("__builtin__.getattr", tensor("weight_ih_l0", (6, 3)), text("x")),
    "getattr of a module": call(
        "builtins.getattr", text("torch._utils") + text("os") + b"\x93", text("system")
    ),
    "Python 2's": call("commands.getoutput", text("touch sentinel")),
    "an import": call("builtins.__import__", text("os")),
    "another import": call("importlib.import_module", text("os")),
    "an opened file": call("io.open", text("sentinel"), text("w")),
    "a removed folder": call("shutil.rmtree", text(".")),
    "a socket": call("socket.create_connection", text("example.org")),
    "a library": call("ctypes.CDLL", text("x.so")),
    "a run module": call("runpy.run_path", text("x.py")),
    "a browser": call("webbrowser.open", text("x")),
    "an installation": call("pip._internal.main", b"]"),
    "code": call("types.FunctionType", b"N", b"}"),
    "a built extension": call("torch.utils.cpp_extension.load", text("x")),
}


@BOTH
@pytest.mark.parametrize("name", list(EXECUTION))
def test_other_globals_are_refused_by_name(path: Path, container: str, name: str) -> None:
    """Beside sound weights, so that only the refusal stands between them and the call."""
    message = outcome(path, CONTAINERS[container](state(extra=EXECUTION[name])))
    assert "it holds more than tensors, containers and numbers" in message, message
    assert re.search(r"run: \w[\w.]+[,;]", message), message


@BOTH
def test_an_unknown_call_is_a_stand_in(path: Path, container: str) -> None:
    """Nothing says that it is an attack, and nothing is imported to find out."""
    innocent = [
        call("evil.Thing", text("touch sentinel")),
        call("evil.Thing", text("x")) + b")R" + b"}b",
        b"cevil\nThing\n)\x81(NNe",
        b"cevil\nThing\n)\x81(NNu",
        b"cevil\nThing\n)\x81(NN\x90",
        b"cevil\nThing\n)}\x92}N\x86b",
        b"}cevil\nThing\n)Rcevil\nThing\ns",
        call("builtins.getattr", b"cevil\nThing\n", text("Inner")) + b")R",
        call("builtins.getattr", b"cdill\n_dill\n", text("_setattr"), b"cbuiltins\nsetattr\n"),
        b"c__main__\n__dict__\n",  # as dill writes what a function uses
        call("copyreg._reconstructor", b"cevil\nThing\n", b"cbuiltins\nobject\n", b"N"),
        call("torch._tensor._rebuild_from_type_v2", b"cevil\nf\n", b"ctorch\nTensor\n", b")", b"N"),
        call("torch._utils._rebuild_tensor_v2", call("evil.Thing"), b"K\0", b")", b")", b"\x89"),
    ]
    for value in innocent:
        assert outcome(path, CONTAINERS[container](state(extra=value))) == ""
        kept = tensor("bias_hh_l0", WEIGHTS["bias_hh_l0"].shape)  # a chain lists all storages
        message = outcome(path, CONTAINERS[container](state(bias_hh_l0=value, kept=kept)))
        assert "bias_hh_l0: " in message, message


def test_calls_that_python_could_not_make_are_damage(path: Path) -> None:
    """A stand-in takes what an object could take, and nothing else."""
    thing = b"cevil\nThing\n"
    for bad in (
        thing + b"NR",
        thing + b"]\x81",
        b"N)}\x92",
        thing + b"Na",
        thing + b")RN(NNu",
        thing + b")RQ",
    ):
        assert outcome(path, archive(state(extra=bad)))


@pytest.mark.parametrize("name", list(EXECUTION))
def test_python_would_have_run_or_refused_them(name: str) -> None:
    """They are pickles: Python's own unpickler reads their opcodes to the end."""
    import pickletools  # noqa: PLC0415

    assert list(pickletools.genops(pickled(EXECUTION[name])))[-1][0].name == "STOP"


def test_names_in_messages_are_printable_and_short(path: Path) -> None:
    """They come from the file and go to a terminal."""
    names = [text("a\x1b[2J\n") + text("b") + b"\x93", text("c" * 4000) + text("d") + b"\x93"]
    message = outcome(path, archive(tuple_of(*names)))
    assert r"'a\x1b[2J\n.b', ccc" in message
    assert len(message) < 500 + len(str(path))


def test_instead_of_the_magic_number(path: Path) -> None:
    """The first pickle is read like all others."""
    assert "os.system" in outcome(path, pickled(SYSTEM_CALL))


@BOTH
def test_what_a_call_makes_of_nonsense(path: Path, container: str) -> None:
    """Known globals with arguments of every kind and number: nothing but a FormatError."""
    known = "torch._utils._rebuild_tensor torch._utils._rebuild_tensor_v2 torch.Size torch.device"
    known += " torch._utils._rebuild_tensor_v3 torch._utils._rebuild_parameter"
    known += " torch._tensor._rebuild_from_type_v2 collections.OrderedDict collections.deque"
    known += " torch._utils._rebuild_device_tensor_from_cpu_tensor numpy.dtype _codecs.encode"
    known += " torch.FloatStorage torch.float32 torch._utils._rebuild_sparse_tensor builtins.set"
    values = [b"N", b"]", b"}", b")", b"\x88", number(-1), long_number(1 << 90), text("x")]
    values += [tensor("weight_ih_l0", (6, 3)), storage("weight_ih_l0", 18), b"ctorch\nfloat32\n"]
    values += [tuple_of(b"(", b")", b"]")]
    for name in known.split():
        for value in values:
            for count in (0, 1, 2, 3, 4, 6, 7, 8, 9):
                bad = call(name, *[value] * count)
                outcome(path, CONTAINERS[container](state(bias_hh_l0=bad)))
        outcome(
            path,
            CONTAINERS[container](state(bias_hh_l0=f"c{name}\n".replace(".", "\n", 1).encode())),
        )


# ---- damaged pickles ----

DAMAGED = {
    "stack underflow": b"0" * 50,
    "empty stack": b"R",
    "mark underflow": b"t",
    "mark underflow of a dict": b"}u",
    "memo": b"h\x07",
    "memo, far": b"j\xff\xff\xff\xff",
    "tuple of too few": b"\x87",
    "text opcodes": b"I1\n",
    "instance": b"(ios\nsystem\n",
    "object": b"(cos\nsystem\no",
    "extension": b"\x82\x01",
    "buffer": b"\x97",
    "text persistent id": b"P1\n",
    "no opcode": b"\xff",
    "persistent id of nothing": b"NQ",
    "persistent id of a string": text("storage") + b"Q",
    "persistent id, too short": tuple_of(text("storage"), text("0")) + b"Q",
    "append to a number": b"K\x01Na",
    "append to a dict": b"}Na",
    "set in a list": b"]NNs",
    "set in a tuple": b")NNs",
    "a key alone": b"}(Nu",
    "a key alone in DICT": b"(Nd",
    "call of a number": b"K\x01)R",
    "call without a tuple": b"ctorch\nSize\n]R",
    "call of a tensor": tensor("weight_ih_l0", (6, 3)) + b")R",
    "global of numbers": b"K\x01K\x02\x93",
    "global without an end": b"ctorch" + b"x" * 5000,
    "global of bytes": b"c\xff\n\xff\n",
    "negative length": b"T\xff\xff\xff\xff",
    "long negative length": b"\x8b\xff\xff\xff\xff",
    "string beyond": b"X\xff\xff\xff\xff",
    "string far beyond": b"\x8d" + b"\xff" * 8,
    "bytes beyond": b"\x8e" + b"\xff" * 8,
    "bytearray beyond": b"\x96" + b"\xff" * 8,
    "long beyond": b"\x8b\xff\xff\xff\x7f",
    "frame beyond": b"\x95" + b"\xff" * 7,
    "storage of a negative size": storage("x", -1),
    "storage of another kind": storage("x", 1, "torch.float32"),
    "storage that is a module": tuple_of(text("module"), b"N", b"N", b"N") + b"QNR",
    "storage of two sizes": storage("weight_ih_l0", 18) + storage("weight_ih_l0", 17),
    "view beyond": storage("x", 3, "torch.FloatStorage", tuple_of(text("v"), b"K\x01", b"K\x03")),
}


@BOTH
@pytest.mark.parametrize("name", list(DAMAGED))
def test_damaged_pickles(path: Path, container: str, name: str) -> None:
    """Whether the pickle goes on or ends behind the damage."""
    assert outcome(path, CONTAINERS[container](state(extra=DAMAGED[name])))
    assert outcome(path, CONTAINERS[container](DAMAGED[name]))


def test_names_that_stand_for_two_things(path: Path) -> None:
    """Keys that appear twice, and paths that meet."""
    twice = b"}(" + (text("weight_ih_l0") + tensor("weight_ih_l0", (6, 3))) * 2 + b"u"
    assert "weight_ih_l0: stands for two things" in outcome(path, archive(twice))
    inner = dict_of({"a": dict_of({"rnn": state()}), "a.rnn": state()})
    assert "a.rnn.weight_ih_l0: stands for two things" in outcome(path, archive(inner))
    two_dicts = b"}(" + (text("a") + state()) * 2 + b"u"
    assert "a: stands for two things" in outcome(path, archive(two_dicts))


# ---- tensors that lie ----

OTHER = (6, 2)
LIES = {
    "beyond the storage": tensor("weight_hh_l0", OTHER, offset=1),
    "far beyond": tensor("weight_hh_l0", OTHER, offset=1 << 62),
    "steps beyond": tensor("weight_hh_l0", OTHER, stride=(2, 2)),
    "huge steps": tensor("weight_hh_l0", OTHER, stride=(1 << 62, 1 << 62)),
    "negative steps": tensor("weight_hh_l0", OTHER, offset=11, stride=(-2, -1)),
    "a negative offset": tensor("weight_hh_l0", OTHER, offset=-1),
    "steps of 2**64": tensor("weight_hh_l0", OTHER, stride=(1 << 64, 1)),
    "expanded": tensor("weight_hh_l0", OTHER, stride=(0, 0)),
    "overlapping": tensor("weight_hh_l0", OTHER, stride=(1, 1)),
    "a larger storage": tensor("weight_hh_l0", OTHER, count=13),
    "a smaller storage": tensor("weight_hh_l0", OTHER, count=11),
    "a huge storage": tensor("weight_hh_l0", OTHER, count=1 << 60),
    "no storage": tensor("missing", OTHER),
    "a path": tensor("../data.pkl", OTHER),
}


@BOTH
@pytest.mark.parametrize("name", list(LIES))
def test_tensors_that_lie(path: Path, container: str, name: str) -> None:
    """Nothing is read outside of the storage; the tensor is named."""
    message = outcome(path, CONTAINERS[container](state(weight_hh_l0=LIES[name])))
    assert "weight_hh_l0: " in message or "storage" in message, message


@BOTH
def test_lies_of_other_tensors_do_not_matter(path: Path, container: str) -> None:
    """They are not looked into. (In a chain sizes of storages decide where the next one starts.)"""
    lie = tensor("weight_hh_l0", OTHER, offset=99, stride=(1 << 62, 5))
    assert outcome(path, CONTAINERS[container](state(other=lie))) == ""


CHAINS = {
    "no keys": chain(keys=[]),
    "keys missing": chain(keys=list(WEIGHTS)[:3]),
    "keys twice": chain(keys=list(WEIGHTS) * 2),
    "unknown keys": chain(keys=[*WEIGHTS, "x"]),
    "keys of numbers": chain(keys=[0, 1, 2, 3]),
    "keys of lists": chain(keys=[[]]),
    "keys in a dict": chain(keys={"weight_ih_l0": 1}),
    "another count": chain(data=struct.pack("<q", 17) + bytes(17 * 4)),
    "a negative count": chain(data=struct.pack("<q", -1)),
    "a huge count": chain(data=struct.pack("<q", 1 << 60)),
    "no data": chain(data=b""),
    "bytes behind": chain() + b"x",
    "another version": chain().replace(pickle.dumps(1001, 2), pickle.dumps(1002, 2)),
    "another magic": chain().replace(b"\x8a\nl\xfc", b"\x8a\nl\xfd"),
}


@pytest.mark.parametrize("name", list(CHAINS))
def test_damaged_chains(path: Path, name: str) -> None:
    assert outcome(path, CHAINS[name])


# ---- archives that lie ----


def with_field(data: bytes, name: str, offset: int, value: bytes) -> bytes:
    """Changes a member's entry in the directory, `offset` bytes from its start."""
    start = data.rindex(name.encode()) - 46
    assert data[start : start + 4] == b"PK\1\2"
    return data[: start + offset] + value + data[start + offset + len(value) :]


def with_end(data: bytes, offset: int, value: bytes) -> bytes:
    start = data.rindex(b"PK\5\6") + offset
    return data[:start] + value + data[start + len(value) :]


def named_twice() -> bytes:
    data = zip_file(members(None, **{"data/weight_hh_l1": bytes(48)}))
    return data.replace(b"data/weight_hh_l1", b"data/weight_hh_l0")


BIAS = "archive/data/bias_hh_l0"
U32 = struct.Struct("<I").pack
SOUND = archive()
ARCHIVES = {
    "encrypted": (with_field(SOUND, BIAS, 8, b"\1\0"), "encrypted"),
    "encrypted inside": (SOUND.replace(b"PK\3\4\x14\0\0", b"PK\3\4\x14\0\1"), "contradicts"),
    "deflated": (with_field(SOUND, BIAS, 10, b"\x08\0"), "compressed"),
    "compressed lzma": (with_field(SOUND, BIAS, 10, b"\x0e\0"), "compressed"),
    "claims more": (with_field(SOUND, BIAS, 24, U32(0x7FFFFFFF)), "claims to hold"),
    "claims both": (with_field(SOUND, BIAS, 20, U32(1 << 30) * 2), "beyond the members"),
    "zip64 sizes without an extra": (with_field(SOUND, BIAS, 20, b"\xff" * 8), "beyond"),
    "starts beyond": (with_field(SOUND, BIAS, 42, U32(1 << 30)), "beyond the members"),
    "starts elsewhere": (with_field(SOUND, BIAS, 42, U32(1)), "contradicts|overlaps"),
    "on another disk": (with_field(SOUND, BIAS, 34, b"\1\0"), "makes no sense"),
    "a long name": (with_field(SOUND, BIAS, 28, b"\xff\xff"), "makes no sense"),
    "a long extra": (with_field(SOUND, BIAS, 30, b"\xff\xff"), "makes no sense"),
    "another checksum": (with_field(SOUND, BIAS, 16, U32(1)), "expected the CRC 00000001"),
    "overlapping": (
        with_field(SOUND, BIAS, 42, U32(SOUND.index(b"archive/data/bias_ih_l0") - 30)),
        "overlaps another member",
    ),
    "named twice": (named_twice(), "appears twice"),
    "absolute": (zip_file(members() | {"/etc/passwd": b""}), "a path to elsewhere"),
    "upwards": (zip_file(members() | {"archive/../../x": b""}), "a path to elsewhere"),
    "backslash": (zip_file(members() | {"archive\\..\\x": b""}), "a path to elsewhere"),
    "nul": (archive().replace(b"byteorder", b"byteord\0r"), "a path to elsewhere"),
    "other name inside": (archive().replace(BIAS.encode(), b"x" + BIAS[1:].encode(), 1), "name"),
    "two pickles": (zip_file(members() | {"b/data.pkl": b""}), "expected one data.pkl"),
    "no pickle in it": (archive(**{"data.pkl": b""}), "cut off"),
    "too many entries": (with_end(SOUND, 8, b"\xff\xff\xff\xff"), "damaged zip archive"),
    "too few entries": (with_end(SOUND, 8, b"\1\0\1\0"), "damaged zip archive"),
    "entries that differ": (with_end(SOUND, 8, b"\1\0"), "contradicts itself"),
    "directory beyond": (with_end(SOUND, 16, U32(1 << 30)), "damaged zip archive"),
    "directory too long": (with_end(SOUND, 12, U32(1 << 30)), "damaged zip archive"),
    "a comment too long": (with_end(SOUND, 20, b"\1\0"), "contradicts itself"),
    "bytes behind": (SOUND + b"x", "contradicts itself"),
    "bytes in front": (b"PK\3\4" + SOUND, "damaged zip archive"),
    "only a start": (b"PK\3\4" + bytes(99), "no end record"),
    "large byteorder": (archive(byteorder=bytes(MEBIBYTE)), "byte order"),
}


@pytest.mark.parametrize("name", list(ARCHIVES))
def test_archives_that_lie(path: Path, name: str) -> None:
    data, problem = ARCHIVES[name]
    message = outcome(path, data)
    assert re.search(problem, message), message


def with_zip64(data: bytes, **changed: int) -> bytes:
    """As torch and tools for large files end an archive."""
    end = data.rindex(b"PK\5\6")
    _, _, _, _, count, length, start, _ = struct.unpack("<4s4H2LH", data[end:])
    fields = {"count": count, "length": length, "start": start, "at": end, "disks": 1} | changed
    record = struct.pack(
        *("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, fields["count"], fields["count"]),
        *(fields["length"], fields["start"]),
    )
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, fields["at"], fields["disks"])
    old = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return data[:end] + record + locator + old


def test_zip64(path: Path) -> None:
    """Large archives load; records that lie do not."""
    assert outcome(path, with_zip64(SOUND)) == ""
    for lie in ({"count": 1}, {"count": 1 << 40}, {"length": 1 << 60}, {"start": 5}, {"at": 5}):
        assert "damaged zip archive" in outcome(path, with_zip64(SOUND, **lie)), lie
    assert "damaged zip archive" in outcome(path, with_zip64(SOUND, disks=2))
    half = with_end(with_zip64(SOUND), 16, U32(7))
    assert "contradict each other" in outcome(path, half)


def test_sizes_of_64_bits(path: Path) -> None:
    """In the directory they stand in an extra field; these are the true ones."""
    entry = SOUND.rindex(BIAS.encode()) - 46
    size = struct.pack("<2Q", 4 * 3 * H, 4 * 3 * H)
    extra = struct.pack("<2H", 1, 16) + size
    name_end = entry + 46 + len(BIAS)
    large = with_field(with_field(SOUND, BIAS, 20, b"\xff" * 8), BIAS, 30, struct.pack("<H", 20))
    large = large[:name_end] + extra + large[name_end:]
    length = len(SOUND) - 22 - SOUND.index(b"PK\1\2") + len(extra)
    assert outcome(path, with_end(large, 12, U32(length))) == ""


# ---- memory and time ----


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
def test_loading_takes_twice_the_files_size(
    path: Path, torch: ModuleType, dtype: str, new: bool, transposed: bool
) -> None:
    """For 16-bit ones that is the float32 weights alone: data is never held twice."""
    shapes = {"weight_ih_l0": (3 * 512, 1024), "weight_hh_l0": (3 * 512, 512)}
    tensors = {
        name: torch.ones(shape, dtype=getattr(torch, dtype)) for name, shape in shapes.items()
    }
    if transposed:
        tensors = {name: value.T.contiguous().T for name, value in tensors.items()}
    torch.save(tensors | {"unused": torch.ones(1 << 18)}, path, _use_new_zipfile_serialization=new)
    fastgru.load(path)  # imports are not what is measured
    size = path.stat().st_size
    tracemalloc.start()
    gru = fastgru.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert gru.hidden_size == 512
    assert peak <= 2 * size + 2 * MEBIBYTE


MANY = MEBIBYTE
BOMBS = {
    "lists": b"]" * MANY,
    "dicts": b"}" * MANY,
    "marks": b"(" * MANY,
    "numbers": b"K\x01" * (MANY // 2),
    "integers": b"J\0\0\0\x40" * (MANY // 5),
    "floats": b"G@\0\0\0\0\0\0\0" * (MANY // 9),
    "strings": b"U\0" * (MANY // 2),
    "short strings": b"U\x02ab" * (MANY // 4),
    "emoji": (b"U\x04" + "\U0001f600".encode()) * (MANY // 6),
    "nested tuples": b"N" + b"\x85" * MANY,
    "nested lists": b"]" + b"]a" * (MANY // 2),
    "nested lists, deep": b"]" * (MANY // 100) + b"a" * (MANY // 100 - 1),
    "nested dicts, deep": b"}N" * (MANY // 100) + b"}" + b"s" * (MANY // 100),
    "memo": b"N" + b"\x94" * MANY,
    "memo, far": b"N" + b"".join(b"r" + U32(n << 12) for n in range(MANY // 6)),
    "globals": b"ctorch\nSize\n" * (MANY // 12),
    "duplicates": b"N" + b"2" * MANY,
    "tuples": b"ctorch\nSize\nq\0" + b"(" + b"N" * 1000 + b"tq\1" + b"h\0h\1\x85R" * (MANY // 6),
    "copied dicts": b"ccollections\nOrderedDict\nq\0]("
    + b"NN\x86" * 1000
    + b"e\x85q\1"
    + b"h\0h\1R" * (MANY // 5),
    "storages": b"".join(storage(f"{n:07}", 1) for n in range(MANY // 75)),
    "tensors": tensor("x", (1,))[:-1]
    + b"q\1R"
    + b"ctorch._utils\n_rebuild_tensor_v2\nq\2"
    + b"h\2h\1R" * (MANY // 5),
    "unknown globals": b"".join(b"ca\n%06d\n" % n for n in range(MANY // 10)),
    "names": tensor("x", (1,))
    + b"q\1}("
    + b"".join(text(f"weight_ih_{n}") + b"h\1" for n in range(MANY // 22))
    + b"uN",
    "names of numbers": b"}("
    + b"".join(text(f"bias_hh{n}") + b"N" for n in range(MANY // 18))
    + b"uN",
    "objects": b"ca\nb\nq\0" + b"h\0)R" * (MANY // 4),
    "objects by name": b"ca\nb\nq\0" + b"h\0)}\x92" * (MANY // 5),
    "calls of objects": b"ca\nb\n)R" + b")R" * (MANY // 2),
    "attributes": b"cbuiltins\ngetattr\nq\0"
    + text("a")
    + b"q\1cx\ny\nq\2"
    + b"0h\0h\2h\1\x86Rq\2" * (MANY // 12),
    "long attributes": b"cbuiltins\ngetattr\nq\0"
    + text("a" * 4000)
    + b"q\1cx\ny\nq\2"
    + b"0h\0h\2h\1\x86Rq\2" * (MANY // 12),
    "long integers": (b"\x8a\xff" + b"\x7f" * 255) * (MANY // 257),
}


@pytest.mark.parametrize("name", list(BOMBS))
def test_no_pickle_takes_more_than_its_size_allows(path: Path, spare: int, name: str) -> None:
    """A byte of a pickle can ask for a hundred: every opcode is paid for."""
    end = b"." if name.endswith("deep") else b"0."
    message_within(path, zip_file({"a/data.pkl": b"\x80\x02" + BOMBS[name] + end}), spare)


def loop(levels: int, width: int) -> bytes:
    """Dicts in dicts: `width` names at each of `levels` for the same dict below."""
    value = state() + b"q\0"
    for level in range(levels):
        entries = b"".join(text(f"a{n}") + b"h" + bytes([level]) for n in range(width))
        value += b"}(" + entries + b"uq" + bytes([level + 1])
    return value


@pytest.mark.parametrize(
    "value",
    [
        loop(90, 2),
        loop(5, 100),
        loop(200, 1),
        b"}q\0" + text("a") + b"h\0s",
        b"]q\0h\0a",
        b"]q\0h\0ah\0a",
        b"]q\0(h\0tq\1ah\1",
        dict_of({"x" * 4000: b"]q\0" + b"h\0a" * 50}),
    ],
)
def test_values_that_refer_to_each_other_without_end(path: Path, spare: int, value: bytes) -> None:
    """Few bytes, 2**90 names."""
    assert message_within(path, archive(value), spare)


def test_nested_keys_are_not_hashed(path: Path) -> None:
    """Python's hash of a tuple nested a million deep ends the process."""
    key = b")" + b"\x85" * 200_000
    assert outcome(path, archive(state(other=b"}" + key + b"Ns"))) == ""
    same = b"".join(long_number(n * ((1 << 61) - 1)) + b"N" for n in range(1, 100_000))
    assert outcome(path, archive(state(other=b"}(" + same + b"u"))) == ""


def test_many_names_for_one_storage(path: Path, spare: int) -> None:
    """Layers that share a weight of 4 MB, which together would take 400."""
    n = 600
    arrays = {"ih": (3 * n, n), "hh": (3 * n, n)}
    tensors = {
        f"weight_{kind}_l{layer}": tensor(kind, shape)
        for layer in range(100)
        for kind, shape in arrays.items()
    }
    data = {f"data/{kind}": bytes(4 * 3 * n * n) for kind in arrays}
    message = message_within(path, archive(dict_of(tensors), **data), spare)
    assert "takes more memory than" in message


def test_a_directory_of_very_many_entries(path: Path, spare: int) -> None:
    """46 bytes each, for objects of some hundred."""
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", *[0] * 16)
    count = 30_000
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    data = b"PK\3\4" + bytes(26) + entry * count
    large = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 0, 0, 0, 0, count, count, 46 * count, 30)
    large += struct.pack("<4sLQL", b"PK\6\7", 0, len(data), 1)
    message = message_within(path, data + large + end, spare)
    assert "takes more memory than" in message


# ---- any damage ----

SMALL = {
    "zip": archive(),
    "chain": chain(),
    "torch's zip": (DATA / "strided.pt").read_bytes(),
    "torch's chain": (DATA / "strided_before_1.6.pt").read_bytes(),
    "python 2": (DATA / "python2.pt").read_bytes(),
}


@pytest.mark.parametrize("name", list(SMALL))
def test_truncated_files(path: Path, name: str) -> None:
    """Cut anywhere: FormatError."""
    for length in range(len(SMALL[name])):
        assert outcome(path, SMALL[name][:length]), length


@hypothesis.given(
    name=st.sampled_from(list(SMALL)),
    changes=st.lists(
        st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=4
    ),
)
@hypothesis.settings(
    max_examples=500, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_changed_bytes(path: Path, name: str, changes: list[tuple[int, int]]) -> None:
    """In the archive's records, the pickle or the data."""
    data = bytearray(SMALL[name])
    for where, value in changes:
        data[where % len(data)] = value
    outcome(path, bytes(data))


@hypothesis.given(
    changes=st.lists(
        st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=4
    ),
    cut=st.integers(0, 3),
)
@hypothesis.settings(
    max_examples=500, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_changed_pickles(path: Path, changes: list[tuple[int, int]], cut: int) -> None:
    """In an archive whose checksums are right, so that the damage arrives at the opcodes."""
    data = bytearray(state())
    for where, value in changes:
        data[where % len(data)] = value
        del data[where % len(data) : where % len(data) + cut]
    outcome(path, archive(bytes(data)))


@hypothesis.given(
    opcodes=st.lists(
        st.sampled_from(b".()]}NKUXaesuqhjrt0123lbcRQ\x85\x86\x87\x93\x94"), max_size=60
    )
)
@hypothesis.settings(
    max_examples=500, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_random_opcodes(path: Path, opcodes: list[int]) -> None:
    """What no pickler writes."""
    outcome(path, archive(bytes(opcodes)))


def test_the_fuzzers_corpus(path: Path) -> None:
    """What a fuzzer found to run lines that nothing else here does."""
    spec = importlib.util.spec_from_file_location("fuzz", FUZZ / "fuzz_torch_file.py")
    assert spec is not None
    assert spec.loader is not None
    fuzz = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzz)
    inputs = list((FUZZ / "corpus").iterdir())
    assert inputs
    for input_ in inputs:
        outcome(path, fuzz.as_file(input_.read_bytes()))


def test_damaged_data_in_an_archive_is_always_noticed(path: Path) -> None:
    """Members have checksums: no flipped bit of a weight gets through."""
    data = archive()
    start = data.index(WEIGHTS["weight_hh_l0"].tobytes())
    for bit in range(0, 8 * WEIGHTS["weight_hh_l0"].nbytes, 5):
        bad = bytearray(data)
        bad[start + bit // 8] ^= 1 << bit % 8
        assert "expected the CRC" in outcome(path, bytes(bad))


def test_a_file_that_shrinks_meanwhile(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process truncates it between two reads."""
    path.write_bytes(chain())
    real = os.fstat

    def larger(descriptor: int) -> Any:
        found = real(descriptor)
        return os.stat_result([*found[:6], found.st_size + 100, *found[7:10]])

    monkeypatch.setattr(os, "fstat", larger)
    with pytest.raises(fastgru.FormatError):
        fastgru.load(path)
    monkeypatch.undo()
    assert zlib.crc32(path.read_bytes()) == zlib.crc32(chain())
