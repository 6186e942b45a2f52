"""The hand-written training loop: a GradientTape inside one compiled function."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from pipeline.data import batches as batches_lib
from pipeline.training import hooks, metrics, optimizers, task, train_step


def make_training_loop(
    trained: task.Task,
    batches: batches_lib.Batches,
    optimizer: optimizers.Optimizer,
    *,
    run_eagerly: bool = False,
) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
    """Makes the function that trains through a block of batches in one call, compiled by XLA.

    The number of steps is a tensor, so one executable serves every number of steps, and a run
    that is cut anywhere has the same bits. run_eagerly leaves it as plain Python.
    """

    def training_loop(
        block: batches_lib.Block, first: tf.Tensor, steps: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Trains for some steps (scalar int32) from batch `first` of a block on.

        Returns:
          The watched values [block_steps, M] and the loss [block_steps] before each update;
          what follows the first `steps` rows is undefined.
        """
        values = tf.TensorArray(tf.float32, batches.block_steps)
        losses = tf.TensorArray(tf.float32, batches.block_steps)
        i = tf.constant(0)
        while i < steps:  # `for i in tf.range(steps)` recompiles for every number
            x, y, size = block.batch(first + i)
            count = size if batches.has_short_batch else None
            values = values.write(i, trained.values())
            losses = losses.write(i, train_step.train(trained, optimizer, x, y, count))
            i += 1
        return values.stack(), losses.stack()

    if run_eagerly:
        return training_loop
    return tf.function(training_loop, jit_compile=True)  # type: ignore[no-any-return]


def train(
    trained: task.Task,
    batches: batches_lib.Batches,
    *,
    optimizer: optimizers.Optimizer,
    first_step: int,
    last_step: int,
    hook: hooks.Hook,
    run_eagerly: bool = False,
) -> None:
    """Trains from first_step to last_step; the arguments are those of loops.Loop."""
    training_loop = make_training_loop(trained, batches, optimizer, run_eagerly=run_eagerly)
    step = first_step
    for block in batches.blocks(first_step, last_step):
        block_start, block_end = step, min(step + batches.block_steps, last_step)
        while step < block_end:
            hook.before(step)
            stop = int(min(block_end, hook.next_stop(step)))
            first, steps = tf.constant(step - block_start), tf.constant(stop - step)
            arrays = training_loop(block, first, steps)
            values, loss = (array.numpy()[: stop - step] for array in arrays)
            hook.after(metrics.StepMetrics(np.arange(step, stop), values, loss))
            step = stop
