"""Plain calls of `GRU.__call__`, `Stream.step` and `Pool.step` run in C, without a line of Python.

Note [Shortcut] in cpp/python/shortcut.hpp. What must hold: plain calls are taken, all others
reach the Python function, nobody can tell the two apart by results or errors, and to whoever looks
at them the methods are ordinary functions.
"""

from __future__ import annotations

import copy
import functools
import gc
import inspect
import itertools
import os
import pickle
import sys
import tracemalloc
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

import fastgru
from conftest import (
    Array,
    make_gru,
    random_input,
    random_state,
    random_weights,
    run_python,
    same_bits,
)

I, H, L = 5, 21, 2  # noqa: E741
WEIGHTS = random_weights(np.random.default_rng(0), I, H, L)


def network(**options: Any) -> fastgru.GRU:
    return make_gru(WEIGHTS, **options)


def inputs(*shape: int) -> Array:
    return random_input(np.random.default_rng(2), *shape)


def state(batch: int) -> Array:
    return random_state(np.random.default_rng(3), WEIGHTS, batch)


def python_functions(call: Callable[[], object]) -> list[str]:
    """Names of the Python functions of fastgru that a call runs."""
    package = os.path.dirname(fastgru.__file__) + os.sep  # the checkout may be called fastgru, too
    names: list[str] = []

    def seen(frame: Any, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(package):
            names.append(frame.f_code.co_name)

    before = sys.getprofile()
    sys.setprofile(seen)
    try:
        call()
    finally:
        sys.setprofile(before)
    return names


def odd(array: Array) -> list[Any]:
    """The same numbers in ways that no shortcut takes."""
    apart = np.repeat(array, 2, axis=-1)[..., ::2]
    unaligned = np.empty(array.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(array.shape)
    unaligned[:] = array
    other_dtype = array.view(np.dtype("f4").newbyteorder().newbyteorder())
    return [
        array.astype(np.float64),
        array.astype(">f4"),
        array.view(np.matrix) if array.ndim == 2 else array.view(np.recarray),
        array.tolist(),
        apart,
        np.asfortranarray(array),
        unaligned,
        other_dtype,
    ]


@pytest.mark.parametrize("batch", [1, 3])
def test_plain_steps_run_no_python(batch: int) -> None:
    """With and without out=, with and without a batch axis, read-only or not."""
    stream, x, out = network().stream(batch), inputs(batch, I), np.empty((batch, H), np.float32)
    frozen = x.copy()
    frozen.flags.writeable = False
    assert python_functions(lambda: stream.step(x)) == []
    assert python_functions(lambda: stream.step(frozen)) == []
    assert python_functions(lambda: stream.step(x, out=out)) == []
    bound = stream.step
    assert python_functions(lambda: bound(x)) == []
    if batch == 1:
        row = np.empty(H, np.float32)
        assert python_functions(lambda: stream.step(x[0])) == []
        assert python_functions(lambda: stream.step(x[0], out=row)) == []
    assert "step" in python_functions(lambda: stream.step(x.tolist()))


def test_plain_pool_steps_run_no_python() -> None:
    pool = network().pool(5)
    ids = np.array([pool.open() for _ in range(3)])
    x, out = inputs(3, I), np.empty((3, H), np.float32)
    assert python_functions(lambda: pool.step(ids, x)) == []
    assert python_functions(lambda: pool.step(ids, x, out=out)) == []
    for odd in (ids.tolist(), ids.astype(np.uint64), np.repeat(ids, 2)[::2]):
        assert "step" in python_functions(functools.partial(pool.step, odd, x))
    assert "step" in python_functions(lambda: pool.step(ids, x.tolist()))
    twin = network().pool(5)
    again = np.array([twin.open() for _ in range(3)])
    for _ in range(6):
        expected = twin.step(again, x)
    assert same_bits(twin.step(again, x), pool.step(ids, x))
    assert not same_bits(expected, out)


def test_plain_calls_run_no_python() -> None:
    """Batched, batch_first and unbatched, with and without h_0."""
    x = inputs(4, 3, I)
    for gru in (network(), network(batch_first=True)):
        h_0 = state(4 if gru.batch_first else 3)
        calls: list[Callable[[], object]] = [
            functools.partial(gru, x),
            functools.partial(gru, x, h_0),
            functools.partial(gru, x, h_0=h_0),
            functools.partial(gru, x, None),
            functools.partial(gru, x[0]),
            functools.partial(gru, x[0], h_0[:, 0].copy()),
        ]
        for call in calls:
            assert python_functions(call) == []
        assert "__call__" in python_functions(functools.partial(gru, x.tolist()))


def test_large_calls_are_plain_too() -> None:
    """Those that may use several threads: the shortcut asks the GRU how many."""
    gru = network()
    gru.num_threads = 2
    assert python_functions(lambda: gru(inputs(500, 8, I))) == []
    stream = gru.stream(2000)
    assert python_functions(lambda: stream.step(inputs(2000, I))) == []


@pytest.mark.parametrize("threads", [1, 2])
def test_plain_calls_use_the_threads_of_the_gru(threads: int) -> None:
    """As many as num_threads says are there after a call, a step and a pool's step."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core")
    code = f"""
import os, numpy as np, fastgru
gru = fastgru.GRU.from_state_dict({{"weight_ih_l0": np.ones((384, 128), np.float32),
    "weight_hh_l0": np.ones((384, 128), np.float32)}}, num_threads={threads})
stream, pool = gru.stream(256), gru.pool(256)
ids = np.array([pool.open() for _ in range(256)])
x = np.zeros((256, 128), np.float32)
before = len(os.listdir("/proc/self/task"))
for call in (lambda: gru(x[None]), lambda: stream.step(x), lambda: pool.step(ids, x)):
    for _ in range(20):
        call()
    print(len(os.listdir("/proc/self/task")) - before)
"""
    counts = run_python(code, {"FASTGRU_NUM_THREADS": None, "OMP_NUM_THREADS": None}).stdout.split()
    assert counts == [str(threads - 1)] * 3


@pytest.mark.parametrize("batch", [1, 3])
def test_odd_steps_give_the_same_bits(batch: int) -> None:
    """A step that the shortcut does not take ends as one that it takes."""
    x, h_0 = inputs(batch, I), state(batch)
    plain = network().stream(batch, h_0)
    expected = plain.step(x)
    for value in odd(x):
        stream = network().stream(batch, h_0)
        assert same_bits(stream.step(value), expected)
        assert same_bits(stream.state, plain.state)
    for arguments in ({"x_t": x}, {"x_t": x, "out": None}):
        assert same_bits(network().stream(batch, h_0).step(**arguments), expected)
    spelled_anew = "".join(["o", "ut"])  # equal to the name that C looks for, but not the object
    out = np.empty((batch, H), np.float32)
    assert network().stream(batch, h_0).step(x, **{spelled_anew: out}) is out
    assert same_bits(out, expected)
    memory = np.empty((batch, H), np.float32).view(np.recarray)
    assert network().stream(batch, h_0).step(x, out=memory) is memory
    assert same_bits(np.asarray(memory), expected)


def test_odd_calls_give_the_same_bits() -> None:
    """A call that the shortcut does not take ends as one that it takes."""
    x, h_0 = inputs(4, 3, I), state(3)
    expected = network()(x, h_0)
    for value in odd(x):
        for h in (h_0, *odd(h_0)):
            output, h_n = network()(value, h)
            assert same_bits(output, expected[0])
            assert same_bits(h_n, expected[1])
    output, h_n = network()(x, h_0, lengths=[4, 4, 4])
    assert same_bits(output, expected[0])
    assert same_bits(h_n, expected[1])


def test_wrong_arguments_are_refused_as_by_any_function() -> None:
    """TypeError, naming what is wrong, and no step is done."""
    x, model = inputs(I), network()
    gru: Any = model
    stream: Any = model.stream()
    step: Any = fastgru.Stream.step
    out = np.empty(H, np.float32)
    for call in (
        stream.step,
        lambda: stream.step(x, out),
        lambda: stream.step(x, y=out),
        lambda: stream.step(x, out=out, y=out),
        lambda: stream.step(x, x_t=x),
        step,
        lambda: step(stream),
        gru,
        lambda: gru(x[None], None, None),
        lambda: gru(x[None], h=None),
        lambda: gru(x[None], None, h_0=None),
    ):
        with pytest.raises(TypeError, match="argument"):
            call()
    assert not stream.state.any()


def test_objects_that_are_no_streams_do_not_crash() -> None:
    """Objects made without __init__, and other objects, raise."""
    x = inputs(I)
    for thing in (fastgru.Stream.__new__(fastgru.Stream), object(), None, 3):
        with pytest.raises(AttributeError):
            fastgru.Stream.step(thing, x)  # type: ignore[arg-type]
    for thing in (fastgru.GRU.__new__(fastgru.GRU), object(), None, 3):
        with pytest.raises(AttributeError):
            fastgru.GRU.__call__(thing, x[None])  # type: ignore[call-overload]

    class Pretender:
        _core: Any = None
        _model: Any = None

    for wrong in (None, 3, network().stream()._core, network()._core):
        Pretender._core = wrong  # never what the method at hand needs
        if not isinstance(wrong, type(network().stream()._core)):
            with pytest.raises(AttributeError):
                fastgru.Stream.step(Pretender(), x)  # type: ignore[arg-type]
        with pytest.raises(AttributeError):
            fastgru.Pool.step(Pretender(), np.zeros(1, np.int64), x[None])  # type: ignore[arg-type]
        if not isinstance(wrong, type(network()._core)):
            with pytest.raises(AttributeError):
                fastgru.GRU.__call__(Pretender(), x[None])  # type: ignore[call-overload]


def test_they_look_like_functions() -> None:
    """Signature, documentation and names; bound methods; subclasses and functools work."""
    for method, names in (
        (fastgru.Stream.step, ["self", "x_t", "out"]),
        (fastgru.Pool.step, ["self", "ids", "x", "out"]),
        (fastgru.GRU.__call__, ["self", "x", "h_0", "lengths"]),
    ):
        signature = inspect.signature(method)
        assert list(signature.parameters) == names
        assert signature.parameters[names[-1]].kind is inspect.Parameter.KEYWORD_ONLY
        assert signature.return_annotation is not inspect.Signature.empty
        assert inspect.isroutine(method)
        assert method.__doc__
        assert method.__module__.startswith("fastgru.")
        assert method.__qualname__ in repr(method)
    stream, x = network().stream(), inputs(I)
    assert list(inspect.signature(stream.step).parameters) == ["x_t", "out"]
    assert inspect.ismethod(stream.step)
    assert stream.step.__self__ is stream

    class Doubled(fastgru.Stream):
        def step(self, x_t: Any, *, out: Any = None) -> Any:
            return 2 * super().step(x_t, out=out)

    expected = network().stream().step(x)
    assert same_bits(Doubled(network()).step(x), 2 * expected)
    assert same_bits(functools.partial(network().stream().step, out=None)(x), expected)
    assert same_bits(next(iter(map(network().stream().step, [x]))), expected)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_step_with_out_allocates_nothing(batch: int) -> None:
    """Not even for a moment: no Python object and no array, as tracemalloc sees both.

    That the engine allocates nothing on a repeated shape is in tests/cpp/test_allocations.cpp.
    """
    stream, x, out = network().stream(batch), inputs(batch, I), np.empty((batch, H), np.float32)

    def idle(times: Iterable[None]) -> None:
        for _ in times:
            pass

    def filling(times: Iterable[None]) -> None:
        for _ in times:
            stream.step(x, out=out)

    def fresh(times: Iterable[None]) -> None:
        for _ in times:
            stream.step(x)

    def most_bytes(loop: Callable[[Iterable[None]], None]) -> int:
        """The most that was allocated at any time of the loop, and by looking at it."""
        found = []
        for _ in range(5):  # the first time, the interpreter specialises the code
            times = itertools.repeat(None, 1000)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[1]
            loop(times)
            found.append(tracemalloc.get_traced_memory()[1] - before)
        return min(found)

    gc.collect()
    tracemalloc.start()
    try:
        assert most_bytes(filling) == most_bytes(idle)
        assert most_bytes(fresh) >= most_bytes(idle) + out.nbytes
    finally:
        tracemalloc.stop()


def test_copied_pickled_and_referred_to_as_a_function() -> None:
    """Callback libraries keep weak references to methods, others pickle them."""
    for method in (fastgru.Stream.step, fastgru.GRU.__call__):
        assert copy.deepcopy({"method": method})["method"] is method
        assert pickle.loads(pickle.dumps(method)) is method
        assert weakref.ref(method)() is method
    stream = make_gru(random_weights(np.random.default_rng(0), 3, 4)).stream()
    assert weakref.WeakMethod(stream.step)() == stream.step
