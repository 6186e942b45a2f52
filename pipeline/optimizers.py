"""How gradients change the parameters."""

from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from pipeline import errors


class GradientDescent(tf.Module):  # type: ignore[misc]
    """The guide's hand-written update, behind the method that Keras optimizers have."""

    def __init__(self, learning_rate: float):
        super().__init__()
        self.learning_rate = learning_rate

    def apply_gradients(self, pairs: Iterable[tuple[tf.Tensor, tf.Variable]]) -> None:
        """Moves each variable of the (gradient, variable) pairs down its gradient."""
        for gradient, variable in pairs:
            variable.assign_sub(self.learning_rate * gradient)


Optimizer = Any  # GradientDescent or a keras.optimizers.Optimizer, which has no stubs


def create(
    name: str, learning_rate: float, variables: list[tf.Variable], *, hand_written: bool
) -> Optimizer:
    """Makes an optimizer that is ready to be used in a compiled function.

    Args:
      name: 'sgd', or another name that tf.keras.optimizers.get knows.
      learning_rate: Its step size.
      variables: What it will change.
      hand_written: Whether 'sgd' is the guide's update instead of the one of Keras.

    Raises:
      errors.InputError: Keras knows no optimizer of that name.
    """
    if name == "sgd" and hand_written:
        return GradientDescent(learning_rate)
    try:
        optimizer = tf.keras.optimizers.get(
            {"class_name": name, "config": {"learning_rate": learning_rate}}
        )
        if type(optimizer) is tf.keras.optimizers.Optimizer:
            raise TypeError("it is the base of the others")
    except (KeyError, TypeError, ValueError) as error:
        raise errors.InputError(
            "--optimizer must be a name that tf.keras.optimizers.get knows, such as sgd, "
            f"adam or rmsprop; received {name!r}"
        ) from error
    optimizer.build(variables)
    return optimizer
