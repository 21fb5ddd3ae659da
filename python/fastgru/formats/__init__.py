"""Files of trained networks: `load` knows what a file is by its content, never by its name.

A reader per format turns a file into {name: TensorSource}; the validator in spec.py does the rest.
ONNX and Keras files describe whole networks, and their readers build them.
Refuses whatever is damaged, ambiguous or would run code: one FormatError, and no partial model.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from fastgru.errors import FormatError, LayoutWarning, LeftOutWarning
from fastgru.formats.left_out import EXPORT_MODULE, LAYOUT_TEXT, is_cell, left_out, names_text
from fastgru.formats.regular import open_regular
from fastgru.gru import GRU
from fastgru.importing import importing
from fastgru.options import check_options, positive
from fastgru.precision import reduce_spec
from fastgru.spec import choose_prefix, spec_from_tensors
from fastgru.text import PROBLEM_LIMIT, about, brief, message_of, printable, report

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

    A state dict does not say whether the module was batch_first; the numbers are wrong where the
    default is. So `load` gives a LayoutWarning unless `batch_first` is passed, and the file that
    `save` then writes says that the layout was assumed. Without `prefix`, tensors beside the GRU
    that may belong to its network, such as a head's, are named in a LeftOutWarning. Python shows
    each of them once for a file; `warnings.filterwarnings("ignore", category=fastgru.LoadWarning)`
    silences them all.

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
    loaded = load_all(path, prefix, wanted, num_threads=num_threads, isa=isa)
    for category, text in warnings_of(path, loaded, prefix):
        warnings.warn(text, category, stacklevel=2)
    return loaded.model


_LAYOUT_ARGUMENTS = ("batch_first=True", "batch_first=False")
_KEEP_IN_PYTHON = (
    "build the whole module in Python with torch and save fastgru.from_torch(module), or make a "
    "fastgru.Model of its layers"
)


class Loaded(NamedTuple):
    """What `load` gives, and what it leaves out."""

    model: GRU | Model
    prefix: str = ""
    """What stands before the GRU's names in a state dict."""
    left_out: Mapping[str, tuple[int, ...]] = {}
    """Tensors of a state dict beside the GRU that may belong to its network, with shapes."""

    @property
    def assumed(self) -> tuple[str, ...]:
        """Options of a GRU that neither the file nor the caller said."""
        return self.model._assumed if isinstance(self.model, GRU) else ()


def load_all(
    path: str | os.PathLike[str],
    prefix: str | None,
    wanted: Mapping[str, Any],
    *,
    num_threads: int | None = None,
    isa: str | None = None,
) -> Loaded:
    """As `load`, without warnings. `wanted`: the options that the caller gave, by name."""
    check_options(**wanted)
    if num_threads is not None:
        positive("num_threads", num_threads)
    with opened(path, prefix) as contents:
        if not contents.is_foreign:
            model = model_of(contents, wanted, num_threads=num_threads, isa=isa)
            if contents.description is not None:
                return Loaded(model)
            found = choose_prefix(contents.tensors, contents.prefix)
            return Loaded(model, found, left_out(contents.tensors, found))
    return Loaded(
        _of_another_program(path, contents, prefix, wanted, num_threads=num_threads, isa=isa)
    )


def warnings_of(
    path: str | os.PathLike[str], loaded: Loaded, prefix: str | None, *, by_command: bool = False
) -> Iterator[tuple[type[Warning], str]]:
    """What a caller who gave `prefix` should be warned of; `by_command`: of the command line."""
    name = printable(os.fsdecode(os.fspath(path)), PROBLEM_LIMIT)
    if "batch_first" in loaded.assumed:
        layouts = ("--batch-first", "--no-batch-first") if by_command else _LAYOUT_ARGUMENTS
        yield LayoutWarning, f"{name}: {LAYOUT_TEXT}; pass {' or '.join(layouts)}"
    if prefix is None and loaded.left_out:
        keep = f"fastgru {EXPORT_MODULE}" if by_command else _KEEP_IN_PYTHON
        alone = f"{'--prefix ' if by_command else 'prefix='}{brief(loaded.prefix)}"
        text = (
            f"{name}: only the GRU was loaded; left out: {names_text(loaded.left_out)}. To keep "
            f"them, {keep}; to have the GRU alone, pass {alone}"
        )
        yield LeftOutWarning, text


@contextlib.contextmanager
def opened(path: str | os.PathLike[str], prefix: str | None) -> Iterator[Contents]:
    """What stands in a file, while it is open; a FormatError in here is told with its name."""
    with importing():  # importing fastgru is fast
        from fastgru.formats.contents import look_into  # noqa: PLC0415

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
    with importing():
        from fastgru.formats import model_file, native  # noqa: PLC0415

    description, tensors, prefix = contents.description, contents.tensors, contents.prefix
    options = dict(wanted)
    precision = options.get("precision", "float32")
    assumed = tuple(name for name in contents.assumed if name not in wanted)
    if description is None:
        if is_cell(tensors, choose_prefix(tensors, prefix)):
            assumed = tuple(name for name in assumed if name != "batch_first")
        options.pop("precision", None)
        batch_first = options.pop("batch_first", False)
        spec = spec_from_tensors(tensors, prefix=prefix, **options)
    elif description["kind"] == "model":
        return model_file.read(
            description, tensors, wanted=wanted, prefix=prefix, num_threads=num_threads, isa=isa
        )
    else:
        # What was only assumed contradicts nobody.
        said = {name: wanted[name] for name in contents.assumed if name in wanted}
        description = description | said
        batch_first = description["batch_first"]
        if description["precision"] == "float32":  # to be reduced, no contradiction
            options.pop("precision", None)
        native.check_contradictions(description, options, prefix)
        spec = native.read_spec(description, tensors)
    try:
        spec = reduce_spec(spec, precision)
    except ValueError as error:  # of weights that int8 cannot hold
        raise FormatError(message_of(error)) from error
    return GRU(
        spec, batch_first=bool(batch_first), num_threads=num_threads, isa=isa, assumed=assumed
    )


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
    with importing():
        from fastgru.formats.contents import ONNX  # noqa: PLC0415

    said = dict(wanted)  # what the reader does not ask for
    how: dict[str, Any] = {"num_threads": num_threads, "isa": isa}
    how["precision"] = said.pop("precision", "float32")
    problems = []
    model: GRU | Model
    if contents.format == ONNX:
        with importing():
            from fastgru.formats.onnx.file import from_onnx  # noqa: PLC0415

        if "reset_after" in said:
            how["reset_after"] = said.pop("reset_after")
        model = from_onnx(path, **how)
        if prefix:
            problems.append(f"prefix: an ONNX file has none, the argument {prefix!r}")
    else:
        with importing():
            from fastgru.formats.keras.file import from_keras  # noqa: PLC0415

        equation = ("reset_after", "activation", "recurrent_activation")
        how |= {name: said.pop(name) for name in equation if name in said}
        model = from_keras(path, prefix=prefix, **how)
        if isinstance(model, GRU):  # of a file of weights alone
            model._assumed = tuple(name for name in contents.assumed if name not in wanted)
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
