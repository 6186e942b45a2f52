"""The batches of every training step, as tf.data pipelines."""

from typing import NamedTuple

import tensorflow as tf

from pipeline import config as config_lib
from pipeline.data import datasets, shuffle
from pipeline.distributed import workers

# One call trains on a block of batches: enough work to hide what a call costs, yet done in
# milliseconds. The size of a block does not depend on the length of the run, so that a longer
# run repeats the steps of a shorter one.
_BLOCK_STEPS = 2**16
_SHARED_BLOCK_STEPS = 2**9  # of steps that wait for other workers: a fraction of a second
_EAGER_BLOCK_STEPS = 2**4
_FULL_BATCH_NUMBERS = 2**24  # elements of x that the steps of a block read, with one full batch
_MINI_BATCH_NUMBERS = 2**18  # elements of x that are gathered into a block of mini-batches

# To optimize the pipeline, tf.data would copy the examples, and it warns if it is interrupted.
_OPTIONS = tf.data.Options()
_OPTIONS.autotune.enabled = False
_OPTIONS.experimental_optimization.apply_default_optimizations = False
_ALONE = workers.Worker()


class Block(NamedTuple):
    """The batches of consecutive steps.

    With one full batch, a block holds it once (R = 1) for all of its steps; with mini-batches,
    step i of the block takes batch i. The last batch of an epoch may be padded. Of several workers,
    each has its own B examples of a batch.
    """

    x: tf.Tensor  # [R, B, D] float32
    y: tf.Tensor  # [R, B] float32
    size: tf.Tensor  # [R] int32, the examples of a batch over all workers, without the padding

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
      batch_size: The size of every batch but the last of an epoch, over all workers.
      steps_per_epoch: Batches that it takes to see every example once.
      short_size: The size of an epoch's last batch, 0 if it is as large as the others.
      block_steps: Steps in a block.
      num_features: D.
      worker: Whose part of each batch this is.
    """

    def __init__(
        self,
        examples: datasets.Examples,
        config: config_lib.Config,
        *,
        worker: workers.Worker = _ALONE,
        count: int = 0,
    ):
        """Copies examples to TensorFlow; --batch_size, if more than all or 0, stands for all.

        Of several workers, `count` is the number of all training examples, and the examples are
        all of them or, for one full batch, this worker's part.
        """
        # tf.constant holds a second copy until the next operation: one array at a time.
        self._x, self._y = (tf.identity(tf.constant(array)) for array in examples)
        self.num_features: int = self._x.shape[1]
        self._seed, self.worker = config.seed, worker
        self._count = count or len(examples.y)
        self.batch_size = min(config.batch_size or self._count, self._count)
        self.steps_per_epoch = config.steps_per_epoch(self._count)
        self.short_size = self._count % self.batch_size
        self._own, self._own_short = (
            worker.share(size) for size in (self.batch_size, self.short_size)
        )
        self._compiled_block = tf.function(self._block, jit_compile=True)
        numbers = max(1, self._own.size) * self.num_features
        limit = _FULL_BATCH_NUMBERS if self.steps_per_epoch == 1 else _MINI_BATCH_NUMBERS
        most = _BLOCK_STEPS if worker.count == 1 else _SHARED_BLOCK_STEPS
        most = _EAGER_BLOCK_STEPS if config.run_eagerly else most
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

    def size(self, step: int) -> int:
        """The number of examples in the batch of an update, over all workers."""
        is_short = self.short_size and (step + 1) % self.steps_per_epoch == 0
        return self.short_size if is_short else self.batch_size

    def own_size(self, size: int) -> int:
        """How many examples of a batch of that size are this worker's."""
        return (self._own if size == self.batch_size else self._own_short).size

    def singly(self, first_step: int, last_step: int) -> "tf.data.Dataset[tuple[tf.Tensor, ...]]":
        """The same batches one by one, as pairs x [b, D] and y [b]."""
        steps = last_step - first_step
        if self.steps_per_epoch == 1:
            batch = tf.data.Dataset.from_tensors((self._x, self._y))
            return batch.repeat(steps).with_options(_OPTIONS)
        rows = self.blocks(first_step, last_step).unbatch().take(steps).prefetch(2)
        if not self.short_size:
            return rows.map(lambda row: (row.x, row.y))

        def cut(row: Block) -> tuple[tf.Tensor, tf.Tensor]:
            is_short = row.size < self.batch_size
            size = tf.where(is_short, self._own_short.size, self._own.size)
            return row.x[:size], row.y[:size]

        return rows.map(cut)

    def _block(self, first_step: tf.Tensor) -> Block:
        """Gathers the batches of `block_steps` steps from first_step on."""
        steps = first_step + tf.range(self.block_steps, dtype=tf.int64)
        starts = tf.cast(steps % self.steps_per_epoch * self.batch_size, tf.int32)
        size = tf.minimum(self._count - starts, self.batch_size)
        first = tf.where(size < self.batch_size, self._own_short.first, self._own.first)
        positions = (starts + first)[:, None] + tf.range(self._own.size)
        positions = tf.minimum(positions, self._count - 1)  # fills up a short batch
        epochs = steps // self.steps_per_epoch
        index = shuffle.shuffled(positions, count=self._count, seed=self._seed, epochs=epochs)
        return Block(tf.gather(self._x, index), tf.gather(self._y, index), size)
