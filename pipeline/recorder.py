"""All that is made of a run's points while it trains."""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from pipeline import config as config_lib
from pipeline import console, errors, examples, figures, folder, losses, metrics, summaries


class Yardstick(NamedTuple):
    """What training is measured against.

    Attributes:
      train: The loss over the training examples; its minimum is least squares.
      validation: The loss over the validation examples, or None.
      truth: What synthetic data were drawn from, or None.
    """

    train: losses.QuadraticLoss
    validation: losses.QuadraticLoss | None
    truth: metrics.Parameters | None

    @classmethod
    def of(cls, config: config_lib.Config, data: examples.Data) -> "Yardstick":
        """Measures the examples."""
        truth = metrics.Parameters(np.array([config.true_w]), config.true_b)
        return cls(
            train=losses.QuadraticLoss.over(*data.train),
            validation=data.validation and losses.QuadraticLoss.over(*data.validation),
            truth=None if config.data else truth,
        )

    @property
    def least_squares(self) -> metrics.Parameters:
        """The parameters of the smallest training loss."""
        return metrics.Parameters(self.train.W, self.train.b)

    def loss(self, at: metrics.Parameters) -> float:
        """The training loss at some parameters."""
        return float(self.train.at([at.W], [at.b])[0])


class Best(NamedTuple):
    """The epoch with the smallest validation loss, or training loss where there is none.

    Attributes:
      step: The epoch's last step, -1 where there was no epoch yet.
      loss: Its loss.
      W: [D] or a scalar.
      b: A scalar.
    """

    step: int = -1
    loss: float = math.inf
    W: npt.ArrayLike = math.nan
    b: npt.ArrayLike = math.nan

    def or_better(self, ends: metrics.EpochMetrics) -> "Best":
        """The best of this one and some later epochs."""
        losses = ends.loss if ends.validation_loss is None else ends.validation_loss
        if not len(losses) or not losses.min() < self.loss:
            return self
        i = int(np.argmin(losses))
        return Best(int(ends.step[i]), float(losses[i]), ends.W[i], ends.b[i])


class Recorder:
    """Observes training: event files, table, history; ends it where it diverges.

    Attributes:
      recorded: Points recorded so far; the next is the point of that number.
    """

    def __init__(
        self,
        config: config_lib.Config,
        data: examples.Data,
        yardstick: Yardstick,
        *,
        paths: folder.RunFolder,
        steps_per_epoch: int,
        state: Mapping[str, npt.NDArray[Any]] | None = None,
    ):
        """Opens the event files in a run's folder.

        Args:
          config: The settings.
          data: The examples.
          yardstick: What training is measured against.
          paths: The folder.
          steps_per_epoch: Steps in an epoch.
          state: What another recorder of the run had in `state`, to go on from there.
        """
        self._config = config
        self._data = data
        self._yardstick = yardstick
        self._paths = paths
        self._steps_per_epoch = steps_per_epoch
        self._last_step = config.epochs * steps_per_epoch
        points, self._best, self.recorded = metrics.no_points(data.train.x.shape[1:]), Best(), 0
        if state is not None:
            points = metrics.StepMetrics(*(state[f"history_{k}"] for k in points._fields))
            self._best = Best(
                int(state["best_step"]), float(state["best_loss"]), state["best_W"], state["best_b"]
            )
            self.recorded = int(state["recorded"])
            # What was recorded after that state will be recorded again.
            summaries.cut_back(paths.path, json.loads(str(state["event_files"])))
        self._history = metrics.History(self._last_step, points)
        self._summaries = summaries.RunSummaries(
            paths.path, features=data.features, first_step=self.recorded
        )
        self._console = console.Console(epochs=config.epochs, last_step=self._last_step)

    def start(self, model: metrics.Parameters) -> None:
        """Draws what is known before training."""
        self._draw_references([0, self._last_step])
        self._picture("data", 0, figures.data(self._data))
        self._picture("before_training", 0, self._fit(model, title="Before training"))

    def __call__(self, points: metrics.StepMetrics) -> None:
        """Takes the next stretch of points.

        Raises:
          errors.DivergedError: a point is not finite; the points before it are kept.
        """
        points = points.at(points.step >= self.recorded)
        finite = points.is_finite()
        good = points if finite.all() else points.at(slice(0, int(np.argmin(finite))))
        if len(good.step):
            self._record(good)
        if not finite.all():
            raise errors.DivergedError(self._divergence(int(points.step[np.argmin(finite)])))

    def finish(self) -> None:
        """Draws the trained model and prints the yardstick."""
        points = self._history.points()
        trained = metrics.Parameters(np.atleast_1d(points.W[-1]), float(points.b[-1]))
        truth = self._yardstick.truth
        path = figures.parameters(points, self._data.features, truth=truth)
        self._picture("parameters", self._last_step, path)
        self._picture("trained", self._last_step, self._fit(trained, title="After training"))
        best = self._yardstick.least_squares
        report = console.report(best.W, best.b, self._yardstick.train.minimum)
        self._console.line(f"Least squares: {report}")

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """All that another recorder needs to go on from here, as arrays."""
        arrays = {f"history_{k}": v for k, v in self._history.points()._asdict().items()}
        arrays |= {f"best_{k}": np.asarray(v) for k, v in self._best._asdict().items()}
        sizes = json.dumps(self._summaries.sizes())
        return arrays | {
            "recorded": np.asarray(self.recorded),
            "last_step": np.asarray(self._last_step),
            "event_files": np.asarray(sizes),
        }

    @property
    def best(self) -> "Best":
        """The best epoch so far."""
        return self._best

    def close(self) -> None:
        """Ends the event files."""
        self._summaries.close()

    def extend(self) -> None:
        """Draws the flat lines on, to the last step of a run that was made longer."""
        self._draw_references([self._last_step])

    def _draw_references(self, steps: list[int]) -> None:
        for curve, at in (
            ("least_squares", self._yardstick.least_squares),
            ("truth", self._yardstick.truth),
        ):
            if at is not None:
                loss = self._yardstick.loss(at)
                self._summaries.reference(curve, at, loss=loss, steps=steps)

    def _record(self, points: metrics.StepMetrics) -> None:
        ends = self._epoch_ends(points)
        self._history(points)
        self._best = self._best.or_better(ends)
        self._summaries.steps(points)
        self._summaries.epochs(ends)
        self._console.epochs(ends)
        self._console.progress(int(points.step[-1]), float(points.loss[-1]))
        self.recorded = int(points.step[-1]) + 1

    def _epoch_ends(self, points: metrics.StepMetrics) -> metrics.EpochMetrics:
        """Those of the points with which an epoch ends, measured over all examples."""
        ends = points.at(points.step % self._steps_per_epoch == 0)
        validation = self._yardstick.validation
        return metrics.EpochMetrics(
            epoch=ends.step // self._steps_per_epoch,
            step=ends.step,
            W=ends.W,
            b=ends.b,
            loss=self._yardstick.train.at(ends.W, ends.b),
            validation_loss=validation and validation.at(ends.W, ends.b),
        )

    def _divergence(self, step: int) -> str:
        message = f"the loss is not finite at step {step}"
        last = self._history.last
        if len(last.step):
            report = console.report(last.W[0], float(last.b[0]), float(last.loss[0]))
            message += f"; the last good step is {last.step[0]}: {report}"
        largest = self._yardstick.train.largest_stable_learning_rate()
        return (
            f"{message}; the largest stable learning rate for these data is {largest:.4g}; "
            f"received --learning_rate={self._config.learning_rate:g}"
        )

    def _fit(self, model: metrics.Parameters, *, title: str) -> Figure:
        loss = self._yardstick.loss(model)
        return figures.fit(self._data, model, truth=self._yardstick.truth, loss=loss, title=title)

    def _picture(self, name: str, step: int, figure: Figure) -> None:
        png = figures.png(figure)
        self._paths.figures.mkdir(exist_ok=True)
        (self._paths.figures / f"{name}.png").write_bytes(png)
        self._summaries.image(step, name, png)
