"""The same training through Keras compile and fit."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.data import batches as batches_lib
from pipeline.training import hooks, losses, metrics, optimizers, task

_STEPS_PER_EXECUTION = 256  # steps in one call of Keras' compiled function


class _StepRecords(tf.keras.metrics.Metric):  # type: ignore[misc]
    """Keeps the loss of each step, and the watched values after it, until they are taken.

    Keras itself reports a running mean of the loss, once in a call. A metric is the
    one part of compile and fit that sees every step from inside the compiled function.
    """

    def __init__(self, trained: task.Task, *, capacity: int):
        super().__init__(name="step_records")
        self._values = tf.Variable(tf.zeros([capacity, len(trained.names)]), trainable=False)
        self._losses = tf.Variable(tf.zeros([capacity]), trainable=False)
        # In closures: Keras would take an attribute for a variable of the metric.
        self._current_values: Callable[[], tf.Tensor] = lambda: trained.values()
        self._loss: task.Loss = lambda y, prediction: trained.losses_of(y, prediction)
        self._count = tf.Variable(0, trainable=False)

    def update_state(self, y: tf.Tensor, prediction: tf.Tensor, sample_weight: Any = None) -> None:
        """Takes y [b] and the prediction [b] from before the step's update."""
        del sample_weight
        loss = losses.mean_over_batch(self._loss(y, prediction))
        self._values.scatter_update(tf.IndexedSlices(self._current_values(), self._count))
        self._losses.scatter_update(tf.IndexedSlices(loss, self._count))
        self._count.assign_add(1)

    def take(self) -> tuple[Any, Any]:
        """Returns the values [K, M] and the loss [K] of the steps kept, and forgets them."""
        count = int(self._count.numpy())
        self._count.assign(0)
        return self._values.numpy()[:count], self._losses.numpy()[:count]

    def result(self) -> tf.Tensor:
        """The number of steps kept; Keras wants some scalar."""
        return tf.convert_to_tensor(self._count)

    def reset_state(self) -> None:
        """Does nothing: what was kept has been taken."""


def _emitter(
    trained: task.Task, records: _StepRecords, hook: hooks.Hook, *, step: int
) -> tf.keras.callbacks.Callback:
    """A callback that emits StepMetrics after each call of Keras' compiled function."""
    before = trained.values().numpy()[None]

    def emit(batch: int, logs: Any) -> None:
        nonlocal step, before
        del batch, logs
        values, loss = records.take()
        values, before = np.concatenate([before, values[:-1]]), values[-1:]
        steps = np.arange(step, step + len(loss))
        step += len(loss)
        hook.after(metrics.StepMetrics(steps, values, loss))

    return tf.keras.callbacks.LambdaCallback(on_train_batch_end=emit)


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
    """Trains from first_step to last_step; the arguments are those of loops.Loop.

    What Keras calls an epoch is here all that is left to train, up to the next stop: an epoch
    of Keras costs as much as many steps, and it could not begin in the middle of one. Its own
    TensorBoard callback is left out: it counts calls instead of steps and writes means over the
    epoch, and its graph is empty.
    """
    # Fewer where a step is slow, so that training can stop and save between them.
    capacity = 1 if run_eagerly else min(_STEPS_PER_EXECUTION, batches.block_steps)
    records = _StepRecords(trained, capacity=capacity)
    trained.model.compile(
        optimizer=optimizer,
        loss=trained.losses_of,  # of which Keras takes the mean over the batch
        metrics=[records],
        run_eagerly=run_eagerly,
        steps_per_execution=capacity,
    )
    emit = _emitter(trained, records, hook, step=first_step)
    step = first_step
    while step < last_step:
        hook.before(step)
        stop = int(min(last_step, hook.next_stop(step)))
        data = batches.singly(step, stop)
        trained.model.fit(data, callbacks=[emit], shuffle=False, verbose=0)
        step = stop
