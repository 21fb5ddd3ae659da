"""Why tensors that look like a GRU's are none that can be run, and what to do about it.

Many wrappers keep other tensors in a weight's place and compute it before every call: weight_norm,
spectral_norm, pruning, parametrizations, WeightDrop. Quantized modules pack theirs; LSTMs and RNNs
have other shapes. spec.py finds the GRU and asks here for the reasons. Refuses to compute anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

_WEIGHT = r"(?:weight|bias)_(?:ih|hh)(?:_l(?:0|[1-9][0-9]{0,3})(?:_reverse)?)?"
_PART = re.compile(
    rf"(?P<home>(?:.*\.)?)(?:(?P<weight>{_WEIGHT})_(?P<suffix>g|v|u|orig|mask|raw)"
    rf"|parametrizations\.(?P<parametrized>{_WEIGHT})\.(?:original(?P<number>[0-9]*)|[0-9]+\..+))",
    re.DOTALL,
)
_PACKED = re.compile(
    r"(?:.*\.)?(?:_all_weight_values(?:\..*)?|_packed_weight_(?:ih|hh))", re.DOTALL
)
_MAX_LISTED = 3  # so that the remedy is within what report() keeps of a problem

# What computes a weight, what it computes it from, and what makes the result permanent.
_WEIGHT_NORM, _PRUNING, _SPECTRAL_NORM = "weight_norm", "pruning", "spectral_norm"
_PARAMETRIZATION, _WEIGHT_DROP = "a parametrization", "WeightDrop"
_SUFFIXES: dict[str, tuple[str, ...]] = {
    _WEIGHT_NORM: ("g", "v"),
    _PRUNING: ("orig", "mask"),
    _SPECTRAL_NORM: ("orig", "u"),
    _WEIGHT_DROP: ("raw",),
}
_REMOVERS = {
    _WEIGHT_NORM: "torch.nn.utils.remove_weight_norm",
    _PRUNING: "torch.nn.utils.prune.remove",
    _SPECTRAL_NORM: "torch.nn.utils.remove_spectral_norm",
    _PARAMETRIZATION: "torch.nn.utils.parametrize.remove_parametrizations",
}


@dataclass(frozen=True)
class Computed:
    """A weight that is not stored: what computes it, and the names of the tensors that it needs."""

    way: str
    parts: tuple[str, ...]


def computed_weights(names: Iterable[str]) -> dict[str, dict[str, Computed]]:
    """By the prefix of a GRU and the weight's name in it.

    >>> computed_weights(["rnn.weight_hh_l0_g", "rnn.weight_hh_l0_v"])["rnn."]["weight_hh_l0"].way
    'weight_norm'
    """
    parts: dict[tuple[str, str], dict[str, str]] = {}
    prefixes = set()
    for name in names:
        if "_ih" not in name and "_hh" not in name:
            continue
        stem, dot, leaf = name.rpartition(".")
        if re.fullmatch(_WEIGHT, leaf):
            prefixes.add(stem + dot)
        elif match := _PART.fullmatch(name):
            key = match["home"], match["weight"] or match["parametrized"]
            number = match["number"]
            role = match["suffix"] or ("state" if number is None else f"original{number}")
            parts.setdefault(key, {}).setdefault(role, name)
    found: dict[str, dict[str, Computed]] = {}
    for (home, weight), roles in parts.items():
        way = _way(roles)
        if way is None:
            continue
        if way == _WEIGHT_DROP and f"{home}module." in prefixes:
            home = f"{home}module."  # noqa: PLW2901  (fastai's wrapper keeps the raw weight itself)
        found.setdefault(home, {})[weight] = Computed(way, tuple(roles.values()))
    return found


def _way(roles: Mapping[str, str]) -> str | None:
    if any(role.startswith("original") for role in roles):
        return _PARAMETRIZATION
    return next((way for way, needed in _SUFFIXES.items() if roles.keys() >= set(needed)), None)


def computed_problems(prefix: str, computed: Mapping[str, Computed]) -> Iterator[str]:
    """One for each way, with the remedy."""
    for way in dict.fromkeys(one.way for one in computed.values()):
        weights = sorted(weight for weight, one in computed.items() if one.way == way)
        parts = [part for weight in weights for part in computed[weight].parts]
        subject = f"{_listed(weights)} {'is' if len(weights) == 1 else 'are'} computed by {way}"
        origin = _listed([part.removeprefix(prefix) for part in parts])
        reason = f"{subject} before every call (from {origin}), which fastgru does not do"
        if way == _WEIGHT_DROP:
            each = "" if len(weights) == 1 else ", and so on,"
            yield (  # the wrapper hands the raw weight on as it is, except while it is trained
                f"{reason}; in a trained network that is the raw weight itself: rename {parts[0]} "
                f"to {prefix}{weights[0]}{each} in the state dict and save it again"
            )
            continue
        name = f'"{weights[0]}"' if len(weights) == 1 else "name"
        each = "" if len(weights) == 1 else " for each name"
        from_torch = ", or use GRU.from_torch(gru)" if way == _PARAMETRIZATION else ""
        yield (
            f"{reason}; in Python with torch, load the checkpoint into its module, call "
            f"{_REMOVERS[way]}(gru, {name}){each} and save the state dict again{from_torch}"
        )


def packed_problem(names: Iterable[str]) -> str | None:
    """For a GRU or a GRUCell of torch.ao.nn.quantized.dynamic, whose weights have no names."""
    packed = [name for name in names if _PACKED.search(name)]
    if not packed:
        return None
    return (
        f"{_listed(packed)}: weights that torch.ao.quantization.quantize_dynamic has packed, which "
        "only torch can unpack; save the state dict of the float model, before it is quantized, "
        'and load that with precision="int8"'
    )


def odd_name(name: str, leaf: str) -> str:
    """For a tensor beside a GRU's, with a name like theirs."""
    if leaf.startswith("weight_hr"):
        return f"{name}: a projection, this looks like an LSTM with proj_size"
    return f"{name}: no tensor of a GRU has this name"


def other_network(shapes: Mapping[str, tuple[int, ...]], hidden_size: int | str) -> Iterator[str]:
    """For weights that have the rows of an RNN or an LSTM."""
    rows = {shape[0] for name, shape in shapes.items() if name.startswith("weight") and shape}
    if isinstance(hidden_size, int) and hidden_size > 0:
        if rows == {hidden_size}:
            yield f"this looks like an RNN: H = {hidden_size} rows in all weights, a GRU has 3H"
        if rows == {4 * hidden_size}:
            rows_text = f"4H = {4 * hidden_size} rows"
            yield f"this looks like an LSTM: {rows_text} in all weights, a GRU has 3H"


def _listed(names: list[str]) -> str:
    more = len(names) - _MAX_LISTED
    return ", ".join(names[:_MAX_LISTED]) + (f" and {more} more" if more > 0 else "")
