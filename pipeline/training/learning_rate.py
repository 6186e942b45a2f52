"""Chooses the learning rate of --learning_rate=auto."""

import math
import re
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline import config as config_lib
from pipeline import user_code
from pipeline.data import batch as batch_lib
from pipeline.data import datasets as datasets_lib
from pipeline.training import task as task_lib

_OTHERS = 0.01  # for optimizers that scale the gradient, and without a known curvature
_LENGTH = 0.1  # the longest first step if the curvature may grow
_KEEPS_CURVATURE = "mean_squared_error|.*crossentropy"
_ITERATIONS = 30
_MOST_NUMBERS = 2**22  # elements of x that the curvature is measured on


def choose(
    config: config_lib.Config,
    task: task_lib.Task,
    datasets: datasets_lib.Datasets,
    *,
    largest_stable: float = math.inf,
) -> float | None:
    """Returns the learning rate of a config, or chooses a good one for 'auto'.

    Returns None if the model, the optimizer or the schedule brings its own learning rate.

    For plain gradient descent the choice is 1 / the largest eigenvalue of the loss's Hessian at the
    start, half of the largest stable rate (Goodfellow, Bengio and Courville, Deep Learning, section
    4.3.1). With mini-batches, the Hessian is measured on a batch of the examples with the largest
    weight * |x|². Except for squared errors and cross-entropies, the curvature may grow during
    training (the absolute error has curvature only at its kink). For such losses the rate also
    limits the length of the first step to 0.1.

    Args:
      config: The settings of the run.
      task: The task at the start of training.
      datasets: Datasets whose training examples are used.
      largest_stable: The largest stable rate with a full batch, if it is known.
    """
    if config.learning_rate is not None:
        return config.learning_rate
    own = user_code.find(config, ("optimizer",)).get("optimizer")
    if task.is_compiled or ":" in config.schedule:
        return None
    if own:
        return _OTHERS if "learning_rate" in own.parameters else None
    if config.optimizer != "sgd":
        return _OTHERS
    train = datasets.train
    is_full_batch = datasets.steps_per_epoch(config) == 1
    if is_full_batch and largest_stable < math.inf:
        return largest_stable / 2
    count = train.num_examples
    most = min(config.batch_size or count, max(2, _MOST_NUMBERS // train.numbers))
    chosen: Any
    if datasets.stream:
        chosen = slice(most)  # of the first batch, as tensors can't be indexed by arrays
    elif is_full_batch or not train.is_table:
        chosen = np.linspace(0, count - 1, min(most, count), dtype=np.int64)
    else:
        lengths = np.einsum("nd,nd->n", train.x, train.x)
        if train.weight is not None:
            lengths *= train.weight
        chosen = np.sort(np.argpartition(lengths, count - most)[-most:])
    curvature, slope = _curvature(task, train.rows(chosen).map(tf.identity))
    rates = [1 / curvature if curvature > 0 else np.inf]
    if not re.fullmatch(_KEEPS_CURVATURE, config.loss):
        rates.append(_LENGTH / slope if slope > 0 else np.inf)
    return float(f"{min(rates):.2g}") if 0 < min(rates) < np.inf else _OTHERS


def _curvature(task: task_lib.Task, batch: batch_lib.Batch) -> tuple[float, float]:
    """Returns the loss's Hessian eigenvalue of largest magnitude, and the gradient's norm.

    Uses power iteration with Hessian-vector products (Pearlmutter, Fast exact multiplication by the
    Hessian, 1994).
    """
    variables = task.model.trainable_variables

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def product(*vectors: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                loss = task.loss(batch, training=True)
            gradients = inner.gradient(loss, variables, unconnected_gradients="zero")
            along = tf.add_n(
                [tf.reduce_sum(g * v) for g, v in zip(gradients, vectors, strict=True)]
            )
        found: list[tf.Tensor] = outer.gradient(along, variables, unconnected_gradients="zero")
        return found

    random = np.random.default_rng(0)
    vectors = [tf.constant(random.standard_normal(v.shape), v.dtype) for v in variables]
    norm = tf.linalg.global_norm(vectors)
    with task.variables.unchanged():
        with tf.GradientTape() as tape:
            loss = task.loss(batch, training=True)
        gradients = tape.gradient(loss, variables, unconnected_gradients="zero")
        slope = float(tf.linalg.global_norm(list(map(tf.convert_to_tensor, gradients))))
        try:
            for _ in range(_ITERATIONS):
                vectors = product(*[vector / norm for vector in vectors])
                norm = tf.linalg.global_norm(vectors)
        except (LookupError, ValueError, TypeError, tf.errors.OpError):
            return 0.0, slope  # an operation has no second derivative
    return float(norm), slope
