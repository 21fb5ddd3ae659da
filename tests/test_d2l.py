"""`GRU.from_d2l` is the GRU that "Dive into Deep Learning" writes from scratch in PyTorch.

The book's equations, right-multiplied, reset before the product:
    R = sigmoid(X W_xr + H W_hr + b_r)        Z = sigmoid(X W_xz + H W_hz + b_z)
    H~ = tanh(X W_xh + (R * H) W_hh + b_h)    H = Z * H + (1 - Z) * H~
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fastgru
from conftest import Array, assert_promise_1, largest_error, same_bits

NAMES = ["W_xz", "W_hz", "b_z", "W_xr", "W_hr", "b_r", "W_xh", "W_hh", "b_h", "W_hq", "b_q"]


def book_params(torch: ModuleType, inputs: int, hiddens: int, scale: float) -> list[Any]:
    """The book's get_params: three triples and the output layer, all requiring gradients."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Any:
        return torch.randn(*shape, generator=generator) * scale

    def three() -> list[Any]:
        return [normal(inputs, hiddens), normal(hiddens, hiddens), normal(hiddens)]

    params = [*three(), *three(), *three(), normal(hiddens, inputs), normal(inputs)]
    return [param.requires_grad_() for param in params]


def book_gru(torch: ModuleType, inputs: Any, state: Any, params: list[Any]) -> tuple[Any, Any]:
    """The book's gru(), without its output layer: inputs (T, B, I) -> hidden states, last one."""
    w_xz, w_hz, b_z, w_xr, w_hr, b_r, w_xh, w_hh, b_h = params[:9]
    outputs = []
    for x in inputs:
        z = torch.sigmoid((x @ w_xz) + (state @ w_hz) + b_z)
        r = torch.sigmoid((x @ w_xr) + (state @ w_hr) + b_r)
        h_tilda = torch.tanh((x @ w_xh) + ((r * state) @ w_hh) + b_h)
        state = z * state + (1 - z) * h_tilda
        outputs.append(state)
    return torch.stack(outputs), state


def one_hot(torch: ModuleType, vocabulary: int, steps: int, batch: int) -> Any:
    tokens = np.random.default_rng(1).integers(0, vocabulary, (steps, batch))
    return torch.nn.functional.one_hot(torch.from_numpy(tokens), vocabulary).float()


@pytest.mark.parametrize("scale", [0.01, 0.2])  # the book's initialisation; a trained network's
@pytest.mark.parametrize(("vocabulary", "hiddens"), [(28, 32), (28, 256), (5, 7)])
def test_equals_the_book(
    vocabulary: int, hiddens: int, scale: float, isa: str, torch: ModuleType
) -> None:
    """One-hot characters through the book's own code and through fastgru."""
    params = book_params(torch, vocabulary, hiddens, scale)
    x = one_hot(torch, vocabulary, 35, 4)
    h_0 = torch.rand(4, hiddens, generator=torch.Generator().manual_seed(2)) * 2 - 1
    with torch.no_grad():
        y, _ = book_gru(torch, x, h_0, params)
        doubles = [param.double() for param in params]
        exact_y, exact_h = book_gru(torch, x.double(), h_0.double(), doubles)
    gru = fastgru.GRU.from_d2l(params[:9], isa=isa)
    assert not gru.reset_after
    output, h_n = gru(x, h_0[None])
    error = largest_error(y.numpy(), exact_y.numpy())
    assert_promise_1(output, exact_y.numpy(), error)
    assert_promise_1(h_n[0], exact_h.numpy(), error)


def test_lists_dicts_and_heads_are_the_same(torch: ModuleType) -> None:
    """A list or a dict, tensors or arrays, with or without W_hq b_q: one and the same GRU."""
    params = book_params(torch, 11, 19, 0.3)
    arrays: list[Array] = [param.detach().numpy() for param in params]
    x = one_hot(torch, 11, 9, 3)
    expected, _ = fastgru.GRU.from_d2l(params[:9])(x)
    variants: list[Any] = [
        params,
        tuple(params),
        arrays,
        arrays[:9],
        dict(zip(NAMES, arrays, strict=True)),
        dict(reversed(list(zip(NAMES[:9], params, strict=False)))),
    ]
    for variant in variants:
        assert same_bits(fastgru.GRU.from_d2l(variant)(x)[0], expected)
    batch_first = fastgru.GRU.from_d2l(params, batch_first=True)
    output, _ = batch_first(x.transpose(0, 1))
    assert same_bits(output.swapaxes(0, 1), expected)


def test_bad_parameters_are_named(torch: ModuleType) -> None:
    """Every parameter that is missing or does not fit is named, with both shapes."""
    params = dict(zip(NAMES, book_params(torch, 11, 19, 0.3), strict=True))
    del params["W_hr"]
    params["b_z"] = torch.zeros(23)
    params["W_xh"] = torch.zeros(13, 19)
    with pytest.raises(ValueError, match="W_hr") as caught:
        fastgru.GRU.from_d2l(params)
    for word in ("b_z", "19", "23", "W_xh", "11", "13"):
        assert word in str(caught.value)
    with pytest.raises(ValueError, match="9"):
        fastgru.GRU.from_d2l(list(params.values())[:4])
