"""The contract of a call: what goes in, what comes out, and what is refused and how.

Promise 4: a bad shape, dtype or length gives one clear exception naming expected and actual, and
leaves every array and state as it was.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fastgru
from conftest import (
    ISA_LEVELS,
    Array,
    assert_promise_1,
    elsewhere,
    largest_error,
    make_gru,
    random_input,
    random_state,
    random_weights,
    run_python,
    same_bits,
    torch_gru,
)
from fastgru import _core

# Sizes, all different, so that none can stand for another.
T, B, I, H = 7, 4, 13, 19  # noqa: E741


def network(num_layers: int = 2, bidirectional: bool = False, **options: Any) -> fastgru.GRU:
    rng = np.random.default_rng(0)
    return make_gru(random_weights(rng, I, H, num_layers, bidirectional), **options)


def data(states: int = 2) -> tuple[Array, Array]:
    rng = np.random.default_rng(1)
    x = random_input(rng, T, B, I)
    return x, rng.uniform(-1, 1, (states, B, H)).astype(np.float32)


def assert_same(first: tuple[Array, Array], second: tuple[Array, Array]) -> None:
    assert same_bits(first[0], second[0]), "output"
    assert same_bits(first[1], second[1]), "h_n"


# Shapes and freshness


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one", "two"])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("batch_first", [False, True])
def test_shapes(batch_first: bool, num_layers: int, bidirectional: bool) -> None:
    """Shapes are torch.nn.GRU's; arrays are C-contiguous float32 that the caller owns."""
    gru = network(num_layers, bidirectional, batch_first=batch_first)
    directions = 2 if bidirectional else 1
    first = (B, T) if batch_first else (T, B)
    for x_shape, output_shape, h_shape in (
        ((*first, I), (*first, directions * H), (num_layers * directions, B, H)),
        ((T, I), (T, directions * H), (num_layers * directions, H)),
    ):
        output, h_n = gru(np.ones(x_shape, np.float32))
        assert output.shape == output_shape
        assert h_n.shape == h_shape
        for array in (output, h_n):
            assert array.dtype == np.float32
            assert array.flags.c_contiguous
            assert array.flags.writeable


def test_attributes_say_what_the_model_is() -> None:
    """The attributes, and repr: one line that names sizes."""
    gru = network(2, True, batch_first=True, num_threads=1)
    assert (gru.input_size, gru.hidden_size, gru.num_layers) == (I, H, 2)
    assert (gru.bidirectional, gru.batch_first, gru.bias, gru.reset_after) == (True,) * 4
    assert gru.precision == "float32"
    assert gru.num_threads == 1
    assert gru.isa in ISA_LEVELS
    assert gru.nbytes >= 4 * 2 * 3 * H * (I + H + 2 * H + H)  # every weight, at least once
    assert "\n" not in repr(gru)
    assert str(I) in repr(gru)
    assert str(H) in repr(gru)
    with pytest.raises(AttributeError):
        gru.hidden_size = 5  # type: ignore[misc]


def test_outputs_are_fresh() -> None:
    """Results share memory with nothing: not with x, h_0, each other, or the next call's."""
    gru = network()
    x, h_0 = data()
    kept = x.copy(), h_0.copy()
    first, second = gru(x, h_0), gru(x, h_0)
    arrays = [*first, *second, x, h_0]
    for i, one in enumerate(arrays):
        for other in arrays[:i]:
            assert not np.shares_memory(one, other)
    copies = [array.copy() for array in second]
    first[0].fill(np.nan)
    first[1].fill(np.nan)
    third = gru(x, h_0)
    assert_same(second, (copies[0], copies[1]))
    assert_same(third, second)
    assert_same((x, h_0), kept)  # inputs are read only


# What is accepted


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", ">f8", "longdouble"])
def test_real_floating_dtypes_are_converted(dtype: str) -> None:
    """Other real floating dtypes, byte orders included, are rounded to float32."""
    gru = network()
    x, h_0 = (array.astype(dtype) for array in data())
    assert_same(gru(x, h_0), gru(x.astype(np.float32), h_0.astype(np.float32)))


def views(x: Array) -> dict[str, Array]:
    """The values of x (T, B, I) in every kind of memory."""
    wide = np.zeros((2 * T, 3 * B, 2 * I), np.float32)
    strided = wide[1::2, ::3, 1::2]
    strided[:] = x
    read_only = x.copy()
    read_only.flags.writeable = False
    buffer = bytearray(x.nbytes + 1)
    misaligned: Array = np.ndarray(x.shape, np.float32, buffer=buffer, offset=1)
    misaligned[:] = x
    structured = np.zeros(x.shape, [("pad", "u1"), ("value", "f4")])  # strides not of whole floats
    structured["value"] = x
    return {
        "strided": strided,
        "fortran": np.asfortranarray(x),
        "time reversed": np.ascontiguousarray(x[::-1])[::-1],
        "rows reversed": np.ascontiguousarray(x[:, ::-1])[:, ::-1],
        "features reversed": np.ascontiguousarray(x[..., ::-1])[..., ::-1],
        "read-only": read_only,
        "misaligned": misaligned,
        "field": structured["value"],
        "subclass": x.copy().view(np.recarray),
        "transposed": np.ascontiguousarray(x.transpose(2, 1, 0)).transpose(2, 1, 0),
    }


@pytest.mark.parametrize("kind", list(views(np.zeros((T, B, I), np.float32))))
def test_views(kind: str) -> None:
    """x and h_0 in any memory layout give the bits of plain arrays."""
    # T layers and H = I: then h_0 (L, B, H) has x's shape, and can be any of the same views.
    rng = np.random.default_rng(2)
    gru = make_gru(random_weights(rng, I, I, num_layers=T))
    x, h_0 = random_input(rng, T, B, I), random_input(rng, T, B, I)
    assert np.array_equal(views(x)[kind], x)
    assert_same(gru(views(x)[kind], views(h_0)[kind]), gru(x, h_0))


def test_broadcast_input() -> None:
    """Zero strides: one row for the whole batch, one step for the whole sequence."""
    gru = network()
    x, _ = data()
    row = np.broadcast_to(x[:, :1], x.shape)
    assert_same(gru(row), gru(row.copy()))
    step = np.broadcast_to(x[0], x.shape)
    assert_same(gru(step), gru(step.copy()))
    value = np.broadcast_to(np.float32(0.5), x.shape)
    assert_same(gru(value), gru(value.copy()))


def test_torch_tensors(torch: ModuleType) -> None:
    """CPU tensors are arrays: detached, bfloat16 widened, any strides; lengths too."""
    gru = network()
    x, h_0 = data()
    lengths = np.array([3, 7, 0, 5])
    expected = gru(x, h_0, lengths=lengths)
    tensors = torch.from_numpy(x), torch.from_numpy(h_0), torch.from_numpy(lengths)
    assert_same(gru(tensors[0], tensors[1], lengths=tensors[2]), expected)
    assert_same(gru(tensors[0].double(), h_0, lengths=tensors[2].int()), expected)
    wants_gradient = tensors[0].clone().requires_grad_()
    assert_same(gru(wants_gradient * 1.0, h_0, lengths=lengths), expected)
    strided = tensors[0].permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert_same(gru(strided, tensors[1], lengths=lengths), expected)
    for narrow in (torch.bfloat16, torch.float16):
        small = tensors[0].to(narrow), tensors[1].to(narrow)
        assert_same(gru(*small), gru(small[0].float().numpy(), small[1].float().numpy()))
    for bad in (tensors[0].long(), tensors[0].bool(), tensors[0].to(torch.complex64)):
        with pytest.raises(TypeError, match="x"):
            gru(bad)
    with pytest.raises(TypeError, match="cpu"):
        gru(tensors[0].to("meta"))


@pytest.mark.parametrize("kind", [list, tuple, np.int64, np.int32, np.uint8, np.uint64, ">i2"])
def test_lengths_of_every_integer_kind(kind: Any) -> None:
    """Lists, tuples and arrays of any integer type, strided ones too."""
    gru = network()
    x, h_0 = data()
    lengths = np.array([3, 7, 0, 5])
    given = kind(lengths.tolist()) if kind in (list, tuple) else lengths.astype(kind)
    expected = gru(x, h_0, lengths=lengths)
    assert_same(gru(x, h_0, lengths=given), expected)
    assert_same(gru(x, h_0, lengths=np.repeat(lengths, 2)[::2]), expected)


def test_lengths_with_batch_first() -> None:
    """lengths count time steps, wherever the time axis is."""
    x, h_0 = data()
    lengths = [3, 7, 0, 5]
    output, h_n = network(batch_first=True)(x.swapaxes(0, 1), h_0, lengths=lengths)
    assert_same((output.swapaxes(0, 1), h_n), network()(x, h_0, lengths=lengths))
    assert output.flags.c_contiguous


# PackedSequence


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one", "two"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("lengths", [[7, 5, 5, 1], [3, 7, 1, 5]], ids=["sorted", "unsorted"])
def test_packed_sequences(
    lengths: list[int], batch_first: bool, bidirectional: bool, torch: ModuleType
) -> None:
    """A PackedSequence in comes back as one, as from torch: data, order and h_n in user order."""
    rnn = torch.nn.utils.rnn
    rng = np.random.default_rng(5)
    weights = random_weights(rng, I, H, 2, bidirectional)
    gru, module = make_gru(weights, batch_first=batch_first), torch_gru(torch, weights, batch_first)
    h_0 = torch.from_numpy(random_state(rng, weights, B))
    x = torch.from_numpy(random_input(rng, *((B, T) if batch_first else (T, B)), I))
    for sort in {False, lengths == sorted(lengths, reverse=True)}:
        packed = rnn.pack_padded_sequence(x, lengths, batch_first, enforce_sorted=sort)
        for state in (None, h_0):
            with torch.no_grad():
                expected, expected_h = module.float()(packed, state)
                exact, exact_h = module.double()(
                    packed.to(torch.float64), None if state is None else state.double()
                )
            output, h_n = gru(packed, state)
            assert isinstance(output, rnn.PackedSequence)
            assert torch.equal(output.batch_sizes, expected.batch_sizes)
            for name in ("sorted_indices", "unsorted_indices"):
                one, other = getattr(output, name), getattr(expected, name)
                assert (one is None) == (other is None)
                assert one is None or torch.equal(one, other)
            error = largest_error(expected.data.numpy(), exact.data.numpy())
            assert expected_h.shape == h_n.shape
            assert_promise_1(output.data.numpy(), exact.data.numpy(), error)
            assert_promise_1(np.asarray(h_n), exact_h.numpy(), error)
            padded, _ = rnn.pad_packed_sequence(output, batch_first)
            plain, plain_h = gru(x, state, lengths=lengths)
            assert same_bits(padded.numpy(), plain)
            assert same_bits(np.asarray(h_n), plain_h)


def test_packed_sequences_that_do_not_fit(torch: ModuleType) -> None:
    """Wrong sizes inside a PackedSequence, and lengths beside one, are refused."""
    pack = torch.nn.utils.rnn.pack_padded_sequence
    gru = network()
    with pytest.raises(fastgru.ShapeError, match=r"13.*17"):
        gru(pack(torch.zeros(T, B, 17), [7, 5, 5, 1]))
    good = pack(torch.zeros(T, B, I), [7, 5, 5, 1])
    with pytest.raises(fastgru.ShapeError, match=r"4.*5"):
        gru(good, np.zeros((2, 5, H), np.float32))
    with pytest.raises((ValueError, TypeError), match="lengths"):
        gru(good, lengths=[7, 5, 5, 1])


# What is refused


def not_numbers(shape: tuple[int, ...]) -> dict[str, Array]:
    return {
        "int64": np.zeros(shape, np.int64),
        "uint8": np.zeros(shape, np.uint8),
        "bool": np.zeros(shape, np.bool_),
        "complex": np.zeros(shape, np.complex64),
        "object": np.zeros(shape, np.object_),
        "string": np.zeros(shape, "U3"),
        "datetime": np.zeros(shape, "M8[s]"),
        "record": np.zeros(shape, [("a", "f4"), ("b", "f4")]),
    }


@pytest.mark.parametrize("kind", list(not_numbers((1,))))
def test_other_dtypes_raise_type_error(kind: str) -> None:
    """Integers, complex and object arrays raise TypeError naming the argument and the dtype."""
    gru = network()
    x, h_0 = data()
    bad_x, bad_h = not_numbers(x.shape)[kind], not_numbers(h_0.shape)[kind]
    with pytest.raises(TypeError, match="x") as caught:
        gru(bad_x)
    assert str(bad_x.dtype) in str(caught.value)
    with pytest.raises(TypeError, match="h_0"):
        gru(x, bad_h)
    with pytest.raises(TypeError):
        gru(None)  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        gru()  # type: ignore[call-overload]


def zeros(*shape: int) -> Array:
    return np.zeros(shape, np.float32)


BAD_SHAPES: dict[str, tuple[Callable[[fastgru.GRU], Any], tuple[str, ...]]] = {
    # name: (call, words that the message must contain: argument, expected, actual)
    "x: no axes": (lambda gru: gru(zeros()), ("x", "13", "()")),
    "x: one axis": (lambda gru: gru(zeros(I)), ("x", "13", "(13,)")),
    "x: four axes": (lambda gru: gru(zeros(1, T, B, I)), ("x", "13", "(1, 7, 4, 13)")),
    "x: input size": (lambda gru: gru(zeros(T, B, 17)), ("x", "13", "17")),
    "x: input size, unbatched": (lambda gru: gru(zeros(T, 17)), ("x", "13", "17")),
    "x: input size 0": (lambda gru: gru(zeros(T, B, 0)), ("x", "13", "(7, 4, 0)")),
    "x: input size 1": (lambda gru: gru(zeros(T, B, 1)), ("x", "13", "(7, 4, 1)")),
    "x: empty but wrong": (lambda gru: gru(zeros(0, B, 17)), ("x", "13", "17")),
    "h_0: hidden size": (
        lambda gru: gru(zeros(T, B, I), zeros(2, B, 23)),
        ("h_0", "(2, 4, 19)", "(2, 4, 23)"),
    ),
    "h_0: batch": (
        lambda gru: gru(zeros(T, B, I), zeros(2, 5, H)),
        ("h_0", "(2, 4, 19)", "(2, 5, 19)"),
    ),
    "h_0: batch of one": (
        lambda gru: gru(zeros(T, B, I), zeros(2, 1, H)),
        ("h_0", "(2, 4, 19)", "(2, 1, 19)"),
    ),
    "h_0: layers": (
        lambda gru: gru(zeros(T, B, I), zeros(1, B, H)),
        ("h_0", "(2, 4, 19)", "(1, 4, 19)"),
    ),
    "h_0: unbatched for a batch": (
        lambda gru: gru(zeros(T, B, I), zeros(2, H)),
        ("h_0", "(2, 4, 19)", "(2, 19)"),
    ),
    "h_0: batched for one row": (
        lambda gru: gru(zeros(T, I), zeros(2, 1, H)),
        ("h_0", "(2, 19)", "(2, 1, 19)"),
    ),
    "h_0: no axes": (lambda gru: gru(zeros(T, B, I), zeros()), ("h_0", "(2, 4, 19)", "()")),
    "lengths: too few": (
        lambda gru: gru(zeros(T, B, I), lengths=[1, 2, 3]),
        ("lengths", "4", "3"),
    ),
    "lengths: too many": (
        lambda gru: gru(zeros(T, B, I), lengths=np.ones(5, np.int64)),
        ("lengths", "4", "5"),
    ),
    "lengths: none": (lambda gru: gru(zeros(T, B, I), lengths=[]), ("lengths", "4", "0")),
    "lengths: two axes": (
        lambda gru: gru(zeros(T, B, I), lengths=[[1, 2, 3, 4]]),
        ("lengths", "4", "(1, 4)"),
    ),
}


@pytest.mark.parametrize("name", list(BAD_SHAPES))
def test_bad_shapes(name: str) -> None:
    """ShapeError (a ValueError) names the argument, the expected and the actual shape."""
    call, words = BAD_SHAPES[name]
    with pytest.raises(fastgru.ShapeError) as caught:
        call(network())
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("bad", [-1, 8, 2**40, -(2**63)])
def test_lengths_out_of_range(bad: int) -> None:
    """0 <= length <= T; the message says which value, in which range."""
    x, _ = data()
    gru = network()
    for lengths in ([bad, 1, 2, 3], np.array([3, 2, 1, bad])):
        with pytest.raises(ValueError, match="lengths") as caught:
            gru(x, lengths=lengths)
        assert str(bad) in str(caught.value)
        assert "7" in str(caught.value)
    with pytest.raises(ValueError, match="lengths"):
        gru(x, lengths=np.array([1, 2, 3, 2**64 - 1], np.uint64))


def test_lengths_must_be_integers() -> None:
    """Floats, bools and strings are not lengths; nor is an unbatched sequence's."""
    x, _ = data()
    gru = network()
    for lengths in ([1.0, 2.0, 3.0, 4.0], np.ones(B, bool), ["1", "2", "3", "4"], [1j, 2, 3, 4]):
        with pytest.raises(TypeError, match="lengths"):
            gru(x, lengths=lengths)
    with pytest.raises((ValueError, TypeError), match="lengths"):
        gru(x[:, 0], lengths=[3])


@pytest.mark.parametrize("where", list(elsewhere(zeros(1))))
def test_arrays_may_lie_anywhere(where: str) -> None:
    """x, h_0 and lengths that C++ must not read as they lie give the bits of plain arrays."""
    gru, (x, h_0), lengths = network(), data(), np.array([3, 0, 7, 1])
    odd_x, odd_h, odd_lengths = (elsewhere(array)[where] for array in (x, h_0, lengths))
    for options, odd in (({}, {}), ({"lengths": lengths}, {"lengths": odd_lengths})):
        for ours, plain in zip(gru(odd_x, odd_h, **odd), gru(x, h_0, **options), strict=True):
            assert same_bits(ours, plain)
    for ours, plain in zip(gru.trace(odd_x, odd_h), gru.trace(x, h_0), strict=True):
        assert same_bits(ours, plain)
    assert fastgru.compare(gru, gru, odd_x, odd_h).output.max == 0
    weights = {name: elsewhere(tensor)[where] for name, tensor in gru.tensors().items()}
    for name, tensor in make_gru(weights).tensors().items():
        assert same_bits(tensor, gru.tensors()[name])


def test_the_extension_refuses_what_is_not_aligned() -> None:
    """The last line of defence: no pointer is made of an array that does not hold its type."""
    gru, (x, h_0), lengths = network(), data(), np.array([3, 0, 7, 1])
    table = _core.Embedding(zeros(9, 3))
    pool = _core.Pool([gru._core], 3)
    ids = np.array([pool.open(None), pool.open(None)])
    states, versions = pool.read(ids)

    def away(array: Array) -> Array:
        return elsewhere(array)["unaligned"]

    calls: list[Callable[[], object]] = [
        lambda: gru._core.run(away(x), h_0, lengths, False, 1),
        lambda: gru._core.run(x, away(h_0), lengths, False, 1),
        lambda: gru._core.run(x, h_0, away(lengths), False, 1),
        lambda: table.run(away(lengths)),
        lambda: _core.OneHot(9).run(away(lengths)),
        lambda: _core.Embedding(away(zeros(9, 3))),
        lambda: _core.Linear(away(zeros(9, 3)), None, None),
        lambda: _core.Activation("tanh", None).run(away(x)),
        lambda: _core.over_time("last", x, away(lengths), False),
        lambda: pool.step(away(ids), zeros(2, I), None, 1),
        lambda: pool.step(ids, away(zeros(2, I)), None, 1),
        lambda: pool.step(ids, zeros(2, I), away(zeros(2, H)), 1),
        lambda: pool.read(away(ids)),
        lambda: pool.write(ids, [away(states[0])], versions),
        lambda: pool.write(ids, states, away(versions)),
        lambda: pool.restore(away(ids), states),
        lambda: pool.restore(ids, [away(states[0])]),
        lambda: pool.open([away(h_0[:, 0])]),
        lambda: _core.Stream(gru._core, 4, away(h_0)),
        lambda: _core.Stream(gru._core, 4, None).set_state(away(h_0)),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="aligned"):
            call()


def test_ragged_lists_are_refused() -> None:
    """Rows of different lengths are not an array."""
    with pytest.raises((ValueError, TypeError), match="x"):
        network()([[0.0] * I, [0.0] * (I - 1)])


@pytest.mark.parametrize("shape", [(2**45, 1, I), (1, 2**45, I), (2**28, 2**29, I), (2**57, I)])
def test_results_that_fit_no_memory(shape: tuple[int, ...]) -> None:
    """A view can be larger than any memory; sizes that overflow are no crash, and state is kept."""
    x = np.broadcast_to(np.zeros(I, np.float32), shape)
    gru = network()
    with pytest.raises((MemoryError, ValueError)):
        gru(x)
    with pytest.raises((MemoryError, ValueError)):
        gru.trace(x)
    stream = gru.stream()
    stream.step(np.ones(I, np.float32))
    state = stream.state
    with pytest.raises((MemoryError, ValueError)):
        stream.run(x)
    assert same_bits(stream.state, state)


def test_a_refused_call_changes_nothing() -> None:
    """After any of the errors above inputs have their bits, and the model works as before."""
    gru = network()
    x, h_0 = data()
    expected, kept = gru(x, h_0), (x.copy(), h_0.copy())
    for call, _ in BAD_SHAPES.values():
        with pytest.raises(fastgru.ShapeError):
            call(gru)
    with pytest.raises(fastgru.ShapeError):
        gru(x, h_0[:, :2])
    with pytest.raises(ValueError, match="lengths"):
        gru(x, h_0, lengths=[1, 2, 3, 99])
    assert_same((x, h_0), kept)
    assert_same(gru(x, h_0), expected)


def test_options_are_keywords() -> None:
    """lengths by position could be taken for h_0; it is a keyword, and unknown ones are errors."""
    x, h_0 = data()
    with pytest.raises(TypeError):
        network()(x, h_0, [1, 2, 3, 4])  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        network()(x, hx=h_0)  # type: ignore[call-overload]


@pytest.mark.parametrize("threads", [0, -1, 2.5, "2", True])
def test_bad_thread_counts(threads: Any) -> None:
    """A thread count is a positive integer, at construction and when set."""
    with pytest.raises((ValueError, TypeError, OverflowError)):
        network(num_threads=threads)
    gru = network(num_threads=1)
    with pytest.raises((ValueError, TypeError, OverflowError)):
        gru.num_threads = threads
    assert gru.num_threads == 1


# ISA


def test_a_forced_isa_is_used(isa: str) -> None:
    """isa= is what gru.isa says."""
    assert network(isa=isa).isa == isa


def test_isa_names_are_checked() -> None:
    """Unknown and unsupported names raise ValueError listing what there is; no silent fallback."""
    with pytest.raises(ValueError, match="nonsense") as caught:
        network(isa="nonsense")
    assert "portable" in str(caught.value)
    for bad in ("", "AVX2", "avx2 ", "neon\0"):
        with pytest.raises(ValueError, match=r"isa|ISA"):
            network(isa=bad)
    for name, supported in ISA_LEVELS.items():
        if not supported:
            with pytest.raises(ValueError, match=name):
                network(isa=name)


SMALL_NETWORK = """
import numpy as np, fastgru
weights = {"weight_ih_l0": np.ones((6, 3), np.float32), "weight_hh_l0": np.ones((6, 2), np.float32)}
"""


def test_isa_from_the_environment() -> None:
    """FASTGRU_ISA forces a level, isa= wins over it, an unknown name raises at the first model."""
    show = "print(fastgru.GRU.from_state_dict(weights).isa)"
    for name, supported in ISA_LEVELS.items():
        if supported:
            result = run_python(SMALL_NETWORK + show, {"FASTGRU_ISA": name})
            assert result.stdout.split() == [name], result.stderr
    best = next(name for name, supported in ISA_LEVELS.items() if supported)
    assert run_python(SMALL_NETWORK + show, {"FASTGRU_ISA": None}).stdout.split() == [best]
    argument = "print(fastgru.GRU.from_state_dict(weights, isa='portable').isa)"
    result = run_python(SMALL_NETWORK + argument, {"FASTGRU_ISA": best})
    assert result.stdout.split() == ["portable"]
    result = run_python(
        SMALL_NETWORK
        + "try:\n    fastgru.GRU.from_state_dict(weights)\n"
        + "except ValueError as error:\n    print(error)",
        {"FASTGRU_ISA": "nonsense"},
    )
    assert result.returncode == 0, result.stderr
    assert "nonsense" in result.stdout
    assert "FASTGRU_ISA" in result.stdout


# Memory


def test_no_leaks_of_results_or_errors() -> None:
    """References are balanced: thousands of calls and refusals leave no arrays behind."""
    gru = network()
    x, h_0 = data()
    stream = gru.stream(B, h_0)

    def everything() -> None:
        gru(x, h_0)
        gru(x, h_0, lengths=[1, 2, 3, 4])
        stream.step(x[0])
        stream.state = stream.state
        for bad in (zeros(3), zeros(T, B, I + 1)):
            with pytest.raises(fastgru.ShapeError):
                gru(bad)

    for _ in range(50):
        everything()
    gc.collect()
    before = sys.getallocatedblocks()
    references = sys.getrefcount(x), sys.getrefcount(h_0)
    for _ in range(300):
        everything()
    gc.collect()
    assert (sys.getrefcount(x), sys.getrefcount(h_0)) == references
    assert sys.getallocatedblocks() - before < 200


def test_inputs_are_never_written() -> None:
    """x and h_0 may live in memory that cannot be written: a write would be a crash."""
    mmap = pytest.importorskip("mmap")
    x, h_0 = data()
    with mmap.mmap(-1, x.nbytes) as memory:
        memory.write(x.tobytes())
        protected: Array = np.frombuffer(memory, np.float32).reshape(x.shape)
        protected.flags.writeable = False
        libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(libc, "mprotect"):
            pytest.skip("no mprotect here")
        address = ctypes.c_void_p(protected.ctypes.data)
        pages = -(-x.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
        assert libc.mprotect(address, ctypes.c_size_t(pages), 1) == 0  # PROT_READ
        assert_same(network()(protected, h_0), network()(x, h_0))
        assert libc.mprotect(address, ctypes.c_size_t(pages), 3) == 0
        del protected
