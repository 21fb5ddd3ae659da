"""`python -m benchmarks [COMMAND] ...`: one of COMMANDS, run by default."""

from __future__ import annotations

import sys

from benchmarks import compare, errors, full, memory, plots, report, roofline, run, sessions, starts

COMMANDS = {
    "run": run.main,
    "full": full.main,
    "probe": roofline.main,
    "compare": compare.main,
    "errors": errors.main,
    "memory": memory.main,
    "starts": starts.main,
    "sessions": sessions.main,
    "report": report.main,
    "plot": plots.main,
}


def main(argv: list[str]) -> int:
    if argv and argv[0] in COMMANDS:
        return COMMANDS[argv[0]](argv[1:])
    if argv and not argv[0].startswith("-"):
        print(f"unknown command {argv[0]!r}: expected {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return run.main(argv)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
