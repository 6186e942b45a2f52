"""Writes the summaries, images and progress of a run while it trains."""

import dataclasses
import importlib.metadata
import pathlib
import platform
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import config as config_lib
from pipeline.reporting import image_logger, progress, summary_writer
from pipeline.training import evaluation, hooks, metrics

_MOST_RECORDED = 10_000  # steps of a run
_SECONDS_BETWEEN_RATES = 1.0
# The settings that runs are compared by in TensorBoard's HParams.
_HPARAMS = (
    *("model", "loop", "optimizer", "learning_rate", "batch_size", "epochs", "seed"),
    *("initial_w", "initial_b", "num_examples", "noise_stddev"),
)
_PACKAGES = ("tensorflow", "keras", "tensorboard", "numpy")


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
        history: metrics.StepMetrics,
        event_files: Mapping[str, int],
    ):
        """Prepares to record the training of the model that is evaluated.

        Event files go into the directory, PNG files into its figures/. repeat_command is a command
        line that trains the run again. `history` and `event_files` are what `history.rows()` and
        `flush()` gave in an earlier process, from whose end training goes on.
        """
        self._config, self._datasets = config, evaluator.datasets
        self._repeat_command = repeat_command
        self._steps_per_epoch = evaluator.steps_per_epoch
        self._last_step = config.last_step(len(self._datasets.train.y))
        self._names = evaluator.task.names
        self._reference = evaluator.least_squares
        self._every = config.summary_every or metrics.stride(self._last_step, _MOST_RECORDED)
        self.history = metrics.History(self._last_step, history)
        step = history.end if len(history.step) else 0
        self._writer = summary_writer.SummaryWriter(
            directory, names=self._names, first_step=step, earlier=event_files
        )
        self.images = image_logger.ImageLogger(evaluator, directory / "figures", self._writer)
        self.progress = progress.Progress(
            self._names, steps_per_epoch=self._steps_per_epoch, last_step=self._last_step
        )
        self._rates = hooks.Every(seconds=_SECONDS_BETWEEN_RATES)
        self._rated = step, time.monotonic()

    def start(self, graph: Any | None) -> None:
        """Writes what is known before training; `graph` is the GraphDef of the step, if any."""
        self._write_references([0, self._last_step])
        has_validation = self._datasets.validation is not None
        self._writer.hparams(self._hparams(), has_validation=has_validation)
        self._writer.layout()
        self._writer.text("settings", self._settings(), step=0)
        if graph is not None:
            self._writer.graph(graph)
        self.images.start()

    def extend(self, step: int) -> None:
        """Extends the reference lines of a run that got more epochs, and writes its new settings.

        Not in HParams: TensorBoard keeps what it has read there first.
        """
        self._write_references([self._last_step])
        self._writer.text("settings", self._settings(), step=step)

    def after(self, rows: metrics.StepMetrics) -> None:
        """Records the next rows, up to the first one that is not finite."""
        rows = rows.until_divergence()
        if len(rows.step):
            self.history.add(rows)
            self._write_steps(rows)
            self._write_rates(rows.end)

    def epochs(self, ends: evaluation.EpochMetrics) -> None:
        """Records the next evaluated epochs."""
        epochs_between = max(1, self._every // self._steps_per_epoch)
        due = ends.select(self._due(ends.step, epochs_between * self._steps_per_epoch))
        if due.validation_loss is not None:
            values = {"loss": due.validation_loss}
            self._writer.scalars(due.step, values, curve="validation")
        self.progress.epochs(ends)

    def finish(self, last: metrics.StepMetrics, losses: evaluation.Losses) -> None:
        """Records the trained model: the row of the last step, and its losses."""
        self.history.add(last)
        self._write_steps(last)
        self.images.finish(self.history.rows())
        final = {"final_loss": losses.train, "final_validation_loss": losses.validation}
        values = {tag: [loss] for tag, loss in final.items() if loss is not None}
        self._writer.scalars(last.step, values)
        self._writer.end(is_success=True)
        if self._reference:
            solution, minimum = self._reference[:2]
            report = progress.report(self._names, solution, minimum)
            self.progress.line(f"Least squares: {report}")

    def diverged(self) -> None:
        """Records that the run diverged."""
        self._writer.end(is_success=False)

    def flush(self) -> dict[str, int]:
        """Draws and writes what waits; returns the sizes of the event files in bytes."""
        self.images.flush()
        return self._writer.sizes()

    def close(self) -> None:
        """Closes the event files, and ends the progress line."""
        self._writer.close()
        self.progress.close()

    def _due(self, steps: npt.NDArray[np.int64], every: int) -> Any:
        """The index of the steps that are recorded: every so many, and always the last."""
        return slice(None) if every == 1 else (steps % every == 0) | (steps == self._last_step)

    def _write_steps(self, rows: metrics.StepMetrics) -> None:
        self._writer.steps("train", rows.select(self._due(rows.step, self._every)))
        if self._reference:
            some = rows.select(self._due(rows.step, max(self._every, self.history.stride)))
            norm = self._reference.gradient_norm(some.values)
            distance = self._reference.distance(some.values)
            values = {"gradient_norm": norm, "distance_to_optimum": distance}
            self._writer.scalars(some.step, values)

    def _write_rates(self, step: int) -> None:
        """Writes the speed since it was written last: once a second, and at the last step."""
        (rated, rated_at), now = self._rated, time.monotonic()
        if self._rates.is_due() or step == self._last_step:
            rate = (step - rated) / (now - rated_at)
            batch = len(self._datasets.train.y) / self._steps_per_epoch
            values = {"steps_per_second": [rate], "examples_per_second": [rate * batch]}
            self._writer.scalars([step - 1], values)  # a run resumed at `step` keeps it
            self._rated = step, now
            self._rates.done()

    def _write_references(self, steps: list[int]) -> None:
        """Writes flat lines through some steps."""
        if not self._reference:
            return
        curves = {"least_squares": self._reference.solution}
        if self._datasets.truth:
            curves["truth"] = np.array(self._datasets.truth)
        for curve, values in curves.items():
            rows = np.tile(values.astype(np.float32), (len(steps), 1))
            losses = np.full(len(steps), self._reference.loss(values[None]), np.float32)
            self._writer.steps(curve, metrics.StepMetrics(np.array(steps), rows, losses))

    def _hparams(self) -> dict[str, Any]:
        """The settings that runs are compared by, without those that do not apply."""
        config = self._config
        values = {name: getattr(config, name) for name in _HPARAMS}
        values["num_examples"] = len(self._datasets.train.y)
        if not config.is_synthetic:
            del values["noise_stddev"]
        if config.initialize_from:
            del values["initial_w"], values["initial_b"]
        return values

    def _settings(self) -> str:
        """The settings, the versions and the data as a table in Markdown."""
        count, validation = len(self._datasets.train.y), self._datasets.validation
        rows = {
            "repeat": f"`{self._repeat_command}`",
            "examples": f"{count:,} to train on, "
            f"{0 if validation is None else len(validation.y):,} to validate",
            "steps": f"{self._last_step:,}, {self._steps_per_epoch:,} an epoch",
            **{name: f"`{value}`" for name, value in dataclasses.asdict(self._config).items()},
            "features": ", ".join(self._datasets.features[:20]),
            "python": f"{platform.python_version()} on {platform.platform()}",
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        }
        table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
        return f"| setting | value |\n|---|---|\n{table}"
