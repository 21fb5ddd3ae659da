"""examples/service/load.py without its service: one line on stderr and exit status 2.

Whatever is (or is not) at the address: nothing, silence, another protocol, another web server, a
service of another network.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service_server import FOLDER, run_script

MISSING = [
    name for name in ("fastapi", "uvicorn", "websockets") if not importlib.util.find_spec(name)
]
pytestmark = [
    pytest.mark.skipif(not FOLDER.exists(), reason="the examples are not beside the tests"),
    pytest.mark.skipif(bool(MISSING), reason=f'needs pip install ".[service]": no {MISSING}'),
]

TIMEOUT = "3"  # seconds; those that answer do so sooner on a busy machine, too


def assert_one_line(*options: str | Path, reason: str) -> None:
    """Of load.py: exit status 2, nothing on stdout, one line on stderr with the reason."""
    result = run_script(FOLDER / "load.py", "--shape", "4,3", *options)
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("load.py: ")
    assert reason in result.stderr


@contextlib.contextmanager
def impostor(answer: Callable[[bytes], bytes | None]) -> Iterator[str]:
    """The address of a server that answers each request by `answer`; None keeps it waiting."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        waiting = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:  # closed
                    return
                reply = answer(connection.recv(65536).split(b"\r\n")[0])
                if reply is None:
                    waiting.append(connection)
                    continue
                with connection, contextlib.suppress(OSError):
                    connection.sendall(reply)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(20)
            for connection in waiting:
                connection.close()


def http(body: bytes, status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


HEALTH = http(json.dumps({"engine": "fastgru"}).encode())


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert_one_line("--url", f"http://127.0.0.1:{port}", reason="refused; server.py starts")


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "https://127.0.0.1:8000",
        "http://127.0.0.1:99999",
        "http://[::1",
        "http://127.0.0.1:8000/stream",
        "http://user@127.0.0.1:8000",
    ],
)
def test_wrong_addresses(url: str) -> None:
    """Said before anything is asked for."""
    assert_one_line("--url", url, reason="--url: expected http://HOST:PORT")


def test_a_host_that_is_none() -> None:
    """Names that cannot be looked up, whatever stands in them."""
    for host in ("no.such.host.invalid", "a" * 70 + ".invalid"):
        assert_one_line("--url", f"http://{host}:8000", reason="http://")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda _: None, "no answer within 3 s"),
        (lambda _: b"", "server.py"),
        (lambda _: b"SSH-2.0-OpenSSH_9.2\r\n", "got no HTTP"),
        (lambda _: b"\x00\xff\x1b[31m" * 50, "got no HTTP"),
        (lambda _: http(b"no", "404 Not Found"), "got HTTP status 404"),
        (lambda _: http(b"", "503 \x1b[31m"), "got HTTP status 503"),
        (lambda _: http(b"<html>Welcome</html>"), "expected server.py's JSON"),
        (lambda _: http(b"\xff\xfe"), "expected server.py"),
        (lambda _: http(b"[1]"), "expected server.py's JSON"),
        (lambda _: http(b"[" * 100_000), "expected server.py's JSON"),
        (lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{", "got '{'"),
        (lambda line: HEALTH if b"/health" in line else None, "no answer within 3 s"),
        (lambda line: None if b"/stream" in line else HEALTH, "no session within 3 s"),
        (lambda line: http(b"", "404 No") if b"/stream" in line else HEALTH, "/stream: conn"),
        (lambda line: b"SSH-2.0\r\n" if b"/stream" in line else HEALTH, "/stream: conn"),
        (lambda line: b"" if b"/stream" in line else HEALTH, "/stream: conn"),
    ],
)
def test_somebody_else_answers(answer: Callable[[bytes], bytes | None], reason: str) -> None:
    """At the first request, or only where the sessions should be."""
    with impostor(answer) as url:
        assert_one_line("--url", url, "--timeout", TIMEOUT, reason=reason)


def test_wrong_options() -> None:
    """Files that are missing or no network, and rates that give no frame."""
    for options, reason in (
        (["--model", "missing.safetensors"], "missing.safetensors"),
        (["--model", str(FOLDER / "README.md")], "README.md"),
        (["--shape", "3"], "--shape: expected I,H"),
        (["--seconds", "0.001", "--fps", "1"], "expected at least one frame"),
    ):
        assert_one_line(*options, reason=reason)
    for option, value in (("--connections", "0"), ("--fps", "nan"), ("--seconds", "inf")):
        result = run_script(FOLDER / "load.py", option, value)
        assert result.returncode == 2
        assert "expected" in result.stderr.splitlines()[-1]
