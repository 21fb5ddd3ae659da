"""What the globals in a torch.save file stand for: tensors, storages, containers and numbers.

A tensor is only described here, as the file describes it: strided.py judges and reads it. Tensors
without real numbers of their own (sparse, quantized, nested, meta) and NumPy's arrays become an
`Other`, and a tensor that is made of or by something foreign becomes a `StandIn`: both stop nobody
who does not need them. Knows no other global. Refuses arguments that make no sense.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastgru.errors import FormatError
from fastgru.formats.pickle_values import Dict, Global, Other, StandIn
from fastgru.formats.window import Allowance

ITEM_SIZES = {
    "float32": 4,
    "float64": 8,
    "float16": 2,
    "bfloat16": 2,
    "complex32": 4,
    "complex64": 8,
    "complex128": 16,
    "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
    "float4_e2m1fn_x2": 1,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "uint8": 1,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
    "bool": 1,
    "qint8": 1,
    "quint8": 1,
    "qint32": 4,
    "quint4x2": 1,
    "quint2x4": 1,
}
_STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "CharStorage": "int8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
    "UntypedStorage": "uint8",
    "_UntypedStorage": "uint8",
}
_STORAGE_DTYPES = {
    f"{module}.{name}": dtype
    for module in ("torch", "torch.cuda", "torch.storage")
    for name, dtype in _STORAGES.items()
}
_DTYPES = {f"torch.{name}": name for name in ITEM_SIZES}
_NUMPY = [
    f"numpy.{core}.{name}"
    for core in ("core", "_core")
    for name in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
]
_ODD_TENSORS = {
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_sparse_csr_tensor": "a sparse tensor",
    "torch._utils._rebuild_qtensor": "a quantized tensor",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a meta tensor, which has no data",
    "torch._utils._rebuild_device_tensor_from_numpy": "a tensor of another device",
    "torch._utils._rebuild_xla_tensor": "a tensor of another device",
    "torch.nn.parameter.UninitializedParameter": "an uninitialized parameter",
    "torch.nn.parameter.UninitializedBuffer": "an uninitialized buffer",
}
_OTHERS = {
    "torch.serialization._get_layout": "a layout",
    "torch.device": "a device",
    "torch.Tensor": "a class",
    "torch.torch_version.TorchVersion": "a version",
    **{
        f"torch.per_{name}": "a quantization scheme"
        for name in (
            *("tensor_affine", "tensor_symmetric", "channel_affine", "channel_symmetric"),
            "channel_affine_float_qparams",
        )
    },
    **dict.fromkeys(_NUMPY, "a NumPy array"),
    "numpy.ndarray": "a NumPy array",
    "numpy.dtype": "a NumPy dtype",
    **{
        f"builtins.{name}": "a Python object"
        for name in (
            *("bool", "int", "float", "complex", "str", "bytes", "bytearray", "list", "tuple"),
            *("dict", "set", "frozenset", "slice", "range", "long", "unicode", "xrange"),
        )
    },
    "_codecs.encode": "bytes",
    "collections.Counter": "a Counter",
}


@dataclass(frozen=True, slots=True)
class Storage:
    """`count` elements of `dtype` that the file keeps under `key`, seen from `begin` to `end`."""

    key: str
    dtype: str
    count: int
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.count * ITEM_SIZES[self.dtype]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as the file describes it; nothing but the storage and the dtype is checked yet."""

    storage: Storage
    dtype: str
    offset: Any
    size: Any
    stride: Any


class TorchObjects:
    """The Meaning of torch.save's pickles. `storages`: those that were named, by their keys."""

    def __init__(self, allowance: Allowance) -> None:
        self.foreign: dict[str, None] = {}
        self.storages: dict[str, Storage] = {}
        self.allowance = allowance

    def knows(self, name: str) -> bool:
        return any(name in table for table in _TABLES)

    def call(self, name: str, args: tuple[Any, ...]) -> Any:
        self.allowance.take(200)
        while name in _OF_A_CLASS:  # (function, class, its arguments, state)
            if len(args) < 3 or type(args[2]) is not tuple:
                raise FormatError(f"{name}: arguments that make no sense")
            function, kind, args = args[:3]
            for part in (function, kind):
                if type(part) not in (Global, StandIn):
                    raise FormatError(f"{name}: arguments that make no sense")
                if type(part) is StandIn or not self.knows(part.name):
                    return StandIn(part.name)  # who knows what its numbers mean
            name = function.name
        if name in _ODD_TENSORS:
            return Other(_ODD_TENSORS[name], is_tensor=True)
        make = _CALLS.get(name)
        if make is None:
            return Other(_OTHERS.get(name, "an object"))
        try:
            value = make(*args)
        except TypeError as error:  # too few arguments, or too many
            foreign = next((value for value in args if type(value) is StandIn), None)
            if foreign is None:
                raise FormatError(f"{name}: arguments that make no sense") from error
            value = foreign
        if type(value) is Dict:
            self.allowance.take(24 * len(value.flat))
        return value

    def persistent(self, identity: Any) -> Any:
        parts = identity if type(identity) is tuple else ()
        if len(parts) >= 2 and parts[0] == "module":  # a class, and its source
            return parts[1]
        if not (5 <= len(parts) <= 6 and parts[0] == "storage" and type(parts[2]) is str):
            raise FormatError("a storage that is named in no known way")
        _, kind, key, _location, count, *view = parts
        dtype = _STORAGE_DTYPES.get(kind.name) if type(kind) is Global else None
        if dtype is None or type(count) is not int or count < 0:
            raise FormatError(f"storage {key[:50]!r}: a type or a size that makes no sense")
        begin, end = _view(view[0] if view else None, count, key)
        self.allowance.take(300)
        storage = Storage(key, dtype, count, begin, end)
        first = self.storages.setdefault(key, storage)
        if storage.nbytes != first.nbytes:
            raise FormatError(f"storage {key[:50]!r}: two sizes")
        return storage


def _view(view: Any, count: int, key: str) -> tuple[int, int]:
    """What old files see of a storage: (key of the view, offset, size)."""
    if view is None:
        return 0, count
    if type(view) is tuple and len(view) == 3:
        _, begin, size = view
        if type(begin) is int and type(size) is int and 0 <= begin <= begin + size <= count:
            return begin, begin + size
    raise FormatError(f"storage {key[:50]!r}: a view that makes no sense")


def _ordered_dict(pairs: Any = ()) -> Dict:
    """Python 2 gives the pairs to the class, each a list; Python 3 sets them afterwards."""
    flat: list[Any] = []
    if type(pairs) not in (list, tuple):
        raise TypeError
    for pair in pairs:
        if type(pair) not in (list, tuple) or len(pair) != 2:
            raise TypeError
        flat.extend(pair)
    return Dict(flat)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Any:
    """requires_grad and hooks may follow, and bits such as that all signs are to be turned."""
    for part in (storage, offset, size, stride):
        if type(part) is StandIn:
            return part
    if type(storage) is not Storage or len(rest) > 3:
        raise TypeError
    if len(rest) == 3 and rest[2] and not (type(rest[2]) is Dict and not rest[2].flat):
        return Other("a tensor that is to be negated or conjugated", is_tensor=True)
    return Tensor(storage, storage.dtype, offset, size, stride)


def _tensor_of_dtype(*args: Any) -> Any:
    """For dtypes that have no storage class, the seventh argument: the storage is of bytes."""
    tensor = _tensor(*args[:6], *args[7:])
    name = _DTYPES.get(args[6].name) if len(args) > 6 and type(args[6]) is Global else None
    if name is None or type(tensor) is not Tensor:
        return (
            tensor
            if type(tensor) is StandIn
            else Other("a tensor of an unknown dtype", is_tensor=True)
        )
    return Tensor(tensor.storage, name, tensor.offset, tensor.size, tensor.stride)


def _of_device(tensor: Any, dtype: Any, *rest: Any) -> Any:
    """A copy in CPU memory of what was on a TPU, say."""
    same = (
        type(dtype) is Global and type(tensor) is Tensor and dtype.name == f"torch.{tensor.dtype}"
    )
    return (
        tensor
        if same or type(tensor) is StandIn
        else Other("a tensor of another device", is_tensor=True)
    )


def _first(value: Any, *rest: Any) -> Any:
    """A parameter is its tensor, and a torch.Size its tuple."""
    return value


_OF_A_CLASS = {
    "torch._tensor._rebuild_from_type_v2",
    "torch._tensor._rebuild_from_type",
    "torch.tensor._rebuild_from_type_v2",
    "torch.tensor._rebuild_from_type",
}
_CALLS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(_OF_A_CLASS, _first),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _of_device,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch.nn.parameter.Parameter": _first,
    "torch.Size": _first,
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": lambda *args: Dict([]),
    "collections.deque": lambda *args: [],
}
_TABLES = (_CALLS, _OTHERS, _ODD_TENSORS, _STORAGE_DTYPES, _DTYPES)
