"""examples/service with a whole model: the same promises as with a bare GRU, and what is refused.

A client's answers are the bits of its own ModelStream, whatever the other clients send.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastgru
from conftest import Array, make_gru, random_weights, same_bits
from fastgru.layers import Layer
from service_server import FOLDER, H, I, Server, inputs, run_script

MISSING = [
    name for name in ("fastapi", "uvicorn", "websockets") if not importlib.util.find_spec(name)
]
pytestmark = [
    pytest.mark.skipif(not FOLDER.exists(), reason="the examples are not beside the tests"),
    pytest.mark.skipif(bool(MISSING), reason=f'needs pip install ".[service]": no {MISSING}'),
]
O = 3  # noqa: E741
Layers = list[fastgru.GRU | Layer]


def normal(*shape: int) -> Array:
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


def gru(input_size: int, hidden_size: int, bidirectional: bool = False) -> fastgru.GRU:
    rng = np.random.default_rng(input_size)
    return make_gru(random_weights(rng, input_size, hidden_size, 1, bidirectional))


def mask(last: bool = False) -> fastgru.Model:
    """Layers before, between and behind two GRUs; `last`: one row for a whole sequence."""
    layers: Layers = [fastgru.Linear(normal(8, I)), fastgru.Tanh(), gru(8, H), gru(H, 5)]
    layers += [fastgru.Last()] if last else []
    return fastgru.Model([*layers, fastgru.Linear(normal(O, 5)), fastgru.Sigmoid()])


@pytest.fixture(autouse=True, scope="module")
def _in_a_folder_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with contextlib.chdir(tmp_path_factory.mktemp("service")):
        yield


async def ask(socket: Any, x_t: Array, as_json: bool) -> Array:
    await socket.send(json.dumps(x_t.tolist()) if as_json else x_t.tobytes())
    answer = await socket.recv()
    if as_json:
        return np.array(json.loads(answer), np.float32)
    return np.frombuffer(answer, "<f4")


@pytest.mark.parametrize("last", [False, True])
def test_a_model_is_served_as_a_gru_is(last: bool) -> None:
    """Sizes, streams in both forms, whole sequences, and sessions that go on after a restart."""
    model, x, saved = mask(last), inputs(6, 3), f"saved{last}"
    expected = np.stack([model.stream().run(x[:, row]) for row in range(3)], 1)
    sessions = [""] * 3

    async def clients(server: Server, first: int, end: int) -> None:
        async def client(row: int) -> None:
            async with server.connect(sessions[row] or None) as socket:
                hello = json.loads(await socket.recv())
                assert (hello["input_size"], hello["output_size"]) == (I, O)
                sessions[row] = hello["session"]
                for t in range(first, end):
                    y = await ask(socket, x[t, row], as_json=row == 1)
                    assert same_bits(y, expected[t, row])
                socket.transport.abort()  # so that the session stays

        await asyncio.gather(*map(client, range(3)))

    server = Server("--snapshot", saved, served=model)
    asyncio.run(clients(server, 0, 4))
    status, answer = server.post(json.dumps({"sequences": [x[:, 0].tolist()]}).encode())
    assert status == 200
    assert same_bits(np.array(answer["outputs"][0], np.float32), expected[:, 0])
    assert server.stop() == 0
    again = Server("--snapshot", saved, served=model)
    asyncio.run(clients(again, 4, 6))
    assert again.stop() == 0


def test_the_load_generator_checks_a_models_answers() -> None:
    """With the same --model nothing is wrong; with another network it says which sizes differ."""
    server = Server(served=mask())
    options = ["--url", server.url, "--connections", "3", "--fps", "50", "--seconds", "1"]
    result = run_script(FOLDER / "load.py", "--verify", "--model", "model", *options)
    assert result.returncode == 0, result.stderr
    for row in ("frames sent | 150", "answers missing | 0", "wrong or out of order | 0"):
        assert f"{row} |" in result.stdout
    other = run_script(FOLDER / "load.py", "--shape", "4,3", *options)
    assert other.returncode == 2
    assert other.stderr.count("\n") == 1
    assert f"expected a service of I 4, O 3, got one of I {I}, O {O}" in other.stderr
    assert server.stop() == 0


def test_what_cannot_be_served_is_one_line_with_the_reason() -> None:
    """Networks that need a sequence's end, keep no state or take no frames of numbers."""
    embedded: Layers = [fastgru.Embedding(normal(9, I)), gru(I, H)]
    cases: list[tuple[fastgru.GRU | fastgru.Model, str, list[str]]] = [
        (gru(I, H, True), "the reverse direction starts at the end", []),
        (fastgru.Model([gru(I, H), fastgru.Mean()]), "layer 1 Mean: needs all steps", []),
        (fastgru.Model([gru(I, H, True)]), "layer 0 GRU: the reverse direction", []),
        (fastgru.Model([fastgru.Linear(normal(2, I))]), "has no GRU", []),
        (fastgru.Model(embedded), "takes indices: expected none of Embedding", []),
        (fastgru.Model([fastgru.OneHot(I), gru(I, H)]), "got OneHot", []),
        # The layers behind its Embedding could not be served either, so that is no remedy.
        (fastgru.Model([embedded[0], gru(I, H, True)]), "layer 1 GRU: the reverse direction", []),
        (mask(), "expected a bare GRU, got a Model", ["--engine", "onnxruntime"]),
    ]
    for number, (served, reason, options) in enumerate(cases):
        path = Path(f"refused{number}.safetensors")
        served.save(path)
        result = run_script(FOLDER / "server.py", "--model", path, "--port", "0", *options)
        assert result.returncode == 2, result.stderr
        assert result.stdout == ""
        assert result.stderr.count("\n") == 1, result.stderr
        assert result.stderr.startswith("server.py: ")
        assert reason in result.stderr
