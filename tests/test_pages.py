"""No kernel reads or writes a byte beyond the caller's arrays, in the build that users have.

The sanitizers cannot promise that: they look at another build, and at no masked instruction.
So arrays end where the next page must not be touched, or begin just behind such a page.
"""

from __future__ import annotations

from conftest import run_python

ROOM = """
import ctypes, itertools, mmap, sys
import numpy as np
import fastgru

PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

class Room:
    '''Memory for one array between two pages that must not be touched.'''

    def __init__(self):
        self.size = 16 * PAGE
        self.map = mmap.mmap(-1, self.size + 2 * PAGE)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        for page in (base, base + PAGE + self.size):
            if libc.mprotect(page, PAGE, 0) != 0:
                sys.exit("mprotect failed")

    def array(self, shape, at_end, values=None):
        nbytes = 4 * int(np.prod(shape))
        offset = PAGE + (self.size - nbytes if at_end else 0)
        a = np.frombuffer(self.map, np.float32, nbytes // 4, offset).reshape(shape)
        a[...] = np.nan if values is None else values
        return a
"""

CASES = """
rooms = [Room() for _ in range(3)]
rng = np.random.default_rng(1)
cases = 0
for H, precision, after in itertools.product(
    [*range(1, 21), 31, 32, 33, 47], ["float32", "bfloat16", "int8"], [True, False]
):
    I = 1 + H % 7
    weights = {
        "weight_ih_l0": rng.uniform(-1, 1, (3 * H, I)).astype(np.float32),
        "weight_hh_l0": rng.uniform(-1, 1, (3 * H, H)).astype(np.float32) / H,
    }
    gru = fastgru.GRU.from_state_dict(weights, reset_after=after, precision=precision)
    for B, T, at_end in itertools.product([1, 2, 5, 16, 18, 33], [1, 3], [True, False]):
        x = rng.standard_normal((T, B, I)).astype(np.float32)
        h = rng.uniform(-1, 1, (1, B, H)).astype(np.float32)
        expected, _ = gru(x, h)
        stream = gru.stream(B, h_0=rooms[0].array((1, B, H), at_end, h))
        got = stream.run(
            rooms[1].array(x.shape, at_end, x), out=rooms[2].array((T, B, H), at_end)
        )
        assert np.array_equal(got, expected), (H, precision, after, B, T, at_end)
        got, h_n = gru(
            rooms[1].array(x.shape, at_end, x), rooms[0].array((1, B, H), at_end, h)
        )
        assert np.array_equal(got, expected), (H, precision, after, B, T, at_end)
        cases += 1
print(cases)
"""


def test_nothing_beyond_the_arrays_is_touched(isa: str) -> None:
    """Narrow and padded layers, few and many rows, every precision: the results and no fault."""
    done = run_python(ROOM + CASES, {"FASTGRU_ISA": isa})
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 24 * 3 * 2 * 6 * 2 * 2


def test_the_pages_are_guarded() -> None:
    """Touching one float beyond an array ends the process, or the test above says nothing."""
    touch = "ctypes.c_float.from_address(Room().array((4,), True).ctypes.data + 16).value = 1.0"
    done = run_python(ROOM + touch)
    assert done.returncode < 0, "a byte beyond the array was written and nothing happened"
