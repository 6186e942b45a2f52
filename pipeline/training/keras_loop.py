"""The training loop with Keras compile and fit."""

import contextlib
from typing import Any

import tensorflow as tf

from pipeline.training import clock as clock_lib
from pipeline.training import hooks, optimizers
from pipeline.training import loop as loop_lib
from pipeline.training import task as task_lib


def compile_model(task: task_lib.Task, optimizer: optimizers.Optimizer) -> None:
    """Compiles a task's model for fit, unless it is already compiled."""
    if not task.is_compiled:
        # train_step.keras_step uses the task's loss, also for 16-bit layers.
        task.model.compile(optimizer, loss=None, jit_compile=False, auto_scale_loss=False)


def fit(
    loop: loop_lib.Loop,
    *,
    first_step: int,
    last_step: int,
    hook: hooks.Hook,
    clock: clock_lib.Clock,
) -> None:
    """Trains as `Loop.train` does, in one call of fit.

    Keras keeps a train_function that is set, and calls it until the model stops training. One call
    trains up to the next pause, which is one batch to Keras' callbacks. The batches come from the
    loop: fit uses the data passed to it only for the structure of an example.
    """
    model = loop.task.model
    calls = loop.train(first_step=first_step, last_step=last_step, hook=hook, clock=clock)

    def train_function(iterator: Any) -> dict[str, Any]:
        del iterator
        model.stop_training = next(calls, last_step) >= last_step
        return {}

    model.train_function = train_function
    data = tf.data.Dataset.from_tensors(loop.first_batch.as_keras).repeat()
    with contextlib.closing(calls):
        model.fit(data, shuffle=False, verbose=0)
