"""Losses: functions of a batch and the model's outputs that training minimises."""

import inspect
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline import errors, user_calls, user_code
from pipeline.data import batch as batch_lib

Array = npt.NDArray[Any]
# Maps labels and predictions, [B] or [B, ...], to the loss of each example, [B] or [B, ...].
ExampleLoss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
# Maps a batch and the model's outputs to the loss (scalar float32).
Loss = Callable[[batch_lib.Batch, Any], tf.Tensor]

# The names of parameters that are predictions and labels, in any order.
_PREDICTION = re.compile(r"\w*pred\w*|\w*logits?|outputs?|y_?hat", re.IGNORECASE)
_LABEL = re.compile(r"y|\w*(true|labels?|targets?)", re.IGNORECASE)
_MEANS = ("sum_over_batch_size", "mean", "none", None)  # reductions of Keras
_NO_WEIGHTS = ("b", "bias", "beta", "gamma")  # biases and normalization, which --l2 leaves out


def squared_error(y: tf.Tensor, prediction: tf.Tensor) -> tf.Tensor:
    """The loss [B] of each example, (y - prediction)², from labels and predictions [B]."""
    return tf.square(tf.cast(y, prediction.dtype) - prediction)


def by_name(name: str) -> Any:
    """Returns a loss by name: the guide's squared error, or a Keras loss (function or object).

    Raises:
      errors.InputError: Keras has no loss with that name.
    """
    if name == "mean_squared_error":
        return squared_error
    try:
        return tf.keras.losses.get(name)
    except ValueError as error:
        raise errors.InputError(
            f"--loss={name} must be a name that tf.keras.losses.get knows, such as "
            "mean_absolute_error or huber, or a function of your own, such as mine:loss"
        ) from error


def own(function: user_code.UserFunction) -> Any:
    """Returns the user's loss: a function of labels and predictions, or a Keras Loss.

    Raises:
      errors.InputError: it is neither, or its parameters are in the wrong order.
    """
    found = function.make()
    is_object = isinstance(found, tf.keras.losses.Loss)
    errors.require(
        is_object or callable(found),
        f"{function.flag} must be a function of labels and predictions, or a Keras Loss; received "
        f"{found!r} ({function})",
    )
    errors.require(
        not is_object or found.reduction in _MEANS,
        f"{function.flag}: the loss of a batch is the mean over its examples; received a "
        f"{type(found).__name__} with reduction={getattr(found, 'reduction', None)!r} ({function})",
    )
    with user_calls.user_errors("reading its parameters", function):
        parameters = inspect.signature(found.call if is_object else found).parameters
    first, second = [*parameters, "", ""][:2]
    errors.require(
        not (_PREDICTION.fullmatch(first) and _LABEL.fullmatch(second)),
        f"{function.flag}: the labels come first, as in Keras; received the parameters "
        f"({first}, {second}): swap them ({function})",
    )
    return found


def of_examples(found: Any) -> ExampleLoss:
    """Makes a loss of labels and outputs from a loss of Keras or of the user's own.

    Keras' losses take the mean over the last dimension, and calling a Loss object that over the
    batch, too; its `call` does not.
    """
    is_object = isinstance(found, tf.keras.losses.Loss)
    if not is_object and not found.__module__.startswith("keras."):
        own = with_autograph(found)
        return lambda y, outputs: own(y, matching(y, outputs))
    call = with_autograph(found.call) if is_object else found

    def loss(y: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        column = y[:, None] if y.shape.rank == 1 else y
        # Outputs [B, 1] are passed on as they are: Keras takes the logits of a sigmoid from them.
        outputs = matching(column, outputs)
        y = column if outputs.shape[1:] == [1] else y
        if is_object:
            y, outputs = tf.cast(y, found.dtype), tf.cast(outputs, found.dtype)
        return call(y, outputs)

    return loss


def with_autograph(function: Callable[..., Any]) -> Callable[..., Any]:
    """Converts a function with AutoGraph, so its `if` and `while` may depend on tensors.

    This package's own code is not converted: the conversion would dominate the start of a run. A
    nested tf.function would make XLA recompile the loop at every call.
    """
    if function.__module__.startswith("pipeline."):
        return function
    autograph = tf.__internal__.autograph
    converted = autograph.tf_convert(function, autograph.control_status_ctx())

    def call(*args: Any, **kwargs: Any) -> Any:
        run = function if tf.executing_eagerly() else converted
        return run(*args, **kwargs)

    return call


def mean_loss(found: Any, model: Any, *, l2: float = 0.0) -> Loss:
    """Makes a loss: the weighted mean of a loss of each example, plus penalties.

    Penalties are the losses that a Keras model adds in its last call, such as regularizers, and l2
    times the sum of the squared weights without biases. As in Keras, the sum of the weighted
    losses is divided by the number of examples, and masked steps of sequences don't count.
    """
    each = of_examples(found)

    def loss(batch: batch_lib.Batch, outputs: Any) -> tf.Tensor:
        result = each(batch.y, outputs)
        errors.require(
            isinstance(result, tf.Tensor) and result.shape.rank,
            "the loss must give one number for each of the examples; received "
            f"{_described(result)}: do not take the mean in it",
        )
        result = tf.cast(result, tf.float32)
        if (mask := getattr(outputs, "_keras_mask", None)) is not None:
            valid = tf.cast(mask, tf.float32)
            result = _times(result, valid * tf.math.divide_no_nan(1.0, tf.reduce_mean(valid)))
        if batch.weight is not None:
            result = _times(result, tf.cast(batch.weight, tf.float32))
        penalties = [*getattr(model, "losses", ()), *_l2_penalties(model, l2)]
        total = tf.reduce_mean(result)
        return tf.add_n([total, *(tf.cast(p, tf.float32) for p in penalties)])

    return loss


def _times(losses: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Multiplies losses [B, ...] by factors [B], [B, 1] or [B, ...]."""
    if factors.shape.rank > losses.shape.rank:
        factors = tf.squeeze(factors, axis=-1)
    while factors.shape.rank < losses.shape.rank:
        factors = factors[..., None]
    return losses * factors


def compiled_loss(model: Any) -> Loss:
    """Makes a loss from a compiled Keras model's compute_loss."""

    def loss(batch: batch_lib.Batch, outputs: Any) -> tf.Tensor:
        x, y, weight = batch
        result = model.compute_loss(x=x, y=y, y_pred=outputs, sample_weight=weight)
        return tf.cast(result, tf.float32)

    return loss


def matching(y: Any, outputs: Any) -> Any:
    """Converts outputs to the labels' form: float32, and [B] or [B, 1] as the labels are."""
    if not isinstance(outputs, tf.Tensor):
        return outputs
    shape = getattr(y, "shape", None)
    if shape is not None and outputs.shape.rank == 2 and outputs.shape[1] == 1 and shape.rank == 1:
        outputs = outputs[:, 0]
    elif shape is not None and outputs.shape.rank == 1 and shape.rank == 2 and shape[1] == 1:
        outputs = outputs[:, None]  # otherwise the difference would be [B, B]
    return tf.cast(outputs, tf.float32) if outputs.dtype.is_floating else outputs


def _l2_penalties(model: Any, l2: float) -> list[tf.Tensor]:
    if not l2:
        return []
    weights = [v for v in model.trainable_variables if _last_name(v) not in _NO_WEIGHTS]
    return [l2 * tf.reduce_sum(tf.square(tf.cast(weight, tf.float32))) for weight in weights]


def _last_name(variable: Any) -> str:
    name = getattr(variable, "path", variable.name)
    return str(name).partition(":")[0].rpartition("/")[2]


def _described(result: Any) -> str:
    shape = getattr(result, "shape", None)
    return type(result).__name__ if shape is None else f"an array of shape {tuple(shape)}"


_OF_PROBABILITIES = ("binary_crossentropy", "BinaryCrossentropy", "auc", "AUC")


def check_range(flag: str, found: Any, y: Array, prediction: Array) -> None:
    """Checks the value ranges of labels [N] and predictions that a loss or metric requires.

    Keras silently clips them or returns NaN.

    Args:
      flag: The flag with its value, for messages.
      found: A Keras loss or metric, or its name.
      y: The labels.
      prediction: The predictions.

    Raises:
      errors.InputError: a label or a prediction is out of range.
    """
    name = found if isinstance(found, str) else type(found).__name__
    takes_logits = any(getattr(found, each, False) for each in ("from_logits", "_from_logits"))
    is_of_classes = name in ("sparse_categorical_crossentropy", "SparseCategoricalCrossentropy")
    errors.require(
        y.dtype.kind in "biuf" or not (is_of_classes or name in _OF_PROBABILITIES),
        f"{flag} needs numbers as labels; received texts, such as {y.flat[0]!r}: number them "
        "0, 1, ..., as tf.keras.layers.StringLookup(num_oov_indices=0) does",
    )
    if name in _OF_PROBABILITIES:
        errors.require(
            y.min() >= 0 and y.max() <= 1,
            f"{flag} needs labels from 0 to 1; received {y.min():g} to {y.max():g}",
        )
        errors.require(
            takes_logits or (prediction.min() >= 0 and prediction.max() <= 1),
            f"{flag} needs predictions that are probabilities; received {prediction.min():g} to "
            f"{prediction.max():g}; end the model with a sigmoid, as --model=logistic does, or "
            "give an object of your own with from_logits=True",
        )
    if is_of_classes:
        classes = prediction.shape[-1] if prediction.ndim == 2 else 1
        errors.require(
            classes > 1 and y.min() >= 0 and y.max() < classes and (y == np.floor(y)).all(),
            f"{flag} needs labels 0, 1, ... below the number of the model's outputs; received "
            f"labels from {y.min():g} to {y.max():g} and {classes} outputs",
        )
