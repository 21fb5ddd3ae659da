"""The layers around a GRU: embeddings before it, linear layers, activations and the like after it.

Thin objects over `_core` that hold their weights, never change, and can be called by themselves; a
`Model` chains them. What they give is float32, and a row's bits depend on nothing but the row.
Refuses to know a layer's neighbours: what fits what is model.py's.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from fastgru import _core
from fastgru.arrays import (
    Float32Array,
    as_int64,
    as_state,
    byte_text,
    shape_text,
    source_of,
)
from fastgru.errors import ShapeError
from fastgru.options import positive
from fastgru.text import report


class Layer:
    """What every layer of a Model but its GRUs has."""

    __slots__ = ("__weakref__", "_core", "_isa")

    takes_indices: ClassVar[bool] = False
    """Integers (T, B) go in, where other layers take features (T, B, I)."""
    over_time: ClassVar[bool] = False
    """A row comes out for each sequence, where other layers give one for each step."""
    uses_kernels: ClassVar[bool] = False
    """It is made for an ISA; the bits are the same on all that have FMAs."""

    _core: Any
    _isa: str | None  # forced, by `fastgru.load` and tests; None: FASTGRU_ISA, else the best

    @property
    def input_size(self) -> int | None:
        """Of the last axis of what goes in; None: any, or no such axis."""
        return None

    @property
    def output_size(self) -> int | None:
        """Of the last axis of what comes out; None: that of what goes in."""
        return None

    @property
    def nbytes(self) -> int:
        """Bytes of packed weights."""
        return 0

    def _tensors(self) -> dict[str, Float32Array]:
        """Arguments of the constructor, unpacked again, the same bits; None is left out."""
        return {}

    def _options(self) -> dict[str, Any]:
        """The constructor's other arguments."""
        return {}

    def __copy__(self) -> Layer:
        return self  # immutable

    def __deepcopy__(self, memo: dict[int, object]) -> Layer:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (type(self), self._tensors() | self._options(), self._isa)

    def __repr__(self) -> str:
        told = [f"{name}={value!r}" for name, value in self._options().items()]
        return f"{type(self).__name__}({', '.join(told)})"


def _unpickle(cls: type[Layer], arguments: dict[str, Any], isa: str | None) -> Layer:
    return cls(**arguments, **({} if isa is None else {"_isa": isa}))


def _checked(
    owner: str, optional: Collection[str] = (), **given: tuple[Any, str]
) -> dict[str, Float32Array]:
    """Tensors with their shapes in letters, which mean one size each; `optional` ones may be None.

    Raises ShapeError, or TypeError where a dtype is wrong, with every problem.
    """
    sizes: dict[str, int] = {}
    problems, wrong_type = [], False
    sources = {
        name: (source_of(name, value), letters)
        for name, (value, letters) in given.items()
        if not (value is None and name in optional)
    }
    for name, (source, letters) in sources.items():
        expected = tuple(sizes.get(letter, letter) for letter in letters)
        got = source.shape
        if len(got) != len(expected) or any(
            isinstance(want, int) and want != size for want, size in zip(expected, got, strict=True)
        ):
            problems.append(f"{name}: expected {shape_text(expected)}, got {shape_text(got)}")
        elif 0 in got:
            problems.append(f"{name}: expected at least 1 in each axis, got {shape_text(got)}")
        else:
            sizes.update(zip(letters, got, strict=True))
        if not source.is_real_float:
            problems.append(f"{name}: expected a real floating dtype, got {source.dtype}")
            wrong_type = True
    if problems:
        raise (TypeError if wrong_type else ShapeError)(report(owner, problems))
    return {name: source.read() for name, (source, _) in sources.items()}


class _Rows(Layer):
    """A layer that takes features, and treats each row of the last axis by itself."""

    __slots__ = ()

    def __call__(self, x: ArrayLike) -> Float32Array:
        """Runs each row of x (..., I); a fresh C-contiguous float32 array.

        Raises ShapeError, and TypeError for integers, bools, complex numbers and objects.
        """
        y: Float32Array = self._core.run(as_state("x", x))
        return y


class _Indices(Layer):
    """A layer that takes integers, and gives each a row."""

    __slots__ = ()

    takes_indices = True

    def __call__(self, x: ArrayLike) -> Float32Array:
        """Integers x (...) -> (..., n), a fresh C-contiguous float32 array.

        Raises IndexError for an index that is negative or too large, TypeError for other dtypes.
        """
        y: Float32Array = self._core.run(as_int64("x", x))
        return y


class Embedding(_Indices):
    """Rows of a table by number, as torch.nn.Embedding: weight (N, I), x (T, B) -> (T, B, I).

    Negative indices are out of range. Raises ShapeError and TypeError for another weight.

    >>> import numpy as np, fastgru
    >>> fastgru.Embedding(np.eye(3, dtype=np.float32))([[2, 0]]).tolist()
    [[[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]]
    """

    __slots__ = ("_shape",)

    def __init__(self, weight: ArrayLike) -> None:
        tensors = _checked("Embedding", weight=(weight, "NI"))
        self._core, self._isa = _core.Embedding(tensors["weight"]), None
        self._shape = tensors["weight"].shape

    @property
    def num_embeddings(self) -> int:
        """N, the number of rows."""
        return int(self._shape[0])

    @property
    def output_size(self) -> int:
        """I, the length of a row."""
        return int(self._shape[1])

    @property
    def weight(self) -> Float32Array:
        """The table (N, I), a copy."""
        table: Float32Array = self._core.tensor()
        return table

    @property
    def nbytes(self) -> int:
        """Bytes of the table."""
        return 4 * self.num_embeddings * self.output_size

    def _tensors(self) -> dict[str, Float32Array]:
        return {"weight": self.weight}

    def __repr__(self) -> str:
        return f"Embedding({self.num_embeddings}, {self.output_size}: {byte_text(self.nbytes)})"


class OneHot(_Indices):
    """Indices as rows of zeros and a one, as torch.nn.functional.one_hot in float32.

    x (T, B) -> (T, B, num_classes). Negative indices are out of range.

    >>> import fastgru
    >>> fastgru.OneHot(3)([2, 0]).tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """

    __slots__ = ("_num_classes",)

    def __init__(self, num_classes: int) -> None:
        self._num_classes = positive("num_classes", num_classes)
        self._core, self._isa = _core.OneHot(self._num_classes), None

    @property
    def num_classes(self) -> int:
        """The length of a row."""
        return self._num_classes

    @property
    def output_size(self) -> int:
        """num_classes."""
        return self._num_classes

    def _options(self) -> dict[str, Any]:
        return {"num_classes": self._num_classes}


class Linear(_Rows):
    """Gives x weight^T + bias, as torch.nn.Linear: weight (O, I), bias (O,) or None, x (..., I).

    Raises ShapeError and TypeError for weights that do not fit, with every problem.

    >>> import numpy as np, fastgru
    >>> linear = fastgru.Linear([[1.0, 2.0]], [0.5])
    >>> linear(np.ones((5, 4, 2), np.float32)).shape
    (5, 4, 1)
    """

    __slots__ = ("_has_bias", "_shape")

    uses_kernels = True

    def __init__(
        self, weight: ArrayLike, bias: ArrayLike | None = None, *, _isa: str | None = None
    ) -> None:
        tensors = _checked("Linear", ["bias"], weight=(weight, "OI"), bias=(bias, "O"))
        self._core = _core.Linear(tensors["weight"], tensors.get("bias"), _isa)
        self._isa, self._shape = _isa, tensors["weight"].shape
        self._has_bias = "bias" in tensors

    @property
    def input_size(self) -> int:
        """I, in_features in torch."""
        return int(self._shape[1])

    @property
    def output_size(self) -> int:
        """O, out_features in torch."""
        return int(self._shape[0])

    @property
    def weight(self) -> Float32Array:
        """(O, I), unpacked again: the same bits."""
        return self._tensors()["weight"]

    @property
    def bias(self) -> Float32Array | None:
        """(O,), or None; unpacked again."""
        return self._tensors().get("bias")

    @property
    def nbytes(self) -> int:
        """Bytes of packed weight and bias."""
        return int(self._core.nbytes)

    def _tensors(self) -> dict[str, Float32Array]:
        weight, bias = self._core.tensors()
        return {"weight": weight} | ({} if bias is None else {"bias": bias})

    def __repr__(self) -> str:
        sizes = f"{self.input_size}, {self.output_size}{'' if self._has_bias else ', bias=False'}"
        return f"Linear({sizes}: {byte_text(self.nbytes)})"


class LayerNorm(_Rows):
    """Rows with mean 0 and variance 1, times weight, plus bias, as torch.nn.LayerNorm.

    Over the last axis: weight (I,) and bias (I,), either None for none; without both any size will
    do. Raises ShapeError and TypeError for weights that do not fit, ValueError for another `eps`
    than a finite number of at least 0.

    >>> import numpy as np, fastgru
    >>> fastgru.LayerNorm(weight=[2.0, 2.0])([1.0, 3.0]).round(3).tolist()
    [-2.0, 2.0]
    """

    __slots__ = ("_eps", "_size")

    def __init__(
        self, weight: ArrayLike | None = None, bias: ArrayLike | None = None, *, eps: float = 1e-5
    ) -> None:
        tensors = _checked("LayerNorm", ["weight", "bias"], weight=(weight, "I"), bias=(bias, "I"))
        number: object = eps
        is_number = isinstance(number, (int, float, np.floating)) and not isinstance(number, bool)
        if not is_number or not 0 <= eps <= np.finfo(np.float64).max:
            raise ValueError(f"eps: expected a finite number of at least 0, got {eps!r}")
        self._eps, self._isa = float(eps), None
        self._size = next((len(tensor) for tensor in tensors.values()), None)
        self._core = _core.LayerNorm(tensors.get("weight"), tensors.get("bias"), self._eps)

    @property
    def eps(self) -> float:
        """What is added to the variance."""
        return self._eps

    @property
    def input_size(self) -> int | None:
        """I; None without weight and bias: any."""
        return self._size

    @property
    def output_size(self) -> int | None:
        """As the input's."""
        return self._size

    @property
    def nbytes(self) -> int:
        """Bytes of weight and bias."""
        return sum(tensor.nbytes for tensor in self._tensors().values())

    def _tensors(self) -> dict[str, Float32Array]:
        both = zip(("weight", "bias"), self._core.tensors(), strict=True)
        return {name: tensor for name, tensor in both if tensor is not None}

    def _options(self) -> dict[str, Any]:
        return {"eps": self._eps}

    def __repr__(self) -> str:
        told = [str(self._size)] if self._size is not None else []
        told += [f"{name}=False" for name in ("weight", "bias") if name not in self._tensors()]
        return f"LayerNorm({', '.join([*told, f'eps={self._eps:g}'])})"


class _Activation(_Rows):
    __slots__ = ()

    uses_kernels = True
    _function: ClassVar[str]

    def __init__(self, *, _isa: str | None = None) -> None:
        self._core, self._isa = _core.Activation(self._function, _isa), _isa


class ReLU(_Activation):
    """max(x, 0), element by element; NaN stays NaN.

    >>> import fastgru
    >>> fastgru.ReLU()([-1.0, 2.0]).tolist()
    [0.0, 2.0]
    """

    __slots__ = ()
    _function = "relu"


class Tanh(_Activation):
    """tanh(x), element by element: that of the GRU, within 2e-7.

    >>> import fastgru
    >>> fastgru.Tanh()([0.0, 50.0]).tolist()
    [0.0, 1.0]
    """

    __slots__ = ()
    _function = "tanh"


class Sigmoid(_Activation):
    """1 / (1 + exp(-x)), element by element: that of the GRU, within 2e-7.

    >>> import fastgru
    >>> fastgru.Sigmoid()([0.0, 50.0]).tolist()
    [0.5, 1.0]
    """

    __slots__ = ()
    _function = "sigmoid"


class _Softmax(_Rows):
    __slots__ = ()

    uses_kernels = True
    _log: ClassVar[bool] = False

    def __init__(self, *, _isa: str | None = None) -> None:
        self._core, self._isa = _core.Softmax(self._log, _isa), _isa


class Softmax(_Softmax):
    """exp(x) / sum(exp(x)) over the last axis, as torch.nn.Softmax(dim=-1).

    -inf gives 0; NaN or +inf in a row, or nothing but -inf, makes the whole row NaN.

    >>> import fastgru
    >>> fastgru.Softmax()([[0.0, 0.0], [0.0, -float("inf")]]).tolist()
    [[0.5, 0.5], [1.0, 0.0]]
    """

    __slots__ = ()


class LogSoftmax(_Softmax):
    """The logarithm of Softmax, which does not underflow, as torch.nn.LogSoftmax(dim=-1).

    -inf stays -inf; otherwise as Softmax.

    >>> import fastgru
    >>> fastgru.LogSoftmax()([0.0, -1000.0]).tolist()
    [0.0, -1000.0]
    """

    __slots__ = ()
    _log = True
