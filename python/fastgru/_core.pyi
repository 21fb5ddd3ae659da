"""Types of the compiled extension. Private: use the classes and functions of `fastgru`.

Everything here checks shapes (`ShapeError`) but converts nothing: arrays are float32 unless said
otherwise, with any strides as long as the last axis is contiguous and elements are aligned.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypedDict, TypeVar, final

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]

Function = TypeVar("Function", bound=Callable[..., Any])

__version__: str

class Network:
    """A packed, immutable chain of layers."""

    # layers that fit; input_size: features of x, 0 for any, or where the first one takes indices
    def __init__(self, layers: Sequence[Layer], input_size: int) -> None: ...
    # x (T, B, I), or (B, T, I) with batch_first, or (T, I); int64 without I where the first layer
    # takes indices, else IndexError for one out of range; lengths (B,) or None; num_threads 0: the
    # process default -> the same with O for I, without T behind "last", "mean" and "max"
    def run(
        self,
        x: Float32Array | Int64Array,
        lengths: Int64Array | None,
        batch_first: bool,
        num_threads: int,
    ) -> Float32Array: ...

class Layer(Network):
    """One layer, which is also a network of one."""

@final
class GRU(Layer):
    """A validated, packed, immutable stack of GRU layers."""

    def __init__(
        self,
        # PyTorch's flat order: for each layer, for each direction:
        # w_ih (3H, I or D*H), w_hh (3H, H)[, b_ih (3H,), b_hh (3H,)]; copied (packed), not kept
        tensors: Sequence[Float32Array],
        # for each layer in int8, for each direction: of w_ih, of w_hh (3H,)
        scales: Sequence[Float32Array],
        precisions: Sequence[str],  # a layer: "float32" | "bfloat16" | "int8", else ValueError
        *,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bidirectional: bool,
        reverse: bool,  # the only direction runs from the end to the start
        bias: bool,
        reset_after: bool,
        activation: str,  # "tanh" | "relu" | "sigmoid" | "identity", else ValueError
        recurrent_activation: str,  # "sigmoid" | "hard_sigmoid" | "hard_sigmoid_02"
        isa: str | None,  # None: FASTGRU_ISA, else the best; unknown or unsupported: ValueError
    ) -> None: ...
    @property
    def isa(self) -> str: ...
    @property
    def nbytes(self) -> int: ...  # bytes of packed weights and biases
    # tensors and scales, unpacked again, same order, same bits
    def tensors(self) -> tuple[list[Float32Array], list[Float32Array]]: ...
    @property
    def kernels(self) -> list[str]: ...  # each layer's: as default_kernels()

    # x (T, B, I), or (B, T, I) with batch_first, or (T, I); h_0 (L*D, B, H) or (L*D, H) or None;
    # lengths (B,) contiguous or None; num_threads 0: the process default.
    # -> output (T, B, D*H) | (B, T, D*H) | (T, D*H), h_n shaped like h_0
    def run(  # type: ignore[override]
        self,
        x: Float32Array,
        h_0: Float32Array | None,
        lengths: Int64Array | None,
        batch_first: bool,
        num_threads: int,
    ) -> tuple[Float32Array, Float32Array]: ...

    # One layer, every gate recorded. x (T, B, layer's input size), h_0 (D, B, H) or None
    # -> (4, D, T, B, H): hidden, reset, update, candidate
    def trace_layer(
        self, layer: int, x: Float32Array, h_0: Float32Array | None
    ) -> Float32Array: ...

@final
class Stream:
    """States of `batch_size` sequences that advance together through a Network by steps.

    Lists of states have one array for each stack of GRU layers. A call that raises, also by a
    signal's handler, changes nothing.
    """

    # h_0 (L, B, H) each or None (zeros); kept for reset(). ValueError where the network needs the
    # end of a sequence. Its "last" is left out.
    def __init__(
        self, network: Network, batch_size: int, h_0: Sequence[Float32Array] | None
    ) -> None: ...
    # x (B, I), or (I,) where batch_size is 1 -> (B, O) or (O,); of indices (B,) or a single one.
    # `out`: as in fastgru.Stream.step
    def step(
        self,
        x: Float32Array | Int64Array,
        out: Float32Array | None,
        num_threads: int = 0,
    ) -> Float32Array: ...
    # x (T, B, I) | (B, T, I) with batch_first | (T, I) where batch_size is 1
    def run(
        self,
        x: Float32Array | Int64Array,
        out: Float32Array | None,
        batch_first: bool,
        num_threads: int,
    ) -> Float32Array: ...
    def get_state(self) -> list[Float32Array]: ...  # copies, (L, B, H)
    def set_state(self, states: Sequence[Float32Array]) -> None: ...
    def reset(self, rows: Int64Array | None) -> None: ...  # IndexError outside 0..batch_size-1
    def copy(self) -> Stream: ...
    @property
    def batch_size(self) -> int: ...

@final
class Pool:
    """States of up to `capacity` sessions of a Network by steps; calls that use them take turns.

    Lists of states have one array for each stack of GRU layers. KeyError for an id that is not an
    open session's, ValueError for one that is there twice; every such id is named. A call that
    raises, also by a signal's handler, changes nothing.
    """

    def __init__(self, network: Network, capacity: int) -> None: ...
    # these do not wait for a step
    def open(self, h_0: Sequence[Float32Array] | None) -> int: ...  # (L, H) or None (zeros)
    def close(self, session: int) -> None: ...
    def contains(self, session: int) -> bool: ...
    def __len__(self) -> int: ...
    def get_state(self, session: int) -> list[Float32Array]: ...  # copies, (L, H)
    def set_state(self, session: int, state: Sequence[Float32Array]) -> None: ...
    def check(self, ids: Int64Array) -> None: ...  # raises what a call with these ids would
    # ids (n,), x (n, I), of indices (n,) -> (n, O). `out`: as in fastgru.Pool.step
    def step(
        self,
        ids: Int64Array,
        x: Float32Array | Int64Array,
        out: Float32Array | None,
        num_threads: int,
    ) -> Float32Array: ...
    def ids(self) -> Int64Array: ...  # of the open sessions
    def snapshot(self) -> tuple[Int64Array, list[Float32Array]]: ...  # restore()'s arguments
    # ids (n,), states (L, n, H); ValueError where they cannot be this pool's, which keeps its own
    def restore(self, ids: Int64Array, states: Sequence[Float32Array]) -> None: ...
    def shutdown(self) -> None: ...  # every other call is a RuntimeError from here on
    @property
    def capacity(self) -> int: ...

# ---- the layers around a GRU: immutable, x C-contiguous, any axes before the last ----

@final
class Linear(Layer):
    # weight (O, K), bias (O,); copied. isa: as GRU's
    def __init__(
        self, weight: Float32Array, bias: Float32Array | None, isa: str | None
    ) -> None: ...
    def run(self, x: Float32Array) -> Float32Array: ...  # type: ignore[override]  # (..., K) -> (..., O)
    def tensors(self) -> tuple[Float32Array, Float32Array | None]: ...  # unpacked, the same bits
    @property
    def isa(self) -> str: ...
    @property
    def nbytes(self) -> int: ...

@final
class Activation(Layer):
    # "sigmoid" | "tanh" | "relu" | "hard_sigmoid" | "hard_sigmoid_02", else ValueError
    def __init__(self, name: str, isa: str | None) -> None: ...
    def run(self, x: Float32Array) -> Float32Array: ...  # type: ignore[override]

@final
class Softmax(Layer):
    def __init__(self, log: bool, isa: str | None) -> None: ...
    def run(self, x: Float32Array) -> Float32Array: ...  # type: ignore[override]

@final
class LayerNorm(Layer):
    # weight (I,), bias (I,); copied
    def __init__(
        self, weight: Float32Array | None, bias: Float32Array | None, eps: float
    ) -> None: ...
    def run(self, x: Float32Array) -> Float32Array: ...  # type: ignore[override]
    def tensors(self) -> tuple[Float32Array | None, Float32Array | None]: ...

@final
class Embedding(Layer):
    def __init__(self, weight: Float32Array) -> None: ...  # (N, I); copied
    def run(self, x: Int64Array) -> Float32Array: ...  # type: ignore[override]  # (...) -> (..., I); IndexError
    def tensor(self) -> Float32Array: ...

@final
class OneHot(Layer):
    def __init__(self, classes: int) -> None: ...
    def run(self, x: Int64Array) -> Float32Array: ...  # type: ignore[override]  # (...) -> (..., classes); IndexError

@final
class OverTime(Layer):
    # name: "last" | "mean" | "max" | "reverse"; bidirectional: "last" takes the second half of the
    # features at step 0
    def __init__(self, name: str, bidirectional: bool) -> None: ...

# Decorators for Python methods, which take plain calls in C: see Note [Shortcut] in
# cpp/python/shortcut.hpp.
def shortcut_call(function: Function) -> Function: ...  # fastgru.GRU.__call__
def shortcut_step(function: Function) -> Function: ...  # the step of Stream and ModelStream
def shortcut_pool_step(function: Function) -> Function: ...  # the step of Pool and ModelPool
def isa_levels() -> list[tuple[str, bool]]:
    """Names compiled into this build, best first, each with whether this CPU can run it."""

def default_isa() -> str:
    """What a new model would get: FASTGRU_ISA or the best. ValueError as GRU."""

def default_kernels() -> dict[str, str]:
    """Each precision's, of a new model; those of one ISA level, or with more instructions.

    Where the number of rows decides: "a, from 16 rows b".
    """

class Product(TypedDict):
    """One way to multiply: a level's own (its name is the level's), or with more instructions."""

    name: str
    level: str
    precision: str
    preference: int  # the largest is preferred ...
    min_rows: int  # ... from so many rows on
    # "exact": integers; "chains": fused multiply-adds in Note [Same bits]'s order; "own": its bits
    # are no other product's. None: this CPU does not run it
    sums: str | None

def products() -> list[Product]:
    """All that this build has, by cpp/kernels/levels.inc."""

def set_num_threads(n: int) -> None: ...  # ValueError if n < 1

# The calling thread's scratch at once, other threads' when their current or next call ends.
def release_memory() -> None: ...

# set_num_threads, else FASTGRU_NUM_THREADS, else OMP_NUM_THREADS, else cores
def get_num_threads() -> int: ...

# Cores by cgroup quota (affinity is asked for at each call).
def set_core_limit(n: int) -> None: ...
def openmp_runtime() -> str: ...  # "libgomp", "libomp" or "none"
