"""Promise 2, over versions: outputs have the bits that commit 5227939 gave, and so do its files.

data/make_bits.py has the cases and wrote the hashes (data/bits.json) and the files (data/kept). On
every ISA with FMAs the bits are those; kernels of bfloat16 that add products in an order of their
own have hashes of their own, or none, and then these cases are left out visibly.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastgru
from conftest import ISA_LEVELS

DATA = Path(__file__).parent / "data"
KEPT = DATA / "kept"
BITS: dict[str, dict[str, Any]] = json.loads((DATA / "bits.json").read_text())


def load_script() -> Any:
    spec = importlib.util.spec_from_file_location("make_bits", DATA / "make_bits.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    sys.modules["make_bits"] = script
    spec.loader.exec_module(script)
    return script


make_bits = load_script()
NETWORKS = sorted(path.stem for path in KEPT.glob("*.pickle") if path.stem != "layers")
POOLS = sorted(BITS["ids"])


@pytest.fixture(
    params=[
        pytest.param(
            name,
            marks=[] if ok else pytest.mark.skip(reason=f"this CPU cannot run {name}"),
        )
        for name, ok in ISA_LEVELS.items()
        if name != "portable"  # has no FMAs: it agrees within tolerance
    ]
)
def fused_isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """An ISA with FMAs, by which everything is made that does not say its own."""
    name: str = request.param
    monkeypatch.setenv("FASTGRU_ISA", name)
    return name


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = fastgru.get_num_threads()
    fastgru.set_num_threads(request.param)
    yield request.param
    fastgru.set_num_threads(before)


def kernels_of(precision: str) -> str:
    """The kernels that a network made now would run."""
    return fastgru.cpu_info().kernels[precision]


def expected(isa: str) -> dict[str, str | None]:
    """A hash for each case, or None where these kernels have none."""
    kernels = kernels_of("bfloat16")
    hashes: dict[str, str | None] = dict(BITS["fused"])
    if kernels != isa:
        hashes |= BITS.get(kernels) or {name: None for name in hashes if "bfloat16" in name}
    return hashes


@functools.cache
def all_cases() -> list[Any]:
    return list(make_bits.cases())


@pytest.mark.parametrize("group", make_bits.GROUPS)
def test_outputs(group: str, fused_isa: str, threads: int) -> None:
    """Whole calls, streams, pools, layers and models, in every precision."""
    wanted, different, left_out = expected(fused_isa), [], 0
    cases = [case for case in all_cases() if case.group == group]
    assert cases
    for case in cases:
        hash_then = wanted[case.name]
        if hash_then is None:
            left_out += 1
        elif make_bits.hash_of(case.results()) != hash_then:
            different.append(case.name)
    assert not different, f"{len(different)} of {len(cases)} have other bits"
    if left_out:
        pytest.skip(f"{left_out} cases have no hashes for {kernels_of('bfloat16')}")


def test_every_hash_has_its_case() -> None:
    """A case that is taken out would be missed by nobody else."""
    assert set(BITS["fused"]) == {case.name for case in all_cases()}


def check_network(name: str, network: Any, isa: str) -> None:
    if "bfloat16" in name and kernels_of("bfloat16") != isa:
        pytest.skip("the hash is that of products by FMAs")
    assert make_bits.hash_of(make_bits.call_network(network)) == BITS["files"][name]


@pytest.mark.parametrize("name", NETWORKS)
def test_pickles(name: str, fused_isa: str) -> None:
    """GRUs and models pickled then still load, and answer the same."""
    check_network(name, pickle.loads((KEPT / f"{name}.pickle").read_bytes()), fused_isa)


@pytest.mark.parametrize("name", NETWORKS)
def test_native_files(name: str, fused_isa: str) -> None:
    """So do files that they saved."""
    check_network(name, fastgru.load(KEPT / f"{name}.safetensors"), fused_isa)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_loads_is_saved_the_same(name: str, tmp_path: Path) -> None:
    """A network that was loaded is saved and pickled with the same tensors."""
    network: Any = fastgru.load(KEPT / f"{name}.safetensors")
    network.save(tmp_path / "again.safetensors")
    again: Any = fastgru.load(tmp_path / "again.safetensors")
    by_pickle: Any = pickle.loads((KEPT / f"{name}.pickle").read_bytes())
    assert repr(again) == repr(network) == repr(by_pickle)
    for one, other in ((network, again), (network, by_pickle)):
        for a, b in zip(layers_of(one), layers_of(other), strict=True):
            assert a.keys() == b.keys()
            for key in a:
                assert np.array_equal(a[key], b[key])


def layers_of(network: Any) -> list[dict[str, Any]]:
    """Tensors of a GRU, or of each layer of a model."""
    layers = [network] if isinstance(network, fastgru.GRU) else network.layers
    return [
        layer.tensors()
        if isinstance(layer, fastgru.GRU)
        else {n: getattr(layer, n) for n in ("weight", "bias") if hasattr(layer, n)}
        for layer in layers
    ]


def test_pickled_layers(fused_isa: str) -> None:
    """Each kind of layer, pickled by itself then, loads and answers the same."""
    layers = pickle.loads((KEPT / "layers.pickle").read_bytes())
    kinds = {type(layer).__name__ for layer in layers}
    assert kinds == {
        *("Embedding", "OneHot", "Linear", "LayerNorm", "ReLU", "Tanh", "Sigmoid"),
        *("Softmax", "LogSoftmax", "Last", "Mean", "Max", "Reverse"),
    }
    outputs = [make_bits.call_layer(layer) for layer in layers]
    assert make_bits.hash_of(outputs) == BITS["files"]["layers"]


@pytest.mark.parametrize("name", POOLS)
def test_snapshots(name: str, fused_isa: str) -> None:
    """Sessions of a snapshot taken then go on under their ids with the same bits."""
    sessions, x = make_bits.kept_pools()[name]
    sessions.restore(KEPT / f"{name}.safetensors")
    ids = np.array(BITS["ids"][name])
    assert sorted(sessions.ids.tolist()) == sorted(ids.tolist())
    assert make_bits.hash_of(make_bits.go_on(sessions, ids, x)) == BITS["files"][name]
