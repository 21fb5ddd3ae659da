"""Loads the service like live clients, and measures: N connections, so many frames a second each.

Every connection sends its frames when they are due, whether or not earlier ones are answered, as a
microphone would. Latency is from that moment to the answer, so neither a slow service nor a slow
load generator can hide; how late frames were sent is printed beside it. With --verify all answers
are compared with a local network of the same weights: nothing lost, nothing mixed up, in order.

Where there is no such service, or it does not answer: one line on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import math
import time
import urllib.error
import urllib.parse
import urllib.request

import numpy as np
from engines import load_network, sizes, stop
from server import add_model, at_least

try:
    from connection import DISTINCT, Connection
except ModuleNotFoundError as error:
    stop(f'{error}: pip install ".[service]" in the checkout')

LONGEST_ANSWER = 2**20  # bytes of /health and /metrics that are read, many times their own
# Straight to the service, as the WebSockets go: no proxy that the environment names.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def base_of(url: str) -> str:
    """The URL without a slash at its end; ValueError for what is no http://HOST:PORT."""
    try:
        parts = urllib.parse.urlsplit(url)
        sound = parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is none, half an IPv6 address
        sound = False
    if not sound or url.rstrip("/") != f"http://{parts.netloc}" or "@" in url:
        raise ValueError(f"--url: expected http://HOST:PORT, got {ascii(url)[1:-1]}")
    return url.rstrip("/")


def get(url: str, timeout: float) -> str:
    """The text at a URL of the service. ConnectionError says what came instead of one."""
    try:
        with OPENER.open(url, timeout=timeout) as response:
            text: str = response.read(LONGEST_ANSWER).decode()
            return text
    except urllib.error.HTTPError as error:
        error.close()
        raise ConnectionError(f"{url}: expected server.py, got HTTP status {error.code}") from None
    except (TimeoutError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            reason = f"no answer within {timeout:g} s (--timeout)"
        raise ConnectionError(f"{url}: {reason}; server.py starts the service") from None
    except (OSError, http.client.HTTPException, ValueError) as error:  # another protocol
        got = f"{type(error).__name__} {ascii(str(error))[1:80]}"
        raise ConnectionError(f"{url}: expected server.py, got no HTTP ({got})") from None


def engine_of(base: str, timeout: float) -> str:
    """The name of the service's engine. ConnectionError where something else answers."""
    text = get(base + "/health", timeout)
    try:
        return str(json.loads(text)["engine"])
    except (ValueError, TypeError, KeyError, RecursionError):
        got = ascii(text[:60])
        raise ConnectionError(f"{base}/health: expected server.py's JSON, got {got}") from None


def metric(text: str, name: str) -> float:
    """One number of /metrics; 0 where the engine has none of that name."""
    return next((float(s.split()[1]) for s in text.splitlines() if s.startswith(name + " ")), 0.0)


def report(connections: list[Connection], period: float, wrong: int | None) -> None:
    """Prints the table of the clients' side. ConnectionError where nothing was sent."""
    latencies, late = [], []
    for c in connections:
        n = len(c.answered)
        latencies.append(np.array(c.answered) - c.due[:n])
        late.append(np.array(c.sent) - c.due[: len(c.sent)])
    latency, lateness = np.concatenate(latencies) * 1e3, np.concatenate(late) * 1e3
    sent, answered = lateness.size, latency.size
    if not sent:
        raise ConnectionError(f"no frame could be sent: {connections[0].end}")
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
        print(f"{sum(c.end == end for c in connections)} connections {end}")


def print_table(rows: dict[str, object]) -> None:
    """As Markdown."""
    for name, value in rows.items():
        print(f"| {name} | {value} |")


async def load(args: argparse.Namespace, base: str, size: tuple[int, int]) -> list[Connection]:
    """Runs all connections, which start at different moments of a frame's period.

    size: I and O. ConnectionError and OSError where one cannot be made.
    """
    rng, count = np.random.default_rng(args.seed), round(args.seconds * args.fps)
    loop, parts = asyncio.get_running_loop(), urllib.parse.urlsplit(base)

    def client() -> Connection:
        return Connection(
            f"ws://{parts.netloc}/stream",
            size,
            rng.standard_normal((DISTINCT, size[0])).astype(np.float32),
            (np.arange(count) + rng.uniform()) / args.fps,
        )

    connections: list[Connection] = []
    for number in range(1, args.connections + 1):
        try:
            async with asyncio.timeout(args.timeout):
                _, connection = await loop.create_connection(
                    client, str(parts.hostname), parts.port or 80
                )
                await connection.open
        except TimeoutError:
            raise ConnectionError(
                f"{base}/stream: no session within {args.timeout:g} s (--timeout)"
            ) from None
        except OSError as error:
            raise ConnectionError(f"{base}/stream: connection {number}: {error}") from None
        connections.append(connection)
    start = loop.time() + 0.1
    for connection in connections:
        connection.send_when_due(start)
    await asyncio.wait([c.done for c in connections], timeout=args.seconds + 5)
    for connection in connections:
        connection.close()
    await asyncio.sleep(0.2)
    return connections


def run(args: argparse.Namespace) -> None:
    """Loads, measures and prints. ValueError and OSError say what is wrong."""
    base = base_of(args.url)
    if round(args.seconds * args.fps) < 1:
        raise ValueError(f"expected at least one frame, got --seconds {args.seconds} x {args.fps}")
    network = load_network(args.model, args.prefix, args.shape, 1)
    input_size, output_size = sizes(network)
    engine = engine_of(base, args.timeout)
    before, start = get(base + "/metrics", args.timeout), time.perf_counter()
    own_start = time.process_time()
    connections = asyncio.run(load(args, base, (input_size, output_size)))
    own = time.process_time() - own_start
    seconds = time.perf_counter() - start

    wrong = None
    if args.verify:
        wrong = 0
        for c in connections:
            x = np.resize(c.x, (len(c.due), input_size))
            wrong += c.wrong(network.stream().run(x), engine == "fastgru")
    print(
        f"\n{engine}: {args.connections} connections, {args.fps:g} frames/s each, for "
        f"{args.seconds:g} s; I {input_size}, O {output_size}\n"
    )
    report(connections, 1 / args.fps, wrong)
    after = get(base + "/metrics", args.timeout)  # last: what the clients saw is printed by now

    def gained(name: str) -> float:
        return metric(after, name) - metric(before, name)

    rows: dict[str, object] = {
        "CPU of the service": f"{gained('process_cpu_seconds_total') / seconds:.1%} of a core",
        "CPU of this program": f"{own / seconds:.1%} of a core",
    }
    if steps := gained("service_batcher_steps_total"):
        rows["sessions in a step"] = f"{gained('service_batcher_rows_total') / steps:.2f}"
    print_table(rows)


def above_zero(text: str) -> float:
    """What argparse reads a rate or a time with."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a finite number above 0, got {text}")
    return number


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Load the service and measure it.")
    add_model(parser)
    add, count = parser.add_argument, at_least(int, 1)
    add("--url", default="http://127.0.0.1:8000", help="default %(default)s")
    add("--connections", type=count, default=100, help="default %(default)s")
    add("--fps", type=above_zero, default=50, help="frames/s of each (default %(default)s)")
    add("--seconds", type=above_zero, default=60, help="default %(default)s")
    add("--seed", type=at_least(int, 0), default=0, help="of the frames")
    add("--verify", action="store_true", help="compare with a local network, after it")
    add("--timeout", type=above_zero, default=10, help="seconds to wait for the service's answer")
    args = parser.parse_args()
    try:
        run(args)
    except (ValueError, OverflowError, OSError, ImportError, MemoryError) as error:
        stop(error)


if __name__ == "__main__":
    main()
