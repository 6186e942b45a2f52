"""The same training through Keras compile and fit."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.data import batches as batches_lib
from pipeline.training import clock as clock_lib
from pipeline.training import compilation, hooks, metrics, norms, optimizers
from pipeline.training import task as task_lib

_STEPS_PER_EXECUTION = 256  # steps in one call of Keras' compiled function


class _StepRecords:
    """Keeps the rows of the steps in one call of Keras' compiled function, until they are taken.

    Keras itself reports a running mean of the loss, once in a call. Two of the things that one
    hands to compile see every step from inside the compiled function: the optimizer is called
    before the update, and a metric after it, with the predictions from before.
    """

    def __init__(self, task: task_lib.Task, *, capacity: int):
        self._task = task
        shapes = [capacity, len(task.names)], [capacity], [capacity]
        self._columns = [tf.Variable(tf.zeros(shape), trainable=False) for shape in shapes]
        self._penalty = tf.Variable(0.0, trainable=False)
        self._count = tf.Variable(0, trainable=False)

    def before_update(self, gradients: list[tf.Tensor]) -> None:
        """Keeps what is known before the update with these gradients."""
        self._penalty.assign(self._task.penalty())
        self._set(0, self._task.values())
        self._set(2, norms.global_norm(gradients))

    def after_update(self, y: tf.Tensor, prediction: tf.Tensor) -> None:
        """Keeps the loss of the batch y [b], with the predictions [b] from before the update."""
        each = self._task.losses_of(y, prediction)
        self._set(1, tf.reduce_mean(each) + self._penalty)
        self._count.assign_add(1)

    def take(self) -> tuple[Any, ...]:
        """Returns the values [K, M], the loss and the gradient norm [K], and forgets them."""
        count = int(self._count.numpy())
        self._count.assign(0)
        return tuple(column.numpy()[:count] for column in self._columns)

    def _set(self, column: int, value: tf.Tensor) -> None:
        self._columns[column].scatter_update(tf.IndexedSlices(value, self._count))


class _AfterUpdate(tf.keras.metrics.Metric):  # type: ignore[misc]
    """A metric that shows _StepRecords each step."""

    def __init__(self, records: _StepRecords):
        super().__init__(name="step_records")
        # In a closure: Keras would take the variables of an attribute for those of the metric.
        self._keep: Callable[..., None] = lambda *arrays: records.after_update(*arrays)

    def update_state(self, y: tf.Tensor, prediction: tf.Tensor, sample_weight: Any = None) -> None:
        """Takes y [b, 1] and the prediction of a step."""
        del sample_weight
        self._keep(*_as_task(y, prediction))

    def result(self) -> tf.Tensor:
        """Keras wants some scalar."""
        return tf.constant(0.0)

    def reset_state(self) -> None:
        """Does nothing: what was kept has been taken."""


def _as_task(y: tf.Tensor, prediction: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Labels as [b] and predictions as [b] or [b, C], of which Keras makes [b, 1]."""
    prediction = tf.convert_to_tensor(prediction)
    is_column = prediction.shape.rank == 2 and prediction.shape[1] == 1
    prediction = tf.cast(tf.reshape(prediction, [-1]) if is_column else prediction, tf.float32)
    return tf.cast(tf.reshape(y, [-1]), tf.float32), prediction


def _keep_before_update(optimizer: optimizers.Optimizer, records: _StepRecords) -> None:
    """Lets an optimizer show _StepRecords each step."""
    apply = optimizer.apply

    def apply_and_keep(gradients: list[Any], variables: list[Any] | None = None) -> Any:
        records.before_update([tf.convert_to_tensor(gradient) for gradient in gradients])
        return apply(gradients, variables)

    optimizer.apply = apply_and_keep


class _Emit(tf.keras.callbacks.Callback):  # type: ignore[misc]
    """Hands on the rows of each call of Keras' compiled function; the call is a "batch" to it."""

    def __init__(
        self, records: _StepRecords, hook: hooks.Hook, clock: clock_lib.Clock, *, first_step: int
    ):
        super().__init__()
        self._records, self._hook, self._clock = records, hook, clock
        self.step = self._first_step = first_step

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Notes the time."""
        del batch, logs
        self._since = self._clock.now()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Shows the hook the rows."""
        del batch, logs
        rows = self._records.take()
        first, self.step = self.step, self.step + len(rows[1])
        is_measured = first > self._first_step  # the first call compiles
        self._clock.trained(first, self.step, since=self._since, is_measured=is_measured)
        self._hook.after(metrics.StepMetrics(np.arange(first, self.step), *rows))


def _compile(
    task: task_lib.Task, optimizer: optimizers.Optimizer, mode: compilation.Mode, *, capacity: int
) -> _StepRecords:
    """Prepares the model for fit, with up to `capacity` steps in a call, and keeps records."""
    records = _StepRecords(task, capacity=capacity)
    _keep_before_update(optimizer, records)
    task.model.compile(
        optimizer=optimizer,
        # Of the losses of the examples, Keras takes the mean over the batch.
        loss=lambda y, prediction: task.losses_of(*_as_task(y, prediction)) + task.weight_penalty(),
        metrics=[_AfterUpdate(records)],
        run_eagerly=mode is compilation.Mode.EAGER,
        steps_per_execution=capacity,
        jit_compile=mode is compilation.Mode.XLA,
        auto_scale_loss=False,  # as in the custom loop, for 16-bit layers too
    )
    return records


def train(
    task: task_lib.Task,
    batches: batches_lib.Batches,
    *,
    optimizer: optimizers.Optimizer,
    first_step: int,
    last_step: int,
    hook: hooks.Hook,
    clock: clock_lib.Clock,
    mode: compilation.Mode = compilation.Mode.GRAPH,
) -> None:
    """Trains from first_step to last_step; the arguments are those of loops.Loop.

    What Keras calls an epoch is here all that is left to train, up to the next pause: an epoch
    of Keras costs as much as many steps, and it could not begin in the middle of one. Its own
    TensorBoard callback is left out: it counts calls instead of steps and writes means over the
    epoch, and its graph is empty.
    """
    # Fewer where a step is slow, so that training can pause and save between them.
    capacity = min(_STEPS_PER_EXECUTION, batches.block_steps)
    records = _compile(
        task, optimizer, mode, capacity=1 if mode is compilation.Mode.EAGER else capacity
    )
    emit = _Emit(records, hook, clock, first_step=first_step)
    while emit.step < last_step:
        hook.before(emit.step)
        end = int(min(last_step, hook.next_pause(emit.step)))
        data = batches.singly(emit.step, end)
        task.model.fit(data, callbacks=[emit], shuffle=False, verbose=0)
