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
_MOST_HISTOGRAMS = 16
_DRAWN = 4 ** np.arange(31, dtype=np.int64)  # steps


class _Fit(NamedTuple):
    """What is drawn of the model at a step."""

    step: int
    drawn: plots.Array  # [P] or [P, C], predictions of the sample's inputs
    loss: float  # of the sample's examples


class ImageLogger(hooks.Hook):
    """Draws the plots of one run.

    Training pauses at the steps 1, 4, 16, 64, ... to predict what the fit is drawn of, and at up to
    16 even steps for the distribution of the residuals. Drawing takes as long as many thousand
    training steps, so it waits until some seconds have passed, or a checkpoint is saved.
    """

    def __init__(
        self,
        evaluator: evaluation.Evaluator,
        directory: pathlib.Path,
        writer: summary_writer.SummaryWriter,
        *,
        last_step: int,
    ):
        """Prepares to draw the model that is evaluated; PNG files go into the directory."""
        self._sample = plots.Sample.of(evaluator.datasets)
        self._task, self._evaluator = evaluator.task, evaluator
        self._directory, self._writer = directory, writer
        self._drawing = hooks.Every(seconds=_SECONDS_BETWEEN_DRAWINGS)
        self._pending: list[_Fit] = []
        self._residuals: dict[int, evaluation.Floats] = {}  # that wait, by step
        self._counting = hooks.Every(steps=metrics.stride(last_step, _MOST_HISTOGRAMS))

    def next_pause(self, step: int) -> float:
        """The next step to be drawn, or with a histogram."""
        drawn = float(_DRAWN[np.searchsorted(_DRAWN, step, side="right")])
        return min(drawn, self._counting.next_pause(step))

    def before(self, step: int) -> None:
        """Predicts where a fit is to be drawn, or residuals are to be counted."""
        if step in _DRAWN:
            self._pending.append(self._predict(step))
        if self._counting.next_pause(step - 1) == step:
            self._keep_residuals(step)

    def after(self, rows: metrics.StepMetrics) -> None:
        """Draws what waits when some seconds have passed."""
        del rows
        if self._drawing.is_due():
            self.flush()

    def start(self) -> None:
        """Draws the data, and the fit of the untrained model."""
        self._save("data", 0, plots.data(self._sample))
        self._save_fit("before_training", 0, "Before training")

    def finish(self, rows: metrics.StepMetrics, title: str = "After training") -> None:
        """Draws the model as it is and how it came to be, from a selection of rows with the last.

        The title says which model it is.
        """
        names = self._task.names
        last_step, reference = int(rows.step[-1]), self._evaluator.reference
        # Where it diverged, training may have stopped at the last good step or after it.
        self._pending = [fit for fit in self._pending if fit.step < last_step]
        self._residuals = {s: array for s, array in self._residuals.items() if s < last_step}
        self._keep_residuals(last_step)
        self.flush()
        has_w_and_b = reference and self._task.watches_all and len(names) == 2
        line = self._sample.truth if has_w_and_b else None
        truth = np.array(line[:2]) if line and line.is_line else None
        self._save("parameters", last_step, plots.values(rows, names, truth=truth))
        self._save_fit("trained", last_step, title)
        if reference and has_w_and_b:
            path = plots.loss_surface(rows, names, reference, truth=truth)
            self._save("path", last_step, path)
        importance = self._evaluator.importance
        if len(importance) > 1:
            self._save("importance", last_step, plots.importance(importance))

    def flush(self) -> None:
        """Draws the fits, and counts the residuals, that wait."""
        for fit in self._pending:
            self._writer.image(fit.step, "fit", plots.png(self._plot(fit, f"Step {fit.step:,}")))
        for step, residuals in self._residuals.items():
            self._writer.histogram(step, "residuals", residuals)
        self._pending.clear()
        self._residuals.clear()
        self._drawing.done()

    def _predict(self, step: int) -> "_Fit":
        sample = self._sample
        predictions = self._task.predict(sample.x)
        losses = self._task.losses_of(tf.constant(sample.y), predictions) + self._task.penalty()
        has_inputs = sample.inputs is not sample.x
        drawn = self._task.predict(sample.inputs) if has_inputs else predictions
        loss = float(np.mean(losses.numpy(), dtype=np.float64))
        return _Fit(step, sample.in_units(drawn.numpy()), loss)

    def _plot(self, fit: "_Fit", title: str) -> Figure:
        return plots.fit(self._sample, fit.drawn, loss=fit.loss, title=title)

    def _keep_residuals(self, step: int) -> None:
        """Keeps the residuals to be counted, where the model has one output."""
        y = self._sample.y.astype(np.float64)  # or the difference of large numbers would overflow
        predictions = self._task.predict(self._sample.x).numpy()
        if predictions.ndim == 1:
            self._residuals[step] = self._sample.in_units(y) - self._sample.in_units(predictions)

    def _save_fit(self, name: str, step: int, title: str) -> None:
        self._save(name, step, self._plot(self._predict(step), title), tag="fit")

    def _save(self, name: str, step: int, figure: Figure, *, tag: str = "") -> None:
        """Leaves a figure as a file and in TensorBoard, whose Images begin with the fit."""
        png = plots.png(figure)
        path = self._directory / f"{name}.png"
        with files.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with files.replacing(path) as unfinished:
                unfinished.write_bytes(png)
        self._writer.image(step, tag or f"training/{name}", png)
