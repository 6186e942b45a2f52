"""Draws the plots of a run, as PNG files and for TensorBoard's Images dashboard."""

import pathlib
from typing import NamedTuple

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


class _Snapshot(NamedTuple):
    """What is drawn of the model at a step."""

    step: int
    drawn: plots.Array  # [P] or [P, C], predictions of the sample's inputs
    loss: float  # of the sample's examples


class ImageLogger(hooks.Hook):
    """Draws the plots of one run.

    If the examples are a table (x [N, D], y [N]) and the predictions numbers, training pauses at
    the steps 1, 4, 16, 64, ... to draw them, and at up to 16 even steps for the distribution of the
    residuals. Drawing takes as long as many thousand training steps, so it waits until some seconds
    have passed, or a checkpoint is saved.
    """

    def __init__(
        self,
        task: task_lib.Task,
        datasets: datasets_lib.Datasets,
        line: linear.Linear | None,
        directory: pathlib.Path,
        writer: summary_writer.SummaryWriter,
        *,
        last_step: int,
    ):
        """Prepares to draw the model of a task; PNG files go into the directory."""
        self._task, self._line = task, line
        self._sample = plots.Sample.of(datasets) if _draws(task, datasets) else None
        self._directory, self._writer = directory, writer
        self._drawing = hooks.Every(seconds=_SECONDS_BETWEEN_DRAWINGS)
        self._pending: list[_Snapshot] = []
        self._residuals: dict[int, npt.NDArray[np.floating]] = {}  # that wait, by step
        stride = step_metrics.power_of_two_stride(last_step, _MOST_HISTOGRAMS)
        self._counting = hooks.Every(steps=stride)

    def next_pause(self, step: int) -> float:
        """The next step to be drawn, or with a histogram."""
        if self._sample is None:
            return float("inf")
        drawn = float(_DRAWN[np.searchsorted(_DRAWN, step, side="right")])
        return min(drawn, self._counting.next_pause(step))

    def pause(self, step: int) -> None:
        """Predicts what is to be drawn, or whose residuals are to be counted."""
        if self._sample and step in _DRAWN:
            self._pending.append(self._predict(self._sample, step))
        if self._sample and self._counting.next_pause(step - 1) == step:
            self._keep_residuals(self._sample, step)

    def after(self, rows: step_metrics.StepMetrics) -> None:
        """Draws what waits when some seconds have passed."""
        del rows
        if self._drawing.is_due():
            self.flush()

    def start(self) -> None:
        """Draws the data, and the predictions of the untrained model."""
        if self._sample:
            self._save("data", 0, plots.data(self._sample))
        self._save_predictions("before_training", 0, "Before training")

    def finish(self, rows: step_metrics.StepMetrics, title: str = "After training") -> None:
        """Draws the model as it is and how it came to be, from a selection of rows with the last.

        The title says which model it is.
        """
        names, last_step = self._task.variables.watched, int(rows.step[-1])
        # A run that diverged may have stopped at the last good step or after it.
        self._pending = [each for each in self._pending if each.step < last_step]
        self._residuals = {s: array for s, array in self._residuals.items() if s < last_step}
        if self._sample:
            self._keep_residuals(self._sample, last_step)
        self.flush()
        truth = self._line.truth if self._line else None
        self._save("parameters", last_step, plots.values(rows, names, truth=truth))
        self._save_predictions("trained", last_step, title)
        if self._line and self._line.reference and len(names) == 2:
            path = plots.loss_surface(rows, names, self._line.reference, truth=truth)
            self._save("path", last_step, path)
        importance = self._line.importance if self._line else {}
        if len(importance) > 1:
            self._save("importance", last_step, plots.importance(importance))

    def flush(self) -> None:
        """Draws the predictions, and counts the residuals, that wait."""
        for each in self._pending:
            figure = self._plot(each, f"Step {each.step:,}")
            self._writer.image(each.step, "fit", plots.png(figure))
        for step, residuals in self._residuals.items():
            self._writer.histogram(step, "residuals", residuals)
        self._pending.clear()
        self._residuals.clear()
        self._drawing.done()

    def _predict(self, sample: plots.Sample, step: int) -> _Snapshot:
        examples = batch_lib.Batch(tf.constant(sample.x), tf.constant(sample.y))
        predictions = self._task.predict(examples.x)
        loss = self._task.loss(examples)
        has_inputs = sample.inputs is not sample.x
        drawn = self._task.predict(tf.constant(sample.inputs)) if has_inputs else predictions
        return _Snapshot(step, sample.in_units(drawn.numpy()), float(loss))

    def _plot(self, snapshot: _Snapshot, title: str) -> Figure:
        assert self._sample
        return plots.predictions(self._sample, snapshot.drawn, loss=snapshot.loss, title=title)

    def _keep_residuals(self, sample: plots.Sample, step: int) -> None:
        """Keeps the residuals to be counted, if the model has one output."""
        y = sample.y.astype(np.float64)  # or the difference of large numbers would overflow
        predictions = self._task.predict(tf.constant(sample.x)).numpy()
        if predictions.ndim == 1:
            self._residuals[step] = sample.in_units(y) - sample.in_units(predictions)

    def _save_predictions(self, name: str, step: int, title: str) -> None:
        if self._sample:
            self._save(name, step, self._plot(self._predict(self._sample, step), title), tag="fit")

    def _save(self, name: str, step: int, figure: Figure, *, tag: str = "") -> None:
        """Leaves a figure as a file and in TensorBoard, whose Images begin with the predictions."""
        png = plots.png(figure)
        path = self._directory / f"{name}.png"
        with files.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with files.replacing(path) as unfinished:
                unfinished.write_bytes(png)
        self._writer.image(step, tag or f"training/{name}", png)


def _draws(task: task_lib.Task, datasets: datasets_lib.Datasets) -> bool:
    """Whether the examples are a table, and the predictions numbers."""
    if not (datasets.features and datasets.train.is_table and datasets.train.weight is None):
        return False
    prediction = task.predict(tf.constant(datasets.train.x[:2]))
    return isinstance(prediction, tf.Tensor) and prediction.shape.rank in (1, 2)
