"""One case, all peers: build, compare answers, choose settings, time. Imports numpy."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from benchmarks import limit, measure, models
from benchmarks.cases import Case
from benchmarks.inputs import Answer, Inputs, largest_difference, make_inputs, right_answer
from benchmarks.peers import OURS, OWN, REDUCED, WHOLE_MODELS, Peer, Runner, load
from benchmarks.results import CaseResult, PeerResult

TRIAL_SHARE = 0.1
"""Of a case's budget, for finding the fastest of a peer's settings."""

TRIAL_ROUNDS = 3


def say(text: str) -> None:
    """Progress goes to stderr; stdout is the table's."""
    print(text, file=sys.stderr, flush=True)


def load_peers(names: list[str]) -> dict[str, Peer]:
    """Those that are installed; a line about each of the others."""
    peers = {}
    for name in names:
        try:
            peers[name] = load(name)
        except ImportError as error:
            say(f"skipped {name}: {error}")
    if OURS not in peers:
        say(f"without {OURS} there are no ratios")
    return peers


def checked_runners(
    peer: Peer, case: Case, inputs: Inputs, right: Answer, result: PeerResult
) -> list[Runner]:
    """Every way to run the case, if all of them give the right answer; else none, and a problem."""
    result.version, result.precision = peer.version, peer.precision
    reason = peer.unsupported(case)
    if reason:
        result.problem = f"unsupported: {reason}"
        return []
    try:
        runners = peer.build(case, inputs)
        differences = [largest_difference(runner.answer(), right) for runner in runners]
    except Exception as error:  # a peer's own failure must not end the run
        result.problem = f"failed: {type(error).__name__}: {error}"
        return []
    result.max_abs_diff = float(f"{max(differences):.3g}")
    if max(differences) > peer.tolerance:
        result.problem = f"wrong: differs by {max(differences):.3g}, allowed {peer.tolerance:.3g}"
        return []
    return runners


def fastest(runners: list[Runner], threads: int, budget_s: float) -> Runner:
    """The one with the lowest median in a short trial."""
    if len(runners) == 1:
        return runners[0]
    samples = measure.measure(
        {runner.setting: runner.run for runner in runners},
        threads=threads,
        budget_s=budget_s * TRIAL_SHARE,
        min_rounds=TRIAL_ROUNDS,
    )
    return min(runners, key=lambda r: measure.quantile(samples[r.setting].calls, 0.5))


def add_limit(row: CaseResult, probe: dict[str, Any] | None) -> None:
    """The limit of each precision and instruction set level of ours, and our share of it."""
    for precision, name in OWN.items():
        ours = row.peers.get(name)
        if probe is None or ours is None or not ours.us or row.case.model:
            continue
        found = limit.machine(probe, ours.setting or "", row.case.threads)
        least = found and limit.limit_us(row.case, found, precision)
        if least:
            place = row if name == OURS else ours
            place.limit_us = measure.rounded(least)
            place.share = measure.rounded(least / ours.us["median"])


def add_parts(
    result: PeerResult,
    name: str,
    case: Case,
    runner: Runner,
    samples: Mapping[str, measure.Samples],
) -> None:
    """Times of the parts, the whole over each of them, and beyond those that it consists of."""
    whole, parts = samples[name], {part: samples[f"{name}/{part}"] for part in runner.parts}
    for part, got in parts.items():
        us = measure.rounded(measure.quantile(got.calls, 0.5) * 1e-3)
        result.parts[part] = {"us": us, **measure.ratios(whole, got)}
    if {"gru", "linear"} <= parts.keys():
        result.beyond_us = measure.beyond_us(whole, [(1.0, parts["gru"]), (1.0, parts["linear"])])
        # A whole step is one call from Python; each layer by itself has one in its time.
        layers = len(models.working(case))
        back = -(layers - 1) / layers
        costs = [(1.0, parts["layers"]), (back, parts["calls"])]
        result.overhead_us = measure.beyond_us(whole, costs)


def run_case(
    case: Case,
    peers: Mapping[str, Peer],
    *,
    budget_s: float,
    min_rounds: int,
    probe: dict[str, Any] | None = None,
) -> CaseResult:
    inputs = make_inputs(case)
    right = right_answer(case, inputs)
    if case.model:
        peers = {name: peer for name, peer in peers.items() if name in WHOLE_MODELS}
    row = CaseResult(case, {name: PeerResult() for name in peers})
    chosen = {}
    for name, peer in peers.items():
        runners = checked_runners(peer, case, inputs, right, row.peers[name])
        if runners:
            chosen[name] = fastest(runners, case.threads, budget_s)
    if not chosen:
        return row

    samples = measure.measure(
        {name: runner.run for name, runner in chosen.items()}
        | {f"{n}/{part}": run for n, r in chosen.items() for part, run in r.parts.items()},
        threads=case.threads,
        budget_s=budget_s,
        min_rounds=min_rounds,
    )
    for name, runner in chosen.items():
        result, got = row.peers[name], samples[name]
        result.setting = runner.setting
        result.calls, result.rounds = len(got.calls), len(got.turns)
        result.us = measure.summary(got.calls, scale=1e-3)
        if OURS in samples:
            result.ratio = measure.ratios(got, samples[OURS])
        own = REDUCED.get(result.precision or "")
        if own in samples and name != own:
            result.own_ratio = measure.ratios(got, samples[own])
        add_parts(result, name, case, runner, samples)
    add_limit(row, probe)
    return row
