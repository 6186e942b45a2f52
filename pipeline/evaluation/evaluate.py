"""Evaluates a model: its loss and metrics over all training and validation examples."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import optree
import tensorflow as tf

from pipeline import config as config_lib
from pipeline import errors, user_calls, user_code
from pipeline.data import batch as batch_lib
from pipeline.data import batches as batches_lib
from pipeline.data import datasets as datasets_lib
from pipeline.distributed import workers
from pipeline.training import losses
from pipeline.training import task as task_lib

_SAMPLE = 100  # examples that test whether the loss is a mean over examples
_TOLERANCE = 1e-3


Examples = batch_lib.Batch | Iterable[batch_lib.Batch]  # in memory, or batches of a stream


class Evaluation(NamedTuple):
    """The loss, named 'loss', and the metrics by name."""

    train: Mapping[str, float]
    validation: Mapping[str, float]  # empty without validation examples

    @property
    def named(self) -> dict[str, float]:
        """All numbers in one mapping; validation numbers are named validation_loss, ..."""
        return {**self.train, **{f"validation_{name}": v for name, v in self.validation.items()}}

    @property
    def monitored(self) -> float:
        """The validation loss, or the training loss without validation examples."""
        return (self.validation or self.train)["loss"]

    @property
    def is_finite(self) -> bool:
        """Whether the losses are finite."""
        return all(math.isfinite(part["loss"]) for part in self if part)


class Evaluator:
    """Computes the loss and the metrics of a task's current model.

    The loss is computed on standardized labels, as in training; metrics are in data units. The
    examples are processed in large pieces for speed. If the loss is not a mean over examples (a
    model may add losses of a whole batch), they are processed in batches of --batch_size.
    """

    def __init__(
        self,
        task: task_lib.Task,
        datasets: datasets_lib.Datasets,
        config: config_lib.Config,
        total: workers.Total = workers.alone,
    ):
        """Prepares the metrics; `total` adds up the numbers of all workers.

        Raises:
          errors.InputError: a metric does not fit this model, or the model's own metric fails.
        """
        self.task, self._total = task, total
        units = datasets.units
        self._mean, self._stddev = 0.0, 1.0
        if units:
            self._mean, self._stddev = float(units.mean[-1]), float(units.stddev[-1])
        sample = batches_lib.sample(datasets, _SAMPLE, is_weighted=False)
        self.is_mean_over_examples = _is_mean_over_examples(
            task, batches_lib.sample(datasets, _SAMPLE)
        )
        self._piece_size = 0
        if not self.is_mean_over_examples:
            self._piece_size = config.batch_size or datasets.num_train
        self._kept: dict[int, list[list[tf.Tensor]]] = {}  # tensors, by the id of their examples
        self._evaluated = datasets.evaluated, datasets.validation
        functions = user_code.of_training(config)
        self._metrics = {name: _metric(name, task, sample) for name in config.metric_names}
        if own := functions.get("metrics"):
            self._metrics = _own_metrics(own, task, sample, datasets.train.y)
        spec = task.spec if sample.weight is not None else task.spec._replace(weight=None)
        leaves, self._structure = optree.tree_flatten(spec)  # type: ignore[arg-type, var-annotated]
        self._run: Any = self._add_up
        with user_calls.user_errors("computing the loss and the metrics", *functions.values()):
            if not config.run_eagerly:
                traced = tf.function(self._add_up, input_signature=leaves, autograph=False)
                self._run = traced.get_concrete_function()  # a call takes half the time
            if task.is_compiled:  # its metrics get their names with the first batch
                self._run(*sample.arrays)

    def evaluate(self) -> Evaluation:
        """Evaluates the model on this worker's examples, and adds up the results of all workers."""
        train, validation = self._evaluated
        return Evaluation(self._over(train), self._over(validation) if validation else {})

    def _over(self, examples: Examples) -> dict[str, float]:
        if self.task.is_compiled:
            self.task.model.reset_metrics()
        for metric in self._metrics.values():
            metric.reset_state()
        sums = [(float(self._run(*ts)), ts[0].shape[0]) for ts in self._pieces(examples)]
        own = [math.fsum(column) for column in zip(*sums, strict=True)]
        loss, count = self._total(np.array(own, np.float64)).tolist()
        result = {"loss": loss / count}
        for name, metric in self._metrics.items():
            self._add_up_workers(metric)
            result[name] = _number(metric)
        return result | self._compiled_metrics()

    def _pieces(self, examples: Examples) -> Iterable[list[tf.Tensor]]:
        """Yields the tensors of each piece; a single piece is kept for the next evaluation."""
        if not isinstance(examples, batch_lib.Batch):
            return (batch.arrays for batch in examples)
        pieces = examples.pieces(self._piece_size)
        if examples.num_examples > examples.piece_size(self._piece_size):
            return (list(map(tf.constant, piece.arrays)) for piece in pieces)
        if id(examples) not in self._kept:
            self._kept[id(examples)] = [list(map(tf.constant, piece.arrays)) for piece in pieces]
        return self._kept[id(examples)]

    def _compiled_metrics(self) -> dict[str, float]:
        """The results of a compiled model's metrics."""
        if not self.task.is_compiled:
            return {}
        for metric in self.task.model.metrics:
            self._add_up_workers(metric)
        found = self.task.model.get_metrics_result()
        return {name: float(value) for name, value in found.items() if name != "loss"}

    def _add_up(self, *leaves: tf.Tensor) -> tf.Tensor:
        """Returns the loss of a batch times its number of examples, and updates the metrics."""
        batch: batch_lib.Batch = optree.tree_unflatten(self._structure, leaves)  # type: ignore[assignment]
        outputs = self.task.outputs(batch.x)
        loss = self.task.loss_of(batch, outputs)
        if self.task.is_compiled:
            y, y_pred = self._in_data_units(batch.y), self._in_data_units(outputs)
            self.task.model.compute_metrics(batch.x, y, y_pred, batch.weight)
        elif self._metrics:
            predictions = self.task.matching(outputs)
            for metric in self._metrics.values():
                _update(metric, self._in_data_units(batch.y), self._in_data_units(predictions))
        return tf.cast(loss, tf.float64) * tf.cast(tf.shape(leaves[0])[0], tf.float64)

    def _in_data_units(self, y: Any) -> Any:
        if self._stddev == 1.0 and not self._mean:
            return y
        return y * self._stddev + self._mean

    def _add_up_workers(self, metric: Any) -> None:
        """Adds up a Keras metric's state, which consists of sums, over all workers."""
        if self._total is not workers.alone:
            for variable in metric.variables:
                own = variable.numpy().astype(np.float64)
                variable.assign(np.reshape(self._total(own.ravel()), own.shape))


def _is_mean_over_examples(task: task_lib.Task, sample: batch_lib.Batch) -> bool:
    """Whether the loss of a batch is the mean of its parts' losses."""
    count = sample.num_examples
    parts = sample.rows(slice(count // 2)), sample.rows(slice(count // 2, count))
    whole, *halves = (float(task.loss(each)) for each in (sample, *parts))
    mean = np.dot([part.num_examples / count for part in parts], halves)
    return not math.isfinite(whole) or math.isclose(whole, mean, rel_tol=_TOLERANCE, abs_tol=1e-12)


def _metric(name: str, task: task_lib.Task, sample: batch_lib.Batch) -> Any:
    """Makes a Keras metric and tries it once; 'accuracy' depends on the model's outputs."""
    prediction = task.predict(sample.x)
    if name in ("accuracy", "acc"):
        has_classes = prediction.shape.rank > getattr(sample.y, "shape", prediction.shape).rank
        found = "sparse_categorical_accuracy" if has_classes else "binary_accuracy"
    else:
        found = name
    try:
        metric = tf.keras.metrics.get(found)
        _update(metric, sample.y, prediction)
        _number(metric)
    except Exception as error:  # each metric raises its own type for wrong shapes
        raise errors.InputError(
            f"--metrics={name}: tf.keras.metrics.get gives no metric of that name that takes one "
            f"label and predictions {list(prediction.shape[1:]) or 'of one number'} for each "
            f"example: {errors.one_line(error)[:200]}"
        ) from error
    return metric


def _own_metrics(
    function: user_code.UserFunction, task: task_lib.Task, sample: batch_lib.Batch, y: Any
) -> dict[str, Any]:
    """Makes the user's metrics, by name, and tries each once."""
    found = function.make()
    metrics: dict[str, Any] = {}
    prediction = task.predict(sample.x)
    for each in found if isinstance(found, list | tuple) else [found]:
        metric = _metric(each, task, sample) if isinstance(each, str) else each
        errors.require(
            isinstance(metric, tf.keras.metrics.Metric),
            f"{function.flag} must be a list of Keras metrics or their names, or a function that "
            f"returns it; received {each!r} ({function})",
        )
        name = each if isinstance(each, str) else metric.name
        errors.require(
            name not in ("loss", *metrics),
            f"{function.flag}: each metric needs a name of its own; received {name!r} ({function})",
        )
        if isinstance(prediction, tf.Tensor) and hasattr(y, "dtype"):
            losses.check_range(f"{function.flag}: {name}", metric, y, prediction.numpy())
        with user_calls.user_errors(f"computing {name}", function):
            _update(metric, sample.y, prediction)
            _number(metric)
        metrics[name] = metric
    return metrics


def _update(metric: Any, y: tf.Tensor, prediction: tf.Tensor) -> None:
    """Updates a Keras metric, which requires columns."""
    y, prediction = (a[:, None] if a.shape.rank == 1 else a for a in (y, prediction))
    metric.update_state(y, prediction)


def _number(metric: Any) -> float:
    result: npt.NDArray[Any] = np.asarray(metric.result())
    errors.require(result.size == 1, f"it gives {result.size} numbers")
    return float(result.ravel()[0])
