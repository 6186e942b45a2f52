"""Draws the plots of a run, as PNG files and for TensorBoard's Images dashboard."""

import dataclasses
import pathlib

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from matplotlib.figure import Figure

from pipeline import files
from pipeline.data import batch as batch_lib
from pipeline.data import datasets as datasets_lib
from pipeline.evaluation import linear
from pipeline.reporting import plots, summary_writer
from pipeline.training import hooks, step_metrics
from pipeline.training import task as task_lib

_SECONDS_BETWEEN_DRAWINGS = 5.0
_MOST_HISTOGRAMS = 16
_DRAWN = 4 ** np.arange(31, dtype=np.int64)  # steps


@dataclasses.dataclass(eq=False)
class ImageLogger(hooks.Hook):
    """Draws the plots of one run.

    If the examples are a table (x [N, D], y [N]) and the predictions are numbers, training pauses
    at steps 1, 4, 16, 64, ... to plot predictions, and at up to 16 evenly spaced steps for residual
    histograms. Plots are slow, so they are drawn every few seconds, or when a checkpoint is saved.
    """

    task: task_lib.Task
    datasets: datasets_lib.Datasets
    line: linear.Linear | None
    directory: pathlib.Path  # for PNG files
    writer: summary_writer.SummaryWriter
    last_step: int

    def __post_init__(self) -> None:
        """Chooses the plots and their steps."""
        train, self._sample = self.datasets.train, None
        if self.datasets.features and train.is_table:
            prediction = self.task.predict(tf.constant(train.x[:2]))
            if isinstance(prediction, tf.Tensor) and prediction.shape.rank in (1, 2):
                self._sample = plots.Sample.of(self.datasets)
        self._drawing = hooks.Every(seconds=_SECONDS_BETWEEN_DRAWINGS)
        # Pending figures and residuals, by step.
        self._figures: dict[int, Figure] = {}
        self._residuals: dict[int, npt.NDArray[np.floating]] = {}
        stride = step_metrics.power_of_two_stride(self.last_step, _MOST_HISTOGRAMS)
        self._counting = hooks.Every(steps=stride)

    def next_pause(self, step: int) -> float:
        """The next step with a plot or a histogram."""
        if self._sample is None:
            return float("inf")
        drawn = float(_DRAWN[np.searchsorted(_DRAWN, step, side="right")])
        return min(drawn, self._counting.next_pause(step))

    def pause(self, step: int) -> None:
        """Predicts for the plot or the histogram of this step."""
        if self._sample and step in _DRAWN:
            self._figures[step] = self._predictions(self._sample, f"Step {step:,}")
        if self._sample and self._counting.next_pause(step - 1) == step:
            self._keep_residuals(self._sample, step)

    def after(self, rows: step_metrics.StepMetrics) -> None:
        """Draws the pending plots every few seconds."""
        del rows
        if self._drawing.is_due():
            self.flush()

    def start(self) -> None:
        """Plots the data and the predictions of the untrained model."""
        if self._sample:
            self._save("data", 0, plots.data(self._sample))
            figure = self._predictions(self._sample, "Before training")
            self._save("before_training", 0, figure, tag="fit")

    def finish(self, rows: step_metrics.StepMetrics, title: str = "After training") -> None:
        """Plots the current model and its training, from a selection of rows with the last one."""
        names, last_step = self.task.variables.watched, int(rows.step[-1])
        # A run that diverged may have stopped at the last good step or after it.
        for waiting in (self._figures, self._residuals):
            for step in [step for step in waiting if step >= last_step]:
                del waiting[step]
        if self._sample:
            self._keep_residuals(self._sample, last_step)
        self.flush()
        truth = self.line.truth if self.line else None
        self._save("parameters", last_step, plots.values(rows, names, truth=truth))
        if self._sample:
            figure = self._predictions(self._sample, title)
            self._save("trained", last_step, figure, tag="fit")
        if self.line and self.line.reference and len(names) == 2:
            path = plots.loss_surface(rows, names, self.line.reference, truth=truth)
            self._save("path", last_step, path)
        importance = self.line.importance if self.line else {}
        if len(importance) > 1:
            self._save("importance", last_step, plots.importance(importance))

    def flush(self) -> None:
        """Draws the pending plots and histograms."""
        for step, figure in self._figures.items():
            self.writer.image(step, "fit", plots.png(figure))
        for step, residuals in self._residuals.items():
            self.writer.histogram(step, "residuals", residuals)
        self._figures.clear()
        self._residuals.clear()
        self._drawing.done()

    def _predictions(self, sample: plots.Sample, title: str) -> Figure:
        """Plots the predictions of the current model."""
        examples = batch_lib.Batch(tf.constant(sample.x), tf.constant(sample.y))
        predicted = self.task.predict(tf.constant(sample.inputs)).numpy()
        loss = float(self.task.loss(examples))
        return plots.predictions(sample, sample.in_units(predicted), loss=loss, title=title)

    def _keep_residuals(self, sample: plots.Sample, step: int) -> None:
        """Keeps the residuals for a histogram, if the model has one output."""
        y = sample.y.astype(np.float64)  # the difference of large float32 numbers may overflow
        predictions = self.task.predict(tf.constant(sample.x)).numpy()
        if predictions.ndim == 1:
            self._residuals[step] = sample.in_units(y) - sample.in_units(predictions)

    def _save(self, name: str, step: int, figure: Figure, *, tag: str = "") -> None:
        """Saves a figure as a PNG file and in TensorBoard, where the predictions come first."""
        png = plots.png(figure)
        path = self.directory / f"{name}.png"
        with files.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with files.replacing(path) as unfinished:
                unfinished.write_bytes(png)
        self.writer.image(step, tag or f"training/{name}", png)
