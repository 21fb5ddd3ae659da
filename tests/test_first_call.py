"""Promise 5: the first call does what every call does, but for scratch memory and threads.

No packing, detection of the machine or import is left for it. No time is asserted: a new process
looks at what the calls read, import and keep in memory. That a repeated shape allocates nothing is
in cpp/test_allocations.cpp, and what the first call costs in benchmarks/.
"""

from __future__ import annotations

import pytest

from conftest import run_python

SETUP = """
import resource, sys
import numpy as np, fastgru
rng = np.random.default_rng(0)
def weights(inputs, hidden):
    shapes = {"weight_ih_l0": (3 * hidden, inputs), "weight_hh_l0": (3 * hidden, hidden)}
    return {name: rng.uniform(-0.1, 0.1, s).astype(np.float32) for name, s in shapes.items()}
def gru(precision, hidden):
    return fastgru.GRU.from_state_dict(weights(16, hidden), precision=precision)
def model(precision, hidden):
    linear = fastgru.Linear(rng.uniform(-1, 1, (10, hidden)))
    return fastgru.Model([gru(precision, hidden), fastgru.Tanh(), fastgru.Last(), linear,
                          fastgru.Softmax()])
x = rng.standard_normal((40, 8, 16)).astype(np.float32)
network = NETWORK
stream, pool = network.stream(8), network.pool(8)
ids = [pool.open() for _ in range(8)]
call = {"call": lambda: network(x), "run": lambda: stream.run(x),
        "step": lambda: stream.step(x[0]), "pool": lambda: pool.step(ids, x[0])}["CALL"]
"""


def output_of(code: str, network: str, precision: str, call: str, hidden: int = 64) -> str:
    made = f"{network}({precision!r}, {hidden})"
    setup = SETUP.replace("NETWORK", made).replace("CALL", call)
    done = run_python(setup + code)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("network", ["gru", "model"])
@pytest.mark.parametrize("call", ["call", "run", "step", "pool"])
def test_it_reads_no_files_and_imports_nothing(network: str, call: str) -> None:
    """The machine's caches and cores, and the modules for it, are known before."""
    code = """
import re
try:
    def reads():
        "How many times this process has read from a file."
        with open("/proc/self/io", "rb", 0) as file:
            return int(re.search(rb"syscr: ([0-9]+)", file.read(1000))[1])
    reads()
except OSError:
    print("cannot tell")
    sys.exit()
own = -reads() + reads()
modules = set(sys.modules)
before = reads()
call()
print(reads() - before - own, "reads,", len(set(sys.modules) - modules), "imports")
"""
    told = output_of(code, network, "float32", call)
    if told == "cannot tell":
        pytest.skip("the system does not count what a process reads")
    assert told == "0 reads, 0 imports"


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_it_packs_nothing(precision: str) -> None:
    """Weights of 4 MB and more are packed when they are loaded: a step needs no such memory."""
    code = """
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
try:
    resident()
except OSError:
    print("cannot tell")
    sys.exit()
before = resident()
call()
print("little" if resident() - before < network.nbytes / 2 else resident() - before)
"""
    told = output_of(code, "model", precision, "step", hidden=1200)
    if told == "cannot tell":
        pytest.skip("the system does not tell what memory a process has")
    assert told == "little"
