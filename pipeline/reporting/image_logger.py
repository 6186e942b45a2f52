"""Draws the plots of a run, as PNG files and for TensorBoard's Images dashboard."""

import pathlib

import numpy as np
from matplotlib.figure import Figure

from pipeline import files
from pipeline.data import datasets as datasets_lib
from pipeline.reporting import plots, summary_writer
from pipeline.training import evaluation, hooks, metrics

_SECONDS_BETWEEN_DRAWINGS = 5.0
_MOST_RESIDUALS = 10_000
_DRAWN = 4 ** np.arange(31, dtype=np.int64)  # steps


class ImageLogger(hooks.Hook):
    """Draws the plots of one run.

    The fit is drawn at the steps 1, 4, 16, 64, ... Drawing takes as long as many thousand
    training steps, so a row waits until some seconds have passed, or a checkpoint is saved.
    """

    def __init__(
        self,
        evaluator: evaluation.Evaluator,
        directory: pathlib.Path,
        writer: summary_writer.SummaryWriter,
    ):
        """Prepares to draw the model that is evaluated; PNG files go into the directory."""
        train = evaluator.datasets.train
        self._sample = plots.Sample.of(evaluator.datasets)
        every = -(-len(train.y) // _MOST_RESIDUALS)
        self._some = datasets_lib.Examples(*(array[::every] for array in train))
        self._task, self._evaluator = evaluator.task, evaluator
        self._directory, self._writer = directory, writer
        self._drawing = hooks.Every(seconds=_SECONDS_BETWEEN_DRAWINGS)
        self._pending = metrics.empty(len(self._task.names))

    def start(self) -> None:
        """Draws the data, and the fit of the untrained model."""
        self._save("data", 0, plots.data(self._sample))
        self._save("before_training", 0, self._fit("Before training"))
        self._residuals(0)

    def after(self, rows: metrics.StepMetrics) -> None:
        """Takes the rows of the next steps, and draws when some seconds have passed."""
        rows = rows.until_divergence()
        index = np.searchsorted(rows.step, _DRAWN)
        index = index[np.isin(_DRAWN, rows.step[index[index < len(rows.step)]])]
        self._pending = metrics.concatenate(self._pending, rows.select(index))
        if self._drawing.is_due():
            self.flush()

    def finish(self, rows: metrics.StepMetrics) -> None:
        """Draws the trained model and how it came to be, from a selection of rows with the last."""
        names = self._task.names
        last_step, reference = int(rows.step[-1]), self._evaluator.least_squares
        self.after(rows.select(slice(-1, None)))
        self.flush()
        truth = np.array(self._sample.truth) if reference and self._sample.truth else None
        self._save("parameters", last_step, plots.values(rows, names, truth=truth))
        self._save("trained", last_step, self._fit("After training"))
        if reference and len(names) == 2:
            path = plots.loss_surface(rows, names, reference, truth=truth)
            self._save("path", last_step, path)
        if last_step not in _DRAWN:
            self._residuals(last_step)

    def flush(self) -> None:
        """Draws the rows taken so far."""
        for step, values in zip(self._pending.step, self._pending.values, strict=True):
            with self._task.at(values):
                self._writer.image(int(step), "fit", plots.png(self._fit(f"Step {step:,}")))
                self._residuals(int(step))
        self._pending = metrics.empty(len(self._task.names))
        self._drawing.done()

    def _fit(self, title: str) -> Figure:
        predictions = self._task.predict(self._sample.inputs).numpy()
        loss = self._evaluator.losses().train
        return plots.fit(self._sample, predictions, loss=loss, title=title)

    def _residuals(self, step: int) -> None:
        """Writes the distribution of the residuals of an even selection of examples."""
        y = self._some.y.astype(np.float64)  # or the difference of large numbers would overflow
        self._writer.histogram(step, "residuals", y - self._task.predict(self._some.x).numpy())

    def _save(self, name: str, step: int, figure: Figure) -> None:
        png = plots.png(figure)
        self._directory.mkdir(parents=True, exist_ok=True)
        with files.replacing(self._directory / f"{name}.png") as unfinished:
            unfinished.write_bytes(png)
        self._writer.image(step, name, png)
