"""What a Keras model's config says -> the chain of its layers, first to last.

The config is data: names of classes are compared with names, and nothing is imported or called.
Knows Sequential and Functional models, nested ones too, of Keras 2 and 3. Refuses a Functional
model that is no chain, and classes that are not Keras's own.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fastgru.errors import FormatError, UnsupportedLayerError
from fastgru.spec import report

# Groups in the weights file are named after classes; layers without weights have none of interest.
_GROUPS = {
    "Bidirectional": "bidirectional",
    "Dense": "dense",
    "Embedding": "embedding",
    "Functional": "functional",
    "GRU": "gru",
    "LayerNormalization": "layer_normalization",
    "Sequential": "sequential",
    "TimeDistributed": "time_distributed",
}
KERAS_2_13 = "_layer_checkpoint_dependencies"  # what this version calls the group `layers`
_MODELS = ("Sequential", "Functional")
_KERAS = ("keras", "tf_keras", "tensorflow")
_MAX_DEPTH = 16  # of models in models
_VERSION = re.compile(r"([23])\.\d+(?:\.|\Z)")

Node = tuple[list[str], list[str]]  # names of the layers it takes, names of other arguments


@dataclass(frozen=True)
class KerasLayer:
    """A layer: its class, what the config says of it, and its group in the weights file.

    `where` is how an error calls it. `own`: the name of the class if it is not Keras's.
    """

    where: str
    kind: str
    config: Mapping[str, Any]
    path: str
    own: str = ""

    def flag(self, name: str, default: bool) -> bool:
        """An option that is true or false; FormatError."""
        value = self.config.get(name, default)
        if type(value) is not bool:
            raise FormatError(f"{name}: expected true or false, got {_cut(value)}")
        return value

    def size(self, name: str) -> int:
        """A positive integer; FormatError."""
        value = self.config.get(name)
        if type(value) is not int or not 0 < value < 1 << 31:
            raise FormatError(f"{name}: expected a positive integer, got {_cut(value)}")
        return value

    def require(self, name: str, *allowed: object) -> None:
        """UnsupportedLayerError unless the option is missing or one of `allowed`."""
        value = self.config.get(name, allowed[0])
        if not any(type(value) is type(fine) and value == fine for fine in allowed):
            raise UnsupportedLayerError(
                f"{name}: expected {' or '.join(map(str, allowed))}, got {_cut(value)}"
            )

    def inner(self, name: str) -> KerasLayer:
        """The layer that this one wraps as `name`; FormatError."""
        return _layer(self.config.get(name), f"{self.where}, {name}", f"{self.path}/{name}")


def keras_version(text: object) -> int:
    """2 or 3 of a version; FormatError for others, which may mean something else by all this."""
    match = _VERSION.match(text) if isinstance(text, str) else None
    if not match:
        raise FormatError(f"keras_version: expected 2.x or 3.x, got {_cut(text)}")
    return int(match[1])


def read_chain(description: Mapping[str, Any], group: str = "layers") -> list[KerasLayer]:
    """The layers of a model's config (config.json, Model.to_json), nested models' in their place.

    `group`: what the weights file calls a model's layers, `layers` or KERAS_2_13.
    Raises FormatError for what is no such config, UnsupportedLayerError for what is no chain.
    """
    model = _layer(description, "the model", "")
    if model.kind not in _MODELS or model.own:
        raise UnsupportedLayerError(
            f"the model is a {model.own or model.kind}: expected {' or '.join(_MODELS)}; a "
            "subclass of keras.Model is a program: save its weights (.weights.h5) and load its GRU "
            "from those"
        )
    return _chain(model, "model", group, 0)


def _chain(model: KerasLayer, where: str, within: str, depth: int) -> list[KerasLayer]:
    if depth > _MAX_DEPTH:
        raise FormatError(f"models in models: expected at most {_MAX_DEPTH}")
    entries = model.config.get("layers")
    if not (isinstance(entries, list) and entries):
        raise FormatError(f"{where}: expected a list of layers, got {_cut(entries)}")
    is_input = [isinstance(e, dict) and e.get("class_name") == "InputLayer" for e in entries]
    hidden = int(model.kind == "Sequential" and is_input[0])  # model.layers of Keras leaves it out
    root = f"{model.path}/{within}" if model.path else within
    step = 2 if within == KERAS_2_13 else 1  # it counts a layer with weights twice
    used: dict[str, int] = {}
    layers = []
    for index, entry in enumerate(entries):
        kind = entry.get("class_name") if isinstance(entry, dict) else None
        group = _GROUPS.get(kind, "") if isinstance(kind, str) else ""
        count = used[group] = used.get(group, -step) + step
        path = f"{root}/{group}_{count}" if count else f"{root}/{group}"
        layers.append(_layer(entry, f"{where}.layers[{max(index - hidden, 0)}]", path))
    if model.kind == "Functional":
        layers = _in_order(model, layers, entries, where)
    chain: list[KerasLayer] = []
    for layer in layers:
        if layer.kind in _MODELS and not layer.own:
            chain += _chain(layer, layer.where.partition(" ")[0], within, depth + 1)
        elif layer.kind != "InputLayer":
            chain.append(layer)
    return chain


def _layer(entry: object, where: str, path: str) -> KerasLayer:
    if not isinstance(entry, dict):
        raise FormatError(f"{where}: expected an object, got {_cut(entry)}")
    kind, config = entry.get("class_name"), entry.get("config")
    if not isinstance(kind, str) or not isinstance(config, dict):
        raise FormatError(f"{where}: expected class_name and config, got {_cut(list(entry))}")
    kind = "Functional" if kind == "Model" else kind  # Keras 2.3
    name = config.get("name")
    where = f"{where} {kind[:100]}" + (f" {name[:100]!r}" if isinstance(name, str) else "")
    module, registered = entry.get("module"), entry.get("registered_name")
    is_keras = module is None or (isinstance(module, str) and module.split(".")[0] in _KERAS)
    own = "" if is_keras and registered in (None, kind) else _cut(registered or module)
    return KerasLayer(where, kind, config, path, own)


def _in_order(
    model: KerasLayer, layers: list[KerasLayer], entries: list[Any], where: str
) -> list[KerasLayer]:
    """The layers of a Functional model from its input to its output, if they are a chain."""
    names = [
        entry.get("name", layer.config.get("name"))
        for entry, layer in zip(entries, layers, strict=True)
    ]
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise FormatError(f"{where}: expected layers with names of their own, got {_cut(names)}")
    problems, after = [], dict[str, KerasLayer]()
    names_of = dict(zip((id(layer) for layer in layers), names, strict=True))
    for layer, entry in zip(layers, entries, strict=True):
        nodes = entry.get("inbound_nodes", [])
        if not isinstance(nodes, list):
            raise FormatError(f"{layer.where}: inbound_nodes: expected a list, got {_cut(nodes)}")
        if len(nodes) != (layer.kind != "InputLayer"):
            problems.append(f"{layer.where}: expected to be used once, is used {len(nodes)} times")
            continue
        for node in nodes:
            takes, others = _node(node, layer.where)
            if others:
                problems.append(f"{layer.where}: takes {', '.join(others)[:200]} too")
            if len(takes) != 1:
                problems.append(f"{layer.where}: expected one input, takes {len(takes)}")
            elif takes[0] in after:
                problems.append(f"{layer.where}: takes what {after[takes[0]].where} takes too")
            else:
                after[takes[0]] = layer
    starts = [layer for layer in layers if layer.kind == "InputLayer"]
    if len(starts) != 1:
        problems.append(f"{where}: expected one input, got {len(starts)}")
    if problems:
        raise UnsupportedLayerError(report("the model is not a chain of layers", problems))
    chain = [starts[0]]
    while names_of[id(chain[-1])] in after and len(chain) < len(layers):
        chain.append(after[names_of[id(chain[-1])]])
    ends = list(_names_of_layers(model.config.get("output_layers")))
    if len(chain) != len(layers) or ends != [names_of[id(chain[-1])]]:
        raise UnsupportedLayerError(
            f"{where}: expected one output, that of the last layer, got {_cut(ends)}"
        )
    return chain


def _node(node: object, where: str) -> Node:
    """What a call of a layer took, as Keras 3 and Keras 2 write it."""
    if isinstance(node, dict):
        args, kwargs = node.get("args"), node.get("kwargs")
        if not (isinstance(args, list) and isinstance(kwargs, dict)):
            raise FormatError(f"{where}: inbound_nodes: expected args and kwargs")
        takes = []
        for arg in args:
            inner = arg.get("config") if isinstance(arg, dict) else None
            history = inner.get("keras_history") if isinstance(inner, dict) else None
            takes += list(_names_of_layers(history)) or ["?", "?"]
    else:
        node = [node] if isinstance(node, list) and node and isinstance(node[0], str) else node
        if not (isinstance(node, list) and all(isinstance(n, list) and n for n in node)):
            raise FormatError(f"{where}: inbound_nodes: expected lists, got {_cut(node)}")
        takes = [str(source[0]) for source in node]
        kwargs = node[0][3] if node and len(node[0]) > 3 and isinstance(node[0][3], dict) else {}
    return takes, [name for name, value in kwargs.items() if value not in (None, False)]


def _names_of_layers(value: object) -> Iterable[str]:
    """Of ["name", 0, 0], or of a list of such."""
    if isinstance(value, list) and value and isinstance(value[0], str):
        value = [value]
    if isinstance(value, list):
        for item in value:
            if isinstance(item, list) and item and isinstance(item[0], str):
                yield item[0]


def _cut(value: object) -> str:
    return reprlib.repr(value)  # which ends, however large and deep the value is
