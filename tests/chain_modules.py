"""Modules that the tests of `fastgru.from_torch` export: every way of writing a chain, small.

Needs torch; imported after it is known to be there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

I, H, O, V = 5, 6, 3, 11  # noqa: E741


class Net(nn.Module):
    """A GRU, an embedding, a head and a norm, and a forward that is given."""

    def __init__(self, function: Callable[..., Any], **gru: Any) -> None:
        super().__init__()
        options = {"batch_first": True} | gru
        self.function = function
        if "words" in options:
            self.embedding = nn.Embedding(V, I, padding_idx=0)
            del options["words"]
        self.gru = nn.GRU(I, H, **options)
        self.width = H * (2 if self.gru.bidirectional else 1)
        self.second = nn.GRU(self.width, H, batch_first=self.gru.batch_first)
        self.head = nn.Linear(self.width, O)
        self.norm = nn.LayerNorm(self.width)
        self.before = nn.Linear(I, I)

    def forward(self, x: Any) -> Any:
        return self.function(self, x)


class LengthNet(Net):
    """The same with lengths."""

    def forward(self, x: Any, lengths: Any) -> Any:  # type: ignore[override]
        return self.function(self, x, lengths)


def last(take: Callable[[Any, Any], Any], **gru: Any) -> Callable[[], Net]:
    """A Net whose head takes what `take` makes of output and h_n."""
    return lambda: Net(lambda net, x: net.head(take(*net.gru(x))), **gru)


def sequence(function: Callable[[Any, Any], Any], **gru: Any) -> Callable[[], Net]:
    return lambda: Net(function, **gru)


def head_first(net: Any, x: Any) -> Any:
    return net.head(net.gru(x)[0])


def zeros_h_0(net: Any, x: Any) -> Any:
    net.gru.flatten_parameters()
    h_0 = torch.zeros(1, x.size(0), H, device=x.device, dtype=x.dtype).to(x.device)
    output, _ = net.gru(x, h_0)
    return net.head(output)


def new_zeros_h_0(net: Any, x: Any) -> Any:
    _, batch, _ = x.shape
    assert x.dim() == 3
    return net.head(net.gru(x, x.new_zeros((2, batch, H)).requires_grad_())[0])


def flattened_head(net: Any, x: Any) -> Any:
    output, _ = net.gru(x)
    y = net.head(output.contiguous().view(-1, output.size(2)))
    return F.log_softmax(y, dim=1).view(x.size(0), x.size(1), -1)


def flattened_by_product(net: Any, x: Any) -> Any:
    batch, steps = x.size(0), x.size(1)
    y = net.head(net.gru(x)[0].reshape(batch * steps, H))
    return y.reshape(batch, steps, O)


def asks(net: Any, x: Any) -> Any:
    if x.dim() == 2 or x.is_cuda or net.training:
        x = x.unsqueeze(0)
    assert x.ndim in (3, 4), "a batch"
    return head_first(net, x)


def adaptive(net: Any, x: Any) -> Any:
    output, _ = net.gru(x)
    return net.head(nn.AdaptiveAvgPool1d(1)(output.transpose(1, 2)).squeeze(-1))


def two_layouts(net: Any, x: Any) -> Any:
    """A batch_first GRU, and one that is not."""
    y, _ = net.gru(x)
    y, _ = net.second_time_first(y.transpose(0, 1))
    return net.head(y.permute(1, 0, 2))


def two_layouts_net() -> Net:
    net = Net(two_layouts)
    net.second_time_first = nn.GRU(H, H)
    return net


class Pool(nn.Module):
    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.gru = nn.GRU(I, H, batch_first=True)
        self.pool = pool
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Identity(), nn.Linear(H, O))

    def forward(self, x: Any) -> Any:
        return self.head(self.pool(self.gru(x)[0].transpose(1, 2)))


class TakeOutput(nn.Module):
    def forward(self, both: Any) -> Any:
        return both[0]


class MyGRU(nn.GRU):
    """A subclass that runs the same forward."""


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnns = nn.ModuleList([nn.GRU(I, H), MyGRU(H, H)])

    def forward(self, x: Any, state: Any = None) -> Any:
        for rnn in self.rnns:
            x, state = rnn(x, None)
        return x, state


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.head = nn.Sequential(nn.Linear(H, O), nn.Softmax(dim=2))

    def forward(self, x: Any, state: Any = None) -> Any:
        features, state = self.encoder(x, state)
        return self.head(features)


class Functional(nn.Module):
    """Layers as functions of parameters of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(V, I))
        self.weight = nn.Parameter(torch.randn(O, H))
        self.bias: torch.Tensor
        self.register_buffer("bias", torch.randn(O))
        self.scale = nn.Parameter(torch.randn(H))
        self.gru = nn.GRU(I, H)

    def forward(self, ids: Any) -> Any:
        x = F.embedding(ids, self.table)
        x = F.layer_norm(self.gru(input=x)[0], (H,), self.scale, eps=1e-3)
        x = F.dropout(x, 0.5, training=self.training)
        return F.linear(x, self.weight, bias=self.bias).tanh()


def one_hot(dtype: str) -> Callable[[], nn.Module]:
    class OneHot(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(V, H, batch_first=True)

        def forward(self, ids: Any) -> Any:
            x = F.one_hot(ids.long(), num_classes=V)
            x = x.float() if dtype == "float" else x.to(torch.float32)
            return self.gru(x)[0]

    return OneHot


def parametrized() -> nn.Module:
    net = Net(head_first)
    nn.utils.parametrizations.weight_norm(net.head)
    nn.utils.parametrizations.weight_norm(net.gru, "weight_hh_l0")
    return net


def packed(enforce_sorted: bool, batch_first: bool, ending: str) -> Callable[[], nn.Module]:
    def function(net: Any, x: Any, lengths: Any) -> Any:
        x = net.norm_in(x)
        x = pack_padded_sequence(
            x, lengths.cpu(), batch_first=batch_first, enforce_sorted=enforce_sorted
        )
        output, h_n = net.gru(x)
        if ending == "twice":
            y, lengths = pad_packed_sequence(output, batch_first=batch_first)
            y = net.norm(y).tanh()
            again: Any = pack_padded_sequence(y, lengths, batch_first, enforce_sorted)
            return net.second(again)[1][-1]
        if ending == "state":
            return net.head(torch.cat((h_n[-2, :, :], h_n[-1, :, :]), dim=1))
        y, lengths = pad_packed_sequence(output, batch_first=batch_first)
        return net.head(y)

    def make() -> nn.Module:
        net = LengthNet(function, bidirectional=True, batch_first=batch_first)
        net.norm_in = nn.LayerNorm(I, elementwise_affine=False)
        return net

    return make


class UnusedEmbedding(Net):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self.table = nn.Embedding(V, I)


SMALL: dict[str, Callable[[], nn.Module]] = {
    # the last step
    "output[:, -1]": last(lambda y, h: y[:, -1]),
    "output[:, -1, :]": last(lambda y, h: y[:, -1, :]),
    "output[..., -1, :]": last(lambda y, h: y[..., -1, :]),
    "output[:, -1:].squeeze(1)": last(lambda y, h: y[:, -1:].squeeze(1)),
    "output[:, T - 1]": last(lambda y, h: y[:, y.size(1) - 1, :]),
    "output[-1]": last(lambda y, h: y[-1], batch_first=False),
    "output.select": last(lambda y, h: y.select(1, -1).contiguous()),
    "output[:, -1] of both": last(lambda y, h: y[:, -1], bidirectional=True),
    # h_n
    "h_n[-1]": last(lambda y, h: h[-1], num_layers=2),
    "h_n[1]": last(lambda y, h: h[1], num_layers=2, batch_first=False),
    "h_n.squeeze(0)": last(lambda y, h: h.squeeze(0)),
    "h_n[0]": last(lambda y, h: h[0]),
    "head(h_n)": sequence(lambda net, x: net.head(net.gru(x)[1])[-1]),
    "h_n.view": last(lambda y, h: h.view(-1, H)),
    "h_n.permute": last(lambda y, h: h.permute(dims=(1, 0, 2)).reshape(h.size(1), H)),
    "h_n.transpose": sequence(
        lambda net, x: net.head(net.norm(net.gru(x)[1].transpose(0, 1))).flatten(1)
    ),
    "cat h_n": last(
        lambda y, h: torch.cat([h[-2], h[-1]], dim=-1), bidirectional=True, num_layers=2
    ),
    "cat h_n of one layer": last(
        lambda y, h: torch.cat((h[0, :, :], h[1, :, :]), 1), bidirectional=True
    ),
    "hstack h_n": last(lambda y, h: torch.hstack((h[0], h[1])), bidirectional=True),
    "h_n.unbind": last(lambda y, h: torch.cat(h.unbind(0), dim=1), bidirectional=True),
    "h_n of layers, joined": last(
        lambda y, h: torch.cat([h[-2:][0], h[-2:][1]], 1), bidirectional=True, num_layers=2
    ),
    "h_n.view(L, D, B, H)": last(
        lambda y, h: torch.hstack(list(h.view(2, 2, -1, H)[-1])), bidirectional=True, num_layers=2
    ),
    "h_n.view(L, 1, B, H)": last(lambda y, h: h.view(2, 1, -1, H)[-1].squeeze(0), num_layers=2),
    "h_n.view(L, D, B, H)[-1, 0]": last(
        lambda y, h: h.view(2, 1, y.size(0), H)[-1, 0], num_layers=2
    ),
    "h_n.transpose.reshape": last(
        lambda y, h: h.transpose(0, 1).reshape(y.size(0), -1), bidirectional=True
    ),
    "h_n.permute.flatten": last(lambda y, h: h.permute(1, 0, 2).flatten(1), bidirectional=True),
    "cat output": last(
        lambda y, h: torch.cat([y[:, -1, :H], y[:, 0, H:]], dim=1), bidirectional=True
    ),
    # over time
    "mean": last(lambda y, h: y.mean(1)),
    "torch.mean": last(lambda y, h: torch.mean(y, dim=1, keepdim=True).squeeze(1)),
    "mean of time first": last(lambda y, h: y.mean(dim=0), batch_first=False),
    "amax": last(lambda y, h: y.amax(dim=(1,))),
    "max values": last(lambda y, h: y.max(dim=1).values),
    "max [0]": last(lambda y, h: torch.max(y, 1)[0], bidirectional=True),
    "max unpacked": sequence(lambda net, x: net.head(max_unpacked(net, x))),
    "max_pool1d": last(lambda y, h: F.max_pool1d(y.transpose(1, 2), y.size(1)).squeeze(2)),
    "adaptive_max_pool1d": last(lambda y, h: F.adaptive_max_pool1d(y.mT, 1)[:, :, 0]),
    "adaptive": sequence(adaptive),
    "AdaptiveAvgPool1d": lambda: Pool(nn.AdaptiveAvgPool1d(1)),
    "AdaptiveMaxPool1d": lambda: Pool(nn.AdaptiveMaxPool1d(1)),
    "flip": sequence(lambda net, x: net.head(net.gru(x.flip(1))[0].flip([1]))),
    "torch.flip": sequence(lambda net, x: net.head(net.gru(torch.flip(x, dims=[1]))[1][-1])),
    # start, shapes
    "torch.zeros": sequence(zeros_h_0),
    "new_zeros": sequence(new_zeros_h_0, batch_first=False, num_layers=2),
    "rows first": sequence(
        lambda net, x: head_first(net, net.before(x.view(-1, I)).view(*x.shape))
    ),
    "None": sequence(lambda net, x: net.gru(x, None)[0]),
    "view": sequence(flattened_head),
    "reshape": sequence(flattened_by_product),
    "asks": sequence(asks),
    "two layouts": two_layouts_net,
    "two GRUs": sequence(lambda net, x: net.second(net.gru(x)[0])[0], bidirectional=True),
    "transposed words": sequence(
        lambda net, x: net.gru(net.embedding(x.t()))[0].transpose(0, 1),
        words=True,
        batch_first=False,
    ),
    "words": sequence(lambda net, x: head_first(net, net.embedding(x)), words=True),
    "one_hot": one_hot("float"),
    "one_hot to": one_hot("to"),
    # functions, methods, modules
    "relu": sequence(lambda net, x: torch.relu(head_first(net, F.relu(x)).relu_())),
    "in place": sequence(lambda net, x: nn.ReLU(inplace=True)(head_first(net, x)).sigmoid()),
    "tanh": sequence(lambda net, x: F.tanh(head_first(net, torch.tanh(x.sigmoid())))),
    "softmax": sequence(lambda net, x: F.softmax(head_first(net, x.softmax(-1)), dim=2)),
    "LogSoftmax": sequence(lambda net, x: nn.LogSoftmax(dim=-1)(net.gru(nn.Sigmoid()(x))[0])),
    "norm": sequence(lambda net, x: net.head(net.norm(net.gru(x)[0].clone().detach()))),
    "functional": Functional,
    "nested": Nested,
    "Sequential": lambda: nn.Sequential(nn.Tanh(), nn.GRU(I, H), TakeOutput(), nn.Linear(H, O)),
    "parametrized": parametrized,
    "no bias": last(lambda y, h: h[-1], bias=False),
    # lengths
    "unused embedding": lambda: UnusedEmbedding(head_first),
    "data parallel": lambda: nn.DataParallel(Net(head_first)),
    "packed": packed(False, True, "output"),
    "packed, sorted, time first": packed(True, False, "output"),
    "packed twice": packed(False, True, "twice"),
    "packed state": packed(False, True, "state"),
}


def max_unpacked(net: Any, x: Any) -> Any:
    best, _ = net.gru(x)[0].max(1)
    return best
