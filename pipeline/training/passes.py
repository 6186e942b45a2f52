"""Passes of the model over examples: its mean loss, and the metrics that --metrics names."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline import config as config_lib
from pipeline import errors
from pipeline.data import datasets, preprocessing
from pipeline.distributed import workers
from pipeline.training import task as task_lib


class Passes:
    """Computes losses and metrics of a model as it is now, over any examples."""

    def __init__(
        self,
        task: task_lib.Task,
        config: config_lib.Config,
        *,
        num_features: int,
        units: preprocessing.Preprocessing | None = None,
        total: workers.Total = workers.alone,
    ):
        """Prepares the metrics of the config; `total` adds up the numbers of all workers.

        The loss is that of standardized data where there are units, metrics are in those.

        Raises:
          errors.InputError: Keras has no such metric.
        """
        self._task, self._total = task, total
        self._mean = float(units.mean[-1]) if units else 0.0
        self._stddev = float(units.stddev[-1]) if units else 1.0
        self._metrics: dict[str, tf.keras.metrics.Metric] = {}
        for name in config.metric_names:
            self._metrics[name] = _metric(name, task, num_features)
        self._compiled: Callable[..., tf.Tensor] = self._add_up
        if not config.run_eagerly:
            x, y = tf.TensorSpec([None, num_features]), tf.TensorSpec([None])
            self._compiled = tf.function(self._add_up, [x, y], autograph=False)

    def loss(self, examples: datasets.Examples, *, is_compiled: bool = True) -> float:
        """The mean loss over the examples of all workers, each of which passes its own.

        With is_compiled=False eagerly, as to compile it is not worth it for a single pass.
        """
        run = self._compiled if is_compiled else self._add_up
        sums = (run(*map(tf.constant, chunk)) for chunk in examples.chunks())
        own = [math.fsum(map(float, sums)), len(examples.y)]
        loss, count = self._total(np.array(own, np.float64))
        return float(loss / count)

    def evaluate(self, examples: datasets.Examples) -> dict[str, float]:
        """The mean loss, and each metric by its name."""
        for metric in self._metrics.values():
            metric.reset_state()
        loss = self.loss(examples)
        for metric in self._metrics.values():
            _sum_over_workers(metric, self._total)
        return {"loss": loss, **{name: _number(metric) for name, metric in self._metrics.items()}}

    def _add_up(self, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """Returns the sum of the losses of examples x [N, D] and y [N], and updates the metrics."""
        prediction = self._task.predict(x)
        losses = self._task.losses_of(y, prediction) + self._task.penalty()
        for metric in self._metrics.values():
            _update(metric, self._in_units(y), self._in_units(prediction))
        return tf.reduce_sum(tf.cast(losses, tf.float64))

    def _in_units(self, y: tf.Tensor) -> tf.Tensor:
        return y * self._stddev + self._mean


def _metric(name: str, task: task_lib.Task, num_features: int) -> Any:
    """A metric of Keras, tried once; 'accuracy' is the one for the model's outputs."""
    prediction = task.predict(tf.zeros([2, num_features]))
    if name in ("accuracy", "acc"):
        has_classes = prediction.shape.rank == 2
        found = "sparse_categorical_accuracy" if has_classes else "binary_accuracy"
    else:
        found = name
    try:
        metric = tf.keras.metrics.get(found)
        _update(metric, tf.zeros([2]), prediction)
        _number(metric)
    except Exception as error:  # each metric has its own for shapes that it is not for
        raise errors.InputError(
            f"--metrics={name}: tf.keras.metrics.get gives no metric of that name that takes one "
            f"label and predictions {list(prediction.shape[1:]) or 'of one number'} for each "
            f"example: {errors.one_line(error)[:200]}"
        ) from error
    return metric


def _update(metric: Any, y: tf.Tensor, prediction: tf.Tensor) -> None:
    """Updates a metric of Keras, which wants columns."""
    columns = prediction[:, None] if prediction.shape.rank == 1 else prediction
    metric.update_state(y[:, None], columns)


def _sum_over_workers(metric: Any, total: workers.Total) -> None:
    """Makes the state of a metric of Keras, which consists of sums, that of all workers."""
    if total is not workers.alone:
        for variable in metric.variables:
            own = variable.numpy().astype(np.float64)
            variable.assign(np.reshape(total(own.ravel()), own.shape))


def _number(metric: Any) -> float:
    result = np.asarray(metric.result())
    errors.require(result.size == 1, f"it gives {result.size} numbers")
    return float(result.ravel()[0])
