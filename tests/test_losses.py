"""Tests of pipeline.training.losses."""

import numpy as np
import pytest
import tensorflow as tf

from pipeline.training import losses


def test_squared_error_is_that_of_each_example() -> None:
    y, prediction = tf.constant([1.0, 2.0, 3.0]), tf.constant([1.0, 4.0, 0.0])
    loss = losses.squared_error(y, prediction)
    assert loss.dtype == tf.float32
    assert loss.numpy().tolist() == [0, 4, 9]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(None, (0 + 4 + 9) / 3), (3, (0 + 4 + 9) / 3), (2, (0 + 4) / 2), (1, 0.0)],
)
def test_mean_over_batch_is_that_of_the_first_examples(count: int | None, expected: float) -> None:
    counting = None if count is None else tf.constant(count)
    loss = losses.mean_over_batch(tf.constant([0.0, 4.0, 9.0]), counting)
    assert loss.shape == ()
    assert loss.dtype == tf.float32
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_infinite_filling_counts_neither_in_loss_nor_gradient() -> None:
    prediction = tf.Variable([1.0, 5.0, 1e30])
    with tf.GradientTape() as tape:
        squares = losses.squared_error(tf.constant([0.0, 3.0, 0.0]), prediction)
        loss = losses.mean_over_batch(squares, tf.constant(2))
    assert np.isinf(squares[2])
    assert float(loss) == (1 + 4) / 2
    np.testing.assert_array_equal(tape.gradient(loss, prediction), [1, 2, 0])  # 2 (p - y) / 2
