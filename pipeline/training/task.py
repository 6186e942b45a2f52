"""What is trained: a model, the loss of an example, and the values watched at every step."""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline import config as config_lib
from pipeline import errors
from pipeline.training import losses, models

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


class Task:
    """A model and its loss, as the loops, the evaluation, checkpoints and exports see them.

    Attributes:
      model: Maps x [B, D] to y [B] or [B, 1].
      loss: Maps y [B] and predictions [B] to the loss of each example [B].
      variables: All variables of the model by name.
      names: Of the M values that are watched, each element of the trainable variables. One that
        belongs to a feature is named after it, such as W/area.
      is_linear_regression: Whether it is meant to be y = x·W + b with squared errors, for which
        there is a closed form.
    """

    def __init__(
        self,
        model: models.Model,
        loss: Loss,
        *,
        features: tuple[str, ...],
        is_linear_regression: bool,
    ):
        """Puts a model whose variables exist and a loss together; `features` are D names."""
        self.model, self.loss = model, loss
        self.is_linear_regression = is_linear_regression
        self.variables = _by_name(model.variables)
        self._trainable = _by_name(model.trainable_variables)
        names = (_element_names(n, v.shape, features) for n, v in self._trainable.items())
        self.names = tuple(itertools.chain.from_iterable(names))

    def predict(self, x: tf.Tensor) -> tf.Tensor:
        """Predicts y [B] from x [B, D]."""
        return _as_vector(self.model(x))

    def losses(self, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """The loss [B] of each example, from x [B, D] and y [B]."""
        return self.losses_of(y, self.model(x))

    def losses_of(self, y: tf.Tensor, prediction: tf.Tensor) -> tf.Tensor:
        """The loss [B] of each example, from labels and predictions, [B] or [B, 1]."""
        result = self.loss(_as_vector(y), _as_vector(prediction))
        errors.require(
            result.shape.rank == 1,
            "the loss must give one number for each of the examples; received an array of shape "
            f"{result.shape}: do not take the mean in it",
        )
        return result

    def batch_loss(self, x: tf.Tensor, y: tf.Tensor, count: tf.Tensor | None = None) -> tf.Tensor:
        """The mean loss of the first `count` of the examples x [B, D] and y [B]; None for all."""
        return losses.mean_over_batch(self.losses(x, y), count)

    def values(self) -> tf.Tensor:
        """The watched values [M] float32 of the model as it is now."""
        return tf.concat([tf.reshape(v, [-1]) for v in self._trainable.values()], axis=0)

    def by_variable(self, values: npt.ArrayLike) -> dict[str, npt.NDArray[np.float32]]:
        """The trainable variables, by name, that have these watched values [M]."""
        sizes = [variable.shape.num_elements() for variable in self._trainable.values()]
        parts = np.split(np.asarray(values, np.float32), np.cumsum(sizes)[:-1])
        pairs = zip(self._trainable.items(), parts, strict=True)
        return {name: part.reshape(variable.shape) for (name, variable), part in pairs}

    @contextlib.contextmanager
    def at(self, values: npt.ArrayLike) -> Iterator[None]:
        """Gives the model other watched values [M] for a while."""
        own = self.values().numpy()
        self.assign(self.by_variable(values))
        try:
            yield
        finally:
            self.assign(self.by_variable(own))

    def assign(self, arrays: Mapping[str, npt.ArrayLike]) -> None:
        """Sets variables by name, from arrays of their sizes."""
        for name, array in arrays.items():
            variable = self.variables[name]
            variable.assign(np.reshape(array, variable.shape))


def linear(config: config_lib.Config, features: tuple[str, ...]) -> Task:
    """The task of the guide: y = x·W + b with squared errors, from --initial_w and --initial_b."""
    model_class = models.MODELS[config.model]
    model = model_class(len(features), initial_w=config.initial_w, initial_b=config.initial_b)
    return Task(model, losses.squared_error, features=features, is_linear_regression=True)


def _as_vector(y: tf.Tensor) -> tf.Tensor:
    return y[:, 0] if y.shape.rank == 2 and y.shape[1] == 1 else y


def _by_name(variables: Iterable[tf.Variable]) -> dict[str, tf.Variable]:
    """Variables by name; a name that is there already gets a number."""
    result: dict[str, tf.Variable] = {}
    for variable in variables:
        name = first = variable.name.partition(":")[0]
        while name in result:
            name = f"{first}_{len(result)}"
        # Inside a Keras variable there is one of TensorFlow.
        result[name] = variable if isinstance(variable, tf.Variable) else variable.value
    return result


def _element_names(name: str, shape: tf.TensorShape, features: tuple[str, ...]) -> list[str]:
    """The names of a variable's elements."""
    count = shape.num_elements()
    if count == 1:
        return [name]
    belongs_to_features = shape in ([len(features)], [len(features), 1])
    elements = features if belongs_to_features else tuple(map(str, range(count)))
    return [f"{name}/{element}" for element in elements]
