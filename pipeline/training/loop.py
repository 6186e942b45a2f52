"""The training loop: many steps in one compiled call, with pauses between the calls."""

import contextlib
import functools
import timeit
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline.data import batch as batch_lib
from pipeline.data import batches as batches_lib
from pipeline.data import streams
from pipeline.distributed import communicator as communicator_lib
from pipeline.training import clock as clock_lib
from pipeline.training import compilation, hooks, optimizers, step_metrics, train_step
from pipeline.training import task as task_lib
from pipeline.training import variables as variables_lib

_LEAST_SECONDS = 1e-3  # work in a step above which several workers may be faster

Column = npt.NDArray[np.float32]
# A block of batches, or the iterator of a stream.
_Block = Any
_BlockStep = Callable[[_Block, tf.Tensor], train_step.Row]


class Loop:
    """Trains a task on batches, from pause to pause.

    Attributes:
      task: The task to train.
    """

    def __init__(
        self,
        task: task_lib.Task,
        optimizer: optimizers.Optimizer,
        batches: batches_lib.AnyBatches,
        mode: compilation.Mode,
        *,
        step: train_step.Step | None = None,
        communicator: communicator_lib.Communicator | None = None,
    ):
        """Compiles nothing yet.

        Args:
          task: The task whose model is trained in place.
          optimizer: The optimizer that makes the updates.
          batches: The batches to train on.
          mode: The way to run the steps.
          step: The training step, by default the guide's.
          communicator: The communicator of several workers, or None.
        """
        self.task, self._optimizer, self._batches = task, optimizer, batches
        self._mode, self._communicator = mode, communicator
        step = step or train_step.guide_step(task, optimizer)
        # XLA has no iterators and, on a CPU, no collectives: it compiles what lies between them.
        is_xla = False
        if isinstance(batches, streams.Batches):
            self._step: _BlockStep = _on_stream(step, mode)
        elif communicator is None:
            self._step = _on_block(step, batches, mode)
            is_xla = mode is compilation.Mode.XLA
        else:
            self._step = _shared_step(task, optimizer, batches, mode, communicator)
        self._run: Any = self._steps
        self._trace: Any = None
        if mode is not compilation.Mode.EAGER:
            self._run = tf.function(self._steps, jit_compile=is_xla)

    def train(
        self, *, first_step: int, last_step: int, hook: hooks.Hook, clock: clock_lib.Clock
    ) -> Generator[int]:
        """Makes the updates first_step + 1 to last_step; yields the step after each call.

        The hook's `pause` is called at every pause that it asks for. Its `after` gets one row for
        each update, in order. Both may raise to end training. The clock records each call that
        trains before the hook does. Workers that train together call this with the same arguments,
        their own parts of the batches, and hooks that pause at the same steps.
        """
        step, none = first_step, tf.constant(0)
        for block in self._batches.blocks(first_step, last_step):
            if step == first_step and self._mode is not compilation.Mode.EAGER:
                self._call(block, none, none)  # compiles before the measurement
            block_start, block_end = step, min(step + self._batches.block_steps, last_step)
            while step < block_end:
                hook.pause(step)
                end = int(min(block_end, hook.next_pause(step)))
                since = clock.now()
                rows = self._rows(block, step - block_start, end - step)
                # With several workers, the parts between messages are compiled at their first use.
                is_measured = self._communicator is None or step > first_step
                clock.trained(step, end, since=since, is_measured=is_measured)
                hook.after(step_metrics.StepMetrics(np.arange(step, end), *rows))
                step = end
                yield step

    @property
    def first_batch(self) -> batch_lib.Batch:
        """The first batch."""
        return self._batches.batch(0)

    def row(self, step: int) -> step_metrics.StepMetrics:
        """The row of the next update after `step` updates; the model is not changed."""
        block = next(iter(self._batches.blocks(step, step + 1)))
        with variables_lib.unchanged(self.task.variables.with_optimizer(self._optimizer)):
            return step_metrics.StepMetrics(np.array([step]), *self._rows(block, 0, 1))

    def note_on_speed(self) -> str:
        """Returns a note if a step's message takes longer than several workers save, or ''."""
        assert self._communicator
        batch, count = self._batches.batch(0), self._communicator.worker.count

        def seconds(function: Callable[..., tf.Tensor]) -> float:
            jit_compile = self._mode is compilation.Mode.XLA
            run = tf.function(function, jit_compile=jit_compile, autograph=False)
            run(*batch.arrays).numpy()  # compiles
            repeats = timeit.repeat(lambda: run(*batch.arrays).numpy(), number=1, repeat=5)
            return float(min(repeats))

        def work(*arrays: tf.Tensor) -> tf.Tensor:
            del arrays  # TensorFlow warns about an argument named `_`
            return train_step.shared_loss_and_gradients(self.task, batch, 1 / count)

        call = seconds(lambda *arrays: tf.reshape(arrays[0], [-1])[:1])
        alone = count * max(0.0, seconds(work) - call)
        if self._mode is compilation.Mode.EAGER or alone > _LEAST_SECONDS:
            return ""
        return (
            f"one process would do a step in about {1e3 * alone:.1g} ms, less than a message "
            f"between workers takes; it is faster than {count} workers"
        )

    def _rows(self, block: _Block, first: int, count: int) -> list[npt.NDArray[np.float32]]:
        lost = self._communicator.reported() if self._communicator else contextlib.nullcontext()
        with lost:
            columns = self._call(block, tf.constant(first), tf.constant(count))
            return [column.numpy()[:count] for column in columns]

    def _call(self, *arguments: Any) -> tuple[tf.Tensor, ...]:
        """Calls the compiled loop by its only trace; tf.function takes twice as long to find it."""
        if self._mode is not compilation.Mode.EAGER and self._trace is None:
            self._trace = self._run.get_concrete_function(*arguments)
        columns: tuple[tf.Tensor, ...] = (self._trace or self._run)(*arguments)
        return columns

    def _steps(self, block: _Block, first: tf.Tensor, steps: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Trains `steps` steps (scalar int32), starting at batch `first` of a block.

        The number of steps is a tensor, so one executable serves every number of steps, and a run
        interrupted at any step ends with exactly the same weights.

        Returns:
          The columns of the rows [block_steps, ...]. The values after the first `steps` rows are
          undefined.
        """
        count = 4 if self.task.numbers else 3
        columns = tuple(tf.TensorArray(tf.float32, self._batches.block_steps) for _ in range(count))
        i = tf.constant(0)
        while i < steps:  # `for i in tf.range(steps)` recompiles for every number
            row = self._step(block, first + i)
            columns = tuple(a.write(i, v) for a, v in zip(columns, row, strict=False))
            i += 1
        return tuple(column.stack() for column in columns)


def train(
    loop: Loop, *, first_step: int, last_step: int, hook: hooks.Hook, clock: clock_lib.Clock
) -> None:
    """Trains with the hand-written loop; see `Loop.train`."""
    for _ in loop.train(first_step=first_step, last_step=last_step, hook=hook, clock=clock):
        pass


def _on_block(
    step: train_step.Step, batches: batches_lib.Batches, mode: compilation.Mode
) -> _BlockStep:
    """Makes a function that makes update i of a block and returns its row."""
    short = batches.short_size

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def on_block(block: batches_lib.Block, i: tf.Tensor) -> train_step.Row:
        batch, size = block.at(i, is_xla=mode is compilation.Mode.XLA)
        if mode is not compilation.Mode.XLA:  # the size is unknown when traced, as in Keras' fit
            return step(_first(batch, size))
        if not short:
            return step(batch)
        # XLA needs static sizes, so each of the two sizes has a branch.
        is_short = size < batches.batch_size
        on_short, on_whole = lambda: step(_first(batch, short)), lambda: step(batch)
        row: train_step.Row = tf.cond(is_short, on_short, on_whole)
        return row

    return on_block  # type: ignore[no-any-return]


def _on_stream(step: train_step.Step, mode: compilation.Mode) -> _BlockStep:
    """Makes a function that takes the next batch of an iterator, and returns its row."""
    run: Any = step
    if mode is compilation.Mode.XLA:
        run = tf.function(step, jit_compile=True, autograph=False)

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def on_stream(iterator: Any, i: tf.Tensor) -> train_step.Row:
        del i
        row: train_step.Row = run(batch_lib.of_keras(next(iterator)))
        return row

    return on_stream  # type: ignore[no-any-return]


def _shared_step(
    task: task_lib.Task,
    optimizer: optimizers.Optimizer,
    batches: batches_lib.Batches,
    mode: compilation.Mode,
    communicator: communicator_lib.Communicator,
) -> _BlockStep:
    """Makes the function of one update by all workers, on this worker's part of a batch.

    Each step sends one message; a second one would take as long as the first.
    """

    def terms(batch: batch_lib.Batch, *, share: float) -> tf.Tensor:
        return train_step.shared_loss_and_gradients(task, batch, share)

    def update(total: tf.Tensor) -> train_step.Row:
        return train_step.shared_update(task, optimizer, total)

    compiled_terms: Any = terms
    compiled_update: Any = update
    if mode is not compilation.Mode.EAGER:
        is_xla = mode is compilation.Mode.XLA
        compiled_terms = tf.function(terms, jit_compile=is_xla, autograph=False)
        compiled_update = tf.function(update, jit_compile=is_xla, autograph=False)

    def own_terms(batch: batch_lib.Batch, batch_size: int) -> tf.Tensor:
        size = batches.own_size(batch_size)
        if not size:
            return tf.zeros([1 + task.variables.num_trainable])
        return compiled_terms(_first(batch, size), share=size / batch_size)

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def on_block(block: batches_lib.Block, i: tf.Tensor) -> train_step.Row:
        # These slices and this branch copy nothing; compiled by XLA they would.
        batch, size = block.at(i)
        whole = functools.partial(own_terms, batch, batches.batch_size)
        short = functools.partial(own_terms, batch, batches.short_size)
        own = tf.cond(size < batches.batch_size, short, whole) if batches.short_size else whole()
        row: train_step.Row = compiled_update(communicator.total(own))
        return row

    return on_block  # type: ignore[no-any-return]


def _first(batch: batch_lib.Batch, size: Any) -> batch_lib.Batch:
    """Returns the first `size` examples of a batch; size is an int or a scalar tensor."""
    return batch.map(lambda tensor: tensor[:size])
