"""Streams: batches that a user's tf.data.Dataset yields, which need not fit into memory."""

import atexit
import itertools
import re
import weakref
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from pipeline import console, errors, graphs, tf_runtime
from pipeline.data import batch as batch_lib

# The first batches are kept to evaluate the training loss on: so many, of so many numbers at most.
_MOST_KEPT, _MOST_NUMBERS = 100, 2**22
_BLOCK_STEPS = 2**10
# Stateful operations that give the same when a dataset's functions are run anew: inner datasets,
# Python functions (as far as anybody knows), files, tables, and variables that are only read.
_REPEATABLE = re.compile(
    r"\w*Dataset\w*|\w*SeedGenerator\w*|(Eager)?PyFunc\w*|VarHandleOp|Read\w+|Placeholder"
    r"|\w*(HashTable|LookupTable)\w*|Assert|Print\w*|If|While|Case|StatefulPartitionedCall"
    r"|TensorArray\w+|TensorList\w+"
)


class Stream:
    """The batches of one dataset.

    Attributes:
      dataset: The dataset.
      spec: The TensorSpecs of a batch, with None for B.
      first: The first batch.
      kept: The first batches, up to 100.
      is_saved: Whether a checkpoint can hold the position in the dataset.
    """

    def __init__(self, dataset: "tf.data.Dataset[Any]", name: str):
        """Checks a dataset, which the function `name` returned.

        Raises:
          errors.InputError: its elements are no batches, or a resumed run could not repeat it.
        """
        self.dataset, self._name = dataset, name
        spec = dataset.element_spec
        errors.require(
            not isinstance(spec, tuple) or len(spec) in (1, 2, 3),
            f"{name} must return a dataset of batches (x, y) or (x, y, weight); received "
            f"{len(spec)} parts",
        )
        self.spec = batch_lib.of_keras(spec).map(any_size)
        self._check_repeatable()
        self.kept = list(self._first_batches())
        errors.require(self.kept, f"{name} returned an empty dataset")
        self.first = self.kept[0]
        self.is_endless = int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY

    def __iter__(self) -> Iterator[batch_lib.Batch]:
        """Yields the batches of one pass."""
        return map(batch_lib.of_keras, self.dataset)

    def weighted(self, by_class: Mapping[int, float]) -> "Stream":
        """A stream with weights by class in training; the kept batches stay as they are."""

        def add(x: Any, y: Any, weight: Any = 1.0) -> tuple[Any, ...]:
            is_one_hot = y.shape.rank == 2 and y.shape[1] != 1
            classes = tf.argmax(y, axis=1) if is_one_hot else tf.reshape(y, [-1])
            factor = tf.ones_like(classes, tf.float32)
            for each, its in by_class.items():
                factor = tf.where(tf.cast(classes, tf.int64) == each, its, factor)
            return x, y, factor * tf.cast(weight, tf.float32)

        errors.require(
            isinstance(self.spec.y, tf.TensorSpec),
            f"--class_weight needs one label for each example; {self._name} returns several",
        )
        result = Stream(self.dataset.map(add), self._name)
        result.kept = self.kept
        return result

    def steps_per_epoch(self) -> int:
        """The number of batches in a pass; reads them all if the dataset does not know.

        Raises:
          errors.InputError: the dataset has no end.
        """
        count, live = int(self.dataset.cardinality()), console.LiveLine()
        errors.require(
            not self.is_endless,
            f"{self._name} returned a dataset without an end; set --steps_per_epoch",
        )
        if count == tf.data.UNKNOWN_CARDINALITY:
            for count, _ in enumerate(self.dataset, 1):
                if live.is_due():
                    live.show(
                        f"Counting the batches of {self._name} (--steps_per_epoch sets their "
                        f"number): {count:,}"
                    )
            live.close()
        return count

    def fingerprint(self) -> int:
        """A checksum of the first batch; of its spec, if each pass begins with other examples."""
        if _seeded(self.dataset):
            return zlib.crc32(str(self.spec).encode())
        parts = [getattr(each, "flat_values", each) for each in self.first.arrays]
        return zlib.crc32(b"".join(tf.io.serialize_tensor(each).numpy() for each in parts))

    def _check_repeatable(self) -> None:
        """Raises InputError if a resumed run could not repeat the batches."""
        parts = list(_parts(self.dataset))
        errors.require(
            self.dataset.options().deterministic is not False and not _is_unordered(parts),
            f"{self._name}: deterministic=False gives the batches another order each time, so a "
            "resumed run could not repeat them; leave it out",
        )
        self.is_saved = _is_serializable(self.dataset)
        used = [graph for part in parts for graph in _functions(part)]
        found = sorted(set().union(*(graphs.unrepeatable(graph, _REPEATABLE) for graph in used)))
        errors.require(
            self.is_saved or not found,
            f"{self._name}: the dataset uses {', '.join(found)}, whose random numbers a resumed "
            "run could not repeat; use tf.random.stateless_uniform and the like, with seeds from "
            "tf.data.Dataset.random(seed=1), or an augmentation layer in the model",
        )

    def _first_batches(self) -> Iterator[batch_lib.Batch]:
        numbers = 0
        for batch in itertools.islice(self, _MOST_KEPT):
            sizes = {tuple(each.shape[:1]) for each in batch.arrays}
            errors.require(
                len(sizes) == 1 and () not in sizes,
                f"{self._name} must return a dataset of batches, whose tensors have the same first "
                f"dimension; received {[list(each.shape) for each in batch.arrays]}: batch it, as "
                "in dataset.batch(32)",
            )
            yield batch
            numbers += batch.num_examples * batch.numbers
            if numbers > _MOST_NUMBERS:
                return


class Position(tf.train.experimental.PythonState):  # type: ignore[misc]
    """An iterator over a repeated dataset whose state is a part of checkpoints.

    TensorFlow does not restore the seeds of later passes if a prefetch has read a pass to its end.
    So an iterator over each shuffle, which is never advanced, saves them.
    """

    def __init__(self, dataset: "tf.data.Dataset[Any]"):
        """Starts at the beginning of the dataset."""
        self.iterator = iter(_repeated(dataset))
        self._seeds = [iter(part) for part in _seeded(dataset)]

    def serialize(self) -> bytes:
        """Saves all iterators, when no other thread begins a pass meanwhile."""
        while True:
            before, this, after = map(_serialized, (self._seeds, [self.iterator], self._seeds))
            if before == after:
                result: bytes = tf.io.serialize_tensor([*this, *after]).numpy()
                return result

    def deserialize(self, state: bytes) -> None:
        """Restores all iterators, the seeds at last: making an iterator takes some."""
        states = tf.io.parse_tensor(state, tf.string)
        for iterator, each in zip([self.iterator, *self._seeds], states, strict=True):
            tf.raw_ops.DeserializeIterator(
                resource_handle=iterator._iterator_resource,
                serialized=tf.io.parse_tensor(each, tf.variant),
            )


class Batches:
    """The training batches of a stream, for the loop.

    Attributes:
      position: The position in the dataset, for checkpoints; None if they can't hold it.
      block_steps: Steps in a call.
      own_batch_size: The number of examples in the first batch.
    """

    def __init__(self, stream: Stream, *, run_eagerly: bool):
        """Starts at the beginning of the stream."""
        self._dataset = stream.dataset
        self.position = Position(stream.dataset) if stream.is_saved else None
        self._iterator = self.position.iterator if self.position else None
        self._first, self.block_steps = stream.first, 1 if run_eagerly else _BLOCK_STEPS
        self.own_batch_size = stream.first.num_examples
        _all_batches.add(self)

    def batch(self, step: int) -> batch_lib.Batch:
        """The first batch of the stream, as an example for any step."""
        del step
        return self._first

    def blocks(self, first_step: int, last_step: int) -> Iterator[Any]:
        """Yields the iterator, once for every `block_steps` steps.

        If a checkpoint can't restore it, all batches before the first step are made again.
        """
        if self._iterator is None:
            self._iterator = iter(_repeated(self._dataset).skip(first_step))
        return itertools.repeat(self._iterator, -(-(last_step - first_step) // self.block_steps))


_all_batches: "weakref.WeakSet[Batches]" = weakref.WeakSet()


@atexit.register
def _close() -> None:
    """Ends the iterators, since a generator can't be closed after Python has ended."""
    for batches in _all_batches:
        batches._iterator = None


_SEEDED = ("_ShuffleDataset", "_ShuffleAndRepeatDataset", "_RandomDataset")
_FAIL = 2  # serialization refuses state outside of the dataset


def _seeded(dataset: Any) -> list[Any]:
    """The parts of a dataset that take new random seeds in each pass."""
    return [part for part in _parts(dataset) if type(part).__name__ in _SEEDED]


def _repeated(dataset: "tf.data.Dataset[Any]") -> "tf.data.Dataset[Any]":
    """All batches, again and again."""
    return dataset.repeat().prefetch(2)


def _serialized(iterators: list[Any]) -> list[bytes]:
    """The states of iterators; raises FailedPreconditionError if they depend on anything else."""
    resources = (iterator._iterator_resource for iterator in iterators)
    states = (
        tf.raw_ops.SerializeIterator(resource_handle=each, external_state_policy=_FAIL)
        for each in resources
    )
    return [tf.io.serialize_tensor(state).numpy() for state in states]


def _is_serializable(dataset: "tf.data.Dataset[Any]") -> bool:
    """Whether an iterator over a dataset can be saved, once it has begun."""
    iterator = iter(dataset)
    next(iterator, None)
    try:
        with tf_runtime.quiet_stderr():
            _serialized([iterator])
    except tf.errors.FailedPreconditionError:
        return False
    return True


def _parts(dataset: Any) -> Iterator[Any]:
    """Yields a dataset and the datasets that it is made from."""
    yield dataset
    for each in dataset._inputs():
        yield from _parts(each)


def _is_unordered(parts: list[Any]) -> bool:
    """Whether a part has deterministic=False; searches the graph unless it has large constants."""
    constants = [tensor for part in parts for tensor in getattr(part, "_tensors", ())]
    if sum(int(tf.size(tensor)) for tensor in constants) > _MOST_NUMBERS:
        return any(getattr(part, "_deterministic", "") == "false" for part in parts)
    ignore = tf.data.experimental.ExternalStatePolicy.IGNORE
    graph = parts[0]._as_serialized_graph(external_state_policy=ignore).numpy()
    nodes = graphs.nodes(tf.compat.v1.GraphDef.FromString(graph))
    return any(node.attr["deterministic"].s == b"false" for node in nodes)


def _functions(dataset: Any) -> Iterator[Any]:
    """The GraphDefs of a dataset's functions, such as that of map."""
    return (each.function.graph.as_graph_def() for each in dataset._functions())


def any_size(batch: Any) -> Any:
    """The TensorSpec of a batch of any size, for the spec of one batch or its tensor."""
    if isinstance(batch, tf.RaggedTensorSpec) or not batch.shape.rank:
        return batch
    return tf.TensorSpec([None, *batch.shape[1:]], batch.dtype)
