"""Writes the summaries, images and progress of a run while it trains."""

import dataclasses
import importlib.metadata
import pathlib
import platform
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import config as config_lib
from pipeline.reporting import image_logger, progress, summary_writer
from pipeline.training import evaluation, hooks, metrics, optimizers

_MOST_RECORDED = 10_000  # steps of a run
_SECONDS_BETWEEN_RATES = 1.0
# The settings that runs are compared by in TensorBoard's HParams.
_HPARAMS = (
    *("model", "loss", "loop", "optimizer", "learning_rate", "schedule", "clip_norm"),
    *("batch_size", "epochs", "seed", "initial_w", "initial_b", "num_examples", "noise_stddev"),
)
_MOST_HISTOGRAMS = 100  # of a variable
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
        compilation: str,
        history: metrics.StepMetrics,
        event_files: Mapping[str, int],
    ):
        """Prepares to record the training of the model that is evaluated.

        Event files go into the directory, PNG files into its figures/. repeat_command is a command
        line that trains the run again, `compilation` says how the steps are run. `history` and
        `event_files` are what `history.rows()` and `flush()` gave in an earlier process.
        """
        self._config, self._datasets = config, evaluator.datasets
        self._repeat_command, self._compilation = repeat_command, compilation
        self._steps_per_epoch = evaluator.steps_per_epoch
        self._last_step = config.last_step(len(self._datasets.train.y))
        self._task, self._reference = evaluator.task, evaluator.closed_form.train
        self._names = self._task.names
        self._learning_rate = optimizers.LearningRate(config, self._last_step)
        self._every = config.summary_every or metrics.stride(self._last_step, _MOST_RECORDED)
        self.history = metrics.History(self._last_step, history)
        step = history.end if len(history.step) else 0
        self._writer = summary_writer.SummaryWriter(
            directory,
            names=self._names,
            metric_names=config.metric_names,
            first_step=step,
            earlier=event_files,
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
        self._writer.hparams(self._hparams(), dict(self._final_tags()))
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
        if due.validation:
            self._writer.scalars(due.step, due.validation, curve="validation")
        metrics_ = {name: values for name, values in due.train.items() if name != "loss"}
        if metrics_:
            self._writer.scalars(due.step, metrics_)
        if not self._task.watches_all:  # then training has stopped for a single epoch
            self._write_histograms(int(ends.step[0]))
        self.progress.epochs(ends)

    def end_early(self, step: int) -> None:
        """Makes a step the last one of the run."""
        self._last_step = self.progress.last_step = step
        epochs = step // self._steps_per_epoch
        self.progress.line(
            f"Ending early, after epoch {epochs:,}: no smaller loss in "
            f"--early_stopping_patience={self._config.early_stopping_patience} evaluations"
        )

    def finish(self, last: metrics.StepMetrics, final: evaluation.Evaluation) -> None:
        """Records the trained model: the row of the last step, and its evaluation."""
        self.history.add(last)
        self._write_steps(last)
        self.images.finish(self.history.rows())
        numbers = [*final.train.values(), *final.validation.values()]
        tags = [tag for tag, _ in self._final_tags()]
        self._writer.scalars(last.step, {t: [v] for t, v in zip(tags, numbers, strict=True)})
        self._writer.end(is_success=True)
        if self._reference:
            values = self._task.values_at(self._reference.solution)
            report = progress.report(self._names, values, {"loss": self._reference.minimum})
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
        self._writer.steps(rows.select(self._due(rows.step, self._every)))
        some = rows.select(self._due(rows.step, max(self._every, self.history.stride)))
        if not len(some.step):
            return
        values = {"learning_rate": self._learning_rate(some.step).numpy()}
        if self._reference and self._task.watches_all:
            values["distance_to_optimum"] = self._reference.distance(some.values)
        self._writer.scalars(some.step, values)

    def _write_histograms(self, step: int) -> None:
        """Writes the distribution of the numbers in each trainable variable."""
        epochs_between = metrics.stride(self._config.epochs, _MOST_HISTOGRAMS)
        if step % (epochs_between * self._steps_per_epoch) == 0 or step == self._last_step:
            for name, variable in self._task.trainable.items():
                self._writer.histogram(step, name, variable.numpy())

    def _final_tags(self) -> Iterator[tuple[str, str]]:
        """The tags of the final evaluation, with their titles, in the order of an Evaluation."""
        for part in ("", "validation ") if self._datasets.validation else ("",):
            for name in ("loss", *self._config.metric_names):
                yield f"final_{part.replace(' ', '_')}{name}", f"{part}{name}"

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
        truth = self._datasets.truth
        if truth and truth.is_line:
            curves["truth"] = np.array(truth[:2])
        for curve, numbers in curves.items():
            lines = dict(zip(self._names, self._task.values_at(numbers), strict=True))
            lines["loss"] = np.float32(self._reference.loss(numbers[None])[0])
            values = {tag: np.full(len(steps), value) for tag, value in lines.items()}
            self._writer.scalars(steps, values, curve=curve)

    def _hparams(self) -> dict[str, Any]:
        """The settings that runs are compared by, without those that do not apply."""
        config = self._config
        values = {name: getattr(config, name) for name in _HPARAMS}
        values["num_examples"] = len(self._datasets.train.y)
        if not config.is_synthetic:
            del values["noise_stddev"]
        if config.initialize_from or not config.is_linear:
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
            "compilation": self._compilation,
            "features": ", ".join(self._datasets.features[:20]),
            "python": f"{platform.python_version()} on {platform.platform()}",
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        }
        table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
        return f"| setting | value |\n|---|---|\n{table}"
