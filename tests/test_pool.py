"""Pools: many live sequences in one slab, any of which advance together.

Promises 2 and 4: a session's results are the same bits as those of its sequence alone, whoever else
is in a step; and a call that raises changes no state.
"""

from __future__ import annotations

import gc
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import safetensors.numpy
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import fastgru
from conftest import Array, elsewhere, make_gru, random_input, random_weights, run_python, same_bits

I, H, L = 5, 21, 2  # noqa: E741
CAPACITY = 6


def network(**options: Any) -> fastgru.GRU:
    return make_gru(random_weights(np.random.default_rng(0), I, H, L), **options)


def inputs(*shape: int) -> Array:
    return random_input(np.random.default_rng(2), *shape)


def states(pool: fastgru.Pool) -> dict[int, bytes]:
    return {session: pool.get_state(session).tobytes() for session in pool.ids.tolist()}


def refused(pool: fastgru.Pool, error: type[Exception], match: str, *args: Any, **kw: Any) -> None:
    """The step is refused, and no state has changed."""
    before = states(pool)
    with pytest.raises(error, match=match):
        pool.step(*args, **kw)
    assert states(pool) == before


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_same_bits_as_whole_sequences(isa: str, precision: str) -> None:
    """Steps of changing subsets, in changing order, of sessions that start at different times."""
    rng = np.random.default_rng(3)
    gru = network(isa=isa, precision=precision)
    x, h_0 = inputs(40, 12, I), rng.uniform(-1, 1, (L, 12, H)).astype(np.float32)
    expected, h_n = gru(x, h_0)
    pool = gru.pool(12)
    for _ in range(5):  # slots in no order
        pool.close(pool.open())
    ids = [pool.open(h_0[:, row]) for row in range(12)]
    time = np.zeros(12, int)
    while (time < 40).any():
        rows = rng.permutation(np.flatnonzero(time < 40))[: rng.integers(1, 13)]
        y = pool.step([ids[row] for row in rows], x[time[rows], rows])
        assert same_bits(y, expected[time[rows], rows])
        time[rows] += 1
    for row, session in enumerate(ids):
        assert same_bits(pool.get_state(session), np.ascontiguousarray(h_n[:, row]))


@pytest.mark.parametrize("reset_after", [True, False])
def test_same_bits_on_threads(reset_after: bool) -> None:
    """Many sessions and wide layers: rows, or units of one session, on several threads."""
    for hidden, count in ((24, 600), (512, 1)):
        weights = random_weights(np.random.default_rng(4), 8, hidden)
        gru = make_gru(weights, reset_after=reset_after)
        x = inputs(3, count, 8)
        expected, _ = gru(x)
        for threads in (1, 2):
            gru.num_threads = threads
            pool = gru.pool(count)
            ids = np.array([pool.open() for _ in range(count)])
            for t in range(3):
                assert same_bits(pool.step(ids, x[t]), expected[t])


class PoolMachine(RuleBasedStateMachine):
    """A pool beside plain streams, one for each session."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = network()
        self.pool = self.gru.pool(CAPACITY)
        self.model: dict[int, fastgru.Stream] = {}
        self.stale: set[int] = set()
        self.snapshots: list[tuple[Path, dict[int, Array]]] = []
        self.rng = np.random.default_rng(5)

    @rule(with_state=st.booleans())
    def open(self, with_state: bool) -> None:
        if len(self.model) == CAPACITY:
            with pytest.raises(fastgru.PoolFullError, match="6 sessions"):
                self.pool.open()
            return
        h_0 = self.rng.uniform(-1, 1, (L, H)).astype(np.float32) if with_state else None
        session = self.pool.open(h_0)
        assert session not in self.model
        assert session not in self.stale
        self.model[session] = self.gru.stream(1, None if h_0 is None else h_0[:, None])

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(sorted(self.model)))
        self.pool.close(session)
        self.stale.add(session)
        del self.model[session]

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        ids = data.draw(st.permutations(sorted(self.model)))
        ids = ids[: data.draw(st.integers(0, len(ids)))]
        x = random_input(self.rng, len(ids), I)
        y = self.pool.step(ids, x)
        for row, session in enumerate(ids):
            assert same_bits(y[row], self.model[session].step(x[row]))

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def set_state(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(sorted(self.model)))
        state = self.rng.uniform(-1, 1, (L, H)).astype(np.float32)
        self.pool.set_state(session, state)
        self.model[session].state = state[:, None]

    @precondition(lambda self: self.stale)
    @rule(data=st.data())
    def use_stale(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(sorted(self.stale)))
        assert session not in self.pool
        ids = [*self.model, session]
        with pytest.raises(KeyError, match=str(session)):
            self.pool.step(ids, np.zeros((len(ids), I), np.float32))
        for call in (self.pool.close, self.pool.get_state):
            with pytest.raises(KeyError, match=str(session)):
                call(session)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def step_twice(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(sorted(self.model)))
        ids = [*self.model, session]
        with pytest.raises(ValueError, match=f"{session} is there twice"):
            self.pool.step(ids, np.zeros((len(ids), I), np.float32))

    @rule(larger=st.integers(0, 2))
    def save_and_restart(self, larger: int) -> None:
        path = Path(f"pool-{id(self)}.safetensors")
        self.pool.snapshot(path)
        self.pool.shutdown()
        self.pool = self.gru.pool(CAPACITY + larger)
        others = [self.pool.open() for _ in range(larger)]  # which the snapshot replaces
        self.pool.restore(path)
        path.unlink()
        self.stale.update(set(others) - set(self.model))
        if larger:  # back to the capacity that `open` knows
            self.pool.snapshot(path)
            smaller = self.gru.pool(CAPACITY)
            smaller.restore(path)
            path.unlink()
            self.pool = smaller

    @invariant()
    def states_are_the_streams(self) -> None:
        assert sorted(self.pool.ids.tolist()) == sorted(self.model)
        assert len(self.pool) == len(self.model)
        for session, stream in self.model.items():
            assert same_bits(self.pool.get_state(session), stream.state[:, 0])


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_random_use() -> None:
    """Any sequence of calls leaves what plain streams would have."""
    from hypothesis.stateful import run_state_machine_as_test  # noqa: PLC0415

    run_state_machine_as_test(PoolMachine)


def test_refused_steps_change_nothing() -> None:
    pool = network().pool(4)
    a, b = pool.open(), pool.open()
    closed = pool.open()
    pool.close(closed)
    x = inputs(2, I)
    pool.step([a, b], x)
    refused(pool, KeyError, f"session {closed} is closed", [a, closed], x)
    refused(pool, KeyError, "session 0 is closed", [a, 0], x)
    refused(pool, KeyError, "session -1 is closed", [a, -1], x)
    refused(pool, KeyError, "session 9223372036854775807", np.array([a, 2**64 - 1], np.uint64), x)
    refused(pool, ValueError, f"ids: session {a} is there twice", [a, b, a], inputs(3, I))
    refused(pool, fastgru.ShapeError, r"x: expected \(2, 5\), got \(2, 6\)", [a, b], inputs(2, 6))
    refused(pool, fastgru.ShapeError, r"x: expected \(1, 5\), got \(2, 5\)", [a], x)
    refused(pool, fastgru.ShapeError, r"ids: expected \(n,\), got \(1, 2\)", [[a, b]], x)
    refused(pool, fastgru.ShapeError, r"ids: expected \(n,\), got \(\)", a, x)
    refused(pool, TypeError, "ids: expected integers", [float(a), b], x)
    refused(pool, TypeError, "x: expected float32", [a, b], x.astype(int))
    refused(pool, ValueError, "out: expected", [a, b], x, out=np.empty((2, H + 1), np.float32))
    refused(pool, ValueError, "out: expected a NumPy", [a, b], x, out=[0.0])
    both = np.zeros((4, H), np.float32)
    refused(pool, ValueError, "out: overlaps", [a, b], both[:2, :I], out=both[:2])


@pytest.mark.parametrize("where", list(elsewhere(np.zeros(1))))
def test_arrays_may_lie_anywhere(where: str) -> None:
    """Ids, rows and states that C++ must not read as they lie give the bits of plain arrays."""

    def use(given: Callable[[Array], Array]) -> list[Array]:
        pool = network().pool(4)
        ids = np.array([pool.open(given(inputs(L, H))), pool.open(), pool.open()])
        y = pool.step(given(ids[::-1]), given(inputs(3, I)))
        pool.set_state(ids[1], given(inputs(L, H)))
        pool.snapshot("states")
        pool.restore("states")
        return [y, pool.step(given(ids), given(inputs(3, I)))]

    for ours, plain in zip(use(lambda a: elsewhere(a)[where]), use(lambda a: a), strict=True):
        assert same_bits(ours, plain)
    pool = network().pool(2)
    out = elsewhere(np.zeros((1, H), np.float32))[where]
    refused(pool, ValueError, "out: expected", [pool.open()], inputs(1, I), out=out)


def test_open_and_states_refuse() -> None:
    pool = network().pool(1)
    for bad in ((L, H + 1), (L, 1, H), (H,)):
        with pytest.raises(fastgru.ShapeError, match=r"h_0: expected \(2, 21\)"):
            pool.open(np.zeros(bad, np.float32))
    assert len(pool) == 0
    session = pool.open()
    with pytest.raises(fastgru.PoolFullError, match="all 1 sessions"):
        pool.open()
    with pytest.raises(fastgru.ShapeError, match=r"state: expected \(2, 21\), got \(2, 20\)"):
        pool.set_state(session, np.zeros((L, 20), np.float32))
    for call in (pool.close, pool.get_state, lambda s: pool.set_state(s, np.zeros((L, H)))):
        with pytest.raises(KeyError, match="was never this pool's"):
            call(7)
        with pytest.raises(KeyError, match="was never this pool's"):
            call(2**64)
        for no_id in ("7", 1.0, None, True):
            with pytest.raises(TypeError, match="session: expected an id"):
                call(no_id)  # type: ignore[arg-type]  # on purpose
    assert session in pool
    assert "7" not in pool


def test_capacity() -> None:
    for bad, error in (
        (0, ValueError),
        (-1, ValueError),
        (2**24 + 1, ValueError),
        (1.5, TypeError),
    ):
        with pytest.raises(error, match="capacity"):
            network().pool(bad)  # type: ignore[arg-type]  # on purpose
    assert network().pool(np.int64(3)).capacity == 3  # type: ignore[arg-type]  # as an index
    bidirectional = make_gru(random_weights(np.random.default_rng(0), I, H, 1, True))
    with pytest.raises(ValueError, match="reverse direction"):
        bidirectional.pool(3)


def test_nan_stays_in_its_session() -> None:
    gru = network()
    pool, twin = gru.pool(40), gru.pool(40)
    ids = [pool.open() for _ in range(40)]
    twins = [twin.open() for _ in range(40)]
    x = inputs(2, 40, I)
    poisoned = x.copy()
    poisoned[0, 17, 3] = np.nan
    for t in range(2):
        y, clean = pool.step(ids, poisoned[t]), twin.step(twins, x[t])
        assert np.isnan(y[17]).all()
        assert same_bits(np.delete(y, 17, 0), np.delete(clean, 17, 0))


def test_out_and_views() -> None:
    """`out` is filled and returned, strided and float64 x converted; no session at all is fine."""
    gru = network()
    pool = gru.pool(3)
    ids = np.array([pool.open() for _ in range(3)])
    x = inputs(3, 2 * I)
    y = np.empty((3, H), np.float32)
    assert pool.step(ids, x[:, :I], out=y) is y
    assert same_bits(y, gru(x[None, :, :I])[0][0])
    stepped = gru.pool(3)
    again = [stepped.open() for _ in range(3)]
    assert same_bits(
        stepped.step(np.array([*again, 0])[:3][::-1], x[::-1, ::2].astype(float)),
        gru(x[None, ::-1, ::2])[0][0],
    )
    assert pool.step([], np.empty((0, I), np.float32)).shape == (0, H)


def test_threads_take_turns() -> None:
    """Several Python threads on one pool: every session is stepped as if alone."""
    weights = random_weights(np.random.default_rng(6), I, 64)
    gru = make_gru(weights)
    pool = gru.pool(200)
    x = inputs(30, 200, I)
    expected, _ = gru(x)
    failures: list[str] = []

    def work(first: int) -> None:
        rows = np.arange(first, first + 50)
        for _ in range(3):
            ids = [pool.open() for _ in rows]
            failures.extend(
                f"rows from {first}, t = {t}"
                for t in range(30)
                if not same_bits(pool.step(ids, x[t, rows]), expected[t, rows])
            )
            for session in ids:
                pool.close(session)

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 50, 100, 150)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(pool) == 0


def test_shutdown() -> None:
    """Every call of a pool that is shut down is one clear error."""
    with network().pool(2) as pool:
        session = pool.open()
    pool.shutdown()  # again
    for call in (
        pool.open,
        lambda: pool.close(session),
        lambda: pool.step([session], inputs(1, I)),
        lambda: pool.get_state(session),
        lambda: pool.set_state(session, np.zeros((L, H))),
        lambda: pool.ids,
        lambda: len(pool),
        lambda: pool.snapshot("never"),
    ):
        with pytest.raises(RuntimeError, match="this pool is shut down"):
            call()
    assert "shut down" in repr(pool)
    assert not Path("never").exists()


SLOTS = 2**24


def snapshot_of(*, count: int = 2, **changes: Any) -> bytes:
    """A snapshot of a pool of these sizes, or with other fields."""
    fields = {
        "format_version": 1,
        "ids": [(1 + slot) * SLOTS + slot for slot in range(count)],
    } | changes
    tensors = {"states.0": np.zeros((L, count, H), np.float32)}
    return safetensors.numpy.save(tensors, {"fastgru_pool": json.dumps(fields)})


def test_snapshots_refused() -> None:
    """A file that is no snapshot, or another pool's, is one FormatError and changes nothing."""
    pool = network().pool(2)
    pool.open()
    pool.step(pool.ids, inputs(1, I))
    before = states(pool)
    path = Path("s")
    network().save("model")
    cases = {
        b"": "expected a snapshot",
        b"hello, world": "expected a snapshot",
        Path("model").read_bytes(): "another safetensors file",
        snapshot_of()[:-1]: "damaged",
        snapshot_of(format_version=2): "format_version: this fastgru knows 1, the file has 2",
        snapshot_of(extra=1): "expected the fields",
        snapshot_of(ids=3): "expected a list of integers",
        snapshot_of(ids=[1.0, 2]): "expected a list of integers",
        snapshot_of(ids=[-1, 2**63]): "expected a list of integers",
        snapshot_of(ids=[3, 4]): "session 3: not an id",
        snapshot_of(ids=[SLOTS, SLOTS]): "another one has its slot",
        snapshot_of(ids=[SLOTS, 2 * SLOTS]): "another one has its slot",
        snapshot_of(ids=[SLOTS, SLOTS + 2]): "beyond this pool's capacity of 2",
        snapshot_of(ids=[SLOTS]): r"states.0: expected F32 \(2, 1, 21\), got F32 \(2, 2, 21\)",
        snapshot_of(count=3): "beyond this pool's capacity",
    }
    for data, message in cases.items():
        path.write_bytes(data)
        with pytest.raises(fastgru.FormatError, match=f"^s: .*{message}"):
            pool.restore(path)
        assert states(pool) == before
    with pytest.raises(FileNotFoundError):
        pool.restore("missing")
    with pytest.raises(IsADirectoryError):
        pool.restore(".")
    path.write_bytes(snapshot_of())
    pool.restore(path)
    assert pool.ids.tolist() == [SLOTS, 2 * SLOTS + 1]


def test_ids_are_nobody_elses() -> None:
    """Not another pool's, nor those that a process gave away between its snapshot and its end."""
    gru = network()
    pool = gru.pool(4)
    kept = pool.open()
    pool.snapshot("s")
    given = {kept}
    for _ in range(5):  # a process that dies each time before its next snapshot
        restarted, other = gru.pool(4), gru.pool(4)
        restarted.restore("s")
        assert kept in restarted
        for pool in (restarted, other):
            for _ in range(100):
                session = pool.open()
                assert session not in given
                given.add(session)
                pool.close(session)
    assert min(given) >= SLOTS


def test_garbage_that_closes_sessions() -> None:
    """A __del__ that the collector runs in the middle of any call of the pool does not hang it."""
    pool = network().pool(200)

    class Session:
        def __init__(self) -> None:
            self.id = pool.open()
            self.me = self

        def __del__(self) -> None:
            pool.close(self.id)

    thresholds = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(50):
            session = Session()
            pool.snapshot("s")
            pool.step([session.id], inputs(1, I))
            pool.set_state(session.id, pool.get_state(session.id))
            assert session.id in pool.ids
            del session
    finally:
        gc.set_threshold(*thresholds)
    gc.collect()
    assert len(pool) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_during_a_step() -> None:
    """The child's calls raise instead of waiting for a thread that it does not have."""
    code = """
import os, signal, threading, time
import numpy as np, fastgru
rng = np.random.default_rng(0)
w = rng.standard_normal((1536, 512))
gru = fastgru.GRU.from_state_dict({"weight_ih_l0": w, "weight_hh_l0": w}, num_threads=1)
pool = gru.pool(400)
ids = np.array([pool.open() for _ in range(400)])
x, stop = np.ones((400, 512), np.float32), threading.Event()
def work():
    while not stop.is_set():
        pool.step(ids, x)
thread = threading.Thread(target=work)
thread.start()
seen = set()
for _ in range(20):
    time.sleep(0.003)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            pool.get_state(int(ids[0]))
        except RuntimeError as error:
            os._exit(1 if "forked" in str(error) else 2)
        os._exit(0)  # nobody had it at that moment
    seen.add(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
stop.set()
thread.join()
print(sorted(seen))
"""
    result = run_python(code)
    assert result.stdout.strip() in ("[1]", "[0, 1]"), result.stdout + result.stderr


def test_repr_and_liveness() -> None:
    """repr is one informative line, and a pool keeps its model alive."""
    pool = network().pool(5)
    pool.open()
    assert repr(pool).startswith("Pool(1 of 5 open, GRU(5, 21")
    assert "\n" not in repr(pool)
    assert pool.step(pool.ids, inputs(1, I)).shape == (1, H)
