"""The service behind the web server: sessions and their connections, limits, an orderly end.

A connection takes one frame at a time: the next one is read when the answer is sent, so a client
that sends faster is slowed down by TCP. Nothing here knows how an engine computes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines import Engine
from fastapi import Request, Response, WebSocket, WebSocketDisconnect
from frames import frame_limit, read_frame, read_sequences, write_frame
from metrics import CONTENT_TYPE, Metrics

import fastgru

# WebSocket close codes (RFC 6455 and IANA's registry).
NORMAL, BAD_DATA, POLICY, RESTART, TRY_LATER = 1000, 1007, 1008, 1012, 1013

logger = logging.getLogger("uvicorn.error")


@dataclass(frozen=True)
class Limits:
    """What the service refuses to exceed.

    Attributes:
        grace: seconds that a session stays open without a connection.
        most_steps: frames of all sequences of a POST together.
        drain: seconds after the signal to end in which frames that arrive are still answered.
        patience: seconds to wait for clients that do not take their answers, then.
    """

    grace: float = 30.0
    most_steps: int = 1000
    drain: float = 0.2
    patience: float = 10.0


class Refused(Exception):
    """A connection gets no session: the close code and the reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class Service:
    """Handlers of the endpoints, and `drain`, which ends it."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self.engine, self.limits = engine, limits
        self.metrics = Metrics()
        self._frames: dict[int, int | None] = {}  # session -> frames answered; None: not known
        self._connected: set[int] = set()
        self._expiries: dict[int, asyncio.TimerHandle] = {}  # of sessions without a connection
        self._connections: set[asyncio.Task[Any]] = set()
        self._reading: set[asyncio.Task[Any]] = set()  # those that wait for a frame
        self._drain_until: float | None = None
        self._one_sequence = asyncio.Semaphore(1)

    def adopt(self) -> None:
        """Takes over the sessions that the engine has restored; their clients have `grace` time."""
        for session in self.engine.sessions():
            self._frames[session] = None
            self._leave(session)

    # ---- sessions ----

    def _enter(self, wanted: str | None) -> int:
        if self._drain_until is not None:
            raise Refused(RESTART, "the service ends")
        if wanted is None:
            try:
                session = self.engine.open()
            except fastgru.PoolFullError as error:
                raise Refused(TRY_LATER, str(error)) from None
            self._frames[session] = 0
        else:
            is_number = wanted.isascii() and wanted.isdigit() and len(wanted) < 20
            session = int(wanted) if is_number else -1
            if session in self._connected:
                raise Refused(TRY_LATER, f"session {session} has a connection")
            if session not in self._frames:
                raise Refused(POLICY, f"session {wanted[:20]}: not open (any more)")
            self._expiries.pop(session).cancel()
        self._connected.add(session)
        return session

    def _leave(self, session: int) -> None:
        """Its connection is gone; it is open for `grace` seconds more, or for the snapshot."""
        self._connected.discard(session)
        if self._drain_until is not None:
            return
        loop = asyncio.get_running_loop()
        self._expiries[session] = loop.call_later(self.limits.grace, self._end, session)

    def _end(self, session: int) -> None:
        self._connected.discard(session)
        self._expiries.pop(session, None)
        del self._frames[session]
        self.engine.close(session)

    # ---- /stream ----

    async def stream(self, websocket: WebSocket) -> None:
        """One frame in, one answer out, in the same form, until the client goes or is sent away."""
        await websocket.accept()
        try:
            session = self._enter(websocket.query_params.get("session"))
        except Refused as refused:
            self.metrics.counts["refused_connections"] += 1
            with contextlib.suppress(WebSocketDisconnect):
                await websocket.close(refused.code, refused.reason)
            return
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        code = None
        try:
            code = await self._converse(websocket, session, task)
        except WebSocketDisconnect:  # while an answer was sent
            pass
        finally:
            self._connections.discard(task)
            if code == NORMAL:
                self._end(session)
            else:
                self._leave(session)

    async def _converse(
        self, websocket: WebSocket, session: int, task: asyncio.Task[Any]
    ) -> int | None:
        """Returns the code with which the client has closed, None where the service has."""
        engine, metrics = self.engine, self.metrics
        hello = {
            "session": str(session),  # JavaScript's numbers have 53 bits
            "frames": self._frames[session],
            "input_size": engine.input_size,
            "output_size": engine.output_size,
        }
        await websocket.send_text(json.dumps(hello))
        while True:
            message = await self._next_message(websocket, task)
            if message is None:
                await websocket.close(RESTART, "the service ends; the session may go on later")
                return None
            if message["type"] == "websocket.disconnect":
                code: int = message.get("code", 0)
                return code
            start = time.perf_counter()
            try:
                x_t, as_json = read_frame(message, engine.input_size)
            except ValueError as error:
                metrics.counts["bad_frames"] += 1
                await websocket.close(BAD_DATA, str(error)[:120])
                return None
            answer = write_frame(await engine.step(session, x_t), as_json)
            frames = self._frames[session]
            self._frames[session] = None if frames is None else frames + 1
            if isinstance(answer, str):
                await websocket.send_text(answer)
            else:
                await websocket.send_bytes(answer)
            metrics.frame(time.perf_counter() - start)

    async def _next_message(self, websocket: WebSocket, task: asyncio.Task[Any]) -> Any:
        """The client's next message; None when it is time to end."""
        self._reading.add(task)
        try:
            if self._drain_until is None:
                try:
                    return await websocket.receive()
                except asyncio.CancelledError:  # a message that has just come stays in the queue
                    if self._drain_until is None:
                        raise
                    task.uncancel()
            if asyncio.get_running_loop().time() < self._drain_until:
                async with asyncio.timeout_at(self._drain_until):
                    return await websocket.receive()
        except TimeoutError:
            pass
        finally:
            self._reading.discard(task)  # whoever has a message calls the engine before any `await`
        return None

    async def drain(self) -> None:
        """Answers what has arrived, sends all clients away, and returns when no step is left."""
        loop = asyncio.get_running_loop()
        self._drain_until = loop.time() + self.limits.drain
        for expiry in self._expiries.values():
            expiry.cancel()
        for task in self._reading:
            task.cancel()
        while self._connections and (loop.time() < self._drain_until or self._reading):
            await asyncio.sleep(0.01)
        await self.engine.aclose()  # steps that still wait for others do so no longer
        if self._connections:
            _, late = await asyncio.wait(self._connections, timeout=self.limits.patience)
            for task in late:
                logger.warning("a client does not take its answer; its connection is cut")
                task.cancel()

    # ---- HTTP ----

    async def sequences(self, request: Request) -> Response:
        """Answers whole sequences, each from a zero state; others wait while one request runs.

        json holds the GIL meanwhile, so `most_steps` also limits how long live streams wait.
        """
        if self._drain_until is not None:
            return _error(503, "the service ends")
        most = self.limits.most_steps * frame_limit(self.engine.input_size)
        async with self._one_sequence:
            body = bytearray()
            async for part in request.stream():
                body += part
                if len(body) > most:
                    return _error(413, f"expected at most {most} bytes")
            try:
                count, text = await asyncio.to_thread(self._answer, bytes(body))
            except OverflowError as error:
                return _error(413, str(error))
            except ValueError as error:
                return _error(422, str(error))
        self.metrics.counts["sequences"] += count
        return Response(text, media_type="application/json")

    def _answer(self, body: bytes) -> tuple[int, str]:
        found = read_sequences(body, self.engine.input_size, self.limits.most_steps)
        outputs = [self.engine.sequence(x).tolist() for x in found]
        return len(found), json.dumps({"outputs": outputs})

    async def health(self) -> Response:
        """200 where new sessions are taken."""
        if self._drain_until is not None:
            return _error(503, "the service ends")
        state = {"status": "ok", "engine": self.engine.name, "sessions": len(self._frames)}
        return Response(json.dumps(state), media_type="application/json")

    async def metrics_text(self) -> Response:
        """Everything that is counted, for Prometheus."""
        gauges = {"sessions": len(self._frames), "connections": len(self._connected)}
        return Response(self.metrics.text(gauges, self.engine.counters()), media_type=CONTENT_TYPE)

    # ---- snapshots ----

    async def snapshot(self, path: Path) -> None:
        """Writes all sessions; a failure is counted and logged, since the service can go on."""
        try:
            await asyncio.to_thread(self.engine.snapshot, path)
        except OSError as error:
            self.metrics.counts["failed_snapshots"] += 1
            logger.error("no snapshot: %s", error)
        else:
            self.metrics.counts["snapshots"] += 1


def _error(status: int, message: str) -> Response:
    return Response(
        json.dumps({"error": message}), status_code=status, media_type="application/json"
    )
