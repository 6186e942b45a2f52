"""Losses, metrics, optimizers and schedules of a user's own, for a model that is not compiled."""

from typing import Any

import numpy as np
import tensorflow as tf

keras = tf.keras
_random = np.random.default_rng(0)
X = _random.normal(size=(250, 6)).astype(np.float32)
CLASSES = _random.integers(0, 3, 250)


def data() -> Any:
    """Three classes, as integers."""
    return X, CLASSES


def binary_data() -> Any:
    return X, (X[:, :1] > 0).astype(np.int64)


def shifted_data() -> Any:
    return X, 1 + (X[:, :1] > 0).astype(np.int64)


def numbers_data() -> Any:
    return X, np.round(3 * X[:, :1]).astype(np.int64)


def names_data() -> Any:
    return X, np.where(X[:, 0] > 0, "Adelie", "Gentoo")


def model(units: int = 3) -> Any:
    layers = keras.layers.Dense(8, "tanh"), keras.layers.Dense(units)
    return keras.Sequential([keras.Input([6]), *layers])


def line() -> Any:
    return model(1)


entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
binary_entropy = keras.losses.BinaryCrossentropy(from_logits=True)
of_probabilities = keras.losses.BinaryCrossentropy()
total = keras.losses.MeanSquaredError(reduction="sum")


class Bent(keras.losses.Loss):
    """Its labels are floats, as Keras gives them."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """A squared error, twice where a prediction is large."""
        error = tf.square(y_true - y_pred)
        return tf.reduce_mean(tf.where(y_pred > 1, 2 * error, error), axis=-1)


def made_loss() -> Any:
    return keras.losses.Huber(delta=0.5)


def swapped(y_pred: Any, y: Any) -> Any:
    return tf.square(y_pred - y)


class Swapped(keras.losses.Loss):
    """A class with its arguments in the wrong order."""

    def call(self, logits: Any, labels: Any) -> Any:
        """Never called."""
        return logits - labels


def log_loss(one: Any, other: Any) -> Any:
    """The arguments are swapped, and their names don't say so."""
    return tf.nn.sigmoid_cross_entropy_with_logits(labels=other, logits=tf.cast(one, tf.float32))


class Confident(keras.metrics.Metric):
    """How many predictions of the first class are above a limit."""

    def __init__(self, limit: float):
        super().__init__(name="confident")
        self.limit, self.count = limit, self.add_weight(initializer="zeros", shape=())

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Counts them."""
        del sample_weight
        above = (y_pred[:, 0] > self.limit) & (tf.reshape(y_true, [-1]) == 0)
        self.count.assign_add(tf.reduce_sum(tf.cast(above, tf.float32)))

    def result(self) -> Any:
        """The number."""
        return self.count


def metrics() -> Any:
    top = keras.metrics.SparseTopKCategoricalAccuracy(k=2, name="top2")
    return [top, keras.metrics.SparseCategoricalCrossentropy(from_logits=True), Confident(0.5)]


binary_metrics = [
    keras.metrics.AUC(curve="PR", name="prc", from_logits=True),
    keras.metrics.BinaryCrossentropy(from_logits=True, name="entropy"),
    "mae",
]
twice = [keras.metrics.MeanAbsoluteError(name="a"), keras.metrics.MeanSquaredError(name="a")]
auc = keras.metrics.AUC(name="auc")


def curve(y_true: Any, y_pred: Any) -> Any:
    return y_true - y_pred


def optimizer() -> Any:
    return keras.optimizers.Adam(keras.optimizers.schedules.InverseTimeDecay(0.01, 4, 0.5))


def optimizer_of(learning_rate: Any, last_step: int, beta_1: float = 0.8) -> Any:
    assert last_step > 1
    return keras.optimizers.Adam(learning_rate, beta_1=beta_1)


def averaging() -> Any:
    return keras.optimizers.SGD(use_ema=True)


used = keras.optimizers.Adam()
used.build([keras.Variable(0.0)])


def needs_more(learning_rate: Any, other: Any) -> Any:
    return learning_rate, other


def rate(step: tf.Tensor) -> Any:
    """For one step at a time, with AutoGraph."""
    if step < 4:
        return 0.05
    return 0.1 / (2 + step)


def warm_cosine() -> Any:
    """Keras gives its rates for one step at a time."""
    return keras.optimizers.schedules.CosineDecay(
        0.0, 20, warmup_target=0.05, warmup_steps=4, alpha=0.1
    )


def infinite(step: tf.Tensor) -> Any:
    return 0.1 / step


def raising(step: tf.Tensor) -> Any:
    raise KeyError("in the schedule", step)


number = 0.1
