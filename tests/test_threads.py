"""Promise 3: a good neighbour in a service.

Thread counts come from where the README says, one thread means no parallel region, children of fork
work, PyTorch's own OpenMP does no harm, and importing leaves the process as it was. Most of this is
about a whole process, so it is tried in a new one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import fastgru
from conftest import (
    make_gru,
    random_input,
    random_weights,
    run_python,
    same_bits,
    torch_gru,
)
from fastgru import _core

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc or the CPU affinity")
cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
several_cores = pytest.mark.skipif(cores < 2, reason="needs 2 cores")
fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
OPENMP = fastgru.cpu_info().openmp_runtime != "none"
has_openmp = pytest.mark.skipif(not OPENMP, reason="built without OpenMP")

# A network and an input that are worth two threads, and ways to look at the process.
SETUP = """
import os, sys
import numpy as np
import fastgru

def tasks():
    return len(os.listdir("/proc/self/task"))

rng = np.random.default_rng(0)
H = 256
weights = {
    "weight_ih_l0": rng.uniform(-0.1, 0.1, (3 * H, 32)).astype(np.float32),
    "weight_hh_l0": rng.uniform(-0.1, 0.1, (3 * H, H)).astype(np.float32),
}
x = rng.standard_normal((40, 32, 32)).astype(np.float32)

def network(n=None):
    return fastgru.GRU.from_state_dict(weights, num_threads=n)
"""
NO_CHOICE: dict[str, str | None] = {"FASTGRU_NUM_THREADS": None, "OMP_NUM_THREADS": None}


def output_of(code: str, env: dict[str, str | None] | None = None) -> str:
    result = run_python(SETUP + code, {**NO_CHOICE, **(env or {})})
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize(
    ("own", "openmp", "expected"),
    [
        ("1", None, 1),
        ("3", None, 3),
        (None, "1", 1),
        (None, "3", 3),
        ("1", "3", 1),
        ("3", "1", 3),
        (None, "3,2", 3),  # OpenMP's lists are for nested regions
    ],
)
def test_environment(own: str | None, openmp: str | None, expected: int) -> None:
    """FASTGRU_NUM_THREADS, else OMP_NUM_THREADS; set_num_threads goes before both.

    Each is a ceiling: in a build without OpenMP there is one thread, and that is what is told.
    """
    env = {"FASTGRU_NUM_THREADS": own, "OMP_NUM_THREADS": openmp}
    show = "print(fastgru.get_num_threads())"
    assert output_of(show, env) == (str(expected) if OPENMP else "1")
    assert output_of("fastgru.set_num_threads(2)\n" + show, env) == ("2" if OPENMP else "1")


@linux
def test_default_follows_affinity() -> None:
    """Without any choice: the cores that this process may run on, when it asks."""
    show = "print(fastgru.get_num_threads(), fastgru.cpu_info().num_threads)"
    before, info = output_of(show).split()
    assert before == info
    assert 1 <= int(before) <= cores
    pin = "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    assert output_of(pin + show) == "1 1"


def test_settings_and_their_errors() -> None:
    """set_num_threads and model.num_threads take integers from 1 and are what they were set to."""
    before = fastgru.get_num_threads()
    try:
        fastgru.set_num_threads(3)
        most = 3 if OPENMP else 1
        assert fastgru.get_num_threads() == most
        assert fastgru.cpu_info().num_threads == most
        for bad in (0, -1):
            with pytest.raises(ValueError, match=str(bad)):
                fastgru.set_num_threads(bad)
        for wrong in (1.5, "2", None):
            with pytest.raises(TypeError):
                fastgru.set_num_threads(wrong)  # type: ignore[arg-type]
        assert fastgru.get_num_threads() == most
    finally:
        fastgru.set_num_threads(before)
    gru = make_gru(random_weights(np.random.default_rng(0), 3, 4))
    gru.num_threads = 2
    assert gru.num_threads == 2


def test_a_build_without_openmp_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CMake warns with the remedy, and cpu_info tells: one thread must not be a silent surprise."""
    monkeypatch.setattr(_core, "openmp_runtime", lambda: "none")
    assert "\nthreads      1 (built without OpenMP)\n" in str(fastgru.cpu_info())
    monkeypatch.undo()
    assert ("built without OpenMP" in str(fastgru.cpu_info())) is not OPENMP
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("no CMake")
    configure = [cmake, "-S", str(Path(__file__).parents[1]), "-B", str(tmp_path)]
    configure += ["-DFASTGRU_BUILD_PYTHON=OFF", "-DCMAKE_DISABLE_FIND_PACKAGE_OpenMP=ON"]
    done = subprocess.run(configure, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("no C++ compiler")
    told = " ".join(done.stderr.split())
    assert "fastgru is built without OpenMP: every call will run on one thread" in told
    assert "libomp-dev" in told


@linux
@has_openmp
@several_cores
def test_one_thread_means_no_region() -> None:
    """num_threads=1, from wherever, starts no thread; 2 does where the work is worth it.

    Without the second half the first, and every test that compares thread counts, could not fail.
    """
    count = "\nbefore = tasks(); network({n})(x); print(tasks() - before)"
    assert output_of(count.format(n=1)) == "0"
    assert output_of("fastgru.set_num_threads(1)" + count.format(n=None)) == "0"
    assert output_of(count.format(n=None), {"FASTGRU_NUM_THREADS": "1"}) == "0"
    assert output_of(count.format(n=None), {"OMP_NUM_THREADS": "1"}) == "0"
    assert output_of(count.format(n=2)) == "1"
    assert output_of(count.format(n=2), {"FASTGRU_NUM_THREADS": "1"}) == "1"  # the model's wins
    assert output_of("fastgru.set_num_threads(1)" + count.format(n=2)) == "1"


@linux
@has_openmp
@several_cores
def test_num_threads_is_a_ceiling_for_this_model_alone() -> None:
    """A changed num_threads holds from the next call on, for this model only."""
    code = """
one, two = network(1), network(2)
before = tasks()
one(x)
print(tasks() - before)
one.num_threads = 2
two.num_threads = 1
two(x)
print(tasks() - before)
one(x)
print(tasks() - before)
"""
    assert output_of(code).split() == ["0", "0", "1"]


@linux
@has_openmp
@several_cores
@pytest.mark.parametrize(
    "narrow",
    [
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})",
        "fastgru._core.set_core_limit(1)",  # what importing does under a cgroup quota of one core
    ],
    ids=["affinity", "quota"],
)
def test_a_call_starts_no_more_threads_than_cores(narrow: str) -> None:
    """num_threads is a ceiling: one core, by affinity or quota, means one thread."""
    code = f"""
{narrow}
gru = network(2)
before = tasks()
for _ in range(10):
    gru(x)
print(tasks() - before)
"""
    assert output_of(code) == "0"


@linux
@has_openmp
@several_cores
def test_threads_are_asleep_soon_after_a_call() -> None:
    """The started thread's own CPU time while the process idles: libgomp's policy would burn 8 ms.

    200 us is promised. CPU time of that thread alone, and the least of many rounds, since a busy
    machine can only add to it: a thread that spins spins in every round.
    """
    code = """
import time
gru = network(2)
before = set(os.listdir("/proc/self/task"))
for _ in range(100):  # beside a busy process a call may keep to one thread
    gru(x)
    started = set(os.listdir("/proc/self/task")) - before
    if started:
        break
(thread,) = started
def cpu_time():  # of that thread: what pthread_getcpuclockid() gives for it
    return time.clock_gettime_ns((~int(thread) << 3) | 6)
def idle():
    for _ in range(100):
        asleep = cpu_time()
        gru(x)
        begin = cpu_time()
        if begin > asleep:  # it took part, and may wait for more work now
            break
    time.sleep(0.05)
    return cpu_time() - begin
print(min(idle() for _ in range(20)))
"""
    policy: dict[str, str | None] = {"OMP_WAIT_POLICY": None, "GOMP_SPINCOUNT": None}
    assert int(output_of(code, policy)) < 2_000_000  # nanoseconds
    # The same, told to wait for as long as libgomp would: this is what the test can see.
    assert int(output_of(code, {**policy, "GOMP_SPINCOUNT": "3000000"})) > 2_000_000


# One long sequence: threads share the units of a layer and meet in every step.
LONG = """
long = rng.standard_normal((600, 32)).astype(np.float32)
"""


@has_openmp
@several_cores
def test_one_sequence_on_two_threads_beside_a_busy_process() -> None:
    """Threads that meet in every step finish with the same bits when another process has a core."""
    code = f"""
{LONG}
import subprocess, time
busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
try:
    expected, gru = network(1)(long)[0], network(2)
    begin = time.monotonic()
    while time.monotonic() - begin < 2:
        assert np.array_equal(gru(long)[0], expected)
finally:
    for process in busy:
        process.kill()
        process.wait()
print("fine")
"""
    assert output_of(code) == "fine"


@fork
@has_openmp
@several_cores
def test_one_sequence_on_two_threads_in_a_child() -> None:
    """A child of a process whose threads shared a sequence shares one, with the same bits."""
    code = f"""
{CHILD}
{LONG}
expected, gru = network(1)(long)[0], network(2)
def same():
    return all(np.array_equal(gru(long)[0], expected) for _ in range(8))
print(same(), in_child(same), same())
"""
    assert output_of(code) == "True 0 True"


CHILD = """
def in_child(work, seconds=30):
    "Exit status of a child that runs work(); kills and reports one that hangs."
    import signal, time
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if work() else 3)
        finally:
            os._exit(4)
    for _ in range(seconds * 100):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hangs"
"""


@fork
@pytest.mark.parametrize(
    "parent", ["network(2)(x)", "network(1)(x)", "pass"], ids=["parallel", "serial", "idle"]
)
def test_children_of_fork(parent: str) -> None:
    """A child, and its child, run in parallel with the same bits, whatever the parent has done."""
    code = f"""
{CHILD}
expected = network(1)(x)[0]
{parent}
gru = network(2)
def same():
    return all(np.array_equal(gru(x)[0], expected) for _ in range(3))
def same_and_grandchild():
    return same() and in_child(same) == 0 and same()
print(in_child(same_and_grandchild), in_child(same), same())
"""
    assert output_of(code) == "0 0 True"


@fork
@linux
@has_openmp
@several_cores
@pytest.mark.parametrize(
    "parent", ["for _ in range(9): network(2)(x)", "pass"], ids=["ran", "idle"]
)
def test_threads_of_a_child_are_worth_their_start(parent: str) -> None:
    """In a forked child another thread starts the regions, which costs more than a step saves.

    Steps that two threads would share in the parent stay on one in its child, as often as they
    come; long calls use two, whose regions a third one starts. Bits are the same in all of them.
    """
    code = f"""
{CHILD}
gru, one = network(2), network(1)
step = x[:1, :4]
expected = one(x)[0], one(step)[0]
{parent}
def steps_then_a_call():
    before = tasks()
    same = all(np.array_equal(gru(step)[0], expected[1]) for _ in range(300))
    after_steps = tasks() - before
    # One thread works for a while where another program has a core.
    for _ in range(2000):
        same = same and np.array_equal(gru(x)[0], expected[0])
        if tasks() - before == 2:
            break
    same = same and all(np.array_equal(gru(step)[0], expected[1]) for _ in range(300))
    return same and after_steps == 0 and tasks() - before == 2
print(in_child(steps_then_a_call))
"""
    assert output_of(code) == "0"


@fork
def test_fork_while_other_threads_run() -> None:
    """A child made while another thread is inside a parallel call runs its own."""
    code = f"""
import threading, warnings
warnings.simplefilter("ignore")  # Python 3.12 warns of fork with threads; that is the point here
{CHILD}
expected = network(1)(x)[0]
gru = network(2)
stop = threading.Event()
def busy():
    while not stop.is_set():
        gru(x)
thread = threading.Thread(target=busy)
thread.start()
def same():
    return np.array_equal(gru(x)[0], expected)
print(*[in_child(same) for _ in range(10)])
stop.set()
thread.join()
print(same())
"""
    assert output_of(code).split() == ["0"] * 10 + ["True"]


OPENMP_LIBRARY = r"""
#include <omp.h>
extern "C" int run_region(int threads) {
  int count = 0;
#pragma omp parallel num_threads(threads) reduction(+ : count)
  count += 1;
  return count;
}
"""


@fork
@linux
def test_fork_after_another_librarys_region(tmp_path: Path) -> None:
    """Another library in the process shares libgomp and has run a region: fastgru's child works."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("no C++ compiler")
    source, library = tmp_path / "region.cpp", tmp_path / "libregion.so"
    source.write_text(OPENMP_LIBRARY)
    built = subprocess.run(
        [compiler, "-shared", "-fPIC", "-fopenmp", str(source), "-o", str(library)],
        capture_output=True,
        check=False,
    )
    if built.returncode:
        pytest.skip("the C++ compiler has no OpenMP")
    code = f"""
{CHILD}
import ctypes
other = ctypes.CDLL({str(library)!r})
gru, expected = network(2), network(1)(x)[0]
assert other.run_region(2) == 2
def same():
    return np.array_equal(gru(x)[0], expected)
print(in_child(same), same(), other.run_region(2))
"""
    assert output_of(code) == "0 True 2"


def test_beside_torch(torch: ModuleType) -> None:
    """PyTorch with its OpenMP and fastgru with its own alternate in one process, and agree."""
    rng = np.random.default_rng(1)
    weights = random_weights(rng, 64, 256)
    x = random_input(rng, 20, 16, 64)
    gru, module = make_gru(weights, num_threads=2), torch_gru(torch, weights)
    expected = gru(x)[0]
    with torch.no_grad():
        torchs = module(torch.from_numpy(x))[0].numpy()
        assert np.abs(torchs - expected).max() < 1e-5
        for _ in range(20):
            assert np.array_equal(module(torch.from_numpy(x))[0].numpy(), torchs)
            assert same_bits(gru(x)[0], expected)


@pytest.mark.parametrize("order", [("torch", "fastgru"), ("fastgru", "torch")])
def test_either_may_be_imported_first(order: tuple[str, str], torch: ModuleType) -> None:
    """Both orders of importing torch and fastgru work, with both running in parallel."""
    del torch  # it is installed
    code = f"""
import {order[0]}
import {order[1]}
{SETUP}
first = network(2)(x)[0]
torch.set_num_threads(2)
a = torch.randn(300, 300)
for _ in range(5):
    a @ a
    assert np.array_equal(network(2)(x)[0], first)
print("fine")
"""
    result = run_python(code)
    assert (result.returncode, result.stdout.strip()) == (0, "fine"), result.stderr


@linux
@pytest.mark.parametrize("choice", [None, "7"])
def test_importing_leaves_no_trace(choice: str | None) -> None:
    """No output, no signal handlers, no threads, and the environment as it was found, in C too."""
    code = """
import ctypes, os, signal, sys
import numpy
libc = ctypes.CDLL(None)
libc.getenv.restype = ctypes.c_char_p
names = ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "FASTGRU_ISA", "KMP_BLOCKTIME"]
def look():
    return (
        dict(os.environ),
        [libc.getenv(name.encode()) for name in names],
        [signal.getsignal(number) for number in signal.valid_signals()],
        len(os.listdir("/proc/self/task")),
        os.getcwd(),
        sys.path[:],
    )
before = look()
import fastgru
after = look()
assert before == after, (before, after)
assert "torch" not in sys.modules
"""
    result = run_python(code, {"GOMP_SPINCOUNT": choice, "OMP_WAIT_POLICY": None})
    assert (result.returncode, result.stdout, result.stderr) == (0, "", ""), result.stderr


def test_lengths_that_change_during_a_call_do_no_harm() -> None:
    """Lengths are checked and used from one copy: another thread may write into the array."""
    rng = np.random.default_rng(0)
    gru = fastgru.GRU.from_state_dict(random_weights(rng, 5, 16))
    x = rng.standard_normal((2, 2000, 5)).astype(np.float32)
    lengths = np.ones(2000, np.int64)
    stop = threading.Event()

    def disturb() -> None:
        while not stop.is_set():
            lengths[:] = 10**7
            lengths[:] = 1

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        for _ in range(200):
            with contextlib.suppress(ValueError):
                gru(x, lengths=lengths)
    finally:
        stop.set()
        thread.join()


def test_daemon_threads_end_quietly_with_the_interpreter() -> None:
    """A daemon thread that computes when the interpreter ends must not abort the process."""
    done = run_python(
        textwrap.dedent("""
        import threading, time
        import numpy as np, fastgru
        weights = {"weight_ih_l0": np.ones((192, 64), np.float32),
                   "weight_hh_l0": np.ones((192, 64), np.float32)}
        gru = fastgru.GRU.from_state_dict(weights, num_threads=1)
        x = np.zeros((200, 4, 64), np.float32)
        def work():
            while True:
                gru(x)
        for _ in range(3):
            threading.Thread(target=work, daemon=True).start()
        time.sleep(0.3)
        """)
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("text", ["abc", "0", "-3", "2x", "1e3"])
def test_a_malformed_thread_count_is_refused(text: str) -> None:
    """FASTGRU_NUM_THREADS is not silently something else."""
    done = run_python(
        "import fastgru; fastgru.get_num_threads()", env={"FASTGRU_NUM_THREADS": text}
    )
    assert done.returncode != 0
    assert "FASTGRU_NUM_THREADS: expected an integer of at least 1" in done.stderr
