"""Tables of a results file: plain or rich for people, Markdown for the README."""

from __future__ import annotations

import argparse
import importlib
import math
import sys
from pathlib import Path

from benchmarks.cases import Case
from benchmarks.model_summary import all_lines
from benchmarks.peers import OURS, OWN, REDUCED
from benchmarks.results import CaseResult, Results, ResultsError, read_all
from benchmarks.summary import LABELS, peers_shown, speed


def microseconds(value: float) -> str:
    """Three significant digits, without an exponent: 1.07, 73.1, 16800."""
    if value <= 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(value)))
    rounded = float(f"{value:.3g}")
    return f"{rounded:.{digits}f}" if digits else f"{rounded:.0f}"


def kind(case: Case) -> str:
    """What T, B and H do not say, in words."""
    words: dict[str, list[str]] = {
        "call": [],
        "step": ["stream.step"],
        "step_out": ["stream.step, out="],
        "pool": ["pool.step"],
    }
    return ", ".join(words[case.mode] + case.words())


def _cell(row: CaseResult, name: str) -> str:
    peer = row.peers.get(name)
    if peer is None:
        return "-"
    if not peer.us:
        return (peer.problem or "-").partition(":")[0]
    shown = [f"{ratio['median']:.2f}x" for ratio in (peer.ratio, peer.own_ratio) if ratio]
    text = microseconds(peer.us["median"])
    return text + (f" ({'; '.join(shown)})" if shown and name not in OWN.values() else "")


def _own_cells(row: CaseResult, name: str) -> list[str]:
    """Beside the median of one of ours: its spread if it is float32, else its speed over that."""
    if name == OURS:
        us = row.peers[name].us if name in row.peers else {}
        quartiles = [microseconds(us[q]) for q in ("p25", "p75")] if us else []
        return ["-".join(quartiles), microseconds(us["p99"]) if us else ""]
    faster = speed(row, name)
    return [f"{faster:.2f}x" if faster else "-"]


def table(results: Results) -> tuple[list[str], list[list[str]]]:
    """Column titles and rows of strings."""
    peers = peers_shown(results)
    kinds = [kind(row.case) for row in results.cases]
    shares = {n for n in OWN.values() if any(row.share_of(n) for row in results.cases)}
    titles = ["T", "B", "H"] + (["kind"] if any(kinds) else [])
    for name in peers:
        titles.append(LABELS.get(name, name))
        if name in OWN.values():
            titles += ["p25-p75", "p99"] if name == OURS else ["speed"]
        titles += ["share"] if name in shares else []
    rows = []
    for row, words in zip(results.cases, kinds, strict=True):
        line = [str(row.case.T), str(row.case.B), str(row.case.H)]
        line += [words] if any(kinds) else []
        for name in peers:
            line.append(_cell(row, name))
            line += _own_cells(row, name) if name in OWN.values() else []
            if name in shares:
                share = row.share_of(name)
                line.append(f"{share:.2f}" if share else "-")
        rows.append(line)
    return titles, rows


def caption(results: Results) -> str:
    """What every quoted figure must carry: machine, versions, commit, date, samples, spread."""
    run, machine = results.run, results.run["machine"]
    timed = [peer for row in results.cases for peer in row.peers.values() if peer.us]
    calls = [peer.calls for peer in timed] or [0]
    spreads = [
        (ratio["p75"] - ratio["p25"]) / (2 * ratio["median"])
        for row in results.cases
        for name, peer in row.peers.items()
        for ratio in (peer.ratio, peer.own_ratio)
        if ratio and name != OURS
    ]
    flags = [f for f in ("avx512f", "avx2", "asimd") if f in machine["flags"]][:1]
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    chosen = {}
    for name in peers_shown(results):
        found = {row.peers[name].setting or "" for row in results.cases if name in row.peers} - {""}
        if found:
            chosen[name] = f"{LABELS.get(name, name)} with " + " or ".join(sorted(found))
    reduced = (
        " in float32, then in the peer's own precision; speed: over fastgru's own float32"
        if REDUCED.values() & chosen.keys()
        else ""
    )
    return (
        "Median microseconds of one call; in brackets, how many times fastgru's own time"
        f"{reduced} (interleaved in one process). "
        f"{machine['cpu']} (family/model {machine['cpu_family_model']}), "
        f"{machine['usable_cores']} cores{', virtual' if machine['virtual'] else ''}"
        f"{', ' + flags[0] if flags else ''}; {versions}; Python {machine['python']}; "
        + "; ".join(chosen.values())
        + f"; commit {run['commit'] or 'unknown'}; {run['date'][:10]}; "
        + f"{min(calls)} to {max(calls)} calls a cell"
        + (f"; half the quartile range of a ratio at most {max(spreads):.1%}" if spreads else "")
        + "."
    )


def markdown(results: Results) -> str:
    titles, rows = table(results)
    lines = ["| " + " | ".join(line) + " |" for line in [titles, *rows]]
    words = titles.index("kind") if "kind" in titles else -1
    rule = ["---" if column == words else "---:" for column in range(len(titles))]
    lines.insert(1, "| " + " | ".join(rule) + " |")
    lines += ["", caption(results), "", *(f"- {line}" for line in all_lines(results))]
    return "\n".join(lines)


def plain(results: Results) -> str:
    titles, rows = table(results)
    widths = [max(len(line[i]) for line in [titles, *rows]) for i in range(len(titles))]
    lines = [
        "  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True))
        for line in [titles, *rows]
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*lines, "", caption(results), *all_lines(results)])


def show(results: Results, *, as_markdown: bool = False) -> None:
    """Print to stdout: Markdown if asked, else plain, or rich on a terminal that is wide enough."""
    if as_markdown:
        print(markdown(results))
        return
    try:
        if not sys.stdout.isatty():
            raise ImportError
        console = importlib.import_module("rich.console").Console()
        rich_table = importlib.import_module("rich.table").Table()
    except ImportError:
        print(plain(results))
        return
    titles, rows = table(results)
    widths = [max(len(line[i]) for line in [titles, *rows]) for i in range(len(titles))]
    if console.width < sum(widths) + 3 * len(widths) + 1:  # it would cut figures off
        print(plain(results))
        return
    for title in titles:
        rich_table.add_column(title, justify="left" if title == "kind" else "right")
    for line in rows:
        rich_table.add_row(*line)
    console.print(rich_table)
    console.print("\n".join([caption(results), *all_lines(results)]), markup=False, highlight=False)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks report", description="Print the table and the summary of a run."
    )
    parser.add_argument("results", type=Path, nargs="+", help="files; the first one's machine")
    parser.add_argument("--markdown", action="store_true", help="for the README")
    parser.add_argument("--summary", action="store_true", help="without the table")
    options = parser.parse_args(argv)
    try:
        results = read_all(options.results)
        if options.summary:
            print("\n".join(all_lines(results)))
        else:
            show(results, as_markdown=options.markdown)
    except ResultsError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0
