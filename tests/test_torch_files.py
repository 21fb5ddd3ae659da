"""`.pt` files: what torch.save writes loads without torch, with the bits that torch would load.

Hostile and damaged ones: test_hostile_torch_files.py.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import io
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fastgru
from conftest import random_weights, run_python, same_bits
from fastgru.formats.strided import element_span, read_float32

I, H = 3, 5  # noqa: E741
DATA = Path(__file__).parent / "data"
COMMITTED = sorted(path.name for path in DATA.glob("*.pt"))

State = dict[str, Any]
Save = Callable[[Any], Path]


@pytest.fixture(params=["zip", "legacy", "zip, protocol 5", "legacy, protocol 4"])
def save(request: pytest.FixtureRequest, tmp_path: Path, torch: ModuleType) -> Save:
    """torch.save in each of its containers."""
    container, _, protocol = request.param.partition(", protocol ")

    def write(value: Any) -> Path:
        path = tmp_path / "model.pt"
        torch.save(
            value,
            path,
            pickle_protocol=int(protocol or 2),
            _use_new_zipfile_serialization=container == "zip",
        )
        return path

    return write


def tensors(torch: ModuleType, *args: Any, seed: int = 0, **kwargs: Any) -> State:
    state = random_weights(np.random.default_rng(seed), I, H, *args, **kwargs)
    return {name: torch.from_numpy(value) for name, value in state.items()}


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def assert_same(gru: fastgru.GRU, state: State) -> None:
    """As if the state dict had gone from torch.load to from_state_dict."""
    expected = fastgru.GRU.from_state_dict(state).tensors()
    assert list(gru.tensors()) == list(expected)
    for name, tensor in gru.tensors().items():
        assert same_bits(tensor, expected[name]), name


def problem(path: Path, **kwargs: Any) -> str:
    with pytest.raises(fastgru.FormatError) as caught:
        fastgru.load(path, **kwargs)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def rewritten(path: Path, old: bytes, new: bytes) -> None:
    """Replaces bytes of the pickle in a zip archive, whose checksums come out right again."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            if name.endswith("data.pkl"):
                assert old in data
                data = data.replace(old, new)  # noqa: PLW2901
            archive.writestr(name, data)


# ---- the same bits ----


@pytest.mark.parametrize(("layers", "bidirectional", "bias"), [(1, False, True), (3, True, False)])
def test_a_state_dict(
    save: Save, torch: ModuleType, layers: int, bidirectional: bool, bias: bool
) -> None:
    module = torch.nn.GRU(I, H, layers, bidirectional=bidirectional, bias=bias)
    path = save(module.state_dict())
    gru = fastgru.load(path)
    assert_same(gru, torch.load(path, weights_only=False))
    x = np.ones((4, 2, I), np.float32)
    assert same_bits(gru(x)[0], fastgru.GRU.from_torch(module)(x)[0])


def test_options_mean_what_they_do_for_other_files(save: Save, torch: ModuleType) -> None:
    path = save(tensors(torch))
    gru = fastgru.load(path, batch_first=True, reset_after=False, activation="relu", num_threads=1)
    assert (gru.batch_first, gru.reset_after, gru.activation) == (True, False, "relu")
    plain = fastgru.load(path)
    assert (plain.batch_first, plain.reset_after, plain.precision) == (False, True, "float32")
    assert fastgru.load(path, precision="int8").precision == "int8"
    assert fastgru.load(path, precision="bfloat16").precision == "bfloat16"


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "float32"])
def test_every_real_floating_dtype(save: Save, torch: ModuleType, dtype: str) -> None:
    """Converted as NumPy converts; too large for float32 is infinite, in silence."""
    state = {name: (9 * value).to(getattr(torch, dtype)) for name, value in tensors(torch).items()}
    state["bias_hh_l0"][:4] = torch.tensor([3e38, np.inf, -0.0, np.nan])
    if dtype == "float64":
        state["bias_hh_l0"][4:6] = torch.tensor([1e300, 1e-300], dtype=torch.float64)
    path = save(state)
    assert_same(fastgru.load(path), torch.load(path, weights_only=False))


def views(torch: ModuleType) -> dict[str, Callable[[Any], Any]]:
    def sliced(tensor: Any) -> Any:
        large = torch.zeros([2 * n + 1 for n in tensor.shape], dtype=tensor.dtype)
        view = large[tuple(slice(1, None, 2) for _ in tensor.shape)]
        view.copy_(tensor)
        return view

    def rows(tensor: Any) -> Any:
        large = torch.zeros((len(tensor), 9, *tensor.shape[1:]), dtype=tensor.dtype)
        large[:, 4] = tensor
        return large[:, 4]

    return {
        "parameter": torch.nn.Parameter,
        "transposed": lambda tensor: tensor.T.contiguous().T if tensor.ndim == 2 else tensor,
        "sliced": sliced,
        "rows": rows,
        "offset": lambda tensor: torch.cat([tensor, tensor])[len(tensor) :],
    }


@pytest.mark.parametrize("view", ["parameter", "transposed", "sliced", "rows", "offset"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_strides_and_offsets(save: Save, torch: ModuleType, view: str, dtype: str) -> None:
    state = {name: value.to(getattr(torch, dtype)) for name, value in tensors(torch, 2).items()}
    path = save({name: views(torch)[view](value) for name, value in state.items()})
    assert_same(fastgru.load(path), state)


def test_shared_storages(save: Save, torch: ModuleType) -> None:
    """One buffer for all, as cuDNN has it; tied layers; and a parameter twice."""
    state = tensors(torch, 2)
    flat = torch.cat([value.reshape(-1) for value in state.values()])
    parts = flat.split([value.numel() for value in state.values()])
    views = {n: p.reshape(state[n].shape) for n, p in zip(state, parts, strict=True)}
    assert_same(fastgru.load(save(views)), state)
    tied = {n: state[n.replace("_l1", "_l0")] if "hh" in n else state[n] for n in state}
    assert_same(fastgru.load(save(tied)), tied)


def test_a_subclass_with_attributes_is_a_tensor(save: Save, torch: ModuleType) -> None:
    state = tensors(torch)
    parameter = torch.nn.Parameter(state["bias_hh_l0"])
    parameter.note = "seen"
    assert_same(fastgru.load(save(state | {"bias_hh_l0": parameter})), state)


def test_large_tensors_are_read_piece_by_piece(save: Save, torch: ModuleType) -> None:
    """Rows longer than the buffer, and tensors of many buffers, in both orders."""
    state = {
        "weight_ih_l0": torch.randn(70_000, 3).T,
        "weight_hh_l0": torch.randn(3, 1),
        "bias_ih_l0": torch.randn(3, 50_000)[:, 7],
        "bias_hh_l0": torch.randn(3),
    }
    path = save(state)
    assert_same(fastgru.load(path), state)
    state["weight_ih_l0"] = state["weight_ih_l0"].contiguous().half()
    assert_same(fastgru.load(save(state)), state)


@pytest.mark.parametrize("location", ["cuda:0", "mps", "hpu:3", "xpu"])
def test_tensors_saved_on_other_devices(
    tmp_path: Path, torch: ModuleType, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The location is a string beside each storage; the data is the same."""
    monkeypatch.setattr("torch.serialization.location_tag", lambda storage: location)
    state = tensors(torch)
    for new in (True, False):
        path = tmp_path / "model.pt"
        torch.save(state, path, _use_new_zipfile_serialization=new)
        assert location.encode() in path.read_bytes()
        assert_same(fastgru.load(path), state)


def test_cuda_storage_classes(tmp_path: Path, torch: ModuleType) -> None:
    """torch 0.x and 1.x named the storage's class torch.cuda.FloatStorage."""
    state = tensors(torch)
    torch.save(state, tmp_path / "model.pt")
    rewritten(tmp_path / "model.pt", b"ctorch\nFloatStorage", b"ctorch.cuda\nFloatStorage")
    assert_same(fastgru.load(tmp_path / "model.pt"), state)


def test_saved_without_checksums(tmp_path: Path, torch: ModuleType) -> None:
    """set_crc32_options(False) writes zeros for them."""
    state = tensors(torch)
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, tmp_path / "model.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    assert_same(fastgru.load(tmp_path / "model.pt"), state)


def test_before_the_byteorder_record(tmp_path: Path, torch: ModuleType) -> None:
    """torch 1.6 to 1.13 had none; archives are also called by the file's name."""
    state = tensors(torch)
    file = io.BytesIO()
    torch.save(state, file)
    with (
        zipfile.ZipFile(file) as archive,
        zipfile.ZipFile(tmp_path / "model.pt", "w") as old,
    ):
        for name in archive.namelist():
            if name.rpartition("/")[2] == "data.pkl" or "/data/" in name:
                old.writestr(name.replace("archive/", "model/"), archive.read(name))
    assert_same(fastgru.load(tmp_path / "model.pt"), state)


# ---- checkpoints ----


@pytest.mark.parametrize(
    ("wrap", "path"),
    [
        (lambda state: {"state_dict": state, "epoch": 3}, "state_dict."),
        (lambda state: {"model": {"net": state}, "args": ["--lr", 0.1]}, "model.net."),
        (lambda state: [1, state], "1."),
        (lambda state: (state, None), "0."),
        (lambda state: {0: collections.defaultdict(list, {"a": state})}, "0.a."),
        (lambda state: {"a.b": state}, "a.b."),
    ],
)
def test_checkpoints(
    save: Save, torch: ModuleType, wrap: Callable[[State], Any], path: str
) -> None:
    """The only GRU is found; a prefix is said from the whole, or from the state dict."""
    state = tensors(torch)
    file = save(wrap(prefixed("module.rnn.", state)))
    assert_same(fastgru.load(file), state)
    for prefix in (f"{path}module.rnn.", f"{path}module.rnn", "module.rnn.", "module.rnn"):
        assert_same(fastgru.load(file, prefix=prefix), state)
    assert repr(f"{path}module.rnn.") in problem(file, prefix="rnn.")
    bare = save(wrap(state))
    for prefix in ("", path, path[:-1]):
        assert_same(fastgru.load(bare, prefix=prefix), state)


def test_several_networks_are_listed_by_what_can_be_said(save: Save, torch: ModuleType) -> None:
    """Also where a prefix of the state dict means more than one."""
    first, second = tensors(torch), tensors(torch, seed=1)
    file = save({"model": prefixed("rnn.", first), "ema": prefixed("rnn.", second)})
    for prefix in (None, "rnn."):
        text = problem(file, prefix=prefix)
        assert "'model.rnn.'" in text
        assert "'ema.rnn.'" in text
    assert_same(fastgru.load(file, prefix="model.rnn."), first)
    assert_same(fastgru.load(file, prefix="ema.rnn."), second)
    shared = save({"model": first, "best": first})
    assert_same(fastgru.load(shared, prefix="best."), first)


def test_a_full_path_goes_before_one_inside(save: Save, torch: ModuleType) -> None:
    first, second = tensors(torch), tensors(torch, seed=1)
    file = save(prefixed("rnn.", first) | {"ema": prefixed("rnn.", second)})
    assert_same(fastgru.load(file, prefix="rnn."), first)
    assert_same(fastgru.load(file, prefix="ema.rnn."), second)


def odd_values(torch: ModuleType) -> dict[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is to drop them; files have them
        quantized = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    return {
        "complex": torch.ones(2, dtype=torch.complex64),
        "integers": torch.arange(3),
        "bool": torch.ones(2) > 0,
        "float8": torch.ones(2).to(torch.float8_e4m3fn),
        "uint16": torch.ones(2, dtype=torch.uint16),
        "quantized": quantized,
        "sparse": torch.eye(3).to_sparse(),
        "meta": torch.ones(2, device="meta"),
        "scalar": torch.tensor(2.0),
        "empty": torch.zeros(0, 3),
        "expanded": torch.ones(1).expand(1000),
        "negated": torch.ones(2, dtype=torch.complex64).conj().imag,
        "dtype": torch.float16,
        "version": torch.__version__,
        "device": torch.device("cuda:1"),
        "size": torch.Size([1, 2]),
        "storage": torch.ones(2).untyped_storage(),
        "numpy": np.ones((2, 3)),
        "numpy text": np.array(["a", "b"]),
        "numpy scalar": np.float32(1),
        "numpy dtype": np.dtype("f4"),
        "numbers": [1, -1, 1 << 40, 1 << 4000, 1.5, 1j, True, None],
        "text": ["", "\u00e9", "x" * 10_000, b"", b"x" * 10_000, bytearray(b"x")],
        "containers": [(), [], {}, set(), {1}, frozenset([2]), (1, (2, (3, ())))],
        "counter": collections.Counter("abca"),
        "deque": collections.deque([1, 2], 3),
        "defaultdict": collections.defaultdict(list, {1: [2]}),
        "arguments": argparse.Namespace(lr=0.1, name="gru"),
        "slice": [slice(1, 2), range(3)],
        (1, "tuple"): "key",
        None: {1.5: "keys"},
    }


def test_other_things_in_a_checkpoint_do_not_matter(save: Save, torch: ModuleType) -> None:
    """Tensors without real numbers, NumPy's arrays, Python's containers and numbers."""
    state = tensors(torch)
    everything = odd_values(torch)
    assert_same(fastgru.load(save({"others": everything, "model": state})), state)


@pytest.mark.parametrize(
    "kind", ["complex", "integers", "bool", "float8", "quantized", "sparse", "meta", "negated"]
)
def test_other_things_as_weights_are_named(save: Save, torch: ModuleType, kind: str) -> None:
    state = tensors(torch) | {"bias_hh_l0": odd_values(torch)[kind]}
    text = problem(save({"model": state}))
    assert "model.bias_hh_l0: expected a real floating dtype, got" in text


def test_what_fits_no_gru_is_told_at_once(save: Save, torch: ModuleType) -> None:
    state = tensors(torch) | {"weight_hh_l0": torch.zeros(15, 4), "bias_hh_l0": torch.ones(3) > 0}
    text = problem(save(state))
    assert "weight_hh_l0: expected (15, 5), got (15, 4)" in text
    assert "bias_hh_l0: expected a real floating dtype, got bool" in text
    assert "expected (15,), got ()" in problem(save(state | {"bias_hh_l0": torch.tensor(1.0)}))
    assert "got (0, 5)" in problem(save(state | {"weight_hh_l0": torch.zeros(0, 5)}))
    assert "looks like an LSTM" in problem(save(torch.nn.LSTM(I, H).state_dict()))
    assert "no GRU found: " in problem(save({"a": 1}))
    assert "the names are x.w" in problem(save({"x": {"w": torch.ones(2)}}))
    assert "there are no tensors" in problem(save([]))


def test_an_expanded_tensor_is_refused_with_advice(save: Save, torch: ModuleType) -> None:
    """Its size is not bounded by the file's."""
    state = tensors(torch) | {"bias_hh_l0": torch.ones(1).expand(3 * H)}
    assert "bias_hh_l0: an expanded tensor" in problem(save(state))
    cloned = {name: value.clone() for name, value in state.items()}
    assert_same(fastgru.load(save(cloned)), cloned)


# ---- what is refused ----


def test_a_whole_module_is_refused_by_its_class(save: Save, torch: ModuleType) -> None:
    text = problem(save(torch.nn.GRU(I, H)))
    assert "torch.nn.modules.rnn.GRU" in text
    assert "save model.state_dict() instead" in text


def test_torchscript_is_refused(tmp_path: Path, torch: ModuleType) -> None:
    """Python code in the archive."""
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py", "version"):
            archive.writestr(f"model/{name}", b"\x80\x02}.")
    assert "TorchScript" in problem(path)
    assert "torch.jit.load" in problem(path)


def test_the_first_format_of_all_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"sys_info".ljust(257, b"\0") + b"ustar  \0".ljust(255, b"\0"))
    assert "a tar file (torch.save before 0.1.10?)" in problem(path)


def test_other_pickles_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    for value in ({"weight_ih_l0": np.ones((6, 3))}, 1001, [1]):
        path.write_bytes(pickle.dumps(value))
        assert "a Python pickle that torch.save did not write" in problem(path)


@pytest.mark.parametrize("order", [b"big", b"", b"middle", b"little\n"])
def test_other_byte_orders_are_refused(tmp_path: Path, torch: ModuleType, order: bytes) -> None:
    path = tmp_path / "model.pt"
    file = io.BytesIO()
    torch.save(tensors(torch), file)
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(path, "w") as changed:
        for name in archive.namelist():
            data = order if name.endswith("byteorder") else archive.read(name)
            changed.writestr(name, data)
    assert "byte order" in problem(path)


def test_other_byte_orders_are_refused_in_old_files(tmp_path: Path, torch: ModuleType) -> None:
    path = tmp_path / "model.pt"
    torch.save(tensors(torch), path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    name = b"little_endian"
    where = data.index(name) + len(name) + 2  # behind the opcode that memorises it
    assert data[where : where + 1] == b"\x88"
    for bad in (data[:where] + b"\x89" + data[where + 1 :], data.replace(name, b"little_indian")):
        path.write_bytes(bad)
        assert "byte order" in problem(path)


# ---- files that stay ----


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_files_load_for_ever(name: str) -> None:
    """Written once by make_torch_files.py; compared with what it says."""
    spec = importlib.util.spec_from_file_location("make_torch_files", DATA / "make_torch_files.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    gru = fastgru.load(DATA / name)
    assert list(gru.tensors()) == list(script.weights())
    for leaf, tensor in gru.tensors().items():
        assert same_bits(tensor, script.weights()[leaf])
    if name.startswith("checkpoint"):
        assert fastgru.load(DATA / name, prefix="encoder.rnn").hidden_size == script.H
        with pytest.raises(fastgru.FormatError, match=r"'state_dict\.encoder\.rnn\.'"):
            fastgru.load(DATA / name, prefix="decoder.")


def test_torch_and_python_pickle_are_not_needed() -> None:
    """In an environment without torch, and with Python's unpickler out of order."""
    code = f"""
import sys
sys.modules["torch"] = None
import pickle, numpy, warnings, fastgru
warnings.simplefilter("ignore", fastgru.LoadWarning)
pickle.load = pickle.loads = pickle.Unpickler = None
before = set(sys.modules)
for name in {COMMITTED!r}:
    print(fastgru.load({str(DATA)!r} + "/" + name).hidden_size)
new = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(sorted(new - {{"fastgru", "zlib", "safetensors"}} - set(sys.stdlib_module_names)))
"""
    result = run_python(code)
    assert result.stderr == ""
    assert result.stdout.split("\n") == ["2"] * len(COMMITTED) + ["[]", ""]


# ---- strides ----


def test_strided_reading_is_numpy_indexing(tmp_path: Path) -> None:
    """Every slice, step, order and offset of a small storage."""
    storage = np.arange(120, dtype="<f4")
    path = tmp_path / "data"
    path.write_bytes(b"head" + storage.tobytes())
    base = storage.reshape(4, 5, 6)
    views = [base, base.T, base.transpose(1, 0, 2), base[1:, ::2, 3:], base[:, 2], base[2, 3, 4:5]]
    views += [base[:, :1, ::3].T, base[..., 0], base[3], base[3, 1, 2:3][:, None, None]]
    with open(path, "rb") as file:
        for view in views:
            offset = int(view.flat[0])
            stride = tuple(step // 4 for step in view.strides)
            assert element_span(offset, view.shape, stride, 120) == view.shape
            array = read_float32(file, 4 + 4 * offset, "float32", view.shape, stride)
            assert array.flags.c_contiguous
            assert same_bits(array, view)


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (4, 3), (3, 1)),
        (1, (10,), (1,)),
        (10, (), ()),
        (0, (2,), (10,)),
        (-1, (2,), (1,)),
        (0, (-2,), (1,)),
        (5, (2,), (-1,)),
        (0, (1 << 62, 1 << 62), (1 << 62, 1)),
        (0, (2, 2), (1,)),
        (0, [2], (1,)),
        (0, (2,), None),
        (0, (2.0,), (1,)),
        (True, (2,), (1,)),
        (0, (True,), (1,)),
        (0, (0, 1 << 63), (1, 1)),
        (1 << 63, (0,), (1,)),
        ("0", (2,), (1,)),
    ],
)
def test_no_element_is_outside_of_its_storage(offset: Any, size: Any, stride: Any) -> None:
    """A storage of 10 elements; Python's integers do not wrap around."""
    with pytest.raises(fastgru.FormatError):
        element_span(offset, size, stride, 10)
