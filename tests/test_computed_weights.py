"""State dicts of GRUs whose weights something computes: the reason, and a remedy that works.

Each remedy is followed here, in every format, and gives the numbers of the trained module.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import fastgru
from conftest import random_weights

I, H = 4, 6  # noqa: E741

State = dict[str, Any]


def weight_norm(torch: ModuleType, gru: Any, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated; files have it
        torch.nn.utils.weight_norm(gru, name)


def new_weight_norm(torch: ModuleType, gru: Any, name: str) -> None:
    torch.nn.utils.parametrizations.weight_norm(gru, name)


def spectral_norm(torch: ModuleType, gru: Any, name: str) -> None:
    torch.nn.utils.spectral_norm(gru, name)


def new_spectral_norm(torch: ModuleType, gru: Any, name: str) -> None:
    torch.nn.utils.parametrizations.spectral_norm(gru, name)


def orthogonal(torch: ModuleType, gru: Any, name: str) -> None:
    torch.nn.utils.parametrizations.orthogonal(gru, name)


def own(torch: ModuleType, gru: Any, name: str) -> None:
    torch.nn.utils.parametrize.register_parametrization(gru, name, torch.nn.Softplus())


def pruning(torch: ModuleType, gru: Any, name: str) -> None:
    from torch.nn.utils import prune  # noqa: PLC0415

    prune.l1_unstructured(gru, name, amount=0.3)  # type: ignore[no-untyped-call]


def removers(torch: ModuleType) -> dict[str, Callable[[Any, str], Any]]:
    """By the words of the message."""
    from torch.nn.utils import parametrize, prune  # noqa: PLC0415

    return {
        "torch.nn.utils.remove_weight_norm": torch.nn.utils.remove_weight_norm,
        "torch.nn.utils.remove_spectral_norm": torch.nn.utils.remove_spectral_norm,
        "torch.nn.utils.prune.remove": prune.remove,
        "torch.nn.utils.parametrize.remove_parametrizations": parametrize.remove_parametrizations,
    }


WAYS: dict[str, tuple[Callable[[ModuleType, Any, str], None], str]] = {
    "weight_norm": (weight_norm, "weight_norm"),
    "a new weight_norm": (new_weight_norm, "a parametrization"),
    "spectral_norm": (spectral_norm, "spectral_norm"),
    "a new spectral_norm": (new_spectral_norm, "a parametrization"),
    "orthogonal": (orthogonal, "a parametrization"),
    "a parametrization of one's own": (own, "a parametrization"),
    "pruning": (pruning, "pruning"),
}


def load_safetensors(torch: ModuleType, state: State, path: Path) -> Any:
    from safetensors.torch import save_file  # noqa: PLC0415

    save_file({name: value.detach().contiguous() for name, value in state.items()}, path)
    return fastgru.load(path)


def load_npz(torch: ModuleType, state: State, path: Path) -> Any:
    np.savez(path, **{name: value.detach().numpy() for name, value in state.items()})
    return fastgru.load(path)


def load_pt(torch: ModuleType, state: State, path: Path) -> Any:
    torch.save(state, path)
    return fastgru.load(path)


def load_checkpoint(torch: ModuleType, state: State, path: Path) -> Any:
    torch.save({"epoch": 1, "state_dict": state}, path, _use_new_zipfile_serialization=False)
    return fastgru.load(path, prefix="rnn." if any(n.startswith("rnn.") for n in state) else "")


def from_state_dict(torch: ModuleType, state: State, path: Path) -> Any:
    return fastgru.GRU.from_state_dict(state)


LOADERS = [load_safetensors, load_npz, load_pt, load_checkpoint, from_state_dict]


def refusal(loader: Callable[..., Any], torch: ModuleType, state: State, folder: Path) -> str:
    with pytest.raises(fastgru.FormatError) as caught:
        loader(torch, state, folder / "model.npz")
    return str(caught.value)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("names", [["weight_hh_l0"], ["weight_ih_l1", "weight_hh_l1"]])
@pytest.mark.parametrize("way", list(WAYS))
def test_the_reason_and_a_remedy_that_works(
    tmp_path: Path, torch: ModuleType, loader: Callable[..., Any], way: str, names: list[str]
) -> None:
    """One error; after the call that it names the state dict loads, and gives the same numbers."""
    make, word = WAYS[way]
    torch.manual_seed(0)
    net = torch.nn.ModuleDict({"rnn": torch.nn.GRU(I, H, 2)}).eval()
    gru = net["rnn"]
    for name in names:
        make(torch, gru, name)
    x = torch.randn(5, 2, I)
    with torch.no_grad():
        expected = gru(x)[0].numpy()
    text = refusal(loader, torch, net.state_dict(), tmp_path)
    verb = "is" if len(names) == 1 else "are"
    listed = ", ".join(sorted(names))
    assert f"{listed} {verb} computed by {word} before every call (from " in text
    assert "missing" not in text
    assert "no tensor of a GRU" not in text
    remedies = {call: remove for call, remove in removers(torch).items() if f"{call}(gru, " in text}
    assert len(remedies) == 1, text
    for name in names:
        next(iter(remedies.values()))(gru, name)
    output = loader(torch, net.state_dict(), tmp_path / "model.npz")(x.numpy())[0]
    assert np.allclose(output, expected, atol=1e-5)


@pytest.mark.parametrize("way", [way for way, (_, word) in WAYS.items() if "param" in word])
def test_the_other_remedy_of_parametrizations(torch: ModuleType, way: str) -> None:
    """from_torch reads what the module computes."""
    gru = torch.nn.GRU(I, H).eval()
    WAYS[way][0](torch, gru, "weight_hh_l0")
    with pytest.raises(fastgru.FormatError, match=r"or use GRU\.from_torch\(gru\)"):
        fastgru.GRU.from_state_dict(gru.state_dict())
    x = torch.randn(5, 2, I)
    with torch.no_grad():
        expected = gru(x)[0].numpy()
        assert np.allclose(fastgru.GRU.from_torch(gru)(x.numpy())[0], expected, atol=1e-5)


@pytest.mark.parametrize("way", list(WAYS))
def test_a_gru_of_which_no_plain_name_is_left(tmp_path: Path, torch: ModuleType, way: str) -> None:
    """The GRU is found all the same, and by its prefix."""
    gru = torch.nn.GRU(I, H, bias=False)
    for name in ("weight_ih_l0", "weight_hh_l0"):
        WAYS[way][0](torch, gru, name)
    state = {f"encoder.rnn.{name}": value for name, value in gru.state_dict().items()}
    reason = r"the GRU under 'encoder\.rnn\.': weight_hh_l0, weight_ih_l0 are computed by"
    for prefix in (None, "encoder.rnn", "encoder.rnn."):
        with pytest.raises(fastgru.FormatError, match=reason):
            fastgru.GRU.from_state_dict(state, prefix=prefix)
    torch.save({"model": state}, tmp_path / "model.pt")
    with pytest.raises(fastgru.FormatError, match="are computed by"):
        fastgru.load(tmp_path / "model.pt", prefix="encoder.rnn.")


@pytest.mark.parametrize("way", list(WAYS))
def test_a_cell(torch: ModuleType, way: str) -> None:
    """torch.nn.GRUCell has the same wrappers."""
    cell = torch.nn.GRUCell(I, H)
    WAYS[way][0](torch, cell, "weight_hh")
    with pytest.raises(fastgru.FormatError, match="weight_hh is computed by") as caught:
        fastgru.GRU.from_state_dict(cell.state_dict())
    assert "missing" not in str(caught.value)


def test_one_of_two_grus(torch: ModuleType) -> None:
    """It is not passed over for the other one, whose tensors are all there."""
    first, second = torch.nn.GRU(I, H), torch.nn.GRU(I, H)
    weight_norm(torch, first, "weight_hh_l0")
    state = {f"a.{name}": value for name, value in first.state_dict().items()}
    state |= {f"b.{name}": value for name, value in second.state_dict().items()}
    several = (
        r"'a\.' \(recurrent weight computed by weight_norm\), 'b\.' \(recurrent weight \(18, 6"
    )
    with pytest.raises(fastgru.FormatError, match=several):
        fastgru.GRU.from_state_dict(state)
    with pytest.raises(fastgru.FormatError, match="weight_hh_l0 is computed by weight_norm"):
        fastgru.GRU.from_state_dict(state, prefix="a.")
    assert fastgru.GRU.from_state_dict(state, prefix="b.").hidden_size == H


def dropped(layout: str) -> tuple[State, State]:
    """The state dict of a GRU under AWD-LSTM's WeightDrop, and the plain one."""
    plain = random_weights(np.random.default_rng(0), I, H)
    state = {f"rnn.module.{name}": value for name, value in plain.items()}
    raw = state.pop("rnn.module.weight_hh_l0")
    key = "rnn.module.weight_hh_l0_raw" if "inside" in layout else "rnn.weight_hh_l0_raw"
    state[key] = raw
    if "both" in layout:  # after a step of training: with its dropout
        state["rnn.module.weight_hh_l0"] = raw * (raw > 0)
    return state, plain


@pytest.mark.parametrize("layout", ["outside", "inside", "outside, both", "inside, both"])
def test_weight_drop(layout: str) -> None:
    """The raw weight is the one to run; a dropped one beside it would be wrong in silence."""
    state, plain = dropped(layout)
    with pytest.raises(fastgru.FormatError) as caught:
        fastgru.GRU.from_state_dict(state)
    text = str(caught.value)
    assert "weight_hh_l0 is computed by WeightDrop" in text
    remedy = re.search(r"rename (\S+) to (\S+) in the state dict", text)
    assert remedy is not None
    state[remedy[2]] = state.pop(remedy[1])
    tensors = fastgru.GRU.from_state_dict(state).tensors()
    assert all(np.array_equal(tensors[name], value) for name, value in plain.items())


def test_several_ways_are_several_problems(torch: ModuleType) -> None:
    """Beside what else is wrong."""
    gru = torch.nn.GRU(I, H, 2)
    weight_norm(torch, gru, "weight_hh_l0")
    pruning(torch, gru, "weight_hh_l1")
    state = gru.state_dict()
    del state["bias_ih_l0"]
    with pytest.raises(fastgru.FormatError) as caught:
        fastgru.GRU.from_state_dict(state)
    text = str(caught.value)
    assert "3 problems" in text
    assert "weight_hh_l0 is computed by weight_norm" in text
    assert "weight_hh_l1 is computed by pruning" in text
    assert "bias_ih_l0: missing, expected (18,)" in text


@pytest.mark.parametrize("suffix", ["g", "v", "mask", "orig", "u"])
def test_half_of_a_pair_is_no_reason(suffix: str) -> None:
    """The names are then as unknown as any other."""
    state: State = dict(random_weights(np.random.default_rng(0), I, H))
    state[f"weight_hh_l0_{suffix}"] = state.pop("weight_hh_l0")
    with pytest.raises(fastgru.FormatError) as caught:
        fastgru.GRU.from_state_dict(state)
    assert f"weight_hh_l0_{suffix}: no tensor of a GRU has this name" in str(caught.value)
    assert "weight_hh_l0: missing" in str(caught.value)


def test_names_like_these_elsewhere_do_not_matter() -> None:
    """Another layer's weight_norm and pruning are none of the GRU's business."""
    state: State = {
        f"rnn.{n}": t for n, t in random_weights(np.random.default_rng(0), I, H).items()
    }
    other = np.zeros(3, np.float32)
    for name in ("head.weight_g", "head.weight_v", "head.parametrizations.weight.original0"):
        state[name] = other
    for name in ("attention.weight_hh_v", "attention.weight_ih_mask", "conv.weight_orig"):
        state[name] = other
    assert fastgru.GRU.from_state_dict(state).hidden_size == H


names = st.text("weightbias_ihl0123.grvouamskpz\n", max_size=12)


@hypothesis.given(
    prefix=st.sampled_from(["", "rnn.", "a.module.", "x.parametrizations."]),
    layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    way=st.sampled_from(["g v", "orig mask", "orig u v", "raw", "original0 original1", "original"]),
    chosen=st.sets(st.integers(0, 30), min_size=1),
    others=st.lists(names),
)
@hypothesis.settings(deadline=None)
def test_any_weights_of_any_gru(  # noqa: PLR0917
    prefix: str, layers: int, bidirectional: bool, way: str, chosen: set[int], others: list[str]
) -> None:
    """The first three are named, none is called missing, and the remedy is not cut off."""
    state: State = {name: np.zeros(1, np.float32) for name in others if "_ih" not in name}
    state = {name: value for name, value in state.items() if "_hh" not in name}
    weights = random_weights(np.random.default_rng(0), I, H, layers, bidirectional=bidirectional)
    state |= {prefix + name: value for name, value in weights.items()}
    computed = [name for place, name in enumerate(weights) if place in chosen]
    if not computed:
        computed = [next(iter(weights))]
    for name in computed:
        value = state.pop(prefix + name)
        for part in way.split():
            stem = f"parametrizations.{name}." if part.startswith("original") else f"{name}_"
            state[f"{prefix}{stem}{part}"] = value
    with pytest.raises(fastgru.FormatError) as caught:
        fastgru.GRU.from_state_dict(state)
    text = str(caught.value)
    assert ", ".join(sorted(computed)[:3]) in text
    assert "save the state dict again" in text or "in the state dict and save it again" in text
    assert "computed by" in text
    assert "missing" not in text
    assert "no tensor of a GRU" not in text


@pytest.mark.parametrize("kind", ["GRU", "GRUCell"])
def test_dynamically_quantized_grus(tmp_path: Path, torch: ModuleType, kind: str) -> None:
    """Their weights have no names; the float model's state dict is the remedy."""
    model = torch.nn.Sequential(getattr(torch.nn, kind)(I, H))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is to drop them; files have them
        classes = {torch.nn.GRU, torch.nn.GRUCell}
        quantized = torch.ao.quantization.quantize_dynamic(model, classes, dtype=torch.qint8)
    path = tmp_path / "model.pt"
    for new in (True, False):
        torch.save({"net": quantized.state_dict()}, path, _use_new_zipfile_serialization=new)
        with pytest.raises(fastgru.FormatError, match="quantize_dynamic has packed") as caught:
            fastgru.load(path)
        assert "before it is quantized" in str(caught.value)
        torch.save({"net": model.state_dict()}, path, _use_new_zipfile_serialization=new)
        assert fastgru.load(path, precision="int8").precision == "int8"
