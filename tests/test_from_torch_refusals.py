"""What `fastgru.from_torch` refuses: each with the operation, its line in forward and what to do.

Never a Model that gives something else than the module: promise 4 for whole modules.
"""

from __future__ import annotations

import functools
import inspect
import re
import statistics
from collections.abc import Callable
from typing import Any

import pytest

import fastgru

pytest.importorskip("torch", reason="PyTorch is not installed")

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from chain_modules import SMALL, H, I, LengthNet, Net, O

CASES: dict[str, tuple[Callable[..., Any], dict[str, Any], str, str]] = {}
"""A forward whose first marked line is refused, options, the operation, and why."""


def refuses(operation: str, why: str, **gru: Any) -> Callable[[Any], Any]:
    """Registers a forward; the refused line in it ends in `# here`."""

    def register(function: Any) -> Any:
        CASES[function.__name__] = function, gru, operation, why
        return function

    return register


# ---- no layer of fastgru ----


@refuses("call_function operator.add in node 'add'", "computes with values of the chain")
def residual(net: Any, x: Any) -> Any:
    y, _ = net.gru(x)
    return net.head(y + net.second(y)[0])  # here


@refuses("call_function operator.mul in node 'mul'", "computes with a parameter")
def scaled(net: Any, x: Any) -> Any:
    return net.gru(x)[0] * net.norm.weight  # here


@refuses("call_method cumsum in node 'cumsum'", "no layer of fastgru does this")
def unknown_method(net: Any, x: Any) -> Any:
    return net.gru(x)[0].cumsum(1)  # here


@refuses("call_function torch.nn.functional.gelu in node 'gelu'", "no layer of fastgru does this")
def unknown_function(net: Any, x: Any) -> Any:
    return F.gelu(net.gru(x)[0])  # here


@refuses("call_module Conv1d in node", "Conv1d is no layer of fastgru")
def unknown_module(net: Any, x: Any) -> Any:
    return net.gru(net.convolution(x.transpose(1, 2)).transpose(1, 2))[0]  # here


@refuses("call_module LSTM in node", "fastgru runs GRUs")
def lstm(net: Any, x: Any) -> Any:
    return net.lstm(x)[0]  # here


@refuses("call_function torch.cat in node 'cat'", "joins values")
def two_branches(net: Any, x: Any) -> Any:
    y, _ = net.gru(x)
    return torch.cat([y[:, -1], y.mean(1)], dim=-1)  # here


# ---- other axes than a layer works on ----


@refuses("call_module Softmax in node", "over the time axis: expected the features")
def softmax_over_time(net: Any, x: Any) -> Any:
    y = net.head(net.gru(x)[0])
    return net.softmax_time(y)  # here


@refuses("call_function torch.softmax in node 'softmax'", "over the time axis")
def softmax_function(net: Any, x: Any) -> Any:
    return torch.softmax(net.gru(x)[0], 1)  # here


@refuses("call_method mean in node 'mean'", "over the features")
def mean_of_features(net: Any, x: Any) -> Any:
    return net.gru(x)[0].mean(-1)  # here


@refuses("call_method mean in node 'mean'", "expected the time axis here, got the batch axis")
def mean_of_batch(net: Any, x: Any) -> Any:
    return net.gru(x)[0].mean(0)  # here


@refuses("call_method mean in node 'mean'", "dim: expected an axis of 3, got None")
def mean_of_all(net: Any, x: Any) -> Any:
    return net.gru(x)[0].mean()  # here


@refuses(
    "call_function operator.getitem in node", "expected the time axis here, got the batch axis"
)
def last_of_the_batch(net: Any, x: Any) -> Any:
    output, _ = net.gru(x)
    return net.head(output[-1])  # here


@refuses("call_module GRU in node", "takes the batch axis for the time axis")
def layouts_mixed_up(net: Any, x: Any) -> Any:
    y, _ = net.gru(x)
    y, _ = net.time_first(y)  # here
    return net.head(y)


@refuses("call_module Linear in node", "expected the features axis here, got the time axis")
def linear_over_time(net: Any, x: Any) -> Any:
    y = net.gru(x)[0].transpose(1, 2)
    return net.head(y)  # here


@refuses("call_method flatten in node 'flatten'", "mixes axes of features with others")
def flattened(net: Any, x: Any) -> Any:
    y = net.gru(x)[0].flatten(1)  # here
    return net.head(y)


@refuses("call_method view in node 'view'", "axes that fastgru cannot follow")
def viewed(net: Any, x: Any) -> Any:
    return net.gru(x)[0].view(x.size(1), x.size(0), H)  # here


@refuses("call_method flip in node 'flip'", "expected the time axis here, got the features axis")
def flipped_features(net: Any, x: Any) -> Any:
    return net.gru(x)[0].flip(-1)  # here


@refuses("call_method squeeze in node 'squeeze'", "say which, squeeze(dim)")
def squeezed(net: Any, x: Any) -> Any:
    return net.gru(x)[1].squeeze()  # here


@refuses("call_method squeeze in node 'squeeze'", "leave this out of forward and index the result")
def squeezed_features(net: Any, x: Any) -> Any:
    return net.one(net.gru(x)[1][-1]).squeeze(-1)  # here


@refuses("call_method unsqueeze in node 'unsqueeze'", "pass x[..., None]")
def unsqueezed(net: Any, x: Any) -> Any:
    x = x.unsqueeze(-1)  # here
    return net.gru(x)[0]


# ---- parts ----


@refuses("call_function operator.getitem in node", "takes a part of the time axis")
def first_step(net: Any, x: Any) -> Any:
    return net.gru(x)[0][:, 0]  # here


@refuses("call_function operator.getitem in node", "takes a part of the features axis")
def some_features(net: Any, x: Any) -> Any:
    return net.gru(x)[0][..., :3]  # here


@refuses("call_function operator.getitem in node", "takes the state of layer 0", num_layers=2)
def lower_state(net: Any, x: Any) -> Any:
    return net.head(net.gru(x)[1][0])  # here


@refuses("call_module Linear in node", "takes states of one layer or direction", bidirectional=True)
def one_direction(net: Any, x: Any) -> Any:
    _, h_n = net.gru(x)
    return net.narrow(h_n[-1])  # here


@refuses("call_function torch.cat in node", "the forward state and then", bidirectional=True)
def directions_the_other_way_round(net: Any, x: Any) -> Any:
    _, h_n = net.gru(x)
    return net.head(torch.cat([h_n[-1], h_n[-2]], dim=-1))  # here


@refuses("call_function torch.cat in node", "dim: expected the features", bidirectional=True)
def directions_below_each_other(net: Any, x: Any) -> Any:
    _, h_n = net.gru(x)
    return torch.cat([h_n[-2], h_n[-1]])  # here


@refuses("call_module Linear in node", "takes the indices of max")
def indices_of_max(net: Any, x: Any) -> Any:
    return net.head(net.gru(x)[0].max(1)[1])  # here


@refuses("call_module GRU in node", "3 axes, got (batch, features)")
def a_gru_behind_the_last_step(net: Any, x: Any) -> Any:
    y = net.gru(x)[0][:, -1]
    return net.second(y)  # here


# ---- starts, randomness, control flow ----


@refuses("call_module GRU in node", "starts from an h_0 that is not torch.zeros")
def learnt_start(net: Any, x: Any) -> Any:
    return net.gru(x, net.start)[0]  # here


@refuses("call_module GRU in node", "h_0: expected torch.zeros(1, BATCH, 6)")
def start_of_one_batch(net: Any, x: Any) -> Any:
    return net.gru(x, torch.zeros(1, 4, H))[0]  # here


@refuses("call_module GRU in node", "h_0: expected torch.zeros(1, BATCH, 6)")
def start_of_another_axis(net: Any, x: Any) -> Any:
    return net.gru(x, torch.zeros(1, x.size(1), H))[0]  # here


@refuses("call_function torch.nn.functional.dropout in node", "training=True drops in eval mode")
def dropout_that_stays(net: Any, x: Any) -> Any:
    return F.dropout(net.gru(x)[0], 0.5)  # here


@refuses("call_function torch.relu_ in node", "changes in place what is used elsewhere")
def changed_in_place(net: Any, x: Any) -> Any:
    y, _ = net.gru(x)
    torch.relu_(y)  # here
    return net.head(y)


@refuses("TraceError while forward is traced", "cannot be used as inputs to control flow")
def control_flow(net: Any, x: Any) -> Any:
    y, _ = net.gru(x)
    if x.size(1) > 5:  # here
        return net.head(y)
    return y


@refuses("TypeError while forward is traced", "forward runs with a stand-in for x")
def a_loop_over_steps(net: Any, x: Any) -> Any:
    for t in range(x.size(1)):  # here
        x = net.second(x[:, t])
    return x


@refuses("call_method double in node 'double'", "no layer of fastgru does this")
def other_dtype(net: Any, x: Any) -> Any:
    return net.gru(x)[0].double()  # here


@refuses("call_method to in node 'to'", "converts to torch.float16: expected float32")
def to_other_dtype(net: Any, x: Any) -> Any:
    return net.gru(x)[0].to(torch.float16)  # here


# ---- what forward takes and returns ----


@refuses("forward returns 2 values", "return that alone, or pass a module whose forward is")
def two_values(net: Any, x: Any) -> Any:
    y, h_n = net.gru(x)
    return net.head(y), h_n


@refuses("forward returns 1 values", "a Model gives one array")
def a_dict(net: Any, x: Any) -> Any:
    return {"logits": net.head(net.gru(x)[0])}


@refuses("forward returns no tensor of the chain of layers, but int", "expected one")
def a_number(net: Any, x: Any) -> Any:
    return 1


@refuses("forward returns (time, batch, features)", "a Model gives (batch, time, features)")
def output_transposed(net: Any, x: Any) -> Any:
    return net.gru(x)[0].transpose(0, 1)


@refuses("forward returns (batch*time, features)", "leave the last transpose, squeeze or reshape")
def output_flattened(net: Any, x: Any) -> Any:
    return net.head(net.gru(x)[0]).reshape(-1, O)


@refuses("forward returns (1, batch, features)", "a Model gives (batch, time, features) or (batch,")
def output_with_an_axis_of_one(net: Any, x: Any) -> Any:
    return net.head(net.gru(x)[1])


@refuses("x is (batch, features, time)", "leave the transpose out of forward and pass x transposed")
def input_transposed(net: Any, x: Any) -> Any:
    return net.head(net.gru(x.transpose(1, 2))[0])


@refuses("no GRU in what forward returns", "fastgru runs networks with GRUs")
def no_gru(net: Any, x: Any) -> Any:
    return net.norm_in(x)


@refuses("call_module Embedding in node", "in a Model only the input is indices", words=True)
def embedding_inside(net: Any, x: Any) -> Any:
    y, _ = net.gru(net.embedding(x))
    return net.embedding(y)  # here


@refuses("call_module Embedding in node", "max_norm changes the table", words=True)
def embedding_with_max_norm(net: Any, x: Any) -> Any:
    net.embedding.max_norm = 1.0
    return net.gru(net.embedding(x))[0]  # here


@refuses("call_function torch.nn.functional.one_hot in node", "num_classes: expected a number")
def one_hot_of_the_data(net: Any, x: Any) -> Any:
    return net.gru(F.one_hot(x).float())[0]  # here


def net_of(function: Callable[..., Any], gru: dict[str, Any]) -> Any:
    net: Any = Net(function, **gru)
    net.convolution = nn.Conv1d(I, I, 1)
    net.lstm = nn.LSTM(I, H)
    net.softmax_time = nn.Softmax(dim=1)
    net.time_first = nn.GRU(H, H)
    net.narrow, net.one, net.norm_in = nn.Linear(H, O), nn.Linear(H, 1), nn.LayerNorm(I)
    net.start = nn.Parameter(torch.zeros(1, 1, H))
    return net


@pytest.mark.parametrize("name", CASES)
def test_refusals(name: str) -> None:
    """The operation, file, line and text of its source, why, and what to do."""
    function, gru, operation, why = CASES[name]
    with pytest.raises(fastgru.UnsupportedLayerError) as caught:
        fastgru.from_torch(net_of(function, gru))
    message = str(caught.value)
    assert operation in message
    assert why in message
    assert "fastgru.GRU.from_torch(module.gru)" in message
    assert "fastgru.torch.replace_gru(module)" in message
    lines, first = inspect.getsourcelines(function)
    for number, line in enumerate(lines, first):
        if line.rstrip().endswith("# here"):
            assert f'{__file__}:{number}: "{line.strip()[:60]}' in message


def test_all_problems_at_once() -> None:
    """A line for each, and none for what only takes the result of one."""

    def many(net: Any, x: Any) -> Any:
        y, _ = net.gru(x * 2)
        z, _ = net.gru(F.gelu(x))
        y = net.second(y)[0] + z
        return y.cumsum(0)

    with pytest.raises(fastgru.UnsupportedLayerError) as caught:
        fastgru.from_torch(net_of(many, {}))
    lines = str(caught.value).splitlines()
    assert lines[0] == "the module has 2 problems:"
    assert len(lines) == 4
    assert "node 'mul'" in lines[1]
    assert "node 'gelu'" in lines[2]
    assert lines[3].startswith("  What to do:")


def test_paths_of_submodules() -> None:
    """An operation in a submodule names it; so does a layer that has no line of the user's."""

    class Inner(nn.Module):
        def forward(self, x: Any) -> Any:
            return x.exp()

    with pytest.raises(fastgru.UnsupportedLayerError, match=r"'exp' of encoder\.act, "):
        fastgru.from_torch(_Outer(Inner()))
    sequential = nn.Sequential(nn.GRU(I, H), nn.LSTM(H, H))
    with pytest.raises(fastgru.UnsupportedLayerError, match="call_module LSTM in node '_1' of 1: "):
        fastgru.from_torch(sequential)


class _Outer(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.encoder: Any = nn.Module()
        self.encoder.act = inner

    def forward(self, x: Any) -> Any:
        return self.encoder.act(x)


def test_the_users_line() -> None:
    """Not that of a library that forward calls, nor torch's."""

    def function(net: Any, x: Any) -> Any:
        return functools.reduce(lambda y, part: y + part, [x, x])

    with pytest.raises(fastgru.UnsupportedLayerError, match=r"add'.*refusals\.py:\d+: .*reduce"):
        fastgru.from_torch(net_of(function, {}))

    def deeper(net: Any, x: Any) -> Any:
        return statistics.mean(net.gru(x)[0])

    message = r"while forward is traced, .*refusals\.py:\d+: \"return statistics"
    with pytest.raises(fastgru.UnsupportedLayerError, match=message):
        fastgru.from_torch(net_of(deeper, {}))


# ---- lengths ----


def packing(function: Callable[..., Any], **gru: Any) -> Any:
    return LengthNet(function, **gru)


def pack(x: Any, lengths: Any) -> Any:
    return pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)


def last_of_padding(net: Any, x: Any, lengths: Any) -> Any:
    y, _ = pad_packed_sequence(net.gru(pack(x, lengths))[0], batch_first=True)
    return net.head(y[:, -1])


def mean_of_padding(net: Any, x: Any, lengths: Any) -> Any:
    y, _ = pad_packed_sequence(net.gru(pack(x, lengths))[0], batch_first=True)
    return net.head(y).mean(1)


def second_gru_over_padding(net: Any, x: Any, lengths: Any) -> Any:
    y, _ = pad_packed_sequence(net.gru(pack(x, lengths))[0], batch_first=True)
    return net.second(y)[0]


def first_gru_over_padding(net: Any, x: Any, lengths: Any) -> Any:
    return net.second(pack(net.gru(x)[0], lengths))[1][-1]


def other_padding(net: Any, x: Any, lengths: Any) -> Any:
    return pad_packed_sequence(net.gru(pack(x, lengths))[0], padding_value=-1.0)[0]


def gathered(net: Any, x: Any, lengths: Any) -> Any:
    y, _ = net.gru(x)
    return y[torch.arange(4), lengths - 1]


def unused(net: Any, x: Any, lengths: Any) -> Any:
    return net.gru(x)[0]


def a_state(net: Any, x: Any, state: Any) -> Any:
    return net.gru(x, state)[0]


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (last_of_padding, "looks at the padding of pad_packed_sequence"),
        (mean_of_padding, "looks at the padding of pad_packed_sequence"),
        (second_gru_over_padding, "runs over the padding"),
        (first_gru_over_padding, "a GRU before it did not"),
        (other_padding, "padding_value: expected 0, got -1.0"),
        (gathered, "computes with the input 'lengths'"),
        (unused, "a second input that no pack_padded_sequence uses"),
        (a_state, "a Model starts every sequence from zeros"),
    ],
)
def test_lengths(function: Callable[..., Any], why: str) -> None:
    """What lengths= of a Model would not do is refused, and says what they are for."""
    with pytest.raises(fastgru.UnsupportedLayerError, match=re.escape(why)):
        fastgru.from_torch(packing(function))


def test_constant_lengths() -> None:
    """Lengths that are no input."""

    def function(net: Any, x: Any) -> Any:
        return net.gru(pack(x, [3, 2]))[1][-1]

    with pytest.raises(fastgru.UnsupportedLayerError, match="lengths: expected the second input"):
        fastgru.from_torch(Net(function))


def test_more_inputs() -> None:
    """A third input that is required has no place in a Model; optional ones keep their defaults."""

    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(I, H)

        def forward(self, x: Any, lengths: Any, mask: Any, scale: float = 1.0) -> Any:
            return self.gru(x)[0]

    with pytest.raises(
        fastgru.UnsupportedLayerError, match=r"requires 3 inputs \(x, lengths, mask\)"
    ):
        fastgru.from_torch(Three())


# ---- modules ----


def test_hooks() -> None:
    """Whatever would be lost."""
    hooked = SMALL["h_n[-1]"]()
    hooked.head.register_forward_hook(lambda *_: None)  # type: ignore[union-attr]
    with pytest.raises(
        fastgru.UnsupportedLayerError, match=r"Linear in node 'head' of head.*hooks"
    ):
        fastgru.from_torch(hooked)
    hooked = SMALL["h_n[-1]"]()
    hooked.register_forward_pre_hook(lambda *_: None)
    with pytest.raises(fastgru.UnsupportedLayerError, match="forward hooks"):
        fastgru.from_torch(hooked)
    replaced: Any = SMALL["h_n[-1]"]()
    replaced.forward = lambda x: x
    with pytest.raises(fastgru.UnsupportedLayerError, match="a forward of its own"):
        fastgru.from_torch(replaced)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
def test_old_weight_norm() -> None:
    """Which cannot even be copied after a call."""
    module: Any = SMALL["h_n[-1]"]()
    nn.utils.weight_norm(module.head)
    with pytest.raises(fastgru.UnsupportedLayerError, match="remove_weight_norm"):
        fastgru.from_torch(module)


def test_what_is_no_such_module() -> None:
    """A GRU itself, a state dict, a class, another device."""
    with pytest.raises(fastgru.UnsupportedLayerError, match=r"fastgru\.GRU\.from_torch takes a"):
        fastgru.from_torch(nn.GRU(I, H))
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module, got dict"):
        fastgru.from_torch({})
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module, got type"):
        fastgru.from_torch(Net)
    with pytest.raises(TypeError, match=r"CPU memory, got meta; pass its \.cpu\(\)"):
        fastgru.from_torch(SMALL["h_n[-1]"]().to("meta"))


def test_a_module_that_fails() -> None:
    """Of its own, on input that fits the chain."""

    class Broken(Net):
        def forward(self, x: Any) -> Any:
            return self.second(self.gru(x)[0])[0]

    module: Any = Broken(lambda net, x: x)
    module.second = nn.GRU(I + 2, H, batch_first=True)
    with pytest.raises(ValueError, match=r"expected 7 inputs, layer 0 GRU gives 6"):
        fastgru.from_torch(module)


def test_what_operations_do_not_show() -> None:
    """A layer that computes something else than its class says: the numbers tell."""

    def double(module: Any, _: Any, output: Any) -> Any:
        return output * 2 if isinstance(module, nn.Linear) else None

    hook = nn.modules.module.register_module_forward_hook(double)
    try:
        with pytest.raises(fastgru.UnsupportedLayerError, match=r"apart, expected at most 0\.0001"):
            fastgru.from_torch(SMALL["h_n[-1]"]())
    finally:
        hook.remove()
