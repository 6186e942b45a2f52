"""A batch of examples: inputs, labels and weights. Does not import TensorFlow."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import optree

_FAST = 2**20  # numbers in a piece that is evaluated in one call


class Batch(NamedTuple):
    """Inputs, labels and perhaps weights of some examples.

    Each part is an array, or a nest (dict, tuple) of arrays, of any dtype and with the shape
    [B, ...]: numpy arrays in memory, tensors in a training step, TensorSpecs (without B) as a spec.
    """

    x: Any
    y: Any  # None for examples without labels
    weight: Any = None  # None if all examples count the same

    def map(self, function: Callable[[Any], Any]) -> "Batch":
        """Applies a function to each array."""
        result: Batch = optree.tree_map(function, self)  # type: ignore[arg-type, assignment]
        return result

    @property
    def arrays(self) -> list[Any]:
        """All arrays."""
        return optree.tree_leaves(self)  # type: ignore[arg-type]

    @property
    def num_examples(self) -> int:
        """The number of examples, B."""
        return int(self.arrays[0].shape[0])

    @property
    def numbers(self) -> int:
        """The number of elements of one example."""
        shapes = ([size or 1 for size in array.shape[1:]] for array in self.arrays)
        return sum(map(math.prod, shapes))

    @property
    def as_keras(self) -> Any:
        """What Keras' fit passes to train_step: x alone, (x, y) or (x, y, weight)."""
        if self.weight is not None:
            return tuple(self)
        return self.x if self.y is None else (self.x, self.y)

    @property
    def is_table(self) -> bool:
        """Whether x is one array [B, D] and y one array [B], as from the columns of a table."""
        shapes = [getattr(part, "shape", None) for part in (self.x, self.y)]
        return None not in shapes and [len(shape) for shape in shapes if shape] == [2, 1]

    def rows(self, index: Any) -> "Batch":
        """The examples that a numpy index (slice, mask, positions) selects."""
        return self.map(lambda array: array[index])

    def piece_size(self, size: int = 0) -> int:
        """The number of examples in a piece; the default is chosen for speed."""
        return size or max(1, _FAST // max(1, self.numbers))

    def pieces(self, size: int = 0) -> Iterator["Batch"]:
        """Yields all examples in order, `size` at a time; the default is chosen for speed."""
        size = self.piece_size(size)
        for first in range(0, self.num_examples, size):
            yield self.rows(slice(first, first + size))


def of_keras(data: Any) -> Batch:
    """The inverse of Batch.as_keras: makes a Batch of x alone, (x,), (x, y) or (x, y, weight)."""
    x, *others = data if isinstance(data, tuple) else (data,)
    return Batch(x, *others) if others else Batch(x, None)
