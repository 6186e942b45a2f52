"""Writes the summaries, images and progress of a run while it trains."""

import pathlib
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import config as config_lib
from pipeline.data import linear_units
from pipeline.reporting import image_logger, progress, results, summary_writer
from pipeline.training import clock as clock_lib
from pipeline.training import evaluation, hooks, metrics, optimizers, regression

_MOST_RECORDED = 10_000  # steps of a run
_SECONDS_BETWEEN_RATES = 1.0
_LEAST_SECONDS_OF_RATE = 0.1  # of a shorter run
_MOST_HISTOGRAMS = 100  # of a variable
_MOST_REFERENCES = 16  # points of a flat line
_MOST_LISTED = 10  # features
_TABLE = "metrics.csv"


class Recorder(hooks.Hook):
    """Writes what TensorBoard shows; its `images` and `progress` are hooks of their own.

    Its `history` is a selection of the rows so far, of those that are finite.
    """

    def __init__(
        self,
        config: config_lib.Config,
        evaluator: evaluation.Evaluator,
        *,
        directory: pathlib.Path,
        repeat_command: str,
        compilation: str,
        clock: clock_lib.Clock,
        history: metrics.StepMetrics,
        event_files: Mapping[str, int],
    ):
        """Prepares to record the training of the model that is evaluated.

        Event files go into the directory, PNG files into its figures/. repeat_command is a command
        line that trains the run again, `compilation` says how the steps are run; the loops tell
        the clock of them. `history` and `event_files` are what `history.rows()` and `flush()` gave
        in an earlier process.
        """
        self._config, self._datasets = config, evaluator.datasets
        self._repeat_command, self._compilation = repeat_command, compilation
        self._steps_per_epoch = evaluator.steps_per_epoch
        self._last_step = config.last_step(self._datasets.num_train)
        self._steps_between = evaluator.steps_between
        self._task, self._reference = evaluator.task, evaluator.reference
        self._evaluator = evaluator
        self._names = self._task.names
        self._learning_rate = optimizers.LearningRate(config, self._last_step)
        self._every = config.summary_every or metrics.stride(self._last_step, _MOST_RECORDED)
        self.history = metrics.History(self._last_step, history)
        self._clock = clock
        self._rated = clock.steps, clock.seconds
        self._open(directory, dict(event_files))

    def _open(self, directory: pathlib.Path, earlier: dict[str, int]) -> None:
        """Prepares all that is written to, beside what was written earlier."""
        self._table = results.MetricsTable(directory / _TABLE, size=earlier.pop(_TABLE, 0))
        self._writer = summary_writer.SummaryWriter(
            directory,
            names=self._names,
            metric_names=self._config.metric_names,
            clock=self._clock,
            first_step=self.history.last.end,
            earlier=earlier,
        )
        self.images = image_logger.ImageLogger(
            self._evaluator, directory / "figures", self._writer, last_step=self._last_step
        )
        self.progress = progress.Progress(
            self._names, steps_per_epoch=self._steps_per_epoch, last_step=self._last_step
        )

    def start(self, graph: Any | None) -> None:
        """Writes what is known before training; `graph` is the GraphDef of the step, if any."""
        examples = {"num_examples": self._datasets.num_train}
        self._writer.hparams(self._config.compared | examples)
        self._writer.layout()
        self._writer.text("settings", self._settings(), step=0)
        if graph is not None:
            self._writer.graph(graph)
        self.images.start()

    def extend(self, step: int) -> None:
        """Writes the new settings of a run that got more epochs.

        Not in HParams: TensorBoard keeps what it has read there first.
        """
        self._writer.text("settings", self._settings(), step=step)

    def after(self, rows: metrics.StepMetrics) -> None:
        """Records the next rows; raises hooks.Divergence at the first one that is not good."""
        good, epochs = self._evaluator.evaluate_rows(rows)
        if len(good.step):
            shown = good._replace(values=self._evaluator.shown(good.values))
            self.history.add(shown)
            self._write_steps(shown)
            self._write_rates(shown.end)
        self._evaluator.report_epochs(epochs)
        if len(good.step) < len(rows.step):
            first = len(good.step)
            raise hooks.Divergence(int(rows.step[first]), float(rows.loss[first]))

    def epochs(self, ends: evaluation.EpochMetrics) -> None:
        """Records the next evaluated epochs."""
        epochs_between = max(1, self._every // self._steps_per_epoch)
        due = ends.select(self._due(ends.step, epochs_between * self._steps_per_epoch))
        if due.validation:
            self._writer.scalars(due.step, {"loss": due.validation["loss"]}, curve="validation")
        self._write_evaluations(ends.select(self._due(ends.step, self._steps_between)))
        if not self._task.watches_all:  # then training has stopped for a single epoch
            self._write_histograms(int(ends.step[0]))
        self.progress.epochs(ends._replace(values=self._evaluator.shown(ends.values)))

    def end_early(self, step: int) -> None:
        """Makes a step the last one of the run."""
        self._last_step = self.progress.last_step = step
        epochs = step // self._steps_per_epoch
        self.progress.line(
            f"Ending early, after epoch {epochs:,}: no smaller {self._evaluator.decisive_loss} in "
            f"--early_stopping_patience={self._config.early_stopping_patience} evaluations"
        )

    def finish(
        self,
        last: metrics.StepMetrics,
        final: evaluation.Evaluation,
        fits: Mapping[str, Mapping[str, regression.Fit]],
    ) -> None:
        """Records the trained model: the row of the last step, its evaluation and its fits."""
        last = last._replace(values=self._evaluator.shown(last.values))
        self.history.add(last)
        self._write_steps(last)
        self.images.finish(self.history.rows())
        own = fits.get("model", {})
        parts = (own[part]._asdict() if part in own else {} for part in ("training", "validation"))
        numbers = {**final.named, **evaluation.Evaluation(*parts).named}
        self._end(last.step, final=numbers, diverged=0)
        if self._reference:
            values = self._task.values_at(self._reference.solution)
            report = progress.report(self._names, values, {"loss": self._reference.minimum})
            self.progress.line(f"Least squares: {report}")
        self._report(fits)

    def _report(self, fits: Mapping[str, Mapping[str, regression.Fit]]) -> None:
        """Prints and writes how good the model is, and which features it depends on."""
        for line in progress.table_of_fits(fits, self._datasets.label):
            self.progress.line(line)
        importance = self._evaluator.importance
        if len(importance) > 1:
            first = [f"{name} {size:.3g}" for name, size in list(importance.items())[:_MOST_LISTED]]
            rest = ", ..." * (len(importance) > _MOST_LISTED)
            self.progress.line(
                f"Importance, |W| of standardized features: {', '.join(first)}{rest}"
            )
            rows = "\n".join(f"| {name} | {size:.6g} |" for name, size in importance.items())
            table = f"| feature | \\|W\\| standardized |\n|---|---|\n{rows}"
            self._writer.text("importance", table, step=self._last_step)

    def diverged(self, message: str) -> None:
        """Records that the run diverged, and how it came to that."""
        rows = self.history.rows()
        if len(rows.step):
            title = "After it diverged"
            if self._task.watches_all:
                numbers, units = rows.values[-1:], self._evaluator.units
                (numbers,) = linear_units.standardized(numbers, units) if units else numbers
                self._task.assign(self._task.by_variable(numbers))
                title = f"Step {rows.step[-1]:,}, before it diverged"
            self.images.finish(rows, title)
        self._end(rows.step[-1:], final={}, diverged=1)
        self._writer.text("outcome", message, step=rows.end)

    def flush(self) -> dict[str, int]:
        """Draws and writes what waits; returns the sizes of the files in bytes."""
        self.images.flush()
        return self._writer.sizes() | {_TABLE: self._table.size()}

    def close(self) -> None:
        """Closes the event files, and ends the progress line."""
        self._writer.close()
        self.progress.close()

    def _due(self, steps: npt.NDArray[np.int64], every: int) -> Any:
        """The index of the steps that are recorded: every so many, and always the last."""
        return slice(None) if every == 1 else (steps % every == 0) | (steps == self._last_step)

    def _write_steps(self, rows: metrics.StepMetrics) -> None:
        self._writer.steps(rows.select(self._due(rows.step, self._every)))
        between = max(self._every, metrics.stride(self._last_step, _MOST_REFERENCES))
        self._write_references(rows.step[self._due(rows.step, between)])
        some = rows.select(self._due(rows.step, max(self._every, self.history.stride)))
        if not len(some.step):
            return
        values: dict[str, npt.ArrayLike] = {
            "training/learning_rate": self._learning_rate.at(some.step),
            "training/gradient_norm": some.gradient_norm,
        }
        if self._reference and self._task.watches_all:
            values["training/distance_to_optimum"] = self._reference.distance(some.values)
        self._writer.scalars(some.step, values)

    def _write_histograms(self, step: int) -> None:
        """Writes the distribution of the numbers in each trainable variable."""
        epochs_between = metrics.stride(self._config.epochs, _MOST_HISTOGRAMS)
        if step % (epochs_between * self._steps_per_epoch) == 0 or step == self._last_step:
            for name, variable in self._task.trainable.items():
                self._writer.histogram(step, name, variable.numpy())

    def _end(self, step: npt.ArrayLike, *, final: Mapping[str, float], diverged: int) -> None:
        """Writes what runs are compared by in HParams."""
        if np.size(step):
            numbers = {"diverged": diverged, **final}
            tags = {f"final/{name}": [number] for name, number in numbers.items()}
            self._writer.scalars(step, tags, curve="final")
        self._writer.end(is_success=not diverged)

    def _write_evaluations(self, ends: evaluation.EpochMetrics) -> None:
        """Writes the losses and metrics over all examples."""
        epoch, best = (step // self._steps_per_epoch for step in (ends.step, ends.best_step))
        columns: dict[str, npt.NDArray[Any]] = {"step": ends.step, "epoch": epoch}
        for part, curve, numbers in (
            ("", "train", ends.train),
            ("validation_", "validation", ends.validation),
        ):
            if numbers:
                tags: dict[str, Any] = {f"evaluation/{name}": v for name, v in numbers.items()}
                if curve == "train":
                    tags["evaluation/best_epoch"] = best
                self._writer.scalars(ends.step, tags, curve=curve)
            columns |= {f"{part}{name}": values for name, values in numbers.items()}
        columns["learning_rate"] = self._learning_rate.at(ends.step)
        self._table.add(columns)

    def _write_rates(self, step: int) -> None:
        """Writes the speed of training in about every second of it, or once in a shorter run."""
        steps, seconds = self._clock.steps - self._rated[0], self._clock.seconds - self._rated[1]
        is_short = step == self._last_step and self._rated[1] == 0
        if seconds >= (_LEAST_SECONDS_OF_RATE if is_short else _SECONDS_BETWEEN_RATES):
            rate, batch = steps / seconds, self._datasets.num_train / self._steps_per_epoch
            values = {"steps_per_second": [rate], "examples_per_second": [rate * batch]}
            tags = {f"speed/{name}": value for name, value in values.items()}
            self._writer.scalars([step - 1], tags)  # a run resumed at `step` keeps it
            self._rated = self._clock.steps, self._clock.seconds

    def _write_references(self, steps: npt.NDArray[np.int64]) -> None:
        """Writes flat lines through some steps."""
        if not (self._reference and self._config.references and len(steps)):
            return
        curves = {"least_squares": self._reference.solution}
        truth = self._datasets.truth
        if truth and truth.is_line:
            curves["truth"] = np.array(truth[:2])
        for curve, numbers in curves.items():
            lines = dict(zip(self._names, self._task.values_at(numbers), strict=True))
            lines["loss"] = np.float32(self._reference.loss(numbers[None])[0])
            values = {tag: np.full(len(steps), value) for tag, value in lines.items()}
            self._writer.scalars(steps, values, curve=curve)

    def _settings(self) -> str:
        """The settings, the versions and the data as a table in Markdown."""
        datasets = self._datasets
        rows = {
            "repeat": f"`{self._repeat_command}`",
            "examples": f"{datasets.num_train:,} to train on, {datasets.num_validation:,} to "
            "validate",
            **({"workers": str(datasets.worker.count)} if datasets.worker.count > 1 else {}),
            "steps": f"{self._last_step:,}, {self._steps_per_epoch:,} an epoch",
            **{name: f"`{value}`" for name, value in self._config.applied.items()},
            "features": ", ".join(datasets.features[:20]),
            "compilation": self._compilation,
            "python": f"{platform.python_version()} on {platform.platform()}",
            **results.versions(),
        }
        table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
        return f"| setting | value |\n|---|---|\n{table}"
