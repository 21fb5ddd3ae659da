"""A service of live sessions of a GRU or a whole model: FastAPI and uvicorn in front.

    python server.py --model model.safetensors --capacity 1000

Without a model it runs random weights. SIGTERM and SIGINT end it in order: every frame that has
been taken is answered, connections are closed, sessions are saved; a second signal does not wait. A
connection's frame is taken when the one before it is answered; others were not applied. README.md
has the rest. What is wrong with the command is one line on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from engines import Engine, FastgruEngine, load_network, stop

try:
    import uvicorn
    from fastapi import FastAPI
    from frames import frame_limit
    from service import Limits, Service
except ModuleNotFoundError as error:
    stop(f'{error}: pip install ".[service]" in the checkout')

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Runner:
    """The web server with the service in it, from the start to an orderly end."""

    def __init__(self, engine: Engine, limits: Limits, snapshot: Path | None, every: float) -> None:
        """snapshot: written every so many seconds (0: never) and at the end."""
        self.service = Service(engine, limits)
        self._snapshot, self._every = snapshot, every
        self._ending = asyncio.Event()
        app = FastAPI(lifespan=self._lifespan, openapi_url=None)
        app.add_api_websocket_route("/stream", self.service.stream)
        for path, handler, method in (
            ("/sequences", self.service.sequences, "POST"),
            ("/health", self.service.health, "GET"),
            ("/metrics", self.service.metrics_text, "GET"),
        ):
            app.add_api_route(path, handler, methods=[method], response_model=None)
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                ws="websockets-sansio",
                ws_max_size=frame_limit(engine.input_size),  # larger frames: close code 1009
                ws_per_message_deflate=False,  # float32 hardly shrink
                log_level="warning",
                access_log=False,
                timeout_graceful_shutdown=10,
            )
        )

    def run(self, listener: socket.socket) -> None:
        """Serves until a signal."""
        self._server.run(sockets=[listener])

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Inside the event loop. uvicorn's own handlers close connections before they are done."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._on_signal)
        self.service.adopt()
        ending = asyncio.create_task(self._end_in_order())
        yield
        await ending

    def _on_signal(self) -> None:
        if self._ending.is_set():
            self._server.should_exit = self._server.force_exit = True
        self._ending.set()

    async def _end_in_order(self) -> None:
        try:
            while not self._ending.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._ending.wait(), self._every or None)
                if self._snapshot is not None and not self._ending.is_set():
                    await self.service.snapshot(self._snapshot)
            await self.service.drain()
            if self._snapshot is not None:
                await self.service.snapshot(self._snapshot)
        finally:
            self._server.should_exit = True


def at_least(kind: type[int] | type[float], least: int) -> Callable[[str], float]:
    """What argparse reads a number with."""

    def read(text: str) -> float:
        number = kind(text)
        if not number >= least:
            raise argparse.ArgumentTypeError(f"expected at least {least}, got {text}")
        return number

    read.__name__ = "whole number" if kind is int else "number"  # argparse's word for it
    return read


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description="Serve live sessions of a GRU or a Model.")
    add_model(parser)
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    add("--port", type=at_least(int, 0), default=8000, help="default %(default)s; 0: a free one")
    add("--engine", choices=("fastgru", "onnxruntime"), default="fastgru")
    add(
        "--capacity",
        type=at_least(int, 1),
        default=1000,
        help="sessions at once (default %(default)s)",
    )
    add("--threads", type=at_least(int, 1), default=1, help="of the engine (default %(default)s)")
    add(
        "--max-delay",
        type=at_least(float, 0),
        default=0.001,
        help="seconds that a frame waits for others",
    )
    add(
        "--max-batch",
        type=at_least(int, 1),
        default=64,
        help="sessions in a step (default %(default)s)",
    )
    add(
        "--max-steps",
        type=at_least(int, 1),
        default=1000,
        help="frames in a POST (default %(default)s)",
    )
    add(
        "--grace",
        type=at_least(float, 0),
        default=30,
        help="seconds that a dropped session stays open",
    )
    add("--snapshot", type=Path, help="file of all sessions: read at the start, written at the end")
    add(
        "--snapshot-every",
        type=at_least(float, 0),
        default=0,
        help="seconds; default: only at the end",
    )
    return parser


def add_model(parser: argparse.ArgumentParser) -> None:
    """What says which network. load.py has the same, to check answers."""
    parser.add_argument("--model", type=Path, help="any file that fastgru.load takes")
    parser.add_argument("--prefix", help="which GRU of a file that holds several")
    parser.add_argument("--shape", default="64,128", help="I,H of random weights without a model")


def make_engine(args: argparse.Namespace) -> Engine:
    """The engine of the command line, with the sessions of its snapshot."""
    network = load_network(args.model, args.prefix, args.shape, args.threads)
    if args.engine == "fastgru":
        options = {"max_delay": args.max_delay, "max_batch": args.max_batch}
        engine: Engine = FastgruEngine(network, args.capacity, **options)
        if args.snapshot is not None:
            if args.snapshot.exists():
                engine.restore(args.snapshot)
            engine.snapshot(args.snapshot)  # now, rather than at the end, says that it cannot be
        elif args.snapshot_every:
            raise ValueError("--snapshot-every needs --snapshot")
        return engine
    if args.snapshot is not None:
        raise ValueError("--snapshot needs --engine fastgru")
    from onnx_engine import OnnxEngine  # noqa: PLC0415

    return OnnxEngine(network, args.capacity)


def listen(host: str, port: int) -> socket.socket:
    """A socket whose connections send every answer at once.

    asyncio sees to that only for sockets that it has made. Without it a connection that has once
    fallen behind stays one frame behind: an answer waits for the acknowledgement of the one before
    it, which comes with the client's next frame.
    """
    listener = socket.create_server((host, port))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections inherit it
    return listener


def main() -> None:
    """Checks everything before it listens."""
    parser = arguments()
    args = parser.parse_args()
    try:
        engine = make_engine(args)
        listener = listen(args.host, args.port)
    except (ValueError, OverflowError, OSError, ImportError) as error:
        stop(error)
    model = args.model or "random weights (no --model)"
    print(f"{args.engine}: {model}, I {engine.input_size}, O {engine.output_size}")
    print(f"{len(engine.sessions())} sessions restored" if args.snapshot else "no snapshots")
    print("listening on http://{}:{}".format(*listener.getsockname()[:2]), flush=True)
    limits = Limits(grace=args.grace, most_steps=args.max_steps)
    Runner(engine, limits, args.snapshot, args.snapshot_every).run(listener)


if __name__ == "__main__":
    main()
