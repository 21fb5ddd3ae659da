"""Trains a character language model on a text and exports it as a safetensors file.

Deliberately a plain program: one text, no validation split. The perplexity it reports is on the
training text: the aim is a small model that writes readable text, to try an inference library on.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

from files import CHAPTER, read_text, stop

try:
    import torch
    from models import MODELS, CharLM, build_vocabulary, encode
    from safetensors import SafetensorError
    from safetensors.torch import save_file
    from torch import Tensor
    from torch.nn.functional import cross_entropy, one_hot
except ModuleNotFoundError as error:
    stop(f"{error}: pip install torch safetensors")

WINDOW = 35  # characters of a training or evaluation window, as in the book
# Chance that a row starts anew at a window: the perplexity is measured from zero states, and
# free-running text needs carried ones.
RESTART = 0.15


def perplexity(model: CharLM, data: Tensor, vocabulary_size: int) -> float:
    """Perplexity over consecutive windows of 35 characters, each from a zero state. data: (N,)."""
    windows = (len(data) - 1) // WINDOW
    inputs = data[: windows * WINDOW].view(windows, WINDOW)
    targets = data[1 : windows * WINDOW + 1].view(windows, WINDOW)
    total = 0.0
    with torch.inference_mode():
        for x, y in zip(torch.split(inputs, 512), torch.split(targets, 512), strict=True):
            h = torch.zeros(len(x), model.hidden_size)
            logits, _ = model(one_hot(x.T, vocabulary_size).float(), h)
            total += cross_entropy(logits.flatten(0, 1), y.T.flatten(), reduction="sum").item()
    return math.exp(total / (windows * WINDOW))


def train(
    model: CharLM, data: Tensor, vocabulary_size: int, *, epochs: int, batch_size: int, lr: float
) -> None:
    """Adam with a cosine decay, in place. data: (N,).

    A row of the batch walks through the text and keeps its state, and restarts now and then at a
    random place from a zero state.
    """
    batches = len(data) // (WINDOW * batch_size)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, total_steps=epochs * batches, pct_start=0.05
    )
    last_start = len(data) - WINDOW - 1
    start = torch.randint(last_start + 1, (batch_size,))
    h = torch.zeros(batch_size, model.hidden_size)
    began = time.monotonic()
    for epoch in range(1, epochs + 1):
        loss_sum = 0.0
        for _ in range(batches):
            restart = (torch.rand(batch_size) < RESTART) | (start > last_start)
            start = torch.where(restart, torch.randint(last_start + 1, (batch_size,)), start)
            h = h.detach() * ~restart.unsqueeze(1)
            window = data[start + torch.arange(WINDOW + 1).unsqueeze(1)]  # (WINDOW + 1, B)
            logits, h = model(one_hot(window[:-1], vocabulary_size).float(), h)
            loss = cross_entropy(logits.flatten(0, 1), window[1:].flatten())
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            loss_sum += loss.item()
            start = start + WINDOW
        line = f"epoch {epoch:3}: training perplexity {math.exp(loss_sum / batches):.3f}"
        if epoch % 5 == 0:
            line += f", from zero states {perplexity(model, data, vocabulary_size):.3f}"
        print(f"{line}, {time.monotonic() - began:.0f} s", flush=True)


def at_least(least: int) -> Callable[[str], int]:
    """What argparse reads a whole number with."""

    def read(text: str) -> int:
        number = int(text)
        if number < least:
            raise argparse.ArgumentTypeError(f"expected at least {least}, got {text}")
        return number

    read.__name__ = "whole number"  # what argparse calls it where `text` is none
    return read


def run(args: argparse.Namespace) -> None:
    """Trains, measures and writes the file; ValueError and OSError say what is wrong."""
    text = read_text(args.text)
    least = WINDOW * args.batch_size + 2
    if len(text) < least:
        raise ValueError(
            f"{args.text}: expected at least {least:,} characters for batches of "
            f"{args.batch_size} windows, got {len(text):,}: take a longer text or a smaller "
            "--batch-size"
        )
    if not args.lr > 0:
        raise ValueError(f"--lr: expected a number above 0, got {args.lr}")
    if args.out.is_dir() or not args.out.parent.is_dir():  # said before minutes of training
        raise ValueError(f"--out: expected a file in a folder that exists, got {args.out}")

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    vocabulary = build_vocabulary(text)
    data = encode(text, vocabulary)
    model = MODELS[args.model](len(vocabulary))
    began = time.monotonic()
    train(
        model,
        data,
        len(vocabulary),
        epochs=args.epochs,
        batch_size=args.batch_size,
        lr=args.lr,
    )
    result = perplexity(model, data, len(vocabulary))
    metadata = {"vocabulary": vocabulary, "perplexity": f"{result:.4f}", "model": args.model}
    try:
        save_file(model.state_dict(), args.out, metadata)
    except SafetensorError as error:
        raise OSError(f"{args.out}: {error}") from None
    print(
        f"{args.out}: perplexity {result:.4f}, {args.out.stat().st_size:,} bytes, "
        f"trained in {time.monotonic() - began:.0f} s"
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train a character language model.")
    parser.add_argument(
        "--text", type=Path, default=CHAPTER, help="the text, UTF-8 (default: the book's chapter I)"
    )
    parser.add_argument("--model", choices=sorted(MODELS), required=True)
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--epochs", type=at_least(1), default=80)
    parser.add_argument("--batch-size", type=at_least(1), default=32)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1895)
    parser.add_argument("--threads", type=at_least(1), default=1)
    args = parser.parse_args()
    try:
        run(args)
    except (ValueError, OSError) as error:
        stop(error)


if __name__ == "__main__":
    main()
