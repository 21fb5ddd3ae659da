"""The GRU of a Keras model that `prefix` picks, whatever surrounds it.

The weights file tells which GRUs there are. The config is asked for the one that is picked, and for
nothing else: how the layers around it are connected, and what they are, does not matter. A GRU that
no config describes, in a layer that is a program, is read from the weights alone. Refuses to choose
between several, and classes that are no GRU of Keras's although their weights have the shapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fastgru.errors import FormatError, UnsupportedLayerError
from fastgru.formats.keras.config import MAX_DEPTH, MODELS, KerasLayer, layer_of, layers_in
from fastgru.formats.keras.gru import read_gru
from fastgru.formats.keras.hdf5 import Hdf5File
from fastgru.formats.keras.weights import GrusInWeights, found_text, is_called, pick, read_alone
from fastgru.gru import GRU
from fastgru.text import about, brief

_RECURRENT = ("GRU", "Bidirectional", "RNN")
_LONGEST_NAME = 100  # of a layer or an attribute; paths are made of as many as there are levels


@dataclass(frozen=True)
class _Described:
    """A layer that the config describes; `outer`: the names of the layers that it stands in."""

    layer: KerasLayer
    outer: tuple[str, ...]

    def name(self) -> list[str]:
        """What the layer is called, behind the names of what it stands in; none without a name."""
        return ["/".join((*self.outer, name)) for name in [_name_in(self.layer.config)] if name]

    def inner_names(self) -> list[str]:
        """What the GRU in a Bidirectional is called, which Keras renames to forward_NAME."""
        inner = self.layer.config.get("layer") if self.layer.kind == "Bidirectional" else None
        config = inner.get("config") if isinstance(inner, dict) else None
        name = _name_in(config) if isinstance(config, dict) else ""
        return [name, name.removeprefix("forward_")] if name else []


def load_one(
    weights: Hdf5File,
    model: KerasLayer,
    group: str,
    *,
    prefix: str,
    keras: int | None,
    wanted: Mapping[str, Any],
    options: Mapping[str, Any],
) -> GRU:
    """The GRU at the path, or of the layer's name, that `prefix` is.

    `group`: what the weights file calls a model's layers. `keras`, `wanted` and `options` are
    `read_gru`'s. Raises FormatError for no such GRU and for several, UnsupportedLayerError for one
    that computes something else than fastgru's.
    """
    there = GrusInWeights(weights)
    described = _recurrent(model, group, weights, there)
    names = {path: described[path].name() if path in described else [] for path in there.paths}
    path = pick(prefix, names, there.text(), _second_choice(described, there, prefix))
    if path not in described:
        return read_alone(there, path, wanted, **options)
    layer = described[path].layer
    try:
        if layer.own:
            raise UnsupportedLayerError(
                f"a class of its own ({layer.own}), which is a program; if it computes what "
                "Keras's GRU computes, model.save_weights('m.weights.h5') writes a file from which "
                f"prefix={brief(path)} loads it, with the activations as arguments"
            )
        return read_gru(layer, weights, keras, wanted, options)
    except (FormatError, UnsupportedLayerError) as error:
        raise type(error)(about(layer.where, error)) from error


def grus_text(weights: Hdf5File, model: KerasLayer, group: str) -> str:
    """The GRUs that a prefix may pick, by both their names; nothing where there is none."""
    there = GrusInWeights(weights)
    try:
        described = _recurrent(model, group, weights, there)
    except FormatError:  # the reason why the model is refused matters more
        described = {}
    return found_text({p: described[p].name() if p in described else [] for p in there.paths})


def _second_choice(
    described: Mapping[str, _Described], there: GrusInWeights, prefix: str
) -> list[str]:
    """Paths of GRUs that `prefix` may mean if it is no path or layer's name in the weights.

    Those in a Bidirectional have names, too, which Keras makes up more often than people do. And a
    config may describe a GRU that the weights lack: reading it will say so.
    """
    asked = prefix.strip("/")
    inner = [p for p, found in described.items() if there.has(p) and asked in found.inner_names()]
    return inner or [
        path
        for path, found in described.items()
        # A layer that two models share is described twice, and its weights are saved once.
        if not there.has(path) and is_called(asked, (path, *found.name()))
    ]


def _recurrent(
    model: KerasLayer, group: str, weights: Hdf5File, there: GrusInWeights
) -> dict[str, _Described]:
    """By their paths, the layers of the config that are GRUs by their classes or their weights."""
    found = {}
    for layer, outer in _walk(model, group, weights, (), 0):
        is_gru = layer.kind == "GRU" or (layer.kind in _RECURRENT and _wraps_gru(layer))
        if there.has(layer.path) or (is_gru and not layer.own):
            found[layer.path] = _Described(layer, outer)
    return found


def _walk(
    layer: KerasLayer, group: str, weights: Hdf5File, outer: tuple[str, ...], depth: int
) -> Iterator[tuple[KerasLayer, tuple[str, ...]]]:
    """The layers in `layer`, at any depth, and the names of what each stands in."""
    if depth > MAX_DEPTH:
        raise FormatError(f"layers in layers: expected at most {MAX_DEPTH}")
    is_model = layer.kind in MODELS and not layer.own
    where = layer.where.partition(" ")[0] if depth else "model"
    if is_model or (layer.own and isinstance(layer.config.get("layers"), list)):
        inner = layers_in(layer, where, group)
    else:
        inner = list(_attributes(layer, weights))
    for part in inner:
        yield part, outer
        if part.kind not in _RECURRENT or part.own:
            name = _name_in(part.config)
            yield from _walk(part, group, weights, (*outer, name) if name else outer, depth + 1)


def _attributes(layer: KerasLayer, weights: Hdf5File) -> Iterator[KerasLayer]:
    """Layers that the config describes under the names of attributes, as TimeDistributed's `layer`.

    A class of the user's own may write its layers there too. What its attributes are called the
    weights file tells: other names are no layers, or cannot be found.
    """
    for key, value in layer.config.items():
        if not (_is_name(key) and isinstance(value, dict)):
            continue
        kind, config = value.get("class_name"), value.get("config")
        path = f"{layer.path}/{key}" if layer.path else key
        if isinstance(kind, str) and isinstance(config, dict) and weights.is_group(path):
            yield layer_of(value, f"{layer.where}, {key}", path)


def _wraps_gru(layer: KerasLayer) -> bool:
    inner = layer.config.get("cell" if layer.kind == "RNN" else "layer")
    kind = inner.get("class_name") if isinstance(inner, dict) else None
    return kind in ("GRU", "GRUCell", "StackedRNNCells")  # of several: refused when it is read


def _name_in(config: Mapping[str, Any]) -> str:
    name = config.get("name")
    return name if isinstance(name, str) and _is_name(name) else ""


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME
