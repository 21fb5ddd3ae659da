"""fastgru.torch.replace_gru: a PyTorch model's GRUs run on fastgru, and it stays what it is.

Two yardsticks: the bits of a fastgru.GRU with the same weights, and the same model before.
"""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastgru
from conftest import Array, assert_close, run_python, same_bits

pytest.importorskip("torch", reason="PyTorch is not installed")

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils import parametrizations, prune, weight_norm
from torch.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pad_packed_sequence,
)

replace_gru = fastgru.torch.replace_gru

I, H = 6, 5  # noqa: E741


class Tagger(nn.Module):
    """Convolution, two-layer bidirectional GRU, a cell over its states, linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, I, 3, padding=1)
        self.gru = nn.GRU(I, H, num_layers=2, batch_first=True, bidirectional=True)
        self.cell = nn.GRUCell(2 * H, H)
        self.head = nn.Linear(H, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, T) -> (B, T, 4)."""
        output, h_n = self.gru(self.conv(x).transpose(1, 2))
        h, states = h_n[-1], []
        for x_t in output.unbind(1):
            h = self.cell(x_t, h)
            states.append(h)
        scores: Tensor = self.head(torch.stack(states, 1))
        return scores


def tagger(seed: int = 0) -> Tagger:
    torch.manual_seed(seed)
    return Tagger().eval()


def run(module: Callable[..., Any], *args: Any) -> Any:
    with torch.inference_mode():
        return module(*args)


def is_replaced(module: nn.Module) -> bool:
    return type(module).__module__ == "fastgru.torch" or "fastgru" in repr(module)


def close(actual: Tensor, expected: Tensor) -> None:
    assert type(actual) is Tensor
    assert actual.dtype == expected.dtype
    assert_close(actual.numpy(), expected.numpy().astype(np.float64))


def bits(tensor: Tensor) -> Array:
    return tensor.detach().numpy()


X = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 7)).astype(np.float32))


# ---- what it computes ----

SIZES = st.integers(1, 9)


@st.composite
def layers(draw: st.DrawFn) -> nn.GRU:
    torch.manual_seed(draw(st.integers(0, 9)))
    return nn.GRU(
        draw(SIZES),
        draw(st.sampled_from([1, 4, 16, 17])),
        num_layers=draw(st.integers(1, 3)),
        bias=draw(st.booleans()),
        batch_first=draw(st.booleans()),
        bidirectional=draw(st.booleans()),
    ).eval()


def state_for(gru: nn.GRU, *batch: int) -> Tensor:
    stacks = gru.num_layers * (2 if gru.bidirectional else 1)
    return torch.rand(stacks, *batch, gru.hidden_size) * 2 - 1


@given(layers(), st.integers(1, 6), st.none() | st.integers(1, 4), st.booleans(), st.booleans())
def test_a_gru_gives_fastgrus_bits_and_pytorchs_numbers(
    gru: nn.GRU, steps: int, batch: int | None, with_state: bool, strided: bool
) -> None:
    """Batched and unbatched, batch_first, directions, layers; inputs as convolutions give them."""
    shape = (steps,) if batch is None else (batch, steps) if gru.batch_first else (steps, batch)
    x = torch.randn(*shape, gru.input_size)
    if strided:
        x = x.transpose(-1, -2).contiguous().transpose(-1, -2)
    hx = state_for(gru, *(() if batch is None else (batch,))) if with_state else None
    expected, expected_h = run(gru, x, hx)
    own, own_h = fastgru.GRU.from_torch(gru)(x, hx)
    assert replace_gru(gru) is gru
    output, h_n = run(gru, x, hx)
    close(output, expected)
    close(h_n, expected_h)
    assert same_bits(bits(output), own)
    assert same_bits(bits(h_n), own_h)


@given(
    layers(),
    st.lists(st.integers(1, 6), min_size=1, max_size=5),
    st.booleans(),
    st.booleans(),
)
def test_a_packed_sequence_comes_back_as_one(
    gru: nn.GRU, lengths: list[int], is_sorted: bool, with_state: bool
) -> None:
    """Sorted and unsorted; output, order and states as torch gives them."""
    if is_sorted:
        lengths = sorted(lengths, reverse=True)
    x = torch.randn(len(lengths), max(lengths), gru.input_size)
    packed = pack_padded_sequence(
        x, torch.tensor(lengths), batch_first=True, enforce_sorted=is_sorted
    )
    hx = state_for(gru, len(lengths)) if with_state else None
    expected, expected_h = run(gru, packed, hx)
    output, h_n = run(replace_gru(gru), packed, hx)
    assert type(output) is PackedSequence
    close(output.data, expected.data)
    close(h_n, expected_h)
    assert output.batch_sizes is packed.batch_sizes
    assert output.sorted_indices is packed.sorted_indices
    padded, out_lengths = pad_packed_sequence(output)
    assert out_lengths.tolist() == lengths
    assert padded.shape[:2] == (max(lengths), len(lengths))


@given(SIZES, SIZES, st.booleans(), st.none() | st.integers(1, 4), st.booleans())
def test_a_cell_gives_fastgrus_bits_and_pytorchs_numbers(
    inputs: int, hidden: int, bias: bool, batch: int | None, with_state: bool
) -> None:
    """Batched and unbatched, one step after the other."""
    cell = nn.GRUCell(inputs, hidden, bias=bias).eval()
    rows = () if batch is None else (batch,)
    x = torch.randn(3, *rows, inputs)
    hx = torch.rand(*rows, hidden) if with_state else None
    expected = hx
    for x_t in x:
        expected = run(cell, x_t, expected)
    own, _ = fastgru.GRU.from_torch(cell)(x, None if hx is None else hx[None])
    replace_gru(cell)
    actual = hx
    for x_t in x:
        actual = run(cell, x_t, actual)
    assert actual is not None
    assert expected is not None
    close(actual, expected)
    assert same_bits(bits(actual), own[-1])


def test_a_whole_model() -> None:
    """Convolution, GRU, cell and head together give what they gave, and again after undoing."""
    model = tagger()
    before = run(model, X)
    assert replace_gru(model) is model
    assert is_replaced(model.gru)
    assert is_replaced(model.cell)
    close(run(model, X), before)
    assert replace_gru(model) is model
    assert torch.equal(run(model, X), before)


def test_options() -> None:
    """Precision and threads are the GRU's; they are checked before anything changes."""
    model = tagger()
    before = run(model, X)
    with pytest.raises(ValueError, match="precision: expected 'float32'"):
        replace_gru(model, precision="float16")
    with pytest.raises(ValueError, match="num_threads: expected at least 1"):
        replace_gru(model, num_threads=0)
    with pytest.raises(TypeError, match=r"module: expected a torch\.nn\.Module, got dict"):
        replace_gru({})  # type: ignore[type-var]
    assert not is_replaced(model.gru)
    replace_gru(model, precision="int8", num_threads=1)
    own = fastgru.GRU.from_torch(nn.GRU(I, H), precision="int8")
    assert f"fastgru: int8, {own.isa}" in repr(model.gru)
    assert 0 < (run(model, X) - before).abs().max() < 0.05


@pytest.mark.parametrize("fast", [False, True])
def test_torchs_number_of_threads_holds(fast: bool) -> None:
    """A service that gives torch one thread means the whole model."""
    gru: Any = replace_gru(nn.GRU(I, H).eval(), num_threads=2 if fast else None)
    seen = []
    real = gru._fastgru.gru._core

    class Spy:
        def run(self, *args: Any) -> Any:
            seen.append(args[-1])
            return real.run(*args)

    object.__setattr__(gru._fastgru.gru, "_core", Spy())
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        run(gru, torch.ones(3, I))
    finally:
        torch.set_num_threads(threads)
    assert seen == [2 if fast else 1]


# ---- replacing and undoing ----


def test_undoing_gives_the_very_modules_back() -> None:
    """The same objects, class and parameters; nothing of fastgru stays behind."""
    model = tagger()
    modules, parameters = list(model.modules()), list(model.parameters())
    plain = [(type(part), sorted(vars(part))) for part in modules]
    replace_gru(model, precision="bfloat16")
    assert isinstance(model.gru, nn.GRU)  # what a model's code may ask for
    assert (model.gru.hidden_size, model.gru.batch_first) == (H, True)
    model.gru.flatten_parameters()
    replace_gru(model)
    assert all(a is b for a, b in zip(model.modules(), modules, strict=True))
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert [(type(part), sorted(vars(part))) for part in modules] == plain


def test_where_grus_stand() -> None:
    """Containers, what is registered twice (one replacement), and a bare GRU."""
    shared = nn.GRU(I, I)
    model = nn.ModuleDict(
        {
            "row": nn.Sequential(nn.Linear(I, I), nn.GRU(I, H)),
            "list": nn.ModuleList([shared, shared, nn.GRUCell(I, H)]),
        }
    ).eval()
    keys = list(model.state_dict())
    replace_gru(model)
    grus = [part for part in model.modules() if isinstance(part, (nn.GRU, nn.GRUCell))]
    assert len(grus) == 3
    assert all(map(is_replaced, grus))
    assert model["list"][0] is model["list"][1] is shared  # type: ignore[index]
    assert list(model.state_dict()) == keys
    assert not any(map(is_replaced, replace_gru(model).modules()))
    bare = nn.GRU(I, H).eval()
    assert replace_gru(bare) is bare
    assert is_replaced(bare)


def test_a_second_call_undoes_all_that_is_replaced() -> None:
    """Also what was replaced through a part of the model; what was not stays what it is."""
    model = tagger()
    replace_gru(model.gru)
    replace_gru(model)
    assert not is_replaced(model.gru)
    assert not is_replaced(model.cell)


def test_a_model_without_gru() -> None:
    with pytest.raises(ValueError, match=r"Sequential: found no torch\.nn\.GRU"):
        replace_gru(nn.Sequential(nn.LSTM(2, 3), nn.Linear(3, 1)))


def test_all_problems_at_once_and_nothing_replaced() -> None:
    """A list with paths, and what to do about each."""
    model = nn.ModuleDict({name: nn.GRU(I, H) for name in "abcdef"}).eval()
    prune.l1_unstructured(model["b"], "weight_hh_l0", 0.5)  # type: ignore[no-untyped-call]
    parametrizations.weight_norm(model["c"], "weight_ih_l0")
    model["d"].double()
    model["e"].to("meta")
    model["f"].forward = lambda x: x
    model["g"] = nn.Sequential(nn.GRUCell(I, H, dtype=torch.bfloat16))
    with pytest.raises(fastgru.UnsupportedLayerError) as caught:
        replace_gru(model)
    lines = str(caught.value).splitlines()
    assert lines[0] == "replace_gru has 6 problems:"
    for line, start, advice in zip(
        lines[1:],
        ["b: weight_hh_l0: ", "c: weight_ih_l0: ", *"def", "g.0"],
        ["prune.remove", "remove_parametrizations", ".float()", ".cpu()", "remove it", ".float()"],
        strict=True,
    ):
        assert line.strip().startswith(start)
        assert advice in line
    assert not any(map(is_replaced, model.modules()))


def test_weights_that_cannot_be_packed() -> None:
    """int8 refuses NaN: in one of two GRUs, none is replaced."""
    model: Any = nn.Sequential(nn.GRU(I, H), nn.GRU(I, H)).eval()
    with torch.no_grad():
        model[1].weight_hh_l0[0, 0] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        replace_gru(model, precision="int8")
    assert not any(map(is_replaced, model))


def test_weights_that_are_computed_later() -> None:
    """Pruned or parametrized while replaced: an error at the next call, and none is lost."""
    model = replace_gru(nn.Sequential(nn.GRU(I, H), nn.GRUCell(I, H)).eval())
    prune.l1_unstructured(model[0], "weight_hh_l0", 0.5)  # type: ignore[no-untyped-call]
    parametrizations.weight_norm(model[1], "weight_ih")
    for part, name in zip(model, ("weight_hh_l0", "weight_ih"), strict=True):
        with pytest.raises(fastgru.UnsupportedLayerError, match=f"{name}: expected parameters"):
            run(part, torch.ones(3, I))
    with pytest.raises(fastgru.UnsupportedLayerError, match="1: its class has changed since"):
        replace_gru(model)
    nn.utils.parametrize.remove_parametrizations(model[1], "weight_ih")
    prune.remove(model[0], "weight_hh_l0")  # type: ignore[no-untyped-call]
    outputs = [run(part, torch.ones(3, I)) for part in model]
    replace_gru(model)
    close(outputs[0][0], run(model[0], torch.ones(3, I))[0])
    close(outputs[1], run(model[1], torch.ones(3, I)))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_weight_norm_of_the_old_kind() -> None:
    """Refused while a hook computes the weights, taken once they are permanent."""
    gru = nn.GRU(I, H).eval()
    weight_norm(gru, "weight_hh_l0")
    with pytest.raises(fastgru.UnsupportedLayerError, match="GRU: weight_hh_l0: expected param"):
        replace_gru(gru)
    nn.utils.remove_weight_norm(gru, "weight_hh_l0")
    expected = run(gru, torch.ones(3, I))[0]
    close(run(replace_gru(gru), torch.ones(3, I))[0], expected)


class Doubled(nn.GRU):
    """A subclass whose own forward uses the GRU's."""

    def forward(self, input: Any, hx: Any = None) -> Any:  # noqa: A002
        output, h_n = super().forward(input, hx)
        return 2 * output, h_n


def test_a_subclass_keeps_its_forward() -> None:
    """And gets fastgru's results from super(); undone, pickled and copied it is what it was."""
    gru = Doubled(I, H).eval()
    x = torch.randn(3, I)
    own, _ = fastgru.GRU.from_state_dict(gru.state_dict())(x)
    replace_gru(gru)
    assert isinstance(gru, Doubled)
    assert repr(gru).startswith("FastDoubled(6, 5, fastgru: float32")
    assert same_bits(bits(run(gru, x)[0]), 2 * own)
    assert same_bits(bits(run(copy.deepcopy(gru), x)[0]), 2 * own)
    assert type(pickle.loads(pickle.dumps(gru))) is Doubled
    assert type(replace_gru(gru)) is Doubled


def test_hooks_stay() -> None:
    """Forward hooks of the GRU itself run as before, and after undoing."""
    model, seen = tagger(), []
    model.gru.register_forward_hook(lambda module, args, output: seen.append(output[0].shape))
    run(replace_gru(model), X)
    run(replace_gru(model), X)
    assert seen == [(2, 7, 2 * H)] * 2


# ---- when it refuses ----


def test_training_mode() -> None:
    """Whenever it is switched on; the message says what to do."""
    model = replace_gru(tagger().train())
    with pytest.raises(RuntimeError, match=r"GRU replaced by fastgru only runs in eval mode.*eval"):
        run(model, X)
    run(model.eval(), X)
    model.cell.train()
    with pytest.raises(RuntimeError, match=r"GRUCell replaced by fastgru only runs in eval"):
        run(model, X)


def test_autograd() -> None:
    """No graph is cut in silence: input, state or weights may ask for a gradient."""
    gru, x = replace_gru(nn.GRU(I, H).eval()), torch.ones(3, I)
    with pytest.raises(RuntimeError, match=r"its weights would need one.*inference_mode"):
        gru(x)
    gru.requires_grad_(False)
    output, _ = gru(x)
    assert not output.requires_grad
    for arguments in [(x.clone().requires_grad_(),), (x, torch.ones(1, H, requires_grad=True))]:
        with pytest.raises(RuntimeError, match="its input would need one"):
            gru(*arguments)
        with torch.no_grad():
            assert same_bits(bits(gru(*arguments)[0])[:0], bits(output)[:0])
    packed = nn.utils.rnn.pack_sequence([x.clone().requires_grad_()])
    with pytest.raises(RuntimeError, match="its input would need one"):
        gru(packed)
    with torch.no_grad():
        assert same_bits(bits(gru(packed)[0].data), bits(output))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_forward_mode_autograd() -> None:
    """There too: torch.no_grad() does not switch it off."""
    cell: Any = replace_gru(nn.GRUCell(I, H).eval())
    x, h, tangent = torch.ones(3, I), torch.ones(3, H), torch.ones(3, H)
    with torch.no_grad(), forward_ad.dual_level():
        dual = forward_ad.make_dual(h, tangent)  # type: ignore[no-untyped-call]
        with pytest.raises(RuntimeError, match="its input would need one"):
            cell(x, dual)
        assert torch.equal(cell(x, h), run(cell, x, h))


def test_other_devices_and_dtypes() -> None:
    """`meta` stands for CUDA, which the machine of the tests may lack."""
    gru, cell = replace_gru(nn.GRU(I, H).eval()), replace_gru(nn.GRUCell(I, H).eval())
    x = torch.ones(3, I)
    for module, state in ((gru, torch.ones(1, H)), (cell, torch.ones(3, H))):
        with pytest.raises(TypeError, match=r"input: expected a tensor in CPU memory, got .*meta"):
            run(module, x.to("meta"))
        with pytest.raises(TypeError, match=r"hx: expected a tensor in CPU memory.*\.cpu\(\)"):
            run(module, x, state.to("meta"))
        for dtype in (torch.float64, torch.float16, torch.int64):
            with pytest.raises(TypeError, match=rf"input: expected torch.float32, got {dtype}"):
                run(module, x.to(dtype))
        with pytest.raises(TypeError, match=r"hx: expected torch.float32, got torch.float64"):
            run(module, x, state.double())
        with pytest.raises(TypeError, match=r"input: expected a torch.Tensor, got ndarray"):
            run(module, x.numpy())
    packed = nn.utils.rnn.pack_sequence([x.double()])
    with pytest.raises(TypeError, match=r"input.data: expected torch.float32"):
        run(gru, packed)


def test_shapes() -> None:
    """What was expected and what came."""
    gru, cell = replace_gru(nn.GRU(I, H).eval()), replace_gru(nn.GRUCell(I, H).eval())
    with pytest.raises(fastgru.ShapeError, match=r"expected \(T, B, 6\) or \(T, 6\), got"):
        run(gru, torch.ones(3, I + 1))
    with pytest.raises(fastgru.ShapeError, match=r"h_0: expected"):
        run(gru, torch.ones(3, I), torch.ones(2, H))
    for shape in [(), (I + 1,), (2, I - 1), (1, 2, I)]:
        with pytest.raises(fastgru.ShapeError, match=r"input: expected \(B, 6\) or \(6,\), got"):
            run(cell, torch.ones(shape))
    with pytest.raises(fastgru.ShapeError, match=r"hx: expected \(2, 5\), got \(1, 5\)"):
        run(cell, torch.ones(2, I), torch.ones(1, H))


def test_a_model_that_has_moved_or_changed_its_dtype() -> None:
    """Weights that fastgru cannot take any more raise at the next call, and can come back."""
    model = replace_gru(tagger())
    before = run(model, X)
    model.double()
    with pytest.raises(fastgru.UnsupportedLayerError, match=r"got torch.float64; call .float"):
        run(model.gru, torch.ones(2, 7, I))
    assert torch.equal(run(model.float(), X), before)
    state = model.state_dict()
    model.to("meta")
    with pytest.raises(fastgru.UnsupportedLayerError, match=r"expected CPU memory, got meta"):
        run(model.gru, torch.ones(2, 7, I))
    model.to_empty(device="cpu")
    model.load_state_dict(state)
    assert torch.equal(run(model, X), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    """What a convolution gives there is taken; results have the dtype that PyTorch's have."""
    model = tagger()
    with torch.autocast("cpu", dtype):
        before = run(model.gru, X.new_ones(2, 7, I)), run(model.gru, torch.ones(2, 7, I).to(dtype))
        cells = run(model.cell, torch.ones(2, 2 * H).to(dtype)), run(model, X)
        replace_gru(model)
        after = run(model.gru, X.new_ones(2, 7, I)), run(model.gru, torch.ones(2, 7, I).to(dtype))
        after_cells = run(model.cell, torch.ones(2, 2 * H).to(dtype)), run(model, X)
    for actual, expected in zip(
        (*itertools.chain(*after), *after_cells), (*itertools.chain(*before), *cells), strict=True
    ):
        assert actual.dtype == expected.dtype
        assert torch.allclose(actual.float(), expected.float(), atol=0.05)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_tracing() -> None:
    """A trace would keep this call's results as constants."""
    model = replace_gru(tagger())
    with pytest.raises(RuntimeError, match="GRU replaced by fastgru cannot be exported or traced"):
        torch.jit.trace(model, X)  # type: ignore[no-untyped-call]
    with torch.no_grad(), pytest.raises(RuntimeError, match="cannot be exported or traced"):
        torch.export.export(model, (X,))
    with torch.no_grad(), pytest.raises(TypeError, match=r"expected a torch\.Tensor, got Proxy"):
        torch.fx.symbolic_trace(model)


def test_torch_compile() -> None:
    """The compiler leaves a replaced GRU alone, as it does with nn.GRU, and compiles the rest."""
    plain = tagger()
    model = replace_gru(copy.deepcopy(plain))
    compiled = torch.compile(model, backend="eager")
    for x in (X, X[:, :, :4], X):
        close(run(compiled, x), run(plain, x))
    model.load_state_dict(tagger(1).state_dict())
    close(run(compiled, X), run(tagger(1), X))


# ---- weights that change ----

CHANGES: list[Callable[[Any, Tensor], object]] = [
    lambda gru, new: gru.load_state_dict({**gru.state_dict(), "weight_hh_l0": new}),
    lambda gru, new: gru.load_state_dict({**gru.state_dict(), "weight_hh_l0": new}, assign=True),
    lambda gru, new: setattr(gru, "weight_hh_l0", nn.Parameter(new)),
    lambda gru, new: setattr(gru.weight_hh_l0, "data", new),
    lambda gru, new: gru.weight_hh_l0.data.copy_(new),
    lambda gru, new: np.copyto(gru.weight_hh_l0.detach().numpy(), new.numpy()),
    lambda gru, new: nn.utils.vector_to_parameters(
        torch.cat([(new if p is gru.weight_hh_l0 else p).flatten() for p in gru.parameters()]),
        gru.parameters(),
    ),
]


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_changed_weights_take_effect(change: Any, inference: bool) -> None:
    """By whatever way, at the next call, and as often as they change."""
    x = torch.ones(4, I)
    with torch.inference_mode(inference), torch.no_grad():
        gru: Any = replace_gru(nn.GRU(I, H).eval())
        for scale in (0.5, 0.25):
            change(gru, gru.weight_hh_l0.detach() * scale)
            own = fastgru.GRU.from_state_dict(gru.state_dict())
            assert same_bits(bits(run(gru, x)[0]), own(x)[0])


def test_one_changed_element() -> None:
    """torch counts every change in place, even of an element that is not compared."""
    gru = replace_gru(nn.GRU(64, 64).eval())
    x = torch.ones(4, 64)
    for name in ("weight_ih_l0", "bias_hh_l0"):
        with torch.no_grad():
            getattr(gru, name)[7] += 1
        own = fastgru.GRU.from_state_dict(gru.state_dict())
        assert same_bits(bits(run(gru, x)[0]), own(x)[0])


def test_unchanged_weights_are_packed_once() -> None:
    """Calls, .eval(), .cpu() and reading them are no changes."""
    gru: Any = replace_gru(nn.GRU(I, H).eval())
    packed = gru._fastgru
    for _ in range(2):
        run(gru, torch.ones(4, I))
        gru.eval().cpu().float().state_dict()
    assert gru._fastgru is packed


def test_training_goes_on_after_undoing() -> None:
    """Parameters are the ones that an optimizer holds; the next replacement has the new weights."""
    gru, x = nn.GRU(I, H), torch.ones(4, I)
    optimizer = torch.optim.SGD(gru.parameters(), lr=0.1)
    before = run(replace_gru(gru.eval()), x)[0]
    replace_gru(gru).train()
    gru(x)[0].sum().backward()
    optimizer.step()
    expected = run(gru.eval(), x)[0]
    after = run(replace_gru(gru), x)[0]
    close(after, expected)
    assert not torch.equal(after, before)


def test_memory_that_moves() -> None:
    """Into shared memory, in place: what is gone is not read."""
    gru, x = replace_gru(nn.GRU(64, 64).eval()), torch.ones(4, 64)
    before = run(gru, x)[0]
    gru.share_memory()
    assert torch.equal(run(gru, x)[0], before)


def test_functional_call() -> None:
    """Weights of one call alone, and the module's own again afterwards."""
    gru, x = replace_gru(nn.GRU(I, H).eval()), torch.ones(4, I)
    other = {name: p.detach() * 0.5 for name, p in gru.named_parameters()}
    before = run(gru, x)[0]
    with torch.inference_mode():
        output, _ = torch.func.functional_call(gru, other, (x,))
    assert same_bits(bits(output), fastgru.GRU.from_state_dict(other)(x)[0])
    assert torch.equal(run(gru, x)[0], before)


# ---- copies, files, threads ----


def test_checkpoints() -> None:
    """The same keys and values while replaced: saved there, loaded anywhere."""
    model, other = tagger(0), tagger(1)
    plain = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = replace_gru(model).state_dict()
    assert list(state) == list(plain)
    assert all(torch.equal(state[name], plain[name]) for name in plain)
    assert [name for name, _ in model.named_parameters()] == [
        n for n, _ in other.named_parameters()
    ]
    expected = run(other, X)
    model.load_state_dict(other.state_dict())
    close(run(model, X), expected)


def test_deepcopy() -> None:
    """A copy is replaced too, and goes its own way; packed weights are shared until then."""
    model: Any = replace_gru(tagger())
    before = run(model, X)
    other = copy.deepcopy(model)
    assert is_replaced(other.gru)
    assert other.gru._fastgru.gru._core is model.gru._fastgru.gru._core
    assert torch.equal(run(other, X), before)
    assert other.gru._fastgru.gru._core is model.gru._fastgru.gru._core
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    assert not torch.equal(run(other, X), before)
    assert torch.equal(run(model, X), before)
    stale = copy.deepcopy(other)  # changed, and not called since
    with torch.no_grad():
        other.gru.bias_hh_l0.add_(1)
    assert torch.equal(run(copy.deepcopy(other), X), run(other, X))
    assert not torch.equal(run(stale, X), run(other, X))
    replace_gru(model)
    assert is_replaced(other.gru)
    close(run(model, X), before)


@pytest.mark.parametrize("way", ["pickle", "torch.save", "copy"])
def test_files_hold_the_pytorch_model(way: str) -> None:
    """What is pickled needs no fastgru, is what was there before, and can be replaced again."""
    model = replace_gru(tagger())
    output = run(model, X)
    if way == "copy":
        other = copy.copy(model.gru)
        assert type(other) is nn.GRU
        assert other.weight_hh_l0 is model.gru.weight_hh_l0
        return
    file = io.BytesIO()
    (pickle.dump if way == "pickle" else torch.save)(model, file)
    assert b"fastgru" not in file.getvalue()
    file.seek(0)
    loaded = pickle.load(file) if way == "pickle" else torch.load(file, weights_only=False)
    assert (type(loaded.gru), type(loaded.cell)) == (nn.GRU, nn.GRUCell)
    close(run(loaded, X), output)
    assert torch.equal(run(replace_gru(loaded), X), output)


def test_many_threads() -> None:
    """One replaced model serves any number of Python threads, changed weights included."""
    model = replace_gru(tagger())
    model.load_state_dict(tagger(1).state_dict())
    expected = run(replace_gru(tagger(1)), X)
    results: list[bool] = []

    def work() -> None:
        results.extend(torch.equal(run(model, X), expected) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 80


def test_importing_fastgru_does_not_import_torch() -> None:
    """The attribute does, when it is first used."""
    code = """
import sys, fastgru
assert "torch" not in sys.modules and "fastgru.torch" not in sys.modules
fastgru.torch.replace_gru
assert sys.modules["fastgru.torch"] is fastgru.torch
import torch
assert torch.nn and torch is not fastgru.torch
"""
    result = run_python(code)
    assert (result.returncode, result.stderr) == (0, "")
