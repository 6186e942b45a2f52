"""Training steps (forward pass, gradients, update): the guide's, Keras', and a model's own.

A step takes a batch, updates the model once, in place, and returns a Row.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import tensorflow as tf

from pipeline import errors
from pipeline.data import batch as batch_lib
from pipeline.training import norms, optimizers
from pipeline.training import task as task_lib
from pipeline.training import variables as variables_lib


class Row(NamedTuple):
    """The metrics of a step, of the state before its update."""

    values: tf.Tensor  # [M], the watched values
    loss: tf.Tensor  # scalar, of the batch
    gradient_norm: tf.Tensor  # scalar, the length of the gradient of that loss
    numbers: Any = None  # [L], see StepMetrics


Step = Callable[[batch_lib.Batch], Row]


def create(loop: str, task: task_lib.Task, optimizer: optimizers.Optimizer) -> Step:
    """The step of a task in a loop, 'custom' or 'fit'."""
    if task.has_own_step:
        return own_step(task)
    return (keras_step if loop == "fit" else guide_step)(task, optimizer)


def guide_step(task: task_lib.Task, optimizer: optimizers.Optimizer) -> Step:
    """The step of the guide: a GradientTape, then the update."""

    def step(batch: batch_lib.Batch) -> Row:
        variables = task.model.trainable_variables
        with tf.name_scope("values"):
            values = task.variables.values()
        with tf.name_scope("loss_and_gradients"):
            with tf.GradientTape() as tape:
                loss = task.loss(batch, training=True)
                scaled = optimizers.scaled_loss(optimizer, loss)
            gradients = _checked(task, tape.gradient(scaled, variables))
        with tf.name_scope("gradient_norm"):
            norm = optimizers.unscaled_norm(optimizer, norms.global_norm(gradients))
        with tf.name_scope("update"):
            optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return Row(values, loss, norm)

    return step


def keras_step(task: task_lib.Task, optimizer: optimizers.Optimizer) -> Step:
    """The train_step of Keras; records what it passes to compute_loss and the optimizer.

    The recording happens while the step is traced, so nothing is computed twice.
    """
    model, noted = task.model, {}

    def compute_loss(
        x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, **_: Any
    ) -> tf.Tensor:
        noted["loss"] = task.loss_of(batch_lib.Batch(x, y, sample_weight), y_pred)
        return noted["loss"]

    def apply(gradients: Any, variables: Any = None) -> Any:
        gradients = _checked(task, list(gradients))
        with tf.name_scope("gradient_norm/"):  # outside the current box of the graph
            noted["norm"] = optimizers.unscaled_norm(optimizer, norms.global_norm(gradients))
        with tf.name_scope("update/"):
            return type(optimizer).apply(optimizer, gradients, variables)

    def step(batch: batch_lib.Batch) -> Row:
        with tf.name_scope("values"):
            values = task.variables.values()
        replaced = _replaced(model, "_compute_loss", compute_loss)
        with tf.name_scope("loss_and_gradients"), replaced, _replaced(optimizer, "apply", apply):
            model.train_step(batch.as_keras)
        return Row(values, noted["loss"], noted["norm"])

    return step


def own_step(task: task_lib.Task) -> Step:
    """A Keras model's own train_step, such as a VAE's or a GAN's; records what it returns."""

    def step(batch: batch_lib.Batch) -> Row:
        with tf.name_scope("values"):
            values = task.variables.values()
        with tf.name_scope("train_step"):
            numbers, norm = of_own_step(task.model, batch)
        loss = numbers.pop("loss")
        return Row(values, loss, norm, tf.stack(list(numbers.values())) if numbers else None)

    return step


def of_own_step(model: Any, batch: batch_lib.Batch) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """Calls a model's own train_step.

    Keras' metrics are means over an epoch; they are reset before, so they are of this batch.

    Returns:
      Its numbers by name (see `numbers_of`), and the gradient norm of its optimizer's update; NaN
      unless model.optimizer makes one update.
    """
    optimizer, found = model.optimizer, []

    def apply(gradients: Any, variables: Any = None) -> Any:
        gradients = list(gradients)
        norm = norms.global_norm([gradient for gradient in gradients if gradient is not None])
        found.append(optimizers.unscaled_norm(optimizer, norm))
        return type(optimizer).apply(optimizer, gradients, variables)

    model.reset_metrics()
    with _replaced(optimizer, "apply", apply) if optimizer else contextlib.nullcontext():
        numbers = numbers_of(model.train_step, batch)
    # An update in a loop or a branch of its own is in another graph.
    here = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    is_one = len(found) == 1 and getattr(found[0], "graph", None) is here
    return numbers, found[0] if is_one else tf.constant(math.nan)


def numbers_of(step: Callable[[Any], Any], batch: batch_lib.Batch) -> dict[str, tf.Tensor]:
    """Calls a model's train_step or test_step; returns its numbers (scalar float32) by name.

    The first one is named 'loss': the returned "loss", or else the first number under both names.
    """
    found = step(batch.as_keras)
    is_named = isinstance(found, dict)
    numbers: dict[str, tf.Tensor] = {}
    for name, value in found.items() if is_named else ():
        # As in Keras, the metrics of compile are in a dict of their own.
        numbers |= value if isinstance(value, dict) else {name: value}
    numbers = {name: tf.cast(value, tf.float32) for name, value in numbers.items()}
    errors.require(
        numbers and all(number.shape.rank == 0 for number in numbers.values()),
        f"{step.__name__} must return a dict of numbers by name; received {found}",
    )
    return {"loss": next(iter(numbers.values())), **numbers}


@contextlib.contextmanager
def _replaced(thing: Any, name: str, value: Any) -> Iterator[None]:
    """Replaces a method of one object temporarily."""
    object.__setattr__(thing, name, value)
    try:
        yield
    finally:
        object.__delattr__(thing, name)


def _checked(task: task_lib.Task, gradients: list[Any]) -> list[Any]:
    """Returns the gradients; raises errors.InputError if the loss ignores a variable."""
    pairs = zip(task.variables.trainable, gradients, strict=True)
    names = [name for name, gradient in pairs if gradient is None]
    errors.require(
        not names,
        f"the loss does not depend on {', '.join(names)}: use it where the model is called, or "
        "make it non-trainable (trainable=False)",
    )
    return gradients


def shared_loss_and_gradients(
    task: task_lib.Task, part: batch_lib.Batch, share: float
) -> tf.Tensor:
    """This worker's term of the loss and the gradients of a batch, from its part of the batch.

    Returns [1 + P]: the loss and all gradients as one vector, times the part's share of the
    examples. The terms of all workers sum to the loss and gradients of the batch.
    """
    with tf.GradientTape() as tape:
        loss = task.loss(part, training=True) * share
    gradients = _checked(task, tape.gradient(loss, task.model.trainable_variables))
    # IndexedSlices (from embeddings) are converted to dense tensors.
    return tf.concat([tf.reshape(each, [-1]) for each in (loss, *gradients)], axis=0)


def shared_update(task: task_lib.Task, optimizer: optimizers.Optimizer, total: tf.Tensor) -> Row:
    """Updates the model once, in place, with the sum [1 + P] of the workers' terms."""
    variables, values = task.model.trainable_variables, task.variables.values()
    loss, *flat = tf.split(total, [1, *(v.shape.num_elements() for v in variables)])
    gradients = [tf.reshape(g, v.shape) for g, v in zip(flat, variables, strict=True)]
    optimizer.apply_gradients(zip(gradients, variables, strict=True))
    return Row(values, loss[0], norms.global_norm(gradients))


def trace(step: Step, task: task_lib.Task, optimizer: optimizers.Optimizer) -> Any:
    """Traces the training step to a FuncGraph, for checks and TensorBoard's Graphs dashboard.

    The graph shows the model's variables with the names of their curves and a box for each layer.
    The variables of a Keras optimizer have their own box.
    """
    named = [(name.replace(".", "/"), v) for name, v in task.variables.by_name.items()]
    for v in optimizer.variables:
        named.append((getattr(v, "path", "step"), variables_lib.inner(v)))

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def train_step(batch: batch_lib.Batch) -> Row:
        for name, variable in named:  # before their first use names them
            tf.compat.v1.get_default_graph().capture(variable.handle, name=_node_name(name))
        return step(batch)

    names = iter(_names(task.spec))
    spec = task.spec.map(
        lambda s: tf.TensorSpec(s.shape, s.dtype, next(names)) if type(s) is tf.TensorSpec else s
    )
    return train_step.get_concrete_function(spec).graph


def _names(spec: batch_lib.Batch) -> list[str]:
    """The names of a graph's inputs: x, y and weight, numbered if there are several."""
    parts = [(name, batch_lib.Batch(part, ()).arrays) for name, part in spec._asdict().items()]
    return [
        name if len(found) == 1 else f"{name}_{i}"
        for name, found in parts
        for i in range(len(found))
    ]


def _node_name(name: str) -> str:
    """Removes the characters that TensorFlow forbids in a graph's names."""
    return "".join(c if c.isascii() and (c.isalnum() or c == "/") else "_" for c in name).strip("_")
