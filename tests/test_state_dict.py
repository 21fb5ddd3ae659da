"""Finding, judging and converting weights: from_state_dict, from_torch and from_d2l."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fastgru
from conftest import Array, Weights, random_input, random_weights, same_bits

I, H = 3, 5  # noqa: E741
STACKS = [(1, False, True), (1, True, False), (3, False, False), (2, True, True)]


def weights(*args: Any, seed: int = 0, **kwargs: Any) -> Weights:
    return random_weights(np.random.default_rng(seed), I, H, *args, **kwargs)


def prefixed(prefix: str, tensors: Weights) -> Weights:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def message(state: Any, **kwargs: Any) -> str:
    """What the FormatError says."""
    with pytest.raises(fastgru.FormatError) as caught:
        fastgru.GRU.from_state_dict(state, **kwargs)
    return str(caught.value)


def with_rows(count: int) -> Weights:
    """Weights of a network with `count` gates under a GRU's names."""
    shapes = {"weight_ih_l0": (count * 96, 7), "weight_hh_l0": (count * 96, 96)}
    shapes |= {"bias_ih_l0": (count * 96,), "bias_hh_l0": (count * 96,)}  # type: ignore[dict-item]
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


# ---- what is found ----


@pytest.mark.parametrize(("layers", "bidirectional", "bias"), STACKS)
def test_sizes_come_from_names_and_shapes(layers: int, bidirectional: bool, bias: bool) -> None:
    """I, H, L, D and the presence of biases need not be told."""
    state = weights(layers, bidirectional, bias)
    gru = fastgru.GRU.from_state_dict(state)
    assert (gru.input_size, gru.hidden_size, gru.num_layers) == (I, H, layers)
    assert (gru.bidirectional, gru.bias) == (bidirectional, bias)
    assert list(gru.tensors()) == list(state)
    assert all(same_bits(tensor, state[name]) for name, tensor in gru.tensors().items())


def test_the_order_of_the_names_does_not_matter() -> None:
    """A mapping's order is nobody's promise."""
    state = weights(2, True)
    x = random_input(np.random.default_rng(1), 4, 2, I)
    backwards = dict(reversed(state.items()))
    expected = fastgru.GRU.from_state_dict(state)(x)[0]
    assert same_bits(fastgru.GRU.from_state_dict(backwards)(x)[0], expected)


def test_ten_layers_and_more() -> None:
    """Layers are numbers, not letters: l10 comes after l9."""
    state = weights(12)
    gru = fastgru.GRU.from_state_dict(dict(sorted(state.items())))
    assert gru.num_layers == 12
    assert all(same_bits(tensor, state[name]) for name, tensor in gru.tensors().items())


def test_a_gru_is_found_under_any_prefix_among_other_tensors() -> None:
    """Other layers, also with integer or odd tensors, are nobody's business."""
    state: dict[Any, Any] = prefixed("model.encoder.rnn.", weights())
    state |= {"embed.weight": np.zeros((9, I)), "steps": np.int64(7), "weight": None, 5: "x"}
    state["model.encoder.rnn.dropout.mask"] = np.zeros(3)
    assert fastgru.GRU.from_state_dict(state).hidden_size == H


@pytest.mark.parametrize("prefix", ["b.rnn.", "b.rnn"])
def test_prefix_picks_one_of_several(prefix: str) -> None:
    """With or without the last dot."""
    second = weights(seed=2)
    state = prefixed("a.rnn.", weights()) | prefixed("b.rnn.", second)
    gru = fastgru.GRU.from_state_dict(state, prefix=prefix)
    assert same_bits(gru.tensors()["weight_ih_l0"], second["weight_ih_l0"])


def test_prefix_may_be_no_module_path() -> None:
    """`gru_weight_ih_l0`: names that someone has joined by hand."""
    state = prefixed("gru_", weights(2))
    assert fastgru.GRU.from_state_dict(state, prefix="gru_").num_layers == 2


def test_the_empty_prefix_means_the_top() -> None:
    second = weights(seed=2)
    state = prefixed("rnn.", weights()) | second
    gru = fastgru.GRU.from_state_dict(state, prefix="")
    assert same_bits(gru.tensors()["weight_hh_l0"], second["weight_hh_l0"])


def test_several_grus_are_listed() -> None:
    """The error without prefix names every choice."""
    state = prefixed("encoder.", weights()) | prefixed("decoder.rnn.", weights())
    text = message(state)
    assert "'encoder.'" in text
    assert "'decoder.rnn.'" in text
    assert "prefix=" in text


def test_the_only_gru_beside_an_lstm_and_an_rnn_is_it() -> None:
    """Rows tell them apart: exactly one has 3H."""
    state = prefixed("lstm.", with_rows(4)) | prefixed("rnn.", with_rows(1))
    gru = fastgru.GRU.from_state_dict(state | prefixed("gru.", weights()))
    assert gru.hidden_size == H


@pytest.mark.parametrize("prefix", [0, b"rnn.", ["rnn."]])
def test_a_prefix_is_a_string(prefix: Any) -> None:
    with pytest.raises(TypeError, match="prefix: expected a string or None"):
        fastgru.GRU.from_state_dict(weights(), prefix=prefix)


def test_a_wrong_prefix_lists_the_right_ones() -> None:
    text = message(prefixed("encoder.rnn.", weights()), prefix="decoder.")
    assert "'decoder.'" in text
    assert "'encoder.rnn.'" in text


def test_nothing_found_says_what_was_seen() -> None:
    text = message({"conv.weight": np.zeros(3), "conv.bias": np.zeros(3)})
    assert "weight_ih_l0" in text
    assert "conv.weight" in text
    assert "conv.bias" in text
    assert len(message({f"layer{n}.weight": np.zeros(1) for n in range(10_000)})) < 1000


def test_a_cell_is_a_one_layer_gru() -> None:
    """GRUCell's names carry no layer."""
    state = weights()
    cell = {f"cell.{name.removesuffix('_l0')}": tensor for name, tensor in state.items()}
    gru = fastgru.GRU.from_state_dict(cell)
    assert gru.num_layers == 1
    assert same_bits(gru.tensors()["bias_hh_l0"], state["bias_hh_l0"])


# ---- what does not fit ----


def test_every_problem_is_reported_at_once() -> None:
    """One error, each problem with name, expected and actual."""
    state: dict[str, Any] = random_weights(np.random.default_rng(0), 40, 256, 2, bidirectional=True)
    state = prefixed("rnn.", state)
    state["rnn.weight_hh_l0"] = np.zeros((768, 255), np.float32)
    state["rnn.bias_ih_l0_reverse"] = np.zeros(256, np.float32)
    state["rnn.weight_ih_l1"] = np.zeros((768, 512), np.int64)
    state["rnn.weight_ih_l0_g"] = np.zeros(3, np.float32)
    state["rnn.bias_hh_l1"] = np.array(["x"] * 768, dtype=object)
    del state["rnn.bias_hh_l1_reverse"]
    text = message(state)
    for problem in (
        "6 problems",
        "rnn.weight_hh_l0: expected (768, 256), got (768, 255)",
        "rnn.bias_ih_l0_reverse: expected (768,), got (256,)",
        "rnn.weight_ih_l1: expected a real floating dtype, got int64",
        "rnn.weight_ih_l0_g: no tensor of a GRU has this name",
        "rnn.bias_hh_l1: expected a real floating dtype, got object",
        "rnn.bias_hh_l1_reverse: missing, expected (768,)",
    ):
        assert problem in text, text


@pytest.mark.parametrize("name", list(weights(2, True)))
def test_any_tensor_missing_is_named_with_its_shape(name: str) -> None:
    """Reverse on one layer only, half a bias, no recurrent weight: none is a smaller network."""
    state = weights(2, True)
    shape = state.pop(name).shape
    assert f"{name}: missing, expected {shape}" in message(state).replace("I)", f"{I})")


@pytest.mark.parametrize("name", list(weights(2, True)))
def test_any_tensor_of_a_wrong_shape_is_the_one_that_is_named(name: str) -> None:
    """One bad tensor is one problem: it does not make the others look wrong."""
    changes: list[Callable[[Array], Array]] = [
        lambda a: a[:-1],
        lambda a: a[None],
        lambda a: a[..., 0],
    ]
    for change in changes:
        state = weights(2, True)
        shape = state[name].shape
        state[name] = change(state[name])
        expected = f"{name}: expected {shape}, got {state[name].shape}"
        assert expected in message(state).replace("I)", f"{I})")
        assert "problems" not in message(state)


def test_transposed_weights_are_suspected() -> None:
    state = weights(bias=False)
    state["weight_hh_l0"] = state["weight_hh_l0"].T
    assert "expected (15, 5), got (5, 15) (transposed?)" in message(state)
    state = weights(bias=False)
    state["weight_ih_l0"] = state["weight_ih_l0"].T
    assert "expected (15, 3), got (3, 15) (transposed?)" in message(state)


def test_gaps_in_the_layers() -> None:
    """Layers 0 and 3 are no network of two layers."""
    state = weights(4)
    state = {name: tensor for name, tensor in state.items() if "_l1" not in name}
    state = {name: tensor for name, tensor in state.items() if "_l2" not in name}
    assert "layers 1, 2: missing (the last is layer 3)" in message(state)
    state = {name: tensor for name, tensor in weights(2).items() if "_l0" not in name}
    assert "layers 0: missing" in message(state)


def test_absurd_layer_numbers_cost_nothing() -> None:
    """A layer number is not a size to allocate, nor a list to print."""
    state = weights()
    for number in ("9999", "99999", "9" * 5000, "00", "-1", "\u0661"):
        state[f"weight_ih_l{number}"] = state["weight_ih_l0"]
        assert len(message(state)) < 20_000
        del state[f"weight_ih_l{number}"]


@pytest.mark.parametrize(("count", "name"), [(1, "an RNN"), (4, "an LSTM")])
def test_other_networks_are_recognised(count: int, name: str) -> None:
    """Rows that are H or 4H say which network was trained, also if H is a multiple of 3."""
    text = message(with_rows(count))
    assert f"looks like {name}" in text
    assert f"weight_hh_l0: expected (288, 96), got ({count * 96}, 96)" in text


def test_an_lstm_with_a_projection_is_recognised() -> None:
    state = with_rows(4) | {"weight_hr_l0": np.zeros((7, 96), np.float32)}
    assert "weight_hr_l0: a projection" in message(state)


@pytest.mark.parametrize(
    "name",
    [
        "weight_ih_l0_v",
        "weight_hh_l0_reversed",
        "bias_ih",
        "weight_ih_l",
        "bias_hh_l0\n",
        "weight_ihx",
    ],
)
def test_gru_named_tensors_that_do_not_fit_are_errors(name: str) -> None:
    """Beside a GRU's tensors they must mean something, and dropping them would be silent."""
    assert repr(name)[1:-1].split("\\")[0] in message(weights() | {name: np.zeros(3)})


@pytest.mark.parametrize("shape", [(0, 0), (15, 0), (0, 5), (), (15,), (15, 5, 1)])
def test_degenerate_shapes(shape: tuple[int, ...]) -> None:
    """Zero sizes and wrong numbers of axes are named like any other wrong shape."""
    for name in ("weight_hh_l0", "weight_ih_l0"):
        state = weights()
        state[name] = np.zeros(shape, np.float32)
        assert name in message(state) or "_size: expected at least 1, got 0" in message(state)
    empty = {"weight_ih_l0": np.zeros((0, 0)), "weight_hh_l0": np.zeros((0, 0))}
    assert "hidden_size: expected at least 1, got 0" in message(empty)


def test_nan_weights_are_accepted() -> None:
    """They are the user's; they propagate."""
    state = weights()
    state["bias_ih_l0"][0] = np.nan
    state["weight_ih_l0"][1, 1] = np.inf
    gru = fastgru.GRU.from_state_dict(state)
    output, _ = gru(np.ones((2, 1, I), np.float32))
    assert np.isnan(output[..., 0]).all()
    assert same_bits(gru.tensors()["bias_ih_l0"], state["bias_ih_l0"])


@pytest.mark.parametrize("state", [None, [], "weights", object(), np.zeros(3)])
def test_a_state_must_be_a_mapping(state: Any) -> None:
    with pytest.raises(TypeError, match="state: expected a mapping"):
        fastgru.GRU.from_state_dict(state)


@pytest.mark.parametrize(
    ("option", "choices"),
    [
        ("batch_first", "True or False"),
        ("reset_after", "True or False"),
        ("activation", "'tanh' or 'relu' or 'sigmoid' or 'identity'"),
        ("recurrent_activation", "'sigmoid' or 'hard_sigmoid' or 'hard_sigmoid_02'"),
        ("precision", "'float32' or 'bfloat16' or 'int8'"),
    ],
)
@pytest.mark.parametrize("value", ["Tanh", "", None, 1, "float16", [True]])
def test_options_list_their_choices(option: str, choices: str, value: Any) -> None:
    """A wrong option is a ValueError that says what there is."""
    with pytest.raises(ValueError, match=f"{option}: expected {re.escape(choices)}, got"):
        fastgru.GRU.from_state_dict(weights(), **{option: value})


# ---- dtypes ----


@pytest.mark.parametrize(
    "dtype", [np.float64, np.float16, np.longdouble, ">f4", ">f8", "<f2", ml_dtypes.bfloat16]
)
def test_real_floating_dtypes_are_converted(dtype: Any) -> None:
    """Rounded to float32 once, exactly as NumPy does."""
    state = {name: tensor.astype(dtype) for name, tensor in weights().items()}
    gru = fastgru.GRU.from_state_dict(state)
    for name, tensor in gru.tensors().items():
        assert same_bits(tensor, state[name].astype(np.float32))


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.bool_, np.complex64, object, "U3"])
def test_other_dtypes_are_errors(dtype: Any) -> None:
    state = weights()
    state["bias_ih_l0"] = np.zeros(15, dtype)
    text = message(state)
    assert f"bias_ih_l0: expected a real floating dtype, got {np.dtype(dtype)}" in text


def test_ragged_lists_are_listed_with_the_other_problems() -> None:
    state: dict[str, Any] = weights() | {"weight_ih_l0": [[1.0], [1.0, 2.0]]}
    del state["bias_ih_l0"]
    text = message(state)
    assert "weight_ih_l0: expected a real floating dtype, got object" in text
    assert "bias_ih_l0: missing" in text


def test_layouts_do_not_matter() -> None:
    """Fortran order, strides, misalignment, read-only, lists."""
    state: dict[str, Any] = weights()
    wide = np.zeros((30, 6), np.float32)
    wide[::2, ::2] = state["weight_ih_l0"]
    moved = np.ndarray((15,), np.float32, buffer=bytearray(61), offset=1)
    moved[:] = state["bias_ih_l0"]
    frozen = state["bias_hh_l0"].copy()
    frozen.flags.writeable = False
    changed = {
        "weight_ih_l0": wide[::2, ::2],
        "weight_hh_l0": np.asfortranarray(state["weight_hh_l0"]),
        "bias_ih_l0": moved,
        "bias_hh_l0": frozen,
    }
    tensors = fastgru.GRU.from_state_dict(changed).tensors()
    assert all(same_bits(tensors[name], state[name]) for name in state)
    lists = {name: tensor.tolist() for name, tensor in state.items()}
    tensors = fastgru.GRU.from_state_dict(lists).tensors()
    assert all(same_bits(tensors[name], state[name]) for name in state)


def test_later_changes_to_the_arrays_do_not_reach_the_model() -> None:
    """A model never changes after it is built."""
    state = weights()
    gru = fastgru.GRU.from_state_dict(state)
    x = np.ones((2, 1, I), np.float32)
    before = gru(x)[0]
    for tensor in state.values():
        tensor[:] = np.nan
    assert same_bits(gru(x)[0], before)


# ---- torch ----


def test_state_dicts_of_torch(torch: ModuleType) -> None:
    """Tensors are taken as they come: parameters, float64, bfloat16, not contiguous."""
    module = torch.nn.GRU(I, H, 2, bidirectional=True)
    expected = {name: p.detach().numpy() for name, p in module.named_parameters()}
    for state in (
        module.state_dict(),
        dict(module.named_parameters()),
        module.double().state_dict(),
    ):
        tensors = fastgru.GRU.from_state_dict(state).tensors()
        assert all(same_bits(tensors[name], expected[name]) for name in expected)
    halves = {name: tensor.bfloat16() for name, tensor in module.state_dict().items()}
    tensors = fastgru.GRU.from_state_dict(halves).tensors()
    assert all(same_bits(tensors[name], halves[name].float().numpy()) for name in halves)
    strided = {name: t.T.contiguous().T if t.ndim == 2 else t for name, t in halves.items()}
    tensors = fastgru.GRU.from_state_dict(strided).tensors()
    assert all(same_bits(tensors[name], halves[name].float().numpy()) for name in halves)


def test_tensors_elsewhere_are_refused(torch: ModuleType) -> None:
    """A tensor on another device is not fetched silently."""
    module = torch.nn.GRU(I, H, device="meta")
    problem = r"weight_\w+: expected a tensor in CPU memory.*\.cpu\(\)"
    with pytest.raises(TypeError, match=problem):
        fastgru.GRU.from_torch(module)
    with pytest.raises(TypeError, match=problem):
        fastgru.GRU.from_state_dict(module.state_dict())


def test_integer_tensors_are_errors(torch: ModuleType) -> None:
    state = torch.nn.GRU(I, H).state_dict()
    state["bias_ih_l0"] = torch.zeros(15, dtype=torch.int64)
    assert "bias_ih_l0: expected a real floating dtype, got int64" in message(state)


@pytest.mark.parametrize(("layers", "bidirectional", "bias"), STACKS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_from_torch_takes_everything_over(
    torch: ModuleType, layers: int, bidirectional: bool, bias: bool, batch_first: bool
) -> None:
    """Sizes, directions, biases, layout and the weights' bits; dropout is for training."""
    module = torch.nn.GRU(
        I,
        H,
        layers,
        bias,
        batch_first,
        dropout=0.5 if layers > 1 else 0,
        bidirectional=bidirectional,
    )
    gru = fastgru.GRU.from_torch(module)
    assert (gru.num_layers, gru.bidirectional, gru.bias) == (layers, bidirectional, bias)
    assert gru.batch_first == batch_first
    assert gru.reset_after
    state = module.state_dict()
    assert list(gru.tensors()) == list(state)
    assert all(same_bits(tensor, state[name].numpy()) for name, tensor in gru.tensors().items())


@pytest.mark.parametrize("bias", [True, False])
def test_from_torch_takes_a_cell(torch: ModuleType, bias: bool) -> None:
    """Its step is the stream's."""
    cell = torch.nn.GRUCell(I, H, bias=bias)
    gru = fastgru.GRU.from_torch(cell)
    assert gru.bias == bias
    x, h = torch.randn(4, I), torch.rand(4, H) * 2 - 1
    with torch.no_grad():
        expected = cell(x, h)
    stream = gru.stream(4, h[None])
    assert torch.allclose(torch.from_numpy(stream.step(x)), expected, atol=1e-6)


def test_from_torch_takes_effective_weights(torch: ModuleType) -> None:
    """weight_norm keeps the weights elsewhere; what the module runs is what counts."""
    module = torch.nn.GRU(I, H)
    torch.nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")
    with torch.no_grad():
        module.parametrizations.weight_hh_l0.original0.mul_(2)
    expected = module.weight_hh_l0.detach().numpy()
    assert same_bits(fastgru.GRU.from_torch(module).tensors()["weight_hh_l0"], expected)


def test_subclasses_with_a_forward_of_their_own_are_refused(torch: ModuleType) -> None:
    """Their weights would run another function; a plain subclass is a GRU."""
    plain = type("Plain", (torch.nn.GRU,), {})
    assert fastgru.GRU.from_torch(plain(I, H)).hidden_size == H
    other = type("Other", (torch.nn.GRU,), {"forward": lambda self, x: x})
    with pytest.raises(TypeError, match="Other is a GRU with a forward of its own"):
        fastgru.GRU.from_torch(other(I, H))


def test_other_modules_are_refused_with_advice(torch: ModuleType) -> None:
    nn = torch.nn
    model = nn.Sequential(nn.Linear(3, 3), nn.GRU(I, H))
    for module, advice in (
        (nn.LSTM(I, H), "got LSTM"),
        (nn.LSTMCell(I, H), "got LSTMCell"),
        (nn.RNN(I, H), "got RNN"),
        (model, "holds GRUs at 1"),
        (model.state_dict(), "from_state_dict"),
        (None, "got NoneType"),
        (nn.GRU, "got type"),
    ):
        with pytest.raises(TypeError, match=f"expected a torch.nn.GRU.*{advice}"):
            fastgru.GRU.from_torch(module)


# ---- "Dive into Deep Learning" ----

D2L = ("W_xz", "W_hz", "b_z", "W_xr", "W_hr", "b_r", "W_xh", "W_hh", "b_h")


def d2l_params() -> Weights:
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"x": (I, H), "h": (H, H)}
    return {
        n: rng.standard_normal(shapes.get(n[2], (H,)) if n[0] == "W" else (H,)).astype("f4")
        for n in D2L
    }


def d2l_message(params: Any) -> str:
    with pytest.raises(fastgru.FormatError) as caught:
        fastgru.GRU.from_d2l(params)
    return str(caught.value)


def test_d2l_is_rearranged_into_pytorchs_names() -> None:
    """Transposed, gates from z r h to r z n, one bias a gate."""
    params = d2l_params()
    gru = fastgru.GRU.from_d2l(params)
    assert not gru.reset_after
    tensors = gru.tensors()
    for row, gate in enumerate("rzh"):
        rows = slice(row * H, (row + 1) * H)
        assert same_bits(tensors["weight_ih_l0"][rows], params[f"W_x{gate}"].T)
        assert same_bits(tensors["weight_hh_l0"][rows], params[f"W_h{gate}"].T)
        assert same_bits(tensors["bias_ih_l0"][rows], params[f"b_{gate}"])
    assert not tensors["bias_hh_l0"].any()


def test_d2l_forms() -> None:
    """List, dict, with the output layer, biases as rows, torch tensors: the same model."""
    params = d2l_params()
    head = {"W_hq": np.zeros((H, 9)), "b_q": np.zeros(9)}
    expected = fastgru.GRU.from_d2l(params).tensors()
    torch = pytest.importorskip("torch")
    rows = {n: p[None] if n[0] == "b" else p for n, p in params.items()}
    tensors = [torch.from_numpy(p).requires_grad_() for p in params.values()]
    forms: list[Any] = [list(params.values()), tuple(params.values()), params | head, rows, tensors]
    forms += [[*params.values(), *head.values()], dict(reversed(params.items()))]
    for form in forms:
        actual = fastgru.GRU.from_d2l(form, batch_first=True, num_threads=1)
        assert (actual.batch_first, actual.num_threads) == (True, 1)
        assert all(same_bits(tensor, expected[n]) for n, tensor in actual.tensors().items())


def test_d2l_problems_are_reported_at_once() -> None:
    params: dict[str, Any] = d2l_params()
    params["W_xr"] = params["W_xr"].T
    params["W_hh"] = np.zeros((H, H), np.int32)
    params["b_z"] = np.zeros(H + 1)
    del params["b_h"]
    text = d2l_message(params)
    for problem in (
        "4 problems",
        "W_xr: expected (3, 5), got (5, 3)",
        "W_hh: expected a real floating dtype, got int32",
        "b_z: expected (5,), got (6,)",
        "b_h: missing",
    ):
        assert problem in text, text


def test_d2l_needs_its_arrays() -> None:
    values: list[Array] = list(d2l_params().values())
    assert "expected 9 arrays" in d2l_message(values[:8])
    assert "got 10" in d2l_message([*values, values[0]])
    assert "none of W_xz" in d2l_message(weights())
    assert "weight_ih_l0" in d2l_message(weights())
    assert d2l_message([np.zeros(())] * 9)
    assert d2l_message([np.zeros((0, 0))] * 9)
    with pytest.raises(TypeError, match="params: expected a list or a dict"):
        fastgru.GRU.from_d2l(np.zeros((9, 3)))  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["weight_norm", "prune", "forward", "forward_hook"])
def test_hooked_modules_are_refused(how: str) -> None:
    """Their attributes may be stale (weight_norm, prune) or their output another function's."""
    torch = pytest.importorskip("torch")
    module = torch.nn.GRU(3, 4)
    if how == "weight_norm":
        with pytest.warns(FutureWarning):
            torch.nn.utils.weight_norm(module, "weight_hh_l0")
        module.weight_hh_l0_g.data.mul_(3)
    elif how == "prune":
        from torch.nn.utils import prune  # noqa: PLC0415

        prune.random_unstructured(module, "weight_hh_l0", 0.5)  # type: ignore[no-untyped-call]
    elif how == "forward":
        module.forward = torch.nn.GRU(3, 4).forward
    else:
        module.register_forward_hook(lambda *_: None)
    with pytest.raises(TypeError, match="hooks"):
        fastgru.GRU.from_torch(module)
