"""One training step as both loops take it: forward, gradients, update."""

from typing import Any

import tensorflow as tf

from pipeline import losses, optimizers
from pipeline import model as model_lib


def loss_and_gradients(
    model: model_lib.Model, x: tf.Tensor, y: tf.Tensor, count: tf.Tensor | None = None
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """The loss of a batch and its gradients.

    Args:
      model: The model.
      x: [B] or [B, D] float32.
      y: [B] float32.
      count: Scalar int32, how many of the B examples count, or None for all.

    Returns:
      The scalar loss, and its gradient for each trainable variable.
    """
    with tf.GradientTape() as tape:
        loss = losses.mean_squared_error(y, model(x), count)
    return loss, tape.gradient(loss, model.trainable_variables)


def graph(model: model_lib.Model, optimizer: optimizers.Optimizer, x: tf.Tensor) -> Any:
    """The GraphDef of one training step on batches like x, to be looked at."""

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def train_step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        with tf.name_scope("loss_and_gradients"):
            loss, gradients = loss_and_gradients(model, x, y)
        with tf.name_scope("update"):
            pairs = zip(gradients, model.trainable_variables, strict=True)
            optimizer.apply_gradients(pairs)
        return loss

    example = (
        tf.TensorSpec([None, *x.shape[1:]], tf.float32, "x"),
        tf.TensorSpec([None], tf.float32, "y"),
    )
    return train_step.get_concrete_function(*example).graph.as_graph_def()
