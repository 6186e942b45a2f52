"""Kinds of models and examples that users have, for --model and --data.

Each `<kind>` makes a compiled model, and `<kind>_data` returns its examples.
"""

from typing import Any

import numpy as np
import tensorflow as tf

N = 250
layers = tf.keras.layers
_random = np.random.default_rng(0)
X = _random.normal(size=(N, 12)).astype(np.float32)
IMAGES = _random.normal(size=(N, 8, 8)).astype(np.float32)
TOKENS = _random.integers(0, 50, size=(N, 12)).astype(np.int32)
CLASSES = _random.integers(0, 3, N)
WEIGHTS = (np.arange(N) % 5 + 1).astype(np.float32)


def _entropy() -> Any:
    return tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _classifier(*parts: Any) -> tf.keras.Model:
    model = tf.keras.Sequential([*parts, layers.Dense(3, dtype="float32")])
    model.compile("adam", _entropy(), metrics=["accuracy"], jit_compile=False)
    return model


def normalized() -> tf.keras.Model:
    """Batch normalization and dropout."""
    parts = layers.Dense(16), layers.BatchNormalization(), layers.ReLU(), layers.Dropout(0.3)
    return _classifier(tf.keras.Input([12]), *parts)


def normalized_data() -> Any:
    return X, CLASSES


def tokens() -> tf.keras.Model:
    """A masked embedding, whose gradients are IndexedSlices, and an LSTM."""
    embedding = layers.Embedding(50, 8, mask_zero=True)
    return _classifier(tf.keras.Input([12], dtype="int32"), embedding, layers.LSTM(8))


def tokens_data() -> Any:
    return TOKENS, CLASSES


def embedded() -> tf.keras.Model:
    """An embedding; all variables are trainable."""
    embedding = layers.Embedding(50, 2)
    return _classifier(tf.keras.Input([12], dtype="int32"), embedding, layers.Flatten())


embedded_data = tokens_data


def augmented() -> tf.keras.Model:
    """Convolutions after random translations."""
    image = layers.Reshape([8, 8, 1]), layers.RandomTranslation(0.1, 0.1)
    convolution = layers.Conv2D(4, 3), layers.BatchNormalization(), layers.Flatten()
    return _classifier(tf.keras.Input([8, 8]), *image, *convolution)


def augmented_data() -> Any:
    return IMAGES, CLASSES


def mixed_float16() -> tf.keras.Model:
    """16-bit layers, whose loss is scaled."""
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        return _classifier(tf.keras.Input([12]), layers.Dense(16, "relu"))
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")


def mixed_float16_data() -> Any:
    return X, CLASSES


def two_outputs() -> tf.keras.Model:
    """Two named outputs with a loss each, weights of losses and of examples."""
    x = tf.keras.Input([12])
    hidden = layers.Dense(8, "relu")(x)
    outputs = {"a": layers.Dense(1, name="a")(hidden), "c": layers.Dense(3, name="c")(hidden)}
    model = tf.keras.Model(x, outputs)
    model.compile(
        "adam",
        {"a": "mse", "c": _entropy()},
        loss_weights={"a": 1.0, "c": 0.5},
        weighted_metrics={"c": ["accuracy"]},
        jit_compile=False,
    )
    return model


def two_outputs_data() -> Any:
    return X, {"a": X[:, :1], "c": CLASSES}, {"a": WEIGHTS, "c": WEIGHTS[::-1].copy()}


def two_inputs() -> tf.keras.Model:
    """Named inputs of texts and numbers, and a weight for each example."""
    word, number = tf.keras.Input([], dtype="string", name="word"), tf.keras.Input([2], name="n")
    known = layers.StringLookup(vocabulary=["red", "green"], output_mode="one_hot")(word)
    y = layers.Dense(1)(layers.Concatenate()([known, number]))
    model = tf.keras.Model({"word": word, "n": number}, y)
    model.compile("sgd", "mse", jit_compile=False)
    return model


def two_inputs_data() -> Any:
    words = np.array(["red", "green", "blue"])[CLASSES]
    return {"word": words, "n": X[:, :2]}, X[:, 2], WEIGHTS


class Penalized(tf.keras.Model):
    """Adds a loss of the whole batch, and overrides compute_loss and compute_metrics."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(4, kernel_regularizer="l2")
        self.out = layers.Dense(1)
        self.total = tf.keras.metrics.Mean(name="total")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Two layers."""
        hidden = self.dense(x)
        self.add_loss(1e-3 * tf.reduce_sum(tf.square(hidden)))
        return self.out(hidden)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> tf.Tensor:
        """The compiled loss, and a little more."""
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        return loss + 0.1 * tf.reduce_mean(y_pred**2)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Returns the compiled metrics and one more."""
        self.total.update_state(tf.reduce_mean(y_pred))
        return super().compute_metrics(x, y, y_pred, sample_weight)


def penalized() -> tf.keras.Model:
    model = Penalized()
    model.compile("adam", "mse", metrics=["mae"], jit_compile=False)
    return model


def penalized_data() -> Any:
    return X, X[:, 0] ** 2


def double() -> tf.keras.Model:
    """Layers and predictions of float64."""
    parts = layers.Dense(8, "relu", dtype="float64"), layers.Dense(1, dtype="float64")
    model = tf.keras.Sequential([tf.keras.Input([12], dtype="float64"), *parts])
    model.compile("adam", "mse", jit_compile=False)
    return model


def double_data() -> Any:
    return X, X[:, 0]


KINDS = (
    *("normalized", "tokens", "augmented", "mixed_float16", "two_outputs", "two_inputs"),
    *("penalized", "double"),
)
