"""What a GRU is before it is packed: sizes, equation and float32 tensors under PyTorch's names.

`spec_from_tensors` is the one validator: it finds the GRU among named tensors, works out its sizes
and reports everything that is wrong in one FormatError. It refuses to repair anything: no tensor is
transposed, padded, guessed or ignored if its name is a GRU's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from fastgru import refusal_reasons as reasons
from fastgru.arrays import Float32Array, TensorSource, shape_text, source_of
from fastgru.errors import FormatError
from fastgru.refusal_reasons import Computed
from fastgru.text import MAX_LISTED, Problems, brief, listed, message_of, printable, report

ACTIVATIONS = ("tanh", "relu", "sigmoid", "identity")
RECURRENT_ACTIVATIONS = ("sigmoid", "hard_sigmoid", "hard_sigmoid_02")

_LAYER_NAME = re.compile(r"(?:weight|bias)_(?:ih|hh)_l(0|[1-9][0-9]{0,3})(_reverse)?")
_CELL_NAME = re.compile(r"(?:weight|bias)_(?:ih|hh)")
_GRU_NAME = re.compile(rf"(?:{_LAYER_NAME.pattern}|{_CELL_NAME.pattern})\Z")
_PREFIX_LIMIT = 100
_GRU_LIKE = re.compile(r"(?:weight|bias)_(?:ih|hh|hr)")  # what has no other business under a GRU

Shape = tuple[int | str, ...]  # a letter stands for a size that nothing tells


@dataclass(frozen=True)
class GruSpec:
    """A stack of GRU layers. `tensors`: float32, C-contiguous, named as in torch.nn.GRU.

    `precisions`: each layer's, none if all are float32. Weights of a bfloat16 layer have such
    values; those of an int8 layer are integers in -127..127, times a factor for each row: `scales`
    has them under the weight's name, (3H,). `reverse`: its one direction runs from the end of each
    sequence to its start, as in ONNX; the tensors' names do not tell.
    """

    input_size: int
    hidden_size: int
    num_layers: int
    bidirectional: bool
    bias: bool
    reset_after: bool
    activation: str
    recurrent_activation: str
    tensors: Mapping[str, Float32Array]
    precisions: tuple[str, ...] = ()
    scales: Mapping[str, Float32Array] = field(default_factory=dict)
    reverse: bool = False

    def names(self) -> list[str]:
        """The tensors' names in PyTorch's flat order, which is `_core`'s."""
        return tensor_names(range(self.num_layers), self.bidirectional, self.bias)


def tensor_names(layers: Iterable[int], bidirectional: bool, bias: bool) -> list[str]:
    """Names of torch.nn.GRU's parameters in its flat order.

    >>> tensor_names([0], bidirectional=False, bias=True)
    ['weight_ih_l0', 'weight_hh_l0', 'bias_ih_l0', 'bias_hh_l0']
    """
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if bias else ("weight_ih", "weight_hh")
    suffixes = ("", "_reverse") if bidirectional else ("",)
    return [f"{kind}_l{layer}{end}" for layer in layers for end in suffixes for kind in kinds]


def spec_from_tensors(
    tensors: Mapping[Any, Any],
    *,
    prefix: str | None = None,
    reset_after: bool = True,
    activation: str = "tanh",
    recurrent_activation: str = "sigmoid",
    reverse: bool = False,
) -> GruSpec:
    """Finds and validates the GRU (or GRUCell) among `tensors`: arrays, tensors or TensorSources.

    `prefix` is the module path it stands under, `"encoder.rnn."` (the last dot may be missing).
    None searches: the only GRU there is, whatever its prefix. Raises FormatError listing every
    problem; TypeError for torch tensors that are not dense in CPU memory.

    >>> import numpy as np
    >>> spec = spec_from_tensors({"rnn.weight_ih_l0": np.zeros((6, 3)),
    ...                           "rnn.weight_hh_l0": np.zeros((6, 2))})
    >>> spec.input_size, spec.hidden_size, spec.bias
    (3, 2, False)
    """
    if prefix is not None and not isinstance(prefix, str):
        raise TypeError(f"prefix: expected a string or None, got {brief(prefix)}")
    names = [name for name in tensors if isinstance(name, str)]
    prefix = choose_prefix(tensors, prefix)
    computed = reasons.computed_weights(names).get(prefix, {})
    found, problems = _collect(tensors, names, prefix, computed)
    problems.extend(reasons.computed_problems(prefix, computed))
    shapes = {name: source.shape for name, (_, source) in found.items()}
    there = {*found, *map(_layer_name, computed)}
    layers = sorted({int(name.split("_")[2][1:]) for name in there})
    bidirectional = any(name.endswith("_reverse") for name in there)
    bias = any(name.startswith("bias") for name in there)
    hidden_size = _hidden_size(shapes)
    input_size = _input_size(shapes, hidden_size)

    gaps = sorted(set(range(layers[-1] + 1)) - set(layers))
    if gaps:
        problems.append(f"layers {listed(gaps)}: missing (the last is layer {layers[-1]})")
    where = printable(prefix)
    for name in tensor_names(layers, bidirectional, bias):
        expected = _expected_shape(name, input_size, hidden_size, bidirectional)
        if name not in there:
            problems.append(f"{where}{name}: missing, expected {shape_text(expected)}")
        elif name in found:
            problems.extend(_tensor_problems(*found[name], expected))
    problems.extend(reasons.other_network(shapes, hidden_size))
    if reverse and bidirectional:
        problems.append("reverse: expected False with two directions, got True")
    for letter, size in (("hidden", hidden_size), ("input", input_size)):
        if size == 0:
            problems.append(f"{letter}_size: expected at least 1, got 0")

    arrays = {} if problems else dict(_read(found, problems))
    if problems:
        raise FormatError(
            report(f"the GRU under {brief(prefix)}" if prefix else "the GRU", problems)
        )
    assert isinstance(input_size, int)
    assert isinstance(hidden_size, int)
    return GruSpec(
        input_size=input_size,
        hidden_size=hidden_size,
        num_layers=len(layers),
        bidirectional=bidirectional,
        bias=bias,
        reset_after=reset_after,
        activation=activation,
        recurrent_activation=recurrent_activation,
        tensors=arrays,
        reverse=reverse,
    )


def gru_prefixes(names: Iterable[str]) -> set[str]:
    """What stands before a GRU's names.

    >>> gru_prefixes(["encoder.rnn.weight_ih_l0", "encoder.rnn.bias_ih_l0", "head.weight"])
    {'encoder.rnn.'}
    """
    names = list(names)
    found = ((name, _GRU_NAME.search(name)) for name in names)
    plain = {name[: match.start()] for name, match in found if match}
    return plain | reasons.computed_weights(names).keys()


def choose_prefix(tensors: Mapping[Any, Any], prefix: str | None) -> str:
    """What stands before the GRU's names: `prefix` in full, or of None that of the only GRU.

    FormatError where there is none under `prefix`, or where None could mean several.

    >>> choose_prefix({"rnn.weight_ih_l0": [[0.0]], "head.weight": [[0.0]]}, None)
    'rnn.'
    """
    names = [name for name in tensors if isinstance(name, str)]
    modules: dict[str, None] = {}
    for name in names:
        stem, dot, leaf = name.rpartition(".")
        if _LAYER_NAME.fullmatch(leaf) or _CELL_NAME.fullmatch(leaf):
            modules[stem + dot] = None
    computed = reasons.computed_weights(names)
    modules |= dict.fromkeys(computed)
    if prefix is not None:
        prefixes = gru_prefixes(names)
        for candidate in (prefix, f"{prefix}."):
            if candidate in prefixes:
                return candidate
        there = f"GRUs stand under {_quoted(modules)}" if modules else seen(names)
        raise FormatError(f"no GRU under prefix {brief(prefix)}: {there}")
    if not modules:
        nothing = f"no name ends in weight_ih_l0 or weight_hh_l0; {seen(names)}"
        raise FormatError(f"no GRU found: {reasons.packed_problem(names) or nothing}")
    if len(modules) == 1:
        return next(iter(modules))

    weights: dict[str, str] = {}  # what is known of each one's recurrent weight
    fitting = []
    for stem in modules:
        name = stem + ("weight_hh_l0" if f"{stem}weight_hh_l0" in tensors else "weight_hh")
        shape = source_of(name, tensors[name]).shape if name in tensors else ()
        ways = [one.way for leaf, one in computed.get(stem, {}).items() if "weight_hh" in leaf]
        known = shape_text(shape) if shape else "missing"
        weights[stem] = f"computed by {ways[0]}" if ways else known
        if ways or (len(shape) == 2 and shape[0] == 3 * shape[1]):
            fitting.append(stem)
    if len(fitting) == 1:
        return fitting[0]
    networks = [
        f"{brief(stem, _PREFIX_LIMIT)} (recurrent weight {weight})"
        for stem, weight in islice(weights.items(), MAX_LISTED)
    ]
    raise FormatError(
        f"several networks found, pick one with prefix=...: {listed(networks, of=len(weights))}"
    )


def _collect(
    tensors: Mapping[Any, Any], names: list[str], prefix: str, computed: Mapping[str, Computed]
) -> tuple[dict[str, tuple[str, TensorSource]], Problems]:
    """The GRU's tensors by layer name, each with its full name; and the names that do not fit."""
    leaves = {name[len(prefix) :]: name for name in names if name.startswith(prefix)}
    parts = {part for one in computed.values() for part in one.parts}
    has_layers = any(_LAYER_NAME.fullmatch(leaf) for leaf in {*leaves, *computed})
    found, problems = {}, Problems()
    for leaf, name in leaves.items():
        is_cells = _CELL_NAME.fullmatch(leaf) is not None and not has_layers
        if is_cells or _LAYER_NAME.fullmatch(leaf):
            found[_layer_name(leaf)] = name, source_of(name, tensors[name])
        elif name not in parts and _GRU_LIKE.match(leaf) and "." not in leaf:
            problems.append(reasons.odd_name(name, leaf))
    return found, problems


def _layer_name(leaf: str) -> str:
    """A GRUCell's weights are those of a layer 0."""
    return f"{leaf}_l0" if _CELL_NAME.fullmatch(leaf) else leaf


def _hidden_size(shapes: Mapping[str, tuple[int, ...]]) -> int | str:
    """From weight_hh_l0 if its shape makes sense; else what most tensors agree on."""
    recurrent, from_input = shapes.get("weight_hh_l0", ()), shapes.get("weight_ih_l0", ())
    if len(recurrent) == 2:
        rows, columns = recurrent
        other_network = rows in (columns, 4 * columns)
        if rows == 3 * columns or (other_network and from_input[:1] in ((), (rows,))):
            return columns
        if columns == 3 * rows:
            return rows
    votes: Counter[int] = Counter()
    for name, shape in shapes.items():
        if shape and shape[0] % 3 == 0:
            votes[shape[0] // 3] += 1
        if name.startswith("weight_hh") and len(shape) == 2:
            votes[shape[1]] += 1
    return votes.most_common(1)[0][0] if votes else "H"


def _input_size(shapes: Mapping[str, tuple[int, ...]], hidden_size: int | str) -> int | str:
    for name in ("weight_ih_l0", "weight_ih_l0_reverse"):
        shape = shapes.get(name, ())
        if len(shape) == 2:
            transposed = isinstance(hidden_size, int) and shape[0] != 3 * hidden_size == shape[1]
            return shape[0] if transposed else shape[1]
    return "I"


def _expected_shape(
    name: str, input_size: int | str, hidden_size: int | str, bidirectional: bool
) -> Shape:
    rows = _times(3, hidden_size)
    if name.startswith("bias"):
        return (rows,)
    if name.startswith("weight_hh"):
        return rows, hidden_size
    if name in ("weight_ih_l0", "weight_ih_l0_reverse"):
        return rows, input_size
    return rows, _times(2, hidden_size) if bidirectional else hidden_size


def _times(count: int, size: int | str) -> int | str:
    return count * size if isinstance(size, int) else f"{count}{size}"


def _tensor_problems(name: str, source: TensorSource, expected: Shape) -> Iterator[str]:
    if source.no_tensor:
        got = f"{printable(source.dtype)}; save a plain tensor in its place"
        yield f"{printable(name)}: expected a tensor, got {got}"
        return
    fits = len(source.shape) == len(expected) and all(
        isinstance(want, str) or want == got
        for want, got in zip(expected, source.shape, strict=True)
    )
    if not fits:
        hint = " (transposed?)" if source.shape[::-1] == expected else ""
        got = f"{shape_text(source.shape)}{hint}"
        yield f"{printable(name)}: expected {shape_text(expected)}, got {got}"
    if not source.is_real_float:
        yield f"{printable(name)}: expected a real floating dtype, got {printable(source.dtype)}"


def _read(
    found: Mapping[str, tuple[str, TensorSource]], problems: Problems
) -> Iterator[tuple[str, Float32Array]]:
    for name, (_, source) in found.items():
        try:
            yield name, source.read()
        except FormatError as error:  # damaged data behind a sound header
            problems.append(message_of(error))


def _quoted(names: Collection[str]) -> str:
    first = [brief(name, _PREFIX_LIMIT) for name in islice(names, MAX_LISTED)]
    return listed(first, of=len(names))


def seen(names: list[str]) -> str:
    """What an error says of the names, when none is the right one."""
    return f"the names are {listed(names)}" if names else "there are no tensors"
