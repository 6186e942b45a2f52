"""The order in which training sees the examples, as tf.data pipelines."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline import shuffle

# A block is much work for one call, yet done in some milliseconds. Its size does not
# depend on the length of the run, so that a longer run repeats a shorter one's steps.
_BLOCK_STEPS = 2**16
_SMALL_BLOCK_STEPS = 2**4
_REPEATED_NUMBERS = 2**24  # numbers x looked at, where all examples are one batch
_GATHERED_NUMBERS = 2**18  # numbers x gathered, where they are not


class Block(NamedTuple):
    """The batches of consecutive steps.

    Where all examples are one batch, a block holds that batch once (R = 1) for all of
    its steps; otherwise step i of the block takes batch i.

    Attributes:
      x: [R, B] float32, or [R, B, D].
      y: [R, B] float32.
      size: [R] int32, how many of a batch's B examples belong to it: fewer than B in the
        last batch of an epoch where B does not divide N.
    """

    x: tf.Tensor
    y: tf.Tensor
    size: tf.Tensor

    def batch(self, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The x, y and size of one of the block's steps."""
        if self.y.shape[0] == 1:  # known to the compiler, which then need not copy the batch
            return self.x[0], self.y[0], self.size[0]
        return tf.gather(self.x, step), tf.gather(self.y, step), tf.gather(self.size, step)


def _options() -> tf.data.Options:
    """Leaves the pipeline as it is written: to rewrite it, tf.data would copy the examples."""
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    return options


class TrainingData:
    """Batches whose content is a pure function of the seed and the step.

    No iterator has a state worth saving: training can start at any step, at no cost.

    Attributes:
      batch_size: B, the size of every batch but the last of an epoch.
      steps_per_epoch: Batches that it takes to see every example once.
      has_short_batch: Whether the last batch of an epoch is smaller.
      block_steps: Steps in a block.
    """

    def __init__(
        self,
        x: npt.NDArray[np.float32],
        y: npt.NDArray[np.float32],
        *,
        batch_size: int,
        seed: int,
        small_blocks: bool = False,
    ):
        """Lays out the batches.

        Args:
          x: [N] or [N, D] float32.
          y: [N] float32.
          batch_size: B; 0, or more than N, stands for N.
          seed: Of the order of the examples.
          small_blocks: Whether a step is slow, so that a block should hold few.
        """
        # tf.constant holds a second copy until the next operation: one array at a time.
        self._x, self._y = tf.identity(tf.constant(x)), tf.identity(tf.constant(y))
        self._seed = seed
        self._count = len(y)
        self.batch_size = min(batch_size or self._count, self._count)
        self.steps_per_epoch = -(-self._count // self.batch_size)
        self.has_short_batch = self._count % self.batch_size != 0
        self._compiled_block = tf.function(self._block, jit_compile=True)
        numbers = self.batch_size * int(np.prod(x.shape[1:]))
        limit = _REPEATED_NUMBERS if self.steps_per_epoch == 1 else _GATHERED_NUMBERS
        steps = limit // numbers
        most = _SMALL_BLOCK_STEPS if small_blocks else _BLOCK_STEPS
        self.block_steps = max(1, min(steps, most))

    def blocks(self, first_step: int, last_step: int) -> "tf.data.Dataset[Block]":
        """The blocks of the steps first_step to last_step, both included.

        All blocks have one shape, so the last one may go on beyond last_step.
        """
        starts = tf.data.Dataset.range(first_step, last_step + 1, self.block_steps)
        if self.steps_per_epoch == 1:
            block = Block(self._x[None], self._y[None], tf.constant([self._count]))
            return tf.data.Dataset.from_tensors(block).repeat(len(starts))
        return starts.map(self._compiled_block).prefetch(2).with_options(_options())

    def batches(self, first_step: int, last_step: int) -> "tf.data.Dataset[tuple[tf.Tensor, ...]]":
        """The same batches one by one, as pairs x [b] or [b, D] and y [b], b <= B."""
        steps = last_step + 1 - first_step
        if self.steps_per_epoch == 1:
            return tf.data.Dataset.from_tensors((self._x, self._y)).repeat(steps)
        rows = self.blocks(first_step, last_step).unbatch().take(steps).prefetch(2)
        if self.has_short_batch:
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
