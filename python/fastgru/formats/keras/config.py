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
from typing import Any, NamedTuple

from fastgru.errors import FormatError, UnsupportedLayerError
from fastgru.text import brief, printable, report

KERAS_2_13 = "_layer_checkpoint_dependencies"  # what this version calls the group `layers`
MAX_DEPTH = 16  # of models in models
MODELS = ("Sequential", "Functional")
_KERAS = ("keras", "tf_keras", "tensorflow")
_VERSION = re.compile(r"([23])\.\d+(?:\.|\Z)")

MASK = "NotEqual"  # the class of a mask_zero that Keras 3 writes out
_HONOUR_MASKS = ("Bidirectional", "GRU", "GlobalAveragePooling1D")


class _Node(NamedTuple):
    """A call of a layer: the layers that it takes, other arguments, the layer that is its mask."""

    takes: list[str]
    others: list[str]
    mask: str
    compares_with_0: bool


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
        return layer_of(self.config.get(name), f"{self.where}, {name}", f"{self.path}/{name}")


def keras_version(text: object) -> int:
    """2 or 3 of a version; FormatError for others, which may mean something else by all this."""
    match = _VERSION.match(text) if isinstance(text, str) else None
    if not match:
        raise FormatError(f"keras_version: expected 2.x or 3.x, got {_cut(text)}")
    return int(match[1])


def read_model(description: Mapping[str, Any]) -> KerasLayer:
    """The outermost layer of a config (config.json, Model.to_json), which is a model; FormatError.

    It may be any class: `read_chain` refuses those that are programs.
    """
    return layer_of(description, "the model", "")


def read_chain(model: KerasLayer, group: str = "layers") -> list[KerasLayer]:
    """The layers of a model, nested models' in their place.

    `group`: what the weights file calls a model's layers, `layers` or KERAS_2_13.
    Raises FormatError for what is no such config, UnsupportedLayerError for what is no chain.
    """
    if model.kind not in MODELS or model.own:
        raise UnsupportedLayerError(
            f"the model is a {model.own or model.kind}: expected {' or '.join(MODELS)}; a "
            "subclass of keras.Model is a program"
        )
    return _chain(model, "model", group, 0)


def _chain(model: KerasLayer, where: str, within: str, depth: int) -> list[KerasLayer]:
    if depth > MAX_DEPTH:
        raise FormatError(f"models in models: expected at most {MAX_DEPTH}")
    layers = layers_in(model, where, within)
    if model.kind == "Functional":
        layers = _in_order(model, layers, model.config["layers"], where)
    chain: list[KerasLayer] = []
    for layer in layers:
        if layer.kind in MODELS and not layer.own:
            chain += _chain(layer, layer.where.partition(" ")[0], within, depth + 1)
        elif layer.kind != "InputLayer":
            chain.append(layer)
    return chain


def layers_in(model: KerasLayer, where: str, within: str) -> list[KerasLayer]:
    """The layers that a model's config lists, in this order, with their groups; FormatError."""
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
        group = _group("Functional" if kind == "Model" else kind) if isinstance(kind, str) else ""
        count = used[group] = used.get(group, -step) + step
        path = f"{root}/{group}_{count}" if count else f"{root}/{group}"
        layers.append(layer_of(entry, f"{where}.layers[{max(index - hidden, 0)}]", path))
    return layers


def _group(kind: str) -> str:
    """What the weights file calls a layer of this class, as Keras's naming.to_snake_case does."""
    kind = re.sub(r"\W+", "", kind[:200])
    kind = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", kind)
    return re.sub("([a-z])([A-Z])", r"\1_\2", kind).lower()


def layer_of(entry: object, where: str, path: str) -> KerasLayer:
    """A layer as its entry in a config describes it; FormatError."""
    if not isinstance(entry, dict):
        raise FormatError(f"{where}: expected an object, got {_cut(entry)}")
    kind, config = entry.get("class_name"), entry.get("config")
    if not isinstance(kind, str) or not isinstance(config, dict):
        raise FormatError(f"{where}: expected class_name and config, got {_cut(list(entry))}")
    kind = "Functional" if kind == "Model" else kind  # Keras 2.3
    name = config.get("name")
    where = f"{where} {printable(kind, 100)}" + (
        f" {brief(name, 100)}" if isinstance(name, str) else ""
    )
    module, registered = entry.get("module"), entry.get("registered_name")
    # Keras registers no name for its own layers, and without a module a name is the user's.
    is_keras = isinstance(module, str) and module.split(".")[0] in _KERAS
    is_keras = registered in (None, kind) if is_keras else module is None and registered is None
    own = "" if is_keras else _cut(registered or module)
    return KerasLayer(where, kind, config, path, own)


def _in_order(
    model: KerasLayer, layers: list[KerasLayer], entries: list[Any], where: str
) -> list[KerasLayer]:
    """The layers of a Functional model from its input to its output, if they are a chain.

    Keras 3 writes a mask out, as a layer beside the chain that compares its input with 0: it stands
    behind the input here.
    """
    named: dict[str, KerasLayer] = {}
    for layer, entry in zip(layers, entries, strict=True):
        name = entry.get("name", layer.config.get("name"))
        if not isinstance(name, str) or name in named:
            raise FormatError(f"{where}: expected layers with names of their own, got {_cut(name)}")
        named[name] = layer
    starts = [name for name, layer in named.items() if layer.kind == "InputLayer"]
    problems, after, masks = [], dict[str, str](), dict[str, str]()
    for (name, layer), entry in zip(named.items(), entries, strict=True):
        nodes = entry.get("inbound_nodes", [])
        if not isinstance(nodes, list):
            raise FormatError(f"{layer.where}: inbound_nodes: expected a list, got {_cut(nodes)}")
        if len(nodes) != (layer.kind != "InputLayer"):
            problems.append(f"{layer.where}: expected to be used once, is used {len(nodes)} times")
            continue
        for node in (_node(node, layer.where) for node in nodes):
            masks[name] = node.mask
            if layer.kind == MASK and node.compares_with_0 and node.takes[0] in starts:
                masks[name] = name
            elif node.others:
                problems.append(f"{layer.where}: takes {', '.join(node.others)[:200]} too")
            elif len(node.takes) != 1:
                problems.append(f"{layer.where}: expected one input, takes {len(node.takes)}")
            elif node.takes[0] in after:
                other = named[after[node.takes[0]]].where
                problems.append(f"{layer.where}: takes what {other} takes too")
            else:
                after[node.takes[0]] = name
    if len(starts) != 1:
        problems.append(f"{where}: expected one input, got {len(starts)}")
    if problems:
        raise UnsupportedLayerError(report("the layers are not a chain", problems))
    chain = [starts[0]]
    while chain[-1] in after and len(chain) < len(named):
        chain.append(after[chain[-1]])
    beside = [name for name in named if masks.get(name) == name]
    ends = list(_names_of_layers(model.config.get("output_layers")))
    if len(chain) + len(beside) != len(named) or ends != chain[-1:]:
        raise UnsupportedLayerError(
            f"{where}: expected one output, that of the last layer, got {_cut(ends)}"
        )
    given = [masks[name] for name in chain if named[name].kind in _HONOUR_MASKS]
    if any(given) and given != beside * len(given):
        raise UnsupportedLayerError(f"{where}: a mask that not all layers take: {_cut(given)}")
    return [named[name] for name in (*chain[:1], *beside, *chain[1:])]


def _node(node: object, where: str) -> _Node:
    """What a call of a layer took, as Keras 3 and Keras 2 write it."""
    mask, compares = "", False
    if isinstance(node, dict):
        args, kwargs = node.get("args"), node.get("kwargs")
        if not (isinstance(args, list) and isinstance(kwargs, dict)):
            raise FormatError(f"{where}: inbound_nodes: expected args and kwargs")
        takes = [name for arg in args for name in _tensor(arg) or ["?", "?"]]
        compares = len(args) == 2 and len(_tensor(args[0])) == 1 and args[1] == 0
        mask = "".join(_tensor(kwargs.get("mask")))
        kwargs = {name: value for name, value in kwargs.items() if not mask or name != "mask"}
    else:
        node = [node] if isinstance(node, list) and node and isinstance(node[0], str) else node
        if not (isinstance(node, list) and all(isinstance(n, list) and n for n in node)):
            raise FormatError(f"{where}: inbound_nodes: expected lists, got {_cut(node)}")
        takes = [str(source[0]) for source in node]
        kwargs = node[0][3] if node and len(node[0]) > 3 and isinstance(node[0][3], dict) else {}
    others = [name for name, value in kwargs.items() if value not in (None, False)]
    return _Node(takes, others, mask, compares)


def _tensor(value: object) -> list[str]:
    """The layers whose output a __keras_tensor__ is."""
    inner = value.get("config") if isinstance(value, dict) else None
    return list(_names_of_layers(inner.get("keras_history") if isinstance(inner, dict) else None))


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
