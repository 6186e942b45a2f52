"""The hand-written training loop: a GradientTape inside one compiled function."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from pipeline import data as data_lib
from pipeline import losses, metrics, optimizers
from pipeline import model as model_lib


class _Points(NamedTuple):
    """W, b and loss of the first steps of a block; what follows them is undefined."""

    W: tf.Tensor
    b: tf.Tensor
    loss: tf.Tensor


class TrainBlock:
    """Trains through a block of steps in one call of one compiled function.

    The number of steps is a tensor, so every block, also one that a stop cuts short,
    is run by the same machine code and gives the same bits.

    Attributes:
      run: The function to call, compiled or plain; see _run.
    """

    def __init__(
        self,
        model: model_lib.Model,
        optimizer: optimizers.Optimizer,
        *,
        capacity: int,
        run_eagerly: bool = False,
    ):
        """Prepares for blocks of at most `capacity` steps."""
        self._model = model
        self._optimizer = optimizer
        self._capacity = capacity
        self.run = self._run if run_eagerly else tf.function(self._run, jit_compile=True)

    def _run(self, block: data_lib.Block, points: tf.Tensor, updates: tf.Tensor) -> _Points:
        """Records `points` points, and trains on the first `updates` of them."""
        variables = self._model.trainable_variables
        record = _Points(*(tf.TensorArray(tf.float32, self._capacity) for _ in range(3)))
        batches = tf.shape(block.y)[0]
        for i in tf.range(points):
            row = i % batches
            with tf.GradientTape() as tape:
                prediction = self._model(block.x[row])
                loss = losses.mean_squared_error(block.y[row], prediction, block.count[row])
            point = _Points(self._model.W, self._model.b, loss)
            record = _Points(*(array.write(i, v) for array, v in zip(record, point, strict=True)))
            # The last point of a run is looked at but not trained on.
            if i < updates:
                gradients = tape.gradient(loss, variables)
                self._optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return _Points(*(array.stack() for array in record))


def train(
    model: model_lib.Model,
    data: data_lib.TrainingData,
    *,
    optimizer: optimizers.Optimizer,
    first_step: int,
    last_step: int,
    observe: metrics.Observer,
    run_eagerly: bool = False,
) -> None:
    """Trains from the point first_step to the point last_step.

    Args:
      model: Changed in place.
      data: Gives the batches.
      optimizer: Applies the gradients.
      first_step: Updates that the model has behind it.
      last_step: Updates that it has behind it in the end.
      observe: Is given all the points from first_step to last_step, in order, a
        stretch after each block. It may end the training by raising.
      run_eagerly: Whether to run the same step as plain Python.
    """
    train_block = TrainBlock(model, optimizer, capacity=data.block_steps, run_eagerly=run_eagerly)
    step = first_step
    for block in data.blocks(first_step, last_step):
        points = min(data.block_steps, last_step + 1 - step)
        updates = min(points, last_step - step)
        record = train_block.run(block, tf.constant(points), tf.constant(updates))
        steps = np.arange(step, step + points)
        observe(metrics.StepMetrics(steps, *(array.numpy()[:points] for array in record)))
        step += points
