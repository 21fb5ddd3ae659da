"""Files whose names are hostile: escape sequences, line ends, marks that turn a line, very long.

PLACES has a function for each place of each format where a file has a name of its own: it gives the
bytes of a file with the name there, most of them sound but for that. Formats that are JSON inside
have every key and every value as a place.
"""

from __future__ import annotations

import copy
import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np

import fastgru
from conftest import random_weights

I, H = 3, 4  # noqa: E741
DATA = Path(__file__).parent / "data"
WEIGHTS = random_weights(np.random.default_rng(0), I, H)
FORGED = ("INFO", "all is well")  # no line may start with these

_FRAGMENTS = [
    *(
        "\x1b]0;title\x07",
        "\x1b[31mred",
        "\x9b2J",
        "\x00",
        "\x7f",
        "\x08",
        "\t",
        "\r",
        "\n",
        "\r\n",
    ),
    *(
        "\r\nINFO all is well",
        "\n  all is well",
        "\n\n    INFO",
        "\x85INFO",
        "\u2028INFO",
        "\x0bINFO",
    ),
    *("\u202e", "\u2066", "\u200b", "\ufeff", "\ud800", "\udcff", "\U000e0001", "\xa0"),
    *("'", '"', "\\", "{0}", "%s", "a.b", "/", "..", "[red]", "weight_ih_l0", "é", "名前", "x"),
]
hostile_names = st.builds(
    lambda parts, times: "".join(parts) * times,
    st.lists(st.sampled_from(_FRAGMENTS), min_size=1, max_size=4),
    st.sampled_from([1, 1, 1, 500]),
)

Place = Callable[[str], bytes]


# ---- JSON: each key and each value ----


def ways_into(value: Any, steps: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of all values in it, its own first."""
    yield steps
    inside: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, (dict, list)):
        inside = value.items() if isinstance(value, dict) else enumerate(value)
    for step, inner in inside:
        yield from ways_into(inner, (*steps, step))


def with_value(document: Any, way: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value there."""
    if not way:
        return value
    changed = copy.deepcopy(document)
    inner = changed
    for step in way[:-1]:
        inner = inner[step]
    inner[way[-1]] = value
    return changed


def with_key(document: Any, way: tuple[Any, ...], name: str) -> Any:
    """A copy with another key there, or with one more where there is a list."""
    changed = copy.deepcopy(document)
    inner = changed
    for step in way[:-1]:
        inner = inner[step]
    if isinstance(inner, dict):
        inner[name] = inner.pop(way[-1])
    else:
        inner.append({name: name})
    return changed


def json_places(label: str, document: Any, pack: Callable[[str], bytes]) -> dict[str, Place]:
    """`pack`: makes a file of the document's text."""
    places: dict[str, Place] = {}

    def add(where: str, change: Callable[[str], Any]) -> None:
        places[f"{label}: {where}"] = lambda name: pack(json.dumps(change(name)))

    def add_all(way: tuple[Any, ...]) -> None:
        where = "/".join(map(str, way))
        add(f"value {where}", lambda name: with_value(document, way, name))
        add(f"list {where}", lambda name: with_value(document, way, [name] * 20))
        add(f"object {where}", lambda name: with_value(document, way, {name: [name]}))
        add(f"key {where}", lambda name: with_key(document, way, name))

    for way in list(ways_into(document))[1:]:
        add_all(way)
    places[f"{label}: broken"] = lambda name: pack(json.dumps(document)[:-1] + json.dumps(name))
    twice = json.dumps(document)[:-1]
    places[f"{label}: key twice"] = lambda name: pack(
        f"{twice}, {json.dumps(name)}: 1, {json.dumps(name)}: 1}}"
    )
    return places


# ---- safetensors, fastgru's own files, snapshots of pools ----


def safetensors_file(header: str, data: bytes) -> bytes:
    text = header.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + data


def _parts(data: bytes) -> tuple[Any, bytes]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _state(prefix: str = "") -> tuple[dict[str, Any], bytes]:
    header, data = {}, b""
    for name, array in WEIGHTS.items():
        end = len(data) + array.nbytes
        header[prefix + name] = {
            "dtype": "F32",
            "shape": list(array.shape),
            "data_offsets": [len(data), end],
        }
        data += array.tobytes()
    return header, data


def _prefixed(name: str) -> bytes:
    header, data = _state(f"{name}.")
    return safetensors_file(json.dumps(header), data)


def _several(name: str) -> bytes:
    """Two networks with the name in their prefixes, one of which is no GRU."""
    header, data = _state(f"{name}.a.")
    header |= {f"{name}.b.{n}": entry for n, entry in _state()[0].items() if n == "weight_ih_l0"}
    header[f"{name}.b.weight_ih_l0"]["data_offsets"] = [len(data), 2 * len(data)]
    header[f"{name}.b.weight_ih_l0"]["shape"] = [len(data) // 4]
    return safetensors_file(json.dumps(header), data * 2)


def _with_other(name: str) -> bytes:
    header, data = _state()
    header[name] = {"dtype": "F32", "shape": [1], "data_offsets": [len(data), len(data) + 4]}
    return safetensors_file(json.dumps(header), data + bytes(4))


def _native(model: Any, folder: Path) -> dict[str, Place]:
    path = folder / "saved"
    model.save(path)
    header, data = _parts(path.read_bytes())
    description = json.loads(header["__metadata__"]["fastgru"])

    def described(text: str) -> bytes:
        metadata = {"__metadata__": header["__metadata__"] | {"fastgru": text}}
        return safetensors_file(json.dumps(header | metadata), data)

    def packed(text: str) -> bytes:
        return safetensors_file(text, data)

    label = (
        f"native {type(model).__name__} {model.precision}"
        if hasattr(model, "precision")
        else ("native Model")
    )
    return json_places(label, description, described) | json_places(
        f"{label} header", header, packed
    )


def safetensors_places(folder: Path) -> dict[str, Place]:
    """Of state dicts, of a GRU's file, of a reduced one's, and of a Model's."""
    header, data = _state()
    header = {"__metadata__": {"a": "b"}} | header
    gru = fastgru.GRU.from_state_dict(WEIGHTS)
    model = fastgru.Model([gru, fastgru.LayerNorm(np.ones(H, np.float32)), fastgru.Last()])
    places: dict[str, Place] = {
        "safetensors: prefix": _prefixed,
        "safetensors: several": _several,
        "safetensors: other": _with_other,
    }
    places |= json_places("safetensors", header, lambda text: safetensors_file(text, data))
    for made in (gru, gru.to("int8"), model):
        places |= _native(made, folder)
    return places


def snapshot_places(folder: Path) -> dict[str, Place]:
    """Of a snapshot of `pool_of_snapshots()`."""
    path = folder / "snapshot"
    pool = pool_of_snapshots()
    pool.open()
    pool.snapshot(path)
    header, data = _parts(path.read_bytes())
    key = next(iter(header["__metadata__"]))
    description = json.loads(header["__metadata__"][key])

    def described(text: str) -> bytes:
        return safetensors_file(json.dumps(header | {"__metadata__": {key: text}}), data)

    return json_places("snapshot", description, described) | json_places(
        "snapshot header", header, lambda text: safetensors_file(text, data)
    )


def pool_of_snapshots() -> Any:
    """A pool that the snapshots are of."""
    return fastgru.GRU.from_state_dict(WEIGHTS).pool(2)


# ---- zip archives: .npz and .keras ----


def encodable(name: str) -> str:
    """Where a format holds UTF-8 alone."""
    return name.encode("utf-8", "replace").decode()


def zip_file(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            # zipfile cuts a name at its NUL, and warns where two are the same then
            # Their ends, which differ: two members of one name are a warning of zipfile's.
            archive.writestr(encodable(name).replace("\x00", "\x01")[-10_000:], data)
    return file.getvalue()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npy_with_header(text: str) -> bytes:
    header = text.encode("latin-1", "replace")[:9_000] + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def npz_places() -> dict[str, Place]:
    sound = {f"{name}.npy": npy(array) for name, array in WEIGHTS.items()}
    fields = "'descr': '<f4', 'fortran_order': False, 'shape': (12, 3)"

    def headed(header: Callable[[str], str]) -> Place:
        return lambda name: zip_file(sound | {"weight_ih_l0.npy": npy_with_header(header(name))})

    return {
        "npz: prefix": lambda name: zip_file({f"{name}.{n}": data for n, data in sound.items()}),
        "npz: other": lambda name: zip_file(sound | {f"{name}.npy": npy(np.ones(3))}),
        "npz: member": lambda name: zip_file(sound | {name: b""}),
        "npz: no array": lambda name: zip_file({f"weight_ih_l0{name}weight_ih.npy": b"x"}),
        "npz: of a GRU": lambda name: zip_file(sound | {f"weight_ih_l0{name}.npy": npy(1)}),
        "npz: integers": lambda name: zip_file({f"{name}.weight_ih_l0.npy": npy([1])}),
        "npz: dtype": headed(lambda name: "{" + fields.replace("'<f4'", repr(name)) + "}"),
        "npz: dtypes": headed(lambda name: "{" + fields.replace("'<f4'", repr([(name,)])) + "}"),
        "npz: key": headed(lambda name: "{" + fields + f", {name!r}: 1}}"),
        "npz: text": headed(lambda name: name),
        "npz: order": headed(lambda name: "{" + fields.replace("False", repr(name)) + "}"),
        "npz: shape": headed(lambda name: "{" + fields.replace("3", repr(name)) + "}"),
        "npz: huge size": headed(lambda name: "{" + fields.replace("3", f"0x1{'0' * 8000}") + "}"),
        "npz: huge field": headed(
            lambda name: "{" + fields.replace("'<f4'", f"[0x1{'0' * 8000}]") + "}"
        ),
        "npz: many axes": headed(lambda name: "{" + fields.replace("3", "1, " * 2500) + "}"),
    }


def keras_places() -> dict[str, Place]:
    """Of `.keras` archives; HDF5's names are in `hdf5_places`."""
    with zipfile.ZipFile(DATA / "keras" / "classifier_3.keras") as archive:
        sound = {name: archive.read(name) for name in archive.namelist()}
    places: dict[str, Place] = {
        "keras: member": lambda name: zip_file(sound | {name: b""}),
        "keras: no config": lambda name: zip_file(
            {(name if n == "config.json" else n): data for n, data in sound.items()}
        ),
    }
    for part in ("config.json", "metadata.json"):
        document = json.loads(sound[part])

        def pack(text: str, part: str = part) -> bytes:
            return zip_file(sound | {part: text.encode("utf-8", "surrogatepass")})

        places |= json_places(f"keras {part}", document, pack)
    return places


def hdf5_places(h5py: Any) -> dict[str, Place]:
    def file_of(fill: Callable[[Any], object], group: str = "gru/cell/vars") -> bytes:
        file = io.BytesIO()
        with h5py.File(file, "w") as root:
            cell = root.create_group(group)
            for number, shape in enumerate([(I, 3 * H), (H, 3 * H), (2, 3 * H)]):
                cell[str(number)] = np.ones(shape, np.float32)
            fill(root)
        return file.getvalue()

    def fitting(name: str) -> str:  # no NUL, and a "/" makes groups in groups
        return encodable(name).replace("\x00", "\x01")[:5_000].strip("./") or "x"

    def several(root: Any, name: str) -> None:
        root.copy("gru", f"{name}/gru")

    return {
        "hdf5: group": lambda name: file_of(lambda root: 0, f"{fitting(name)}/cell/vars"),
        "hdf5: no cell": lambda name: file_of(lambda root: 0, f"{fitting(name)}/vars"),
        "hdf5: several": lambda name: file_of(lambda root: several(root, fitting(name))),
        "hdf5: variable": lambda name: file_of(
            lambda root: root["gru/cell/vars"].create_group(f"a{fitting(name)}")
        ),
        "hdf5: beside": lambda name: file_of(lambda root: root.create_group(f"a{fitting(name)}")),
    }


# ---- .pt files ----


def _text(value: str) -> bytes:
    encoded = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _global(name: str) -> bytes:
    module, _, leaf = name.rpartition(".")
    return _text(module) + _text(leaf) + b"\x93"


def _tuple(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def _dict(values: dict[str, bytes]) -> bytes:
    return b"}(" + b"".join(_text(name) + value for name, value in values.items()) + b"u"


def _tensor(key: str, shape: tuple[int, ...], kind: str = "torch.FloatStorage") -> bytes:
    sizes = [b"J" + struct.pack("<i", size) for size in (*shape, int(np.prod(shape)))]
    storage = _tuple(_text("storage"), _global(kind), _text(key), _text("cpu"), sizes[-1]) + b"Q"
    steps = [sizes[1], b"K\x01"] if len(shape) == 2 else [b"K\x01"]
    return (
        _global("torch._utils._rebuild_tensor_v2")
        + _tuple(storage, b"K\x00", _tuple(*sizes[:-1]), _tuple(*steps), b"\x89", b"}")
        + b"R"
    )


def _torch_zip(value: bytes, keys: dict[str, str] | None = None) -> bytes:
    members = {"archive/data.pkl": b"\x80\x04" + value + b".", "archive/byteorder": b"little"}
    for name, array in WEIGHTS.items():
        members[f"archive/data/{(keys or {}).get(name, name)}"] = array.tobytes()
    return zip_file(members | {"archive/version": b"3\n"})


def _torch_chain(value: bytes) -> bytes:
    """Before torch 1.6: pickles one after the other."""
    magic = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
    system = _dict({"protocol_version": b"M\xe9\x03", "little_endian": b"\x88"})
    keys = b"(" + b"".join(map(_text, WEIGHTS)) + b"l"
    parts = b"\x8a\x0a" + magic, b"M\xe9\x03", system, value, keys
    data = b"".join(b"\x80\x02" + part + b"." for part in parts)
    for array in WEIGHTS.values():
        data += struct.pack("<q", array.size) + array.tobytes()
    return data


def torch_places() -> dict[str, Place]:
    sound = {name: _tensor(name, array.shape) for name, array in WEIGHTS.items()}
    values: dict[str, Callable[[str], bytes]] = {
        "prefix": lambda name: _dict({f"{name}.{n}": value for n, value in sound.items()}),
        "outer key": lambda name: _dict({name: _dict(sound), "epoch": b"K\x01"}),
        "several": lambda name: _dict({name: _dict(sound), f"{name}b": _dict(sound)}),
        "other": lambda name: _dict(sound | {name: _tensor("weight_ih_l0", (12, 3))}),
        "of a GRU": lambda name: _dict(sound | {f"bias_hh{name}": b"N"}),
        "no tensor": lambda name: _dict(sound | {f"{name}.weight_ih_l0": _text(name)}),
        "twice": lambda name: _dict({f"{name}.weight_ih_l0": b"N", name: _dict(sound)}),
        "bad tensor": lambda name: _dict({f"{name}.weight_ih_l0": _tensor("nowhere", (12, 3))}),
        "storage": lambda name: _dict(sound | {"bias_hh_l0": _tensor(name, (12,))}),
        "global": lambda name: _dict(sound | {"bias_hh_l0": _global(f"{name}.{name}")}),
        "call": lambda name: _dict(sound | {"bias_hh_l0": _global(f"os.{name}") + b")R"}),
        "kind": lambda name: _dict(sound | {"bias_hh_l0": _tensor("bias_hh_l0", (12,), name)}),
        "root": _text,
        "text opcode": lambda name: b"c" + name.encode("utf-8", "surrogatepass")[:999] + b"\nx\n)R",
        "damaged": lambda name: _text(name) + b"R",
    }
    places: dict[str, Place] = {}

    def add(place: str, value: Callable[[str], bytes]) -> None:
        places[f"torch zip: {place}"] = lambda name: _torch_zip(value(name))
        places[f"torch chain: {place}"] = lambda name: _torch_chain(value(name))

    for place, value in values.items():
        add(place, value)
    places["torch zip: member"] = lambda name: _torch_zip(_dict(sound), {"bias_hh_l0": name})
    return places


# ---- ONNX ----


def onnx_places() -> dict[str, Place]:
    """Needs the onnx package, which this imports."""
    from onnx import helper  # noqa: PLC0415

    from onnx_models import gru_model, gru_weights  # noqa: PLC0415

    weights = gru_weights(np.random.default_rng(0), I, H)

    def made(change: Callable[[Any, str], object]) -> Place:
        def place(name: str) -> bytes:
            model = gru_model(weights)
            change(model, encodable(name))
            data: bytes = model.SerializeToString()
            return data

        return place

    def append(model: Any, op: str, **options: Any) -> None:
        """A node behind the GRU, whose result is the graph's."""
        del model.graph.output[1:]
        node = helper.make_node(op, ["Y"], ["end"], **options)
        model.graph.node.append(node)
        model.graph.output[0].name = "end"

    def attribute(model: Any, name: str, value: Any) -> None:
        model.graph.node[0].attribute.append(helper.make_attribute(name, value))

    def clipped(model: Any, name: str) -> None:
        model.graph.node[0].name = name
        attribute(model, "clip", 1.0)

    def all_alike(model: Any, name: str) -> None:
        for item in model.graph.initializer:
            item.name = name

    def entry(model: Any, name: str) -> None:
        for node in model.graph.node:
            node.input[:] = [name if item == "X" else item for item in node.input]
        model.graph.input[0].name = name

    def broken(model: Any, name: str) -> None:
        model.graph.initializer[0].raw_data = b""
        model.graph.initializer[0].name = name
        model.graph.node[0].input[1] = name

    return {
        "onnx: producer": made(lambda m, name: setattr(m, "producer_name", name)),
        "onnx: node": made(lambda m, name: append(m, "Erf", name=name)),
        "onnx: op": made(append),
        "onnx: domain": made(lambda m, name: append(m, "Erf", domain=name)),
        "onnx: GRU": made(clipped),
        "onnx: attribute": made(lambda m, name: attribute(m, name, name)),
        "onnx: direction": made(lambda m, name: attribute(m, "direction", name)),
        "onnx: activations": made(lambda m, name: attribute(m, "activations", [name, "Tanh"])),
        "onnx: wrong kind": made(lambda m, name: attribute(m, "clip", name)),
        "onnx: input": made(entry),
        "onnx: input of a node": made(lambda m, n: m.graph.node[0].input.__setitem__(0, n)),
        "onnx: output": made(lambda m, name: setattr(m.graph.output[0], "name", name)),
        "onnx: output of a node": made(lambda m, name: m.graph.node[0].output.__setitem__(0, name)),
        "onnx: outputs": made(
            lambda m, name: m.graph.output.extend([m.graph.output[0], m.graph.input[0]])
        ),
        "onnx: initializer": made(broken),
        "onnx: initializer twice": made(all_alike),
        "onnx: dimension": made(
            lambda m, name: setattr(
                m.graph.input[0].type.tensor_type.shape.dim[2], "dim_param", name
            )
        ),
        "onnx: graph": made(lambda m, name: setattr(m.graph, "name", name)),
        "onnx: opset": made(lambda m, name: m.opset_import.append(helper.make_opsetid(name, 1))),
        "onnx: metadata": made(lambda m, name: helper.set_model_props(m, {name: name})),
    }
