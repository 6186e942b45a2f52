"""Finishes a run: the export, the weights, result.json, and commands to continue with."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline import cli, console, files, user_code
from pipeline import config as config_lib
from pipeline.data import datasets as datasets_lib
from pipeline.evaluation import evaluate, linear, monitor, reports
from pipeline.reporting import progress, results
from pipeline.run import checkpoints, export, notes, run_dir, versions
from pipeline.training import task as task_lib

_MOST_NUMBERS = 20  # numbers in a printed command


@dataclasses.dataclass(frozen=True, repr=False)
class Result:
    """What a run has given."""

    evaluation: evaluate.Evaluation
    report: str  # in the style of the guide
    directory: pathlib.Path  # of the run
    # The exported keras.Model or tf.Module, which takes what training gives it: of a table,
    # standardized features. predict.load(directory) takes the table's columns.
    model: Any = None

    def __repr__(self) -> str:
        return f"<{self.directory}: {self.report}>"

    @property
    def history(self) -> dict[str, npt.NDArray[np.float64]]:
        """The columns of metrics.csv by name: step, epoch, loss, validation_loss, metrics, ..."""
        return results.read_metrics(self.directory / results.METRICS)

    @property
    def export(self) -> pathlib.Path | None:
        """The newest version of the export."""
        return versions.find(run_dir.RunDir(self.directory).export)


@dataclasses.dataclass
class Outputs:
    """Writes the outputs of a finished run."""

    config: config_lib.Config
    datasets: datasets_lib.Datasets
    task: task_lib.Task
    line: linear.Linear | None
    watched: monitor.Monitor
    run: run_dir.RunDir
    saved: checkpoints.Checkpoints

    def result(self, final: evaluate.Evaluation) -> Result:
        """Makes the result of a finished run."""
        values = self.task.variables.values().numpy()[None]
        values = self.line.watched_in_data_units(values) if self.line else values
        report = progress.report(self.task.variables.watched, values[0], *final)
        return Result(final, report, self.run.path, self.task.model)

    def export(
        self, last_step: int, final: evaluate.Evaluation, found: reports.Reports, seconds: float
    ) -> None:
        """Exports the trained model; this is the last step of a run."""
        if note := notes.of_negative_loss(self.config, final.train["loss"]):
            console.say(note)
        step, model = self._take_exported(last_step), self.task.model
        if step != last_step:
            epoch = step // self.watched.steps_per_epoch
            loss = f"{self.watched.monitored}={self.watched.best.loss:.5f}"
            console.say(f"Exporting the best model, of epoch {epoch:,} with {loss}")
        version = versions.following(self.run.export, *self.run.exports_before())
        with files.writing(self.run.export):
            if isinstance(model, tf.keras.Model):
                self._save_weights(model)
            about, formats = self._description(step, last_step, final), self.config.formats
            export.publish(
                self.task, self.datasets, version, about, line=self.line, formats=formats
            )
        named = {
            f"{part}, {who}": report._asdict()
            for who, parts in found.items()
            for part, report in parts.items()
        }
        exported = str(version.relative_to(self.run.path))
        self.write_result(
            "trained", last_step, seconds, export=exported, **final._asdict(), fits=named
        )
        self._remove_old_exports()

    def export_again(
        self,
        step: int,
        last_step: int,
        final: evaluate.Evaluation,
        found: reports.Reports,
        seconds: float,
    ) -> None:
        """Exports a finished run again, unless its newest export is already right."""
        flag = "epochs" if step == last_step else "early_stopping_patience"
        extend = f"raise --{flag} to extend it"
        if self.config.callbacks and step != last_step:
            extend = "its --callbacks ended it"
        if ends := run_dir.ends_with_run(self.config):
            extend = f"its {ends} ends with it"
        console.say(f"{self.run.path} is finished; {extend}")
        exported = versions.description(self.run.export) or {}
        has_formats = set(self.config.formats) <= set(exported.get("formats", ()))
        if exported.get("step") != self._take_exported(step) or not has_formats:
            self.export(step, final, found, seconds)
            self.say_what_next()
        self._remove_old_exports()

    def write_result(self, outcome: str, step: int, seconds: float, **more: Any) -> None:
        """Writes result.json."""
        result = {
            "outcome": outcome,
            "step": step,
            **more,
            "best": self.watched.best._asdict(),
            "seconds_of_training": seconds,
            "settings": self.config.applied,
            "files": user_code.named_files(self.config),
            "versions": results.versions(),
        }
        results.write_json(self.run.result, result)

    def _remove_old_exports(self) -> None:
        """Keeps only the newest --export_versions_to_keep versions."""
        with files.writing(self.run.export):
            versions.remove_old(self.run.export, keep=self.config.export_versions_to_keep)

    def say_what_next(self) -> None:
        """Prints commands to continue with, ready to copy."""
        path = str(self.run.path)
        console.say(f"\nTrained: {path}\nWatch:   {cli.command('watch', path)}")
        if example := self._example():
            predict = cli.command("predict", f"--export_dir={self.run.export}", example)
            console.say(f"Predict: {predict}")
        console.say(f"Repeat:  {cli.repeat_command(self.config, self.run.flags)}")

    def _example(self) -> str:
        """A flag with an input for predict, or '' if it would take none."""
        data, learned = self.datasets, self.datasets.preprocessing
        has_texts = learned is not None and learned.has_texts
        if data.features and len(data.features) <= _MOST_NUMBERS and not has_texts:
            last = data.train.x[-1]
            numbers = data.units.short_input(last) if data.units else [f"{x:.3g}" for x in last]
            return f"--x={','.join(numbers)}"
        is_file = data.features and "data" not in user_code.find(self.config)
        return f"--input={self.config.data}" if is_file else ""

    def _take_exported(self, last_step: int) -> int:
        """Gives the model the variables that are exported, and returns their step."""
        step = self.watched.best.step if self.config.export == "best" else last_step
        if step != last_step:
            self.task.variables.assign(self.saved.best(step))
        return step

    def _description(self, step: int, last_step: int, final: evaluate.Evaluation) -> dict[str, Any]:
        """Describes the exported model of a step and its origin."""
        data = self.datasets
        best = {self.watched.monitored.replace(" ", "_"): self.watched.best.loss}
        return {
            "run": self.run.path.name,
            "step": step,
            "last_step": last_step,
            "losses": final.named if step == last_step else best,
            "features": list(data.features),
            "label": data.label,
            "examples": {"training": data.num_train, "validation": data.num_validation},
            "formats": list(self.config.formats),
            "settings": self.config.applied,
            "versions": results.versions(),
        }

    def _save_weights(self, model: tf.keras.Model) -> None:
        """Saves a Keras model's weights; W and b of a linear model are in data units."""
        variables = self.task.variables
        with files.replacing(self.run.weights) as unfinished, variables.unchanged():
            if self.line:
                (numbers,) = self.line.in_data_units(variables.numbers().numpy()[None])
                variables.assign(variables.split(numbers))
            size = sum(np.asarray(v).nbytes for v in variables.by_name.values())
            unfinished.write_bytes(bytes(size + 2**16))  # otherwise HDF5 crashes on a full disk
            model.save_weights(unfinished)
