"""Spells words as phonemes with the network of the package g2p-en, run by fastgru.

The network is a GRU encoder that reads letters and a GRU decoder that writes phonemes, greedily.
Its weights come with the package, whose own NumPy code, the reference, `load_reference` gives.
Deliberately only the network: the package looks words up in dictionaries first, and asks it for
those that they lack.

Letters: T time, B batch, E embedding size, H hidden size.
"""

from __future__ import annotations

import copy
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self
from unittest import mock

import numpy as np
from numpy.typing import NDArray

import fastgru

Float32Array = NDArray[np.float32]
Phonemes = list[str]

MAX_PHONEMES = 20  # where the package's decoder gives up
# What the package imports for its dictionaries, which the network does not need.
STAND_INS = ("g2p_en", "g2p_en.expand", "nltk", "nltk.corpus", "nltk.tokenize")


def package_folder() -> Path:
    """Where g2p-en is installed; nothing of it is imported. ModuleNotFoundError if it is not."""
    spec = importlib.util.find_spec("g2p_en")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("g2p-en is not installed: pip install --no-deps g2p-en")
    return Path(spec.origin).parent


def load_reference(folder: Path) -> Any:
    """The package's own `G2p`, from its own source, with stand-ins for what it imports.

    `predict`, the tables of letters and phonemes and the weights are the package's; only its
    dictionaries and its tokenizer are not there.
    """
    spec = importlib.util.spec_from_file_location("g2p_en.g2p", folder / "g2p.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    stand_ins = {name: mock.MagicMock() for name in STAND_INS}
    with mock.patch.dict(sys.modules, stand_ins), warnings.catch_warnings():
        # An escape in one of its regular expressions, and a file that it does not close.
        warnings.simplefilter("ignore")
        spec.loader.exec_module(module)
        return module.G2p()


class G2p:
    """The encoder, the decoder and the tables around them; words in, phonemes out.

    Attributes:
        encoder: GRU over embedded letters, E = H = 256.
        decoder: GRU over embedded phonemes, which starts from the encoder's last state.
    """

    def __init__(
        self,
        checkpoint: Path,
        graphemes: Sequence[str],
        phonemes: Sequence[str],
        *,
        precision: str = "float32",
    ) -> None:
        """The weights of `checkpoint` (.npz); the tables give a letter's and a phoneme's index."""
        with np.load(checkpoint) as file:
            tensors: dict[str, Float32Array] = dict(file)
        self.encoder = _gru(tensors, "enc", precision)
        self.decoder = _gru(tensors, "dec", precision)
        self._letters, self._sounds = tensors["enc_emb"], tensors["dec_emb"]  # (29, E), (74, E)
        self._head, self._bias = tensors["fc_w"].T, tensors["fc_b"]  # (H, 74), (74,)
        self._index = {grapheme: i for i, grapheme in enumerate(graphemes)}
        self._phonemes = phonemes
        self._start, self._end = phonemes.index("<s>"), phonemes.index("</s>")

    def predict(self, words: Sequence[str]) -> list[Phonemes]:
        """The phonemes of B words, which run as one batch; KeyError for an unknown letter."""
        lengths = np.array([len(word) + 1 for word in words])
        letters = np.zeros((lengths.max(), len(words)), np.int64)  # <pad> behind the end
        for row, word in enumerate(words):
            letters[: lengths[row], row] = [self._index[g] for g in (*word, "</s>")]
        _, state = self.encoder(self._letters[letters], lengths=lengths)

        stream = self.decoder.stream(len(words), h_0=state)
        h = np.empty((len(words), self.decoder.hidden_size), np.float32)
        written = np.full((MAX_PHONEMES + 1, len(words)), self._start)
        done = np.zeros(len(words), np.bool_)
        for step in range(MAX_PHONEMES):
            stream.step(self._sounds[written[step]], out=h)
            written[step + 1] = (h @ self._head + self._bias).argmax(axis=1)
            done |= written[step + 1] == self._end
            if done.all():
                break
        return [self._spell(column) for column in written[1 : step + 2].T.tolist()]

    def calibrated(self, words: Sequence[str]) -> Self:
        """This network in int8, its weights rounded by what they meet while it spells `words`."""
        heard: dict[tuple[int, int], list[tuple[str, Phonemes]]] = {}
        for first in range(0, len(words), 256):
            some = words[first : first + 256]
            for word, phonemes in zip(some, self.predict(some), strict=True):
                heard.setdefault((len(word), len(phonemes)), []).append((word, phonemes))
        letters, sounds = [], []
        indices = {phoneme: i for i, phoneme in enumerate(self._phonemes)}
        for pairs in heard.values():  # of equal lengths: padding would be calibrated for, too
            spelled = [[self._index[g] for g in (*word, "</s>")] for word, _ in pairs]
            letters.append(self._letters[np.array(spelled).T])
            said = [[self._start, *(indices[p] for p in phonemes)] for _, phonemes in pairs]
            sounds.append((self._sounds[np.array(said).T], self.encoder(letters[-1])[1]))
        other = copy.copy(self)
        other.encoder = self.encoder.to("int8", calibration=letters)
        other.decoder = self.decoder.to("int8", calibration=sounds)
        return other

    def _spell(self, indices: list[int]) -> Phonemes:
        end = indices.index(self._end) if self._end in indices else len(indices)
        return [self._phonemes[i] for i in indices[:end]]


def _gru(tensors: dict[str, Float32Array], name: str, precision: str) -> fastgru.GRU:
    """The encoder ("enc") or decoder ("dec"), which have PyTorch's equations and order of gates."""
    names = {f"weight_{part}_l0": f"{name}_w_{part}" for part in ("ih", "hh")}
    names |= {f"bias_{part}_l0": f"{name}_b_{part}" for part in ("ih", "hh")}
    state = {ours: tensors[theirs] for ours, theirs in names.items()}
    return fastgru.GRU.from_state_dict(state, precision=precision)
