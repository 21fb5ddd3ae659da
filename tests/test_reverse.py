"""GRUs that run from the end of a sequence to its start (ONNX's direction="reverse"), the layer
that turns sequences round, and the last states of two directions."""

from __future__ import annotations

import copy
import json
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastgru
from conftest import (
    SUPPORTED_ISAS,
    Array,
    Weights,
    make_gru,
    random_input,
    random_state,
    random_weights,
    same_bits,
)
from fastgru.spec import spec_from_tensors

I, H = 5, 19  # noqa: E741  (I is the project's letter for the input size)


def reverse_gru(weights: Weights, *, isa: str | None = None, **options: Any) -> fastgru.GRU:
    kinds = {name: options.pop(name) for name in ("reset_after", "activation") if name in options}
    spec = spec_from_tensors(weights, reverse=True, **kinds)
    return fastgru.GRU(spec, isa=isa, **options)


def turned(x: Array, lengths: Any) -> Array:
    """(T, B, ...): each row's first `length` steps the other way round."""
    y = x.copy()
    for row, length in enumerate(lengths):
        y[:length, row] = x[:length, row][::-1]
    return y


def some_weights(num_layers: int = 1, seed: int = 0) -> Weights:
    return random_weights(np.random.default_rng(seed), I, H, num_layers)


@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=20),
    num_layers=st.integers(1, 3),
    reset_after=st.booleans(),
    threads=st.sampled_from([1, 2]),
    isa=st.sampled_from(SUPPORTED_ISAS),
)
def test_it_is_the_forward_one_on_turned_sequences(
    lengths: list[int], num_layers: int, reset_after: bool, threads: int, isa: str
) -> None:
    """Every bit of output and final state, whatever the lengths, layers and equation."""
    rng = np.random.default_rng(len(lengths))
    weights = some_weights(num_layers)
    x, h_0 = random_input(rng, 9, len(lengths), I), random_state(rng, weights, len(lengths))
    forward = make_gru(weights, reset_after=reset_after, isa=isa, num_threads=threads)
    gru = reverse_gru(weights, reset_after=reset_after, isa=isa, num_threads=threads)
    expected, expected_h = forward(turned(x, lengths), h_0, lengths=lengths)
    output, h_n = gru(x, h_0, lengths=lengths)
    assert same_bits(output, turned(expected, lengths))
    assert same_bits(h_n, expected_h)


@pytest.mark.parametrize("rows", [1, 2, 33])
@pytest.mark.parametrize("hidden_size", [4, 19, 200])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_every_plan_of_work(rows: int, hidden_size: int, num_layers: int, isa: str) -> None:
    """Few and many rows (in lanes), long sequences in blocks of time, on two threads."""
    rng = np.random.default_rng(rows)
    weights = random_weights(rng, I, hidden_size, num_layers)
    x = random_input(rng, 70, rows, I)
    for precision in ("float32", "bfloat16", "int8"):
        forward = make_gru(weights, isa=isa, precision=precision)
        gru = reverse_gru(weights, isa=isa, precision=precision, num_threads=2)
        expected, expected_h = forward(x[::-1])
        output, h_n = gru(x)
        assert same_bits(output, expected[::-1])
        assert same_bits(h_n, expected_h)


def test_layouts() -> None:
    """batch_first, unbatched and packed input, and the attribute in repr, copies and pickles."""
    weights = some_weights(2)
    rng = np.random.default_rng(1)
    x = random_input(rng, 6, 3, I)
    expected, expected_h = reverse_gru(weights)(x)
    output, h_n = reverse_gru(weights, batch_first=True)(x.swapaxes(0, 1))
    assert same_bits(output.swapaxes(0, 1), expected)
    assert same_bits(h_n, expected_h)
    alone, _ = reverse_gru(weights)(x[:, 1])
    assert same_bits(alone, expected[:, 1])
    gru = reverse_gru(weights)
    assert gru.reverse
    assert "reverse=True" in repr(gru)
    assert not make_gru(weights).reverse
    assert "reverse" not in repr(make_gru(weights))
    for other in (copy.copy(gru), pickle.loads(pickle.dumps(gru)), gru.to("float32")):
        assert same_bits(other(x)[0], expected)


def test_packed(torch: Any) -> None:
    """A PackedSequence's rows turn round at their own ends."""
    weights = some_weights()
    x = random_input(np.random.default_rng(2), 6, 3, I)
    lengths = [2, 6, 3]
    pack = torch.nn.utils.rnn.pack_padded_sequence
    packed = pack(torch.from_numpy(x), torch.tensor(lengths), enforce_sorted=False)
    output, h_n = reverse_gru(weights)(packed)
    padded, _ = torch.nn.utils.rnn.pad_packed_sequence(output)
    expected, expected_h = reverse_gru(weights)(x, lengths=lengths)
    assert same_bits(padded.numpy(), expected)
    assert same_bits(h_n, expected_h)


def test_trace_is_in_the_order_of_time() -> None:
    """hidden is the output of each layer, at the steps of the input."""
    weights = some_weights(2)
    gru = reverse_gru(weights)
    x = random_input(np.random.default_rng(3), 7, 2, I)
    output, h_n = gru(x)
    trace = gru.trace(x)
    assert same_bits(trace.hidden[1], output)
    assert same_bits(trace.hidden[:, 0], h_n)
    report = fastgru.compare(gru, gru.to("int8"), x)
    assert 0 < report.output.max < 0.05
    with pytest.raises(ValueError, match="reverse"):
        fastgru.compare(gru, make_gru(weights), x)


def test_streams_and_pools_are_refused() -> None:
    """The end of a sequence is not there yet."""
    gru = reverse_gru(some_weights())
    for owner in (gru, fastgru.Model([gru])):
        with pytest.raises(ValueError, match="starts at the end"):
            owner.stream()
        with pytest.raises(ValueError, match="starts at the end"):
            owner.pool(3)
    for layer in (fastgru.Reverse(), fastgru.Last(bidirectional=True)):
        model = fastgru.Model([fastgru.OneHot(4), layer])
        with pytest.raises(ValueError, match="needs all steps"):
            model.stream()


def test_two_directions_are_not_reverse() -> None:
    """A contradiction is an error of the tensors."""
    weights = random_weights(np.random.default_rng(0), I, H, 1, True)
    with pytest.raises(fastgru.FormatError, match="reverse: expected False"):
        reverse_gru(weights)


# ---- the layers ----


@given(
    lengths=st.one_of(st.none(), st.lists(st.integers(0, 4), min_size=3, max_size=3)),
    batch_first=st.booleans(),
)
def test_reverse_layer(lengths: list[int] | None, batch_first: bool) -> None:
    """Twice is the input again; once is each row's valid steps turned round."""
    x = random_input(np.random.default_rng(4), 4, 3, 2)
    given_x = np.ascontiguousarray(x.swapaxes(0, 1)) if batch_first else x
    layer = fastgru.Reverse()
    once = layer(given_x, lengths=lengths, batch_first=batch_first)
    assert once.flags.c_contiguous
    assert same_bits(layer(once, lengths=lengths, batch_first=batch_first), given_x)
    expected = turned(x, [4] * 3 if lengths is None else lengths)
    assert same_bits(once.swapaxes(0, 1) if batch_first else once, expected)


def test_reverse_layer_and_reverse_gru() -> None:
    """Turning a sequence round, a GRU, and turning back is the reverse GRU."""
    weights = some_weights()
    x = random_input(np.random.default_rng(5), 6, 4, I)
    lengths = [6, 0, 3, 1]
    model = fastgru.Model([fastgru.Reverse(), make_gru(weights), fastgru.Reverse()])
    assert same_bits(model(x, lengths=lengths), reverse_gru(weights)(x, lengths=lengths)[0])
    assert same_bits(model(x[:, 0]), reverse_gru(weights)(x[:, 0])[0])


@pytest.mark.parametrize("batch_first", [False, True])
def test_last_of_two_directions(batch_first: bool, torch: Any) -> None:
    """torch.cat([h_n[-2], h_n[-1]], dim=-1), also with lengths and unbatched."""
    weights = random_weights(np.random.default_rng(6), I, H, 2, True)
    x = random_input(np.random.default_rng(7), 6, 3, I)
    gru = make_gru(weights, batch_first=batch_first)
    model = fastgru.Model([gru, fastgru.Last(bidirectional=True)])
    given_x = x.swapaxes(0, 1) if batch_first else x
    for lengths in (None, [2, 6, 3]):
        _, h_n = gru(given_x, lengths=lengths)
        assert same_bits(model(given_x, lengths=lengths), np.concatenate(list(h_n[-2:]), axis=-1))
    _, h_n = gru(x[:, 0])
    assert same_bits(model(x[:, 0]), np.concatenate(list(h_n[-2:]), axis=-1))


def test_layers_that_do_not_fit() -> None:
    """Half of an odd number of features is none; a row has no time; lengths fit the batch."""
    with pytest.raises(ValueError, match="expected two directions, an even number"):
        fastgru.Model([make_gru(some_weights()), fastgru.Last(bidirectional=True)])
    with pytest.raises(fastgru.ShapeError, match="even number"):
        fastgru.Last(bidirectional=True)(np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match="layer 1 Reverse: expected sequences"):
        fastgru.Model([fastgru.Last(), fastgru.Reverse()])
    with pytest.raises(TypeError, match="bidirectional: expected True or False"):
        fastgru.Last(bidirectional=1)  # type: ignore[arg-type]
    x = np.ones((4, 3, 2), np.float32)
    with pytest.raises(ValueError, match=r"lengths\[1\]: expected 0 <= length <= 4, got 5"):
        fastgru.Reverse()(x, lengths=[1, 5, 0])
    with pytest.raises(fastgru.ShapeError, match="lengths: expected"):
        fastgru.Reverse()(x, lengths=[1])
    with pytest.raises(fastgru.ShapeError, match="unbatched"):
        fastgru.Reverse()(x[0], lengths=[1])
    with pytest.raises(fastgru.ShapeError, match="x: expected"):
        fastgru.Reverse()(x[0, 0])


# ---- files: format version 4 ----


def description_of(path: Path) -> Any:
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    return json.loads(header["__metadata__"]["fastgru"])


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_files(tmp_path: Path, precision: str) -> None:
    """A GRU's and a Model's file bring back the same bits, and are of version 4."""
    gru = reverse_gru(some_weights(2), batch_first=True, precision=precision)
    two = make_gru(random_weights(np.random.default_rng(8), H, H, 1, True), batch_first=True)
    model = fastgru.Model([gru, fastgru.Reverse(), two, fastgru.Last(bidirectional=True)])
    x = random_input(np.random.default_rng(9), 3, 6, I)
    gru.save(tmp_path / "gru")
    again = fastgru.load(tmp_path / "gru")
    assert again.reverse
    assert same_bits(again(x)[0], gru(x)[0])
    assert description_of(tmp_path / "gru")["format_version"] == 4
    model.save(tmp_path / "model")
    loaded = fastgru.load(tmp_path / "model")
    assert repr(loaded) == repr(model)
    assert same_bits(loaded(x), model(x))
    assert description_of(tmp_path / "model")["format_version"] == 4


def test_older_versions_are_written_where_they_do(tmp_path: Path) -> None:
    """An older fastgru reads what it can run: only what is new is of version 4."""
    make_gru(some_weights()).save(tmp_path / "gru")
    assert description_of(tmp_path / "gru")["format_version"] == 1
    fastgru.Model([fastgru.OneHot(3), fastgru.Last()]).save(tmp_path / "model")
    assert description_of(tmp_path / "model")["format_version"] == 3
    for layer in (fastgru.Reverse(), fastgru.Last(bidirectional=True)):
        fastgru.Model([fastgru.OneHot(4), layer]).save(tmp_path / "new")
        assert description_of(tmp_path / "new")["format_version"] == 4
