"""Run cases: every answer checked, every peer timed, interleaved, in this one process.

A peer that is not installed or has no such network is left out with a line that says so. A peer
whose answer is wrong, or that fails, is not timed and makes the exit status 1.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import environment, measure, report, roofline
from benchmarks.cases import DEFAULT_SETS, SETS, Case, select
from benchmarks.compiled import CompileError
from benchmarks.peers import AGAINST, BEFORE, BY_HAND, MODULES, OWN
from benchmarks.results import SCHEMA, CaseResult, Results, Writer


def names_from(known: Collection[str], text: str) -> list[str]:
    """A comma-separated option whose parts must be known."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"{text!r}: expected some of {', '.join(known)}")
    return names


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 or more")
    return value


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks run", description="Time fastgru beside its peers."
    )
    add = parser.add_argument
    add(
        "--sets",
        type=lambda text: names_from(SETS, text),
        default=list(DEFAULT_SETS),
        metavar="A,B",
        help=f"of {', '.join(SETS)}; default {','.join(DEFAULT_SETS)}",
    )
    add(
        "--cases",
        nargs="+",
        default=[],
        metavar="GLOB",
        help="of those, only cases with such a name, for example 'T100-*-H256'",
    )
    add(
        "--threads",
        nargs="+",
        type=positive,
        default=[],
        metavar="N",
        help="run each case with each of these numbers of threads, instead of its own",
    )
    add(
        "--only-threads",
        type=positive,
        metavar="N",
        help="of the cases, only those with this number of threads",
    )
    add(
        "--peers",
        type=lambda text: names_from(MODULES, text),
        default=[name for name in MODULES if name not in BY_HAND],
        metavar="A,B",
        help=f"of {', '.join(MODULES)}; default all but {', '.join(BY_HAND)}",
    )
    add("--onednn", type=Path, metavar="DIR", help="oneDNN with include/ and lib/, for its peer")
    add(
        "--rtneural",
        type=Path,
        metavar="DIR",
        help="a checkout of RTNeural; adds the peer rtneural",
    )
    add(
        "--against",
        type=Path,
        metavar="PYTHON",
        help="a Python with another build of fastgru: it takes turns with ours, in a process of "
        "its own as ours then is, and the summary tells the two apart",
    )
    add("--budget", type=float, default=3.0, help="seconds a case, all peers; default %(default)s")
    add("--min-rounds", type=positive, default=7, help="rounds even beyond it; default %(default)s")
    add(
        "--avx2",
        action="store_true",
        help="hold fastgru, PyTorch and oneDNN to AVX2 on a CPU with more",
    )
    add("--no-probe", action="store_true", help="do not measure the machine, so no share of limit")
    add("--json", type=Path, metavar="FILE", help="write results as JSON lines (overwritten)")
    add("--append", action="store_true", help="to that file instead: one more run of the same kind")
    add("--markdown", action="store_true", help="print the table for the README")
    add("--list", action="store_true", help="print the names of the cases and stop")
    return parser


def probe_or_none(cases: list[Case]) -> dict[str, Any] | None:
    """The roofline of this machine for the numbers of threads in use; None, with a line, without.

    Runs before anything else is loaded, in a process of its own.
    """
    try:
        measured = roofline.probe({case.threads for case in cases})
    except CompileError as error:
        print(f"no share of limit: {error}", file=sys.stderr)
        return None
    if measured["cores"] < max(case.threads for case in cases):
        print(
            f"the limit of more threads is that of {measured['cores']} core(s): "
            "this process may use no more",
            file=sys.stderr,
        )
    return measured


def progress(row: CaseResult, number: int, total: int) -> str:
    """One line a case and one a peer: what was compared, chosen and measured."""
    share = f"  share of limit {row.share:.2f}" if row.share else ""
    lines = [f"[{number}/{total}] {row.case.name}{share}"]
    for name, peer in row.peers.items():
        if peer.problem:
            lines.append(f"    {name:<19} {peer.problem}")
            continue
        ratio = f"{peer.ratio['median']:8.2f}x" if peer.ratio else ""
        lines.append(
            f"    {name:<19} {report.microseconds(peer.us['median']):>9} us {ratio}  "
            f"{peer.calls} calls, {peer.setting}, max abs diff {peer.max_abs_diff:.1e}"
        )
        if peer.parts:
            each = [f"{n} {report.microseconds(part['us'])}" for n, part in peer.parts.items()]
            lines.append(f"    {'':<19} {'its parts':>9}: {', '.join(each)}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(argv)
    cases = select(options.sets, options.cases, options.threads)
    if options.only_threads:
        cases = [case for case in cases if case.threads == options.only_threads]
    if not cases:
        parser.error(f"no such case in {', '.join(options.sets)}")
    if options.list:
        print("\n".join(case.name for case in cases))
        return 0

    for name, where in (("ONEDNN_DIR", options.onednn), ("RTNEURAL_DIR", options.rtneural)):
        if where:
            os.environ[name] = str(where.resolve())
    if options.against:
        # Not resolved: a virtual environment's Python is a link, and knows itself by its own path.
        os.environ[AGAINST] = str(options.against.absolute())
        before = [BEFORE[p] for p, name in OWN.items() if name in options.peers]
        options.peers += [name for name in before if name not in options.peers]
    if options.rtneural and "rtneural" not in options.peers:
        options.peers.append("rtneural")
    if options.avx2:
        environment.hold_to_avx2()
    described = environment.describe()
    measured = None if options.no_probe else probe_or_none(cases)
    environment.set_thread_variables(max(case.threads for case in cases))
    # Imports numpy, which reads the variables just set.
    from benchmarks import harness  # noqa: PLC0415

    say = harness.say
    busy = environment.busy_warning()
    if busy:
        say(f"warning: {busy}")
    peers = harness.load_peers(options.peers)
    if not peers:
        say("no peer is installed")
        return 2
    header = {
        "kind": "run",
        "schema": SCHEMA,
        **described,
        "clock_overhead_us": measure.clock_overhead_us(),
        "options": {"budget_s": options.budget, "min_rounds": options.min_rounds},
        "probe": measured,
    }
    results = Results(header)
    try:
        writer = Writer(options.json, append=options.append)
    except OSError as error:
        say(f"{parser.prog}: {options.json}: {error.strerror}")
        return 2
    writer.write(header)
    try:
        for number, case in enumerate(cases, 1):
            row = harness.run_case(
                case,
                peers,
                budget_s=options.budget,
                min_rounds=options.min_rounds,
                probe=measured,
            )
            results.cases.append(row)
            writer.write(row.to_json())
            say(progress(row, number, len(cases)))
    except KeyboardInterrupt:
        say("interrupted: the table has the cases measured so far")
    finally:
        writer.close()
    report.show(results, as_markdown=options.markdown)
    problems = [p.problem or "" for row in results.cases for p in row.peers.values()]
    return 1 if any(p.startswith(("wrong", "failed")) for p in problems) else 0


if __name__ == "__main__":
    raise SystemExit(main())
