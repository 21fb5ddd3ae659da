"""The package around the engine: import, copies and pickles, options, what it says of itself."""

from __future__ import annotations

import copy
import math
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fastgru
from conftest import (
    SUPPORTED_ISAS,
    Weights,
    make_gru,
    random_input,
    random_weights,
    run_python,
    same_bits,
)
from fastgru import _pause, _startup
from fastgru.arrays import as_float32, as_int64, as_state, byte_text

I, H = 3, 5  # noqa: E741


def weights(*args: Any, **kwargs: Any) -> Weights:
    return random_weights(np.random.default_rng(0), I, H, *args, **kwargs)


def printed(code: str, **env: str | None) -> str:
    """What `code` prints in a new interpreter; it must succeed and say nothing on stderr."""
    no_choice: dict[str, str | None] = {"OMP_WAIT_POLICY": None, "GOMP_SPINCOUNT": None}
    result = run_python(code, no_choice | env)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.strip()


# ---- importing ----


def test_importing_loads_neither_torch_nor_what_only_files_need() -> None:
    """The import adds under 50 ms to NumPy's; these would not let it."""
    code = """
import sys, numpy
before = set(sys.modules)
import fastgru
print(sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
print("zipfile" in set(sys.modules) - before)
"""
    new, zipfile = printed(code).splitlines()
    assert not {"torch", "safetensors", "onnx", "matplotlib", "rich"} & set(eval(new))
    assert zipfile == "False"


def test_using_it_does_not_import_torch() -> None:
    """Loading, running, saving and pickling: a service has no torch."""
    code = """
import sys, tempfile, pickle, numpy as np, fastgru
w = {"weight_ih_l0": np.ones((6, 3)), "weight_hh_l0": np.ones((6, 2))}
gru = fastgru.GRU.from_state_dict(w)
with tempfile.TemporaryDirectory() as folder:
    gru.save(folder + "/model")
    gru = pickle.loads(pickle.dumps(fastgru.load(folder + "/model")))
gru(np.ones((2, 1, 3)))
gru.stream().step(np.ones(3))
fastgru.cpu_info()
print("torch" in sys.modules)
"""
    assert printed(code) == "False"


IMPORT = "import os; before = dict(os.environ); import fastgru; print(before == dict(os.environ));"
POLICY = IMPORT + "print(fastgru.cpu_info().wait_policy)"
# The environment of the C library, which os.environ only mirrors.
C_POLICY = """
import ctypes
getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p
print(getenv(b"GOMP_SPINCOUNT"), getenv(b"OMP_WAIT_POLICY"))
"""


@pytest.mark.parametrize("env", [{}, {"GOMP_SPINCOUNT": "77"}, {"OMP_WAIT_POLICY": "passive"}])
def test_the_environment_is_as_it_was_found(env: dict[str, str]) -> None:
    """For Python and for C, whatever the user has chosen."""
    same, _, values = printed(POLICY + C_POLICY, **env).split("\n")
    assert same == "True"
    expected = [env.get(name) for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")]
    assert values == " ".join("None" if v is None else repr(v.encode()) for v in expected)


def test_the_environment_is_restored_if_the_extension_does_not_load() -> None:
    """A broken installation breaks only itself."""
    code = """
import os, sys
before = dict(os.environ)
sys.modules["fastgru._core"] = None
try:
    import fastgru
except ImportError:
    print(before == dict(os.environ))
"""
    assert printed(code) == "True"


needs_libgomp = pytest.mark.skipif(
    fastgru.cpu_info().openmp_runtime != "libgomp", reason="another OpenMP runtime"
)


@needs_libgomp
def test_a_short_spin_is_chosen_unless_the_user_has_chosen() -> None:
    """And cpu_info says which it is."""
    assert re.search(r"GOMP_SPINCOUNT=\d+ \(about 0.1 ms here\), set by fastgru", printed(POLICY))
    assert "GOMP_SPINCOUNT=77, from the env" in printed(POLICY, GOMP_SPINCOUNT="77")
    assert "OMP_WAIT_POLICY=active, from the env" in printed(POLICY, OMP_WAIT_POLICY="active")


@needs_libgomp
def test_libgomp_really_has_the_short_spin() -> None:
    """libgomp itself reports what it read while it was loaded, on stderr."""
    code = "import fastgru; print(fastgru.cpu_info().wait_policy)"
    env = {"OMP_DISPLAY_ENV": "verbose", "GOMP_SPINCOUNT": None, "OMP_WAIT_POLICY": None}
    ran = run_python(code, env)
    (spins,) = re.findall(r"GOMP_SPINCOUNT=(\d+)", ran.stdout)
    assert f"GOMP_SPINCOUNT = '{spins}'" in ran.stderr


def test_the_spin_is_a_time_not_a_count() -> None:
    """A pause takes 14 ns on one CPU and 300 on another; what nobody measures is cut off."""
    assert [_startup.spin_count(ns) for ns in (14, 300)] == [7143, 333]
    assert [_startup.spin_count(ns) for ns in (0, -1, 1e9)] == [50_000, 50_000, 100]
    assert 0 < _pause.nanoseconds() < 1e6


@needs_libgomp
def test_a_libgomp_that_is_loaded_already_is_left_alone() -> None:
    """It has read its policy; saying otherwise in cpu_info would mislead."""
    code = "import ctypes; ctypes.CDLL('libgomp.so.1');" + POLICY
    assert "loaded before fastgru" in printed(code)


def test_importing_after_torch_and_before(torch: ModuleType) -> None:
    """Both orders run; torch brings an OpenMP runtime of its own."""
    use = """
gru = fastgru.GRU.from_torch(torch.nn.GRU(3, 5))
x = torch.ones(4, 2, 3)
print(gru(x)[0].shape, torch.ones(300, 300).matmul(torch.ones(300, 300)).shape)
"""
    for order in ("import torch, fastgru", "import fastgru, torch"):
        assert printed(order + use) == "(4, 2, 5) torch.Size([300, 300])"


def test_public_names() -> None:
    """What `from fastgru import *` gives, all of it there."""
    assert set(fastgru.__all__) >= {
        "GRU",
        "FormatError",
        "ShapeError",
        "Stream",
        "Trace",
        "cpu_info",
        "get_num_threads",
        "load",
        "set_num_threads",
    }
    assert all(hasattr(fastgru, name) for name in fastgru.__all__)
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", fastgru.__version__)
    assert issubclass(fastgru.FormatError, ValueError)
    assert issubclass(fastgru.ShapeError, ValueError)


def test_the_package_is_typed() -> None:
    assert (Path(fastgru.__file__).parent / "py.typed").exists()


# ---- copies and pickles ----

OPTIONS: list[dict[str, Any]] = [
    {},
    {"batch_first": True, "reset_after": False, "num_threads": 3, "activation": "relu"},
    {"recurrent_activation": "hard_sigmoid", "isa": "portable"},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickling(options: dict[str, Any], protocol: int) -> None:
    """Everything arrives: bits of the weights, equation, layout, threads, a forced ISA."""
    gru = make_gru(weights(2, True), **options)
    again = pickle.loads(pickle.dumps(gru, protocol))
    assert repr(again) == repr(gru)
    assert (again.num_threads, again.isa) == (gru.num_threads, gru.isa)
    x = random_input(np.random.default_rng(1), 4, 2, I)
    assert same_bits(again(x)[0], gru(x)[0])
    assert pickle.dumps(again, protocol) == pickle.dumps(gru, protocol)


def test_a_pickle_keeps_a_forced_isa_and_only_a_forced_one() -> None:
    """A choice of the machine's is made again where it arrives."""
    code = "import sys, pickle; print(pickle.loads(sys.stdin.buffer.read()).isa)"
    for isa in (None, SUPPORTED_ISAS[0]):
        result = subprocess.run(
            [sys.executable, "-c", code],
            input=pickle.dumps(make_gru(weights(), isa=isa)),
            env=os.environ | {"FASTGRU_ISA": "portable"},
            capture_output=True,
            check=True,
        )
        assert result.stdout.decode().strip() == (isa or "portable")


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy])
def test_copies_share_the_weights_and_have_their_own_threads(how: Any) -> None:
    """A model is immutable, its thread count apart."""
    gru = make_gru(weights(2), num_threads=1)
    other = how(gru)
    assert repr(other) == repr(gru)
    assert other._core is gru._core
    other.num_threads = 2
    assert gru.num_threads == 1


def test_copies_inside_containers() -> None:
    """deepcopy and pickle of what holds a GRU."""
    gru = make_gru(weights())
    holder = copy.deepcopy({"model": [gru, gru]})
    assert holder["model"][0] is holder["model"][1]
    first, second = pickle.loads(pickle.dumps([gru, gru]))
    assert first is second


def test_subclasses_stay_subclasses() -> None:
    class Mine(fastgru.GRU):
        pass

    gru = Mine.from_state_dict(weights())
    assert type(gru) is Mine
    assert type(copy.copy(gru)) is Mine


# ---- options and attributes ----


@pytest.mark.parametrize("value", [1, 7, np.int64(2), None])
def test_num_threads_can_be_set(value: Any) -> None:
    """At construction and later; None is the process's default."""
    gru = make_gru(weights(), num_threads=value)
    assert gru.num_threads == value
    gru.num_threads = 5
    assert gru.num_threads == 5
    gru.num_threads = value
    assert gru.num_threads == value
    gru(np.ones((2, 1, I), np.float32))


@pytest.mark.parametrize(
    ("value", "error"),
    [
        *((count, ValueError) for count in (0, -1, 2**70)),
        *((value, TypeError) for value in (1.0, "2", True, np.bool_(True), [1])),
    ],
)
def test_wrong_thread_counts(value: Any, error: type[Exception]) -> None:
    """Refused everywhere, and nothing changes."""
    gru = make_gru(weights(), num_threads=2)
    with pytest.raises(error, match="num_threads: expected"):
        gru.num_threads = value
    assert gru.num_threads == 2
    with pytest.raises(error, match="num_threads: expected"):
        make_gru(weights(), num_threads=value)
    before = fastgru.get_num_threads()
    with pytest.raises(error, match="n: expected"):
        fastgru.set_num_threads(value)
    assert fastgru.get_num_threads() == before


def test_a_model_does_not_change() -> None:
    """No attribute but num_threads can be set, and none invented."""
    gru = make_gru(weights())
    for name in ("input_size", "batch_first", "activation", "isa", "precision", "threads"):
        with pytest.raises(AttributeError):
            setattr(gru, name, 1)


def test_a_gru_is_not_made_from_sizes() -> None:
    """torch.nn.GRU's constructor makes untrained weights; here it is an error with advice."""
    with pytest.raises(TypeError, match="from_state_dict"):
        fastgru.GRU(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("isa", [1, b"avx2", ["avx2"]])
def test_isa_is_a_name(isa: Any) -> None:
    with pytest.raises(TypeError, match="isa: expected a name or None"):
        make_gru(weights(), isa=isa)


def test_repr_tells_what_is_not_the_default() -> None:
    """One line, which names sizes, precision, ISA and bytes."""
    text = repr(make_gru(weights(), isa="portable"))
    assert re.fullmatch(r"GRU\(3, 5: float32, portable, [\d.]+ kB\)", text)
    gru = make_gru(weights(2, True, False), batch_first=True, reset_after=False, num_threads=1)
    text = repr(gru)
    assert "\n" not in text
    for part in ("num_layers=2", "bidirectional=True", "bias=False", "batch_first=True"):
        assert part in text
    assert "reset_after=False" in text
    assert "num_threads=1" in text
    assert "GRU(3, 5" in repr(make_gru(weights()).stream(2))
    assert "batch_size=2" in repr(make_gru(weights()).stream(2))


def test_nbytes_covers_the_weights() -> None:
    state = random_weights(np.random.default_rng(0), 64, 64)
    size = sum(tensor.nbytes for tensor in state.values())
    assert size <= make_gru(state).nbytes <= 1.5 * size


# ---- the machine ----


def test_cpu_info_tells_what_holds() -> None:
    """Levels, choice, cores and threads agree with what models get."""
    info = fastgru.cpu_info()
    assert info.isa_levels["portable"]
    assert info.isa == make_gru(weights()).isa
    assert info.kernels == {
        precision: make_gru(weights(), precision=precision)._core.kernels[0]
        for precision in ("float32", "bfloat16", "int8")
    }
    assert f"int8 {info.kernels['int8']}" in str(info)
    assert info.num_threads == fastgru.get_num_threads()
    assert info.cores_affinity == len(os.sched_getaffinity(0))
    assert all(size >= 1024 for size in info.caches.values())
    assert info.openmp_runtime in ("libgomp", "libomp", "none")
    for value in (info.isa, info.openmp_runtime, info.wait_policy, info.cpu):
        assert value is None or value in str(info)
    assert len(str(info).splitlines()) == 10


def test_cpu_info_survives_a_wrong_isa() -> None:
    """It is what a user asks when FASTGRU_ISA is wrong."""
    said = printed("import fastgru; print(fastgru.cpu_info())", FASTGRU_ISA="nonsense")
    assert "FASTGRU_ISA" in said


def cgroups(tmp_path: Path, proc: str, files: dict[str, str]) -> float | None:
    """What `cgroup_cores` makes of a made-up /proc/self/cgroup and /sys/fs/cgroup."""
    (tmp_path / "proc").write_text(proc)
    for name, text in files.items():
        (tmp_path / "sys" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sys" / name).write_text(text)
    return _startup.cgroup_cores(str(tmp_path / "proc"), str(tmp_path / "sys"))


def test_cgroup_quota(tmp_path: Path) -> None:
    """v2 and v1, the smallest of the group's and its parents', containers' views of it."""
    v2 = {"cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n", "a/b/cpu.max": "max 100000\n"}
    v1 = {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}
    deep = {"cpu/a/cpu.cfs_quota_us": "50000\n", "cpu/a/cpu.cfs_period_us": "100000\n"}
    root = {"cpu,cpuacct/cpu.cfs_quota_us": "400000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}
    v1_proc = "4:memory:/x\n1:cpu:/a/b\n"
    cases: list[tuple[str, dict[str, str], float | None]] = [
        ("0::/\n", {}, None),
        ("", v2, None),
        ("rubbish\n\n::\n", v2 | {"cpu.max": "rubbish"}, None),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2.5),
        ("0::/a/b\n", v2, 1.5),
        ("0::/a/b\n", v2 | {"a/b/cpu.max": "100000 100000"}, 1.0),
        ("0::/not/seen\n", {"cpu.max": "300000 100000\n"}, 3.0),
        ("0::/../other\n", {"cpu.max": "300000 100000\n"}, 3.0),
        ("0::/\n", {"cpu.max": "100000 0\n"}, None),
        (v1_proc, v1, None),
        (v1_proc, v1 | deep, 0.5),
        ("3:cpu,cpuacct:/docker/1f\n", root, 4.0),
    ]
    for number, (proc, files, expected) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert cgroups(folder, proc, files) == expected, (proc, files)
    assert _startup.cgroup_cores(str(tmp_path / "nothing")) is None


def test_the_quota_is_a_ceiling() -> None:
    """Rounded down: a thread too many gets the process throttled. Never below one."""
    assert [_startup.whole_cores(quota) for quota in (0.1, 1.0, 1.9, 2.0, 7.5)] == [1, 1, 1, 2, 7]
    code = "from fastgru import _core; _core.set_core_limit(1); print(_core.get_num_threads())"
    assert printed(code, FASTGRU_NUM_THREADS=None, OMP_NUM_THREADS=None) == "1"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (1_234_567, "1.235 MB"),
        (2_500_000_000, "2.5 GB"),
    ],
)
def test_byte_text(count: int, text: str) -> None:
    assert byte_text(count) == text


# ---- arrays ----


def test_float32_passes_as_it_is() -> None:
    """No copy where none is needed: views, zero strides, negative strides, read-only."""
    x = np.zeros((4, 3, 6), np.float32)
    frozen = x.copy()
    frozen.flags.writeable = False
    broadcast = np.broadcast_to(x[0, 0], (9, 2, 6))
    for view in (x, x[::2], x[::-1], x.swapaxes(0, 1), x[..., :4], frozen, broadcast, x[:0]):
        assert as_float32("x", view) is view


def test_what_the_core_cannot_take_is_copied() -> None:
    """Strided or Fortran order in the last axis, misaligned, other byte order."""
    x = random_input(np.random.default_rng(0), 4, 3, 6)
    moved = np.ndarray(x.shape, np.float32, buffer=bytearray(x.nbytes + 1), offset=1)
    moved[:] = x
    packed = np.zeros(4, [("pad", "u1"), ("x", "f4", 6)])["x"]
    for array in (x[..., ::2], x[..., ::-1], np.asfortranarray(x), moved, x.astype(">f4"), packed):
        result = as_float32("x", array)
        assert result.flags.c_contiguous
        assert result.flags.aligned
        assert same_bits(result, array.astype(np.float32))
    assert as_state("h_0", x.swapaxes(0, 1)).flags.c_contiguous
    assert as_state("h_0", np.float32(1)).shape == ()


def test_unpickled_arrays_have_a_dtype_object_of_their_own() -> None:
    """float32 is float32, also from another process."""
    x = pickle.loads(pickle.dumps(np.ones(3, np.float32)))
    assert as_float32("x", x) is x


@pytest.mark.parametrize(
    "value",
    [
        *([1, 2], [True], np.ones(2, int), np.ones(2, bool), np.ma.masked_array([1, 2])),
        *(1j, "x", b"x", None, [None], object(), np.datetime64("2020"), np.zeros(2, "f4,f4")),
    ],
)
def test_other_types_are_type_errors_that_name_the_argument(value: Any) -> None:
    dtype = re.escape(str(np.asarray(value).dtype))
    with pytest.raises(TypeError, match=f"h_0: expected float32 .*got {dtype}"):
        as_float32("h_0", value)


def test_real_floating_types_are_converted() -> None:
    """Lists, scalars, wider, narrower, bfloat16; overflow is infinity, in silence."""
    assert as_float32("x", [[0.5, 1.5]]).tolist() == [[0.5, 1.5]]
    assert as_float32("x", 0.5).shape == ()
    for dtype in (np.float16, np.float64, np.longdouble, ml_dtypes.bfloat16):
        assert as_float32("x", np.array([0.5], dtype)).tolist() == [0.5]
    assert as_float32("x", np.array([1e300, -1e300, 1e-300])).tolist() == [math.inf, -math.inf, 0]
    with pytest.raises(fastgru.ShapeError, match="x: not a rectangular array"):
        as_float32("x", [[1.0], [1.0, 2.0]])


def test_torch_tensors(torch: ModuleType) -> None:
    """Detached, widened, views of the same memory where possible."""
    tensor = torch.randn(4, 6)
    assert np.shares_memory(as_float32("x", tensor), tensor.numpy())
    for t in (tensor.requires_grad_(), torch.nn.Parameter(tensor), tensor.T, tensor[:, ::2]):
        assert same_bits(as_float32("x", t), t.detach().numpy())
    half = tensor.detach().bfloat16()
    assert same_bits(as_float32("x", half), half.float().numpy())
    for bad in (torch.ones(2, dtype=torch.int32), torch.ones(2) * 1j, torch.ones(2) > 0):
        with pytest.raises(TypeError, match="x: expected float32"):
            as_float32("x", bad)
    with pytest.raises(TypeError, match="x: expected a dense tensor"):
        as_float32("x", torch.eye(3).to_sparse())
    with pytest.raises(
        TypeError, match=r"x: expected a tensor in CPU memory, got one on meta.*cpu\(\)"
    ):
        as_float32("x", torch.ones(2, device="meta"))


def test_a_cuda_tensor_is_refused_with_advice() -> None:
    """As far as one can be imitated without the hardware."""
    device = SimpleNamespace(type="cuda", __str__=lambda: "cuda:0")
    tensor = SimpleNamespace(device=device, detach=None, numpy=None)
    with pytest.raises(TypeError, match=r"x: .*\.cpu\(\)"):
        as_float32("x", tensor)


def test_integers(torch: ModuleType) -> None:
    """lengths: any width, lists, tensors; no bools, no floats, no wrapping around."""
    for value in ([3, 0], (3, 0), np.array([3, 0], np.uint8), torch.tensor([3, 0])):
        result = as_int64("lengths", value)
        assert result.dtype == np.int64
        assert result.tolist() == [3, 0]
    assert as_int64("lengths", np.arange(6)[::2]).flags.c_contiguous
    assert as_int64("lengths", []).shape == (0,)
    assert as_int64("lengths", 3).shape == ()
    assert as_int64("lengths", np.array([2**64 - 1], np.uint64))[0] == 2**63 - 1
    for bad in ([1.0], [True], ["1"], np.zeros(2, "m8[s]"), None, [2**70]):
        with pytest.raises(TypeError, match="lengths: expected integers"):
            as_int64("lengths", bad)  # type: ignore[arg-type]


# ---- PackedSequence without torch ----


class Packed(tuple):  # type: ignore[type-arg]
    """Looks like torch's; holds NumPy arrays."""

    def __new__(cls, *parts: Any) -> Packed:
        return super().__new__(cls, parts)

    data = property(lambda self: self[0])
    batch_sizes = property(lambda self: self[1])
    sorted_indices = property(lambda self: self[2])
    unsorted_indices = property(lambda self: self[3])


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ((np.ones((5, I)), [2, 3], None, None), "batch_sizes"),
        ((np.ones((5, I)), [3, 1], None, None), "a sum of 5, got 4"),
        ((np.ones((3, I)), [3, 0], None, None), "batch_sizes"),
        ((np.ones((0, I)), [], None, None), "batch_sizes"),
        ((np.ones(5), [3, 2], None, None), "x.data: expected"),
        ((np.ones((5, I)), [3, 2], [0, 0, 1], [0, 1, 2]), "sorted_indices: expected a permutation"),
        (
            (np.ones((5, I)), [3, 2], [0, 1, 2], [0, 1, 3]),
            "unsorted_indices: expected a permutation",
        ),
    ],
)
def test_packed_sequences_that_contradict_themselves(parts: tuple[Any, ...], problem: str) -> None:
    """Made by hand they can say anything; nothing is read out of bounds."""
    gru = make_gru(weights())
    with pytest.raises(ValueError, match=problem):
        gru(Packed(*parts), np.zeros((1, 3, H), np.float32))


def test_packed_sequences_come_back_as_what_they_were() -> None:
    """h_0 and h_n in the user's order, output in the packed one."""
    gru, rng = make_gru(weights()), np.random.default_rng(1)
    rows, h_0 = [random_input(rng, n, I) for n in (2, 3)], random_input(rng, 1, 2, H)
    data = np.stack([rows[1][0], rows[0][0], rows[1][1], rows[0][1], rows[1][2]])
    packed, h_n = gru(Packed(data, [2, 2, 1], [1, 0], [1, 0]), h_0)
    assert type(packed) is Packed
    for row, places in enumerate(([1, 3], [0, 2, 4])):
        output, last = gru(rows[row], h_0[:, row])
        assert same_bits(packed.data[places], output)
        assert same_bits(h_n[:, row], last)
    with pytest.raises(ValueError, match="lengths: a PackedSequence has its own"):
        gru(packed, lengths=[1, 2])
    with pytest.raises(fastgru.ShapeError, match=r"^h_0: expected \(1, 2, 5\), got \(1, 1, 5\)$"):
        gru(Packed(data, [2, 2, 1], [1, 0], [1, 0]), h_0[:, :1])
