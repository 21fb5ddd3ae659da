"""Files of trained networks: `load` knows what a file is by its content, never by its name.

A reader per format turns a file into {name: TensorSource}; the validator in spec.py does the rest.
ONNX and Keras files describe whole networks, and their readers build them.
Refuses whatever is damaged, ambiguous or would run code: one FormatError, and no partial model.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fastgru.errors import FormatError
from fastgru.formats.regular import open_regular
from fastgru.gru import GRU
from fastgru.options import check_options, positive
from fastgru.precision import reduce_spec
from fastgru.spec import spec_from_tensors
from fastgru.text import about, message_of, report

if TYPE_CHECKING:
    from fastgru.formats.contents import Contents
    from fastgru.model import Model


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
    """Loads a GRU, or a Model, from any file that fastgru reads; its content says which.

    fastgru's native file; a state dict as safetensors, `.npz` or `.pt` (torch.save), which gives a
    GRU; a file of Keras (`from_keras` tells more), or of ONNX (`from_onnx`, extra `onnx`). Type
    checkers are told Any: `gru: fastgru.GRU = fastgru.load(...)`.

    None means what the file says, and where it says nothing (a bare state dict) PyTorch's default.
    `precision` reduces what is stored in float32, as `GRU.to` does; a reduced file loads as it is.
    `prefix="encoder.rnn."` picks one GRU of several; the other options are those of
    `GRU.from_state_dict`, and of a Model's GRUs. A `.pt` is read without torch and without running
    anything that it names; the state dict may stand anywhere in a checkpoint, and `prefix` may
    leave out the way to it.

    Raises FormatError (listing every problem) for a file that does not hold a sound network or says
    something else than the options, UnsupportedLayerError for one with a layer that fastgru does
    not have, ImportError without the extra, ValueError for an unknown option, OSError
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
    with opened(path, prefix) as contents:
        if not contents.is_foreign:
            return model_of(contents, wanted, num_threads=num_threads, isa=isa)
    return _of_another_program(path, contents, prefix, wanted, num_threads=num_threads, isa=isa)


@contextlib.contextmanager
def opened(path: str | os.PathLike[str], prefix: str | None) -> Iterator[Contents]:
    """What stands in a file, while it is open; a FormatError in here is told with its name."""
    from fastgru.formats.contents import look_into  # noqa: PLC0415  (importing fastgru is fast)

    name = os.fspath(path)  # before open, which would take 0 for standard input
    try:
        with open_regular(name) as file:
            yield look_into(file, prefix)
    except FormatError as error:
        raise FormatError(about(os.fsdecode(name), error)) from error.__cause__


def model_of(
    contents: Contents,
    wanted: Mapping[str, Any],
    *,
    num_threads: int | None = None,
    isa: str | None = None,
) -> GRU | Model:
    """The model of a native file, or the GRU of a state dict; FormatError.

    `wanted`: the options of `load` that the caller gave, which are sound.
    """
    from fastgru.formats import model_file, native  # noqa: PLC0415

    description, tensors, prefix = contents.description, contents.tensors, contents.prefix
    options = dict(wanted)
    precision = options.get("precision", "float32")
    if description is None:
        options.pop("precision", None)
        batch_first = options.pop("batch_first", False)
        spec = spec_from_tensors(tensors, prefix=prefix, **options)
    elif description["kind"] == "model":
        return model_file.read(
            description, tensors, wanted=wanted, prefix=prefix, num_threads=num_threads, isa=isa
        )
    else:
        batch_first = description["batch_first"]
        if description["precision"] == "float32":  # to be reduced, no contradiction
            options.pop("precision", None)
        native.check_contradictions(description, options, prefix)
        spec = native.read_spec(description, tensors)
    try:
        spec = reduce_spec(spec, precision)
    except ValueError as error:  # of weights that int8 cannot hold
        raise FormatError(message_of(error)) from error
    return GRU(spec, batch_first=bool(batch_first), num_threads=num_threads, isa=isa)


def _of_another_program(
    path: str | os.PathLike[str],
    contents: Contents,
    prefix: str | None,
    wanted: Mapping[str, Any],
    *,
    num_threads: int | None,
    isa: str | None,
) -> GRU | Model:
    """The model of an ONNX or Keras file, whose readers open it themselves."""
    from fastgru.formats.contents import ONNX  # noqa: PLC0415

    said = dict(wanted)  # what the reader does not ask for
    how: dict[str, Any] = {"num_threads": num_threads, "isa": isa}
    how["precision"] = said.pop("precision", "float32")
    problems = []
    model: GRU | Model
    if contents.format == ONNX:
        from fastgru.formats.onnx.file import from_onnx  # noqa: PLC0415

        model = from_onnx(path, **how)
        if prefix:
            problems.append(f"prefix: an ONNX file has none, the argument {prefix!r}")
    else:
        from fastgru.formats.keras.file import from_keras  # noqa: PLC0415

        equation = ("reset_after", "activation", "recurrent_activation")
        how |= {name: said.pop(name) for name in equation if name in said}
        model = from_keras(path, prefix=prefix, **how)
    for gru in [model] if isinstance(model, GRU) else model._grus():
        problems += [
            f"{name}: the file says {getattr(gru, name)!r}, the argument {value!r}"
            for name, value in said.items()
            if value != getattr(gru, name)
        ]
    if problems:
        problems = list(dict.fromkeys(problems))  # several GRUs say the same
        raise FormatError(about(os.fsdecode(path), report("contradiction", problems)))
    return model
