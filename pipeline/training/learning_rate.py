"""The learning rate of --learning_rate=auto."""

import re

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline import config as config_lib
from pipeline.training import evaluation
from pipeline.training import task as task_lib

_OTHERS = 0.01  # of optimizers that scale the gradient, and where no curvature can be found
_LENGTH = 0.1  # of the first step where the curvature may grow
_KEEPS_CURVATURE = "mean_squared_error|.*crossentropy"
_ITERATIONS = 30
_MOST_NUMBERS = 2**22  # elements of x that the curvature is measured on


def choose(config: config_lib.Config, evaluator: evaluation.Evaluator) -> float:
    """The learning rate of a config, or a good one where it leaves that open.

    For plain gradient descent that is 1 / the largest eigenvalue of the Hessian of the loss at the
    start, half of the largest stable rate (Goodfellow, Bengio and Courville, Deep Learning, section
    4.3.1). With mini-batches, the Hessian is that of a batch of the examples with the largest |x|.
    The curvature of other losses than squared errors and cross-entropies may grow while the model
    trains (the absolute error has none but at its kink): then the rate also keeps the first step
    no longer than 0.1.
    """
    if config.learning_rate is not None:
        return config.learning_rate
    if config.optimizer != "sgd":
        return _OTHERS
    datasets, reference = evaluator.datasets, evaluator.closed_form.train
    is_full_batch = config.steps_per_epoch(datasets.num_train) == 1
    if reference and is_full_batch:
        return reference.largest_stable_learning_rate() / 2
    x, y = datasets.train
    most = min(config.batch_size or len(y), max(2, _MOST_NUMBERS // x.shape[1]))
    if is_full_batch:
        chosen = np.linspace(0, len(y) - 1, min(most, len(y)), dtype=np.int64)
    else:
        lengths = np.einsum("nd,nd->n", x, x)
        chosen = np.sort(np.argpartition(lengths, len(y) - most)[-most:])
    curvature, slope = _curvature(evaluator.task, x[chosen], y[chosen])
    rates = [1 / curvature if curvature > 0 else np.inf]
    if not re.fullmatch(_KEEPS_CURVATURE, config.loss):
        rates.append(_LENGTH / slope if slope > 0 else np.inf)
    return float(f"{min(rates):.2g}") if 0 < min(rates) < np.inf else _OTHERS


def _curvature(
    task: task_lib.Task, x: npt.NDArray[np.float32], y: npt.NDArray[np.float32]
) -> tuple[float, float]:
    """The largest eigenvalue, by size, of the Hessian of the loss, and the gradient's length.

    By power iteration, with products of the Hessian and a vector (Pearlmutter, Fast exact
    multiplication by the Hessian, 1994).
    """
    variables = task.model.trainable_variables
    inputs, labels = tf.constant(x), tf.constant(y)

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def product(*vectors: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                loss = task.batch_loss(inputs, labels)
            gradients = inner.gradient(loss, variables, unconnected_gradients="zero")
            along = tf.add_n(
                [tf.reduce_sum(g * v) for g, v in zip(gradients, vectors, strict=True)]
            )
        found: list[tf.Tensor] = outer.gradient(along, variables, unconnected_gradients="zero")
        return found

    random = np.random.default_rng(0)
    vectors = [tf.constant(random.standard_normal(v.shape), v.dtype) for v in variables]
    norm = tf.linalg.global_norm(vectors)
    with task.unchanged():
        with tf.GradientTape() as tape:
            loss = task.batch_loss(inputs, labels)
        gradients = tape.gradient(loss, variables, unconnected_gradients="zero")
        slope = float(tf.linalg.global_norm(list(map(tf.convert_to_tensor, gradients))))
        try:
            for _ in range(_ITERATIONS):
                vectors = product(*[vector / norm for vector in vectors])
                norm = tf.linalg.global_norm(vectors)
        except (LookupError, ValueError, TypeError, tf.errors.OpError):
            return 0.0, slope  # an operation has no second derivative
    return float(norm), slope
