"""The batches of every training step, as tf.data pipelines."""

from typing import NamedTuple

import tensorflow as tf

from pipeline import config as config_lib
from pipeline.data import datasets, shuffle

# One call trains on a block of batches: enough work to hide what a call costs, yet done in
# milliseconds. The size of a block does not depend on the length of the run, so that a longer
# run repeats the steps of a shorter one.
_BLOCK_STEPS = 2**16
_EAGER_BLOCK_STEPS = 2**4
_FULL_BATCH_NUMBERS = 2**24  # elements of x that the steps of a block read, with one full batch
_MINI_BATCH_NUMBERS = 2**18  # elements of x that are gathered into a block of mini-batches

# To optimize the pipeline, tf.data would copy the examples, and it warns if it is interrupted.
_OPTIONS = tf.data.Options()
_OPTIONS.autotune.enabled = False
_OPTIONS.experimental_optimization.apply_default_optimizations = False


class Block(NamedTuple):
    """The batches of consecutive steps.

    With one full batch, a block holds it once (R = 1) for all of its steps; with mini-batches,
    step i of the block takes batch i. In the last batch of an epoch, fewer than B examples may
    count.
    """

    x: tf.Tensor  # [R, B, D] float32
    y: tf.Tensor  # [R, B] float32
    size: tf.Tensor  # [R] int32, the examples that count

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def batch(self, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The x, y and size of one of the block's steps."""
        if self.y.shape[0] == 1:  # known to the compiler, which then need not copy the batch
            return self.x[0], self.y[0], self.size[0]
        return tf.gather(self.x, step), tf.gather(self.y, step), tf.gather(self.size, step)


class Batches:
    """Training batches whose content is a pure function of the seed and the step.

    So no iterator has a state to save: training can start at any step, at no cost.

    Attributes:
      batch_size: B, the size of every batch but the last of an epoch.
      steps_per_epoch: Batches that it takes to see every example once.
      short_size: The size of an epoch's last batch, 0 if it is as large as the others.
      block_steps: Steps in a block.
    """

    def __init__(self, examples: datasets.Examples, config: config_lib.Config):
        """Copies the N examples to TensorFlow; --batch_size, if more than N or 0, stands for N."""
        # tf.constant holds a second copy until the next operation: one array at a time.
        self._x, self._y = (tf.identity(tf.constant(array)) for array in examples)
        self._seed = config.seed
        self._count = len(examples.y)
        self.batch_size = min(config.batch_size or self._count, self._count)
        self.steps_per_epoch = config_lib.steps_per_epoch(self._count, config.batch_size)
        self.short_size = self._count % self.batch_size
        self._compiled_block = tf.function(self._block, jit_compile=True)
        numbers = self.batch_size * self._x.shape[1]
        limit = _FULL_BATCH_NUMBERS if self.steps_per_epoch == 1 else _MINI_BATCH_NUMBERS
        most = _EAGER_BLOCK_STEPS if config.run_eagerly else _BLOCK_STEPS
        self.block_steps = max(1, min(limit // numbers, most))

    def blocks(self, first_step: int, last_step: int) -> "tf.data.Dataset[Block]":
        """The batches of the updates first_step + 1 to last_step, in blocks.

        All blocks have one shape, so the last one may go on beyond last_step.
        """
        starts = tf.data.Dataset.range(first_step, last_step, self.block_steps)
        if self.steps_per_epoch == 1:
            block = Block(self._x[None], self._y[None], tf.constant([self._count]))
            return tf.data.Dataset.from_tensors(block).repeat(len(starts)).with_options(_OPTIONS)
        return starts.map(self._compiled_block).prefetch(2).with_options(_OPTIONS)

    def singly(self, first_step: int, last_step: int) -> "tf.data.Dataset[tuple[tf.Tensor, ...]]":
        """The same batches one by one, as pairs x [b, D] and y [b], b <= B."""
        steps = last_step - first_step
        if self.steps_per_epoch == 1:
            batch = tf.data.Dataset.from_tensors((self._x, self._y))
            return batch.repeat(steps).with_options(_OPTIONS)
        rows = self.blocks(first_step, last_step).unbatch().take(steps).prefetch(2)
        if self.short_size:
            return rows.map(lambda row: (row.x[: row.size], row.y[: row.size]))
        return rows.map(lambda row: (row.x, row.y))

    def _block(self, first_step: tf.Tensor) -> Block:
        """Gathers the batches of `block_steps` steps from first_step on."""
        steps = first_step + tf.range(self.block_steps, dtype=tf.int64)
        starts = tf.cast(steps % self.steps_per_epoch * self.batch_size, tf.int32)
        positions = starts[:, None] + tf.range(self.batch_size)
        positions = tf.minimum(positions, self._count - 1)  # fills up a short batch
        epochs = steps // self.steps_per_epoch
        index = shuffle.shuffled(positions, count=self._count, seed=self._seed, epochs=epochs)
        size = tf.minimum(self._count - starts, self.batch_size)
        return Block(tf.gather(self._x, index), tf.gather(self._y, index), size)
