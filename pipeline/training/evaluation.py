"""Evaluation: the loss and the metrics of the model over all training and validation examples."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline import config as config_lib
from pipeline.data import datasets as datasets_lib
from pipeline.data import linear_units
from pipeline.distributed import workers
from pipeline.training import closed_form, hooks, metrics, passes, regression
from pipeline.training import task as task_lib

_MOST_PAUSES = 1000  # epochs of a run at which training pauses to be evaluated
_RISEN = 1e6
_MOST_LABELS = 10_000  # of which the loss of predicting 0 is taken

Floats = npt.NDArray[np.floating[Any]]


class Evaluation(NamedTuple):
    """The mean loss, as 'loss', and the metrics of --metrics by name."""

    train: Mapping[str, float]
    validation: Mapping[str, float]  # empty without validation examples

    @property
    def named(self) -> dict[str, float]:
        """All numbers in one, those over the validation examples as validation_loss, ..."""
        return {**self.train, **{f"validation_{name}": v for name, v in self.validation.items()}}

    @property
    def decisive(self) -> float:
        """The loss that says how good the model is: over the validation examples, if any."""
        return (self.validation or self.train)["loss"]


class EpochMetrics(NamedTuple):
    """The state of the model at the ends of K epochs; epoch 0 is the start."""

    step: npt.NDArray[np.int64]  # [K]
    values: npt.NDArray[np.float32]  # [K, M], the watched values
    train: Mapping[str, Floats]  # [K] float64 each, as in Evaluation
    validation: Mapping[str, Floats]
    best_step: npt.NDArray[np.int64]  # [K], of the best epoch up to then

    def select(self, index: Any) -> "EpochMetrics":
        """The epochs that a numpy index (slice, mask, positions) selects."""
        train, validation = ({k: v[index] for k, v in part.items()} for part in self[2:4])
        columns = self.step[index], self.values[index], train, validation, self.best_step[index]
        return EpochMetrics(*columns)


class Best(NamedTuple):
    """Step and loss of the epoch with the smallest validation (or else training) loss so far."""

    step: int = -1
    loss: float = math.inf


class Evaluator(hooks.Hook):
    """Evaluates a model: whenever asked, and while it trains at the ends of epochs.

    Training pauses for it at up to 1,000 epochs of a run, evenly chosen. Where the closed form of
    linear regression gives all that is asked for from the rows, it does so for every epoch, and
    training does not pause. So either `before` evaluates, or `evaluate_rows`, which the recorder
    calls.

    Attributes:
      task, datasets: What is evaluated, and on what.
      steps_per_epoch: Steps between the ends of epochs.
      steps_between: Steps between the ends of the chosen epochs.
      closed_form: Least squares of the examples, where that is used instead of passes.
      units: The preprocessing, where W and b are shown in the units of the data.
      reference: Least squares of the training examples, as a function of the shown W and b.
      best: The best epoch so far.
      best_variables: Its variables by name, None if an earlier process found it.
      start_loss: The training loss before training.
      report: Is called with the metrics of each evaluated epoch, in order.
      before_passes: Is called before passes over the examples.
    """

    def __init__(
        self,
        task: task_lib.Task,
        datasets: datasets_lib.Datasets,
        config: config_lib.Config,
        total: workers.Total = workers.alone,
    ):
        """Prepares to evaluate the model of a task in the run of a config.

        `total` adds up over all workers that evaluate together.

        Raises:
          errors.InputError: a metric is not for this model.
        """
        self.task, self.datasets = task, datasets
        num_features = len(datasets.features)
        self.steps_per_epoch = config.steps_per_epoch(datasets.num_train)
        epochs_between = metrics.stride(config.epochs, _MOST_PAUSES)
        self.steps_between = epochs_between * self.steps_per_epoch
        self._patience = config.early_stopping_patience
        self._passes = passes.Passes(
            task, config, num_features=num_features, units=datasets.units, total=total
        )
        self.closed_form = closed_form.ClosedForm.of(task, datasets, self._passes)
        is_line = task.num_trainable == num_features + 1
        has_units = config.is_linear and is_line
        self.units = datasets.units if has_units else None
        self.reference = self.closed_form.train
        if self.units and self.reference and task.watches_all:
            self.reference = linear_units.least_squares_in_data_units(self.reference, self.units)
        self._total = total
        self._has_metrics = bool(config.metric_names)
        is_in_rows = self.closed_form.train is not None and task.watches_all
        self._pauses = not is_in_rows or self._has_metrics or bool(self._patience)
        self.best = Best()
        self.best_variables: task_lib.Arrays | None = None
        self.start_loss = math.nan
        self.report: Callable[[EpochMetrics], object] = lambda _: None
        self.before_passes: Callable[[], object] = lambda: None

    def evaluate(self) -> Evaluation:
        """Evaluates the model as it is now."""
        train, validation = self.datasets.evaluated, self.datasets.validation
        if self.closed_form.train and not self._has_metrics:
            parts = self._by_closed_form(self.task.numbers().numpy()[None])
            return Evaluation(*({k: float(v[0]) for k, v in part.items()} for part in parts))
        self.before_passes()
        of_validation = self._passes.evaluate(validation) if validation else {}
        return Evaluation(self._passes.evaluate(train), of_validation)

    def fits(self) -> dict[str, dict[str, regression.Fit]]:
        """How well the model, and least squares, fit the examples of a table, by part.

        Nothing for synthetic data, models with several outputs and other tasks than regression.
        """
        result: dict[str, dict[str, regression.Fit]] = {}
        some = self.datasets.train.x[:1]
        is_regression = self.datasets.label_variances is not None
        if not is_regression or self.task.predict(tf.constant(some)).shape.rank != 1:
            return result
        result["model"] = regression.fits(self.task, self.datasets, self._total)
        if self.closed_form.train:
            with self.task.unchanged():
                self.task.assign(self.task.by_variable(self.closed_form.train.solution))
                result["least squares"] = regression.fits(self.task, self.datasets, self._total)
        return result

    @property
    def decisive_loss(self) -> str:
        """What the loss of the best epoch is, in words."""
        return "validation loss" if self.datasets.num_validation else "loss"

    @property
    def importance(self) -> dict[str, float]:
        """|W| of standardized features of a linear model, the largest first."""
        if self.units is None:
            return {}
        sizes = np.abs(self.task.numbers().numpy()[:-1]).tolist()
        pairs = zip(self.datasets.features, sizes, strict=True)
        return dict(sorted(pairs, key=lambda pair: -pair[1]))

    def shown(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Watched values [K, M] as they are shown, W and b in the units of the data."""
        if self.units is None or not self.task.watches_all:
            return values
        return task_lib.as_float32(linear_units.in_data_units(values, self.units))

    def next_pause(self, step: int) -> float:
        """The next step to be evaluated at."""
        every = self.steps_between
        return (step // every + 1) * every if self._pauses else math.inf

    def before(self, step: int) -> None:
        """Evaluates where it is due.

        Raises:
          hooks.EndOfTraining: patience has run out.
          hooks.Divergence: the loss has risen.
        """
        if self._pauses and step % self.steps_between == 0:
            evaluation = self.evaluate()
            self.check(step, evaluation)
            if self._is_exhausted(step, evaluation):
                # What concerns this step is recorded after its checkpoint.
                raise hooks.EndOfTraining(step)
            if all(math.isfinite(part["loss"]) for part in evaluation if part):
                self.report_evaluation(step, evaluation)  # else the next step ends training

    def evaluate_rows(
        self, rows: metrics.StepMetrics
    ) -> tuple[metrics.StepMetrics, EpochMetrics | None]:
        """The rows before divergence, and their ends of epochs, evaluated in closed form.

        None where training pauses to evaluate, as `before` does then.
        """
        rows = rows.until_divergence()
        ends = rows.every(self.steps_per_epoch)
        if self._pauses or not len(ends.step):
            return rows, None
        epochs = self._epochs(ends.step, ends.values, *self._by_closed_form(ends.values))
        if (risen := self._has_risen(epochs.train["loss"])).any():
            end = int(ends.step[np.argmax(risen)])
            rows = rows.select(rows.step < end)
            epochs = epochs.select(epochs.step < end)
        return rows, epochs

    def report_epochs(self, epochs: EpochMetrics | None) -> None:
        """Reports evaluated epochs, if there are any, and keeps the best."""
        if epochs is None or not len(epochs.step):
            return
        if improved := np.flatnonzero(epochs.best_step == epochs.step).tolist():
            i = improved[-1]
            losses = (epochs.validation or epochs.train)["loss"]
            self.best = Best(int(epochs.step[i]), float(losses[i]))
            if self._pauses:  # the model is at the only epoch
                self.best_variables = self.task.arrays()
            else:
                self.best_variables = self.task.by_variable(epochs.values[i])
        self.report(epochs)

    def report_evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Reports an evaluation of the model as it is now, at the end of an epoch."""
        parts = ({k: np.array([v]) for k, v in part.items()} for part in evaluation)
        self.report_epochs(self._epochs(np.array([step]), self.task.values().numpy()[None], *parts))

    def check(self, step: int, evaluation: Evaluation) -> None:
        """Raises hooks.Divergence where the loss has risen."""
        loss = evaluation.train["loss"]
        if self._has_risen(np.array([loss]))[0]:
            raise hooks.Divergence(step, loss)

    def is_exhausted(self, step: int) -> bool:
        """Whether patience has run out at a step at which the model is now."""
        return bool(self._patience) and self._is_exhausted(step, self.evaluate())

    def _is_exhausted(self, step: int, evaluation: Evaluation) -> bool:
        """A function of the losses up to the step, so that it is the same after a resume."""
        if not self._patience or step % self.steps_between or evaluation.decisive < self.best.loss:
            return False
        return step - self.best.step >= self._patience * self.steps_between

    def _has_risen(self, losses: Floats) -> npt.NDArray[np.bool_]:
        """Whether training losses [K] have risen beyond any doubt.

        That is to a million times both the loss before training and that of predicting 0; of the
        squared error, predictions are a thousand times as large as the labels then. The optimum is
        no worse than predicting 0, so a run that starts there does not get so far unless it
        diverges; nor do optimizers that overshoot at first, as Adam does at large rates.
        """
        risen = losses > _RISEN * abs(self.start_loss)
        if not risen.any():  # or the start is not known yet
            return risen
        limit = _RISEN * max(abs(self.start_loss), self._loss_of_zero)
        return (losses > limit) & (limit > 0)

    @functools.cached_property
    def _loss_of_zero(self) -> float:
        """The mean loss of a model that predicts 0, over examples for which it is finite."""
        x, y = self.datasets.train
        some = tf.constant(y[:: -(-len(y) // _MOST_LABELS)])
        outputs = self.task.predict(tf.constant(x[:1])).shape[1:]
        losses = self.task.losses_of(some, tf.zeros([len(some), *outputs])).numpy()
        finite = np.abs(losses[np.isfinite(losses)], dtype=np.float64)
        return float(finite.mean()) if len(finite) else math.inf

    def _epochs(
        self,
        steps: npt.NDArray[np.int64],
        values: npt.NDArray[np.float32],
        train: Mapping[str, Floats],
        validation: Mapping[str, Floats],
    ) -> EpochMetrics:
        """The next epochs, with the best one up to each."""
        if steps[0] == 0:
            self.start_loss = float(train["loss"][0])
        losses = (validation or train)["loss"]
        before = np.minimum.accumulate(np.append(self.best.loss, losses))[:-1]
        best_step = np.maximum.accumulate(np.where(losses < before, steps, self.best.step))
        return EpochMetrics(steps, values, train, validation, best_step)

    def _by_closed_form(self, numbers: npt.ArrayLike) -> Iterator[dict[str, Floats]]:
        """The training and the validation loss [K] at trainable numbers [K, P]."""
        for part in self.closed_form[:2]:
            yield {"loss": part.loss(numbers)} if part else {}
