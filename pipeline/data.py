"""The order in which training sees the examples, as tf.data pipelines."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

# A block is much work for one call, yet done in some milliseconds. Its size does not
# depend on the length of the run, so that a longer run repeats a shorter one's steps.
_BLOCK_STEPS = 2**14
_SMALL_BLOCK_STEPS = 2**4
_REPEATED_NUMBERS = 2**22  # numbers x looked at, where all examples are one batch
_GATHERED_NUMBERS = 2**18  # numbers x gathered, where they are not
_GATHERED_EPOCHS = 16  # to shuffle few examples costs more for each


class Block(NamedTuple):
    """The batches of consecutive steps.

    Where all examples are one batch, a block holds that batch once (R = 1) for all of
    its steps; otherwise step i of the block takes batch i.

    Attributes:
      x: [R, B] float32, or [R, B, D].
      y: [R, B] float32.
      count: [R] int32, how many of a batch's B examples belong to it: fewer than B in
        the last batch of an epoch where B does not divide N.
    """

    x: tf.Tensor
    y: tf.Tensor
    count: tf.Tensor


class TrainingData:
    """Batches whose content is a pure function of the seed and the step.

    No iterator has a state worth saving: training can start at any step, at no cost.

    Attributes:
      batch_size: B, the size of every batch but the last of an epoch.
      steps_per_epoch: Batches that it takes to see every example once.
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
        self._x, self._y = tf.constant(x), tf.constant(y)
        self._seed = seed
        self._count = len(y)
        self.batch_size = min(batch_size or self._count, self._count)
        self.steps_per_epoch = -(-self._count // self.batch_size)
        numbers = self.batch_size * int(np.prod(x.shape[1:]))
        if self.steps_per_epoch == 1:
            steps = _REPEATED_NUMBERS // numbers
        else:
            steps = min(_GATHERED_NUMBERS // numbers, _GATHERED_EPOCHS * self.steps_per_epoch)
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
        return starts.map(self._block).prefetch(2)

    def batches(self, first_step: int, last_step: int) -> "tf.data.Dataset[tuple[tf.Tensor, ...]]":
        """The same batches one by one, as pairs x [b] or [b, D] and y [b], b <= B."""
        steps = last_step + 1 - first_step
        if self.steps_per_epoch == 1:
            return tf.data.Dataset.from_tensors((self._x, self._y)).repeat(steps)
        rows = self.blocks(first_step, last_step).unbatch().take(steps)
        return rows.map(lambda batch: (batch.x[: batch.count], batch.y[: batch.count])).prefetch(2)

    def _block(self, first_step: tf.Tensor) -> Block:
        """Gathers the batches of `block_steps` steps from first_step on."""
        steps = first_step + tf.range(self.block_steps, dtype=tf.int64)
        starts = steps % self.steps_per_epoch * self.batch_size
        count = tf.minimum(self._count - starts, self.batch_size)
        positions = starts[:, None] + tf.range(self.batch_size, dtype=tf.int64)
        positions = tf.minimum(positions, self._count - 1)  # fills up a short batch
        index = self._shuffle(positions, steps // self.steps_per_epoch)
        return Block(tf.gather(self._x, index), tf.gather(self._y, index), tf.cast(count, tf.int32))

    def _shuffle(self, positions: tf.Tensor, epochs: tf.Tensor) -> tf.Tensor:
        """Which examples stand at the positions [K, B] of the orders of the epochs [K].

        A cipher on 0 ... N - 1 with a key for each epoch: a random permutation of which
        any element can be had by itself, without the others. The cipher mixes its key
        little, so the key must be random, too. (The raw op, because its wrapper in
        tf.random.experimental takes one key for all elements only.)
        """
        present = tf.range(epochs[0], epochs[-1] + 1)
        keys = tf.map_fn(self._key, present, fn_output_signature=tf.TensorSpec([3], tf.uint32))
        keys = tf.repeat(tf.gather(keys, epochs - epochs[0]), self.batch_size, axis=0)
        index = tf.raw_ops.RandomIndexShuffle(
            index=tf.reshape(positions, [-1]),
            seed=keys,
            max_index=tf.constant(self._count - 1, tf.int64),
        )
        return tf.reshape(index, [self.block_steps, self.batch_size])

    def _key(self, epoch: tf.Tensor) -> tf.Tensor:
        seed = tf.stack([tf.constant(self._seed, tf.int64), epoch])
        return tf.random.stateless_uniform([3], seed, None, None, tf.uint32)
