"""The variables of a model: names, copies, and the values watched at every step."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline.training import norms

_MOST_WATCHED = 16  # trainable numbers that are watched one by one

Arrays = Mapping[str, npt.NDArray[Any]]


class Variables:
    """The variables of a model whose variables exist.

    Attributes:
      by_name: All variables by name.
      trainable: The trainable variables by name.
      watched: The names of the M values watched at every step: up to 16 trainable numbers, or else
        the norm of each trainable variable. A feature's number is named after the feature, such
        as W/area.
      watches_all: Whether the watched values are all trainable numbers.
    """

    def __init__(self, model: Any, features: tuple[str, ...] = ()):
        """Finds the variables of a model; `features` are the names of the columns of x [B, D]."""
        self.by_name = _by_name(model)
        trained = {id(inner(variable)) for variable in model.trainable_variables}
        self.trainable = {n: v for n, v in self.by_name.items() if id(v) in trained}
        self.watches_all = self.num_trainable <= _MOST_WATCHED
        self.watched = tuple(self._names(features))

    @property
    def num_trainable(self) -> int:
        """The number of trainable numbers, P."""
        return sum(variable.shape.num_elements() for variable in self.trainable.values())

    def with_optimizer(self, optimizer: Any) -> list[tf.Variable]:
        """All variables that a training step may change: the model's, then the optimizer's."""
        return list(map(inner, [*self.by_name.values(), *optimizer.variables]))

    def values(self) -> tf.Tensor:
        """The current watched values [M] float32."""
        if self.watches_all:
            return self.numbers()
        return tf.stack([norms.norm(variable) for variable in self.trainable.values()])

    def numbers(self) -> tf.Tensor:
        """The current trainable numbers [P] float32."""
        parts = [tf.cast(tf.reshape(v, [-1]), tf.float32) for v in self.trainable.values()]
        return tf.concat(parts, axis=0)

    def values_at(self, numbers: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """The watched values [M] for the trainable numbers [P]."""
        if self.watches_all:
            return as_float32(numbers)
        parts = self.split(numbers).values()
        return np.array([np.linalg.norm(part) for part in parts], np.float32)

    def values_now(self) -> npt.NDArray[np.float32]:
        """The current watched values [M], computed without TensorFlow operations."""
        arrays = [np.ravel(variable.numpy()) for variable in self.trainable.values()]
        return self.values_at(np.concatenate(arrays, dtype=np.float32))

    def split(self, numbers: npt.ArrayLike) -> dict[str, npt.NDArray[np.float32]]:
        """Splits numbers [P] into the arrays of the trainable variables, by name."""
        sizes = [variable.shape.num_elements() for variable in self.trainable.values()]
        parts = np.split(as_float32(numbers), np.cumsum(sizes)[:-1])
        pairs = zip(self.trainable.items(), parts, strict=True)
        return {name: part.reshape(variable.shape) for (name, variable), part in pairs}

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Copies of all variables by name."""
        return {name: variable.numpy() for name, variable in self.by_name.items()}

    def assign(self, arrays: Mapping[str, npt.ArrayLike]) -> None:
        """Sets variables by name from arrays of the same sizes."""
        for name, array in arrays.items():
            variable = self.by_name[name]
            variable.assign(np.reshape(array, variable.shape))

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Restores the current values of all variables at the end."""
        with unchanged(self.by_name.values()):
            yield

    def _names(self, features: tuple[str, ...]) -> Iterator[str]:
        sizes = {name: v.shape.num_elements() for name, v in self.trainable.items()}
        # A hidden layer may have as many units as there are features.
        is_one_vector = self.num_trainable - max(sizes.values(), default=0) == len(sizes) - 1
        for name, size in sizes.items():
            if not self.watches_all:
                yield f"norm/{name}"
            elif size == 1:
                yield name
            else:
                by_feature = is_one_vector and size == len(features)
                elements = features if by_feature else tuple(map(str, range(size)))
                yield from (f"{name}/{element}" for element in elements)


@contextlib.contextmanager
def unchanged(variables: Any) -> Iterator[None]:
    """Restores the current values of some variables at the end."""
    saved = [(variable, variable.numpy()) for variable in map(inner, variables)]
    try:
        yield
    finally:
        for variable, array in saved:
            variable.assign(array)


def inner(variable: Any) -> tf.Variable:
    """The TensorFlow variable inside a Keras variable."""
    return variable if isinstance(variable, tf.Variable) else variable.value


def as_float32(numbers: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Converts numbers to the nearest finite float32."""
    largest = np.finfo(np.float32).max
    return np.clip(numbers, -largest, largest).astype(np.float32)


def _by_name(model: Any) -> dict[str, tf.Variable]:
    """All variables of a model, by the shortest unique names.

    A Keras variable is named after the last part of its path, such as kernel in
    sequential/dense/kernel, or after the path in the model with dots, dense.kernel, if others have
    the same last part. A variable of a tf.Module is named after its attribute, or else itself.
    """
    attributes = {id(value): name for name, value in vars(model).items()}
    paths = []
    for variable in model.variables:
        of_module = attributes.get(id(variable)) or variable.name.partition(":")[0]
        path = of_module if isinstance(variable, tf.Variable) else variable.path
        paths.append(path.removeprefix(f"{getattr(model, 'name', '')}/"))
    last = [path.rpartition("/")[2] for path in paths]
    result: dict[str, tf.Variable] = {}
    for variable, path, short in zip(model.variables, paths, last, strict=True):
        name = first = short if last.count(short) == 1 else path.replace("/", ".")
        while name in result:
            name = f"{first}_{len(result)}"
        result[name] = inner(variable)
    return result
