"""Datasets of batches that users have, for --data, each with a model.

Each `<kind>_data` returns a tf.data.Dataset, and MODELS names its model in tests.kinds or here.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tests import kinds

layers = tf.keras.layers
_LENGTHS = np.random.default_rng(0).integers(1, 9, kinds.N)


def augmented_data(split: str) -> Any:
    """Shuffled images that stateless random numbers change, and others for validation."""
    images, classes = kinds.IMAGES, kinds.CLASSES
    if split == "validation":
        return tf.data.Dataset.from_tensor_slices((images[:40], classes[:40])).batch(16)
    examples = tf.data.Dataset.from_tensor_slices((images[40:], classes[40:])).shuffle(100)

    def noisy(example: Any, seed: Any) -> Any:
        image, label = example
        noise = tf.random.stateless_normal([8, 8], tf.stack([seed, seed]))
        return image + 0.1 * noise, label

    both = tf.data.Dataset.zip((examples, tf.data.Dataset.random()))
    return both.map(noisy, num_parallel_calls=2).batch(32)


def generated_data() -> Any:
    """A generator of sequences of their own lengths, shuffled, padded and without an end."""

    def sequences() -> Iterator[Any]:
        while True:
            for tokens, length, label in zip(kinds.TOKENS, _LENGTHS, kinds.CLASSES, strict=True):
                yield tokens[:length], label

    signature = tf.TensorSpec([None], tf.int32), tf.TensorSpec([], tf.int64)
    data = tf.data.Dataset.from_generator(sequences, output_signature=signature)
    return data.shuffle(50).padded_batch(32)


def ragged_data() -> Any:
    """The same as RaggedTensors, with a weight for each example, read from a cache."""
    tokens = tf.RaggedTensor.from_tensor(kinds.TOKENS, lengths=_LENGTHS)
    examples = tf.data.Dataset.from_tensor_slices((tokens, kinds.CLASSES, kinds.WEIGHTS))
    return examples.cache().shuffle(100).batch(32)


def windows_data() -> Any:
    """Windows of a time series; not every batch is full, and their number is not known."""
    series = np.sin(np.arange(300, dtype=np.float32))[:, None]
    data = tf.keras.utils.timeseries_dataset_from_array(
        series[:-8], series[8:, 0], sequence_length=8, batch_size=32, shuffle=True
    )
    return data.filter(lambda x, y: True)  # noqa: ARG005


def records_data() -> Any:
    """Examples that are parsed from records, interleaved from several datasets."""
    records = [
        tf.train.Example(
            features=tf.train.Features(
                feature={
                    "x": tf.train.Feature(float_list=tf.train.FloatList(value=x)),
                    "y": tf.train.Feature(int64_list=tf.train.Int64List(value=[y])),
                }
            )
        ).SerializeToString()
        for x, y in zip(kinds.X, kinds.CLASSES, strict=True)
    ]
    features = {
        "x": tf.io.FixedLenFeature([12], tf.float32),
        "y": tf.io.FixedLenFeature([], tf.int64),
    }

    def parsed(record: Any) -> Any:
        found = tf.io.parse_single_example(record, features)
        return found["x"], found["y"]

    files = tf.data.Dataset.from_tensor_slices(tf.reshape(tf.constant(records), [5, 50]))
    each = files.interleave(tf.data.Dataset.from_tensor_slices, num_parallel_calls=2)
    return each.map(parsed).batch(32, drop_remainder=True)


class Ragged(tf.keras.Model):
    """The mean of the embeddings of a ragged sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = layers.Embedding(50, 4), layers.Dense(3)

    def call(self, x: Any) -> Any:
        """The logits [B, 3]."""
        embedded = tf.ragged.map_flat_values(self.embedding, x)
        return self.out(tf.reduce_mean(embedded, axis=1))


def ragged() -> tf.keras.Model:
    model = Ragged()
    model.compile("adam", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def sequences() -> tf.keras.Model:
    """An LSTM on padded sequences of any length."""
    embedding = layers.Embedding(50, 8, mask_zero=True)
    parts = tf.keras.Input([None], dtype="int32"), embedding, layers.LSTM(8), layers.Dense(3)
    model = tf.keras.Sequential([*parts])
    model.compile("adam", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def forecast() -> tf.keras.Model:
    """An LSTM on windows."""
    model = tf.keras.Sequential([tf.keras.Input([8, 1]), layers.LSTM(4), layers.Dense(1)])
    model.compile("adam", "mse")
    return model


MODELS = {
    "augmented": "kinds.py:augmented",
    "generated": "streams.py:sequences",
    "ragged": "streams.py:ragged",
    "windows": "streams.py:forecast",
    "records": "kinds.py:normalized",
}
