"""`fastgru info`: what is in a file, and which of this machine's caches its weights fit.

Of a state dict with several networks it shows all of them, those that are no GRUs with the reason.
Refuses what `fastgru.load` refuses, for the same reason.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastgru
from fastgru.arrays import byte_text, shape_text
from fastgru.cli.options import add_load_options, load_options
from fastgru.cli.terminal import MAX_ROWS, print_table, say
from fastgru.formats import model_of, opened
from fastgru.formats.left_out import names_text
from fastgru.layers import Layer
from fastgru.spec import gru_prefixes, tensor_names
from fastgru.text import brief

if TYPE_CHECKING:
    from fastgru.formats.contents import Contents

_FORMATS = {
    "safetensors": "a state dict in safetensors",
    "npz": "a state dict in .npz",
    "torch zip": "a state dict in a zip archive of torch.save",
    "torch chain": "a state dict in a file of torch.save before 1.6",
    "onnx": "ONNX",
    "keras": "Keras",
    "keras weights": "weights of Keras (HDF5)",
}
_OF_A_GRU = (
    *("input_size", "hidden_size", "num_layers", "bidirectional", "reverse", "bias"),
    *("batch_first", "reset_after", "activation", "recurrent_activation", "precision"),
)


def add_command(commands: Any) -> None:
    """Adds `info` to the subparsers."""
    parser = commands.add_parser(
        "info",
        help="say what is in a file of weights",
        description="Layers, shapes, equation, precision and bytes of the networks in FILE, and "
        "which cache level of this machine the weights fit.",
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="what `fastgru.load` reads")
    parser.add_argument("--json", action="store_true", help="the same as one JSON object")
    add_load_options(parser, "FILE")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """The command."""
    found = inspect(options.file, load_options(options))
    if options.json:
        print(json.dumps(found))  # noqa: T201  (which escapes all but ASCII)
    else:
        _print(found)
    return 0


def inspect(path: Path, options: dict[str, Any]) -> dict[str, Any]:
    """All that is known of a file; `options` are those of `fastgru.load`."""
    found: dict[str, Any] = {"file": str(path)}
    prefix = options["prefix"]
    wanted = {n: v for n, v in options.items() if n != "prefix" and v is not None}
    with opened(path, prefix) as contents:
        found["format"] = _FORMATS.get(contents.format)
        if contents.description is not None:
            found["format"] = f"fastgru's own, version {contents.description['format_version']}"
        is_state_dict = contents.description is None and not contents.is_foreign
        found["assumed"] = [name for name in contents.assumed if name not in wanted]
        if is_state_dict:
            prefixes = list(dict.fromkeys(p for name in contents.tensors for p in _prefix(name)))
            found["other_tensors"] = _other_tensors(contents)
            if prefix is None and len(prefixes) > 1:
                shown = prefixes[:MAX_ROWS]  # each is looked for among all names
                found["more_networks"] = len(prefixes) - len(shown)
                return found | {"networks": [_network(contents, p, wanted) for p in shown]}
            found["prefix"] = contents.prefix or "".join(prefixes[:1])
        if not contents.is_foreign:
            model = model_of(contents, wanted)
            if isinstance(model, fastgru.GRU):
                found["assumed"] = list(model._assumed)  # a GRUCell has no layout
            return found | {"model": describe(model)}
    return found | {"model": describe(fastgru.load(path, **options))}


def describe(model: Any) -> dict[str, Any]:
    """A GRU or a Model: what it is made of."""
    told: dict[str, Any] = {"kind": type(model).__name__, "nbytes": model.nbytes}
    told["cache"] = _cache(model.nbytes)
    if isinstance(model, fastgru.GRU):
        return told | _gru(model)
    return told | {
        "input_size": model.input_size,
        "output_size": model.output_size,
        "batch_first": model.batch_first,
        "layers": [_layer(layer) for layer in model.layers],
    }


def _gru(gru: fastgru.GRU) -> dict[str, Any]:
    told: dict[str, Any] = {name: getattr(gru, name) for name in _OF_A_GRU}
    shapes = {name: list(tensor.shape) for name, tensor in gru.tensors().items()}
    precisions = gru._spec.precisions or ("float32",) * gru.num_layers
    return told | {"precisions": list(precisions), "tensors": shapes}


def _layer(layer: Layer | fastgru.GRU) -> dict[str, Any]:
    told: dict[str, Any] = {"kind": type(layer).__name__, "nbytes": layer.nbytes}
    if isinstance(layer, fastgru.GRU):
        return told | _gru(layer)
    told |= {"input_size": layer.input_size, "output_size": layer.output_size}
    return (
        told
        | {"tensors": {n: list(t.shape) for n, t in layer._tensors().items()}}
        | (layer._options())
    )


def _network(contents: Contents, prefix: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """One of several; where it is no GRU, the problem."""
    told: dict[str, Any] = {"prefix": prefix}
    try:
        return told | describe(model_of(contents._replace(prefix=prefix), wanted))
    except fastgru.FormatError as error:
        return told | {"problem": " ".join(str(error).split())}


def _prefix(name: str) -> set[str]:
    return gru_prefixes([name])


def _other_tensors(contents: Contents) -> dict[str, list[int]]:
    """What is no GRU's; the shape is empty where it was not looked at."""
    return {n: list(s.shape) for n, s in contents.tensors.items() if not _prefix(n)}


def _cache(nbytes: int) -> str | None:
    """The smallest cache level that holds so many bytes."""
    caches = fastgru.cpu_info().caches
    return next((level for level, size in caches.items() if nbytes <= size), None)


def _print(found: dict[str, Any]) -> None:
    say(f"{found['file']}: {found['format']}")
    model = found.get("model")
    if model is None:
        count = len(found["networks"]) + found["more_networks"]
        say(f"{count} networks, one of which --prefix picks", "")
        _print_networks(found["networks"])
        if found["more_networks"]:
            say(f"and {found['more_networks']} more")
    elif model["kind"] == "GRU":
        say("")
        if found.get("prefix"):
            say(f"{'prefix':<13}{found['prefix']}")
        own = found["format"].startswith("fastgru's own")
        silent = "what this was exported from did" if own else "the file does"
        _print_gru(model, found["assumed"], silent)
    else:
        layout = "batch first, " if model["batch_first"] else ""
        say(f"a Model of {_count(len(model['layers']))}, {layout}{_bytes_text(model)}", "")
        _print_layers(model["layers"])
    if found.get("other_tensors"):
        say("", _others_text(found["other_tensors"]))


def _print_networks(networks: list[dict[str, Any]]) -> None:
    rows = [
        [brief(network["prefix"]), network.get("problem") or _gru_text(network)]
        for network in networks
    ]
    print_table(["prefix", "network"], rows)


def _gru_text(gru: dict[str, Any]) -> str:
    parts = [f"GRU({gru['input_size']}, {gru['hidden_size']})"]
    parts += [f"{gru['num_layers']} layers"] if gru["num_layers"] > 1 else []
    parts += _directions(gru)
    parts += [] if gru["bias"] else ["no bias"]
    return ", ".join([*parts, _bytes_text(gru)])


def _directions(gru: dict[str, Any]) -> list[str]:
    return [name for name in ("bidirectional", "reverse") if gru[name]]


def _print_gru(gru: dict[str, Any], assumed: list[str], silent: str) -> None:
    def said(text: str, *names: str) -> str:
        unsaid = any(name in assumed for name in names)
        return f"{text} (the default; {silent} not say)" if unsaid else text

    layout = "(B, T, I)" if gru["batch_first"] else "(T, B, I)"
    rows = {
        "sizes": f"I {gru['input_size']}, H {gru['hidden_size']}",
        "layers": ", ".join([str(gru["num_layers"]), *_directions(gru)]),
        "equation": said(_equation(gru), "reset_after"),
        "activations": said(_activations(gru), "activation", "recurrent_activation"),
        "input": said(layout, "batch_first"),
        "precision": gru["precision"],
        "weights": _bytes_text(gru),
    }
    for name, text in rows.items():
        say(f"{name:<13}{text}")
    say("")
    shapes = gru["tensors"]
    table = []
    for layer, precision in enumerate(gru["precisions"]):
        for end in ["", "_reverse"] if gru["bidirectional"] else [""]:
            names = [n for n in tensor_names([layer], bool(end), gru["bias"]) if _ends(n, end)]
            table.append([f"{layer}{end.replace('_', ' ')}", precision])
            table[-1] += [shape_text(tuple(shapes[name])) for name in names]
    names = [name.rpartition("_l")[0] for name in tensor_names([0], False, gru["bias"])]
    print_table(["layer", "precision", *names], table)


def _ends(name: str, end: str) -> bool:
    return name.endswith("_reverse") == bool(end)


def _equation(gru: dict[str, Any]) -> str:
    return f"reset {'after' if gru['reset_after'] else 'before'} the product"


def _activations(gru: dict[str, Any]) -> str:
    return f"{gru['activation']}, gates {gru['recurrent_activation']}"


def _print_layers(layers: list[dict[str, Any]]) -> None:
    rows = []
    for index, layer in enumerate(layers):
        if layer["kind"] == "GRU":
            inside = [_count(layer["num_layers"])]
            inside += [*_directions(layer), _equation(layer), _activations(layer)]
            sizes = [layer["input_size"], layer["hidden_size"] * (1 + layer["bidirectional"])]
        else:
            known = {"kind", "nbytes", "input_size", "output_size", "tensors"}
            inside = [f"{name} {shape_text(tuple(s))}" for name, s in layer["tensors"].items()]
            inside += [f"{name} {value}" for name, value in layer.items() if name not in known]
            sizes = [layer["input_size"], layer["output_size"]]
        rows.append(
            [str(index), layer["kind"]]
            + ["" if size is None else str(size) for size in sizes]
            + [layer.get("precision", ""), byte_text(layer["nbytes"]) if layer["nbytes"] else ""]
            + [", ".join(inside)]
        )
    print_table(["", "layer", "in", "out", "precision", "bytes", ""], rows)


def _count(layers: int) -> str:
    return "1 layer" if layers == 1 else f"{layers} layers"


def _bytes_text(model: dict[str, Any]) -> str:
    caches = fastgru.cpu_info().caches
    size = byte_text(model["nbytes"])
    if not caches:
        return f"{size}; this system does not tell its caches"
    if model["cache"] is None:
        level, largest = list(caches.items())[-1]
        return f"{size}, more than {level} ({byte_text(largest, 1024)}) of this machine"
    return f"{size}, fit {model['cache']} ({byte_text(caches[model['cache']], 1024)})"


def _others_text(others: dict[str, list[int]]) -> str:
    count = f"{len(others)} other tensor{'s' if len(others) > 1 else ''}"
    return f"{count}: {names_text({name: tuple(shape) for name, shape in others.items()})}"
