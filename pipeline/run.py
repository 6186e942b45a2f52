"""A run from start to end: prepare or resume, train, export, say what comes next."""

import contextlib
import pathlib
import sys
import zlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from pipeline import (
    checkpoints,
    cli,
    console,
    custom_loop,
    errors,
    examples,
    export,
    fit_loop,
    folder,
    metrics,
    optimizers,
    output,
    profiler,
    recorder,
    step,
    stopping,
    yardstick,
)
from pipeline import config as config_lib
from pipeline import data as data_lib
from pipeline import model as model_lib

_EXPORT_SAMPLE = 100  # examples on which a reloaded export must agree


class Result(NamedTuple):
    """What a finished run came to.

    Attributes:
      parameters: The trained ones.
      loss: Over all training examples.
      validation_loss: Over the validation examples, or None.
    """

    parameters: metrics.Parameters
    loss: float
    validation_loss: float | None

    def report(self) -> str:
        """The result in the words of the guide."""
        W, b = self.parameters
        return console.report(W, b, self.loss, self.validation_loss)


def train(config: config_lib.Config, data: examples.Data, stop: stopping.StopRequest) -> Result:
    """Trains a model on the data and leaves a finished run folder.

    Where the folder holds an unfinished run of the same settings, goes on with that.

    Args:
      config: The settings.
      data: The examples.
      stop: Ends the run early, where it can be resumed.

    Raises:
      errors.InputError: a setting doesn't fit the data, or an earlier run of that name.
      errors.RunError: the folder can't be written to, or its checkpoints are damaged.
      errors.DivergedError: the loss became infinite or NaN.
      errors.StoppedError: a signal stopped the run; it can be resumed.
    """
    job = _Job(config, data)
    with job.paths.opened(config) as resumes:
        try:
            return job.run(stop, resumes=resumes)
        except (OSError, tf.errors.OpError) as error:
            reason = " ".join(str(error).split())
            raise errors.RunError(
                f"the run {job.paths.path} can't be written: {reason}; what was saved is good; "
                f"to go on: {job.command}"
            ) from error


class _Job:
    """What one process does for a run."""

    def __init__(self, config: config_lib.Config, data: examples.Data):
        """Prepares all that can be wrong; nothing is written yet."""
        self._config = config
        self._data = data
        self.paths = folder.RunFolder.of(config)
        self.command = cli.command("train", f"--flagfile={self.paths.flags}")
        self._batches = data_lib.TrainingData(
            *data.train,
            batch_size=config.batch_size,
            seed=config.seed,
            small_blocks=config.run_eagerly,
        )
        self._last_step = config.epochs * self._batches.steps_per_epoch
        shape = data.train.x.shape[1:]
        self._model = model_lib.create(
            config.model,
            initial_w=config.initial_w,
            initial_b=config.initial_b,
            num_features=shape[0] if shape else None,
        )
        if config.initialize_from and not self.paths.resumes(config):
            self._initialize()
        self._optimizer = optimizers.create(
            config.optimizer,
            config.learning_rate,
            self._model.trainable_variables,
            hand_written=config.loop == "custom",
        )
        self._yardstick = yardstick.Yardstick.of(config, data)
        self._fingerprint = np.asarray(_fingerprint(data))
        self._checkpoints = checkpoints.Checkpoints(
            self.paths.checkpoints, self._model, self._optimizer
        )

    def run(self, stop: stopping.StopRequest, *, resumes: bool) -> Result:
        """Trains from the start or from the newest checkpoint, and finishes."""
        state = self._checkpoints.restore() if resumes else None
        if state is not None:
            self._check_data(state)
            if self._is_finished(state):
                output.say(f"{self.paths.path} is finished; raise --epochs to extend it")
                return self._result()
        observer = recorder.Recorder(
            self._config,
            self._data,
            self._yardstick,
            paths=self.paths,
            steps_per_epoch=self._batches.steps_per_epoch,
            state=state,
        )
        with contextlib.closing(observer):
            version = self._begin(observer, state)
            if observer.recorded <= self._last_step:
                first_step = int(state["updates"]) if state else 0
                self._train(observer, stop, first_step=first_step, version=version)
            stop.check(self.command)
            observer.finish()
        stop.check(self.command)
        self._export(version)
        _say_what_next(self.paths, self._data)
        return self._result()

    def _initialize(self) -> None:
        """Sets the parameters to those that --initialize_from names."""
        W, b = _parameters_in(pathlib.Path(self._config.initialize_from))
        if W.shape != self._data.train.x.shape[1:]:
            raise errors.InputError(
                f"--initialize_from={self._config.initialize_from} has {W.size} W; the examples "
                f"have {len(self._data.features)} features"
            )
        self._model.W.assign(W)
        self._model.b.assign(b)

    def _result(self) -> Result:
        trained = _parameters(self._model)
        measures = self._yardstick
        return Result(trained, measures.loss(trained), measures.validation_loss(trained))

    def _is_finished(self, state: checkpoints.State) -> bool:
        version = self.paths.export / str(int(state["version"]))
        return int(state["recorded"]) > self._last_step and version.exists()

    def _check_data(self, state: checkpoints.State) -> None:
        if state["examples"] != self._fingerprint:
            raise errors.InputError(
                f"the examples of the run {self.paths.path} are not what they were when it "
                "was started; choose another --run_name, or start anew with --overwrite"
            )

    def _begin(self, observer: recorder.Recorder, state: checkpoints.State | None) -> int:
        """Makes the run resumable; returns the version that its export will have."""
        if state is None:
            graph = step.graph(self._model, self._optimizer, self._data.train.x)
            observer.start(_parameters(self._model), graph=graph)
            self._save(observer, version=1)
            self.paths.write_flags(self._config)
            return 1
        output.say(f"Resuming at step {observer.recorded:,} of {self._last_step:,}")
        version, last_step = int(state["version"]), int(state["last_step"])
        if self._last_step > last_step:
            if observer.recorded > last_step:
                version = export.newest_version(self.paths.export) + 1
            observer.extend()
            self.paths.write_flags(self._config)
        return version

    def _train(
        self,
        observer: recorder.Recorder,
        stop: stopping.StopRequest,
        *,
        first_step: int,
        version: int,
    ) -> None:
        checkpoint = checkpoints.Schedule(
            every=self._config.checkpoint_every,
            seconds=self._config.checkpoint_secs,
            saved=observer.recorded,
        )
        profile = profiler.Profile(
            self._config.profiled, self.paths.events("train"), step=first_step
        )

        def next_stop(done: int) -> int:
            return int(min(checkpoint.next_stop(done), profile.next_stop(done), sys.maxsize))

        def observe(points: metrics.StepMetrics) -> None:
            observer(points)
            profile(observer.recorded)
            is_complete = observer.recorded > self._last_step
            if stop or is_complete or checkpoint(observer.recorded):
                self._save(observer, version=version)
            stop.check(self.command)

        loop = {"custom": custom_loop.train, "fit": fit_loop.train}[self._config.loop]
        with contextlib.closing(profile):
            loop(
                self._model,
                self._batches,
                optimizer=self._optimizer,
                first_step=first_step,
                last_step=self._last_step,
                observe=observe,
                next_stop=next_stop,
                run_eagerly=self._config.run_eagerly,
            )

    def _save(self, observer: recorder.Recorder, *, version: int) -> None:
        state = {
            **observer.state(),
            "updates": np.asarray(min(observer.recorded, self._last_step)),
            "version": np.asarray(version),
            "examples": self._fingerprint,
        }
        self._checkpoints.save(observer.recorded, state)
        best = observer.best
        if best.step >= 0:
            self._checkpoints.save_best(best.step, best.W, best.b)

    def _export(self, version: int) -> None:
        """Leaves the trained model; the last thing that a run does."""
        if isinstance(self._model, model_lib.KerasLinearModel):
            unfinished = self.paths.weights.with_name(f".unfinished.{self.paths.weights.name}")
            self._model.save_weights(unfinished)
            unfinished.rename(self.paths.weights)
        export.publish(
            self._model,
            self.paths.export / str(version),
            features=self._data.features,
            label=self._data.label,
            sample=self._data.train.x[:_EXPORT_SAMPLE],
        )


def _parameters_in(path: pathlib.Path) -> tuple[export.Array, export.Array]:
    """W and b of a run's folder, a checkpoint, or an export."""
    if (path / "saved_model.pb").exists() or export.newest_version(path):
        return export.load(path).parameters()
    run = folder.RunFolder(path)
    return checkpoints.parameters(run.checkpoints if run.flags.exists() else path)


def _parameters(model: model_lib.Model) -> metrics.Parameters:
    return metrics.Parameters(np.atleast_1d(model.W.numpy()), float(model.b.numpy()))


def _fingerprint(data: examples.Data) -> int:
    """A number that changes when the training examples do."""
    return zlib.crc32(data.train.y.data, zlib.crc32(data.train.x.data))


def _say_what_next(paths: folder.RunFolder, data: examples.Data) -> None:
    """Prints the commands that go on from here, ready to be copied."""
    path = str(paths.path)
    example = ",".join(f"{x:.3g}" for x in np.atleast_1d(data.train.x[-1]))
    output.say(
        f"\nTrained: {path}\n"
        f"Watch:   {cli.command('watch', path)}\n"
        f"Predict: {cli.command('predict', f'--export_dir={path}/export', f'--x={example}')}\n"
        f"Repeat:  {cli.repeat_command(paths.flags)}"
    )
