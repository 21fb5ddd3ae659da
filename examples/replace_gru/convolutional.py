"""Two models of the kind that GRUs are found in: behind convolutions.

`Enhancer` is a convolutional recurrent speech enhancer: it takes a noisy recording and gives one of
the same length, each time and frequency attenuated by a mask. `Tagger` gives each token of a
sentence a score for every tag. Plain PyTorch: neither knows of fastgru.

Letters: B batch, T time, C channels, F frequencies.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class Down(nn.Module):
    """(B, C, T, F) -> (B, C', T, about F / 2); a frame sees itself and the one before."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, (2, 3), stride=(1, 2), padding=(1, 0))
        self.norm = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.elu(self.norm(self.conv(x)[:, :, :-1]))


class Up(nn.Module):
    """The way back; `extra` adds the frequency that an even number of them lost."""

    def __init__(self, channels: int, out: int, extra: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(
            channels, out, (2, 3), stride=(1, 2), output_padding=(0, extra)
        )
        self.norm = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.elu(self.norm(self.conv(x)[:, :, :-1]))


class Enhancer(nn.Module):
    """Five convolutions down, a two-layer GRU over time, five up, each beside its counterpart.

    16 kHz, frames of 20 ms every 10 ms: 161 frequencies become 80, 39, 19, 9 and 4.
    """

    window: Tensor

    def __init__(self, channels: tuple[int, ...] = (16, 32, 48, 64, 64)) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(320), persistent=False)
        self.down = nn.ModuleList(map(Down, (1, *channels), channels))
        self.gru = nn.GRU(4 * channels[-1], 4 * channels[-1], num_layers=2, batch_first=True)
        backwards = channels[::-1]
        self.up = nn.ModuleList(
            Up(2 * c, out, extra)
            for c, out, extra in zip(backwards, (*backwards[1:], 1), (0, 0, 0, 1, 0), strict=True)
        )

    def forward(self, audio: Tensor) -> Tensor:
        """Audio (B, samples) -> (B, samples)."""
        spectrum = torch.stft(audio, 320, 160, window=self.window, return_complex=True)
        x = spectrum.abs().transpose(1, 2).unsqueeze(1)  # (B, 1, T, F)
        skipped = []
        for down in self.down:
            x = down(x)
            skipped.append(x)
        batch, channels, frames, frequencies = x.shape
        features, _ = self.gru(x.transpose(1, 2).flatten(2))
        x = features.view(batch, frames, channels, frequencies).transpose(1, 2)
        for up in self.up:
            x = up(torch.cat([x, skipped.pop()], 1))
        mask = torch.sigmoid(x[:, 0]).transpose(1, 2)
        return torch.istft(spectrum * mask, 320, 160, window=self.window, length=audio.shape[1])


class Tagger(nn.Module):
    """Embedding, a convolution over three tokens, a bidirectional GRU, a linear head."""

    def __init__(self, tokens: int = 10_000, tags: int = 17, size: int = 128) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, size)
        self.conv = nn.Conv1d(size, size, 3, padding=1)
        self.gru = nn.GRU(size, size, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * size, tags)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Tokens (B, T), of which lengths (B,) are valid -> scores (B, T, tags)."""
        x = torch.relu(self.conv(self.embedding(tokens).transpose(1, 2))).transpose(1, 2)
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        output, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True)
        scores: Tensor = self.head(output)
        return scores
