"""Loads the service like live clients, and measures: N connections, so many frames a second each.

Every connection sends its frames when they are due, whether or not earlier ones are answered, as a
microphone would. Latency is from that moment to the answer, so neither a slow service nor a slow
load generator can hide; how late frames were sent is printed beside it. With --verify all answers
are compared with a local GRU of the same weights: nothing lost, nothing mixed up, in order.

Letters: T frames of a connection, I input, H hidden size.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
import urllib.parse
import urllib.request
import zlib

import numpy as np
from engines import Array, load_weights
from numpy.typing import NDArray
from server import add_model
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

DISTINCT = 50  # frames of a connection, over and over: made once, since making them costs time
KEPT = 4  # first numbers of each answer; an engine other than fastgru has other last bits
TOLERANCE = 1e-4  # of those; a lost or swapped frame makes a difference of 0.01 and more


class Connection(asyncio.Protocol):
    """One client: its frames, when they were due, sent and answered, and what came back.

    websockets' protocol without its asyncio layer, which took more time than the whole service.
    """

    def __init__(self, uri: str, x: Array, due: NDArray[np.float64]) -> None:
        """x: (DISTINCT, I); due: (T,), seconds after the start."""
        self.x, self.due = x, due
        self.sent: list[float] = []
        self.answered: list[float] = []
        self.sums: list[int] = []  # CRC-32 of each answer
        self.heads: list[bytes] = []  # KEPT numbers of each answer
        self.end = ""  # how the service has closed, if it has
        self.loop = asyncio.get_running_loop()
        self.open, self.done = self.loop.create_future(), self.loop.create_future()
        self._frames = [x_t.tobytes() for x_t in x]
        self._protocol = ClientProtocol(parse_uri(uri))
        self._start = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asks for the WebSocket."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._protocol.send_request(self._protocol.connect())
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Notes answers; the first frame, a text, is the session."""
        now = self.loop.time() - self._start
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Frame) and event.opcode is Opcode.BINARY:
                answer = bytes(event.data)
                self.answered.append(now)
                self.sums.append(zlib.crc32(answer))
                self.heads.append(answer[: 4 * KEPT])
            elif isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                self.open.set_result(None)
        self._flush()
        if len(self.answered) == len(self.due):
            self._finish("")

    def connection_lost(self, error: Exception | None) -> None:
        """Of the service's doing, unless everything is answered."""
        frame = self._protocol.close_rcvd
        self._finish(f"{frame.code} {frame.reason}" if frame else f"without a word ({error})")

    def send_when_due(self, start: float) -> None:
        """Sends all frames from here on; `start` is the loop's time of `due` 0."""
        self._start = start
        self.loop.call_at(start + self.due[0], self._send)

    def _send(self) -> None:
        if self.done.done() or self._protocol.state is not State.OPEN:
            return
        self._protocol.send_binary(self._frames[len(self.sent) % DISTINCT])
        self._flush()
        self.sent.append(self.loop.time() - self._start)
        if len(self.sent) < len(self.due):
            self.loop.call_at(self._start + self.due[len(self.sent)], self._send)

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            self._transport.write(data)

    def _finish(self, end: str) -> None:
        if not self.done.done():
            self.end = end
            self.done.set_result(None)
            if not self.open.done():
                self.open.set_exception(ConnectionError(f"closed by the service: {end}"))

    def close(self) -> None:
        """Says goodbye, so that the service ends the session."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(1000)
            self._flush()

    def wrong(self, expected: Array, same_bits: bool) -> int:
        """How many answers are not those of the local GRU, `expected` (T, H), at their place."""
        if same_bits:
            sums = [zlib.crc32(y.tobytes()) for y in expected]
            return sum(a != b for a, b in zip(self.sums, sums, strict=False))
        heads = np.frombuffer(b"".join(self.heads), "<f4").reshape(len(self.heads), -1)
        error = np.abs(heads - expected[: len(heads), :KEPT])
        return int((error.max(axis=1, initial=0) > TOLERANCE).sum())


def get(url: str) -> str:
    """The text at a URL of the service."""
    with urllib.request.urlopen(url, timeout=30) as response:
        text: str = response.read().decode()
        return text


def metric(text: str, name: str) -> float:
    """One number of /metrics; 0 where the engine has none of that name."""
    return next((float(s.split()[1]) for s in text.splitlines() if s.startswith(name + " ")), 0.0)


def report(connections: list[Connection], period: float, wrong: int | None) -> None:
    """Prints the table of the clients' side."""
    latencies, late = [], []
    for c in connections:
        n = len(c.answered)
        latencies.append(np.array(c.answered) - c.due[:n])
        late.append(np.array(c.sent) - c.due[: len(c.sent)])
    latency, lateness = np.concatenate(latencies) * 1e3, np.concatenate(late) * 1e3
    sent, answered = lateness.size, latency.size
    missed = sent - answered + int((latency > period * 1e3).sum())
    rows: dict[str, object] = {
        "frames sent": f"{sent:,}",
        "answers missing": sent - answered,
        "answers wrong or out of order": "not verified" if wrong is None else wrong,
        f"missed deadlines (over {period * 1e3:.3g} ms)": f"{missed} ({missed / sent:.3%})",
    }
    for name, values in (("latency", latency), ("sent late by", lateness)):
        percentiles = np.percentile(values, [50, 99, 99.9, 100]) if values.size else [np.nan] * 4
        for label, value in zip(("p50", "p99", "p99.9", "most"), percentiles, strict=True):
            rows[f"{name}, {label}"] = f"{value:.2f} ms"
    print_table(rows)
    for end in sorted({c.end for c in connections} - {""}):
        print(f"closed by the service, {sum(c.end == end for c in connections)} times: {end}")


def print_table(rows: dict[str, object]) -> None:
    """As Markdown."""
    for name, value in rows.items():
        print(f"| {name} | {value} |")


async def load(args: argparse.Namespace, input_size: int) -> list[Connection]:
    """Runs all connections, which start at different moments of a frame's period."""
    rng, count = np.random.default_rng(args.seed), round(args.seconds * args.fps)
    loop, parts = asyncio.get_running_loop(), urllib.parse.urlsplit(args.url)

    def client() -> Connection:
        return Connection(
            f"ws://{parts.netloc}/stream",
            rng.standard_normal((DISTINCT, input_size)).astype(np.float32),
            (np.arange(count) + rng.uniform()) / args.fps,
        )

    connections: list[Connection] = []
    for _ in range(args.connections):
        _, connection = await loop.create_connection(client, parts.hostname, parts.port)
        await connection.open
        connections.append(connection)
    start = loop.time() + 0.1
    for connection in connections:
        connection.send_when_due(start)
    await asyncio.wait([c.done for c in connections], timeout=args.seconds + 5)
    for connection in connections:
        connection.close()
    await asyncio.sleep(0.2)
    return connections


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Load the service and measure it.")
    add_model(parser)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="default %(default)s")
    parser.add_argument("--connections", type=int, default=100, help="default %(default)s")
    parser.add_argument("--fps", type=float, default=50, help="frames/s of each (%(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the frames")
    parser.add_argument("--verify", action="store_true", help="compare with a local GRU, after it")
    args = parser.parse_args()

    gru = load_weights(args.model, args.prefix, args.shape, 1)
    engine = json.loads(get(args.url + "/health"))["engine"]
    before, start = get(args.url + "/metrics"), time.perf_counter()
    own_start = time.process_time()
    connections = asyncio.run(load(args, gru.input_size))
    own = time.process_time() - own_start
    after, seconds = get(args.url + "/metrics"), time.perf_counter() - start

    wrong = None
    if args.verify:
        wrong = 0
        for c in connections:
            x = np.resize(c.x, (len(c.due), gru.input_size))
            wrong += c.wrong(gru(x)[0], engine == "fastgru")
    print(
        f"\n{engine}: {args.connections} connections, {args.fps:g} frames/s each, for "
        f"{args.seconds:g} s; I {gru.input_size}, H {gru.hidden_size}, L {gru.num_layers}\n"
    )
    report(connections, 1 / args.fps, wrong)

    def gained(name: str) -> float:
        return metric(after, name) - metric(before, name)

    rows: dict[str, object] = {
        "CPU of the service": f"{gained('process_cpu_seconds_total') / seconds:.1%} of a core",
        "CPU of this program": f"{own / seconds:.1%} of a core",
    }
    if steps := gained("service_batcher_steps_total"):
        rows["sessions in a step"] = f"{gained('service_batcher_rows_total') / steps:.2f}"
    print_table(rows)


if __name__ == "__main__":
    main()
