"""examples/service: the real server in a process of its own, and clients over sockets.

What a client gets are the bits of its own Stream, in order, across dropped connections, orderly
ends and kills; what is wrong with one client is told to it and noticed by nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from conftest import same_bits
from service_server import (
    FOLDER,
    H,
    I,
    Server,
    ask,
    close_code,
    closed,
    hello,
    inputs,
    network,
    run_script,
)

MISSING = [
    name for name in ("fastapi", "uvicorn", "websockets") if not importlib.util.find_spec(name)
]
pytestmark = [
    pytest.mark.skipif(not FOLDER.exists(), reason="the examples are not beside the tests"),
    pytest.mark.skipif(bool(MISSING), reason=f'needs pip install ".[service]": no {MISSING}'),
]
LONG = 250  # frames of a sequence in the middle of which the server ends


@pytest.fixture(autouse=True, scope="module")
def _in_a_folder_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with contextlib.chdir(tmp_path_factory.mktemp("service")):
        yield


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    started = Server("--capacity", "8", "--max-steps", "100", "--max-delay", "0.001")
    yield started
    assert started.stop() == 0


def test_answers_in_order_with_the_same_bits(server: Server) -> None:
    """Clients that do not wait for answers, in both forms; each is answered in its own."""
    x = inputs(40, 6)
    expected, _ = network()(x)
    before = server.metric("frames_total")

    async def client(row: int) -> None:
        as_json = row % 2 == 1
        async with server.connect() as socket:
            assert (await hello(socket))[1] == 0
            for x_t in x[:, row]:
                await socket.send(json.dumps(x_t.tolist()) if as_json else x_t.tobytes())
            for t in range(40):
                answer = await socket.recv()
                if as_json:
                    y = np.array(json.loads(answer), np.float32)
                    assert isinstance(answer, str)
                else:
                    y = np.frombuffer(answer, "<f4")
                assert same_bits(y, expected[t, row])

    async def main() -> None:
        await asyncio.gather(*map(client, range(6)))
        await server.until("sessions", 0, 0)  # closed by their clients, so no grace

    asyncio.run(main())
    assert server.metric("frames_total") == before + 240


def test_metrics_and_health(server: Server) -> None:
    """Every line is one of Prometheus's format, buckets add up, /health is JSON."""
    text = server.get("/metrics")
    number = r"[-+0-9.e]+(inf|nan)?"
    for line in text.splitlines():
        assert re.fullmatch(
            rf'# TYPE \w+ (counter|gauge|histogram)|\w+({{le="[^"]+"}})? {number}', line
        )
    buckets = [int(n) for n in re.findall(r"_bucket{.*} (\d+)", text)]
    assert buckets == sorted(buckets)
    assert buckets[-1] == server.metric("frame_seconds_count") == server.metric("frames_total")
    assert server.metric("batcher_rows_total") == server.metric("frames_total")
    assert "process_cpu_seconds_total" in text
    assert json.loads(server.get("/health")) == {"status": "ok", "engine": "fastgru", "sessions": 0}


def test_bad_frames_hurt_nobody_else(server: Server) -> None:
    """The client is told what was wrong, its session waits for it, the others go on."""
    x = inputs(3, 2)
    expected, _ = network()(x)
    nan = np.full(I, np.nan, np.float32)
    bad: list[tuple[str | bytes, int, str]] = [
        (x[0, 0].tobytes()[:-1], 1007, "expected 6 float32 (24 bytes), got 23 bytes"),
        (nan.tobytes(), 1007, "expected finite"),
        ("[1, 2", 1007, "no JSON"),
        ("[" * 200, 1007, "no JSON"),
        ("[1, 2]", 1007, "expected numbers of shape [6], got [2]"),
        ('["1", 2, 3, 4, 5, 6]', 1007, "expected numbers of shape [6], got <U"),
        (f"[1e999{', 1' * 5}]", 1007, "expected finite"),
        (f"[{10**99}{', 1' * 5}]", 1007, "expected numbers of shape [6], got object"),
        (f"[NaN{', 1' * 5}]", 1007, "expected finite"),
        ("{}", 1007, "got dict"),
        (bytes(10_000), 1009, ""),
    ]

    async def main() -> None:
        async with server.connect() as good:
            await hello(good)
            assert same_bits(await ask(good, x[0, 0]), expected[0, 0])
            async with server.connect() as socket:
                session, _ = await hello(socket)
                assert same_bits(await ask(socket, x[0, 1]), expected[0, 1])
            # leaving with 1000 has ended that session; from here on one that is dropped
            async with server.connect() as socket:
                session, _ = await hello(socket)
                await ask(socket, x[0, 1])
                socket.transport.abort()
            for frame, code, reason in bad:
                await server.until("connections", 1, 1)
                async with server.connect(session) as socket:
                    assert await hello(socket) == (session, 1)
                    await socket.send(frame)
                    found = await close_code(socket)
                    assert found[0] == code
                    assert reason in found[1]
            await server.until("connections", 1, 1)
            async with server.connect(session) as socket:
                await hello(socket)
                assert same_bits(await ask(socket, x[1, 1]), expected[1, 1])
            assert same_bits(await ask(good, x[1, 0]), expected[1, 0])

    asyncio.run(main())
    assert server.metric("bad_frames_total") == len(bad) - 1  # uvicorn refuses what is too long


def test_sessions_are_limited(server: Server) -> None:
    """A full service, a session that is elsewhere or nowhere: a close code each."""

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            sockets = [await stack.enter_async_context(server.connect()) for _ in range(8)]
            sessions = [(await hello(socket))[0] for socket in sockets]
            for session, code, reason in (
                (None, 1013, "all 8 sessions of this pool are open"),
                (sessions[0], 1013, f"session {sessions[0]} has a connection"),
                ("12345", 1008, "session 12345: not open"),
                ("x" * 500, 1008, "session x"),
                ("-1", 1008, "session -1: not open"),
                ("9" * 5000, 1008, "session 9999"),
            ):
                async with server.connect(session) as socket:
                    assert (await close_code(socket))[0] == code
                    assert reason in socket.close_reason
            await sockets[0].close()
            await server.until("sessions", 7, 7)
            async with server.connect() as socket:
                assert (await hello(socket))[0] not in sessions

    asyncio.run(main())


def test_whole_sequences(server: Server) -> None:
    """POST /sequences: the GRU's own outputs; limits and bad bodies by status and sentence."""
    x = inputs(7, 2)
    sequences = [x[:, 0].tolist(), x[:3, 1].tolist()]
    status, answer = server.post(json.dumps({"sequences": sequences}).encode())
    assert status == 200
    expected, _ = network()(x)
    outputs = [np.array(y, np.float32).reshape(-1, H) for y in answer["outputs"]]
    for y, exact in zip(outputs, (expected[:, 0], expected[:3, 1]), strict=True):
        assert same_bits(y, exact)
    frame = [0.0] * I
    for body, status, reason in (
        ({"sequences": [[frame] * 60, [frame] * 41]}, 413, "at most 100 frames"),
        ({"sequences": [[frame], [frame, frame[1:]]]}, 422, "sequences[1]: expected numbers"),
        ({"sequences": [[[None] * I]]}, 422, "got object"),
        ({"sequences": [[frame], []]}, 422, "sequences[1]: expected at least one frame"),
        ({"sequences": 3}, 422, "body: expected"),
        ([], 422, "body: expected"),
    ):
        found = server.post(json.dumps(body).encode())
        assert found[0] == status
        assert reason in found[1]["error"]
    assert server.post(b"{" * 10_000)[0] == 422
    assert server.post(b" " * 1_000_000)[0] == 413


def test_a_dropped_session_has_time_to_come_back() -> None:
    """And is closed when that is over."""
    server, x = Server("--grace", "0.5"), inputs(2)
    expected, _ = network()(x)

    async def main() -> None:
        session = None
        for t in range(2):
            async with server.connect(session) as socket:
                session, frames = await hello(socket)
                assert frames == t
                assert same_bits(await ask(socket, x[t]), expected[t])
                socket.transport.abort()
            await server.until("connections", 0, 0)
        await server.until("sessions", 0, 0)
        async with server.connect(session) as socket:
            assert (await close_code(socket))[0] == 1008

    asyncio.run(main())
    assert server.stop() == 0


def test_the_end_answers_what_has_arrived() -> None:
    """Frames that wait for a step when the signal comes: answered first, then the close."""
    server, x = Server("--max-delay", "1000"), inputs(2)

    async def main() -> None:
        async with server.connect() as idle, server.connect() as one, server.connect() as other:
            for socket in (idle, one, other):
                await hello(socket)
            for row, socket in enumerate((one, other)):  # steps wait for the idle one
                await socket.send(x[row].tobytes())
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(one.recv(), 0.1)
            ending = asyncio.create_task(asyncio.to_thread(server.stop))
            for row, socket in enumerate((one, other)):
                y = np.frombuffer(await socket.recv(), "<f4")
                assert same_bits(y, network().stream().step(x[row]))
            for socket in (idle, one, other):
                assert (await close_code(socket))[0] == 1012
            assert await ending == 0

    asyncio.run(main())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_sessions_go_on_after_a_restart(number: int) -> None:
    """Ended under load, nothing that was applied is unanswered: what was not answered is sent again

    and all answers together are the sequence's. Killed, sessions go on from the last snapshot.
    """
    Path("saved").unlink(missing_ok=True)
    every = ["--snapshot-every", "0.05"] if number == signal.SIGKILL else []
    server, x = Server("--snapshot", "saved", *every), inputs(LONG, 6)
    expected, _ = network()(x)
    done, sessions = [0] * 6, [""] * 6
    first = 30 if number == signal.SIGKILL else LONG

    async def client(server: Server, row: int, last: int) -> None:
        async with server.connect(sessions[row] or None) as socket:
            sessions[row], frames = await hello(socket)
            assert frames in (0, None)

            async def send() -> None:
                for x_t in x[done[row] : last, row]:
                    await socket.send(x_t.tobytes())
                    await asyncio.sleep(0.002)

            sending = asyncio.create_task(send())
            with contextlib.suppress(closed()):
                while done[row] < last:
                    y = np.frombuffer(await socket.recv(), "<f4")
                    assert same_bits(y, expected[done[row], row])
                    done[row] += 1
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            if last < LONG:
                socket.transport.abort()  # a client that closes is done with its session

    async def main() -> None:
        clients = [asyncio.create_task(client(server, row, first)) for row in range(6)]
        if number == signal.SIGTERM:
            await server.until("frames_total", 200)
            assert await asyncio.to_thread(server.stop) == 0
            await asyncio.gather(*clients)
            assert 200 <= sum(done) < 6 * LONG
        else:
            await asyncio.gather(*clients)
            begun = server.metric("snapshots_total")
            await server.until("snapshots_total", begun + 2)  # one that began after the last answer
            assert server.stop(number) == -number
        again = Server("--snapshot", "saved")
        assert again.metric("sessions") == 6
        await asyncio.gather(*(client(again, row, LONG) for row in range(6)))
        assert done == [LONG] * 6
        assert again.stop() == 0

    asyncio.run(main())


def test_answers_are_sent_at_once() -> None:
    """No connection waits for acknowledgements, which come with the client's next frame."""
    code = """
import socket, sys
sys.path.insert(0, sys.argv[1])
import server
with server.listen("127.0.0.1", 0) as listener:
    with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
        print(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
"""
    assert run_script("-c", code, str(FOLDER)).stdout.strip() not in ("", "0")


def test_the_load_generator(server: Server) -> None:
    """It answers for what it prints: here nothing missing and nothing wrong."""
    options = ["--model", "model", "--connections", "3", "--fps", "50", "--seconds", "1"]
    result = run_script(FOLDER / "load.py", "--url", server.url, "--verify", *options)
    assert result.returncode == 0, result.stderr
    for row in ("frames sent | 150", "answers missing | 0", "wrong or out of order | 0"):
        assert f"{row} |" in result.stdout


@pytest.mark.skipif(not importlib.util.find_spec("onnxruntime"), reason="needs onnxruntime")
def test_the_other_engine() -> None:
    """ONNX Runtime gives the same answers within its rounding, to streams and whole sequences."""
    server, x = Server("--engine", "onnxruntime", "--capacity", "3"), inputs(10)
    expected, _ = network()(x)
    options = ["--model", "model", "--connections", "3", "--fps", "50", "--seconds", "0.5"]
    result = run_script(FOLDER / "load.py", "--url", server.url, "--verify", *options)
    assert "wrong or out of order | 0 |" in result.stdout, result.stderr
    _, answer = server.post(json.dumps({"sequences": [x.tolist()]}).encode())
    np.testing.assert_allclose(answer["outputs"][0], expected, atol=1e-5)
    assert server.stop() == 0


def test_wrong_options_are_one_line() -> None:
    for options, reason in (
        (["--model", "missing"], "missing"),
        (["--shape", "3,4", "--capacity", "0"], "capacity"),
        (["--engine", "onnxruntime", "--snapshot", "s"], "--snapshot needs --engine fastgru"),
        (["--shape", "64"], "--shape: expected I,H"),
        (["--shape", "64,-1"], "--shape: expected I,H"),
        (["--port", "99999"], "port must be 0-65535"),
        (["--max-steps", "-1"], "expected at least 1, got -1"),
        (["--grace", "-1"], "expected at least 0, got -1"),
        (["--snapshot", "nowhere/s"], "nowhere"),
        (["--snapshot-every", "1"], "--snapshot-every needs --snapshot"),
    ):
        result = run_script(FOLDER / "server.py", *options)
        assert result.returncode == 2
        assert reason in result.stderr.splitlines()[-1]
