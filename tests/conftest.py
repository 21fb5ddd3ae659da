"""What the tests share: ISA levels, tolerances with their reasons, random networks.

Tests import the helpers by name (`from conftest import ...`); fixtures come by themselves.
"""

from __future__ import annotations

import faulthandler
import os
import subprocess
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import hypothesis
import numpy as np
import pytest

import fastgru
import reference
from fastgru import _core

Array = np.ndarray[Any, np.dtype[Any]]
Weights = dict[str, Array]

faulthandler.enable()  # a crash in the extension must say which test and line it came from

# Deadlines are timing assertions, and this suite has none. "ci" draws the same examples every time.
hypothesis.settings.register_profile("default", deadline=None, max_examples=50)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=50, derandomize=True)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=300)
hypothesis.settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default")
)

# The tolerances of the whole suite.
TOLERANCE: dict[str, float] = {
    # Promise 1, outputs: at most the larger of these two. Twice PyTorch's own error, because sums
    # of float32 in any order cannot do better than that reliably ...
    "times_torch": 2.0,
    # ... and this times max(1, |y|): about 8 half-ulps of 1, where PyTorch is exact by luck.
    "output": 5e-7,
    # Promise 1, activations: 3.4 half-ulps of a result near 1.
    "activation": 2e-7,
    # Promise 1, tanh near 0: 6.7 half-ulps of any result; tiny signals keep their digits.
    "tanh_relative": 4e-7,
    # ONNX's own: its expected outputs are float32 sums of NumPy, not float64.
    "onnx_rtol": 1e-5,
    "onnx_atol": 1e-6,
    # Keras's own outputs are float32 sums too, by torch or TensorFlow.
    "keras": 1e-5,
}

ISA_LEVELS: dict[str, bool] = dict(_core.isa_levels())
SUPPORTED_ISAS: list[str] = [name for name, supported in ISA_LEVELS.items() if supported]


@pytest.fixture(
    params=[
        pytest.param(
            name,
            marks=[] if ok else pytest.mark.skip(reason=f"this CPU cannot run {name}"),
        )
        for name, ok in ISA_LEVELS.items()
    ]
)
def isa(request: pytest.FixtureRequest) -> str:
    """Every ISA level compiled into this build; those that the CPU lacks are skipped visibly."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def both_isas() -> tuple[str, str]:
    """("avx2", "avx512"), or a visible skip."""
    for name in ("avx2", "avx512"):
        if not ISA_LEVELS.get(name, False):
            pytest.skip(f"needs avx2 and avx512; {name} is not built or this CPU cannot run it")
    return "avx2", "avx512"


@pytest.fixture(scope="session")
def torch() -> ModuleType:
    module: ModuleType = pytest.importorskip("torch", reason="PyTorch is not installed")
    return module


def random_weights(  # noqa: PLR0917  (in torch.nn.GRU's order)
    rng: np.random.Generator,
    input_size: int,
    hidden_size: int,
    num_layers: int = 1,
    bidirectional: bool = False,
    bias: bool = True,
    *,
    scale: float = 1.0,
) -> Weights:
    """torch.nn.GRU's own initialisation, uniform(-1/sqrt(H), 1/sqrt(H)), times `scale`."""
    bound = scale / np.sqrt(hidden_size)
    directions = 2 if bidirectional else 1
    weights: Weights = {}
    for layer in range(num_layers):
        columns = hidden_size * directions if layer else input_size
        for suffix in ["", "_reverse"][:directions]:
            shapes: dict[str, tuple[int, ...]] = {"weight_ih": (3 * hidden_size, columns)}
            shapes["weight_hh"] = (3 * hidden_size, hidden_size)
            if bias:
                shapes["bias_ih"] = shapes["bias_hh"] = (3 * hidden_size,)
            for name, shape in shapes.items():
                values = rng.uniform(-bound, bound, shape).astype(np.float32)
                weights[f"{name}_l{layer}{suffix}"] = values
    return weights


def random_input(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def random_state(rng: np.random.Generator, weights: Weights, batch: int) -> Array:
    """A state that a tanh GRU can be in: (L*D, B, H), within [-1, 1]."""
    stacks = sum(name.startswith("weight_hh") for name in weights)
    size = weights["weight_hh_l0"].shape[1]
    return rng.uniform(-1, 1, (stacks, batch, size)).astype(np.float32)


def torch_gru(torch: ModuleType, weights: Weights, batch_first: bool = False) -> Any:
    """torch.nn.GRU with these weights."""
    module = torch.nn.GRU(
        weights["weight_ih_l0"].shape[1],
        weights["weight_hh_l0"].shape[1],
        num_layers=sum(f"weight_hh_l{n}" in weights for n in range(64)),
        bias="bias_ih_l0" in weights,
        batch_first=batch_first,
        bidirectional="weight_hh_l0_reverse" in weights,
    )
    module.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()})
    return module.eval()


def largest_error(actual: Array, exact: Array) -> float:
    return float(np.abs(actual.astype(np.float64) - exact).max(initial=0))


def assert_promise_1(actual: Array, exact: Array, torch_error: float) -> None:
    """Promise 1, accuracy: error against float64 at most twice PyTorch's, or 5e-7 * max(1, |y|).

    `torch_error` is PyTorch's largest error on the same data, which must be plenty: the largest of
    a few errors is luck.
    """
    assert actual.shape == exact.shape
    floor = TOLERANCE["output"] * np.maximum(1, np.abs(exact))
    limit = np.maximum(TOLERANCE["times_torch"] * torch_error, floor)
    error = np.abs(actual.astype(np.float64) - exact)
    if not np.all(error <= limit):  # not `any(error > limit)`: NaN must fail
        worst = np.unravel_index(np.argmax(error / limit), error.shape)
        pytest.fail(
            f"at {tuple(map(int, worst))}: got {actual[worst]}, exact {exact[worst]}, error "
            f"{error[worst]:.3g}, limit {limit[worst]:.3g}; PyTorch's {torch_error:.3g}"
        )


def assert_close(actual: Array, exact: Array) -> None:
    """The absolute half of promise 1, for networks that do not amplify rounding. NaN equals NaN."""
    assert actual.shape == exact.shape
    both_nan = np.isnan(actual) & np.isnan(exact)
    error = np.abs(actual.astype(np.float64) - exact)
    within = error <= TOLERANCE["output"] * np.maximum(1, np.abs(exact))
    assert np.all(within | both_nan), f"largest error {np.nanmax(error):.3g}"


def same_bits(a: Array, b: Array) -> bool:
    """Equal shapes and equal bits; NaNs match whatever their payload."""
    if a.shape != b.shape or a.dtype != np.float32 or b.dtype != np.float32:
        return False
    bits_a = np.ascontiguousarray(a).view(np.uint32)
    bits_b = np.ascontiguousarray(b).view(np.uint32)
    return bool(np.all((bits_a == bits_b) | (np.isnan(a) & np.isnan(b))))


def reference_float32(weights: Weights, x: Array, *args: Any, **kwargs: Any) -> reference.Result:
    """The yardstick where PyTorch has no such layer: the equations in float32, products by PyTorch.

    By PyTorch because promise 1 is about its error: NumPy's products are up to twice as accurate
    for some shapes and less accurate for others.
    """
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")

    def matmul(a: Array, b: Array) -> Array:
        product: Array = torch.matmul(torch.tensor(a), torch.tensor(b)).numpy()
        return product

    return reference.gru(weights, x, *args, **kwargs, dtype=np.float32, matmul=matmul)


def elsewhere(array: Array) -> dict[str, Array]:
    """The same numbers where C++ must not read them as they lie: see `as_int64`."""

    def unaligned(values: Array) -> Array:
        memory = np.zeros(values.nbytes + 1, np.uint8)[1:]
        copy: Array = memory.view(values.dtype).reshape(values.shape)
        copy[...] = values
        return copy

    swapped = array.astype(array.dtype.newbyteorder())
    wide = np.zeros((*array.shape, 2), array.dtype)
    wide[..., 0] = array
    packed = np.zeros(array.shape, np.dtype([("flag", "i1"), ("value", array.dtype)]))
    packed["value"] = array  # a field of packed records: not aligned, and apart
    return {
        "unaligned": unaligned(array),
        "byte-swapped": swapped,
        "unaligned and byte-swapped": unaligned(swapped),
        "apart": wide[..., 0],
        "in records": packed["value"],
    }


def make_gru(weights: Weights, **kwargs: Any) -> fastgru.GRU:
    return fastgru.GRU.from_state_dict(weights, **kwargs)


def run_python(
    code: str, env: Mapping[str, str | None] | None = None, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """`code` in a new interpreter; None in `env` removes a variable. Raises where it hangs."""
    environment = dict(os.environ)
    for name, value in (env or {}).items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
