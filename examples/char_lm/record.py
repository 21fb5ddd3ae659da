"""Writes what PyTorch computes from an exported character model, as a JSON file beside it.

The record lets a program without PyTorch check itself: for each prompt the logits after the last
character of the prompt, the greedy continuation, and the logits after its last character. The
smallest gap between the best and second-best logit says how much rounding the continuation
survives; the script refuses to write a record in which it is below 1e-3.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from models import CharLM, encode, load
from torch import Tensor
from torch.nn.functional import one_hot

# Chosen among many for a readable greedy continuation with a wide margin.
PROMPTS = {
    "torch": [
        "The Psychologist recovered ",
        "My plan was to go ",
        "No doubt in that perfect ",
        "He came a step forward, ",
        "For a minute ",
    ],
    "d2l": [
        "Then I felt other soft ",
        "A colossal figure, carved apparently ",
        "Long ago I had ",
        "So long as I travelled ",
        "Suppressing a strong ",
    ],
}
CONTINUATION = 200  # characters
MIN_MARGIN = 1e-3


def feed(model: CharLM, indices: Tensor, h: Tensor, vocabulary_size: int) -> tuple[Tensor, Tensor]:
    """Logits (V,) after the last of the characters (T,), and the new state (1, H)."""
    logits, h = model(one_hot(indices, vocabulary_size).float().unsqueeze(1), h)
    return logits[-1, 0], h


def record(model: CharLM, prompt: str, vocabulary: str) -> dict[str, Any]:
    """The record of one prompt, from a zero state."""
    h = torch.zeros(1, model.hidden_size)
    logits, h = feed(model, encode(prompt, vocabulary), h, len(vocabulary))
    prompt_logits = logits
    continuation = ""
    margin = float("inf")
    for _ in range(CONTINUATION):
        best, second = logits.topk(2).values.tolist()
        margin = min(margin, best - second)
        character = logits.argmax()
        continuation += vocabulary[int(character)]
        logits, h = feed(model, character.view(1), h, len(vocabulary))
    return {
        "prompt": prompt,
        "continuation": continuation,
        "min_margin": margin,
        # As doubles, whose shortest decimal form gives back every float32 exactly.
        "prompt_logits": prompt_logits.tolist(),
        "final_logits": logits.tolist(),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Record PyTorch's results for a character model.")
    parser.add_argument("model", type=Path, help="safetensors file written by train.py")
    args = parser.parse_args()

    torch.set_num_threads(1)
    model, metadata = load(args.model)
    with torch.inference_mode():
        records = [record(model, p, metadata["vocabulary"]) for p in PROMPTS[metadata["model"]]]
    for entry in records:
        print(f"margin {entry['min_margin']:.4f}: [{entry['prompt']}]{entry['continuation']}\n")
    fragile = [entry["prompt"] for entry in records if entry["min_margin"] < MIN_MARGIN]
    if fragile:
        raise SystemExit(f"margin below {MIN_MARGIN}, choose other prompts than: {fragile}")

    out = args.model.with_suffix(".json")
    content = {
        "model": metadata["model"],
        "torch_version": torch.__version__,
        "vocabulary": metadata["vocabulary"],
        "perplexity": float(metadata["perplexity"]),
        "prompts": records,
    }
    out.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"{out}: {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
