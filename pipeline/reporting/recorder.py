"""Writes the summaries of a run while it trains: event files and metrics.csv."""

import dataclasses
import pathlib
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import config as config_lib
from pipeline import user_code
from pipeline.data import datasets as datasets_lib
from pipeline.evaluation import evaluate, linear, monitor, reports
from pipeline.reporting import results, summary_writer
from pipeline.training import clock as clock_lib
from pipeline.training import hooks, step_metrics
from pipeline.training import task as task_lib

_MOST_RECORDED = 10_000  # recorded steps of a run
_SECONDS_BETWEEN_RATES = 1.0
_LEAST_SECONDS_OF_RATE = 0.1  # in a shorter run
_MOST_HISTOGRAMS = 100  # of a variable
_SECONDS_BETWEEN_WRITES = 0.5
_MANY_ROWS = 1024  # rows that are written at once
_MOST_REFERENCES = 16  # points of a flat line


@dataclasses.dataclass(eq=False)
class Recorder(hooks.Hook):
    """Writes the TensorBoard summaries of a task's training."""

    config: config_lib.Config
    task: task_lib.Task
    datasets: datasets_lib.Datasets
    line: linear.Linear | None
    # The learning rates [K] of steps [K], by name.
    rates: Callable[[npt.NDArray[np.int64]], Mapping[str, npt.NDArray[np.float32]]]
    directory: pathlib.Path  # of the run
    last_step: int  # the step at which the run is complete
    clock: clock_lib.Clock  # the loop reports the steps to it
    rows: step_metrics.StepMetrics | None  # `history.rows()` of an earlier process
    event_files: Mapping[str, int]  # the result of `flush` in an earlier process

    def __post_init__(self) -> None:
        """Prepares to record in new files of this process."""
        self.steps_per_epoch = self.datasets.steps_per_epoch(self.config)
        stride, epochs = step_metrics.power_of_two_stride, self.config.epochs
        self._every = self.config.summary_every or stride(self.last_step, _MOST_RECORDED)
        self._between_references = max(self._every, stride(self.last_step, _MOST_REFERENCES))
        self._between_histograms = stride(epochs, _MOST_HISTOGRAMS) * self.steps_per_epoch
        self._flat_lines = self.line.flat_lines() if self.line and self.config.references else {}
        self._rated = self.clock.steps, self.clock.seconds
        self._rows: list[step_metrics.StepMetrics] = []  # not written yet
        self._evaluations: list[tuple[monitor.EpochEvaluation, float]] = []  # not written yet
        self._writing = hooks.Every(seconds=_SECONDS_BETWEEN_WRITES)
        names, earlier = self.task.variables.watched, dict(self.event_files)
        # A selection of the rows so far, in the units of the data.
        rows = self.rows or step_metrics.empty(len(names), len(self.task.numbers))
        self.history = step_metrics.History(self.last_step, rows)
        size = earlier.pop(results.METRICS, 0)
        self._table = results.MetricsTable(self.directory / results.METRICS, size=size)
        first_step = self.history.last.next_step
        self.writer = summary_writer.SummaryWriter(
            self.directory, names=names, clock=self.clock, first_step=first_step, earlier=earlier
        )

    def start(self, graph: Any | None, settings: Mapping[str, str]) -> None:
        """Writes the summaries before training; `graph` is the GraphDef of the step, if any."""
        examples = {"num_examples": self.datasets.num_train}
        self.writer.hparams(self.config.compared | examples)
        self.writer.layout()
        self.write_settings(settings, step=0)
        if graph is not None:
            self.writer.graph(graph)

    def write_settings(self, settings: Mapping[str, str], *, step: int) -> None:
        """Writes the settings, the versions and the data as a Markdown table.

        HParams can't hold them: TensorBoard keeps the first values that it reads there.
        """
        datasets = self.datasets
        rows = {
            "training": datasets.described(self.config),
            "validation": datasets.validation_described,
            "steps": f"{self.last_step:,}, {self.steps_per_epoch:,} an epoch",
            **settings,
            **{name: f"`{value}`" for name, value in self.config.applied.items()},
            "features": ", ".join(datasets.features[:20]),
            **user_code.named_files(self.config),
            "python": f"{platform.python_version()} on {platform.platform()}",
            **results.versions(),
        }
        table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
        self.writer.text("settings", f"| setting | value |\n|---|---|\n{table}", step=step)

    def after(self, rows: step_metrics.StepMetrics) -> None:
        """Records the next rows; small groups are buffered, because single writes are slow."""
        self._rows.append(rows)
        is_many = len(rows.step) >= _MANY_ROWS
        if self._writing.is_due() or is_many or self.config.callbacks:  # which may change the rate
            self._write()
        self._write_rates(rows.next_step)

    def after_pause(self, event: Any) -> None:
        """Records an evaluation."""
        if isinstance(event, monitor.EpochEvaluation):
            self._evaluations.append((event, self.clock.now()))
            is_due = event.step % self._between_histograms == 0 or event.step == self.last_step
            if is_due and not self.task.variables.watches_all:
                for name, variable in self.task.variables.trainable.items():
                    self.writer.histogram(event.step, name, variable.numpy())

    def finish(
        self, last: step_metrics.StepMetrics, final: evaluate.Evaluation, found: reports.Reports
    ) -> None:
        """Records the trained model: the row of the last step, its evaluation and its reports."""
        self._write()
        self._write_steps(last)
        own = found.get("model", {})
        parts = (own[part]._asdict() if part in own else {} for part in ("training", "validation"))
        numbers = {**final.named, **evaluate.Evaluation(*parts).named}
        self._end(last.step, final=numbers, diverged=0)
        importance = self.line.importance if self.line else {}
        if len(importance) > 1:
            rows = "\n".join(f"| {name} | {size:.6g} |" for name, size in importance.items())
            table = f"| feature | \\|W\\| standardized |\n|---|---|\n{rows}"
            self.writer.text("importance", table, step=self.last_step)

    def diverged(self, message: str) -> None:
        """Records that the run diverged."""
        last = self.history.last
        self._end(last.step, final={}, diverged=1)
        self.writer.text("outcome", message, step=last.next_step)

    def flush(self) -> dict[str, int]:
        """Writes everything pending; returns the sizes of the files in bytes."""
        self._write()
        return self.writer.sizes() | {results.METRICS: self._table.size()}

    def close(self) -> None:
        """Closes the event files."""
        self._write()
        self.writer.close()

    def _write(self) -> None:
        """Writes the pending rows and evaluations."""
        if self._rows:
            rows = step_metrics.concatenate(*self._rows)
            self._rows.clear()
            self._write_steps(rows)
        self._write_evaluations()
        self._writing.done()

    def _due(self, steps: npt.NDArray[np.int64], every: int) -> Any:
        """The index of the recorded steps: the multiples of `every`, and the last step."""
        return slice(None) if every == 1 else (steps % every == 0) | (steps == self.last_step)

    def _write_steps(self, rows: step_metrics.StepMetrics) -> None:
        if self.line:
            rows = rows._replace(values=self.line.watched_in_data_units(rows.values))
        self.history.add(rows)
        self.writer.steps(rows.select(self._due(rows.step, self._every)))
        steps = rows.step[self._due(rows.step, self._between_references)]
        for curve, lines in self._flat_lines.items() if len(steps) else ():
            flat = {tag: np.full(len(steps), value) for tag, value in lines.items()}
            self.writer.scalars(steps, flat, curve=curve)
        some = rows.select(self._due(rows.step, max(self._every, self.history.stride)))
        if not len(some.step):
            return
        values = _prefixed("training", self.rates(some.step))
        if not np.isnan(some.gradient_norm).all():
            values["training/gradient_norm"] = some.gradient_norm
        if some.numbers is not None:
            names = self.task.numbers
            values |= _prefixed("training", dict(zip(names, some.numbers.T, strict=True)))
        if self.line and self.line.reference:
            values["training/distance_to_optimum"] = self.line.reference.distance(some.values)
        self.writer.scalars(some.step, values)

    def _end(self, step: npt.ArrayLike, *, final: Mapping[str, float], diverged: int) -> None:
        """Writes the final results that HParams compares."""
        if np.size(step):
            numbers = {name: [number] for name, number in {"diverged": diverged, **final}.items()}
            self.writer.scalars(step, _prefixed("final", numbers), curve="final")
        self.writer.end(is_success=not diverged)

    def _write_evaluations(self) -> None:
        """Writes the pending losses and metrics over all examples."""
        if not self._evaluations:
            return
        events, times = zip(*self._evaluations, strict=True)
        steps = np.array([event.step for event in events])
        epochs = steps // self.steps_per_epoch
        best = np.array([event.best.step for event in events]) // self.steps_per_epoch
        found = [event.evaluation for event in events]
        train, validation = (_columns([each[i] for each in found]) for i in range(2))
        more = {"evaluation/best_epoch": best}
        self.writer.scalars(steps, _prefixed("evaluation", train) | more, times=times)
        if validation:
            tags = _prefixed("evaluation", validation) | {"loss": validation["loss"]}
            self.writer.scalars(steps, tags, curve="validation", times=times)
        columns = {"step": steps, "epoch": epochs, **_columns([each.named for each in found])}
        self._table.add({**columns, **self.rates(steps)})
        self._evaluations.clear()

    def _write_rates(self, step: int) -> None:
        """Writes the training speed about once a second, or once in a shorter run."""
        steps, seconds = self.clock.steps - self._rated[0], self.clock.seconds - self._rated[1]
        is_short = step == self.last_step and self._rated[1] == 0
        if seconds >= (_LEAST_SECONDS_OF_RATE if is_short else _SECONDS_BETWEEN_RATES):
            rate, batch = steps / seconds, self.datasets.num_train / self.steps_per_epoch
            speeds = {"steps_per_second": [rate], "examples_per_second": [rate * batch]}
            # A run that resumes at `step` keeps this point.
            self.writer.scalars([step - 1], _prefixed("speed", speeds))
            self._rated = self.clock.steps, self.clock.seconds


def _prefixed(group: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{group}/{name}": value for name, value in values.items()}


def _columns(rows: Sequence[Mapping[str, float]]) -> dict[str, npt.NDArray[np.float64]]:
    """Converts rows with the same names to columns [K]."""
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}
