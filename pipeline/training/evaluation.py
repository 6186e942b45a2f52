"""Evaluation: the loss and the metrics of the model over all training and validation examples."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline import config as config_lib
from pipeline.data import datasets as datasets_lib
from pipeline.training import closed_form, hooks, metrics, passes, task

_MOST_STOPS = 1000  # epochs of a run that training stops at to be evaluated

Floats = npt.NDArray[np.floating[Any]]


class Evaluation(NamedTuple):
    """The mean loss, as 'loss', and the metrics of --metrics by name."""

    train: Mapping[str, float]
    validation: Mapping[str, float]  # empty without validation examples

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

    def select(self, index: Any) -> "EpochMetrics":
        """The epochs that a numpy index (slice, mask, positions) selects."""
        train, validation = ({k: v[index] for k, v in part.items()} for part in self[2:])
        return EpochMetrics(self.step[index], self.values[index], train, validation)


class Best(NamedTuple):
    """Step and loss of the epoch with the smallest validation (or else training) loss so far."""

    step: int = -1
    loss: float = math.inf


class Evaluator(hooks.Hook):
    """Evaluates a model: whenever asked, and while it trains at the ends of epochs.

    Training stops for it at up to 1,000 epochs of a run, evenly chosen. Where the closed form of
    linear regression gives all that is asked for from the rows, it does so for every epoch, and
    training does not stop.

    Attributes:
      task, datasets: What is evaluated, and on what.
      steps_per_epoch: Steps between the ends of epochs.
      closed_form: Least squares of the examples, where that is used instead of passes.
      best: The best epoch so far.
      best_variables: Its variables by name, None if an earlier process found it.
      report: Is called with the metrics of each evaluated epoch, in order.
    """

    def __init__(
        self, evaluated: task.Task, datasets: datasets_lib.Datasets, config: config_lib.Config
    ):
        """Prepares to evaluate the model of a task in the run of a config.

        Raises:
          errors.InputError: a metric is not for this model.
        """
        self.task, self.datasets = evaluated, datasets
        count, num_features = datasets.train.x.shape
        self.steps_per_epoch = config_lib.steps_per_epoch(count, config.batch_size)
        epochs_between = metrics.stride(config.epochs, _MOST_STOPS)
        self._steps_between = epochs_between * self.steps_per_epoch
        self._patience = config.early_stopping_patience
        self._passes = passes.Passes(evaluated, config, num_features=num_features)
        self.closed_form = closed_form.ClosedForm.of(evaluated, datasets, self._passes)
        self._has_metrics = bool(config.metric_names)
        is_in_rows = self.closed_form.train is not None and evaluated.watches_all
        self._stops = not is_in_rows or self._has_metrics or bool(self._patience)
        self.best = Best()
        self.best_variables: task.Arrays | None = None
        self.report: Callable[[EpochMetrics], object] = id

    def evaluate(self) -> Evaluation:
        """Evaluates the model as it is now."""
        train, validation = self.datasets.train, self.datasets.validation
        if self.closed_form.train and not self._has_metrics:
            parts = self._by_closed_form(self.task.numbers().numpy()[None])
            return Evaluation(*({k: float(v[0]) for k, v in part.items()} for part in parts))
        of_validation = self._passes.evaluate(validation) if validation else {}
        return Evaluation(self._passes.evaluate(train), of_validation)

    def next_stop(self, step: int) -> float:
        """The next step to be evaluated at."""
        every = self._steps_between
        return (step // every + 1) * every if self._stops else math.inf

    def before(self, step: int) -> None:
        """Evaluates where it is due; raises hooks.EndOfTraining where patience has run out."""
        if self._stops and step % self._steps_between == 0:
            evaluation = self.evaluate()
            if self._is_exhausted(step, evaluation):
                # What concerns this step is recorded after its checkpoint.
                raise hooks.EndOfTraining(step)
            if all(math.isfinite(part["loss"]) for part in evaluation if part):
                self.receive(step, evaluation)  # else the next step ends training

    def after(self, rows: metrics.StepMetrics) -> None:
        """Evaluates the ends of epochs among the rows by the closed form."""
        rows = rows.until_divergence().every(self.steps_per_epoch)
        if not self._stops and len(rows.step):
            self._report(EpochMetrics(*rows[:2], *self._by_closed_form(rows.values)))

    def receive(self, step: int, evaluation: Evaluation) -> None:
        """Takes and reports an evaluation of the model as it is now, at the end of an epoch."""
        parts = ({k: np.array([v]) for k, v in part.items()} for part in evaluation)
        self._report(EpochMetrics(np.array([step]), self.task.values().numpy()[None], *parts))

    def is_exhausted(self, step: int) -> bool:
        """Whether patience has run out at a step at which the model is now."""
        return bool(self._patience) and self._is_exhausted(step, self.evaluate())

    def _is_exhausted(self, step: int, evaluation: Evaluation) -> bool:
        """A function of the losses up to the step, so that it is the same after a resume."""
        if not self._patience or step % self._steps_between or evaluation.decisive < self.best.loss:
            return False
        return step - self.best.step >= self._patience * self._steps_between

    def _report(self, epochs: EpochMetrics) -> None:
        losses = (epochs.validation or epochs.train)["loss"]
        i = int(np.argmin(losses))
        if losses[i] < self.best.loss:
            self.best = Best(int(epochs.step[i]), float(losses[i]))
            of_row = not self._stops and self.task.by_variable(epochs.values[i])
            self.best_variables = of_row or self.task.arrays()
        self.report(epochs)

    def _by_closed_form(self, numbers: npt.ArrayLike) -> Iterator[dict[str, Floats]]:
        """The training and the validation loss [K] at trainable numbers [K, P]."""
        for part in self.closed_form[:2]:
            yield {"loss": part.loss(numbers)} if part else {}
