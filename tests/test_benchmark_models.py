"""Whole models in the benchmark, other builds of fastgru, fresh processes: no time is asserted."""

from __future__ import annotations

import gc
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent))  # benchmarks/ is never installed

from benchmarks import harness, measure, memory, models, report, run, starts
from benchmarks.cases import SETS, Case, square
from benchmarks.inputs import largest_difference, make_inputs, no_states, right_answer
from benchmarks.model_summary import all_lines
from benchmarks.peers import AGAINST, BEFORE, OURS, OWN, Runner, load
from benchmarks.results import CaseResult, PeerResult, Results, Writer, read
from benchmarks.summary import summary

SIZES: dict[str, dict[str, Any]] = {
    "classifier": {"I": 5, "H": 12, "O": 4},
    "tagger": {"I": 7, "H": 8, "O": 3, "L": 2, "D": 2},
    "characters": {"I": 6, "H": 16, "O": 11},
    "mask": {"I": 9, "H": 8, "O": 9},
}
WHOLE = [Case(T=6, B=B, model=name, **sizes) for name, sizes in SIZES.items() for B in (1, 3)]
STEPS = [
    Case(T=1, B=B, mode="step", model=name, **sizes)
    for name, sizes in SIZES.items()
    if name != "tagger"
    for B in (1, 3)
]
POOLS = [replace(case, mode="pool", name="") for case in STEPS]
MISSING = str(Path(sys.executable).with_name("no-such-python"))


def named(case: Case) -> str:
    return case.name


def checked(name: str, case: Case) -> PeerResult:
    found = PeerResult()
    inputs = make_inputs(case)
    harness.checked_runners(load(name), case, inputs, right_answer(case, inputs), found)
    return found


def test_the_sets_hold_every_model_batch_and_number_of_threads() -> None:
    sets = ("models", "model_steps", "model_pools")
    cells = [(set_, case) for set_ in sets for case in SETS[set_]]
    assert len({case.name for _, case in cells}) == len(cells) == 30 + 24 + 8
    for set_, mode, batches in (
        ("models", "call", {1, 16, 64}),
        ("model_steps", "step", {1, 16, 64}),
        ("model_pools", "pool", {64}),
    ):
        cases = SETS[set_]
        assert {case.mode for case in cases} == {mode}
        assert {case.B for case in cases} == batches
        assert {case.threads for case in cases} == {1, 2}
        kinds = {(case.model, case.O) for case in cases}
        assert len(kinds) == (5 if mode == "call" else 4)  # both directions need a whole sequence
    assert {case.model for _, case in cells} == models.MODELS.keys()


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "classifier"},
        {"O": 3},
        {"model": "transformer", "O": 3},
        {"model": "classifier", "O": 3, "ragged": True},
        {"model": "classifier", "O": 3, "mode": "step_out"},
        {"model": "tagger", "O": 3, "D": 2, "mode": "step"},
        {"mode": "pool"},
    ],
)
def test_what_is_no_case_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected|no lengths|pools|a step has"):
        Case(T=1, B=1, I=4, H=4, **fields)


@pytest.mark.parametrize("case", WHOLE + STEPS, ids=named)
@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
def test_peers_run_whole_models(name: str, case: Case) -> None:
    """PyTorch and its own export tell that the float64 answer is right."""
    pytest.importorskip("torch")
    if name == "onnxruntime":
        pytest.importorskip("onnxruntime")
    found = checked(name, case)
    assert found.problem is None
    assert found.max_abs_diff is not None


@pytest.mark.parametrize("case", WHOLE + STEPS + POOLS, ids=named)
@pytest.mark.parametrize("name", OWN.values())
def test_ours_runs_whole_models(name: str, case: Case) -> None:
    found = checked(name, case)
    assert found.problem is None
    assert found.max_abs_diff is not None
    assert name == OURS or found.max_abs_diff > 1e-6  # not in float32 by mistake


@pytest.mark.parametrize("case", POOLS[:1], ids=named)
@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
def test_peers_without_pools_say_so(name: str, case: Case) -> None:
    pytest.importorskip(name)
    assert "no pool" in (checked(name, case).problem or "")


@pytest.mark.parametrize("case", WHOLE, ids=named)
def test_a_wrong_layer_is_noticed(case: Case) -> None:
    """No layer is so weak that an answer without it would pass."""
    inputs = make_inputs(case)
    right = right_answer(case, inputs)
    for name in inputs.state:
        state = dict(inputs.state)
        state[name] = np.roll(state[name], 1, axis=-1)
        got = right_answer(case, replace(inputs, state=state))
        assert largest_difference(got, right) > 1e-4, name


def test_a_difference_in_any_place_counts() -> None:
    case = Case(T=4, B=2, I=3, H=2)
    right = right_answer(case, make_inputs(case))
    for array in (0, 1):
        for value, least in ((1.0, 1.0), (np.nan, np.inf)):
            got = (right[0].copy(), right[1].copy())
            got[array][-1, -1, -1] += value
            assert largest_difference(got, right) == pytest.approx(least)
    assert largest_difference((right[0][:-1], right[1]), right) == np.inf
    assert largest_difference((right[0], no_states(case)), right) == np.inf


def test_parts_are_the_models_own_layers() -> None:
    step, pool = (load(OURS).build(case, make_inputs(case)) for case in (STEPS[-1], POOLS[-1]))
    assert step[0].parts.keys() == {"gru", "linear", "layers", "calls"}
    assert pool[0].parts.keys() == {"batch"}
    for part in (*step[0].parts.values(), *pool[0].parts.values()):
        part()


def test_parts_are_told_from_the_whole_by_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is beyond the parts is a median of differences within a round, so drifts cancel."""
    turns = {
        "fastgru": [10_000.0, 20_000.0, 31_000.0],
        "fastgru/gru": [5_000.0, 10_000.0, 20_000.0],
        "fastgru/linear": [3_000.0, 8_000.0, 8_000.0],
        "fastgru/layers": [9_000.0, 19_100.0, 30_000.0],
        "fastgru/calls": [900.0, 1200.0, 1200.0],
    }

    def known(runs: Any, **_: Any) -> dict[str, measure.Samples]:
        return {name: measure.Samples([int(turns[name][0])], turns[name]) for name in runs}

    def right(peer: Any, *given: Any) -> list[Runner]:
        given[-1].precision = peer.precision
        parts = dict.fromkeys(("gru", "linear", "layers", "calls"), lambda: None)
        return [Runner("", lambda: None, lambda: pytest.fail("not asked"), parts)]

    monkeypatch.setattr(measure, "measure", known)
    monkeypatch.setattr(harness, "checked_runners", right)
    peers: Any = {OURS: SimpleNamespace(precision="float32"), "openvino": None}
    row = harness.run_case(STEPS[0], peers, budget_s=0, min_rounds=1)
    assert row.peers.keys() == {OURS}  # a peer that runs no whole models has no say in them
    ours = row.peers[OURS]
    assert ours.beyond_us["median"] == 2.0
    # of three layers, so two calls from Python are added back: 1.6, 1.7 and 1.8
    assert ours.overhead_us["median"] == pytest.approx(1.7)
    assert ours.parts["gru"]["us"] == 5.0
    assert ours.parts["gru"]["median"] == 2.0


def timed(us: float, ratio: float, precision: str = "float32", **more: Any) -> PeerResult:
    found = PeerResult(version="1", setting="avx512", precision=precision, calls=1, rounds=1)
    found.us = dict.fromkeys(("median", "p25", "p75", "p99"), us)
    found.ratio = dict.fromkeys(("median", "p25", "p75"), ratio)
    return replace(found, **more)


def part(us: float, ratio: float) -> dict[str, float]:
    return {"us": us, "median": ratio, "p25": ratio, "p75": ratio}


@pytest.fixture
def results() -> Results:
    """A bare GRU that wins, models of which one is lost, and the build before, slower by half."""
    beyond, overhead = (dict.fromkeys(("median", "p25", "p75"), us) for us in (1.5, 1.25))
    parts = {"gru": part(5, 2), "linear": part(3.5, 3), "layers": part(9.5, 1.05)}
    parts["calls"] = part(1.5, 6)
    batch = {"batch": part(50, 1.2)}
    bare = square(100, 1, 64)
    rows = [
        CaseResult(bare, {OURS: timed(100, 1), "torch": timed(800, 8)}),
        CaseResult(WHOLE[0], {OURS: timed(100, 1), "torch": timed(50, 0.5)}),
        CaseResult(
            STEPS[0],
            {
                OURS: timed(10, 1, parts=parts, beyond_us=beyond, overhead_us=overhead),
                "torch": timed(200, 2),
            },
        ),
        CaseResult(POOLS[0], {OURS: timed(60, 1, parts=batch)}),
    ]
    for row in rows:
        row.peers[BEFORE["float32"]] = replace(
            row.peers[OURS], ratio=dict.fromkeys(("median", "p25", "p75"), 1.5)
        )
    header: dict[str, Any] = {
        "kind": "run",
        "schema": 1,
        "date": "2026-01-01T00:00:00+00:00",
        "commit": None,
        "machine": {"cpu": "C", "usable_cores": 1, "flags": [], "python": "3"}
        | {"cpu_family_model": "6/1", "virtual": False},
        "versions": {},
        "environment": {},
    }
    return Results(header, rows)


def test_models_and_bare_grus_are_never_averaged(results: Results) -> None:
    lines = all_lines(results)
    best = [line for line in lines if "Best Python-callable" in line]
    assert best[0].startswith("Best Python-callable peer of the same precision: 8.00x")
    assert best[1].startswith("Whole models. Best Python-callable")
    assert "1.00x by geometric mean of 2 cells" in best[1]  # of 0.5 and 2
    lost = [line for line in lines if line.startswith("Whole models. Cells lost")]
    assert "1 of 2" in lost[0]
    assert WHOLE[0].name in lost[0]
    assert "classifier with 4 outputs, steps: 2.00x" in "\n".join(lines)


def test_the_build_before_is_no_peer(results: Results) -> None:
    """It is not the best peer, loses no cell of ours, and has lines of its own."""
    lines = all_lines(results)
    found = [line.partition(", lowest")[0] for line in lines if "The build before" in line]
    mean = "1.50x by geometric mean of"
    assert found == [
        f"The build before, float32: {mean} 1 cells",
        f"Whole models. The build before, float32: {mean} 3 cells",
    ]
    without = [
        replace(row, peers={n: p for n, p in row.peers.items() if n not in BEFORE.values()})
        for row in results.cases
    ]
    told = {line.partition("; before ")[0] for line in lines}
    assert set(all_lines(Results(results.run, without))) < told


def test_reduced_builds_before_stand_beside_ours_of_their_precision(results: Results) -> None:
    row = results.cases[0]
    row.peers[OWN["int8"]] = timed(50, 0.5, "int8")
    own = dict.fromkeys(("median", "p25", "p75"), 0.9)
    row.peers[BEFORE["int8"]] = timed(45, 0.45, "int8", own_ratio=own)
    lines = summary(Results(results.run, [row]))
    (told,) = [line for line in lines if line.startswith("The build before, int8")]
    assert "0.90x" in told
    assert f"lost 1: {row.case.name} 0.90" in told
    assert not any(line.startswith("int8 against") for line in lines)


def test_steps_and_pools_are_told_with_their_parts(results: Results) -> None:
    lines = all_lines(results)
    step = next(line for line in lines if line.startswith(STEPS[0].name))
    assert (
        "10.00 us: GRU 5.00, linear 3.50, layers one by one 9.50; 1.50 beyond GRU and linear"
        in step
    )
    assert "1.25 beyond all layers' work" in step
    assert any("work, over 1 us: 1 of 1, median 1.25" in line for line in lines)
    pool = next(line for line in lines if line.startswith(POOLS[0].name))
    assert "pool 60.00 us, batch 50.00, ratio 1.200" in pool
    above = "Pool's step over plain batch's, 1.200 by geometric mean, 1 of 1 above 1.1"
    assert above in lines
    assert "classifier, O = 4" in report.plain(results)


def test_files_keep_models_and_parts(results: Results, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    writer = Writer(path)
    for line in (results.run, *(row.to_json() for row in results.cases)):
        writer.write(line)
    writer.close()
    assert read(path).cases == results.cases
    old = {k: v for k, v in square(1, 1, 8).to_json().items() if k not in ("model", "O")}
    assert Case.from_json(old) == square(1, 1, 8)  # a file from before there were models


@pytest.fixture
def ours_elsewhere(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Our own build as the other one."""
    monkeypatch.setenv(AGAINST, sys.executable)
    return load(BEFORE["float32"])


@pytest.mark.parametrize("case", [square(5, 2, 8), WHOLE[0], STEPS[-1], POOLS[0]], ids=named)
def test_another_process_gives_what_this_one_gives(
    case: Case, ours_elsewhere: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (there,) = ours_elsewhere.build(case, make_inputs(case))
    monkeypatch.delenv(AGAINST)
    (here,) = load(OURS).build(case, make_inputs(case))
    for got, wanted in zip(there.answer(), here.answer(), strict=True):
        assert np.array_equal(got, wanted)
    assert there.setting == here.setting
    assert there.parts.keys() == here.parts.keys()
    for call in (there.run, *there.parts.values()):
        measure.run_for(call, 1)
        times = measure.time_calls(call, 3)
        assert len(times) == 3
        assert min(times) > 0


def test_another_process_says_what_went_wrong(ours_elsewhere: Any) -> None:
    case = replace(square(5, 2, 8), B=0)
    inputs = make_inputs(square(5, 2, 8))
    found = PeerResult()
    assert not harness.checked_runners(
        ours_elsewhere, case, inputs, right_answer(square(5, 2, 8), inputs), found
    )
    assert (found.problem or "").startswith(("failed: ElsewhereError", "wrong"))
    assert ours_elsewhere.build(square(5, 2, 8), inputs)  # and still works


def test_another_process_ends_with_its_peer(ours_elsewhere: Any) -> None:
    process = ours_elsewhere._process._process
    assert process.poll() is None
    ours_elsewhere._process.close()
    assert process.poll() == 0


def test_a_process_that_dies_is_told(ours_elsewhere: Any) -> None:
    worker = ours_elsewhere._process
    worker._process.kill()
    worker._process.wait()
    with pytest.raises(RuntimeError, match="the process ended at 'build'"):
        ours_elsewhere.build(square(5, 2, 8), make_inputs(square(5, 2, 8)))


def test_builds_are_alike_beside_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """With another build ours has a process of its own, too; without, there is no such peer."""
    with pytest.raises(ImportError, match="needs --against"):
        load(BEFORE["int8"])
    monkeypatch.setenv(AGAINST, MISSING)
    with pytest.raises(ImportError, match="no-such-python"):
        load(BEFORE["float32"])
    assert type(load(OURS)) is type(load(OWN["bfloat16"]))
    assert type(load(OURS)).__module__ == "benchmarks.peers.elsewhere"
    gc.collect()


def test_a_run_with_another_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command as a whole, with our own build in both places."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", AGAINST):
        monkeypatch.setenv(name, os.environ.get(name, "1"))  # what it sets is undone
    path = tmp_path / "r.jsonl"
    options = "--sets smoke,step --cases step_out-B1-H64 --budget 0 --min-rounds 1 --no-probe"
    own = ["--peers", "fastgru,fastgru_int8", "--against", sys.executable]
    assert run.main([*options.split(), *own, "--json", str(path)]) == 0
    (row,) = read(path).cases
    names = [OURS, OWN["int8"], BEFORE["float32"], BEFORE["int8"]]
    assert list(row.peers) == names
    assert all(peer.us and peer.ratio for peer in row.peers.values())
    assert row.peers[BEFORE["int8"]].own_ratio
    assert "engine " in (row.peers[OURS].version or "")
    assert row.peers[OURS].version == row.peers[BEFORE["float32"]].version
    assert "The build before, float32" in capsys.readouterr().out


SMALL = ["--steps=200", "--batch=16", "--input=4", "--hidden=64"]
ARRAY = 4 * 200 * 16 * 64


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's high-water mark is Linux's")
def test_memory_sees_an_array_of_all_states(capsys: pytest.CaptureFixture[str]) -> None:
    """The bare GRU gives one back: a method that misses it would tell nothing about the other."""
    assert memory.main([*SMALL, "--network=gru", "--against", sys.executable]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| gru")]
    assert [line.split(" | ")[1] for line in lines] == ["ours", "before"]
    assert all(line.endswith("| made |") for line in lines)


def test_what_counts_as_an_array_of_all_states() -> None:
    assert memory.makes({"peak": ARRAY, "kept": 0, "numpy": 0}, ARRAY)
    assert memory.makes({"peak": 0, "kept": 0, "numpy": ARRAY}, ARRAY)
    assert not memory.makes({"peak": ARRAY - 1, "kept": 0, "numpy": ARRAY - 1}, ARRAY)


@pytest.mark.parametrize("command", [memory.main, starts.main])
def test_a_build_that_is_not_there_is_a_line(
    command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["--hidden=8", "--against", MISSING]) == 2
    assert "no-such-python" in capsys.readouterr().err


def test_starts_of_both_builds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert starts.main(["--hidden=8", "--rounds=1", "--against", sys.executable]) == 0
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[4:]]
    assert [line[1] for line in lines] == [*starts.PHASES] * 2
    starts.write_file(tmp_path / "m.safetensors", 8, whole=True)
    starts.main(["--in-this-process", f"--file={tmp_path / 'm.safetensors'}"])
    assert json.loads(capsys.readouterr().out).keys() == set(starts.PHASES)
