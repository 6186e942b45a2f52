"""The batches of every training step, gathered from examples in memory."""

from typing import NamedTuple

import tensorflow as tf

from pipeline import config as config_lib
from pipeline.data import batch as batch_lib
from pipeline.data import datasets as datasets_lib
from pipeline.data import shuffle, streams
from pipeline.distributed import workers

# One call trains on a block of batches. A block hides the overhead of a call, yet takes only
# milliseconds. Its size does not depend on the length of the run, so a longer run repeats the
# steps of a shorter one.
_BLOCK_STEPS = 2**16
_SHARED_BLOCK_STEPS = 2**9  # steps that wait for other workers: a fraction of a second
_EAGER_BLOCK_STEPS = 2**4
_FULL_BATCH_NUMBERS = 2**24  # elements that the steps of a block read, with one full batch
_MINI_BATCH_NUMBERS = 2**18  # elements that are gathered into a block of mini-batches

# tf.data would copy the examples to optimize the pipeline, and would warn when it is interrupted.
_OPTIONS = tf.data.Options()
_OPTIONS.autotune.enabled = False
_OPTIONS.experimental_optimization.apply_default_optimizations = False
_ALONE = workers.Worker()


class Block(NamedTuple):
    """The batches of consecutive steps.

    With one full batch, a block holds it once (R = 1) for all of its steps; with mini-batches,
    step i of the block takes batch i. The last batch of an epoch may be padded. Each worker has its
    own B examples of a batch.
    """

    batch: batch_lib.Batch  # of tensors [R, B, ...]
    size: tf.Tensor  # [R] int32, the examples of a batch over all workers, without the padding

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def at(self, step: tf.Tensor, *, is_xla: bool = False) -> tuple[batch_lib.Batch, tf.Tensor]:
        """Returns the batch of one step of the block, and its size."""

        def take(array: tf.Tensor) -> tf.Tensor:
            if self.size.shape[0] == 1:  # known to the compiler, which then need not copy it
                return array[0]
            # XLA would recompile the loop at every call for an index; a gather copies.
            return tf.gather(array, step) if is_xla else array[step]

        return self.batch.map(take), take(self.size)


class Batches:
    """Training batches whose content is a pure function of the seed and the step.

    No iterator has a state to save, so training can start at any step at no cost.

    Attributes:
      spec: The TensorSpecs of a batch, with None for B.
      batch_size: The size of every batch but the last of an epoch, over all workers.
      steps_per_epoch: Batches in an epoch.
      short_size: The size of an epoch's last batch, 0 if it is as large as the others.
      block_steps: Steps in a block.
      worker: The worker that takes its part of each batch.
    """

    position = None  # a checkpoint need not hold it, as it is the step

    def __init__(
        self,
        examples: batch_lib.Batch,
        config: config_lib.Config,
        *,
        worker: workers.Worker = _ALONE,
        count: int = 0,
    ):
        """Copies examples to TensorFlow; a --batch_size of 0, or more than all, means all.

        With several workers, `count` is the number of all training examples, and the examples are
        all of them or, for one full batch, this worker's part.
        """
        # tf.constant keeps a second copy until the next operation, so convert one array at a time.
        self._examples = examples.map(lambda array: tf.identity(tf.constant(array)))
        self._seed, self.worker = config.seed, worker
        self._count = count or examples.num_examples
        self.spec = self._examples.map(streams.any_size)
        self.batch_size = min(config.batch_size or self._count, self._count)
        self.steps_per_epoch = config.num_batches(self._count)
        self.short_size = self._count % self.batch_size
        self._own, self._own_short = (
            worker.share(size) for size in (self.batch_size, self.short_size)
        )
        has_texts = any(tensor.dtype == tf.string for tensor in self._examples.arrays)
        self._compiled_index = tf.function(self._index, jit_compile=True)
        self._compiled_block = tf.function(self._block, jit_compile=not has_texts)
        numbers = max(1, self._own.size) * self._examples.numbers
        limit = _FULL_BATCH_NUMBERS if self.steps_per_epoch == 1 else _MINI_BATCH_NUMBERS
        most = _BLOCK_STEPS if worker.count == 1 else _SHARED_BLOCK_STEPS
        most = _EAGER_BLOCK_STEPS if config.run_eagerly else most
        self.block_steps = max(1, min(limit // max(1, numbers), most))

    def blocks(self, first_step: int, last_step: int) -> "tf.data.Dataset[Block]":
        """Yields the batches of the updates first_step + 1 to last_step, in blocks.

        All blocks have the same shape, so the last one may extend beyond last_step.
        """
        starts = tf.data.Dataset.range(first_step, last_step, self.block_steps)
        if self.steps_per_epoch == 1:
            whole = self._examples.map(lambda tensor: tensor[None])
            block = Block(whole, tf.constant([self._count]))
            return tf.data.Dataset.from_tensors(block).repeat(len(starts)).with_options(_OPTIONS)
        return starts.map(self._compiled_block).prefetch(2).with_options(_OPTIONS)

    def batch(self, step: int) -> batch_lib.Batch:
        """This worker's part of the batch of update step + 1."""
        block = next(iter(self.blocks(step, step + 1)))
        size = self.own_size(int(block.size[0]))
        result: batch_lib.Batch = block.batch.map(lambda tensor: tensor[0, :size])
        return result

    @property
    def own_batch_size(self) -> int:
        """The number of this worker's examples in a batch."""
        return self._own.size

    def own_size(self, size: int) -> int:
        """The number of this worker's examples in a batch of that size."""
        return (self._own if size == self.batch_size else self._own_short).size

    def _block(self, first_step: tf.Tensor) -> Block:
        """Gathers the batches of `block_steps` steps, starting at first_step."""
        index, size = self._compiled_index(first_step)
        return Block(self._examples.map(lambda tensor: tf.gather(tensor, index)), size)

    def _index(self, first_step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The example indices [R, B] and the sizes [R] of the batches that start at a step."""
        steps = first_step + tf.range(self.block_steps, dtype=tf.int64)
        starts = tf.cast(steps % self.steps_per_epoch * self.batch_size, tf.int32)
        size = tf.minimum(self._count - starts, self.batch_size)
        first = tf.where(size < self.batch_size, self._own_short.first, self._own.first)
        positions = (starts + first)[:, None] + tf.range(self._own.size)
        positions = tf.minimum(positions, self._count - 1)  # pads a short batch
        epochs = steps // self.steps_per_epoch
        index = shuffle.shuffled(positions, count=self._count, seed=self._seed, epochs=epochs)
        return index, size


AnyBatches = Batches | streams.Batches


def of(datasets: datasets_lib.Datasets, config: config_lib.Config) -> AnyBatches:
    """The training batches of datasets, from memory or from a stream."""
    if datasets.stream:
        return streams.Batches(datasets.stream, run_eagerly=config.run_eagerly)
    worker, count = datasets.worker, datasets.num_train
    return Batches(datasets.train, config, worker=worker, count=count)


def sample(
    datasets: datasets_lib.Datasets, count: int, *, is_weighted: bool = True
) -> batch_lib.Batch:
    """The first training examples as tensors, `count` at most."""
    train = datasets.train if is_weighted else datasets.unweighted or datasets.train
    return tensors(train.rows(slice(count)))


def tensors(batch: batch_lib.Batch) -> batch_lib.Batch:
    """Converts numpy arrays to tensors; those of a stream are tensors already."""
    return batch.map(lambda array: array if tf.is_tensor(array) else tf.constant(array))
