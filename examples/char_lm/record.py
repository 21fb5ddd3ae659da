"""Prints what PyTorch computes from an exported character model, and writes it as JSON where asked.

The record lets a program without PyTorch check itself: for each prompt the logits after the last
character of the prompt, the greedy continuation, and the logits after its last character. The
smallest gap between the best and second-best logit says how much rounding the continuation
survives; the script refuses a record in which it is below 1e-3.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from files import MODEL_FILES, model_file, stop

try:
    import torch
    from models import CharLM, encode, load
    from torch import Tensor
    from torch.nn.functional import one_hot
except ModuleNotFoundError as error:
    stop(f"{error}: pip install torch safetensors")

# Chosen among many for a readable greedy continuation with a wide margin, by the models that are
# there; a model that was trained anew may need others.
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


def run(args: argparse.Namespace) -> None:
    """Prints the record, and writes it where `args.out` says; ValueError, OSError."""
    path = model_file(args.model)
    model, metadata = load(path)
    vocabulary = metadata["vocabulary"]
    prompts = args.prompt or PROMPTS[metadata["model"]]
    if "" in prompts:
        raise ValueError("--prompt: expected at least one character, got none")
    torch.set_num_threads(1)
    with torch.inference_mode():
        records = [record(model, prompt, vocabulary) for prompt in prompts]
    for entry in records:
        print(f"margin {entry['min_margin']:.4f}: [{entry['prompt']}]{entry['continuation']}\n")
    fragile = [entry["prompt"] for entry in records if entry["min_margin"] < MIN_MARGIN]
    if fragile:
        raise ValueError(
            f"two characters are nearly equally likely (margin below {MIN_MARGIN}) somewhere after "
            f"{fragile}: choose others with --prompt"
        )
    if args.out is None:
        return
    content = {
        "model": metadata["model"],
        "torch_version": torch.__version__,
        "vocabulary": vocabulary,
        "perplexity": float(metadata["perplexity"]),
        "prompts": records,
    }
    args.out.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"{args.out}: {args.out.stat().st_size:,} bytes")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Record PyTorch's results for a character model.")
    parser.add_argument(
        "model", help=f"a file of train.py, or {' or '.join(MODEL_FILES)}: one that is there"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="JSON file to write (default: none); precision.py looks for MODEL's",
    )
    parser.add_argument(
        "--prompt", action="append", help="to start from, again for more (default: five)"
    )
    args = parser.parse_args()
    try:
        run(args)
    except (ValueError, OSError) as error:
        stop(error)


if __name__ == "__main__":
    main()
