"""Compares two PyTorch models with themselves after `fastgru.torch.replace_gru`, and times both.

Weights are random, of a fixed seed: they decide neither times nor whether results agree. Both
take the same input in turns, so that whatever else the machine does meets both. With one thread
(the default) it is CPU time that counts, which other programs disturb least.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

try:
    import torch
    from convolutional import Enhancer, Tagger
    from torch import Tensor, nn
except ModuleNotFoundError as error:
    print(f"measure.py: {error}: pip install torch", file=sys.stderr)
    raise SystemExit(2) from None

import fastgru


@dataclass
class Case:
    """A model as it is and replaced, an input of it, and what was found."""

    name: str
    what: str
    plain: nn.Module
    fast: nn.Module
    arguments: tuple[Tensor, ...]
    clock: Callable[[], float]
    difference: float = 0
    plain_times: list[float] = field(default_factory=list)
    gru_times: list[float] = field(default_factory=list)
    fast_times: list[float] = field(default_factory=list)

    def compare(self) -> None:
        """Largest difference of any output, of numbers near 1; also warms up."""
        plain, fast = self.plain(*self.arguments), self.fast(*self.arguments)
        self.difference = float((plain - fast).abs().max())

    def run(self) -> None:
        """One round."""
        for model, times in ((self.plain, self.plain_times), (self.fast, self.fast_times)):
            start = self.clock()
            model(*self.arguments)
            times.append(self.clock() - start)
        self.gru_times.append(self.gru_time())

    def gru_time(self) -> float:
        """What one call of the plain model spends in its GRU."""
        starts: list[float] = []
        ends: list[float] = []
        hooks = []
        for part in self.plain.modules():
            if isinstance(part, nn.GRU):
                hooks += [
                    part.register_forward_pre_hook(lambda *_: starts.append(self.clock())),
                    part.register_forward_hook(lambda *_: ends.append(self.clock())),
                ]
        self.plain(*self.arguments)
        for hook in hooks:
            hook.remove()
        return sum(ends) - sum(starts)

    def row(self) -> str:
        """Of the table."""
        plain, fast = statistics.median(self.plain_times), statistics.median(self.fast_times)
        pairs = zip(self.plain_times, self.fast_times, strict=True)
        ratios = sorted(p / f for p, f in pairs)
        low, high = ratios[len(ratios) // 4], ratios[len(ratios) * 3 // 4]
        return (
            f"| {self.name}: {self.what} | {1e3 * plain:.3g} | "
            f"{statistics.median(self.gru_times) / plain:.0%} | {1e3 * fast:.3g} | "
            f"{statistics.median(ratios):.2f} ({low:.2f} to {high:.2f}) | {self.difference:.1g} |"
        )


def cases(precision: str, clock: Callable[[], float]) -> list[Case]:
    """Both models, with inputs as a service and a batch job have them."""
    torch.manual_seed(0)
    enhancer, tagger = Enhancer().eval(), Tagger().eval()
    found: list[tuple[str, str, nn.Module, tuple[Tensor, ...]]] = []
    for what, batch, length in (("0.1 s", 1, 0.1), ("1 s", 1, 1), ("8 x 4 s", 8, 4)):
        audio = torch.randn(batch, int(16_000 * length))
        found.append(("enhancer", what, enhancer, (audio,)))
    for what, batch in (("1 sentence", 1), ("32 sentences", 32)):
        lengths = torch.randint(5, 41, (batch,)) if batch > 1 else torch.tensor([25])
        tokens = torch.randint(10_000, (batch, int(lengths.max())))
        found.append(("tagger", what, tagger, (tokens, lengths)))
    models: tuple[nn.Module, ...] = (enhancer, tagger)
    fast = {
        model: fastgru.torch.replace_gru(copy.deepcopy(model), precision=precision)
        for model in models
    }
    return [Case(name, what, model, fast[model], x, clock) for name, what, model, x in found]


def at_least_one(text: str) -> int:
    """What argparse reads a count with."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {text}")
    return int(text)


def run(args: argparse.Namespace) -> None:
    """Measures and prints; ValueError for a precision that there is not."""
    torch.set_num_threads(args.threads)  # fastgru's GRUs keep to it
    with torch.inference_mode():
        one = args.threads == 1
        entries = cases(args.precision, time.process_time if one else time.perf_counter)
        for entry in entries:
            entry.compare()
        for _ in range(args.rounds):
            for entry in entries:
                entry.run()
    print("| model: input | PyTorch, ms | its GRU | replaced, ms | times | difference |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for entry in entries:
        print(entry.row())
    cpu = fastgru.cpu_info()
    print(f"\n{cpu.cpu}, {cpu.isa}; torch {torch.__version__}, {args.threads} threads")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Two PyTorch models with fastgru's GRUs.")
    parser.add_argument("--rounds", type=at_least_one, default=51, help="default %(default)s")
    parser.add_argument(
        "--threads", type=at_least_one, default=1, help="of both (default %(default)s)"
    )
    parser.add_argument("--precision", default="float32", help="of fastgru's weights")
    args = parser.parse_args()
    try:
        run(args)
    except ValueError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
