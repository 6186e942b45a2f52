"""One training step: forward pass, gradients, update. Used by the custom loop and its graph."""

from typing import Any

import tensorflow as tf

from pipeline.training import optimizers, task


def train(
    trained: task.Task,
    optimizer: optimizers.Optimizer,
    x: tf.Tensor,
    y: tf.Tensor,
    count: tf.Tensor | None = None,
) -> tf.Tensor:
    """Updates the model once, in place, and returns the scalar loss of the batch before that.

    The batch is x [B, D] and y [B], both float32; the first `count` examples of it count (scalar
    int32, None for all).
    """
    variables = trained.model.trainable_variables
    with tf.name_scope("loss_and_gradients"):
        with tf.GradientTape() as tape:
            loss = trained.batch_loss(x, y, count)
        gradients = tape.gradient(loss, variables)
    with tf.name_scope("update"):
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
    return loss


def graph(trained: task.Task, optimizer: optimizers.Optimizer, *, num_features: int) -> Any:
    """The GraphDef of the training step, for TensorBoard's Graphs dashboard."""

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def train_step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        return train(trained, optimizer, x, y)

    x = tf.TensorSpec([None, num_features], tf.float32, "x")
    y = tf.TensorSpec([None], tf.float32, "y")
    return train_step.get_concrete_function(x, y).graph.as_graph_def()
