"""What the benchmark says of reduced precisions, from made-up figures: nothing here is timed."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent))  # benchmarks/ is never installed

from benchmarks import compare, harness, measure, report
from benchmarks.cases import Case, square
from benchmarks.inputs import make_inputs, right_answer
from benchmarks.limit import Machine, limit_us
from benchmarks.peers import MODULES, OWN, REDUCED, Runner, load
from benchmarks.plots import load_matplotlib, ratios, share
from benchmarks.results import CaseResult, PeerResult, Results, Writer, read
from benchmarks.summary import LABELS, summary

PRECISIONS = {
    **{name: precision for precision, name in OWN.items()},
    "torch": "float32",
    "torch_int8": "int8",
    "openvino_bf16": "bfloat16",
}
READS = ((1024, 100.0),)
COMPUTE = square(10, 128, 256)  # decided by the peak
MEMORY = square(1, 1, 256)  # decided by the reads
RUN: dict[str, Any] = {
    "kind": "run",
    "schema": 1,
    "date": "2026-01-01T00:00:00+00:00",
    "commit": None,
    "machine": {"cpu": "C", "usable_cores": 1, "flags": [], "python": "3"}
    | {"cpu_family_model": "6/1", "virtual": False},
    "versions": {},
    "environment": {},
    "probe": None,
}


def result(name: str, us: float, ratio: float, own: float | None = None) -> PeerResult:
    """A timed peer with the same spread everywhere."""
    found = PeerResult(version="1", setting="avx512", precision=PRECISIONS[name], calls=1, rounds=1)
    found.us = dict.fromkeys(("median", "p25", "p75", "p99"), us)
    found.ratio = dict.fromkeys(("median", "p25", "p75"), ratio)
    found.own_ratio = dict.fromkeys(found.ratio, own) if own else {}
    return found


def cell(case: Case, us: float, bfloat16: float, int8: float) -> CaseResult:
    """`us` of float32 and the speeds of the others. int8 ties with its peer; bfloat16 loses."""
    row = CaseResult(
        case,
        {
            "fastgru": result("fastgru", us, 1.0),
            "fastgru_bf16": result("fastgru_bf16", us / bfloat16, 1 / bfloat16),
            "fastgru_int8": result("fastgru_int8", us / int8, 1 / int8),
            "torch": result("torch", 3 * us, 3.0),
            "torch_int8": result("torch_int8", us / int8, 1 / int8, 1.0),
            "openvino_bf16": result("openvino_bf16", us / bfloat16 / 2, 0.5 / bfloat16, 0.5),
        },
        limit_us=us * 0.8,
        share=0.8,
    )
    row.peers["fastgru_bf16"].share, row.peers["fastgru_int8"].share = 0.6, 0.4
    return row


@pytest.fixture
def results() -> Results:
    return Results(
        RUN,
        [
            cell(square(100, 1, 256), 1000, 2.0, 4.0),
            cell(square(100, 8, 256), 8000, 0.5, 1.0),
            cell(square(100, 1, 64), 100, 1.0, 2.0),
            cell(square(1, 1, 64, mode="step"), 2, 1.0, 2.0),
        ],
    )


def without_reduced(results: Results) -> Results:
    """The same as an older benchmark wrote it."""
    rows = []
    for row in results.cases:
        kept = {
            name: replace(peer, own_ratio={})
            for name, peer in row.peers.items()
            if name not in REDUCED.values()
        }
        rows.append(CaseResult(row.case, kept, row.limit_us, row.share))
    return Results(results.run, rows)


def test_bfloat16_is_limited_by_the_better_of_its_dot_and_fma() -> None:
    """Weights can be widened: a slow dot, or none, must not make the limit easier to reach."""
    float32 = limit_us(COMPUTE, Machine({"float32": 100.0}, READS))
    slow, none, fast = (
        limit_us(COMPUTE, Machine({"float32": 100.0} | more, READS), "bfloat16")
        for more in ({"bfloat16": 50.0}, {}, {"bfloat16": 200.0})
    )
    assert float32 is not None
    assert fast is not None
    assert slow == none == float32
    gates = 100 * 10 * 128 * 256 / 100.0 * 1e-3  # in float32 whatever the precision
    assert fast - gates == pytest.approx((float32 - gates) / 2)


def test_int8_is_limited_by_its_dot_alone() -> None:
    """The limit refuses to know what a program does; a CPU without a dot has none."""
    float32 = limit_us(COMPUTE, Machine({"float32": 100.0}, READS))
    assert limit_us(COMPUTE, Machine({"float32": 100.0}, READS), "int8") is None
    slow = limit_us(COMPUTE, Machine({"float32": 100.0, "int8": 50.0}, READS), "int8")
    assert slow is not None
    assert float32 is not None
    assert slow > float32


@pytest.mark.parametrize(("precision", "part"), [("bfloat16", 2), ("int8", 4)])
def test_reads_are_limited_by_the_bytes_of_the_precision(precision: str, part: int) -> None:
    machine = Machine({"float32": 1000.0, "bfloat16": 1000.0, "int8": 1000.0}, READS)
    gates = 100 * 256 / 1000.0 * 1e-3
    reduced, float32 = limit_us(MEMORY, machine, precision), limit_us(MEMORY, machine)
    assert reduced is not None
    assert float32 is not None
    assert reduced - gates == pytest.approx((float32 - gates) / part)


def test_summary_of_reduced_precisions(results: Results) -> None:
    """Over our float32, against the peer of the same precision, and share of limit at B = 1."""
    lines = summary(results)
    wide, tied = "with B = 1, H >= 128", "by geometric mean of 4 cells, lowest"
    lost = [f"{row.case.name} 0.50" for row in results.cases]
    bf16 = (
        "speed over float32, geometric means: 1.00x of 4 cells, "
        f"2.00x of 1 cells {wide}, 0.50x of 1 cells with B >= 8, H >= 128"
    )
    int8 = (
        "speed over float32, geometric means: 2.00x of 4 cells, "
        f"4.00x of 1 cells {wide}, 1.00x of 1 cells with B >= 8, H >= 128"
    )
    losing = f"0.50x {tied} 0.50x (T100-B1-H256), lost 4: {', '.join(lost)}"
    tying = f"1.00x {tied} 1.00x (T100-B1-H256), none lost"
    assert [line for line in lines if line.startswith(("bfloat16", "int8"))] == [
        f"bfloat16, {bf16}",
        f"bfloat16 against OpenVINO bf16: {losing}",
        f"int8, {int8}",
        f"int8 against PyTorch int8: {tying}",
    ]


def test_share_and_steps_of_each_precision(results: Results) -> None:
    """The same cells in every precision: T100-B1-H64 takes 40 us in int8 and is left out."""
    results.cases[2] = cell(square(100, 1, 64), 100, 1.0, 2.5)
    lines = summary(results)
    shares = [line.partition(": ")[2] for line in lines if line.startswith("Share of limit, B = 1")]
    name = "T100-B1-H256"
    each = zip(OWN, ("0.80", "0.60", "0.40"), strict=True)
    assert shares == [", ".join(f"{p} {s} (lowest {s}, {name})" for p, s in each)]
    step = next(line for line in lines if line.startswith("step-"))
    assert step.endswith("; bfloat16 2.00 us; int8 1.00 us")


def test_reduced_precisions_leave_what_is_said_of_float32(results: Results) -> None:
    """No reduced peer, ours or not, makes a cell of float32 lost; older files say the same."""
    lines = summary(results)
    assert "Cells lost (below 0.97) to any of them, C++ ones included: 0 of 4" in lines
    assert lines[0].startswith("Best Python-callable peer of the same precision: 3.00x")
    older = summary(without_reduced(results))
    assert older
    shared = [line for line in older if not line.startswith("step-")]
    assert [line for line in lines if line in shared] == shared
    assert not any("bfloat16," in line and "speed" in line for line in older)


def test_a_table_shows_each_precision(results: Results) -> None:
    titles, rows = report.table(results)
    at = titles.index("fastgru bf16")
    reduced = ["fastgru bf16", "speed", "share", "fastgru int8", "speed", "share"]
    assert titles[at : at + 6] == reduced
    assert rows[0][at : at + 6] == ["500", "2.00x", "0.60", "250", "4.00x", "0.40"]
    assert rows[0][titles.index("OpenVINO bf16")] == "250 (0.25x; 0.50x)"
    assert rows[0][titles.index("PyTorch")] == "3000 (3.00x)"
    assert "speed: over" in report.caption(results)
    older = without_reduced(results)
    assert "speed" not in report.table(older)[0]
    assert "speed" not in report.caption(older)


def test_files_keep_what_is_new_and_old_ones_are_read(results: Results, tmp_path: Path) -> None:
    for number, wanted in enumerate((results, without_reduced(results))):
        path = tmp_path / f"{number}.jsonl"
        writer = Writer(path)
        for line in (RUN, *(row.to_json() for row in wanted.cases)):
            writer.write(line)
        writer.close()
        assert read(path).cases == wanted.cases
        assert ("own_ratio" in path.read_text()) == (wanted is results)


def test_own_precisions_do_not_tell_the_speed_of_the_machine(results: Results) -> None:
    """They change with ours, unlike the peers that `compare` takes out a slower machine by."""
    times = [row.peers["fastgru"].us["median"] for row in results.cases]
    rows = [cell(row.case, 2 * us, 1, 1) for row, us in zip(results.cases, times, strict=True)]
    twice = Results(RUN, rows)
    for row, was in zip(twice.cases, results.cases, strict=True):
        for name in ("torch", "torch_int8", "openvino_bf16"):
            row.peers[name] = was.peers[name]
    for subject in ("fastgru", "fastgru_int8"):
        found = compare.changes(results, twice, subject)
        assert [change.machine for change in found] == [pytest.approx(1.0)] * len(results.cases)


def test_every_precision_has_its_own_limit() -> None:
    """Reduced ones beside the peer, float32's where it has always been."""
    row = cell(COMPUTE, 1000, 2.0, 4.0)
    row.limit_us = row.share = None
    peak = {"float32": {"avx512": 100.0}, "bfloat16": {"avx512": 50.0}, "int8": {"avx512": 400.0}}
    probe = {"runs": [{"threads": 1, "peak": peak, "read": {"avx512": READS}}]}
    harness.add_limit(row, probe)
    bfloat16, int8 = row.peers["fastgru_bf16"], row.peers["fastgru_int8"]
    assert row.limit_us == bfloat16.limit_us
    assert int8.limit_us is not None
    assert row.limit_us is not None
    assert int8.limit_us < row.limit_us
    assert row.share_of("fastgru") == row.share
    assert row.share_of("fastgru_bf16") == bfloat16.share == pytest.approx(2 * (row.share or 0))
    assert row.share_of("torch") is None


def test_peers_are_set_against_ours_of_their_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """`own_ratio` is a ratio of turns of the same round, like `ratio`."""
    turns = {
        "fastgru": [8.0, 80.0, 8.0],
        "fastgru_int8": [2.0, 20.0, 2.0],
        "torch_int8": [6.0, 60.0, 6.0],
        "torch": [16.0, 160.0, 16.0],
    }

    def known(runs: Any, **_: Any) -> dict[str, measure.Samples]:
        return {name: measure.Samples([1], turns[name]) for name in runs}

    def right(peer: Any, *given: Any) -> list[Runner]:
        given[-1].precision = peer.precision
        return [Runner("", lambda: None, lambda: pytest.fail("not asked"))]

    monkeypatch.setattr(measure, "measure", known)
    monkeypatch.setattr(harness, "checked_runners", right)
    peers: Any = {name: SimpleNamespace(precision=PRECISIONS[name]) for name in turns}
    row = harness.run_case(square(1, 1, 8), peers, budget_s=0, min_rounds=1)
    assert row.peers["torch_int8"].ratio["median"] == 0.75
    assert row.peers["torch_int8"].own_ratio["median"] == 3.0
    assert row.peers["fastgru_int8"].ratio["median"] == 0.25
    assert not row.peers["fastgru_int8"].own_ratio
    assert not row.peers["torch"].own_ratio


@pytest.mark.parametrize("name", REDUCED.values())
@pytest.mark.parametrize(
    "case",
    [
        Case(T=5, B=3, I=7, H=20, L=2, D=2),
        square(6, 4, 16, ragged=True),
        square(1, 1, 16, mode="step"),
        square(1, 2, 16, mode="step_out", reset_after=False),
    ],
    ids=lambda case: case.name,
)
def test_our_reduced_peers_answer_right(name: str, case: Case) -> None:
    """Within the tolerance of their precision, and not in float32 by mistake."""
    peer, inputs, found = load(name), make_inputs(case), PeerResult()
    assert OWN[peer.precision] == name
    assert harness.checked_runners(peer, case, inputs, right_answer(case, inputs), found)
    assert found.problem is None
    assert found.max_abs_diff is not None
    assert found.max_abs_diff > 1e-5


def test_every_peer_has_a_label() -> None:
    assert LABELS.keys() == MODULES.keys()


def test_pictures_show_reduced_precisions(results: Results) -> None:
    pytest.importorskip("matplotlib")
    plt = load_matplotlib()
    lanes = {label: [ratio for ratio, _ in dots] for label, dots in ratios.lanes(results).items()}
    int8, bf16 = "PyTorch int8", "OpenVINO bf16"
    wanted = ["PyTorch", int8, f"{int8}\nto int8", bf16, f"{bf16}\nto bfloat16"]
    assert list(lanes) == wanted
    assert lanes["OpenVINO bf16\nto bfloat16"] == [0.5] * 4
    for drawn, panels in ((results, 3), (without_reduced(results), 1)):
        figure: Any = share.draw(drawn, plt)
        titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
        plt.close(figure)
        each = [f"Share of limit, {precision}, 1 thread" for precision in OWN]
        assert titles == each[:panels]
        plt.close(ratios.draw(drawn, plt))
