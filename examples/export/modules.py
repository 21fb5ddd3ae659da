"""Five modules as people write them, each with a GRU; export.py makes fastgru models of them."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


class SequenceClassifier(nn.Module):
    """(B, T, features) -> (B, classes): one answer for a whole sequence."""

    def __init__(self, features: int = 12, hidden: int = 48, classes: int = 5) -> None:
        super().__init__()
        self.gru = nn.GRU(features, hidden, num_layers=2, batch_first=True, dropout=0.2)
        self.norm = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        h_0 = torch.zeros(self.gru.num_layers, x.size(0), self.gru.hidden_size, device=x.device)
        _, h_n = self.gru(x, h_0)
        return cast(Tensor, self.head(self.norm(h_n[-1])))


class Tagger(nn.Module):
    """Indices (B, T) -> (B, T, tags): an answer for each step, as log-probabilities."""

    def __init__(self, words: int = 200, tags: int = 9, hidden: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, 24, padding_idx=0)
        self.gru = nn.GRU(24, hidden, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(0.3)
        self.tags = nn.Linear(2 * hidden, tags)

    def forward(self, words: Tensor) -> Tensor:
        output, _ = self.gru(self.embedding(words))
        return torch.log_softmax(self.tags(self.dropout(output)), dim=-1)


class Forecaster(nn.Module):
    """(T, B, series) -> (B, series): the next value of each series."""

    def __init__(self, series: int = 7, hidden: int = 64) -> None:
        super().__init__()
        self.gru = nn.GRU(series, hidden, num_layers=2)
        self.head = nn.Sequential(nn.Linear(hidden, 32), nn.ReLU(), nn.Linear(32, series))

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.gru(x)
        return cast(Tensor, self.head(output[-1]))


class TextClassifier(nn.Module):
    """Indices (B, T) and lengths (B,) -> (B, classes), from the last states of both directions."""

    def __init__(self, words: int = 300, hidden: int = 40, classes: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, 32)
        self.gru = nn.GRU(32, hidden, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, classes)

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embedding(words), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        _, h_n = self.gru(packed)
        return cast(Tensor, self.head(torch.cat([h_n[-2], h_n[-1]], dim=1)))


class SpeechMask(nn.Module):
    """(B, T, bands) of log-power -> a mask (B, T, bands) of 0 to 1, step by step."""

    def __init__(self, bands: int = 32, hidden: int = 48) -> None:
        super().__init__()
        self.dense = nn.Sequential(nn.Linear(bands, hidden), nn.Tanh())
        self.first = nn.GRU(hidden, hidden, batch_first=True)
        self.second = nn.GRU(hidden, hidden, batch_first=True)
        self.mask = nn.Linear(hidden, bands)

    def forward(self, bands: Tensor) -> Tensor:
        x = self.dense(bands)
        x, _ = self.first(x)
        x, _ = self.second(x)
        return torch.sigmoid(self.mask(x))


MODULES = (SequenceClassifier, Tagger, Forecaster, TextClassifier, SpeechMask)
