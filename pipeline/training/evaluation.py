"""Evaluation: the loss of the model over all training and all validation examples."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline import config as config_lib
from pipeline.data import datasets as datasets_lib
from pipeline.training import hooks, least_squares, metrics, task

_MOST_PASSES = 1000  # epochs of a run that are evaluated by a pass over the examples
_CHUNK = 2**20  # elements of x in one call of a pass
_MOST_WORK = 1e10  # multiplications that the closed form may cost: one or two seconds
_TOLERANCE = 1e-3  # relative, of a pass in float32 against the closed form
_SMALLEST = 1e-34  # mean loss; of a smaller one, float32 loses more than that
_PROBES = 2
_MOST_LABELS = 10_000  # from which the size of the labels is taken

_OTHER_TASK = "this model with this loss is not linear regression"
_NOT_FLOAT32 = "least squares of these examples can't be checked in the range of float32"

Floats = npt.NDArray[np.floating[Any]]
Variables = Mapping[str, npt.NDArray[np.float32]]


class Losses(NamedTuple):
    """The mean loss of a model over the training and over the validation examples, if any."""

    train: float
    validation: float | None


class EpochMetrics(NamedTuple):
    """The state of the model at the ends of K epochs; epoch 0 is the start."""

    step: npt.NDArray[np.int64]  # [K]
    values: npt.NDArray[np.float32]  # [K, M], the watched values
    loss: Floats  # [K] float64, over all training examples
    validation_loss: Floats | None  # [K] float64, over the validation examples, if any

    def select(self, index: Any) -> "EpochMetrics":
        """The epochs that a numpy index (slice, mask, positions) selects."""
        return EpochMetrics(*(None if c is None else c[index] for c in self))  # type: ignore[arg-type]


class Best(NamedTuple):
    """Step and loss of the epoch with the smallest validation (or else training) loss so far."""

    step: int = -1
    loss: float = math.inf


class Evaluator(hooks.Hook):
    """Evaluates a model: whenever asked, and while it trains at the ends of epochs.

    By compiled passes of the model over the examples, at up to 1,000 epochs of a run, evenly
    chosen. For linear regression by the closed form, at every epoch, if that agrees with a pass
    and does not take too long.

    Attributes:
      task, datasets: What is evaluated, and on what.
      steps_per_epoch: Steps between the ends of epochs.
      least_squares: The closed form over the training examples, None where passes are used.
      why_passes: In words, where linear regression is evaluated by passes; else ''.
      best: The best epoch so far.
      best_variables: Its variables by name, None if an earlier process found it.
      report: Is called with the metrics of each evaluated epoch, in order.
    """

    def __init__(
        self, evaluated: task.Task, datasets: datasets_lib.Datasets, config: config_lib.Config
    ):
        """Prepares to evaluate the model of a task in the run of a config."""
        self.task, self.datasets = evaluated, datasets
        count = len(datasets.train.y)
        self.steps_per_epoch = config_lib.steps_per_epoch(count, config.batch_size)
        epochs_between = metrics.stride(config.epochs, _MOST_PASSES)
        self._steps_between_passes = epochs_between * self.steps_per_epoch
        x, y = (tf.TensorSpec([None, *a.shape[1:]], tf.float32) for a in datasets.train)
        compiled = tf.function(self._sum_of_losses, input_signature=[x, y])
        self._compute = self._sum_of_losses if config.run_eagerly else compiled
        self.least_squares: least_squares.LeastSquares | None = None
        self._validation: least_squares.LeastSquares | None = None
        self.why_passes = self._solve() if evaluated.is_linear_regression else ""
        self.best = Best()
        self.best_variables: Variables | None = None
        self.report: Callable[[EpochMetrics], object] = id

    def losses(self) -> Losses:
        """The losses of the model as it is now."""
        if self.least_squares:
            train, validation = self._closed_form(self.task.values().numpy()[None])
            return Losses(float(train[0]), None if validation is None else float(validation[0]))
        validation_set = self.datasets.validation
        validation_loss = self._pass(validation_set, self._compute) if validation_set else None
        return Losses(self._pass(self.datasets.train, self._compute), validation_loss)

    def next_stop(self, step: int) -> float:
        """The next step with a pass."""
        every = self._steps_between_passes
        return math.inf if self.least_squares else (step // every + 1) * every

    def before(self, step: int) -> None:
        """Evaluates by a pass where one is due."""
        if not self.least_squares and step % self._steps_between_passes == 0:
            self.evaluate(step)

    def after(self, rows: metrics.StepMetrics) -> None:
        """Evaluates the ends of epochs among the rows by the closed form."""
        rows = rows.until_divergence().every(self.steps_per_epoch)
        if self.least_squares and len(rows.step):
            self._receive(EpochMetrics(*rows[:2], *self._closed_form(rows.values)))

    def evaluate(self, step: int) -> Losses:
        """Evaluates and reports the model as it is now, at the end of an epoch."""
        losses = self.losses()
        validation = None if losses.validation is None else np.array([losses.validation])
        values = self.task.values().numpy()[None]
        self._receive(EpochMetrics(np.array([step]), values, np.array([losses.train]), validation))
        return losses

    def _receive(self, epochs: EpochMetrics) -> None:
        losses = epochs.loss if epochs.validation_loss is None else epochs.validation_loss
        i = int(np.argmin(losses))
        if losses[i] < self.best.loss:
            self.best = Best(int(epochs.step[i]), float(losses[i]))
            if self.least_squares:
                self.best_variables = self.task.by_variable(epochs.values[i])
            else:
                variables = self.task.variables.items()
                self.best_variables = {name: variable.numpy() for name, variable in variables}
        self.report(epochs)

    def _closed_form(self, values: npt.ArrayLike) -> tuple[Floats, Floats | None]:
        """The training and the validation loss [K] at the watched values [K, M]."""
        assert self.least_squares
        return self.least_squares.loss(values), self._validation and self._validation.loss(values)

    def _sum_of_losses(self, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.cast(self.task.losses(x, y), tf.float64))

    def _pass(self, examples: datasets_lib.Examples, compute: Callable[..., tf.Tensor]) -> float:
        """The mean loss of the model over some examples."""
        x, y = examples
        rows = max(1, _CHUNK // x.shape[1])
        chunks = (slice(first, first + rows) for first in range(0, len(y), rows))
        sums = (compute(tf.constant(x[chunk]), tf.constant(y[chunk])) for chunk in chunks)
        return math.fsum(map(float, sums)) / len(y)

    def _solve(self) -> str:
        """Finds the closed form, unless it is not to be used: then returns why."""
        train, validation = self.datasets.train, self.datasets.validation
        count, num_features = train.x.shape
        if len(self.task.names) != num_features + 1:
            return _OTHER_TASK
        work = sum(least_squares.work(part) for part in (train, validation) if part)
        if work > _MOST_WORK:
            return f"{num_features:,} features of {count:,} examples take too long to solve for"
        closed_form = least_squares.LeastSquares.of(train)
        if why_not := self._check(closed_form):
            return why_not
        self.least_squares = closed_form
        self._validation = least_squares.LeastSquares.of(validation) if validation else None
        return ""

    def _check(self, closed_form: least_squares.LeastSquares) -> str:
        """Checks that passes of the model give the losses of the closed form, at random values.

        The values make predictions about as large as the labels, so that float32 is exact enough.
        Returns in words why the closed form can't be used, or ''.
        """
        y = self.datasets.train.y
        some = y[:: -(-len(y) // _MOST_LABELS)]
        size = float(np.sqrt(np.mean(np.square(some, dtype=np.float64)))) or 1.0
        scale = np.append(np.sqrt(np.diagonal(closed_form.covariance) + closed_form.mean**2), 1.0)
        random = np.random.default_rng(0).standard_normal((_PROBES, len(scale)))
        probes = random * size / np.where(scale > 0, scale, 1.0)
        largest, float32 = np.abs([*probes, closed_form.solution]).max(), np.finfo(np.float32)
        if largest > float32.max or np.abs(probes).min() < float32.tiny:
            return _NOT_FLOAT32
        probes = probes.astype(np.float32)
        found = []
        for probe in probes:
            with self.task.at(probe):
                # Not compiled: that takes longer than the pass.
                found.append(self._pass(self.datasets.train, self._sum_of_losses))
        if not (np.isfinite(found).all() and min(found) > _SMALLEST):
            return _NOT_FLOAT32
        agrees = np.allclose(found, closed_form.loss(probes), rtol=_TOLERANCE, atol=0)
        return "" if agrees else _OTHER_TASK
