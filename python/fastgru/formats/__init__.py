"""Files of trained networks: `load` knows what a file is by its content, never by its name.

A reader per format turns a file into {name: TensorSource}; the validator in spec.py does the rest.
Refuses whatever is damaged, ambiguous or would run code: one FormatError, and no partial model.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, BinaryIO

from fastgru.errors import FormatError
from fastgru.formats.regular import open_regular
from fastgru.gru import GRU
from fastgru.options import check_options, positive
from fastgru.precision import reduce_spec
from fastgru.spec import spec_from_tensors

if TYPE_CHECKING:
    from fastgru.model import Model

_OTHERS = {
    b"\x89HDF": "an HDF5 file (Keras), which is not read yet",
    b"\x93NUMPY": "a single .npy array; an .npz file holds named ones",
}


def load(
    path: str | os.PathLike[str],
    *,
    prefix: str | None = None,
    batch_first: bool | None = None,
    reset_after: bool | None = None,
    activation: str | None = None,
    recurrent_activation: str | None = None,
    precision: str | None = None,
    num_threads: int | None = None,
    isa: str | None = None,
) -> Any:
    """Loads a GRU: fastgru's native file, or a state dict as safetensors, `.npz` or `.pt`.

    A native file of a Model gives the Model, and the options are those of its GRUs. Which of the
    two it is the file says, so that type checkers are told Any: `gru: fastgru.GRU = ...`.

    None means what the file says, and where it says nothing (a bare state dict) PyTorch's default.
    `precision` reduces what is stored in float32, as `GRU.to` does; a reduced file loads as it is.
    `prefix="encoder.rnn."` picks one GRU of several; the other options are those of
    `GRU.from_state_dict`. A `.pt` (torch.save) is read without torch and without running anything
    that it names; the state dict may stand anywhere in a checkpoint, and `prefix` may leave out the
    way to it. Raises FormatError (listing every problem) for a file that does not hold a sound GRU
    or says something else than the options, ValueError for an unknown option, OSError
    (FileNotFoundError, IsADirectoryError) if it cannot be read.

    >>> import numpy as np, fastgru
    >>> np.savez("weights.npz", weight_ih_l0=np.ones((6, 3), np.float32),
    ...                         weight_hh_l0=np.ones((6, 2), np.float32))
    >>> fastgru.load("weights.npz", batch_first=True).batch_first
    True
    """
    given = {
        "batch_first": batch_first,
        "reset_after": reset_after,
        "activation": activation,
        "recurrent_activation": recurrent_activation,
        "precision": precision,
    }
    wanted = {name: value for name, value in given.items() if value is not None}
    check_options(**wanted)
    if num_threads is not None:
        positive("num_threads", num_threads)
    name = os.fspath(path)  # before open, which would take 0 for standard input
    try:
        with open_regular(name) as file:
            return _read(file, prefix, wanted, num_threads, isa)
    except FormatError as error:
        raise FormatError(f"{os.fsdecode(name)}: {error}") from error.__cause__


def _read(
    file: BinaryIO,
    prefix: str | None,
    wanted: dict[str, Any],
    num_threads: int | None,
    isa: str | None,
) -> GRU | Model:
    # Importing fastgru must stay fast and needs none of these.
    from fastgru.formats import native, npz_file, safetensors_file, torch_file  # noqa: PLC0415

    head = file.read(9)
    description = None
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06") and head[8:] != b"{":
        tensors, prefix = torch_file.read_zip(file, prefix) or (npz_file.read(file), prefix)
    elif head[8:] == b"{":
        tensors, metadata = safetensors_file.read(file)
        if native.KEY in metadata:
            description = native.parse(metadata[native.KEY])
    elif head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        tensors, prefix = torch_file.read_chain(file, prefix)
    else:
        raise FormatError(_what_it_is(head + file.read(512)))
    options: dict[str, Any] = {
        "batch_first": False,
        "reset_after": True,
        "activation": "tanh",
        "recurrent_activation": "sigmoid",
        "precision": "float32",
    }
    if description is None:
        options.update(wanted)
        precision, batch_first = options.pop("precision"), options.pop("batch_first")
        spec = spec_from_tensors(tensors, prefix=prefix, **options)
    elif description["kind"] == "model":
        from fastgru.formats import model_file  # noqa: PLC0415

        return model_file.read(
            description, tensors, wanted=wanted, prefix=prefix, num_threads=num_threads, isa=isa
        )
    else:
        precision, batch_first = "float32", description["batch_first"]
        if description["precision"] == "float32":  # to be reduced, no contradiction
            precision = wanted.pop("precision", "float32")
        native.check_contradictions(description, wanted, prefix)
        spec = native.read_spec(description, tensors)
    try:
        spec = reduce_spec(spec, precision)
    except ValueError as error:  # of weights that int8 cannot hold
        raise FormatError(str(error)) from error
    return GRU(spec, batch_first=bool(batch_first), num_threads=num_threads, isa=isa)


def _what_it_is(head: bytes) -> str:
    if not head:
        return "the file is empty"
    if head[257:262] == b"ustar":
        return (
            "a tar file (torch.save before 0.1.10?), which is not read; load it with an old torch "
            "and save it again"
        )
    other = next((text for magic, text in _OTHERS.items() if head.startswith(magic)), None)
    what = other or f"one that starts with {head[:9]!r}"
    return f"expected a safetensors, .npz or .pt file, got {what}"
