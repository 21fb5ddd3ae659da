"""What a replaced GRU's results show beside their numbers is what PyTorch's show.

A model's code relies on it: whether `.view` works, for one, depends on strides alone. Each test
compares a replaced module with the same module before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastgru

pytest.importorskip("torch", reason="PyTorch is not installed")

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

replace_gru = fastgru.torch.replace_gru

REGIONS: dict[str, Callable[[], Any]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "grad": torch.enable_grad,  # of weights and input that need none
    "bfloat16": lambda: torch.autocast("cpu", torch.bfloat16),
    "float16": lambda: torch.autocast("cpu", torch.float16),
}


def facts(tensor: Tensor) -> dict[str, Any]:
    """Everything that code can ask of a tensor, numbers and addresses apart."""
    base = tensor._base
    return {
        "type": type(tensor),
        "shape": tuple(tensor.shape),
        "strides": tensor.stride(),
        "storage_offset": tensor.storage_offset(),
        "dtype": tensor.dtype,
        "layout": tensor.layout,
        "device": tensor.device,
        "requires_grad": tensor.requires_grad,
        "grad_fn": tensor.grad_fn,
        "is_leaf": tensor.is_leaf,
        "is_inference": tensor.is_inference(),
        "is_contiguous": tensor.is_contiguous(),
        "base": None if base is None else (tuple(base.shape), base.stride()),
        "bytes of storage": tensor.untyped_storage().nbytes(),
        "dim_order": tensor.dim_order(ambiguity_check=False) if tensor.numel() else None,
        "is_neg": tensor.is_neg(),
        "is_conj": tensor.is_conj(),
    }


def shares(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def shown(module: nn.Module, inputs: list[Any]) -> Any:
    """Facts of all results, which share memory with which, or the error."""
    try:
        results = module(*inputs)
    except RuntimeError as error:
        return str(error)
    parts = list(results) if isinstance(results, tuple) else [results]
    tensors = [part.data if isinstance(part, PackedSequence) else part for part in parts]
    given = [part.data if isinstance(part, PackedSequence) else part for part in inputs]
    told: list[Any] = [facts(tensor) for tensor in tensors]
    told += [
        (one, other, shares(tensor, another))
        for one, tensor in enumerate(tensors)
        for other, another in enumerate([*tensors, *given, *module.parameters()])
        if another is not tensor and another is not None
    ]
    if isinstance(parts[0], PackedSequence):
        assert isinstance(inputs[0], PackedSequence)
        names = ("batch_sizes", "sorted_indices", "unsorted_indices")
        told += [getattr(parts[0], name) is getattr(inputs[0], name) for name in names]
    for tensor in tensors:
        if tensor.numel() and not tensor.requires_grad:
            tensor.add_(1)  # results may be written to
    return told


def compare(module: nn.Module, region: str, *inputs: Any) -> None:
    """Before and after replacing."""
    module.requires_grad_(region != "grad").eval()
    with contextlib.ExitStack() as stack:
        stack.enter_context(REGIONS[region]())
        if region in ("bfloat16", "float16"):
            stack.enter_context(torch.no_grad())
        expected = shown(module, list(inputs))
        replace_gru(module)
        assert shown(module, list(inputs)) == expected


@st.composite
def grus(draw: st.DrawFn) -> nn.GRU:
    return nn.GRU(
        draw(st.integers(1, 5)),
        draw(st.sampled_from([1, 2, 16, 17])),
        num_layers=draw(st.integers(1, 3)),
        bias=draw(st.booleans()),
        batch_first=draw(st.booleans()),
        bidirectional=draw(st.booleans()),
    )


def state_for(gru: nn.GRU, *batch: int) -> Tensor:
    return torch.rand(gru.num_layers * (2 if gru.bidirectional else 1), *batch, gru.hidden_size)


@given(
    grus(),
    st.integers(0, 4),
    st.none() | st.integers(0, 4),
    st.booleans(),
    st.sampled_from(["as it is", "transposed", "features first", "a part", "expanded"]),
    st.sampled_from(list(REGIONS)),
)
def test_results_of_a_gru(  # noqa: PLR0917
    gru: nn.GRU, steps: int, batch: int | None, with_state: bool, layout: str, region: str
) -> None:
    """Batched or not, batch_first, axes of size 0 and 1, every memory layout of the input."""
    shape = (steps,) if batch is None else (batch, steps) if gru.batch_first else (steps, batch)
    x = torch.randn(*shape, gru.input_size)
    if layout == "transposed":
        x = x.transpose(0, -2).contiguous().transpose(0, -2)
    elif layout == "features first":
        x = x.transpose(-1, -2).contiguous().transpose(-1, -2)
    elif layout == "a part":
        x = torch.randn(*shape, gru.input_size + 3)[..., 2 : 2 + gru.input_size]
    elif layout == "expanded":
        x = x[..., :1].expand(*shape, gru.input_size)
    hx = state_for(gru, *(() if batch is None else (batch,))) if with_state else None
    compare(gru, region, x, hx)


@given(
    grus(),
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["no_grad", "inference_mode", "grad"]),
)
def test_results_of_a_packed_sequence(
    gru: nn.GRU, lengths: list[int], is_sorted: bool, with_state: bool, region: str
) -> None:
    """Its data and h_n; the order of rows stays the very tensors that came in."""
    lengths = sorted(lengths, reverse=True) if is_sorted else lengths
    x = torch.randn(len(lengths), max(lengths), gru.input_size)
    packed = pack_padded_sequence(
        x, torch.tensor(lengths), batch_first=True, enforce_sorted=is_sorted
    )
    compare(gru, region, packed, state_for(gru, len(lengths)) if with_state else None)


@given(
    st.integers(1, 5),
    st.integers(1, 17),
    st.none() | st.integers(0, 4),
    st.booleans(),
    st.sampled_from(["as it is", "transposed", "a part", "expanded"]),
    st.sampled_from(list(REGIONS)),
)
def test_results_of_a_cell(  # noqa: PLR0917
    inputs: int, hidden: int, batch: int | None, with_state: bool, layout: str, region: str
) -> None:
    """Batched or not; the next state is laid out as the state that is passed."""
    rows = () if batch is None else (batch,)
    hx = torch.rand(*rows, hidden) if with_state else None
    if hx is not None and layout == "transposed":
        hx = torch.rand(*reversed(hx.shape)).T if hx.dim() == 2 else hx
    elif hx is not None and layout == "a part":
        hx = torch.rand(*rows, 2 * hidden)[..., ::2]
    elif hx is not None and layout == "expanded" and batch:
        hx = hx[:1].expand(batch, hidden)
    compare(nn.GRUCell(inputs, hidden), region, torch.randn(*rows, inputs), hx)


@pytest.mark.parametrize("region", ["bfloat16", "float16"])
@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("hx_dtype", [None, torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_in_an_autocast_region(
    region: str, x_dtype: torch.dtype, hx_dtype: torch.dtype | None
) -> None:
    """Also those of another region's layers: torch promotes the state's and the region's dtype."""
    x, hx = torch.randn(2, 5, 3).to(x_dtype), None if hx_dtype is None else torch.zeros(1, 2, 4)
    if hx is not None:
        hx = hx.to(hx_dtype)
    compare(nn.GRU(3, 4, batch_first=True), region, x, hx)
    compare(nn.GRUCell(3, 4), region, x[:, 0], None if hx is None else hx[0])


class Subclass(torch.Tensor):
    """What some libraries give, with torch's own __torch_function__."""


@pytest.mark.parametrize("kind", [Subclass, nn.Parameter])
def test_subclasses_of_tensor(kind: Any) -> None:
    """Results are of the class that torch's own operations would give."""
    for module in (nn.GRU(3, 4, batch_first=True), nn.GRUCell(3, 4)):
        x = torch.randn(2, 5, 3) if isinstance(module, nn.GRU) else torch.randn(2, 3)
        x = x.as_subclass(kind) if kind is Subclass else kind(x)
        compare(module, "no_grad", x)


@given(st.integers(1, 4), st.integers(1, 4), st.booleans(), st.sampled_from(["view", "t", "chunk"]))
def test_heads_that_rely_on_strides(steps: int, batch: int, both: bool, way: str) -> None:
    """Heads for CTC and the like: time first, and then rows without a copy."""

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(3, 4, batch_first=True, bidirectional=both)
            self.fc = nn.Linear(8 if both else 4, 2)

        def forward(self, x: Tensor) -> Any:
            out: Any = self.gru(x)[0]
            if way == "chunk":
                out = torch.cat(out.permute(1, 0, 2).chunk(2))
            out = out.permute(1, 0, 2) if way == "view" else out.transpose(0, 1)
            first, second, width = out.shape
            if way == "chunk":
                return out.reshape(-1, width)
            scores = self.fc(out.view(first * second, width))
            return scores.view(first, second, -1)

    model, x = Head().eval(), torch.randn(batch, steps, 3)
    with torch.inference_mode():
        expected = model(x)
        actual = replace_gru(model)(x)
    assert actual.stride() == expected.stride()
    assert torch.allclose(actual, expected, atol=1e-5)


def test_the_count_of_changes() -> None:
    """torch counts the transposing of a batch_first output, and nothing else of a GRU's results."""
    for batch_first in (False, True):
        gru, x = nn.GRU(3, 4, batch_first=batch_first).eval(), torch.randn(2, 5, 3)
        with torch.no_grad():
            expected = [result._version for result in gru(x)]
            assert [result._version for result in replace_gru(gru)(x)] == expected


@pytest.mark.parametrize("where", ["default dtype", "default device"])
def test_what_torch_takes_for_new_tensors_does_not_matter(where: str) -> None:
    """Nor an empty batch, whose results have no memory that NumPy could give."""
    x, hx = torch.randn(0, 5, 3), torch.zeros(1, 0, 4)
    gru, cell = nn.GRU(3, 4, batch_first=True), nn.GRUCell(3, 4)
    with contextlib.ExitStack() as stack:
        if where == "default device":
            stack.enter_context(torch.device("meta"))
        else:
            stack.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(torch.float64)
        compare(gru, "no_grad", x, hx)
        compare(cell, "no_grad", x[:, 0], hx[0])


def test_an_empty_sequence() -> None:
    """PyTorch refuses it, and so does a replaced GRU, in the same words."""
    gru = replace_gru(nn.GRU(3, 4, batch_first=True).eval())
    with torch.no_grad(), pytest.raises(RuntimeError, match="sequence length to be larger than 0"):
        gru(torch.randn(2, 0, 3))


def test_a_wrong_shape_is_told_as_it_came() -> None:
    """Also where the engine runs time first."""
    gru = replace_gru(nn.GRU(3, 4, batch_first=True).eval())
    with torch.no_grad():
        with pytest.raises(fastgru.ShapeError, match=r"expected \(B, T, 3\) .*got \(2, 5, 7\)"):
            gru(torch.randn(2, 5, 7))
        with pytest.raises(fastgru.ShapeError, match=r"h_0: expected \(1, 2, 4\), got \(1, 5, 4\)"):
            gru(torch.randn(2, 5, 3), torch.zeros(1, 5, 4))
