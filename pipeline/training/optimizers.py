"""Optimizers: the hand-written update of the guide, and those of Keras."""

from collections.abc import Iterable
from typing import Any

import tensorflow as tf

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


def create(
    name: str, learning_rate: float, variables: list[tf.Variable], *, hand_written: bool
) -> Optimizer:
    """Makes an optimizer whose own variables exist, so that a compiled function can use it.

    `name` is one that tf.keras.optimizers.get knows, `variables` are those that it will update;
    with hand_written, 'sgd' is the guide's update instead of the one of Keras.

    Raises:
      errors.InputError: Keras knows no optimizer of that name.
    """
    if name == "sgd" and hand_written:
        return GradientDescent(learning_rate)
    try:
        config = {"class_name": name, "config": {"learning_rate": learning_rate}}
        optimizer = tf.keras.optimizers.get(config)
        if type(optimizer) is tf.keras.optimizers.Optimizer:
            raise TypeError("it is the base of the others")
    except (KeyError, TypeError, ValueError) as error:
        raise errors.InputError(
            "--optimizer must be a name that tf.keras.optimizers.get knows, such as sgd, "
            f"adam or rmsprop; received {name!r}"
        ) from error
    optimizer.build(variables)
    return optimizer
