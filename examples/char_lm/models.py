"""Two character language models, one for each GRU equation, and the vocabulary they share.

`TorchCharLM` uses `torch.nn.GRU`: the reset gate is applied after the recurrent product.
`D2LCharLM` is the from-scratch GRU of "Dive into Deep Learning": the reset gate is applied to the
state before the product, and parameters multiply from the right. Both have a linear head and the
same interface, so that one training loop and one recorder serve them.

Letters: T time, B batch, V vocabulary size, H hidden size.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

HIDDEN_SIZE = 256


def build_vocabulary(text: str) -> str:
    """The distinct characters of `text`, sorted; a character's index is its place in the string."""
    return "".join(sorted(set(text)))


def encode(text: str, vocabulary: str) -> Tensor:
    """Indices of the characters of `text`, (len(text),) int64; ValueError for unknown ones."""
    index = {character: i for i, character in enumerate(vocabulary)}
    unknown = build_vocabulary("".join(c for c in text if c not in index))
    if unknown:
        raise ValueError(f"characters outside the vocabulary: {unknown!r}")
    return torch.tensor([index[c] for c in text], dtype=torch.int64)


class TorchCharLM(nn.Module):
    """`torch.nn.GRU` over one-hot characters, then `torch.nn.Linear` to the logits."""

    def __init__(self, vocabulary_size: int, hidden_size: int = HIDDEN_SIZE) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.gru = nn.GRU(vocabulary_size, hidden_size)
        self.head = nn.Linear(hidden_size, vocabulary_size)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (T, B, V) and last state (B, H) from one-hot x (T, B, V) and state h (B, H)."""
        output, h_n = self.gru(x, h.unsqueeze(0))
        return self.head(output), h_n.squeeze(0)


class D2LCharLM(nn.Module):
    """The from-scratch GRU of "Dive into Deep Learning", with the book's parameter names."""

    def __init__(self, vocabulary_size: int, hidden_size: int = HIDDEN_SIZE) -> None:
        super().__init__()
        self.hidden_size = hidden_size

        def weight(rows: int, columns: int) -> nn.Parameter:
            # The book draws with a deviation of 0.01; this is the usual 1 / sqrt(H).
            return nn.Parameter(torch.randn(rows, columns) / hidden_size**0.5)

        def triple() -> tuple[nn.Parameter, nn.Parameter, nn.Parameter]:
            return (
                weight(vocabulary_size, hidden_size),
                weight(hidden_size, hidden_size),
                nn.Parameter(torch.zeros(hidden_size)),
            )

        self.W_xz, self.W_hz, self.b_z = triple()
        self.W_xr, self.W_hr, self.b_r = triple()
        self.W_xh, self.W_hh, self.b_h = triple()
        self.W_hq = weight(hidden_size, vocabulary_size)
        self.b_q = nn.Parameter(torch.zeros(vocabulary_size))

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (T, B, V) and last state (B, H) from one-hot x (T, B, V) and state h (B, H)."""
        states = []
        for x_t in x:
            z = torch.sigmoid(x_t @ self.W_xz + h @ self.W_hz + self.b_z)
            r = torch.sigmoid(x_t @ self.W_xr + h @ self.W_hr + self.b_r)
            candidate = torch.tanh(x_t @ self.W_xh + (r * h) @ self.W_hh + self.b_h)
            h = z * h + (1 - z) * candidate
            states.append(h)
        return torch.stack(states) @ self.W_hq + self.b_q, h


CharLM = TorchCharLM | D2LCharLM
MODELS: dict[str, type[TorchCharLM] | type[D2LCharLM]] = {"torch": TorchCharLM, "d2l": D2LCharLM}


def load(path: Path) -> tuple[CharLM, dict[str, str]]:
    """The model in a file written by `train.py`, and the file's metadata.

    Raises ValueError for any other file, and OSError.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file ({error})") from None
    if missing := {"model", "perplexity", "vocabulary"} - set(metadata):
        raise ValueError(
            f"{path}: expected a file of train.py, got one whose metadata lack "
            f"{', '.join(sorted(missing))}"
        )
    if metadata["model"] not in MODELS:
        raise ValueError(f"{path}: expected a model {' or '.join(MODELS)}, got another one")
    model = MODELS[metadata["model"]](len(metadata["vocabulary"]))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path}: {error}") from None
    return model.eval(), metadata
