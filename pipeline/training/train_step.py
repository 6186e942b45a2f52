"""One training step: forward pass, gradients, update. Used by the custom loop and its graph."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from pipeline import errors
from pipeline.training import norms, optimizers
from pipeline.training import task as task_lib


class StepResult(NamedTuple):
    """What a step tells of the state before its update."""

    loss: tf.Tensor  # scalar, of the batch
    gradient_norm: tf.Tensor  # scalar, the length of the gradient of that loss


def train(
    task: task_lib.Task, optimizer: optimizers.Optimizer, x: tf.Tensor, y: tf.Tensor
) -> StepResult:
    """Updates the model once, in place, on the batch x [B, D] and y [B], both float32."""
    variables = task.model.trainable_variables
    with tf.name_scope("loss_and_gradients"):
        with tf.GradientTape() as tape:
            loss = task.batch_loss(x, y)
        gradients = _dense(task, tape.gradient(loss, variables))
    with tf.name_scope("update"):
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
    with tf.name_scope("gradient_norm"):
        return StepResult(loss, norms.global_norm(gradients))


def _dense(task: task_lib.Task, gradients: list[Any]) -> list[tf.Tensor]:
    """The gradients as tensors; those of looked-up rows come as pairs of rows and index.

    Raises:
      errors.InputError: the loss does not depend on a trainable variable.
    """
    names = [n for n, g in zip(task.trainable, gradients, strict=True) if g is None]
    errors.require(
        not names,
        f"the loss does not depend on {', '.join(names)}: use it where the model is called, or "
        "make it non-trainable (trainable=False)",
    )
    return [tf.convert_to_tensor(gradient) for gradient in gradients]


def shared_loss_and_gradients(
    task: task_lib.Task, x: tf.Tensor, y: tf.Tensor, whole: task_lib.GlobalBatch | None
) -> tf.Tensor:
    """A worker's share of the loss and the gradients of a whole batch, of which it has x and y.

    Returns [1 + P]: the loss, then all gradients as one vector. The sum over the workers is that
    of the whole batch. Without one, x and y are the whole.
    """
    with tf.GradientTape() as tape:
        loss = task.batch_loss(x, y, whole)
    gradients = _dense(task, tape.gradient(loss, task.model.trainable_variables))
    return tf.concat([tf.reshape(each, [-1]) for each in (loss, *gradients)], axis=0)


def update(task: task_lib.Task, optimizer: optimizers.Optimizer, total: tf.Tensor) -> StepResult:
    """Updates the model once, in place, by the sum [1 + P] of the workers' shares."""
    loss, gradients = _loss_and_gradients(task, total)
    optimizer.apply_gradients(zip(gradients, task.model.trainable_variables, strict=True))
    return StepResult(loss, norms.global_norm(gradients))


def before_update(
    task: task_lib.Task,
    x: tf.Tensor,
    y: tf.Tensor,
    whole: task_lib.GlobalBatch | None = None,
    sum_of_workers: Callable[[tf.Tensor], tf.Tensor] = tf.identity,
) -> StepResult:
    """What `train` would return for the batch x [B, D] and y [B], without the update.

    Where they are a worker's part of a whole batch, sum_of_workers adds up all workers' shares.
    """
    with task.unchanged():
        share = shared_loss_and_gradients(task, x, y, whole)
        loss, gradients = _loss_and_gradients(task, sum_of_workers(share))
    return StepResult(loss, norms.global_norm(gradients))


def _loss_and_gradients(task: task_lib.Task, total: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Splits [1 + P] into the loss and a gradient for each trainable variable."""
    variables = task.model.trainable_variables
    loss, *flat = tf.split(total, [1, *(v.shape.num_elements() for v in variables)])
    return loss[0], [tf.reshape(g, v.shape) for g, v in zip(flat, variables, strict=True)]


def trace(task: task_lib.Task, optimizer: optimizers.Optimizer, *, num_features: int) -> Any:
    """The FuncGraph of the training step: what it uses, and TensorBoard's Graphs dashboard.

    There the variables have their own names: those of the model as in its curves, with a box for
    each layer, those of a Keras optimizer in a box of their own.
    """
    named = [(name.replace(".", "/"), variable) for name, variable in task.variables.items()]
    for v in optimizer.variables:
        named.append((getattr(v, "path", "step"), task_lib.inner_variable(v)))

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def train_step(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, ...]:
        for name, variable in named:  # whose first uses would name them otherwise
            tf.compat.v1.get_default_graph().capture(variable.handle, name=_node_name(name))
        with tf.name_scope("values"):
            values = task.values()
        return values, *train(task, optimizer, x, y)

    x = tf.TensorSpec([None, num_features], tf.float32, "x")
    y = tf.TensorSpec([None], tf.float32, "y")
    return train_step.get_concrete_function(x, y).graph


def _node_name(name: str) -> str:
    """A name without the characters that TensorFlow forbids in a graph."""
    return "".join(c if c.isascii() and (c.isalnum() or c == "/") else "_" for c in name).strip("_")
