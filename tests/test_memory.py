"""Promises 3 and 4: memory that a process no longer needs goes back to the system.

Counted by the bytes that a new process has mapped, so that nothing else is in the figures.
"""

from __future__ import annotations

import sys

import pytest

from conftest import run_python

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

SETUP = """
import gc, threading
import numpy as np
import fastgru

MiB = 1 << 20

def mapped():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * 4096

def weights(H):
    rng = np.random.default_rng(0)
    return {
        f"weight_{kind}_l{layer}{direction}": rng.uniform(-0.1, 0.1, (3 * H, K)).astype(np.float32)
        for layer in (0, 1)
        for direction in ("", "_reverse")
        for kind, K in (("ih", H * (1 + layer)), ("hh", H))
    }

def network(H, **options):
    return fastgru.GRU.from_state_dict(weights(H), **options)

# A call that takes 20 to 40 MiB of scratch: layer 0's output, whole, for 8 rows and two directions.
gru = network(16, num_threads=1)
long = np.ones((30000, 8, 16), np.float32)
out = gru(long[:2])
"""


def output_of(code: str) -> str:
    # Arrays of NumPy's as mappings of their own, so that they are not in the figures once deleted.
    result = run_python(SETUP + code, {"MALLOC_MMAP_THRESHOLD_": "131072"})
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_weights_go_back_when_a_model_is_deleted() -> None:
    """Nothing stays of models of 8 MB each, made and deleted by turns, whatever malloc would do."""
    code = """
tensors = weights(256)
before = mapped()
most = 0
for _ in range(6):
    model = fastgru.GRU.from_state_dict(tensors)
    size = model.nbytes
    most = max(most, mapped() - before)
    del model
print(size > 7 * MiB, size <= most < size + 2 * MiB, mapped() - before < MiB / 2)
"""
    # With malloc's own threshold, which the first large array that is freed would raise.
    result = run_python(SETUP + "x = np.ones(32 * MiB, np.uint8)\ndel x\n" + code)
    assert result.stdout.strip() == "True True True", result.stderr


def test_release_memory_gives_back_the_calling_threads_scratch() -> None:
    """What a long call leaves behind is gone after release_memory, and results do not change."""
    code = """
expected = gru(long)[0].copy()
fastgru.release_memory()
before = mapped()
same = np.array_equal(gru(long)[0], expected)
kept = mapped() - before
fastgru.release_memory()
print(same, 20 * MiB <= kept <= 64 * MiB, mapped() - before < MiB)
"""
    assert output_of(code) == "True True True"


def test_other_threads_give_theirs_back_with_their_next_call() -> None:
    """An idle thread keeps its scratch until its next call ends, however short that is."""
    code = """
called, release, again, released, end = (threading.Event() for _ in range(5))
def work():
    gru(long[:2])
    started.set()
    go.wait()
    gru(long)
    called.set()
    release.wait()
    gru(long[:2])
    released.set()
    end.wait()
started, go = threading.Event(), threading.Event()
thread = threading.Thread(target=work)
thread.start()
started.wait()
before = mapped()
go.set()
called.wait()
kept = mapped() - before
fastgru.release_memory()
after_release = mapped() - before
release.set()
released.wait()
print(kept >= 20 * MiB, after_release >= 20 * MiB, mapped() - before < 2 * MiB)
end.set()
thread.join()
"""
    assert output_of(code) == "True True True"


def test_memory_is_released_while_other_threads_call() -> None:
    """Calls of several threads have the same bits while another thread gives memory back."""
    code = """
x = long[:400]
expected = [a.copy() for a in gru(x)]
running = 2
wrong = []
def work():
    global running
    for _ in range(100):
        y, h_n = gru(x)
        if not (np.array_equal(y, expected[0]) and np.array_equal(h_n, expected[1])):
            wrong.append(1)
    running -= 1
threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads:
    thread.start()
while any(thread.is_alive() for thread in threads):
    fastgru.release_memory()
print(len(wrong))
"""
    assert output_of(code) == "0"
