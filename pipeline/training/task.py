"""A task: a model and its loss, for the loops, the evaluation and the exports."""

import inspect
from typing import Any

import tensorflow as tf

from pipeline import user_calls
from pipeline.data import batch as batch_lib
from pipeline.training import losses
from pipeline.training import variables as variables_lib


class Task:
    """A model and its loss.

    Attributes:
      model: A keras.Model or tf.Module that maps x to outputs [B, ...] or nests of them.
      variables: The variables of the model.
      is_compiled: Whether the model is a Keras model that brings its loss, optimizer and metrics.
      spec: The TensorSpecs of a batch, with None for B.
      has_own_step: Whether the model overrides Keras' train_step.
      numbers: The names of what its own train_step returns besides 'loss'.
    """

    def __init__(
        self,
        model: Any,
        loss: losses.Loss,
        *,
        spec: batch_lib.Batch,
        features: tuple[str, ...] = (),
        is_compiled: bool = False,
        numbers: tuple[str, ...] = (),
    ):
        """Combines a model whose variables exist with a loss.

        `features` are the names of the columns of x, if it is [B, D].
        """
        self.model, self._loss, self.spec = model, loss, spec
        self.is_compiled, self.numbers = is_compiled, numbers
        self.has_own_step = overrides(model, "train_step")
        self.variables = variables_lib.Variables(model, features)
        self._call = model if _is_keras(model) else losses.with_autograph(model)
        self._takes_training = takes_training(model)

    def outputs(self, x: Any, *, training: bool = False) -> Any:
        """The model's outputs for x, by default in inference mode."""
        with user_calls.kept_process():
            return self._call(x, training=training) if self._takes_training else self._call(x)

    def predict(self, x: Any) -> Any:
        """The predictions for x: float32, and [B] if the labels are [B] and it has one output."""
        return self.matching(self.outputs(x))

    def matching(self, outputs: Any) -> Any:
        """Converts outputs to the labels' form: float32, and [B] if the labels are [B]."""
        return losses.matching(self.spec.y, outputs)

    def loss_of(self, batch: batch_lib.Batch, outputs: Any) -> tf.Tensor:
        """The loss (scalar float32) of a batch, from the model's outputs."""
        with user_calls.kept_process():
            return self._loss(batch, outputs)

    def loss(self, batch: batch_lib.Batch, *, training: bool = False) -> tf.Tensor:
        """The loss (scalar float32) of a batch."""
        return self.loss_of(batch, self.outputs(batch.x, training=training))


def overrides(model: Any, name: str) -> bool:
    """Whether a Keras model overrides a method of keras.Model."""
    return _is_keras(model) and getattr(type(model), name) is not getattr(tf.keras.Model, name)


def takes_training(model: Any) -> bool:
    """Whether a model is called with training=; a tf.Module need not take it."""
    return _is_keras(model) or "training" in inspect.signature(model.__call__).parameters


def _is_keras(model: Any) -> bool:
    return isinstance(model, tf.keras.Model)
