"""Euclidean norms in a form that XLA compiles to fast code.

On CPUs, XLA adds up an array one number after the other. It adds up the columns of a matrix in
parallel, which is five times as fast for a layer of 64 units.
"""

from collections.abc import Iterable
from typing import Any

import tensorflow as tf


def norm(array: Any) -> tf.Tensor:
    """The norm (scalar float32) of an array, computed as the norm of its columns' norms."""
    array = tf.cast(tf.convert_to_tensor(array), tf.float32)
    return tf.norm(tf.norm(array, axis=0)) if array.shape.rank else tf.abs(array)


def global_norm(arrays: Iterable[Any]) -> tf.Tensor:
    """The norm (scalar float32) of several arrays, or IndexedSlices, as one vector."""
    return tf.norm(tf.stack([norm(array) for array in arrays]))
