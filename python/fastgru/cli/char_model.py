"""The character models of examples/char_lm on fastgru: a GRU over one-hot characters and a head.

Reads the files that examples/char_lm/train.py writes and runs one character at a time through a
Stream. Refuses to sample: the next character is the most likely one, so that text can be compared.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fastgru import GRU, FormatError, load
from fastgru.arrays import Float32Array
from fastgru.formats import safetensors_file
from fastgru.formats.regular import open_regular


class CharModel:
    """A vocabulary of V characters, a GRU of H units over one-hot characters, a linear head.

    Attributes:
        gru: the network; `tensors` has the same weights under the names of the file.
        vocabulary: the characters; a character's index is its place in the string.
    """

    def __init__(self, path: Path) -> None:
        """Raises FormatError for a file that examples/char_lm/train.py has not written."""
        self.path = path
        try:
            with open_regular(str(path)) as file:
                sources, metadata = safetensors_file.read(file)
                self.tensors: dict[str, Float32Array] = {
                    name: source.read() for name, source in sources.items() if source.dtype == "F32"
                }
        except FormatError as error:
            raise FormatError(f"{path}: not a safetensors file ({error})") from error
        if "vocabulary" not in metadata or metadata.get("model") not in ("torch", "d2l"):
            raise FormatError(f"{path}: not a character model: train one with examples/char_lm")
        self.vocabulary = metadata["vocabulary"]
        self.reset_after = metadata["model"] == "torch"
        self.gru: GRU = (
            load(path, prefix="gru.", batch_first=False)
            if self.reset_after
            else GRU.from_d2l(self.tensors)
        )
        size, hidden = len(self.vocabulary), self.gru.hidden_size
        if self.gru.input_size != size:
            raise FormatError(f"{path}: input_size: expected {size}, got {self.gru.input_size}")
        if self.reset_after:
            self.head = self._tensor("head.weight", (size, hidden))
            self.head_bias = self._tensor("head.bias", (size,))
        else:
            self.head = np.ascontiguousarray(self._tensor("W_hq", (hidden, size)).T)
            self.head_bias = self._tensor("b_q", (size,))

    def _tensor(self, name: str, shape: tuple[int, ...]) -> Float32Array:
        tensor = self.tensors.get(name)
        got = "none" if tensor is None else f"{tensor.shape}"
        if tensor is None or tensor.shape != shape:
            raise FormatError(f"{self.path}: {name}: expected {shape} float32, got {got}")
        return tensor

    def indices(self, text: str) -> list[int]:
        """The characters' places in the vocabulary; ValueError names those that it lacks."""
        unknown = sorted({c for c in text if c not in self.vocabulary})
        if unknown:
            raise ValueError(f"the model does not know {unknown}; it knows {self.vocabulary!r}")
        return [self.vocabulary.index(c) for c in text]


class Writer:
    """One text in the making: feed it characters, get the logits of the next one."""

    def __init__(self, model: CharModel) -> None:
        self._head, self._bias = model.head, model.head_bias
        self._stream = model.gru.stream()
        self._x = np.zeros(len(model.vocabulary), np.float32)
        self._h = np.empty(model.gru.hidden_size, np.float32)

    def step(self, index: int) -> Float32Array:
        """Logits (V,) of the character after the one with this index."""
        self._x[index] = 1.0
        self._stream.step(self._x, out=self._h)
        self._x[index] = 0.0
        logits: Float32Array = self._head @ self._h + self._bias
        return logits
