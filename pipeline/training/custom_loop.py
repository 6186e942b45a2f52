"""The hand-written training loop: a GradientTape inside one compiled function."""

import contextlib
import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from pipeline.data import batches as batches_lib
from pipeline.distributed import communicator as communicator_lib
from pipeline.training import clock as clock_lib
from pipeline.training import compilation, hooks, metrics, optimizers, train_step
from pipeline.training import task as task_lib


def make_training_loop(
    task: task_lib.Task,
    batches: batches_lib.Batches,
    optimizer: optimizers.Optimizer,
    mode: compilation.Mode,
    communicator: communicator_lib.Communicator | None = None,
) -> Callable[..., tuple[tf.Tensor, ...]]:
    """Makes the function that trains through a block of batches in one call.

    The number of steps is a tensor, so one executable serves every number of steps, and a run
    that is cut anywhere has the same bits.
    """
    if communicator is None:
        step = _make_step(task, batches, optimizer)
    else:
        step = _make_shared_step(task, batches, optimizer, mode, communicator)

    def training_loop(
        block: batches_lib.Block, first: tf.Tensor, steps: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """Trains for some steps (scalar int32) from batch `first` of a block on.

        Returns:
          The watched values [block_steps, M], and the loss and the gradient norm [block_steps],
          before each update; what follows the first `steps` rows is undefined.
        """
        columns = tuple(tf.TensorArray(tf.float32, batches.block_steps) for _ in range(3))
        i = tf.constant(0)
        while i < steps:  # `for i in tf.range(steps)` recompiles for every number
            row = step(block, first + i)
            columns = tuple(a.write(i, v) for a, v in zip(columns, row, strict=True))
            i += 1
        return tuple(column.stack() for column in columns)

    if mode is compilation.Mode.EAGER:
        return training_loop
    # On a CPU, XLA has no collectives: it compiles what is between them.
    is_xla = mode is compilation.Mode.XLA and communicator is None
    return tf.function(training_loop, jit_compile=is_xla)  # type: ignore[no-any-return]


def _make_step(
    task: task_lib.Task, batches: batches_lib.Batches, optimizer: optimizers.Optimizer
) -> Callable[..., tuple[tf.Tensor, ...]]:
    """Makes the function that makes update i of a block, and returns the state before it.

    That is the watched values [M], the loss and the gradient norm.
    """
    update = functools.partial(train_step.train, task, optimizer)
    short = batches.short_size

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def step(block: batches_lib.Block, i: tf.Tensor) -> tuple[tf.Tensor, ...]:
        x, y, size = block.batch(i)
        values = task.values()
        if not short:
            return values, *update(x, y)
        is_short = size < batches.batch_size
        result = tf.cond(is_short, lambda: update(x[:short], y[:short]), lambda: update(x, y))
        return values, *result

    return step  # type: ignore[no-any-return]


def _make_shared_step(
    task: task_lib.Task,
    batches: batches_lib.Batches,
    optimizer: optimizers.Optimizer,
    mode: compilation.Mode,
    communicator: communicator_lib.Communicator,
) -> Callable[..., tuple[tf.Tensor, ...]]:
    """Makes the function of one update on this worker's part of a batch, together with the others.

    One message a step: a second one would take as long as the first.
    """

    def share(x: tf.Tensor, y: tf.Tensor, batch_size: int) -> tf.Tensor:
        whole = task_lib.GlobalBatch(batch_size, batches.worker.count)
        return train_step.shared_loss_and_gradients(task, x, y, whole)

    def update(total: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return task.values(), *train_step.update(task, optimizer, total)

    if mode is not compilation.Mode.EAGER:
        is_xla = mode is compilation.Mode.XLA
        make = functools.partial(tf.function, jit_compile=is_xla, autograph=False)
        share, update = make(share), make(update)

    def of_batch(x: tf.Tensor, y: tf.Tensor, batch_size: int) -> tf.Tensor:
        size = batches.own_size(batch_size)
        return share(x[:size], y[:size], batch_size)

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def step(block: batches_lib.Block, i: tf.Tensor) -> tuple[tf.Tensor, ...]:
        # Slices and a branch that copy nothing, as they do where XLA compiles them.
        is_one = block.y.shape[0] == 1
        x, y, size = (column[0 if is_one else i] for column in block)
        whole = functools.partial(of_batch, x, y, batches.batch_size)
        short = functools.partial(of_batch, x, y, batches.short_size)
        is_short = size < batches.batch_size
        own = tf.cond(is_short, short, whole) if batches.short_size else whole()
        return update(communicator.total(own))

    return step  # type: ignore[no-any-return]


def train(
    task: task_lib.Task,
    batches: batches_lib.Batches,
    *,
    optimizer: optimizers.Optimizer,
    first_step: int,
    last_step: int,
    hook: hooks.Hook,
    clock: clock_lib.Clock,
    mode: compilation.Mode = compilation.Mode.XLA,
    communicator: communicator_lib.Communicator | None = None,
) -> None:
    """Trains from first_step to last_step; the arguments are those of loops.Loop.

    Workers that train together call this with the same arguments, but for their part of the
    batches, and with hooks that pause at the same steps.
    """
    training_loop = make_training_loop(task, batches, optimizer, mode, communicator)
    step, none = first_step, tf.constant(0)
    for block in batches.blocks(first_step, last_step):
        if step == first_step and mode is not compilation.Mode.EAGER:
            training_loop(block, none, none)  # compiles it, before anything is measured
        block_start, block_end = step, min(step + batches.block_steps, last_step)
        while step < block_end:
            hook.before(step)
            end = int(min(block_end, hook.next_pause(step)))
            first, steps = tf.constant(step - block_start), tf.constant(end - step)
            since = clock.now()
            with communicator.reported() if communicator else contextlib.nullcontext():
                arrays = training_loop(block, first, steps)
                rows = [array.numpy()[: end - step] for array in arrays]
            # What is between the messages of several workers is compiled when it is first used.
            is_measured = communicator is None or step > first_step
            clock.trained(step, end, since=since, is_measured=is_measured)
            hook.after(metrics.StepMetrics(np.arange(step, end), *rows))
            step = end
