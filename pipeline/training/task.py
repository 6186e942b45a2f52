"""What is trained: a model, the loss of an example, and the values watched at every step."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline import errors, user_code
from pipeline.training import losses, norms

_MOST_WATCHED = 16  # trainable numbers that are watched one by one
_NO_WEIGHTS = ("b", "bias", "beta", "gamma")  # of biases and of normalization

Arrays = Mapping[str, npt.NDArray[Any]]


class GlobalBatch(NamedTuple):
    """A batch that several workers share, of which each has a part."""

    size: int  # examples of all workers
    num_workers: int


class Task:
    """A model and its loss, as the loops, the evaluation, checkpoints and exports see them.

    Attributes:
      model: A keras.Model or tf.Module that maps x [B, D] to y [B] or [B, 1], or to [B, C].
      loss: Maps y [B] and predictions ([B], or [B, C]) to the loss of each example [B].
      variables: All variables of the model by name.
      trainable: Those of them that are trained.
      names: Of the M values that are watched at every step: up to 16 trainable numbers, or else
        the norm of each trainable variable. A number that belongs to a feature is named after it,
        such as W/area.
      watches_all: Whether the watched values are all trainable numbers.
      is_linear_regression: Whether it is meant to be y = x·W + b with squared errors, for which
        there is a closed form.
    """

    def __init__(
        self,
        model: Any,
        loss: losses.Loss,
        *,
        features: tuple[str, ...],
        is_linear_regression: bool = False,
        l2: float = 0.0,
        label_scale: tuple[float, float] = (0.0, 1.0),
    ):
        """Puts a model whose variables exist and a loss together; `features` are D names.

        l2 times the sum of the squares of all weights, but not of biases, is added to the loss.
        The loss gets labels and predictions in the units of the data, of which label_scale is the
        mean and the standard deviation.
        """
        self.model, self.loss, self.l2 = model, loss, l2
        self._loss, self._label_scale = _with_autograph(loss), label_scale
        self.is_linear_regression = is_linear_regression
        self.variables = _by_name(model)
        trained = {id(inner_variable(variable)) for variable in model.trainable_variables}
        self.trainable = {n: v for n, v in self.variables.items() if id(v) in trained}
        self.watches_all = self.num_trainable <= _MOST_WATCHED
        self.names = tuple(self._names(features))
        is_keras = isinstance(model, tf.keras.Model)
        self._takes_training = is_keras or "training" in inspect.signature(model).parameters
        self._may_have_penalty = is_keras
        self._call = model if is_keras else _with_autograph(model)

    @property
    def num_trainable(self) -> int:
        """The number of trainable numbers, P."""
        return sum(variable.shape.num_elements() for variable in self.trainable.values())

    def predict(self, x: tf.Tensor, *, training: bool = False) -> tf.Tensor:
        """Predicts y [B] or [B, C] from x [B, D], by default as after training."""
        with user_code.kept_process():
            y = self._call(x, training=training) if self._takes_training else self._call(x)
        y = tf.convert_to_tensor(y)
        return tf.cast(y[:, 0] if y.shape.rank == 2 and y.shape[1] == 1 else y, tf.float32)

    def losses_of(self, y: tf.Tensor, prediction: tf.Tensor) -> tf.Tensor:
        """The loss [B] of each example, from y [B] and predictions [B] or [B, C]."""
        if self._label_scale != (0.0, 1.0):
            mean, stddev = self._label_scale
            y, prediction = y * stddev + mean, prediction * stddev + mean
        with user_code.kept_process():
            result = self._loss(y, prediction)
        errors.require(
            isinstance(result, tf.Tensor) and result.shape.rank == 1,
            "the loss must give one number for each of the examples; received "
            f"{_described(result)}: do not take the mean in it",
        )
        return tf.cast(result, tf.float32)

    def penalty(self) -> tf.Tensor:
        """What is added to the loss (scalar): by --l2, and the regularizers of a Keras model.

        Those added it in the last call of the model.
        """
        terms = list(self.model.losses) if self._may_have_penalty else []
        return tf.add_n([*terms, self.weight_penalty()])

    def weight_penalty(self) -> tf.Tensor:
        """What --l2 adds to the loss (scalar)."""
        if not self.l2:
            return tf.constant(0.0)
        weights = [v for n, v in self.trainable.items() if n.split(".")[-1] not in _NO_WEIGHTS]
        squares = [tf.reduce_sum(tf.square(tf.cast(v, tf.float32))) for v in weights]
        return self.l2 * tf.add_n([*squares, tf.constant(0.0)])

    def batch_loss(self, x: tf.Tensor, y: tf.Tensor, whole: GlobalBatch | None = None) -> tf.Tensor:
        """The loss (scalar) of a batch x [B, D] and y [B] that is trained on.

        Where they are a worker's part of a whole batch, its share of the loss of that: the sum over
        the workers is the loss.
        """
        each = self.losses_of(y, self.predict(x, training=True))
        if whole is None:
            return tf.reduce_mean(each) + self.penalty()
        return tf.reduce_sum(each) / whole.size + self.penalty() / whole.num_workers

    def values(self) -> tf.Tensor:
        """The watched values [M] float32 of the model as it is now."""
        if self.watches_all:
            return self.numbers()
        return tf.stack([norms.norm(variable) for variable in self.trainable.values()])

    def values_at(self, numbers: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """The watched values [M] of the model with these trainable numbers [P]."""
        if self.watches_all:
            return as_float32(numbers)
        parts = self.by_variable(numbers).values()
        return np.array([np.linalg.norm(part) for part in parts], np.float32)

    def numbers(self) -> tf.Tensor:
        """All trainable numbers [P] float32 of the model as it is now."""
        parts = [tf.cast(tf.reshape(v, [-1]), tf.float32) for v in self.trainable.values()]
        return tf.concat(parts, axis=0)

    def by_variable(self, numbers: npt.ArrayLike) -> dict[str, npt.NDArray[np.float32]]:
        """The trainable variables, by name, that have these numbers [P]."""
        sizes = [variable.shape.num_elements() for variable in self.trainable.values()]
        parts = np.split(as_float32(numbers), np.cumsum(sizes)[:-1])
        pairs = zip(self.trainable.items(), parts, strict=True)
        return {name: part.reshape(variable.shape) for (name, variable), part in pairs}

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Copies of all variables by name."""
        return {name: variable.numpy() for name, variable in self.variables.items()}

    def assign(self, arrays: Mapping[str, npt.ArrayLike]) -> None:
        """Sets variables by name, from arrays of their sizes."""
        for name, array in arrays.items():
            variable = self.variables[name]
            variable.assign(np.reshape(array, variable.shape))

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Gives all variables their present values again at the end."""
        arrays = self.arrays()
        try:
            yield
        finally:
            self.assign(arrays)

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


def _with_autograph(function: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    """A function whose `if` and `while` may depend on tensors when it is traced.

    The code of this package, which does without, is traced as it is: to convert it takes longer
    than all else at the start of a run.
    """
    if function.__module__.startswith("pipeline."):
        return function
    traced = tf.function(function)

    def call(*args: Any, **kwargs: Any) -> tf.Tensor:
        run = function if tf.executing_eagerly() else traced
        return run(*args, **kwargs)

    return call


def _by_name(model: Any) -> dict[str, tf.Variable]:
    """All variables of a model, by the shortest names that tell them apart.

    Of the path of a Keras variable, such as sequential/dense/kernel, that is the last part if no
    other has the same, else the path in the model with dots: dense.kernel. A variable of a
    tf.Module is named after its attribute, or else itself.
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
        result[name] = inner_variable(variable)
    return result


def as_float32(numbers: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """The nearest float32 that are finite."""
    largest = np.finfo(np.float32).max
    return np.clip(numbers, -largest, largest).astype(np.float32)


def inner_variable(variable: Any) -> tf.Variable:
    """The variable of TensorFlow inside a Keras variable."""
    return variable if isinstance(variable, tf.Variable) else variable.value


def _described(result: Any) -> str:
    shape = getattr(result, "shape", None)
    return type(result).__name__ if shape is None else f"an array of shape {tuple(shape)}"
