"""from_torch tells rounding from another function, also where rounding has become the result.

A GRU with huge recurrent weights is chaotic: PyTorch and fastgru part ways by rounding alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastgru

pytest.importorskip("torch", reason="PyTorch is not installed")

import torch
from torch import nn

HEADS: dict[str, Callable[[Any], Any]] = {
    "all steps": lambda y: y,
    "last step": lambda y: y[:, -1],
    "mean": lambda y: y.mean(1),
    "max": lambda y: y.amax(1),
}


class Net(nn.Module):
    """A GRU with weights `scale` times PyTorch's; `after` is what forward does at its end."""

    def __init__(
        self,
        seed: int,
        scale: float,
        *,
        hidden: int = 16,
        num_layers: int = 2,
        bidirectional: bool = True,
        head: str = "all steps",
        after: Callable[[Any, Any], Any] = lambda net, y: y,
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.gru = nn.GRU(
            8, hidden, num_layers, batch_first=True, bidirectional=bidirectional
        ).eval()
        self.fc = nn.Linear(hidden * (1 + bidirectional), 3)
        self.head, self.after, self.calls = head, after, 0
        with torch.no_grad():
            for parameter in self.gru.parameters():
                parameter.mul_(scale)

    def forward(self, x: Any) -> Any:
        self.calls += 1
        return self.after(self, self.fc(HEADS[self.head](self.gru(x)[0])))


@pytest.mark.parametrize("seed", range(8))
def test_chaotic_grus(seed: int) -> None:
    """Weights 50 times PyTorch's: every one of them is a chain of layers, whatever it rounds to."""
    assert len(fastgru.from_torch(Net(seed, 50.0))) == 2


@settings(max_examples=25)
@given(
    st.integers(0, 1000),
    st.sampled_from([3.0, 20.0, 50.0, 1e3, 1e6]),
    st.sampled_from([4, 16, 48]),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from(list(HEADS)),
)
def test_sizes_and_heads(  # noqa: PLR0917
    seed: int, scale: float, hidden: int, num_layers: int, both: bool, head: str
) -> None:
    """Chance decides nothing: however much of the difference a network amplifies."""
    net = Net(seed, scale, hidden=hidden, num_layers=num_layers, bidirectional=both, head=head)
    fastgru.from_torch(net)


def keeps_a_state(net: Any, y: Any) -> Any:
    return y if net.calls % 2 else torch.relu(y)


@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_a_state_between_calls(scale: float) -> None:
    """The same x twice tells it, and the error says so: with chaotic weights, too."""
    with pytest.raises(fastgru.UnsupportedLayerError, match="called twice with the same x") as told:
        fastgru.from_torch(Net(0, scale, after=keeps_a_state))
    assert "keeping a state from one call to the next" in str(told.value)


@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_random_numbers(scale: float) -> None:
    """Drawn by what tracing does not see, such as a hook for all modules."""

    def noise(module: Any, _: Any, output: Any) -> Any:
        return output + torch.rand(()) if isinstance(module, nn.Linear) else None

    refused_with(noise, scale, "or draws random numbers")


@pytest.mark.parametrize("scale", [1.0, 50.0, 1e3])
@pytest.mark.parametrize("change", ["double", "first step", "turned", "a little"])
def test_another_function(change: str, scale: float) -> None:
    """What operations do not show is found where rounding means nothing: with smaller weights."""

    def hook(module: Any, _: Any, output: Any) -> Any:
        if not isinstance(module, nn.Linear):
            return None
        return {
            "double": lambda: output * 2,
            "first step": lambda: output[:, :1].expand_as(output),
            "turned": lambda: output.flip(1),
            "a little": lambda: output * 1.003,
        }[change]()

    refused_with(hook, scale, "does something that its operations do not show")


def refused_with(hook: Any, scale: float, text: str) -> None:
    handle = nn.modules.module.register_module_forward_hook(hook)
    try:
        with pytest.raises(fastgru.UnsupportedLayerError, match=text) as told:
            fastgru.from_torch(Net(0, scale))
    finally:
        handle.remove()
    if "random" not in text:
        assert "keeping a state" not in str(told.value)
        assert "apart, expected at most 0.0001" in str(told.value)


def test_the_module_stays_as_it_is() -> None:
    """Copies are made smaller, shaken and called; the caller's weights keep their bits."""
    net = Net(1, 50.0)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    random = torch.random.get_rng_state()
    fastgru.from_torch(net)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), random)
    assert net.calls == 0
