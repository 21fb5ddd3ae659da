"""`from_keras`: models and weights that Keras saved, read without Keras and TensorFlow.

A `.keras` file is a zip archive of a config, its version, and a `.weights.h5`, an HDF5 file. Which
of the two it is the content says, never the name. Refuses what its neighbours refuse (config,
hdf5, layers), archives that Keras does not write, and running anything from a file.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

from fastgru.errors import FormatError, UnsupportedLayerError
from fastgru.formats.regular import open_regular
from fastgru.formats.window import Allowance
from fastgru.options import check_isa, check_options, positive
from fastgru.text import about, advised

if TYPE_CHECKING:
    from fastgru.formats.keras.hdf5 import Hdf5File
    from fastgru.formats.zip_directory import Member
    from fastgru.gru import GRU
    from fastgru.model import Model

_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_ADVICE = (
    "a GRU of the model can be taken by itself with prefix=..., and what surrounds it run elsewhere"
)
_MAX_JSON = 1 << 21  # of a config; one of 100 layers is 100 kB. Parsed, it may take 25 times that.


def looks_like_keras(names: Collection[str]) -> bool:
    """Whether an archive with members of these names is one that Keras writes."""
    return _CONFIG in names and any(name.startswith("model.weights.") for name in names)


def from_keras(
    path: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    prefix: str | None = None,
    reset_after: bool | None = None,
    activation: str | None = None,
    recurrent_activation: str | None = None,
    masks_as_lengths: bool = False,
    precision: str = "float32",
    num_threads: int | None = None,
    isa: str | None = None,
) -> Any:
    """Loads what Keras 2 or 3 saved: the Model of a `.keras`, the GRU of a `.weights.h5`.

    Needs neither Keras, TensorFlow nor h5py, and runs nothing from the file. Type checkers are told
    Any, since it is the file that decides: `model: fastgru.Model = ...`.

    A `.keras` gives a Model, batch_first as Keras is: x (B, T, I), or indices (B, T). It may be a
    Sequential or a Functional chain of GRU, Bidirectional(GRU), Embedding, Dense, TimeDistributed,
    LayerNormalization, Activation, ReLU, Softmax, GlobalAveragePooling1D and GlobalMaxPooling1D;
    Dropout and noise do nothing, as in Keras's predict. Calls start from zeros, also where a layer
    is stateful; `model.stream()` keeps states between calls.

    `prefix` gives one GRU alone, whatever surrounds it: branches, layers that fastgru does not
    have, classes of your own. It is the layer's name ("encoder_gru") or its path in the weights
    file, where layers are numbered by class ("layers/gru_1"), in full or from a slash on. The GRU
    gives all steps and h_n, whatever its return_sequences and return_state, and runs forwards,
    whatever its go_backwards; a Bidirectional's two directions stand side by side, whatever its
    merge_mode. Of a GRU that a layer of your own has made the config says nothing, and the
    arguments are those of a `.weights.h5`.

    A `.weights.h5` holds arrays only. With `config`, the JSON of `model.to_json()` (text, path or
    dict), it gives the Model. Without, it gives its GRU, or the one that `prefix` picks:
    `activation` and `recurrent_activation` must then be said if they are not tanh and sigmoid (in
    fastgru's names: Keras 2's hard_sigmoid is hard_sigmoid_02), and `reset_after` where there is no
    bias whose shape would tell. None means what the file says, else Keras's defaults; contradicting
    it raises FormatError.

    `masks_as_lengths`: an Embedding with mask_zero=True, or Masking, is loaded although fastgru
    has no masks. Where masked steps only pad the ends of sequences, calls with `lengths` give what
    Keras gives for all other steps. Padding inside a sequence or at its start has no such meaning.

    Raises FormatError for a damaged file, UnsupportedLayerError (listing every such layer) for what
    fastgru cannot run, ValueError for an unknown option, OSError.

    >>> import fastgru
    >>> model = fastgru.from_keras("model.keras")  # doctest: +SKIP
    >>> gru = fastgru.from_keras("model.weights.h5", prefix="layers/gru")  # doctest: +SKIP
    """
    given = {
        "reset_after": reset_after,
        "activation": activation,
        "recurrent_activation": recurrent_activation,
    }
    wanted = {name: value for name, value in given.items() if value is not None}
    check_options(**wanted, precision=precision)
    if type(masks_as_lengths) is not bool:
        raise ValueError(f"masks_as_lengths: expected True or False, got {masks_as_lengths!r}")
    if prefix is not None and not isinstance(prefix, str):
        raise TypeError(f"prefix: expected a string or None, got {prefix!r}")
    if num_threads is not None:
        positive("num_threads", num_threads)
    check_isa(isa)
    options = {"precision": precision, "num_threads": num_threads, "isa": isa}
    name = os.fspath(path)  # before open, which would take 0 for standard input
    try:
        with open_regular(name) as file:
            return _read(
                file,
                config=None if config is None else _given_config(config),
                prefix=prefix,
                wanted=wanted,
                masks_as_lengths=masks_as_lengths,
                options=options,
            )
    except (FormatError, UnsupportedLayerError) as error:
        raise type(error)(about(os.fsdecode(name), error)) from error.__cause__


def _read(
    file: BinaryIO,
    *,
    config: Mapping[str, Any] | None = None,
    prefix: str | None = None,
    wanted: Mapping[str, Any],
    masks_as_lengths: bool = False,
    options: Mapping[str, Any],
) -> GRU | Model:
    """What an open `.keras` or `.weights.h5` holds.

    `wanted`: reset_after, activation and recurrent_activation where the caller says them;
    `options`: precision, num_threads and isa. Raises FormatError and UnsupportedLayerError.
    """
    # Importing fastgru must stay fast and needs none of these.
    from fastgru.formats.keras.config import keras_version  # noqa: PLC0415
    from fastgru.formats.keras.hdf5 import MAGIC, Hdf5File  # noqa: PLC0415
    from fastgru.formats.zip_directory import sound_bytes  # noqa: PLC0415

    size = os.fstat(file.fileno()).st_size
    allowance = Allowance(size)
    file.seek(0)
    head = file.read(len(MAGIC))
    start: int = 0
    version: int | None = None
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        if config is not None:
            raise FormatError("config: a .keras file has its own, pass None with one")
        members = _members(file, size, allowance)
        config = _json(file, members[_CONFIG], _CONFIG)
        metadata = _json(file, members[_METADATA], _METADATA)
        version = keras_version(metadata.get("keras_version"))
        start, size = members[_WEIGHTS].start, members[_WEIGHTS].size
        sound_bytes(file, members[_WEIGHTS])
    elif head != MAGIC:
        raise FormatError(
            f"expected a .keras archive or a .weights.h5 (HDF5), got a file that starts with "
            f"{head!r}"
        )
    elif config is not None and "keras_version" in config:  # only Keras 2 writes it there
        version = keras_version(config["keras_version"])
    weights = Hdf5File(file, start, size, allowance)
    return _build(weights, config, version, prefix, wanted, masks_as_lengths, options)


def _build(  # noqa: PLR0917
    weights: Hdf5File,
    config: Mapping[str, Any] | None,
    version: int | None,
    prefix: str | None,
    wanted: Mapping[str, Any],
    masks_as_lengths: bool,
    options: Mapping[str, Any],
) -> GRU | Model:
    from fastgru.formats.keras.config import KERAS_2_13, read_chain, read_model  # noqa: PLC0415
    from fastgru.formats.keras.layers import Builder  # noqa: PLC0415
    from fastgru.formats.keras.one_gru import grus_text, load_one  # noqa: PLC0415
    from fastgru.formats.keras.weights import find_gru  # noqa: PLC0415

    options = {"batch_first": True, **options}
    if config is None:
        return find_gru(weights, prefix, wanted, **options)
    model = read_model(config)
    group = KERAS_2_13 if weights.is_group(KERAS_2_13) else "layers"
    if prefix is not None:
        return load_one(
            weights, model, group, prefix=prefix, keras=version, wanted=wanted, options=options
        )
    builder = Builder(weights, version, masks_as_lengths, wanted, options, options["isa"])
    try:
        return builder.model(read_chain(model, group))
    except UnsupportedLayerError as error:
        grus = grus_text(weights, model, group)
        raise UnsupportedLayerError(
            advised(error, *([f"{_ADVICE}: {grus}"] if grus else []))
        ) from error


def _given_config(config: str | os.PathLike[str] | Mapping[str, Any]) -> Mapping[str, Any]:
    from fastgru.formats.strict_json import parse_object  # noqa: PLC0415

    if isinstance(config, Mapping):
        return config
    if isinstance(config, str) and config.lstrip().startswith("{"):
        return parse_object(config, "config")
    with open_regular(os.fspath(config)) as file:
        return parse_object(file.read(), "config")


def _members(file: BinaryIO, size: int, allowance: Allowance) -> dict[str, Member]:
    """The three that matter of a `.keras`; FormatError for another archive."""
    from fastgru.formats import zip_directory  # noqa: PLC0415

    directory = zip_directory.read(file, size, allowance)
    missing = {_CONFIG, _METADATA, _WEIGHTS}.difference(e.name for e in directory.entries)
    if missing:
        raise FormatError(
            f"expected {_CONFIG}, {_METADATA} and {_WEIGHTS} in the archive, "
            f"{' and '.join(sorted(missing))} is missing"
        )
    if any(entry.method for entry in directory.entries):
        raise FormatError(
            "the archive is compressed, which Keras does not do; unpack it and pack it again with "
            "zip -0"
        )
    return zip_directory.stored_members(file, directory)


def _json(file: BinaryIO, member: Member, name: str) -> dict[str, Any]:
    from fastgru.formats.strict_json import parse_object  # noqa: PLC0415
    from fastgru.formats.zip_directory import sound_bytes  # noqa: PLC0415

    if member.size > _MAX_JSON:
        raise FormatError(f"{name}: expected at most {_MAX_JSON} bytes, got {member.size}")
    return parse_object(sound_bytes(file, member).read(member.size), name)
