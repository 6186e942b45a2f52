"""All that is made of a run's points while it trains."""

from typing import NamedTuple

import numpy as np
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


class Recorder:
    """Observes training: event files, table, pictures; ends it where it diverges."""

    def __init__(
        self,
        config: config_lib.Config,
        data: examples.Data,
        yardstick: Yardstick,
        *,
        paths: folder.RunFolder,
        steps_per_epoch: int,
    ):
        """Opens the event files in a run's folder."""
        self._config = config
        self._data = data
        self._yardstick = yardstick
        self._paths = paths
        self._steps_per_epoch = steps_per_epoch
        self._last_step = config.epochs * steps_per_epoch
        self._summaries = summaries.RunSummaries(paths.events, features=data.features)
        self._console = console.Console(epochs=config.epochs, last_step=self._last_step)
        self._history = metrics.History(self._last_step)
        self._last: metrics.StepMetrics | None = None

    def start(self, model: metrics.Parameters) -> None:
        """Draws what is known before training."""
        for curve, at in (
            ("least_squares", self._yardstick.least_squares),
            ("truth", self._yardstick.truth),
        ):
            if at is not None:
                loss = self._yardstick.loss(at)
                self._summaries.reference(curve, at, loss=loss, last_step=self._last_step)
        self._picture("data", 0, figures.data(self._data))
        self._picture("before_training", 0, self._fit(model, title="Before training"))

    def __call__(self, points: metrics.StepMetrics) -> None:
        """Takes the next stretch of points.

        Raises:
          errors.DivergedError: a point is not finite; the points before it are kept.
        """
        finite = points.is_finite()
        good = points if finite.all() else points.at(slice(0, int(np.argmin(finite))))
        if len(good.step):
            self._record(good)
            self._last = good.at(slice(-1, None))
        if not finite.all():
            raise errors.DivergedError(self._divergence(points, int(np.argmin(finite))))

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

    def close(self) -> None:
        """Ends the event files."""
        self._summaries.close()

    def _record(self, points: metrics.StepMetrics) -> None:
        ends = self._epoch_ends(points)
        self._history(points)
        self._summaries.steps(points)
        self._summaries.epochs(ends)
        self._console.epochs(ends)
        self._console.progress(int(points.step[-1]), float(points.loss[-1]))

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

    def _divergence(self, points: metrics.StepMetrics, bad: int) -> str:
        message = f"the loss is not finite at step {points.step[bad]}"
        if self._last is not None:
            last = self._last
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
