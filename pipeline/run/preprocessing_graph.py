"""The preprocessing of a table as part of an exported graph."""

import re
import textwrap
from collections.abc import Iterable

import tensorflow as tf

from pipeline.data import preprocessing


class PreprocessingGraph(tf.Module):  # type: ignore[misc]
    """A Preprocessing in TensorFlow operations.

    The part of each mean that float32 rounds off is subtracted separately, so differences are exact
    to float32. If float32 can't hold the numbers themselves, everything is float64.

    Attributes:
      x: The TensorSpec of features: [None, D] or, with one feature, [None].
      inputs: The TensorSpecs of the columns, each [None].
    """

    def __init__(self, learned: preprocessing.Preprocessing):
        super().__init__()
        self._columns, self._is_used = list(learned.columns.items()), learned.standardizes
        self._dtype = tf.float64 if learned.needs_float64 else tf.float32
        near = learned.mean.astype(self._dtype.as_numpy_dtype)
        parts = near, learned.mean - near, learned.stddev
        self._near, self._rest, self._stddev = (tf.Variable(p, dtype=self._dtype) for p in parts)
        count = len(learned.features)
        self.x = tf.TensorSpec([None] if count == 1 else [None, count], self._dtype, "x")
        self.inputs, self._places = {}, {}
        for name, texts in zip(input_names(learned.columns), learned.columns.values(), strict=True):
            self.inputs[name] = tf.TensorSpec([None], tf.string if texts else self._dtype, name)
            if texts:
                self._places[name] = _places(texts)

    def encode(self, inputs: dict[str, tf.Tensor]) -> tf.Tensor:
        """Converts columns to features [N, D]; an unknown text is an error."""
        parts = []
        for name, (column, texts) in zip(self.inputs, self._columns, strict=True):
            values = inputs[name]
            if texts is None:
                parts.append(values[:, None])
                continue
            places = self._places[name].lookup(tf.strings.strip(values))
            known = textwrap.shorten(", ".join(texts), 200)
            about = f"column {column!r}: the model was trained with {known}; received"
            check = tf.debugging.Assert(tf.reduce_all(places >= 0), [about, values])
            with tf.control_dependencies([check]):
                parts.append(tf.one_hot(places, len(texts), dtype=self._dtype))
        return tf.concat(parts, axis=1)

    def standardized_x(self, x: tf.Tensor) -> tf.Tensor:
        """Standardizes features [N, D] for the model."""
        if not self._is_used:
            return x
        moved = (x - self._near[:-1]) - self._rest[:-1]
        return tf.cast(moved / self._stddev[:-1], tf.float32)

    def in_data_units(self, y: tf.Tensor) -> tf.Tensor:
        """Converts the model's predictions, of any shape, to the units of the data."""
        if not self._is_used:
            return y
        return (tf.cast(y, self._dtype) * self._stddev[-1] + self._rest[-1]) + self._near[-1]


def input_names(columns: Iterable[str]) -> list[str]:
    """Converts column names to unique names that TensorFlow allows for inputs."""
    found: list[str] = []
    for column in columns:
        name = re.sub(r"[^0-9A-Za-z_]", "_", column)
        name = name if name[:1].isalpha() else f"column_{name}"
        while name.lower() in ("self", *map(str.lower, found)):
            name += "_"
        found.append(name)
    return found


def _places(texts: tuple[str, ...]) -> tf.lookup.StaticHashTable:
    """Makes a lookup table from a known text to its index; other texts give -1."""
    keys, values = tf.constant(texts), tf.range(len(texts), dtype=tf.int64)
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), -1)
