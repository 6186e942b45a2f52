"""Combines the reporters of a run: event files, plots, and the table on the terminal."""

from collections.abc import Mapping
from typing import Any

from pipeline.evaluation import monitor, reports
from pipeline.reporting import image_logger, progress, recorder
from pipeline.training import hooks, step_metrics

_MOST_LISTED = 10  # features


class Reporters:
    """The hooks that report a run while it trains, at its start and at its end.

    Attributes:
      hooks: The hooks to call during training.
    """

    def __init__(self, recording: recorder.Recorder):
        """Prepares plots and progress for a recorder's run."""
        task, line, last_step = recording.task, recording.line, recording.last_step
        self._recorder, self._task, self._line = recording, task, line
        figures, per_epoch = recording.directory / "figures", recording.steps_per_epoch
        self._images = image_logger.ImageLogger(
            task, recording.datasets, line, figures, recording.writer, last_step=last_step
        )
        self._progress = progress.Progress(
            task.variables.watched, steps_per_epoch=per_epoch, last_step=last_step, line=line
        )
        self.hooks: list[hooks.Hook] = [recording, self._progress, self._images]

    @property
    def history(self) -> step_metrics.StepMetrics:
        """A selection of the rows so far, in the units of the data."""
        return self._recorder.history.rows()

    def start(self, graph: Any | None, settings: Mapping[str, str]) -> None:
        """Reports the start of training; `graph` is the GraphDef of the step, if any."""
        self._recorder.start(graph, settings)
        self._images.start()

    def extend(self, settings: Mapping[str, str], *, step: int) -> None:
        """Reports the new settings of a run that continues for more epochs at a step."""
        self._recorder.write_settings(settings, step=step)

    def end_early(self, step: int, reason: str) -> None:
        """Ends the run at a step, for a reason in words."""
        self._recorder.last_step = self._progress.last_step = step
        epoch = step // self._recorder.steps_per_epoch
        self._progress.line(f"Ending early, after epoch {epoch:,}: {reason}")

    def finish(
        self, last: step_metrics.StepMetrics, final: monitor.EpochEvaluation, found: reports.Reports
    ) -> None:
        """Reports the trained model: the row of the last step, its evaluation and its reports."""
        for hook in self.hooks:
            hook.after_pause(final)
        self._recorder.finish(last, final.evaluation, found)
        self._images.finish(self.history)
        lines = self._line.flat_lines() if self._line else {}
        if best := lines.get("least_squares"):
            loss = best.pop("loss")
            report = progress.report(tuple(best), list(best.values()), {"loss": loss})
            self._progress.line(f"Least squares: {report}")
        for line in reports.table(found, self._recorder.datasets.label):
            self._progress.line(line)
        importance = self._line.importance if self._line else {}
        if len(importance) > 1:
            first = [f"{name} {size:.3g}" for name, size in list(importance.items())[:_MOST_LISTED]]
            rest = ", ..." * (len(importance) > _MOST_LISTED)
            what = "Importance, |W| of standardized features"
            self._progress.line(f"{what}: {', '.join(first)}{rest}")

    def diverged(self, message: str) -> None:
        """Reports that the run diverged, and how."""
        self._recorder.flush()
        rows, variables = self.history, self._task.variables
        if len(rows.step):
            title = "After it diverged"
            if variables.watches_all:
                values = rows.values[-1:]
                (values,) = self._line.from_data_units(values) if self._line else values
                variables.assign(variables.split(values))
                title = f"Step {rows.step[-1]:,}, before it diverged"
            self._images.finish(rows, title)
        self._recorder.diverged(message)

    def flush(self) -> dict[str, int]:
        """Draws and writes everything pending; returns the sizes of the files in bytes."""
        self._images.flush()
        return self._recorder.flush()

    def close(self) -> None:
        """Closes the event files and ends the progress line."""
        self._recorder.close()
        self._progress.close()
