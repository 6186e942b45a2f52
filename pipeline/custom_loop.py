"""The hand-written training loop: a GradientTape inside one compiled function."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from pipeline import data as data_lib
from pipeline import metrics, optimizers, step
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
        data: data_lib.TrainingData,
        *,
        run_eagerly: bool = False,
    ):
        """Prepares to train a model on the blocks of some data."""
        self._model = model
        self._optimizer = optimizer
        self._data = data
        self.run = self._run if run_eagerly else tf.function(self._run, jit_compile=True)

    def _run(
        self, block: data_lib.Block, first: tf.Tensor, points: tf.Tensor, updates: tf.Tensor
    ) -> _Points:
        """Trains on from step `first` of the block.

        Args:
          block: The batches.
          first: Scalar int32.
          points: Scalar int32, how many points to record.
          updates: Scalar int32, on how many of them to train.
        """
        variables = self._model.trainable_variables
        record = _Points(*(tf.TensorArray(tf.float32, self._data.block_steps) for _ in range(3)))
        i = tf.constant(0)  # for i in tf.range(points) would be compiled anew for each number
        while i < points:
            x, y, size = block.batch(first + i)
            count = size if self._data.has_short_batch else None
            loss, gradients = step.loss_and_gradients(self._model, x, y, count)
            point = _Points(self._model.W, self._model.b, loss)
            record = _Points(*(array.write(i, v) for array, v in zip(record, point, strict=True)))
            # The last point of a run is looked at but not trained on.
            if i < updates:
                self._optimizer.apply_gradients(zip(gradients, variables, strict=True))
            i += 1
        return _Points(*(array.stack() for array in record))


def train(
    model: model_lib.Model,
    data: data_lib.TrainingData,
    *,
    optimizer: optimizers.Optimizer,
    first_step: int,
    last_step: int,
    observe: metrics.Observer,
    next_stop: Callable[[int], int] | None = None,
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
      next_stop: Gives the next step, after a step, at which a stretch must end: what
        `observe` finds in the model then is the state at that step.
      run_eagerly: Whether to run the same step as plain Python.
    """
    train_block = TrainBlock(model, optimizer, data, run_eagerly=run_eagerly)
    done = first_step
    for block in data.blocks(first_step, last_step):
        start, end_of_block = done, min(done + data.block_steps, last_step + 1)
        while done < end_of_block:
            end = end_of_block if next_stop is None else min(end_of_block, next_stop(done))
            scalars = (done - start, end - done, min(end, last_step) - done)
            record = train_block.run(block, *map(tf.constant, scalars))
            points = [array.numpy()[: end - done] for array in record]
            observe(metrics.StepMetrics(np.arange(done, end), *points))
            done = end
