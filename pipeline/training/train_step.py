"""One training step: forward pass, gradients, update. Used by the custom loop and its graph."""

from typing import Any, NamedTuple

import tensorflow as tf

from pipeline import errors
from pipeline.training import norms, optimizers, task


class StepResult(NamedTuple):
    """What a step tells of the state before its update."""

    loss: tf.Tensor  # scalar, of the batch
    gradient_norm: tf.Tensor  # scalar, the length of the gradient of that loss


def train(
    trained: task.Task, optimizer: optimizers.Optimizer, x: tf.Tensor, y: tf.Tensor
) -> StepResult:
    """Updates the model once, in place, on the batch x [B, D] and y [B], both float32."""
    variables = trained.model.trainable_variables
    with tf.name_scope("loss_and_gradients"):
        with tf.GradientTape() as tape:
            loss = trained.batch_loss(x, y)
        gradients = _dense(trained, tape.gradient(loss, variables))
    with tf.name_scope("update"):
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
    return StepResult(loss, norms.global_norm(gradients))


def evaluate(trained: task.Task, x: tf.Tensor, y: tf.Tensor) -> StepResult:
    """The same without the update: what the next step would tell."""
    with trained.unchanged():
        with tf.GradientTape() as tape:
            loss = trained.batch_loss(x, y)
        gradients = tape.gradient(loss, trained.model.trainable_variables)
    return StepResult(loss, norms.global_norm(_dense(trained, gradients)))


def trace(trained: task.Task, optimizer: optimizers.Optimizer, *, num_features: int) -> Any:
    """The FuncGraph of the training step: what it uses, and TensorBoard's Graphs dashboard."""

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def train_step(x: tf.Tensor, y: tf.Tensor) -> StepResult:
        return train(trained, optimizer, x, y)

    x = tf.TensorSpec([None, num_features], tf.float32, "x")
    y = tf.TensorSpec([None], tf.float32, "y")
    return train_step.get_concrete_function(x, y).graph


def _dense(trained: task.Task, gradients: list[Any]) -> list[tf.Tensor]:
    """The gradients as tensors; those of looked-up rows come as pairs of rows and index."""
    names = [n for n, g in zip(trained.trainable, gradients, strict=True) if g is None]
    errors.require(
        not names,
        f"the loss does not depend on {', '.join(names)}: use what the model has, or let it be "
        "no trainable variable",
    )
    return [tf.convert_to_tensor(gradient) for gradient in gradients]
