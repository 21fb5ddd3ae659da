"""One client of the load generator: a WebSocket that sends its frames when they are due.

Refuses to speak with anything but this service: what does not answer as it does is an error that
says how it answered.

Letters: T frames of a connection, I input, O output size.
"""

from __future__ import annotations

import asyncio
import json
import zlib

import numpy as np
from engines import Array
from numpy.typing import NDArray
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

    def __init__(
        self, uri: str, sizes: tuple[int, int], x: Array, due: NDArray[np.float64]
    ) -> None:
        """sizes: I and O; x: (DISTINCT, I); due: (T,), seconds after the start."""
        self.x, self.due, self._sizes = x, due, sizes
        self.sent: list[float] = []
        self.answered: list[float] = []
        self.sums: list[int] = []  # CRC-32 of each answer
        self.heads: list[bytes] = []  # KEPT numbers of each answer
        self.end = ""  # how it has ended before all answers, if it has
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
        """Notes answers; the first frame, a text, is the session and its sizes."""
        now = self.loop.time() - self._start
        self._protocol.receive_data(data)
        if self._protocol.handshake_exc is not None:
            self._finish(f"no WebSocket: {ascii(str(self._protocol.handshake_exc))[1:100]}")
            self._transport.close()
            return
        for event in self._protocol.events_received():
            if isinstance(event, Frame) and event.opcode is Opcode.BINARY:
                answer = bytes(event.data)
                self.answered.append(now)
                self.sums.append(zlib.crc32(answer))
                self.heads.append(answer[: 4 * KEPT])
            elif isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                self._greeted(bytes(event.data))
        self._flush()
        if len(self.answered) == len(self.due):
            self._finish("")

    def _greeted(self, message: bytes) -> None:
        """The service's first message says which sizes its frames and answers have."""
        if self.open.done():
            return
        try:
            fields = json.loads(message)
            sizes = fields["input_size"], fields["output_size"]
        except (ValueError, TypeError, KeyError):
            self._finish(f"expected this service's first message, got {message[:60]!r}")
            return
        if sizes == self._sizes:
            self.open.set_result(None)
            return
        expected, got = (f"I {i}, O {o}" for i, o in (self._sizes, sizes))
        self._finish(f"expected a service of {expected}, got one of {got}: give both its --model")

    def connection_lost(self, error: Exception | None) -> None:
        """Of the service's doing, unless everything is answered."""
        frame = self._protocol.close_rcvd
        how = f"{frame.code} {ascii(frame.reason)[1:-1]}" if frame else f"without a word ({error})"
        self._finish(f"closed by the service: {how}")

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
                self.open.set_exception(ConnectionError(end))

    def close(self) -> None:
        """Says goodbye, so that the service ends the session."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(1000)
            self._flush()

    def wrong(self, expected: Array, same_bits: bool) -> int:
        """How many answers are not the local network's, `expected` (T, O), at their place."""
        if same_bits:
            sums = [zlib.crc32(y.tobytes()) for y in expected]
            return sum(a != b for a, b in zip(self.sums, sums, strict=False))
        heads = np.frombuffer(b"".join(self.heads), "<f4").reshape(len(self.heads), -1)
        error = np.abs(heads - expected[: len(heads), :KEPT])
        return int((error.max(axis=1, initial=0) > TOLERANCE).sum())
