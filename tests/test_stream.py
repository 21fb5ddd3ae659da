"""Streams: live sequences whose state is kept, stepped one at a time or in chunks.

Promise 4: a refused call leaves the state as it was, to the bit. That results equal those of whole
calls is in test_same_bits.py.
"""

from __future__ import annotations

import copy
import gc
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastgru
from conftest import (
    Array,
    elsewhere,
    make_gru,
    random_input,
    random_state,
    random_weights,
    run_python,
    same_bits,
)

I, H, L = 5, 21, 2  # noqa: E741


def network(**options: Any) -> fastgru.GRU:
    return make_gru(random_weights(np.random.default_rng(0), I, H, L), **options)


def state_for(batch: int, seed: int = 1) -> Array:
    rng = np.random.default_rng(seed)
    return random_state(rng, random_weights(rng, I, H, L), batch)


def inputs(*shape: int) -> Array:
    return random_input(np.random.default_rng(2), *shape)


def test_steps_of_one_sequence(isa: str) -> None:
    """step (I,) -> (H,), and with a batch axis (1, I) -> (1, H): the output of the last layer."""
    gru, x = network(isa=isa), inputs(9, I)
    output, h_n = gru(x)
    stream, twin = gru.stream(), gru.stream()
    for t in range(9):
        y = stream.step(x[t])
        assert y.shape == (H,)
        assert y.dtype == np.float32
        assert same_bits(y, output[t])
        assert same_bits(twin.step(x[t : t + 1])[0], y)
    assert stream.state.shape == (L, 1, H)
    assert same_bits(stream.state[:, 0], h_n)


@pytest.mark.parametrize("batch", [1, 2, 6])
def test_runs_and_layouts(batch: int) -> None:
    """run takes chunks in the model's layout: (T, B, I), or (B, T, I) with batch_first."""
    x, h_0 = inputs(7, batch, I), state_for(batch)
    output, h_n = network()(x, h_0)
    stream = network().stream(batch, h_0)
    y = stream.run(x)
    assert same_bits(y, output)
    assert same_bits(stream.state, h_n)
    assert y.flags.c_contiguous
    first = network(batch_first=True).stream(batch, h_0)
    y = first.run(np.ascontiguousarray(x.swapaxes(0, 1)))
    assert same_bits(y, np.ascontiguousarray(output.swapaxes(0, 1)))
    assert y.flags.c_contiguous
    assert same_bits(first.state, h_n)


def test_unbatched_runs() -> None:
    """(T, I) -> (T, H) where the batch size is 1, whatever batch_first says."""
    x = inputs(7, I)
    for batch_first in (False, True):
        gru = network(batch_first=batch_first)
        assert same_bits(gru.stream().run(x), gru(x)[0])


def test_a_run_of_no_steps() -> None:
    """T = 0 returns nothing and leaves the state."""
    stream = network().stream(3, state_for(3))
    assert stream.run(np.zeros((0, 3, I), np.float32)).shape == (0, 3, H)
    assert same_bits(stream.state, state_for(3))


def test_conversions() -> None:
    """step and run take what a call takes: float64, strided and read-only arrays."""
    gru, x = network(), inputs(4, 3, I)
    expected = gru(x)[0]
    wide = np.repeat(x, 2, axis=-1)[..., ::2]
    read_only = x.copy()
    read_only.flags.writeable = False
    for values in (x.astype(np.float64), wide, read_only, np.asfortranarray(x)):
        assert same_bits(gru.stream(3).run(values), expected)
        stream = gru.stream(3)
        assert same_bits(np.stack([stream.step(x_t) for x_t in values]), expected)


def test_results_are_fresh() -> None:
    """Without out=, each result is a new array; writing to it does not reach the state."""
    stream = network().stream(2)
    x = inputs(2, 2, I)
    first = stream.step(x[0])
    kept, state = first.copy(), stream.state
    second = stream.step(x[1])
    assert not np.shares_memory(first, second)
    assert same_bits(first, kept)
    second.fill(np.nan)
    assert not np.isnan(stream.state).any()
    assert not np.shares_memory(state, stream.state)


def test_out_is_filled_and_returned(isa: str) -> None:
    """out= receives the result, the same bits, and is what the call returns."""
    gru, x = network(isa=isa), inputs(6, 3, I)
    expected = gru(x)[0]
    stream = gru.stream(3)
    out = np.full((3, H), np.nan, np.float32)
    for t in range(6):
        assert stream.step(x[t], out=out) is out
        assert same_bits(out, expected[t])
    stream.reset()
    chunk = np.full((6, 3, H), np.nan, np.float32)
    assert stream.run(x, out=chunk) is chunk
    assert same_bits(chunk, expected)
    single = gru.stream()
    row = np.empty(H, np.float32)
    assert single.step(x[0, 0], out=row) is row
    assert same_bits(row, expected[0, 0])
    batch_first = network(batch_first=True, isa=isa).stream(3)
    chunk = np.full((3, 6, H), np.nan, np.float32)
    assert batch_first.run(np.ascontiguousarray(x.swapaxes(0, 1)), out=chunk) is chunk
    assert same_bits(np.ascontiguousarray(chunk.swapaxes(0, 1)), expected)
    # A piece of a larger array is as good as an array, and nothing beside it is touched.
    wide = np.full((5, 3, H), np.nan, np.float32)
    stream.reset()
    stream.step(x[0], out=wide[2])
    assert same_bits(np.ascontiguousarray(wide[2]), expected[0])
    assert np.isnan(wide[[0, 1, 3, 4]]).all()


def read_only(array: Array) -> Array:
    array.flags.writeable = False
    return array


BAD_OUT: dict[str, Any] = {
    "shape": np.zeros((3, H + 1), np.float32),
    "too few rows": np.zeros((2, H), np.float32),
    "flat": np.zeros(3 * H, np.float32),
    "one axis more": np.zeros((1, 3, H), np.float32),
    "float64": np.zeros((3, H), np.float64),
    "byte order": np.zeros((3, H), np.float32).astype(">f4"),
    "int32": np.zeros((3, H), np.int32),
    "fortran": np.zeros((3, H), np.float32, order="F"),
    "strided": np.zeros((3, 2 * H), np.float32)[:, ::2],
    "rows apart": np.zeros((3, H + 3), np.float32)[:, :H],
    "reversed": np.zeros((3, H), np.float32)[::-1],
    "misaligned": np.ndarray((3, H), np.float32, buffer=bytearray(3 * H * 4 + 1), offset=1),
    "read-only": read_only(np.zeros((3, H), np.float32)),
}


@pytest.mark.parametrize("kind", list(BAD_OUT))
def test_bad_out(kind: str) -> None:
    """out must be writable, C-contiguous float32 of the exact shape; else ValueError, no step."""
    stream = network().stream(3, state_for(3))
    out = BAD_OUT[kind]
    kept = out.copy()
    with pytest.raises(ValueError, match="out"):
        stream.step(inputs(3, I), out=out)
    with pytest.raises(ValueError, match="out"):
        stream.run(inputs(1, 3, I), out=out[None])
    assert same_bits(stream.state, state_for(3))
    assert np.array_equal(out, kept)


@pytest.mark.parametrize("where", list(elsewhere(np.zeros(1))))
def test_arrays_may_lie_anywhere(where: str) -> None:
    """Steps, runs, states and rows that C++ must not read as they lie give plain arrays' bits."""

    def use(given: Callable[[Array], Array]) -> list[Array]:
        stream = network().stream(3, given(state_for(3)))
        results = [stream.step(given(inputs(3, I))), stream.run(given(inputs(4, 3, I)))]
        stream.state = given(state_for(3, seed=2))
        stream.reset(given(np.array([0, 2])))
        results.append(stream.state)
        single = network().stream(h_0=given(state_for(1)))
        return [*results, single.step(given(inputs(I))), single.run(given(inputs(4, I)))]

    for ours, plain in zip(use(lambda a: elsewhere(a)[where]), use(lambda a: a), strict=True):
        assert same_bits(ours, plain)


def test_out_must_be_an_array() -> None:
    """Lists, buffers and other things are no place for a result."""
    stream = network().stream(3, state_for(3))
    for out in ([0.0] * H, bytearray(3 * H * 4), "out", 5):
        with pytest.raises((ValueError, TypeError)):
            stream.step(inputs(3, I), out=out)  # type: ignore[arg-type]
    assert same_bits(stream.state, state_for(3))


@pytest.mark.parametrize("distance", [-(H - 1), -1, 0, 1, H - 1])
def test_out_must_not_overlap_x(distance: int) -> None:
    """Not by a single float: x would change while it is read. Touching is not overlapping."""
    gru = make_gru(random_weights(np.random.default_rng(0), H, H))
    stream, memory = gru.stream(1, inputs(1, 1, H)), inputs(3 * H)
    kept, state = memory.copy(), stream.state
    start = H + distance
    with pytest.raises(ValueError, match="overlap"):
        stream.step(memory[H : 2 * H], out=memory[start : start + H])
    with pytest.raises(ValueError, match="overlap"):
        stream.run(memory[None, H : 2 * H], out=memory[None, start : start + H])
    assert same_bits(memory, kept)
    assert same_bits(stream.state, state)
    expected = stream.copy().step(memory[H : 2 * H])
    beside = 0 if distance < 0 else 2 * H
    assert same_bits(stream.step(memory[H : 2 * H], out=memory[beside : beside + H]), expected)


def test_out_may_be_a_state_that_was_read() -> None:
    """state reads as a copy, so it can be overwritten at will."""
    stream = make_gru(random_weights(np.random.default_rng(0), I, H)).stream(3)
    state = stream.state
    expected = stream.copy().step(inputs(3, I))
    stream.step(inputs(3, I), out=state[0])
    assert same_bits(state[0].copy(), expected)
    assert same_bits(stream.state[0].copy(), expected)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((3, I + 1), ("x", "5", "6")),
        ((2, I), ("x", "(3, 5)", "(2, 5)")),
        ((I,), ("x", "(3, 5)", "(5,)")),
        ((1, 3, I), ("x", "(3, 5)", "(1, 3, 5)")),
        ((), ("x", "(3, 5)", "()")),
    ],
)
def test_bad_steps(shape: tuple[int, ...], words: tuple[str, ...]) -> None:
    """A step of the wrong shape raises ShapeError with both shapes; the state keeps its bits."""
    stream = network().stream(3, state_for(3))
    with pytest.raises(fastgru.ShapeError) as caught:
        stream.step(np.zeros(shape, np.float32))
    for word in words:
        assert word in str(caught.value)
    assert same_bits(stream.state, state_for(3))


@pytest.mark.parametrize("shape", [(4, 3, I + 1), (4, 2, I), (3, 4, I), (4, I), (I,), (1, 4, 3, I)])
def test_bad_runs(shape: tuple[int, ...]) -> None:
    """So does a run."""
    stream = network().stream(3, state_for(3))
    with pytest.raises(fastgru.ShapeError) as caught:
        stream.run(np.zeros(shape, np.float32))
    assert str(shape) in str(caught.value)
    assert same_bits(stream.state, state_for(3))


def test_bad_dtypes() -> None:
    """Integers, complex and objects raise TypeError in step, run and state; nothing advances."""
    stream = network().stream(3, state_for(3))
    for dtype in (np.int64, np.bool_, np.complex64, np.object_):
        with pytest.raises(TypeError):
            stream.step(np.zeros((3, I), dtype))
        with pytest.raises(TypeError):
            stream.run(np.zeros((2, 3, I), dtype))
        with pytest.raises(TypeError):
            stream.state = np.zeros((L, 3, H), dtype)
    assert same_bits(stream.state, state_for(3))


def test_state_can_be_saved_and_restored() -> None:
    """state is (L, B, H); assigning one that was read continues from there, to the bit."""
    gru, x = network(), inputs(8, 3, I)
    stream = gru.stream(3)
    stream.run(x[:4])
    saved = stream.state
    assert saved.shape == (L, 3, H)
    assert saved.dtype == np.float32
    rest = stream.run(x[4:])
    stream.state = saved
    assert same_bits(stream.run(x[4:]), rest)
    other = gru.stream(3)
    other.state = saved.astype(np.float64)
    assert same_bits(other.run(x[4:]), rest)
    other.state = np.asfortranarray(saved)
    assert same_bits(other.run(x[4:]), rest)
    other.state = saved
    saved.fill(np.nan)  # the stream has taken a copy
    assert same_bits(other.run(x[4:]), rest)


@pytest.mark.parametrize("shape", [(L, 3, H + 1), (L, 2, H), (L + 1, 3, H), (3, H), (L, H), ()])
def test_bad_states(shape: tuple[int, ...]) -> None:
    """A state or h_0 that does not fit raises ShapeError with both shapes."""
    stream = network().stream(3, state_for(3))
    with pytest.raises(fastgru.ShapeError) as caught:
        stream.state = np.zeros(shape, np.float32)
    assert str((L, 3, H)) in str(caught.value)
    assert str(shape) in str(caught.value)
    assert same_bits(stream.state, state_for(3))
    with pytest.raises(fastgru.ShapeError) as caught:
        network().stream(3, np.zeros(shape, np.float32))
    assert str((L, 3, H)) in str(caught.value)


def test_reset() -> None:
    """reset() goes back to h_0, zeros without one; reset(rows) leaves the other rows alone."""
    h_0 = state_for(4)
    stream = network().stream(4, h_0)
    h_0_kept = h_0.copy()
    h_0.fill(np.nan)  # the stream has a copy
    stream.run(inputs(3, 4, I))
    moved = stream.state
    stream.reset([2, 0])
    assert same_bits(stream.state[:, [0, 2]], h_0_kept[:, [0, 2]])
    assert same_bits(stream.state[:, [1, 3]], moved[:, [1, 3]])
    stream.reset(np.array([], np.int64))
    assert same_bits(stream.state[:, [1, 3]], moved[:, [1, 3]])
    stream.reset(np.array([1], np.int32))
    assert same_bits(stream.state[:, 1], h_0_kept[:, 1])
    stream.reset()
    assert same_bits(stream.state, h_0_kept)
    stream.state = moved  # restoring a state does not change what reset means
    stream.reset()
    assert same_bits(stream.state, h_0_kept)

    plain = network().stream(2)
    assert not plain.state.any()
    plain.run(inputs(3, 2, I))
    plain.reset()
    assert not plain.state.any()


def test_bad_resets() -> None:
    """Rows outside 0..B-1 raise IndexError, floats TypeError; no row is reset then."""
    stream = network().stream(4)
    stream.run(inputs(3, 4, I))
    moved = stream.state
    for rows in ([0, 4], [-1], [1, 2**40]):
        with pytest.raises(IndexError, match=str(rows[-1])):
            stream.reset(rows)
        assert same_bits(stream.state, moved)
    with pytest.raises(TypeError):
        stream.reset([0.0, 1.0])  # type: ignore[list-item]
    assert same_bits(stream.state, moved)


def test_copies_go_their_own_way() -> None:
    """copy() has the state and the h_0; neither stream hears of the other again."""
    stream = network().stream(2, state_for(2))
    stream.run(inputs(3, 2, I))
    moved = stream.state
    for twin in (stream.copy(), copy.copy(stream), copy.deepcopy(stream)):
        assert same_bits(twin.state, moved)
        twin.run(inputs(5, 2, I))
        assert same_bits(stream.state, moved)
        assert not same_bits(twin.state, moved)
        twin.reset()
        assert same_bits(twin.state, state_for(2))
        assert same_bits(stream.state, moved)


def test_bidirectional_models_have_no_streams() -> None:
    """The reverse direction starts at an end that a live sequence does not have."""
    gru = make_gru(random_weights(np.random.default_rng(0), I, H, 1, bidirectional=True))
    with pytest.raises(ValueError, match=r"only runs forwards"):
        gru.stream()


def test_batch_sizes() -> None:
    """batch_size is an integer from 1; what it cannot be is said, not crashed on."""
    assert network().stream(7).batch_size == 7
    for bad in (0, -1, 2**62, 2**70):
        with pytest.raises((ValueError, MemoryError, OverflowError)):
            network().stream(bad)
    for wrong in (1.5, "2", None):
        with pytest.raises(TypeError):
            network().stream(wrong)  # type: ignore[arg-type]


def test_a_stream_outlives_its_names() -> None:
    """A stream keeps its model alive."""
    stream = network().stream()
    expected = network().stream().run(inputs(4, I))
    gc.collect()
    assert same_bits(stream.run(inputs(4, I)), expected)


def is_busy(stream: fastgru.Stream) -> bool:
    """Whether the stream refuses a run of no steps, which could not change it, as another runs."""
    try:
        stream.run(np.zeros((0, 8), np.float32))
    except RuntimeError:
        return True
    return False


def test_a_second_call_while_one_runs_is_refused() -> None:
    """Two threads on one stream: RuntimeError in the second, and the first is not disturbed."""
    gru = make_gru(random_weights(np.random.default_rng(0), 8, 256), num_threads=1)
    x = inputs(20_000, 8)
    expected = gru(x)
    refused = 0
    for _ in range(20):  # a busy machine may let the run end before the other call is made
        stream = gru.stream()
        results: list[Array] = []
        runner = threading.Thread(target=lambda s=stream, r=results: r.append(s.run(x)))
        runner.start()
        while runner.is_alive():
            refused += is_busy(stream)
        runner.join()
        assert same_bits(results[0], expected[0])
        assert same_bits(stream.state[:, 0], expected[1])
        if refused:
            return
    pytest.fail("a second call while one ran was never refused")


def test_every_method_is_refused_while_a_run_goes_on() -> None:
    """step, run, state, reset and copy: none may see a state half way through a run."""
    gru = make_gru(random_weights(np.random.default_rng(0), 8, 256), num_threads=1)
    x = inputs(60_000, 8)
    stream = gru.stream()
    calls: dict[str, Any] = {
        "step": lambda: stream.step(x[0]),
        "run": lambda: stream.run(x[:1]),
        "set state": lambda: setattr(stream, "state", np.zeros((1, 1, 256), np.float32)),
        "get state": lambda: stream.state,
        "reset": stream.reset,
        "copy": stream.copy,
    }
    results: list[Array] = []
    runner = threading.Thread(target=lambda: results.append(stream.run(x)))
    runner.start()
    while not is_busy(stream) and runner.is_alive():
        pass
    outcome = {}
    for name, call in calls.items():
        try:
            call()
            outcome[name] = "accepted"
        except RuntimeError:
            outcome[name] = "refused"
    late = not runner.is_alive()
    runner.join()
    if late:
        pytest.skip("the run ended before the other calls were made: this machine is too busy")
    assert outcome == dict.fromkeys(calls, "refused")
    assert same_bits(results[0], gru(x)[0])


def test_one_model_serves_many_threads(isa: str) -> None:
    """One GRU used from many threads at once: the same bits as alone, for calls and streams."""
    gru = make_gru(random_weights(np.random.default_rng(0), I, 70, 2), isa=isa)
    shapes = [(20, 3), (50, 1), (7, 17), (3, 33), (90, 2), (1, 1)]
    xs = [inputs(*shape, I) for shape in shapes]
    expected = [gru(x) for x in xs]
    failures: list[str] = []
    barrier = threading.Barrier(6)

    def work(index: int) -> None:
        barrier.wait()
        for turn in range(20):
            which = (index + turn) % len(xs)
            output, h_n = gru(xs[which])
            stream = gru.stream(shapes[which][1])
            streamed = stream.run(xs[which])
            if not (
                same_bits(output, expected[which][0])
                and same_bits(h_n, expected[which][1])
                and same_bits(streamed, output)
                and same_bits(stream.state, h_n)
            ):
                failures.append(f"thread {index}, shape {shapes[which]}")

    threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("kind", ["gru", "model"])
def test_a_fork_during_a_run(kind: str) -> None:
    """Promise 3: a child's stream works, or says that its process forked during a call.

    Never that another thread is using it, which in the child is untrue for ever.
    """
    code = f"""
import os, signal, threading, time
import numpy as np, fastgru
rng = np.random.default_rng(0)
weights = {{f"weight_{{k}}h_l0": rng.uniform(-0.1, 0.1, (768, 256)) for k in "ih"}}
gru = fastgru.GRU.from_state_dict(weights, num_threads=1)
network = gru if {kind!r} == "gru" else fastgru.Model([gru, fastgru.Tanh()])
stream = network.stream(20)
x, stop = np.ones((50, 20, 256), np.float32), threading.Event()
def work():
    while not stop.is_set():
        stream.run(x)
thread = threading.Thread(target=work)
thread.start()
seen = set()
for _ in range(20):
    time.sleep(0.003)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            stream.step(x[0])
            stream.state
        except RuntimeError as error:
            os._exit(1 if "fork" in str(error) else 2)
        os._exit(0)
    seen.add(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
stop.set()
thread.join()
stream.step(x[0])
print(seen <= {{0, 1}} or sorted(seen))
"""
    result = run_python(code)
    assert result.stdout.strip() == "True", result.stdout + result.stderr
