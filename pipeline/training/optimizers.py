"""Optimizers: the hand-written update of the guide, and those of Keras."""

from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from pipeline import config as config_lib
from pipeline import errors


class GradientDescent(tf.Module):  # type: ignore[misc]
    """The guide's hand-written update, with the interface of a Keras optimizer."""

    def __init__(self, learning_rate: float):
        super().__init__()
        self.learning_rate = learning_rate

    def apply_gradients(self, pairs: Iterable[tuple[tf.Tensor, tf.Variable]]) -> None:
        """Subtracts from each variable its gradient, times the learning rate."""
        for gradient, variable in pairs:
            variable.assign_sub(self.learning_rate * gradient)


Optimizer = Any  # GradientDescent or a keras.optimizers.Optimizer, which has no stubs


def create(config: config_lib.Config, variables: list[tf.Variable]) -> Optimizer:
    """Makes the optimizer of some variables; in the custom loop 'sgd' is the guide's update.

    Its own variables exist, so that a compiled function can use it.

    Raises:
      errors.InputError: this version of Keras has no optimizer of that name.
    """
    if config.optimizer == "sgd" and config.loop == "custom":
        return GradientDescent(config.learning_rate)
    classes = {name.lower(): value for name, value in vars(tf.keras.optimizers).items()}
    errors.require(
        config.optimizer in classes,
        f"--optimizer={config.optimizer} needs a newer Keras than {tf.keras.version()}",
    )
    optimizer = classes[config.optimizer](config.learning_rate)
    optimizer.build(variables)
    return optimizer
