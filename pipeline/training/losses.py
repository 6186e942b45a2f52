"""The loss that training minimises: of an example, and its mean over a batch."""

import tensorflow as tf


def squared_error(y: tf.Tensor, prediction: tf.Tensor) -> tf.Tensor:
    """The loss [B] of each example, (y - prediction)², from labels and predictions [B]."""
    return tf.square(y - prediction)


def mean_over_batch(losses: tf.Tensor, count: tf.Tensor | None = None) -> tf.Tensor:
    """The mean (scalar) of the losses [B] of the first `count` examples of a batch.

    A short batch is filled up to B examples, so that one compiled function fits every batch, and
    its scalar int32 count is less than B. None counts all.
    """
    if count is None:
        return tf.reduce_mean(losses)
    counts = tf.range(tf.shape(losses)[0]) < count
    return tf.reduce_sum(tf.where(counts, losses, 0.0)) / tf.cast(count, tf.float32)
