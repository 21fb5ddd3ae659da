"""A call whose arguments are wrong in several ways says all of it at once.

Promise 4: one exception that lists every problem, each in the words that it has where it is alone,
of a class that `except` can rely on; and nothing has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import fastgru
from conftest import Array, make_gru, random_weights
from test_model import character_model
from test_model import gru as model_gru

T, B, I, H, L = 7, 4, 5, 21, 2  # noqa: E741

Call = Callable[..., object]
# Argument by argument: what is right, and wrong in ways that do not change how others are judged.
Faults = Mapping[str, tuple[Any, list[Any]]]


def network(**options: Any) -> fastgru.GRU:
    return make_gru(random_weights(np.random.default_rng(0), I, H, L), **options)


def zeros(*shape: int) -> Array:
    return np.zeros(shape, np.float32)


def read_only(array: Array) -> Array:
    array.flags.writeable = False
    return array


def one_of(call: Call, arguments: Mapping[str, Any]) -> Exception | None:
    try:
        call(**arguments)
    except Exception as error:
        return error
    return None


def text_of(error: Exception) -> str:
    return str(error.args[0])


def lines_of(error: Exception) -> list[str]:
    first, *rest = text_of(error).split("\n  ")
    return rest or [first]


def check_together(
    data: st.DataObject, call: Call, faults: Faults, kept: Callable[[], Any]
) -> None:
    """Any combination of faults is told as the faults are told one by one."""
    right = {name: good for name, (good, _) in faults.items()}
    chosen = {
        name: data.draw(st.sampled_from([good, *bad]), label=name)
        for name, (good, bad) in faults.items()
    }
    wrong = {name: value for name, value in chosen.items() if value is not right[name]}
    alone = [one_of(call, right | {name: value}) for name, value in wrong.items()]
    before = kept()
    together = one_of(call, right | wrong)
    if not wrong:
        assert together is None
        return
    assert kept() == before
    assert together is not None
    expected = [line for error in alone if error is not None for line in lines_of(error)]
    assert lines_of(together) == expected
    if len(expected) > 1:
        assert f": {len(expected)} problems:\n" in text_of(together)
    kinds = [type(error) for error in alone]
    for kind in (TypeError, fastgru.ShapeError):
        if kind in kinds:
            assert type(together) is kind
            return
    assert type(together) is (kinds[0] if len(set(kinds)) == 1 else ValueError)


# Of a batch: x with another last axis still tells T and B.
BATCH: Faults = {
    "x": (zeros(T, B, I), [zeros(T, B, I + 1), zeros(T, B, I).astype(int)]),
    "h_0": (
        zeros(L, B, H),
        [zeros(L, B + 1, H), zeros(L, H), zeros(), zeros(L, B, H) > 0, [[0.0], [0.0, 1.0]]],
    ),
    "lengths": (
        [1, 2, 3, 4],
        [[1, 2, 3], [1, 8, 3, -1], [[1, 2, 3, 4]], [1.0, 2.0, 3.0, 4.0], np.full(B, 2**64 - 1)],
    ),
}


def bits(stream: fastgru.Stream) -> bytes:
    return stream.state.tobytes()


def without(faults: Faults, *names: str) -> Faults:
    return {name: fault for name, fault in faults.items() if name not in names}


@given(st.data())
def test_calls(data: st.DataObject) -> None:
    """x, h_0 and lengths of a GRU, also in the other layout, and without lengths."""
    gru = network()
    check_together(data, gru, BATCH, lambda: None)
    check_together(data, gru, without(BATCH, "lengths"), lambda: None)
    check_together(data, gru.trace, without(BATCH, "lengths"), lambda: None)
    x, bad = BATCH["x"]
    turned = {"x": (x.swapaxes(0, 1), [value.swapaxes(0, 1) for value in bad])}
    check_together(data, network(batch_first=True), {**BATCH, **turned}, lambda: None)


def test_the_message_of_a_call() -> None:
    """What a user reads, line for line."""
    with pytest.raises(fastgru.ShapeError) as caught:
        network()(zeros(9, 3, I + 1), zeros(L, B, H), lengths=[1, 10, -1])
    assert str(caught.value).split("\n") == [
        "GRU: 4 problems:",
        "  x: expected (T, B, 5) or (T, 5), got (9, 3, 6)",
        "  h_0: expected (2, 3, 21), got (2, 4, 21)",
        "  lengths[1]: expected 0 <= length <= 9, got 10",
        "  lengths[2]: expected 0 <= length <= 9, got -1",
    ]


@pytest.mark.parametrize("shape", [(T,), (T, I + 1), (1, T, B, I), ()])
def test_where_x_does_not_tell_t_and_b(shape: tuple[int, ...]) -> None:
    """h_0 and lengths are judged as far as they can be, and what fits some x is no problem."""
    gru = network()
    for h_0 in (zeros(L, B, H), zeros(L, H)):
        for lengths in (None, [1, 2, 10**6]):
            with pytest.raises(fastgru.ShapeError, match=r"^x: expected .*, got \([^\n]*$"):
                gru(zeros(*shape), h_0, lengths=lengths)
    with pytest.raises(fastgru.ShapeError) as caught:
        gru(zeros(*shape), zeros(L + 1, B, H), lengths=[1, -2])
    assert str(caught.value).split("\n  ")[2:] == [
        "h_0: expected (2, B, 21) or (2, 21), got (3, 4, 21)",
        "lengths[1]: expected 0 <= length <= T, got -2",
    ]


@pytest.mark.parametrize("rows", [13, 14, 1000])
def test_of_many_bad_lengths_a_dozen_is_listed(rows: int) -> None:
    """And how many more there are."""
    with pytest.raises(ValueError, match="lengths") as caught:
        network()(zeros(T, rows, I), lengths=np.arange(rows) + T + 1)
    lines = str(caught.value).split("\n  ")
    assert lines[0] == f"GRU: {rows} problems:"
    assert lines[12] == f"lengths[11]: expected 0 <= length <= 7, got {T + 12}"
    assert lines[13:] == [f"lengths: and {rows - 12} more out of this range"]


@given(st.data())
def test_streams(data: st.DataObject) -> None:
    """x and out of a step and of a chunk, with and without a batch axis."""
    outs = [zeros(3, H + 1), np.zeros((3, H)), read_only(zeros(3, H)), zeros(2, 3, H)[:, :, ::-1]]
    stream = network().stream(3)
    step: Faults = {
        "x_t": (zeros(3, I), [zeros(3, I + 1), zeros(I), zeros(3, I).astype(int)]),
        "out": (zeros(3, H), [*outs, [0.0]]),
    }
    check_together(data, stream.step, step, lambda: bits(stream))
    run: Faults = {
        "chunk": (zeros(T, 3, I), [zeros(T, 3, I + 1), zeros(T, 2, I), zeros(T, 3, I) > 0]),
        "out": (zeros(T, 3, H), [zeros(T, 4, H), np.zeros((T, 3, H)), zeros(T, 6, H)[:, ::2]]),
    }
    check_together(data, stream.run, run, lambda: bits(stream))
    one = network().stream()
    single: Faults = {
        "x_t": (zeros(I), [zeros(I + 1), np.zeros(I, int)]),
        "out": (zeros(H), [zeros(H + 1), np.zeros(H)]),
    }
    check_together(data, one.step, single, lambda: bits(one))
    # A chunk (T, I + 1) may lack an axis: how many steps out needs is not judged then.
    error = one_of(one.run, {"chunk": zeros(T, I + 1), "out": np.zeros((T, H + 1))})
    assert type(error) is fastgru.ShapeError
    assert lines_of(error)[1:] == [
        "out: expected (T, 1, 21) or (T, 21), got (7, 22)",
        "out: expected float32, got float64",
    ]


@given(st.data())
def test_pools(data: st.DataObject) -> None:
    """ids, x and out of a step; session and state of set_state."""
    pool = network().pool(6)
    a, b, closed = pool.open(), pool.open(), pool.open()
    pool.close(closed)

    def kept() -> list[bytes]:
        return [pool.get_state(session).tobytes() for session in (a, b)]

    step: Faults = {
        "ids": (
            [a, b],
            [[a, closed], [7, closed], [b, b], [-1, 2**62], [float(a), b], [True, False]],
        ),
        "x": (zeros(2, I), [zeros(2, I + 1), zeros(3, I), zeros(I), zeros(2, I).astype(int)]),
        "out": (zeros(2, H), [zeros(2, H + 1), np.zeros((2, H)), [0.0]]),
    }
    check_together(data, pool.step, step, kept)
    state: Faults = {
        "session": (a, [closed, -5, 2**80, "7"]),
        "state": (zeros(L, H), [zeros(L, H + 1), zeros(L, 1, H), zeros(L, H).astype(int)]),
    }
    check_together(data, pool.set_state, state, kept)


def test_every_bad_id_is_named() -> None:
    """Unknown ones alone are a KeyError; with ids that are there twice a ValueError; a dozen."""
    pool = network().pool(6)
    a, b = pool.open(), pool.open()
    with pytest.raises(KeyError) as unknown:
        pool.step([7, a, 8, b, 7], zeros(5, I))
    assert unknown.value.args[0] == "sessions 7, 8 are closed or were never this pool's"
    with pytest.raises(ValueError, match=f"ids: sessions {b}, {a} are there twice$"):
        pool.step([a, b, b, a, b], zeros(5, I))
    with pytest.raises(ValueError, match=rf"^ids: session 7 is closed .*; session {a} is there"):
        pool.step([a, a, 7], zeros(3, I))
    with pytest.raises(KeyError, match=r"sessions 0, 1, .*, 11 and 88 more are closed"):
        pool.step(np.arange(100), zeros(100, I))


@given(st.data())
def test_models(data: st.DataObject) -> None:
    """Indices or features, and lengths; ids and rows of a pool; several GRUs' states."""
    model = character_model()
    x = np.ones((T, B), np.int64)
    bad = x.copy()
    bad[2, 1], bad[3, 2] = 99, -1
    call: Faults = {
        "x": (x, [x + 0.5]),
        "lengths": (BATCH["lengths"][0], BATCH["lengths"][1]),
    }
    check_together(data, model, call, lambda: None)
    error = one_of(model, {"x": bad, "lengths": [1, 2, 3, 9]})
    assert type(error) is ValueError
    assert lines_of(error) == [
        "x: expected 0 <= index < 13, got -1, 99",
        "lengths[3]: expected 0 <= length <= 7, got 9",
    ]
    features = fastgru.Model([model_gru(I), fastgru.Last()])
    check_together(data, features, without(BATCH, "h_0"), lambda: None)

    pool = model.pool(4)
    a, b = pool.open(), pool.open()

    def kept() -> list[bytes]:
        return [state.tobytes() for session in (a, b) for state in pool.get_state(session)]

    step: Faults = {
        "ids": ([a, b], [[a, 7], [8, 7], [b, b], [1.0, 2.0]]),
        "x": ([1, 2], [[1], [[1, 2]], [1.0, 2.0], [1, 99]]),
    }
    check_together(data, pool.step, step, kept)
    sizes = [state.shape for state in pool.get_state(a)]
    good = [zeros(*size) for size in sizes]
    state: Faults = {
        "session": (a, [7, -5, "7"]),
        "state": (
            good,
            [good[:1], [zeros(3), good[1]], [zeros(3), zeros(4)], [good[0], good[1].astype(int)]],
        ),
    }
    check_together(data, pool.set_state, state, kept)
    with pytest.raises(fastgru.ShapeError, match=r"(?s)2 problems:\n  h_0\[0\]: .*\n  h_0\[1\]: "):
        pool.open([zeros(3), zeros(4)])
    assert len(pool) == 2
    stream = model.stream(2)
    before = [array.tobytes() for array in stream.state]
    with pytest.raises(TypeError, match=r"(?s)2 problems:\n  state\[0\]: .*\n  state\[1\]: "):
        stream.state = [zeros(3), zeros(2, 2, 19) > 0]
    assert [array.tobytes() for array in stream.state] == before


@pytest.mark.parametrize(
    "layer", [fastgru.Last(), fastgru.Mean(), fastgru.Max(), fastgru.Reverse()]
)
@given(data=st.data())
def test_layers_over_time(layer: Any, data: st.DataObject) -> None:
    """x and lengths of a layer that is called by itself."""
    faults: Faults = {
        "x": (zeros(T, B, I), [zeros(T, B, I) > 0]),
        "lengths": ([1, 2, 3, 4], [[1, 2, 3], [1, 8, 3, -1], [1.0, 2.0, 3.0, 4.0]]),
    }
    check_together(data, layer, faults, lambda: None)
    error = one_of(layer, {"x": zeros(T), "lengths": [1, -1]})
    assert type(error) is fastgru.ShapeError
    assert "2 problems:\n  x: expected " in text_of(error)
    assert f"expected {int(layer.over_time)} <= length <= T, got -1" in text_of(error)


def test_compare() -> None:
    """Every size that differs; and x and h_0 as a call."""
    other = make_gru(random_weights(np.random.default_rng(0), I + 1, H, 1))
    with pytest.raises(ValueError, match=r"(?s)2 problems:\n  input_size: .*\n  num_layers: 2 and"):
        fastgru.compare(network(), other, zeros(T, I))
    with pytest.raises(fastgru.ShapeError, match=r"(?s)2 problems:\n  x: .*\n  h_0: "):
        fastgru.compare(network(), network(), zeros(T, B, I + 1), zeros(L, B + 1, H))


def test_tensors(torch: ModuleType) -> None:
    """A packed call, and modules of a larger PyTorch model."""
    from fastgru.torch import replace_gru  # noqa: PLC0415  (imports torch)

    pack = torch.nn.utils.rnn.pack_padded_sequence
    packed = pack(torch.zeros(T, B, I + 1), [7, 5, 5, 2])
    with pytest.raises(fastgru.ShapeError, match=r"(?s)2 problems:\n  x\.data: .*\n  h_0: .*20\)"):
        network()(packed, zeros(L, B, H - 1))
    with torch.inference_mode():
        module = replace_gru(torch.nn.GRU(I, H).eval())
        with pytest.raises(fastgru.ShapeError, match=r"(?s)2 problems:\n  x: .*\n  h_0: "):
            module(torch.zeros(T, B, I + 1), torch.zeros(1, B + 1, H))
        cell = replace_gru(torch.nn.GRUCell(I, H).eval())
        with pytest.raises(fastgru.ShapeError, match=r"(?s)2 problems:\n  input: .*\n  hx: "):
            cell(torch.zeros(B, I + 1), torch.zeros(B + 1, H))
