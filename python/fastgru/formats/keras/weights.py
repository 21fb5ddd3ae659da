"""The GRUs in a `.weights.h5`, and the one that is meant where no config tells of it.

Such a file holds arrays in groups named after layers, and nothing of their order, activations or
direction. What can be told: which groups hold a GRU, its sizes, whether it has two directions, and
from the bias's shape where its reset gate is. Refuses to guess which of several is meant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

from fastgru.arrays import Float32Array, TensorSource, shape_text
from fastgru.errors import FormatError
from fastgru.formats.keras.gru import Shape, make_gru, read_arrays, torch_tensors
from fastgru.formats.keras.hdf5 import Hdf5File
from fastgru.gru import GRU
from fastgru.text import MAX_LISTED, brief, listed

_FORWARD, _BACKWARD = "forward_layer", "backward_layer"
_OTHERS = {1: "a SimpleRNN", 4: "an LSTM"}


class GrusInWeights:
    """The GRUs that a weights file holds: `cells` has the arrays of each group with a GRU's cell.

    `paths`: of the GRUs, in the file's order; one with two directions has two cells.
    """

    def __init__(self, weights: Hdf5File) -> None:
        self.cells, self._others = _cells(weights)
        self.paths = [path for path in map(partial(_whole, self.cells), self.cells) if path]
        self._names = weights.names()
        self._set = frozenset(self.paths)

    def has(self, path: str) -> bool:
        return path in self._set

    def groups(self, path: str) -> list[str]:
        """Where the cells of the GRU at `path` stand, that of the first direction first."""
        both = [f"{path}/{_FORWARD}", f"{path}/{_BACKWARD}"]
        return [path] if path in self.cells else both

    def text(self) -> str:
        """What there is instead, where there is no GRU."""
        if "model_weights" in self._names:
            return (
                "a whole model in Keras's old HDF5 format; load it with Keras and save it as .keras"
            )
        names = listed(self._names) or "none"
        return ", ".join(self._others) or f"names in the file: {names}"


def pick(
    prefix: str | None,
    names: Mapping[str, Sequence[str]],
    there: str,
    otherwise: Sequence[str] = (),
) -> str:
    """The path of the GRU that `prefix` means; FormatError listing them.

    `names`: by its path, what else each GRU is called. A prefix is such a path or name, in full or
    from a slash on; a whole path means that one, whatever others are called. `otherwise`: paths of
    GRUs that are meant if none of these is. `there`: what is in the file where there is no GRU.
    """
    asked = None if prefix is None else prefix.strip("/")
    if asked in names:
        return str(asked)
    found = [p for p in names if asked is None or is_called(asked, (p, *names[p]))]
    found = found or list(otherwise)
    if len(found) == 1:
        return found[0]
    if found:
        several = found_text({path: names.get(path, ()) for path in found})
        raise FormatError(f"several GRUs found, pick one with prefix=...: {several}")
    there = f"the GRUs are {found_text(names)}" if names else there
    raise FormatError(f"no GRU {'found' if asked is None else f'under {brief(prefix)}'}: {there}")


def is_called(asked: str, names: Sequence[str]) -> bool:
    """Whether one of `names` is `asked`, in full or from a slash on."""
    return any(name == asked or name.endswith(f"/{asked}") for name in names)


def found_text(names: Mapping[str, Sequence[str]]) -> str:
    """Some GRUs for an error, by their paths and their names."""
    told = (
        f"{brief(path, 90)} (named {brief(others[0], 90)})" if others else brief(path)
        for path, others in names.items()
    )
    return listed(list(islice(told, MAX_LISTED)), of=len(names))


def find_gru(
    weights: Hdf5File, prefix: str | None, wanted: Mapping[str, Any], **options: Any
) -> GRU:
    """The GRU, or the one that `prefix` picks; FormatError. `options` are the constructor's."""
    there = GrusInWeights(weights)
    path = pick(prefix, dict.fromkeys(there.paths, ()), there.text())
    return read_alone(there, path, wanted, **options)


def read_alone(there: GrusInWeights, path: str, wanted: Mapping[str, Any], **options: Any) -> GRU:
    """The GRU at `path`, of which no config tells; FormatError."""
    tensors: dict[str, Float32Array] = {}
    variants: set[bool] = set()
    for group, suffix in zip(there.groups(path), ("", "_reverse"), strict=False):
        sources = there.cells[group]
        arrays = read_arrays(f"{group}/cell", sources, _shapes(sources))
        tensors |= {f"{name}{suffix}": t for name, t in torch_tensors(arrays).items()}
        variants |= {arrays["bias"].ndim == 2} if "bias" in arrays else set()
    said = {"reset_after": variants.pop()} if len(variants) == 1 else {}
    given = wanted.get("reset_after")
    if given is not None and given != said.get("reset_after", given):
        raise FormatError(
            f"{path}: reset_after: the shape of its bias says {said['reset_after']}, the argument "
            f"{given}"
        )
    if variants:
        raise FormatError(f"{path}: its directions have biases of different shapes")
    return make_gru(tensors, dict(wanted) | said, options)


def _cells(weights: Hdf5File) -> tuple[dict[str, dict[str, TensorSource]], list[str]]:
    """Variables of each group that holds a GRU's cell, and what other networks there are."""
    cells, others = {}, []
    for path in weights.groups():
        if not path or not weights.is_group(f"{path}/cell/vars"):
            continue
        sources = weights.variables(f"{path}/cell")
        shape = sources[1].shape if len(sources) in (2, 3) else ()
        if len(shape) != 2 or shape[0] == 0 or shape[1] % shape[0]:
            continue
        if shape[1] == 3 * shape[0]:
            names = ("kernel", "recurrent_kernel", "bias")
            cells[path] = dict(zip(names, sources, strict=False))
        else:
            kind = _OTHERS.get(shape[1] // shape[0], "no GRU")
            others.append(f"{path[:200]!r} (recurrent kernel {shape_text(shape)}: {kind})")
    return cells, others[:MAX_LISTED]


def _whole(cells: Mapping[str, object], path: str) -> str:
    """The path of the GRU that a cell belongs to; none for the second direction of another."""
    stem, _, leaf = path.rpartition("/")
    if leaf == _FORWARD and f"{stem}/{_BACKWARD}" in cells:
        return stem
    return "" if leaf == _BACKWARD and f"{stem}/{_FORWARD}" in cells else path


def _shapes(sources: Mapping[str, TensorSource]) -> dict[str, Shape]:
    units = sources["recurrent_kernel"].shape[0]
    shapes: dict[str, Shape] = {"kernel": ("I", 3 * units), "recurrent_kernel": (units, 3 * units)}
    if "bias" in sources:
        is_after = len(sources["bias"].shape) == 2
        shapes["bias"] = (2, 3 * units) if is_after else (3 * units,)
    return shapes
