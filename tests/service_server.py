"""What the tests of examples/service share: a server process, and what clients say to it."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastgru
from conftest import Array, make_gru, random_input, random_weights

FOLDER = Path(__file__).resolve().parent.parent / "examples/service"
I, H, L = 6, 20, 2  # noqa: E741


def network() -> fastgru.GRU:
    return make_gru(random_weights(np.random.default_rng(0), I, H, L))


def inputs(*shape: int) -> Array:
    return random_input(np.random.default_rng(1), *shape, I)


class Server:
    """A server process on a free port."""

    def __init__(self, *options: str, served: fastgru.GRU | fastgru.Model | None = None) -> None:
        (served or network()).save("model")
        self.process = subprocess.Popen(
            [sys.executable, FOLDER / "server.py", "--model", "model", "--port", "0", *options],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        lines = iter(self.process.stdout.readline, "")
        self.url = next(line.split()[-1] for line in lines if line.startswith("listening"))

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Its exit status."""
        self.process.send_signal(number)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait(20)

    def connect(self, session: str | None = None, **options: Any) -> Any:
        from websockets.asyncio.client import connect  # noqa: PLC0415

        uri = self.url.replace("http", "ws") + "/stream"
        return connect(uri if session is None else f"{uri}?session={session}", **options)

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=20) as response:
            text: str = response.read().decode()
            return text

    def post(self, body: bytes) -> tuple[int, Any]:
        """Status and JSON of POST /sequences."""
        try:
            with urllib.request.urlopen(self.url + "/sequences", body, timeout=20) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def metric(self, name: str) -> float:
        return float(re.findall(rf"^service_{name} (\S+)$", self.get("/metrics"), re.M)[0])

    async def until(self, name: str, least: float, most: float = np.inf) -> None:
        """Returns when a metric is so large."""
        end = time.monotonic() + 20
        while not least <= await asyncio.to_thread(self.metric, name) <= most:
            assert time.monotonic() < end, f"{name}: {self.metric(name)}"
            await asyncio.sleep(0.01)


async def hello(socket: Any) -> tuple[str, int | None]:
    """The first message: the session, and how many of its frames are answered."""
    fields = json.loads(await socket.recv())
    assert (fields["input_size"], fields["output_size"]) == (I, H)
    return fields["session"], fields["frames"]


async def ask(socket: Any, x_t: Array) -> Array:
    await socket.send(x_t.tobytes())
    return np.frombuffer(await socket.recv(), "<f4")


def closed() -> type[Exception]:
    from websockets.exceptions import ConnectionClosed  # noqa: PLC0415

    error: type[Exception] = ConnectionClosed
    return error


async def close_code(socket: Any) -> tuple[int, str]:
    """Reads to the end, which the server must have made."""
    with pytest.raises(closed()):
        await asyncio.wait_for(socket.recv(), 20)
    return socket.close_code, socket.close_reason


def run_script(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
