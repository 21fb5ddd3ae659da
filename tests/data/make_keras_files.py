"""Writes the files in `keras/` beside it: what people have, from Keras 3 and from Keras 2.

    python tests/data/make_keras_files.py             # pip install keras torch
    python tests/data/make_keras_files.py --keras2    # pip install tf_keras tensorflow-cpu
    python tests/data/make_keras_files.py --keras2.13 # pip install tensorflow-cpu==2.13.1

Keras 2.13 names the groups in its files in a way of its own. Each version has its `outputs_*.npz`:
for every model the input as `NAME.x` and Keras's own output as `NAME.y`. `graph_3.keras` is no
chain; `outputs_graph_3.npz` has the same of each of its GRUs, by its path in the weights file. They
stay in the repository for ever, and so does this script. Written with Keras 3.15.1 on torch 2.13.0,
tf_keras 2.21.0 on tensorflow-cpu 2.21.0, and Keras 2.13.1. Refuses nothing; it overwrites.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "keras"
B, T, I, H, V = 3, 6, 3, 4, 7  # noqa: E741

Array = np.ndarray[Any, np.dtype[Any]]


def features(rng: np.random.Generator, batch: int = B) -> Array:
    return rng.standard_normal((batch, T, I)).astype(np.float32)


def indices(rng: np.random.Generator) -> Array:
    return rng.integers(1, V, (B, T)).astype(np.int32)


def padded(rng: np.random.Generator) -> Array:
    """Zeros at the ends of rows: lengths 6, 4 and 1."""
    x = indices(rng)
    x[1, 4:] = x[2, 1:] = 0
    return x


def models_of_both(keras: Any) -> dict[str, tuple[Any, Any]]:
    """Name -> model, and what makes its input."""
    layers = keras.layers
    return {
        "classifier": (
            keras.Sequential([
                keras.Input((None,), dtype="int32"),
                layers.Embedding(V, I),
                layers.Bidirectional(
                    layers.GRU(H, return_sequences=True, recurrent_activation="hard_sigmoid")
                ),
                layers.LayerNormalization(),
                layers.SpatialDropout1D(0.1),
                layers.GRU(H, reset_after=False, dropout=0.2, recurrent_dropout=0.2),
                layers.Dense(5, activation="softmax"),
            ]),
            indices,
        ),
        "backwards": (
            keras.Sequential([
                keras.Input((T, I)),
                layers.GRU(H, go_backwards=True, return_sequences=True, use_bias=False),
                layers.TimeDistributed(layers.Dense(I, activation="tanh", use_bias=False)),
                layers.GRU(
                    H,
                    go_backwards=True,
                    reset_after=False,
                    activation="relu",
                    recurrent_activation="hard_sigmoid",
                ),
                layers.LayerNormalization(scale=False, epsilon=1e-2),
                layers.Dense(2),
            ]),
            features,
        ),
        "masked": (
            keras.Sequential([
                keras.Input((None,), dtype="int32"),
                layers.Embedding(V, I, mask_zero=True),
                layers.Bidirectional(layers.GRU(H, return_sequences=True)),
                layers.GRU(H, return_sequences=True),
                layers.GlobalAveragePooling1D(),
                layers.Dense(2, activation="sigmoid"),
            ]),
            padded,
        ),
    }  # fmt: skip


def chain(keras: Any) -> Any:
    """A Functional model with a Sequential inside and no branches."""
    layers = keras.layers
    inner = keras.Sequential([
        keras.Input((None, H)),
        layers.GRU(H, return_sequences=True, activation="sigmoid"),
        layers.LayerNormalization(center=False),
    ])  # fmt: skip
    x = inputs = keras.Input((None, I))
    x = layers.GRU(H, return_sequences=True, activation="linear")(x)
    x = inner(x)
    x = layers.Bidirectional(layers.GRU(H, reset_after=False))(x)
    return keras.Model(inputs, layers.Activation("relu")(layers.Dense(3)(x)))


def masked_chain(keras: Any) -> Any:
    """In a Functional model Keras 3 writes out what makes the mask, as a layer beside the chain."""
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(V, I, mask_zero=True)(inputs)
    return keras.Model(inputs, keras.layers.GRU(H, go_backwards=True)(x))


def models_of_keras_3(keras: Any) -> dict[str, tuple[Any, Any]]:
    layers = keras.layers
    return {
        "pooled": (
            keras.Sequential([
                keras.Input((None, I)),
                layers.Bidirectional(
                    layers.GRU(H, return_sequences=True),
                    backward_layer=layers.GRU(H, return_sequences=True, go_backwards=True),
                ),
                layers.LayerNormalization(center=False, scale=False),
                layers.GlobalMaxPooling1D(),
                layers.ReLU(),
                layers.Dense(3, activation="log_softmax"),
                layers.Softmax(),
            ]),
            features,
        ),
        "masked_backwards": (masked_chain(keras), padded),
        "stateful": (
            keras.Sequential([
                keras.Input(batch_shape=(1, T, I)),
                layers.GRU(H, return_sequences=True, stateful=True),
            ]),
            lambda rng: features(rng, 1),
        ),
    }  # fmt: skip


def graph(keras: Any) -> tuple[Any, dict[str, Any]]:
    """A model that is no chain, and its GRUs by their paths in the weights file.

    Branches, two inputs and outputs, GRUs with return_state, a model in a model, GRUs in wrappers
    and in a layer of the user's own, which describes one of its two and not the other.
    """
    layers = keras.layers

    class Pair(layers.Layer):  # type: ignore[misc, name-defined]
        def __init__(self, first: Any = None, **options: Any) -> None:
            super().__init__(**options)
            self.first = first or layers.GRU(2, activation="relu", return_sequences=True)
            self.second = layers.GRU(2, reset_after=False)

        def call(self, x: Any) -> Any:
            return self.second(self.first(x))

        def get_config(self) -> Any:
            first = keras.saving.serialize_keras_object(self.first)
            return super().get_config() | {"first": first}

    deep = layers.GRU(2, return_sequences=True, activation="sigmoid", name="deep")
    inside = keras.Sequential([keras.Input((None, I)), deep], name="inside")
    both = layers.Bidirectional(
        layers.GRU(
            2, return_sequences=True, return_state=True, recurrent_activation="hard_sigmoid"
        ),
        name="both_ways",
    )
    back = layers.GRU(2, go_backwards=True, return_state=True, reset_after=False, name="decoder")
    each = layers.TimeDistributed(layers.GRU(2, name="of_each"))
    cell = layers.RNN(layers.GRUCell(2, activation="linear"), name="of_cells")
    pair = Pair(name="pair")
    x, other = keras.Input((T, I)), keras.Input((T, I))
    y = layers.Add()([x, layers.Conv1D(I, 3, padding="same")(other)])
    outputs, *states = both(y)
    last, state = back(outputs)
    small = [each(layers.Reshape((T, I, 1))(x))[:, -1], cell(x), pair(x), inside(other)[:, -1]]
    joined = layers.Concatenate()([last, state, *states, *small])
    model = keras.Model([x, other], [layers.Dense(1)(joined), layers.Dense(2)(outputs)])
    return model, {
        "layers/bidirectional": both,
        "layers/gru": back,
        "layers/time_distributed/layer": each.layer,
        "layers/rnn": cell,
        "layers/pair/first": pair.first,
        "layers/pair/second": pair.second,
        "layers/sequential/layers/gru": deep,
    }


def write_graph(keras: Any) -> None:
    """Every GRU's own output for an input of its own, with all steps or the last one."""
    model, grus = graph(keras)
    rng = np.random.default_rng(0)
    fill(model, rng)
    model.save(FOLDER / "graph_3.keras")
    arrays: dict[str, Any] = {}
    for path, gru in grus.items():
        x = rng.standard_normal((2, T, gru.get_weights()[0].shape[0])).astype(np.float32)
        y = gru(x)
        y = y[0] if isinstance(y, (list, tuple)) else y
        arrays |= {f"{path}.x": x, f"{path}.y": keras.ops.convert_to_numpy(y)}
    np.savez_compressed(FOLDER / "outputs_graph_3.npz", **arrays)


def fill(model: Any, rng: np.random.Generator) -> None:
    """Biases too, which Keras makes zeros."""
    model.set_weights(
        [rng.normal(0, 0.7, weight.shape).astype(np.float32) for weight in model.get_weights()]
    )


def write(keras: Any, models: dict[str, tuple[Any, Any]], suffix: str) -> None:
    outputs = {}
    for seed, (name, (model, make)) in enumerate(models.items()):
        rng = np.random.default_rng(seed)
        fill(model, rng)
        x = make(rng)
        if name == "stateful":
            model.layers[0].reset_state()
        outputs[f"{name}.x"] = x
        outputs[f"{name}.y"] = np.asarray(model.predict(x, batch_size=len(x), verbose=0))
        model.save(FOLDER / f"{name}{suffix}.keras")
    np.savez_compressed(FOLDER / f"outputs{suffix}.npz", **outputs)


def write_keras_3() -> None:
    os.environ["KERAS_BACKEND"] = "torch"
    keras: Any = importlib.import_module("keras")
    models = models_of_both(keras) | models_of_keras_3(keras)
    models["chain"] = chain(keras), features
    write(keras, models, "_3")

    class Tagger(keras.Model):  # type: ignore[misc]  # a program, saved as weights
        def __init__(self) -> None:
            super().__init__()
            self.encoder = keras.layers.GRU(H, return_sequences=True, reset_after=False)
            self.head = keras.layers.Dense(2)

        def call(self, x: Any) -> Any:
            return self.head(self.encoder(x))

    tagger = Tagger()
    tagger(np.zeros((1, T, I), np.float32))
    fill(tagger, np.random.default_rng(0))
    tagger.save_weights(FOLDER / "tagger_3.weights.h5")
    gru = keras.layers.GRU(H, dtype="bfloat16", recurrent_initializer="zeros")
    half = keras.Sequential([keras.Input((None, I)), gru])
    fill(half, np.random.default_rng(0))
    half.save(FOLDER / "bfloat16_3.keras")
    write_graph(keras)


def write_keras_2() -> None:
    tf_keras: Any = importlib.import_module("tf_keras")
    models = {"classifier": models_of_both(tf_keras)["classifier"]}
    models["chain"] = chain(tf_keras), features
    write(tf_keras, models, "_2")
    (FOLDER / "classifier_2.json").write_text(models["classifier"][0].to_json())


def write_keras_2_13() -> None:
    keras: Any = importlib.import_module("keras")
    write(keras, {"backwards": models_of_both(keras)["backwards"]}, "_2.13")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    writers = {"--keras2": write_keras_2, "--keras2.13": write_keras_2_13}
    writers[sys.argv[1]]() if sys.argv[1:] else write_keras_3()
