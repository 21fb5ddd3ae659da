"""Files of torch.save (`.pt`, `.pth`) -> named tensors, without torch and without running anything.

Both containers: the zip archive of torch 1.6 and later, and the chain of pickles before it. A
state dict may stand anywhere in a checkpoint. Tensor data is read when a TensorSource's `read` is
called, straight from the file. Objects beside the tensors are never made, and stop nobody. Refuses
TorchScript archives; pickles that name what only an attack names; files whose tensors are all
inside of objects, such as a pickled module; big-endian files; and damage: one FormatError.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from fastgru.arrays import Float32Array, TensorSource
from fastgru.errors import FormatError
from fastgru.formats import zip_directory
from fastgru.formats.checkpoint import GRU_LIKE, find_prefix, flatten, kind_of
from fastgru.formats.pickle_reader import HostileGlobals, read_pickle
from fastgru.formats.pickle_values import Dict, Other
from fastgru.formats.strided import CODES, element_span, read_float32
from fastgru.formats.torch_objects import ITEM_SIZES, Storage, Tensor, TorchObjects
from fastgru.formats.window import Allowance, Window
from fastgru.formats.zip_directory import Member
from fastgru.spec import seen
from fastgru.text import about, listed, report

_PICKLE = "data.pkl"
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_MAX_PROBLEMS = 12
_ADVICE = (
    "in Python with torch, save model.state_dict() instead: torch.save(model.state_dict(), path)"
)
_HOSTILE_ADVICE = (
    "training programs do not need that in a checkpoint, so ask whoever made the file, and do not "
    "give it to torch.load without weights_only=True. If it is your own"
)

Named = tuple[dict[str, TensorSource], str | None]
StartOf = Callable[[Storage], int]  # the byte where a storage's data starts, or FormatError


def read_zip(file: BinaryIO, prefix: str | None) -> Named | None:
    """The tensors of a zip archive, and `prefix` in full; None if torch.save did not write it.

    Raises FormatError, also for a damaged archive of any program.
    """
    size = os.fstat(file.fileno()).st_size
    allowance = Allowance(size)
    directory = zip_directory.read(file, size, allowance)
    names = [entry.name for entry in directory.entries]
    pickles = [name for name in names if name.rpartition("/")[2] == _PICKLE]
    if not pickles:
        return None
    if len(pickles) > 1:
        raise FormatError(f"expected one {_PICKLE} in the archive, got {len(pickles)}")
    root = pickles[0].removesuffix(_PICKLE)
    if any(name == f"{root}constants.pkl" or name.startswith(f"{root}code/") for name in names):
        raise FormatError(
            "a TorchScript archive (torch.jit.save), which holds a program; "
            "in Python with torch, torch.save(torch.jit.load(path).state_dict(), new_path)"
        )
    members = zip_directory.stored_members(file, directory)
    order = members.get(f"{root}byteorder")
    if order is not None:
        text = _checked(file, order).read(min(order.size, 10))
        _require_little_endian(text == b"little")
    window = _checked(file, members[pickles[0]])
    objects = TorchObjects(allowance)
    value = _read(window, objects, allowance)
    sound: set[str] = set()  # keys of storages whose checksums are right

    def start_of(storage: Storage) -> int:
        member = members.get(f"{root}data/{storage.key}")
        if member is None:
            raise FormatError(f"its storage {storage.key[:50]!r} is not in the archive")
        if member.size != storage.nbytes:
            raise FormatError(f"expected a storage of {storage.nbytes} bytes, got {member.size}")
        if storage.key not in sound:
            _checked(file, member)
            sound.add(storage.key)
        return member.start

    return _sources(value, objects, file, start_of, prefix)


def read_chain(file: BinaryIO, prefix: str | None) -> Named:
    """The tensors of a file of torch before 1.6, and `prefix` in full; FormatError.

    Such a file is a chain of pickles (a magic number, a version, facts about the system, the value,
    the storages' keys), then for each storage the number of its elements and its data.
    """
    size = os.fstat(file.fileno()).st_size
    allowance = Allowance(size)
    window = Window(file, 0, size)
    objects = TorchObjects(allowance)
    try:
        magic = read_pickle(window, objects, allowance)
    except FormatError as error:
        raise FormatError(f"a Python pickle that torch.save did not write: {error}") from error
    if type(magic) is not int or magic != _MAGIC:
        raise FormatError(f"a Python pickle that torch.save did not write; {_ADVICE}")
    version, system = (_read(window, objects, allowance) for _ in range(2))
    if type(version) is not int or version != _PROTOCOL:
        raise FormatError(f"torch.save's protocol: expected {_PROTOCOL}, got another one")
    facts = system.pairs() if type(system) is Dict else ()
    _require_little_endian(any(key == "little_endian" and fact is True for key, fact in facts))
    value = _read(window, objects, allowance)
    starts = _starts(window, _read(window, objects, allowance), objects.storages, size)

    def start_of(storage: Storage) -> int:
        if storage.key not in starts:
            raise FormatError(f"its storage {storage.key[:50]!r} is not in the file")
        return starts[storage.key]

    return _sources(value, objects, file, start_of, prefix)


def _starts(window: Window, keys: Any, storages: dict[str, Storage], size: int) -> dict[str, int]:
    """Where each storage's data starts; behind the last one the file must end."""
    starts: dict[str, int] = {}
    if type(keys) is not list:
        raise FormatError("damaged torch.save file: expected the list of its storages")
    for key in keys:
        storage = storages.get(key) if type(key) is str else None
        if storage is None or key in starts:
            raise FormatError("damaged torch.save file: its list of storages makes no sense")
        try:
            count = int.from_bytes(window.read(8), "little")
            if count != storage.count:
                raise FormatError(f"expected {storage.count} elements, got {count}")
            starts[key] = window.position
            window.skip(storage.nbytes)
        except FormatError as error:
            raise FormatError(f"damaged torch.save file: storage {key[:50]!r}: {error}") from error
    if window.position != size:
        raise FormatError(f"damaged torch.save file: {size - window.position} bytes follow it")
    return starts


def _read(window: Window, objects: TorchObjects, allowance: Allowance) -> Any:
    try:
        return read_pickle(window, objects, allowance)
    except HostileGlobals as error:
        raise FormatError(
            f"it holds more than tensors, containers and numbers, which fastgru does not run: "
            f"{error}; {_HOSTILE_ADVICE}, {_ADVICE}"
        ) from error
    except FormatError as error:
        raise FormatError(f"the pickle in the torch.save file: {error}") from error


def _require_little_endian(is_little: bool) -> None:
    if not is_little:
        raise FormatError(
            "byte order: expected little-endian numbers, the file says something else; "
            "load and save it again with torch on this machine"
        )


def _checked(file: BinaryIO, member: Member) -> Window:
    # 0: torch.serialization.set_crc32_options(False)
    return zip_directory.sound_bytes(file, member, unset=(0,))


def _sources(
    value: Any, objects: TorchObjects, file: BinaryIO, start_of: StartOf, prefix: str | None
) -> Named:
    """All that the validator may want; other tensors are not looked into."""
    checkpoint = flatten(value, objects.allowance)
    if objects.foreign and not checkpoint.tops:
        raise FormatError(_only_in_objects(list(checkpoint.values), list(objects.foreign)))
    sources, problems = {}, []
    for name, found in checkpoint.values.items():
        if type(found) is not Tensor:
            no_tensor = not (type(found) is Other and found.is_tensor)
            sources[name] = TensorSource((), kind_of(found), False, _nothing, no_tensor)
            continue
        if not GRU_LIKE.search(name):
            sources[name] = TensorSource(_claimed_shape(found), found.dtype, False, _nothing)
            continue
        try:
            sources[name] = _source(name, found, file, start_of, objects.allowance)
        except FormatError as error:
            problems.append(about(name, error))
        if len(problems) == _MAX_PROBLEMS:
            break
    if problems:
        raise FormatError(report("the torch.save file", problems))
    return sources, find_prefix(checkpoint, prefix)


def _only_in_objects(names: list[str], objects: list[str]) -> str:
    """A GRU may be in the file, but not by the names of plain tensors: a pickled module, say."""
    objects_text = f"objects, which fastgru does not make: {listed(objects)}"
    if not names:
        return f"it holds no plain tensors, but {objects_text}; {_ADVICE}"
    return (
        "no GRU found: no plain tensor's name ends in weight_ih_l0 or weight_hh_l0; "
        f"{seen(names)}. The file also holds {objects_text}; "
        f"if the GRU is in one of them, {_ADVICE}"
    )


def _source(
    name: str, tensor: Tensor, file: BinaryIO, start_of: StartOf, allowance: Allowance
) -> TensorSource:
    storage, item = tensor.storage, ITEM_SIZES[tensor.dtype]
    scale = ITEM_SIZES[storage.dtype]  # of a tensor of bytes that are another dtype it is 1
    count = (storage.end - storage.begin) * scale // item
    shape = element_span(tensor.offset, tensor.size, tensor.stride, count)
    if tensor.dtype not in CODES:
        return TensorSource(shape, tensor.dtype, False, _nothing)
    start = start_of(storage) + storage.begin * scale + tensor.offset * item

    def read() -> Float32Array:
        allowance.take(4 * math.prod(shape))
        try:
            return read_float32(file, start, tensor.dtype, shape, tensor.stride)
        except FormatError as error:
            raise FormatError(about(name, error)) from error

    return TensorSource(shape, tensor.dtype, True, read)


def _claimed_shape(tensor: Tensor) -> tuple[int, ...]:
    """Of a tensor that nobody will read; () where it makes no sense."""
    try:
        return element_span(tensor.offset, tensor.size, tensor.stride, tensor.storage.count)
    except FormatError:
        return ()


def _nothing() -> Float32Array:
    return np.zeros((), np.float32)
