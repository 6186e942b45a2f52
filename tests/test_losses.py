"""Tests of pipeline.training.losses."""

import tensorflow as tf

from pipeline.training import losses


def test_squared_error_is_that_of_each_example() -> None:
    y, prediction = tf.constant([1.0, 2.0, 3.0]), tf.constant([1.0, 4.0, 0.0])
    loss = losses.squared_error(y, prediction)
    assert loss.dtype == tf.float32
    assert loss.numpy().tolist() == [0, 4, 9]
