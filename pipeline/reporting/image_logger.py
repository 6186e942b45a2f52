"""Draws the plots of a run, as PNG files and for TensorBoard's Images dashboard."""

import pathlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from pipeline import files
from pipeline.reporting import plots, summary_writer
from pipeline.training import evaluation, hooks, metrics

_SECONDS_BETWEEN_DRAWINGS = 5.0
_DRAWN = 4 ** np.arange(31, dtype=np.int64)  # steps


class _Fit(NamedTuple):
    """What is drawn of the model at a step."""

    step: int
    drawn: plots.Array  # [P] or [P, C], predictions of the sample's inputs
    predictions: plots.Array  # [N] or [N, C], of the sample's examples
    loss: float  # of the sample's examples


class ImageLogger(hooks.Hook):
    """Draws the plots of one run.

    Training stops at the steps 1, 4, 16, 64, ... to predict what the fit is drawn of. Drawing
    takes as long as many thousand training steps, so it waits until some seconds have passed, or
    a checkpoint is saved.
    """

    def __init__(
        self,
        evaluator: evaluation.Evaluator,
        directory: pathlib.Path,
        writer: summary_writer.SummaryWriter,
    ):
        """Prepares to draw the model that is evaluated; PNG files go into the directory."""
        self._sample = plots.Sample.of(evaluator.datasets)
        self._task, self._evaluator = evaluator.task, evaluator
        self._directory, self._writer = directory, writer
        self._drawing = hooks.Every(seconds=_SECONDS_BETWEEN_DRAWINGS)
        self._pending: list[_Fit] = []

    def next_stop(self, step: int) -> float:
        """The next step to be drawn."""
        return float(_DRAWN[np.searchsorted(_DRAWN, step, side="right")])

    def before(self, step: int) -> None:
        """Predicts where a fit is to be drawn."""
        if step in _DRAWN:
            self._pending.append(self._predict(step))

    def after(self, rows: metrics.StepMetrics) -> None:
        """Draws what waits when some seconds have passed."""
        del rows
        if self._drawing.is_due():
            self.flush()

    def start(self) -> None:
        """Draws the data, and the fit of the untrained model."""
        self._save("data", 0, plots.data(self._sample))
        fit = self._predict(0)
        self._save("before_training", 0, self._plot(fit, "Before training"))
        self._residuals(fit)

    def finish(self, rows: metrics.StepMetrics) -> None:
        """Draws the trained model and how it came to be, from a selection of rows with the last."""
        names = self._task.names
        last_step, reference = int(rows.step[-1]), self._evaluator.closed_form.train
        self.before(last_step)
        self.flush()
        line = self._sample.truth if reference and len(names) == 2 else None
        truth = np.array(line[:2]) if line and line.is_line else None
        self._save("parameters", last_step, plots.values(rows, names, truth=truth))
        fit = self._predict(last_step)
        self._save("trained", last_step, self._plot(fit, "After training"))
        if reference and len(names) == 2:
            path = plots.loss_surface(rows, names, reference, truth=truth)
            self._save("path", last_step, path)
        if last_step not in _DRAWN:
            self._residuals(fit)

    def flush(self) -> None:
        """Draws the fits that wait."""
        for fit in self._pending:
            figure = self._plot(fit, f"Step {fit.step:,}")
            self._writer.image(fit.step, "fit", plots.png(figure))
            self._residuals(fit)
        self._pending.clear()
        self._drawing.done()

    def _predict(self, step: int) -> "_Fit":
        sample = self._sample
        predictions = self._task.predict(sample.x)
        losses = self._task.losses_of(tf.constant(sample.y), predictions) + self._task.penalty()
        has_inputs = sample.inputs is not sample.x
        drawn = self._task.predict(sample.inputs) if has_inputs else predictions
        loss = np.mean(losses.numpy(), dtype=np.float64)
        return _Fit(step, drawn.numpy(), predictions.numpy(), float(loss))

    def _plot(self, fit: "_Fit", title: str) -> Figure:
        return plots.fit(self._sample, fit.drawn, loss=fit.loss, title=title)

    def _residuals(self, fit: "_Fit") -> None:
        """Writes the distribution of the residuals, where the model has one output."""
        y = self._sample.y.astype(np.float64)  # or the difference of large numbers would overflow
        if fit.predictions.ndim == 1:
            self._writer.histogram(fit.step, "residuals", y - fit.predictions)

    def _save(self, name: str, step: int, figure: Figure) -> None:
        png = plots.png(figure)
        self._directory.mkdir(parents=True, exist_ok=True)
        with files.replacing(self._directory / f"{name}.png") as unfinished:
            unfinished.write_bytes(png)
        self._writer.image(step, name, png)
