"""int8 weights chosen by what they are multiplied with: `GRU.to("int8", calibration=...)`.

Rounding each weight to the nearest integer leaves the error of a row's product to chance. Given
typical inputs, the error of one weight can be taken back by those that are still to be rounded
(GPTQ: Frantar et al. 2022, https://arxiv.org/abs/2210.17323), and what is left of it on average by
the bias, which is float32. Refuses to train: nothing here looks at a network's outputs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastgru.arrays import Float32Array, as_state
from fastgru.precision import MOST, check_finite, scale_of, weight_names
from fastgru.spec import GruSpec

if TYPE_CHECKING:
    from fastgru.gru import GRU

Float64Array = NDArray[np.float64]

_DAMPING = 1e-3
"""Of the mean variance, added to each input's, so that directions that the data never took stay
bounded; more for few rows, whose covariance is chance: K of them for each row. GPTQ's authors take
1e-2: over the words of examples/g2p 1e-3 was as good or better."""
_BLOCK = 64
"""Columns that are rounded before the others hear of their errors; for speed alone."""


class Moments:
    """Mean (K,) and covariance (K, K) of vectors that a matrix is multiplied with."""

    def __init__(self) -> None:
        self.count = 0
        self._about: Any = 0.0  # the first rows' mean: what is far from zero keeps its digits
        self._sum: Any = 0.0
        self._products: Any = 0.0

    def add(self, x: Float32Array) -> None:
        """Takes x (..., K)."""
        rows = x.reshape(-1, x.shape[-1]).astype(np.float64)
        if self.count == 0 and len(rows):
            self._about = rows.mean(axis=0)
        self.count += len(rows)
        with np.errstate(invalid="ignore"):  # of infinities; `are_finite` tells
            rows -= self._about
            self._sum = self._sum + rows.sum(axis=0)
            self._products = self._products + rows.T @ rows

    @property
    def trust(self) -> float:
        """From 0 to 1: how much of a mean of so many rows is more than chance."""
        return self.count / (self.count + len(self._sum))

    @property
    def is_empty(self) -> bool:
        return self.count == 0

    @property
    def are_finite(self) -> bool:
        return bool(np.isfinite(self._products).all())

    def mean(self) -> Float64Array:
        result: Float64Array = self._about + self._sum / self.count
        return result

    def second(self, centred: bool) -> Float64Array:
        """(K, K), about the mean or about zero."""
        off = self._sum / self.count
        covariance: Float64Array = self._products / self.count - np.outer(off, off)
        return covariance if centred else covariance + np.outer(self.mean(), self.mean())


def round_by(
    weight: Float32Array, scale: Float32Array, moments: Moments, centred: bool
) -> Float32Array:
    """Integers in -127..127 with integers * scale close to weight (rows, K) on such inputs.

    `centred`: an error that is the same for all inputs does not count, since a bias takes it.
    """
    second = moments.second(centred)
    exact = weight.astype(np.float64) / scale[:, None]
    nearest = np.rint(exact)
    taken_back = np.empty_like(exact)
    # Those that vary most first: their errors are the ones worth taking back.
    order = np.argsort(-np.diag(second), kind="stable")
    damping = max(_DAMPING, len(second) / moments.count)
    taken_back[:, order] = _in_order(exact[:, order], second[np.ix_(order, order)], damping)
    errors = [
        np.einsum("rk,rk->r", lost @ second, lost) for lost in (exact - nearest, exact - taken_back)
    ]
    # Now and then, on few data, taking errors back leaves more of them.
    better = (errors[1] < errors[0])[:, None]
    return np.where(better, taken_back, nearest).astype(np.float32)


def _in_order(exact: Float64Array, second: Float64Array, damping: float) -> Float64Array:
    """Columns (rows, K) rounded from the first to the last, which make up for those before them."""
    size = len(second)
    added = damping * np.trace(second) / size
    damped = second + np.eye(size) * (added if added > 0 else 1.0)  # inputs all alike
    inverse = np.linalg.inv(damped)
    upper = np.linalg.cholesky((inverse + inverse.T) / 2).T
    left, rounded = exact.copy(), np.empty_like(exact)
    for begin in range(0, size, _BLOCK):
        end = min(begin + _BLOCK, size)
        errors = np.empty((len(left), end - begin))
        for k in range(begin, end):
            rounded[:, k] = np.clip(np.rint(left[:, k]), -MOST, MOST)
            errors[:, k - begin] = (left[:, k] - rounded[:, k]) / upper[k, k]
            left[:, k + 1 : end] -= np.outer(errors[:, k - begin], upper[k, k + 1 : end])
        left[:, end:] -= errors @ upper[begin:end, end:]
    return rounded


def _batches(calibration: Any) -> Iterator[tuple[Any, Any]]:
    """Of each batch: x, and h_0 or None."""
    if hasattr(calibration, "shape"):
        yield calibration, None
        return
    if not isinstance(calibration, Iterable) or isinstance(calibration, tuple):
        raise TypeError(
            "calibration: expected an array x, or a list of x or (x, h_0), "
            f"got {type(calibration).__name__}"
        )
    for index, batch in enumerate(calibration):
        if hasattr(batch, "shape"):
            yield batch, None
        elif isinstance(batch, tuple) and len(batch) == 2:
            yield batch
        else:
            raise TypeError(
                f"calibration[{index}]: expected an array x or a tuple (x, h_0), "
                f"got {type(batch).__name__}"
            )


def _multiplied(
    gru: GRU, x: ArrayLike, h_0: ArrayLike | None
) -> Iterator[tuple[str, list[Float32Array]]]:
    """Each weight's name and what it is multiplied with, (T, B, K).

    Two arrays for the recurrent weights of reset before: r and z see h, the candidate r * h.
    """
    trace = gru.trace(x, h_0)
    steps, batch, size = trace.hidden.shape[1:]
    values = as_state("x", x)
    if gru.batch_first and values.ndim == 3:
        values = values.swapaxes(0, 1)
    values = values.reshape(steps, batch, values.shape[-1])
    first = np.zeros((len(trace.hidden), 1, batch, size), np.float32)
    if h_0 is not None:
        first[:, 0] = as_state("h_0", h_0).reshape(len(first), batch, size)
    suffixes = ("", "_reverse") if gru.bidirectional else ("",)
    for layer in range(gru.num_layers):
        for direction, suffix in enumerate(suffixes):
            index = layer * len(suffixes) + direction
            hidden = trace.hidden[index]
            before = (
                np.concatenate([hidden[1:], first[index]])
                if direction == 1 or gru.reverse
                else np.concatenate([first[index], hidden[:-1]])
            )[:steps]
            yield f"weight_ih_l{layer}{suffix}", [values]
            seen = [before] if gru.reset_after else [before, trace.reset[index] * before]
            yield f"weight_hh_l{layer}{suffix}", seen
        own = trace.hidden[layer * len(suffixes) : (layer + 1) * len(suffixes)]
        values = np.concatenate(list(own), axis=-1)


def calibrated_spec(gru: GRU, kept: set[int], calibration: Any) -> GruSpec:
    """The spec of `gru` (float32) in int8, but for the layers `kept`, rounded by `calibration`.

    ValueError where nothing is in it or numbers are not finite; ShapeError and TypeError as a call.
    """
    moments: dict[str, list[Moments]] = {}
    for x, h_0 in _batches(calibration):
        for name, parts in _multiplied(gru, x, h_0):
            sums = moments.setdefault(name, [Moments() for _ in parts])
            for gathered, part in zip(sums, parts, strict=True):
                gathered.add(part)
    if not moments or next(iter(moments.values()))[0].is_empty:
        raise ValueError("calibration: expected at least one time step, got none")
    tensors: dict[str, Float32Array] = dict(gru.tensors())
    scales: dict[str, Float32Array] = {}
    size = gru.hidden_size
    for layer, name in weight_names(gru._spec):
        if layer in kept:
            continue
        sums = moments[name]
        weight, bias_name = tensors[name], name.replace("weight", "bias")
        check_finite(name, weight)
        if not all(gathered.are_finite for gathered in sums):
            raise ValueError(f"calibration: {name} is multiplied with NaN or infinity")
        scales[name] = scale_of(weight)
        rows = [slice(None)] if len(sums) == 1 else [slice(0, 2 * size), slice(2 * size, None)]
        has_bias = bias_name in tensors
        integers = np.concatenate(
            [
                round_by(weight[part], scales[name][part], gathered, has_bias)
                for part, gathered in zip(rows, sums, strict=True)
            ]
        )
        if has_bias:
            lost = weight - integers.astype(np.float64) * scales[name].astype(np.float64)[:, None]
            means = [
                lost[part] @ gathered.mean() * gathered.trust
                for part, gathered in zip(rows, sums, strict=True)
            ]
            tensors[bias_name] = (tensors[bias_name] + np.concatenate(means)).astype(np.float32)
        tensors[name] = integers
    precisions = tuple("float32" if la in kept else "int8" for la in range(gru.num_layers))
    return dataclasses.replace(gru._spec, tensors=tensors, scales=scales, precisions=precisions)
