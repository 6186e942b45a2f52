"""The loss that training minimises: of each example, and its mean over a batch."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline import errors

Array = npt.NDArray[np.float32]
Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def squared_error(y: tf.Tensor, prediction: tf.Tensor) -> tf.Tensor:
    """The loss [B] of each example, (y - prediction)², from labels and predictions [B]."""
    return tf.square(y - prediction)


def by_name(name: str) -> Loss:
    """The loss of that name: that of the guide, or one of Keras.

    Raises:
      errors.InputError: Keras has none.
    """
    if name == "mean_squared_error":
        return squared_error
    try:
        found = tf.keras.losses.get(name)
    except ValueError as error:
        raise errors.InputError(
            f"--loss={name} must be a name that tf.keras.losses.get knows, such as "
            "mean_absolute_error or huber, or a function of your own, such as mine:loss"
        ) from error
    # The call of a Loss object takes the mean over the batch; its `call` does not.
    of_keras = found.call if isinstance(found, tf.keras.losses.Loss) else found

    def loss(y: tf.Tensor, prediction: tf.Tensor) -> tf.Tensor:
        # Keras takes the mean over the last dimension.
        if prediction.shape.rank == 1:
            return of_keras(y[:, None], prediction[:, None])
        return of_keras(y, prediction)

    return loss


_OF_PROBABILITIES = ("binary_crossentropy", "BinaryCrossentropy", "auc", "AUC")


def check_range(flag: str, name: str, y: Array, prediction: Array) -> None:
    """Raises InputError for labels [N], or predictions ([N] or [N, C]), that it is not defined for.

    Keras clips them or gives NaN, without a word. `name` is that of a loss or a metric of Keras.
    """
    if name in _OF_PROBABILITIES:
        errors.require(
            y.min() >= 0 and y.max() <= 1,
            f"--{flag}={name} needs labels from 0 to 1; received {y.min():g} to {y.max():g}",
        )
        errors.require(
            prediction.min() >= 0 and prediction.max() <= 1,
            f"--{flag}={name} needs predictions that are probabilities; received "
            f"{prediction.min():g} to {prediction.max():g}; end the model with a sigmoid, as "
            "--model=logistic does",
        )
    if name in ("sparse_categorical_crossentropy", "SparseCategoricalCrossentropy"):
        classes = prediction.shape[-1] if prediction.ndim == 2 else 1
        errors.require(
            classes > 1 and y.min() >= 0 and y.max() < classes and (y == np.floor(y)).all(),
            f"--{flag}={name} needs labels 0, 1, ... below the number of the model's outputs; "
            f"received labels from {y.min():g} to {y.max():g} and {classes} outputs",
        )
