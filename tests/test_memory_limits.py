"""Where memory ends, files give MemoryError, and the process lives on.

A service that holds the sessions of many clients must not die of one file.
"""

from __future__ import annotations

import json
import os
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

import fastgru
from commands import DATA, I, assert_user_error, command, save_npz, weights
from conftest import run_python

LEVELS = 40
# One process sets up what a call needs, and then forks for each level, which is cheap. A child may
# take `room` bytes more than it has; the last level is where the call works.
CODE = """
import ctypes, json, os, resource, sys
import numpy as np, fastgru

folder, name, levels = sys.argv[1:]
rng = np.random.default_rng(0)

def gru(inputs, hidden):
    return fastgru.GRU.from_state_dict({
        "weight_ih_l0": rng.uniform(-1, 1, (3 * hidden, inputs)).astype(np.float32),
        "weight_hh_l0": rng.uniform(-1, 1, (3 * hidden, hidden)).astype(np.float32),
    }, batch_first=False)

def memory(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))

def pool(count):
    made = gru(2, 16).pool(count)
    for _ in range(count):
        made.open()
    return made

kind, _, file = name.partition(" ")
if kind == "load":
    said = {} if file.endswith((".keras", ".h5")) else {"batch_first": False}
    call = lambda: fastgru.load(os.path.join(folder, file), **said)
elif kind == "save":
    model = gru(50, 200).to(file)
    call = lambda: model.save(folder + "/saved")
elif kind == "snapshot":
    sessions = pool(5000)
    call = lambda: sessions.snapshot(folder + "/saved")
else:
    sessions = gru(2, 16).pool(5000)
    call = lambda: sessions.restore(folder + "/sessions")
if kind == "make":
    gru(50, 200).save(folder + "/float32")
    gru(50, 200).to("int8").save(folder + "/int8")
    np.savez_compressed(folder + "/packed.npz", **gru(50, 200).tensors())
    pool(5000).snapshot(folder + "/sessions")
    import onnx
    from onnx import helper, numpy_helper
    floats = onnx.TensorProto.FLOAT
    helper_graph = helper.make_graph(
        [helper.make_node("GRU", ["x", "w", "r"], ["y"], hidden_size=200, linear_before_reset=1)],
        "gru",
        [helper.make_tensor_value_info("x", floats, ["T", "B", 50])],
        [helper.make_tensor_value_info("y", floats, ["T", 1, "B", 200])],
        [numpy_helper.from_array(rng.uniform(-1, 1, shape).astype(np.float32), name)
         for name, shape in (("w", (1, 600, 50)), ("r", (1, 600, 200)))],
    )
    onnx.save(helper.make_model(helper_graph), folder + "/gru.onnx")
    sys.exit()

def outcome(room):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        said = "nothing"
        try:
            before = memory("VmSize")
            if room is not None:
                resource.setrlimit(resource.RLIMIT_AS, (before + room, -1))
            call()
            said = str(memory("VmPeak") - before)
        except MemoryError:
            said = "MemoryError"
        except BaseException as error:
            said = type(error).__name__ + ": " + str(error)[:200]
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return said if status == 0 else f"exit status {status}"

ctypes.CDLL(None).malloc_trim(0)
most = int(outcome(None))
found = [outcome(most * level // int(levels)) for level in range(int(levels))]
print(json.dumps({"most": most, "found": found}))
left = [entry for entry in os.listdir(folder) if entry.startswith(".")]
assert not left, left
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files")
    done = run_python(f"import sys; sys.argv[1:] = [{str(path)!r}, 'make', '0']\n{CODE}")
    assert done.returncode == 0, done.stderr
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and RLIMIT_AS")
@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="ASan maps terabytes")
@pytest.mark.parametrize(
    "name",
    [
        "load float32", "load int8", "load packed.npz", "load gru.onnx",
        f"load {DATA / 'checkpoint.pt'}", f"load {DATA / 'keras' / 'chain_3.keras'}",
        f"load {DATA / 'keras' / 'tagger_3.weights.h5'}",
        "save float32", "save bfloat16", "save int8", "snapshot", "restore",
    ],
)  # fmt: skip
def test_memory_that_ends_is_a_memory_error(folder: Path, name: str) -> None:
    """At every level: also where an import is what ends it. Nothing is left beside the file.

    And no call asks for memory beyond all measure, as a read of an ONNX file did for 2 GB.
    """
    code = f"import sys; sys.argv[1:] = [{str(folder)!r}, {name!r}, '{LEVELS}']\n{CODE}"
    done = run_python(code, timeout=300)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["most"] < 1 << 30
    found = said["found"]
    assert len(found) == LEVELS
    assert {said for said in found if not said.isdigit()} == {"MemoryError"}


@pytest.mark.parametrize("name", ["info", "export", "run", "verify"])
def test_commands_say_it_in_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is the model that does not fit, which no --batch-size mends."""
    save_npz(tmp_path / "w.npz", weights())
    np.save(tmp_path / "x.npy", np.zeros((2, 3, I), np.float32))
    arguments: dict[str, list[object]] = {
        "info": [tmp_path / "w.npz"],
        "export": [tmp_path / "w.npz", tmp_path / "gru"],
        "run": [tmp_path / "w.npz", tmp_path / "x.npy", "-o", tmp_path / "y.npy"],
        "verify": [tmp_path / "w.npz", tmp_path / "w.npz"],
    }

    def fail(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 3.00 MiB")

    monkeypatch.setattr(fastgru.formats, "spec_from_tensors", fail)
    done = command(capsys, name, *arguments[name])
    assert_user_error(done, "not enough memory", "Unable to allocate 3.00 MiB")
    assert "--batch-size" not in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.npz", "x.npy"]


def test_what_is_no_lack_of_memory_is_not_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that is missing is an ImportError; what cannot be mapped or compiled is none."""
    from fastgru.importing import importing  # noqa: PLC0415

    with pytest.raises(ModuleNotFoundError), importing():
        import no_such_module  # type: ignore[import-not-found]  # noqa: F401, PLC0415
    for error in (
        ImportError("lib.so: failed to map segment from shared object"),
        ImportError("lib.so: cannot create shared object descriptor: Cannot allocate memory"),
        SystemError("compile returned NULL without setting an exception"),
        SyntaxError("expected ':'"),
    ):
        with pytest.raises(MemoryError), importing():
            raise error
    assert np.ones(1).size  # the process lives


def test_zlib_without_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It calls that an error of its own, as if the archive were damaged."""

    def fail(*_: object) -> None:
        raise zlib.error("Error -4 while decompressing data: out of memory")

    np.savez_compressed(tmp_path / "file.npz", weight_ih_l0=np.ones((6, 3), np.float32))
    monkeypatch.setattr(zipfile.ZipExtFile, "read", fail)
    with pytest.raises(MemoryError, match="weight_ih_l0: Error -4"):
        fastgru.load(tmp_path / "file.npz", batch_first=False)
