"""All that is made of a run's points while it trains."""

import dataclasses
import importlib.metadata
import json
import platform
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import cli, console, errors, examples, folder, metrics, pictures, summaries, yardstick
from pipeline import config as config_lib

_MOST_POINTS = 10_000
_SECONDS_BETWEEN_RATES = 1.0
# The settings that runs are compared by in TensorBoard's HParams.
_HPARAMS = (
    *("model", "loop", "optimizer", "learning_rate", "batch_size", "epochs", "seed"),
    *("initial_w", "initial_b", "num_examples", "noise_stddev"),
)
_PACKAGES = ("tensorflow", "keras", "tensorboard", "numpy")


class Recorder:
    """Observes training: event files, table, pictures; ends it where it diverges.

    Attributes:
      recorded: Points recorded so far; the next is the point of that number.
      best: The best epoch so far.
    """

    def __init__(
        self,
        config: config_lib.Config,
        data: examples.Data,
        measures: yardstick.Yardstick,
        *,
        paths: folder.RunFolder,
        steps_per_epoch: int,
        state: Mapping[str, npt.NDArray[Any]] | None = None,
    ):
        """Opens the event files in a run's folder.

        Args:
          config: The settings.
          data: The examples.
          measures: What training is measured against.
          paths: The folder.
          steps_per_epoch: Steps in an epoch.
          state: What another recorder of the run had in `state`, to go on from there. What
            was recorded after that will be recorded again.
        """
        self._config = config
        self._data = data
        self._yardstick = measures
        self._paths = paths
        self._steps_per_epoch = steps_per_epoch
        self._last_step = config.epochs * steps_per_epoch
        self._every = config.summary_every or metrics.stride(self._last_step, _MOST_POINTS)
        kept = moving = metrics.no_points(data.train.x.shape[1:])
        drawn, self.recorded, self.best = 0, 0, metrics.Best()
        if state is not None:
            kept, moving = (
                _unpack(state, name, metrics.StepMetrics) for name in ("kept", "moving")
            )
            self.best = _unpack(state, "best", metrics.Best)
            drawn, self.recorded = int(state["drawn"]), int(state["recorded"])
            summaries.cut_back(paths.path, json.loads(str(state["event_files"])))
        self._history = metrics.History(self._last_step, kept)
        self._summaries = summaries.RunSummaries(
            paths.path, features=data.features, first_step=self.recorded
        )
        self._pictures = pictures.Pictures(
            data, measures, paths=paths, to=self._summaries, moving=moving, drawn=drawn
        )
        self._console = console.Console(epochs=config.epochs, last_step=self._last_step)
        self._rated_at, self._rated = time.monotonic(), self.recorded

    def start(self, model: metrics.Parameters, *, graph: Any) -> None:
        """Shows what is known before training: settings, references, the step's GraphDef."""
        self._draw_references([0, self._last_step])
        has_validation = self._yardstick.validation is not None
        self._summaries.hparams(self._hparams(), has_validation=has_validation)
        self._summaries.layout()
        self._summaries.text("settings", self._settings(), step=0)
        self._summaries.graph(graph)
        self._pictures.start(model)

    def extend(self) -> None:
        """Draws the flat lines on in a run that was made longer, and shows its settings anew.

        Not in HParams: TensorBoard keeps what it has read there first.
        """
        self._draw_references([self._last_step])
        self._summaries.text("settings", self._settings(), step=self.recorded)

    def __call__(self, points: metrics.StepMetrics) -> None:
        """Takes the next stretch of points.

        Raises:
          errors.DivergedError: a point is not finite; the points before it are kept.
        """
        points = points.at(points.step >= self.recorded)
        finite = points.is_finite()
        good = points if finite.all() else points.at(slice(0, int(np.argmin(finite))))
        if len(good.step):
            self._record(good)
        if not finite.all():
            self._summaries.end(is_success=False)
            raise errors.DivergedError(self._divergence(int(points.step[np.argmin(finite)])))

    def finish(self) -> None:
        """Shows what came of it, and prints the yardstick."""
        points = self._history.points()
        self._pictures.finish(points)
        trained = points.parameters(-1)
        final = {
            "final_loss": self._yardstick.loss(trained),
            "final_validation_loss": self._yardstick.validation_loss(trained),
        }
        values = {tag: [loss] for tag, loss in final.items() if loss is not None}
        self._summaries.scalars([self._last_step], values)
        self._summaries.end(is_success=True)
        best = self._yardstick.least_squares
        report = console.report(best.W, best.b, self._yardstick.train.minimum)
        self._console.line(f"Least squares: {report}")

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """All that another recorder needs to go on from here, as arrays."""
        return {
            **_pack("kept", self._history.points()),
            **_pack("moving", self._pictures.moving),
            **_pack("best", self.best),
            "drawn": np.asarray(self._pictures.drawn),
            "recorded": np.asarray(self.recorded),
            "last_step": np.asarray(self._last_step),
            "event_files": np.asarray(json.dumps(self._summaries.sizes())),
        }

    def close(self) -> None:
        """Ends the event files."""
        self._summaries.close()

    def _record(self, points: metrics.StepMetrics) -> None:
        self.recorded = int(points.step[-1]) + 1
        ends = self._yardstick.epochs(
            points.at(points.step % self._steps_per_epoch == 0),
            steps_per_epoch=self._steps_per_epoch,
        )
        self._history(points)
        self.best = self.best.or_better(ends)
        self._summarise(points, ends)
        self._pictures(points)
        self._console.epochs(ends)
        self._console.progress(int(points.step[-1]), float(points.loss[-1]))

    def _summarise(self, points: metrics.StepMetrics, ends: metrics.EpochMetrics) -> None:
        """Writes the points that are due to the event files, the last one always."""

        def is_due(steps: npt.NDArray[np.int64], every: int) -> npt.NDArray[np.bool_]:
            return np.asarray((steps % every == 0) | (steps == self._last_step))

        self._summaries.steps(points.at(is_due(points.step, self._every)))
        epochs_between = max(1, self._every // self._steps_per_epoch)
        self._summaries.epochs(ends.at(is_due(ends.step, epochs_between * self._steps_per_epoch)))
        some = points.at(is_due(points.step, max(self._every, self._history.stride)))
        loss = self._yardstick.train
        derived = {"gradient_norm": loss.gradient_norm, "distance_to_optimum": loss.distance}
        values = {tag: measure(some.W, some.b) for tag, measure in derived.items()}
        self._summaries.scalars(some.step, values)
        self._summarise_rates()

    def _summarise_rates(self) -> None:
        now, step = time.monotonic(), self.recorded - 1
        is_last = step == self._last_step and step > self._rated
        if is_last or now - self._rated_at > _SECONDS_BETWEEN_RATES:
            rate = (step - self._rated) / (now - self._rated_at)
            batch = len(self._data.train.y) / self._steps_per_epoch
            values = {"steps_per_second": [rate], "examples_per_second": [rate * batch]}
            self._summaries.scalars([step], values)
            self._rated_at, self._rated = now, step

    def _draw_references(self, steps: list[int]) -> None:
        for curve, at in (
            ("least_squares", self._yardstick.least_squares),
            ("truth", self._yardstick.truth),
        ):
            if at is not None:
                loss = self._yardstick.loss(at)
                self._summaries.reference(curve, at, loss=loss, steps=steps)

    def _hparams(self) -> dict[str, Any]:
        """The settings that runs are compared by, without those that do not apply."""
        values = {name: getattr(self._config, name) for name in _HPARAMS}
        values["num_examples"] = len(self._data.train.y)
        if self._config.data:
            del values["noise_stddev"]
        if self._config.initialize_from:
            del values["initial_w"], values["initial_b"]
        return values

    def _settings(self) -> str:
        """The settings, the versions and the data as a table in Markdown."""
        count = len(self._data.train.y)
        validation = 0 if self._data.validation is None else len(self._data.validation.y)
        rows = {
            "repeat": f"`{cli.repeat_command(self._paths.flags)}`",
            "examples": f"{count:,} to train on, {validation:,} to validate",
            "features": ", ".join(self._data.features[:20]),
            "steps": f"{self._last_step:,}, {self._steps_per_epoch:,} an epoch",
            **{name: f"`{value}`" for name, value in dataclasses.asdict(self._config).items()},
            "python": f"{platform.python_version()} on {platform.platform()}",
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        }
        table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
        return f"| setting | value |\n|---|---|\n{table}"

    def _divergence(self, step: int) -> str:
        message = f"the loss is not finite at step {step}"
        last = self._history.last
        if not len(last.step):
            return f"{message}: the examples, or W and b at the start, are too large for float32"
        report = console.report(last.W[0], float(last.b[0]), float(last.loss[0]))
        message += f"; the last good step is {last.step[0]}: {report}; "
        if self._config.optimizer == "sgd":
            largest = self._yardstick.train.largest_stable_learning_rate()
            few = "" if self._steps_per_epoch == 1 else ", for mini-batches it is less"
            message += f"the largest stable learning rate for these data is {largest:.4g}{few}; "
        return f"{message}received --learning_rate={self._config.learning_rate:g}"


def _pack(name: str, values: Any) -> dict[str, npt.NDArray[Any]]:
    """The fields of a named tuple as arrays."""
    return {f"{name}_{field}": np.asarray(value) for field, value in values._asdict().items()}


def _unpack(state: Mapping[str, npt.NDArray[Any]], name: str, kind: Any) -> Any:
    """A named tuple from what `_pack` made of it."""
    return kind(*(state[f"{name}_{field}"][()] for field in kind._fields))
