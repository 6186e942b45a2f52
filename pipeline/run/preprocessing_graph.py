"""The preprocessing of a table as a part of an exported graph."""

import re
import textwrap
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from pipeline.data import preprocessing


class PreprocessingGraph(tf.Module):  # type: ignore[misc]
    """Does in TensorFlow what a Preprocessing does in numpy.

    The part of each mean that float32 rounds off is subtracted by itself, so the differences are
    exact to float32. If the numbers themselves are not, it is all in float64.
    """

    def __init__(self, learned: preprocessing.Preprocessing):
        super().__init__()
        self._columns, self._is_used = list(learned.columns.items()), learned.standardizes
        self.dtype = tf.float64 if learned.needs_float64 else tf.float32
        near = learned.mean.astype(self.dtype.as_numpy_dtype)
        parts = near, learned.mean - near, learned.stddev
        self._near, self._rest, self._stddev = (tf.Variable(p, dtype=self.dtype) for p in parts)
        self._names = input_names(learned)
        self._places = {
            name: _places(texts)
            for name, (_, texts) in zip(self._names, self._columns, strict=True)
            if texts is not None
        }

    def serve_x(self, predict: Callable[[tf.Tensor], tf.Tensor]) -> Any:
        """A function that predicts y from x [N, D] or, with one feature, [N]."""
        count = self._stddev.shape[0] - 1
        shape = [None] if count == 1 else [None, count]
        spec = tf.TensorSpec(shape, self.dtype, "x")

        # A model's own calls are converted by AutoGraph; the rest need not be, which takes a while.
        @tf.function(input_signature=[spec], autograph=False)  # type: ignore[untyped-decorator]
        def serve(x: tf.Tensor) -> tf.Tensor:
            x = tf.ensure_shape(x, shape)  # signatures do not
            return self.in_data_units(predict(self.standardized_x(tf.reshape(x, [-1, count]))))

        return serve

    def serve_columns(self, serve_x: Any) -> Any:
        """A function that predicts y from columns, given one that predicts it from x."""

        @tf.function(input_signature=[self.inputs], autograph=False)  # type: ignore[untyped-decorator]
        def serve(columns: dict[str, tf.Tensor]) -> tf.Tensor:
            x = self.encode(columns)
            return serve_x(x[:, 0] if x.shape[1] == 1 else x)

        return serve

    @property
    def inputs(self) -> dict[str, tf.TensorSpec]:
        """The columns [None] that a signature takes."""
        types = {name: tf.string if name in self._places else self.dtype for name in self._names}
        return {name: tf.TensorSpec([None], dtype, name) for name, dtype in types.items()}

    def encode(self, inputs: dict[str, tf.Tensor]) -> tf.Tensor:
        """The features [N, D] of columns; an error for a text that is not known."""
        parts = []
        for name, (column, texts) in zip(self._names, self._columns, strict=True):
            values = inputs[name]
            if texts is None:
                parts.append(values[:, None])
                continue
            places = self._places[name].lookup(tf.strings.strip(values))
            known = textwrap.shorten(", ".join(texts), 200)
            about = f"column {column!r}: the model was trained with {known}; received"
            check = tf.debugging.Assert(tf.reduce_all(places >= 0), [about, values])
            with tf.control_dependencies([check]):
                parts.append(tf.one_hot(places, len(texts), dtype=self.dtype))
        return tf.concat(parts, axis=1)

    def standardized_x(self, x: tf.Tensor) -> tf.Tensor:
        """Features [N, D] as the model takes them."""
        if not self._is_used:
            return x
        moved = (x - self._near[:-1]) - self._rest[:-1]
        return tf.cast(moved / self._stddev[:-1], tf.float32)

    def in_data_units(self, y: tf.Tensor) -> tf.Tensor:
        """The model's predictions, of any shape, in the units of the data."""
        if not self._is_used:
            return y
        return (tf.cast(y, self.dtype) * self._stddev[-1] + self._rest[-1]) + self._near[-1]


def input_names(learned: preprocessing.Preprocessing) -> list[str]:
    """Names of columns as TensorFlow allows them for inputs, each of them once."""
    found: list[str] = []
    for column in learned.columns:
        name = re.sub(r"[^0-9A-Za-z_]", "_", column)
        name = name if name[:1].isalpha() else f"column_{name}"
        while name.lower() in ("self", *map(str.lower, found)):
            name += "_"
        found.append(name)
    return found


def _places(texts: tuple[str, ...]) -> tf.lookup.StaticHashTable:
    """A table that finds a text's place among the known ones, or -1."""
    keys, values = tf.constant(texts), tf.range(len(texts), dtype=tf.int64)
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), -1)
