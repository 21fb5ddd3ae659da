"""Writes what outputs must be for ever, to the bit: `bits.json`, and the files in `kept/`.

    python tests/data/make_bits.py

Promise 2 says that results do not depend on the ISA, and a model that is trained and tested today
must answer the same after an update. bits.json holds hashes of the outputs of hundreds of cases, as
they were when it was written; kept/ holds pickles, native files and snapshots of that time.
test_bits.py compares both with what the library gives now. They were written by commit 5227939;
cases may be added. Refuses to change what stands there, and to run on a CPU without AVX-512 BF16,
whose instructions add the products of bfloat16 in an order of their own, and so have own hashes.

All numbers come from integer arithmetic, so that they are the same with every version of NumPy.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pickle
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fastgru

FOLDER = Path(__file__).parent
KEPT = FOLDER / "kept"

Array = np.ndarray[Any, np.dtype[Any]]

PRECISIONS = ["float32", "bfloat16", "int8"]
# Around vectors of 8 and 16, panels of 16, and the size from which sums have blocks of 256.
SIZES = [1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 48, 64, 65]
BATCHES = [1, 2, 3, 7, 8, 9, 15, 16, 17, 33, 65]


def random_bits(name: str, count: int) -> Array:
    """`count` integers of 64 bits that depend on the name alone (splitmix64)."""
    start = np.uint64(zlib.crc32(name.encode())) << np.uint64(32)
    z = (np.arange(1, count + 1, dtype=np.uint64) + start) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Array = z ^ (z >> np.uint64(31))
    return mixed


def numbers(name: str, *shape: int, scale: float = 1.0) -> Array:
    """float32 between -scale and scale."""
    bits = random_bits(name, int(np.prod(shape))) >> np.uint64(40)
    units = (bits.astype(np.float64) * 2.0**-23 - 1).astype(np.float32)  # exact
    scaled: Array = (units * np.float32(scale)).reshape(shape)
    return scaled


def integers(name: str, below: int, *shape: int) -> Array:
    bits = (random_bits(name, int(np.prod(shape))) >> np.uint64(33)).astype(np.int64)
    return (bits % below).reshape(shape)


def lengths(name: str, steps: int, batch: int, at_least: int = 0) -> Array:
    return at_least + integers("lengths " + name, steps + 1 - at_least, batch)


class Sizes(NamedTuple):
    input: int
    hidden: int
    layers: int = 1
    directions: int = 1
    bias: bool = True


@functools.lru_cache(maxsize=4)
def weights(sizes: Sizes) -> dict[str, Array]:
    """Tensors under PyTorch's names, of twice the usual size: gates that are well open and shut."""
    state = {}
    for layer in range(sizes.layers):
        columns = sizes.directions * sizes.hidden if layer else sizes.input
        for suffix in ["", "_reverse"][: sizes.directions]:
            shapes: dict[str, tuple[int, ...]] = {"weight_ih": (3 * sizes.hidden, columns)}
            shapes["weight_hh"] = (3 * sizes.hidden, sizes.hidden)
            if sizes.bias:
                shapes["bias_ih"] = shapes["bias_hh"] = (3 * sizes.hidden,)
            for kind, shape in shapes.items():
                name = f"{kind}_l{layer}{suffix}"
                scale = 2 / np.sqrt(np.float64(sizes.hidden))
                state[name] = numbers(f"{name} of {tuple(sizes)}", *shape, scale=float(scale))
    return state


def gru(sizes: Sizes, **options: Any) -> fastgru.GRU:
    return fastgru.GRU.from_state_dict(weights(sizes), **options)


class Case(NamedTuple):
    name: str
    precision: str
    results: Callable[[], Sequence[Array]]

    @property
    def group(self) -> str:
        return self.name.split(":")[0]


def hash_of(arrays: Sequence[Array]) -> str:
    """Of shapes and bits."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


# ---- a GRU ----


def equations() -> Iterator[tuple[str, bool, str]]:
    for precision in PRECISIONS:
        for reset_after in (True, False):
            yield precision, reset_after, f"{precision} {'after' if reset_after else 'before'}"


def call(
    name: str, sizes: Sizes, steps: int, batch: int, *, ragged: bool = False, **options: Any
) -> Case:
    """A GRU on whole sequences; output and h_n."""

    def results() -> Sequence[Array]:
        ours = gru(sizes, **options)
        x = numbers("x " + name, steps, batch, sizes.input)
        h_0 = numbers("h_0 " + name, sizes.layers * sizes.directions, batch, sizes.hidden)
        rows = lengths(name, steps, batch) if ragged else None
        if options.get("batch_first"):
            x = x.swapaxes(0, 1)
        return ours(x, h_0, lengths=rows)

    return Case(name, options.get("precision", "float32"), results)


def gru_cases() -> Iterator[Case]:
    for precision, reset_after, which in equations():
        kind: dict[str, Any] = {"precision": precision, "reset_after": reset_after}
        for index, hidden in enumerate(SIZES):
            sizes = Sizes(hidden % 5 + 1, hidden, 1 + hidden % 3, 1 + hidden % 2)
            batch, ragged = BATCHES[index % 6], index % 2 == 1
            yield call(f"gru: {which} H={hidden}", sizes, 6, batch, ragged=ragged, **kind)
        for hidden in (4, 17, 33):
            for batch in BATCHES:
                name = f"gru: {which} H={hidden} B={batch}"
                yield call(name, Sizes(5, hidden), 4, batch, ragged=batch % 2 == 0, **kind)
        for batch in (1, 19):
            sizes = Sizes(301, 270, 1, 2)
            yield call(f"gru: {which} sums in blocks B={batch}", sizes, 4, batch, **kind)
        for steps, batch in [(1, 1), (3, 1), (3, 9)]:
            name = f"gru: {which} far weights T={steps} B={batch}"
            yield call(name, Sizes(64, 1024), steps, batch, **kind)
        name = f"gru: {which} row blocks"
        yield call(name, Sizes(24, 48, 2, 2), 40, 70, ragged=True, **kind)
        yield call(f"gru: {which} long", Sizes(10, 64, 2), 500, 3, **kind)
        yield call(f"gru: {which} units shared", Sizes(32, 200), 60, 1, **kind)
        yield call(f"gru: {which} without bias", Sizes(9, 20, 2, 2, False), 5, 3, **kind)
        yield call(f"gru: {which} batch first", Sizes(9, 20), 5, 3, batch_first=True, **kind)
        for activation in ("tanh", "relu", "sigmoid", "identity"):
            for recurrent in ("sigmoid", "hard_sigmoid", "hard_sigmoid_02"):
                functions: dict[str, Any] = {
                    "activation": activation,
                    "recurrent_activation": recurrent,
                }
                name = f"gru: {which} {activation} {recurrent}"
                yield call(name, Sizes(3, 17), 4, 3, **functions, **kind)
    yield extremes("gru: extreme inputs after", True)
    yield extremes("gru: extreme inputs before", False)
    yield gates("gru: trace after", True)
    yield gates("gru: trace before", False)


def extremes(name: str, reset_after: bool) -> Case:
    """Denormal numbers, zeros of both signs, large and infinite ones; nothing that gives NaN."""

    def results() -> Sequence[Array]:
        x = numbers("x " + name, 8, 5, 3)
        x[0] *= np.float32(2.0**-130)
        x[1] = 0
        x[2] = -0.0
        x[3] *= np.float32(1e30)
        x[4] = 0
        x[4, :, 0] = np.inf
        return gru(Sizes(3, 17), reset_after=reset_after)(x)

    return Case(name, "float32", results)


def gates(name: str, reset_after: bool) -> Case:
    def results() -> Sequence[Array]:
        x = numbers("x " + name, 5, 3, 4)
        trace = gru(Sizes(4, 19, 2, 2), reset_after=reset_after).trace(x)
        return trace.reset, trace.update, trace.candidate, trace.hidden

    return Case(name, "float32", results)


def stream_cases() -> Iterator[Case]:
    for precision, reset_after, which in equations():
        for hidden, batch in [(8, 1), (17, 1), (64, 1), (270, 1), (17, 5), (64, 16)]:
            name = f"stream: {which} H={hidden} B={batch}"
            kind: dict[str, Any] = {"precision": precision, "reset_after": reset_after}
            yield Case(name, precision, functools.partial(stream, name, hidden, batch, kind))


def stream(name: str, hidden: int, batch: int, kind: dict[str, Any]) -> Sequence[Array]:
    ours = gru(Sizes(7, hidden, 2), **kind)
    live = ours.stream(batch, numbers("h_0 " + name, 2, batch, hidden))
    x = numbers("x " + name, 12, batch, 7)
    results = [live.step(x[0]), live.run(x[1:6]), live.step(x[6]), live.state]
    live.reset(0)
    results += [live.run(x[7:]), live.state]
    return results


def pool_cases() -> Iterator[Case]:
    for precision, reset_after, which in equations():
        for hidden in (8, 17, 64, 270):
            name = f"pool: {which} H={hidden}"
            kind: dict[str, Any] = {"precision": precision, "reset_after": reset_after}
            yield Case(name, precision, functools.partial(pool, name, hidden, kind))


def pool(name: str, hidden: int, kind: dict[str, Any]) -> Sequence[Array]:
    sessions, ids = pool_of(name, gru(Sizes(7, hidden, 2), **kind), hidden)
    results = [
        sessions.step(ids[rows], numbers(f"x {name} {index}", len(rows), 7))
        for index, rows in enumerate(SUBSETS)
    ]
    return results + [sessions.get_state(int(session)) for session in ids]


# Some sessions of 20 in some order: one alone, the rows of a panel, all of them.
SUBSETS = [[3], list(range(16)), [19, 4, 7], list(range(19, -1, -1)), [0, 10]]


def pool_of(name: str, ours: fastgru.GRU, hidden: int) -> tuple[fastgru.Pool, Array]:
    sessions = ours.pool(30)
    states = numbers("h_0 " + name, 20, ours.num_layers, hidden)
    return sessions, np.array([sessions.open(state) for state in states])


# ---- the layers around it ----


def layer_cases() -> Iterator[Case]:
    for outputs, inputs in [(1, 1), (16, 17), (17, 16), (48, 600), (97, 33), (300, 64), (49, 256)]:
        for rows in (1, 5, 65):
            name = f"layers: Linear {outputs} {inputs} rows={rows}"
            yield rowwise(name, functools.partial(linear, outputs, inputs), rows, inputs)
    for size in (1, 8, 15, 16, 17, 48, 97, 1000):
        functions: list[Callable[[], Any]] = [fastgru.Softmax, fastgru.LogSoftmax, fastgru.Tanh]
        functions += [fastgru.ReLU, fastgru.Sigmoid, fastgru.LayerNorm]
        functions += [functools.partial(layer_norm, size)]
        for function in functions:
            label = getattr(function, "__name__", "LayerNorm with weights")
            yield rowwise(f"layers: {label} {size}", function, 5, size, scale=8.0)
    for size in (1, 16, 33):
        for label, layer in over_time().items():
            for ragged in (False, True):
                if "both ways" in label and size % 2:
                    continue
                name = f"layers: {label} {size}{' ragged' if ragged else ''}"
                yield Case(name, "float32", functools.partial(whole, name, layer, size, ragged))
    name = "layers: Embedding and OneHot"
    yield Case(name, "float32", lambda: [embedding()(integers(name, 13, 5, 3)), one_hot(name)])


def one_hot(name: str) -> Array:
    rows: Array = fastgru.OneHot(13)(integers(name, 13, 5, 3))
    return rows


def embedding(size: int = 7) -> fastgru.Embedding:
    return fastgru.Embedding(numbers(f"Embedding {size}", 13, size))


def linear(outputs: int, inputs: int, bias: bool = True) -> fastgru.Linear:
    name, scale = f"Linear {outputs} {inputs}", float(1 / np.sqrt(np.float64(inputs)))
    weight = numbers(name, outputs, inputs, scale=scale)
    return fastgru.Linear(weight, numbers(name + " bias", outputs) if bias else None)


def layer_norm(size: int) -> fastgru.LayerNorm:
    name = f"LayerNorm {size}"
    return fastgru.LayerNorm(numbers(name, size), numbers(name + " bias", size))


def over_time() -> dict[str, Any]:
    return {
        "Last": fastgru.Last(),
        "Last both ways": fastgru.Last(bidirectional=True),
        "Mean": fastgru.Mean(),
        "Max": fastgru.Max(),
        "Reverse": fastgru.Reverse(),
    }


def rowwise(name: str, make: Callable[[], Any], rows: int, size: int, scale: float = 1.0) -> Case:
    return Case(name, "float32", lambda: [make()(numbers("x " + name, rows, size, scale=scale))])


def whole(name: str, layer: Any, size: int, ragged: bool) -> Sequence[Array]:
    x = numbers("x " + name, 6, 4, size)
    return [layer(x, lengths=lengths(name, 6, 4, 1) if ragged else None)]


# ---- whole models ----


def networks(**kind: Any) -> dict[str, Callable[[], fastgru.Model]]:
    """Models of every kind of layer; what is by steps can also be streamed."""
    model = fastgru.Model
    return {
        "characters by steps": lambda: model(
            [fastgru.OneHot(13), gru(Sizes(13, 24, 2), **kind), linear(13, 24), fastgru.Softmax()]
        ),
        "two GRUs by steps": lambda: model([
            embedding(), gru(Sizes(7, 19), **kind), layer_norm(19), fastgru.Tanh(),
            gru(Sizes(19, 33), **kind), linear(300, 33, False), fastgru.LogSoftmax(),
        ]),
        "features by steps": lambda: model([
            linear(9, 7), fastgru.ReLU(), gru(Sizes(9, 16), **kind), fastgru.Sigmoid(),
            linear(3, 16),
        ]),
        "last by steps": lambda: model([gru(Sizes(7, 40), **kind), fastgru.Last(), linear(5, 40)]),
        "tagger": lambda: model([
            embedding(), gru(Sizes(7, 20, 2, 2), **kind), linear(17, 40), fastgru.LogSoftmax(),
        ]),
        "last of both ways": lambda: model([
            gru(Sizes(7, 20, 1, 2), **kind), fastgru.Last(bidirectional=True), linear(5, 40),
            fastgru.Softmax(),
        ]),
        "mean": lambda: model([
            gru(Sizes(7, 18), **kind), fastgru.LayerNorm(), fastgru.Mean(), linear(4, 18),
        ]),
        "max": lambda: model([gru(Sizes(7, 18, 1, 2), **kind), fastgru.Max(), fastgru.ReLU()]),
        "reverse": lambda: model([
            fastgru.Reverse(), gru(Sizes(7, 12), **kind), fastgru.Reverse(), linear(6, 12),
        ]),
        "batch first": lambda: model([
            gru(Sizes(7, 12), batch_first=True, **kind), linear(6, 12), fastgru.Last(),
        ]),
        "no GRU": lambda: model([linear(9, 7), fastgru.Tanh(), linear(2, 9), fastgru.Softmax()]),
    }  # fmt: skip


NETWORKS = list(networks())


def model_input(name: str, model: fastgru.Model, steps: int, batch: int) -> Array:
    """(T, B, I), or indices (T, B), with batch_first (B, T, ...)."""
    if model.input_size is None:
        x = integers("x " + name, 7, steps, batch)
    else:
        x = numbers("x " + name, steps, batch, model.input_size)
    return x.swapaxes(0, 1) if model.batch_first else x


def model_cases() -> Iterator[Case]:
    for precision, reset_after, which in equations():
        kind: dict[str, Any] = {"precision": precision, "reset_after": reset_after}
        for network in NETWORKS:
            name = f"model: {which} {network}"
            yield Case(name, precision, functools.partial(model_call, name, network, kind))
            if "by steps" not in network:
                continue
            for way, results in (("stream", model_stream), ("pool", model_pool)):
                name = f"model: {which} {network} in a {way}"
                yield Case(name, precision, functools.partial(results, name, network, kind))


def model_call(name: str, network: str, kind: dict[str, Any]) -> Sequence[Array]:
    model, results = networks(**kind)[network](), []
    for steps, batch in [(6, 5), (1, 1), (30, 40)]:
        x = model_input(f"{name} {batch}", model, steps, batch)
        results += [model(x), model(x, lengths=lengths(name, steps, batch, 1))]
    return results


def model_stream(name: str, network: str, kind: dict[str, Any]) -> Sequence[Array]:
    model, results = networks(**kind)[network](), []
    for batch in (1, 5):
        live, x = model.stream(batch), model_input(name, model, 9, batch)
        results += [live.step(x[0]), live.run(x[1:5]), live.step(x[5]), *live.state]
        live.reset(0)
        results += [live.run(x[6:]), *live.state]
    return results


def model_pool(name: str, network: str, kind: dict[str, Any]) -> Sequence[Array]:
    model = networks(**kind)[network]()
    sessions = model.pool(30)
    ids = np.array([sessions.open() for _ in range(20)])
    results = [
        sessions.step(ids[rows], model_input(f"{name} {index}", model, 1, len(rows))[0])
        for index, rows in enumerate(SUBSETS)
    ]
    return results + [state for session in ids for state in sessions.get_state(int(session))]


# Files of torch and Keras beside this one that are a GRU or a chain.
OLDER = ["checkpoint.pt", "checkpoint_before_1.6.pt", "checkpoint_protocol_5.pt", "python2.pt"]
OLDER += ["strided.pt", "strided_before_1.6.pt", "strided_protocol_5.pt"]
OLDER += ["keras/backwards_2.13.keras", "keras/backwards_3.keras", "keras/bfloat16_3.keras"]
OLDER += ["keras/chain_2.keras", "keras/chain_3.keras", "keras/classifier_2.keras"]
OLDER += ["keras/classifier_3.keras", "keras/pooled_3.keras", "keras/stateful_3.keras"]
OLDER += ["keras/tagger_3.weights.h5"]


def file_cases() -> Iterator[Case]:
    for name in OLDER:
        yield Case(f"older files: {name}", "float32", functools.partial(older_file, name))


def older_file(name: str) -> Sequence[Array]:
    path = FOLDER / name
    network = (
        fastgru.load(path, batch_first=False) if path.suffix == ".pt" else fastgru.from_keras(path)
    )
    return call_network(network)


def cases() -> Iterator[Case]:
    yield from gru_cases()
    yield from stream_cases()
    yield from pool_cases()
    yield from layer_cases()
    yield from model_cases()
    yield from file_cases()


GROUPS = ["gru", "stream", "pool", "layers", "model", "older files"]


# ---- files ----


def kept_grus() -> dict[str, fastgru.GRU]:
    # A GRU that only runs backwards, which ONNX has: there is no public way to make one.
    from fastgru.spec import spec_from_tensors  # noqa: PLC0415

    return {
        "gru_backwards": fastgru.GRU(spec_from_tensors(weights(Sizes(7, 20, 2)), reverse=True)),
        "gru_float32": gru(Sizes(7, 20, 2, 2), reset_after=False, batch_first=True),
        "gru_relu": gru(Sizes(7, 9), activation="relu", recurrent_activation="hard_sigmoid"),
        "gru_bfloat16": gru(Sizes(7, 20, 2), precision="bfloat16"),
        "gru_int8": gru(Sizes(7, 20, 1, 2), precision="int8"),
    }


def kept_models() -> dict[str, fastgru.Model]:
    """A model of each kind of layer, in float32 and with GRUs in int8."""
    names = {"model_float32": "two GRUs by steps", "model_tagger": "tagger"}
    names |= {"model_mean": "mean", "model_batch_first": "batch first"}
    models = {file: networks()[network]() for file, network in names.items()}
    return models | {
        "model_int8": networks(precision="int8", reset_after=False)["characters by steps"]()
    }


def kept_layers() -> list[Any]:
    """Each kind of layer."""
    rows = [linear(7, 7), linear(3, 7, False), fastgru.LayerNorm(), layer_norm(7), fastgru.ReLU()]
    rows += [fastgru.Tanh(), fastgru.Sigmoid(), fastgru.Softmax(), fastgru.LogSoftmax()]
    return [embedding(), fastgru.OneHot(13), *rows, *over_time().values()]


def call_layer(layer: Any) -> Array:
    """A layer by itself, of whatever kind."""
    if layer.takes_indices:
        y: Array = layer(integers("x of layers", 13, 5, 3))
    else:
        size = 8 if getattr(layer, "bidirectional", False) else 7
        y = layer(numbers("x of layers", 5, 3, size))
    return y


def call_network(network: Any) -> Sequence[Array]:
    """A GRU or a model from a file, on data of its own sizes."""
    if isinstance(network, fastgru.GRU):
        x = numbers("x of files", 6, 4, network.input_size)
        return network(x.swapaxes(0, 1) if network.batch_first else x, lengths=[6, 2, 0, 5])
    return [network(model_input("of files", network, 6, 4), lengths=[6, 2, 1, 5])]


def kept_pools() -> dict[str, tuple[Any, Callable[[int], Array]]]:
    """Pools of 30 as they were made, and the x of a step of n sessions."""
    model = networks()["two GRUs by steps"]()
    return {
        "gru_pool": (
            gru(Sizes(7, 20, 2)).pool(30),
            lambda n: numbers("x of gru_pool", n, 7),
        ),
        "model_pool": (model.pool(30), lambda n: model_input("of model_pool", model, 1, n)[0]),
    }


def go_on(sessions: Any, ids: Array, x: Callable[[int], Array]) -> Sequence[Array]:
    """The states of a pool's sessions, and a step of all of them."""
    states: list[Array] = []
    for session in ids:
        state = sessions.get_state(int(session))
        states += state if isinstance(state, list) else [state]
    return [*states, sessions.step(ids, x(len(ids)))]


def write_kept(files: dict[str, str], ids: dict[str, list[int]]) -> None:
    """Writes the files in kept/ that are not there, and notes the hashes of their outputs."""
    KEPT.mkdir(exist_ok=True)
    for name, network in (kept_grus() | kept_models()).items():
        if name not in files:
            network.save(KEPT / f"{name}.safetensors")
            (KEPT / f"{name}.pickle").write_bytes(pickle.dumps(network, protocol=4))
            files[name] = hash_of(call_network(network))
    if "layers" not in files:
        layers = kept_layers()
        (KEPT / "layers.pickle").write_bytes(pickle.dumps(layers, protocol=4))
        files["layers"] = hash_of([call_layer(layer) for layer in layers])
    for name, (sessions, x) in kept_pools().items():
        if name in files:
            continue
        opened = [sessions.open() for _ in range(12)]
        sessions.step(opened, x(12))
        for session in opened[:4]:
            sessions.close(session)
        ids[name] = [*opened[4:], sessions.open(), sessions.open()]
        sessions.step(ids[name][::2], x(5))
        sessions.snapshot(KEPT / f"{name}.safetensors")
        files[name] = hash_of(go_on(sessions, np.array(ids[name]), x))


def hashes_on(isa: str) -> dict[str, str]:
    os.environ["FASTGRU_ISA"] = isa
    return {case.name: hash_of(case.results()) for case in cases()}


def main() -> None:
    warnings.simplefilter("ignore", fastgru.LoadWarning)  # of checkpoints, which hold more
    path = FOLDER / "bits.json"
    then = json.loads(path.read_text()) if path.exists() else {}
    own = hashes_on("avx512")
    if fastgru.cpu_info().kernels["bfloat16"] != "avx512_bf16":
        raise SystemExit("a CPU with AVX512_BF16 has to write this")
    fused = hashes_on("avx2")
    other = {name: value for name, value in own.items() if value != fused[name]}
    if wrong := [name for name in other if "bfloat16" not in name]:
        raise SystemExit(f"the ISAs do not agree: {wrong}")
    for kind, now in (("fused", fused), ("avx512_bf16", other)):
        if changed := [
            name for name, value in then.get(kind, {}).items() if now.get(name) != value
        ]:
            raise SystemExit(f"these have other bits than {path.name} says: {changed}")
    files, ids = then.get("files", {}), then.get("ids", {})
    write_kept(files, ids)
    text = {"fused": fused, "avx512_bf16": other, "files": files, "ids": ids}
    path.write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    main()
