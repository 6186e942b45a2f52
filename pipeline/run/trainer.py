"""A run from start to end: prepare or resume, train, finish, export."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from pipeline import cli, console, errors, files, flagfile, user_code
from pipeline import config as config_lib
from pipeline.data import batches as batches_lib
from pipeline.data import datasets as datasets_lib
from pipeline.distributed import communicator as communicator_lib
from pipeline.reporting import profiler, progress, recorder, results
from pipeline.run import (
    checkpoints,
    divergence,
    export,
    initialization,
    run_dir,
    run_state,
    signals,
    team,
    versions,
)
from pipeline.training import clock as clock_lib
from pipeline.training import (
    compilation,
    evaluation,
    hooks,
    learning_rate,
    make_task,
    metrics,
    optimizers,
    regression,
    train_step,
)
from pipeline.training import task as task_lib

_MOST_NUMBERS = 20  # in a command that is printed
_COLLINEAR = 30  # condition number


class Result(NamedTuple):
    """The evaluation of a trained model, and a report of it in the words of the guide."""

    evaluation: evaluation.Evaluation
    report: str


def train(
    config: config_lib.Config,
    datasets: datasets_lib.Datasets,
    communicator: communicator_lib.Communicator | None = None,
) -> Result:
    """Trains a model and leaves the directory of a finished run.

    Where that holds an unfinished run of the same settings, resumes it. A signal ends the training
    early, after a checkpoint; at any other time there is nothing to save, and it ends the process.

    Of several workers, this is what the chief calls.

    Raises:
      errors.InputError: a setting doesn't fit the data, or an earlier run of that name.
      errors.RunError: the directory can't be written to, or its checkpoints are damaged.
      errors.DivergedError: the loss became infinite or NaN, or rose beyond any doubt.
      errors.StoppedError: a signal stopped the run; it can be resumed.
      errors.LostWorkerError: another worker can't be reached; all can be started again.
    """
    functions = user_code.find(config, ("model", "loss")).values()
    # files.writing takes the errors of TensorFlow that are about the disk.
    with user_code.user_errors("training", *functions, beside_ours=True):
        trainer = _Trainer(config, datasets, communicator)
        with trainer.team.ending(), trainer.run_dir.opened(config) as resumes:
            try:
                return trainer.run(resumes=resumes)
            except errors.WriteError as error:
                raise errors.RunError(
                    f"the run {trainer.run_dir.path} can't be written: {error}; its checkpoints "
                    f"are intact; resume with: {trainer.command}"
                ) from error


def follow(
    config: config_lib.Config,
    datasets: datasets_lib.Datasets,
    communicator: communicator_lib.Communicator,
) -> None:
    """Does the part of another worker than the chief, and leaves nothing.

    Raises:
      As `train` does.
    """
    functions = user_code.find(config, ("model", "loss")).values()
    with user_code.user_errors("training", *functions, beside_ours=True):
        _Trainer(config, datasets, communicator).follow()


class _Trainer:
    """What one process does for a run."""

    def __init__(
        self,
        config: config_lib.Config,
        datasets: datasets_lib.Datasets,
        communicator: communicator_lib.Communicator | None,
    ):
        """Prepares all that can be wrong; nothing is written yet."""
        self._given, self._datasets = config, datasets
        self._stop = signals.StopRequest()
        self.team = team.Team(communicator, self._stop)
        self.run_dir = run_dir.RunDir.of(config)
        self.command = cli.command("train", f"--flagfile={self.run_dir.flags}")
        worker = datasets.worker
        self._batches = batches_lib.Batches(
            datasets.train, config, worker=worker, count=datasets.num_train
        )
        self._last_step = config.last_step(datasets.num_train)
        self._fits: dict[str, dict[str, regression.Fit]] = {}
        self._task = make_task.make_task(config, datasets)
        self.team.check(config, datasets, self._task)
        self._evaluator = evaluation.Evaluator(self._task, datasets, config, self.team.total)
        self._evaluator.before_passes = lambda: self.team.tell(team.Command.EVALUATE)
        rate = self.team.of_chief(learning_rate.choose(config, self._evaluator))
        self._config = config = dataclasses.replace(config, learning_rate=rate)
        # After the rate is chosen, which a resumed run does at the start of the model, too.
        if worker.is_chief and config.initialize_from and not self.run_dir.resumes(config):
            initialization.initialize(
                self._task, config.initialize_from, scale=datasets.scale, is_linear=config.is_linear
            )
        variables = self._task.model.trainable_variables
        self._optimizer = optimizers.create(config, variables, last_step=self._last_step)
        self._graph, self._compilation = compilation.prepare(
            config, self._task, self._optimizer, self._batches
        )
        self._fingerprint = self.team.fingerprint(datasets)
        directory = self.run_dir.checkpoints
        self._checkpoints = checkpoints.Checkpoints(
            directory, self._task, self._optimizer, datasets.scale
        )

    def run(self, *, resumes: bool) -> Result:
        """Trains from the start or from the newest checkpoint, and finishes."""
        self._checkpoints.remove_unfinished()
        state = self._checkpoints.restore() if resumes else None
        self.team.tell(team.Command.START, state.step if state else 0)
        self._take_from_chief()
        self._clock = clock_lib.Clock(not_before=state.time if state else 0)
        self._seconds_before = state.seconds if state else 0.0
        if state is not None:
            errors.require(
                state.fingerprint == self._fingerprint,
                f"the examples of the run {self.run_dir.path} are not what they were when it was "
                "started; choose another --run_name, or start anew with --overwrite",
            )
            self._evaluator.best, self._evaluator.start_loss = state.best, state.start_loss
            if state.step == self._last_step or self._evaluator.is_exhausted(state.step):
                final = self._evaluator.evaluate()
                self._evaluator.report_evaluation(state.step, final)  # it may be the best
                exported = versions.newest_steps(self.run_dir.export)
                if exported and exported.last == state.step:
                    return self._finish_again(exported, final)
        if self._config.formats:  # while there is nothing to lose
            export.try_formats(self._task, self._datasets, self._config.formats)
        self._say_how()
        self._prepare(state)
        with contextlib.closing(self._recorder):
            first_step = self._begin(state)
            try:
                if first_step < self._last_step:
                    self._train(first_step)
                result = self._result(self._finish())
            except hooks.Divergence as end:
                raise self._diverged(end) from None
        self._export(result.evaluation)
        self._remove_old_exports()
        self._say_what_next()
        return result

    def follow(self) -> None:
        """Does another worker's part of a run that the chief records."""
        work: dict[team.Command, Callable[[int], object]] = {
            team.Command.EVALUATE: lambda _: self._evaluator.evaluate(),
            team.Command.LAST_ROW: self._row,
            team.Command.FIT: lambda _: self._evaluator.fits(),
        }
        following = team.Following(self.team, work)
        try:
            with self._stop:
                _, first_step = self.team.hear()
                self._take_from_chief()
                if first_step < self._last_step:
                    self._loop(first_step, following, clock_lib.Clock())
                following.before(self._last_step)
        except team.Ended as end:
            end.check("the same command on all workers")

    def _take_from_chief(self) -> None:
        """Gives all workers the chief's variables, bit for bit."""
        own = [*self._task.variables.values(), *self._optimizer.variables]
        self.team.from_chief(map(task_lib.inner_variable, own))

    def _loop(self, first_step: int, hook: hooks.Hook, clock: clock_lib.Clock) -> None:
        self.team.loop(self._config.loop)(
            self._task,
            self._batches,
            optimizer=self._optimizer,
            first_step=first_step,
            last_step=self._last_step,
            hook=hook,
            clock=clock,
            mode=self._compilation.mode,
        )

    def _finish_again(self, exported: versions.Steps, final: evaluation.Evaluation) -> Result:
        """Exports a finished run again if its newest export is not what is wanted."""
        console.say(f"{self.run_dir.path} is finished; {self._how_to_extend(exported.last)}")
        result = self._result(final)
        self._last_step = exported.last
        if exported.model != self._exported_step() or self._lacks_formats():
            self._measure_fits()
            self._export(final)
            self._say_what_next()
        self._remove_old_exports()
        return result

    def _exported_step(self) -> int:
        """The step whose model is exported at the end."""
        return self._evaluator.best.step if self._config.export == "best" else self._last_step

    def _lacks_formats(self) -> bool:
        """Whether a format of --export_formats is not in the newest export."""
        found = versions.description(self.run_dir.export) or {}
        return not set(self._config.formats) <= set(found.get("formats", ()))

    def _how_to_extend(self, step: int) -> str:
        if not self._config.may_be_extended:
            return f"its --schedule={self._config.schedule} ends with it"
        flag = "epochs" if step == self._last_step else "early_stopping_patience"
        return f"raise --{flag} to extend it"

    def _say_how(self) -> None:
        """Says where something is not done, or will not go, as one would expect."""
        if reason := self._evaluator.closed_form.why_not:
            console.say(
                f"Note: {reason}, so the losses come from passes over the examples, and the "
                "least-squares reference is left out"
            )
        solved = self._evaluator.closed_form.train
        if self._datasets.scale and solved and solved.condition_number > _COLLINEAR:
            console.say(
                "Note: the features are nearly collinear (condition number "
                f"{solved.condition_number:.3g}): many W fit about as well, and training takes "
                "long to come near least squares"
            )
        mode, reason = self._compilation
        if reason:
            console.say(f"Note: {reason}, so the steps run {mode.value}")
        whole = self.team.global_batch(self._batches.batch_size)
        if whole and (note := team.note(self._task, self._batches, whole, mode)):
            console.say(f"Note: {note}")
        if warning := divergence.warning(self._config, self._evaluator):
            console.say(f"Warning: {warning}")

    def _result(self, final: evaluation.Evaluation) -> Result:
        (values,) = self._evaluator.shown(self._task.values().numpy()[None])
        return Result(final, progress.report(self._task.names, values, *final))

    def _prepare(self, state: run_state.RunState | None) -> None:
        """Prepares to go on from a checkpoint, or to start."""
        mode, reason = self._compilation
        self._recorder = recorder.Recorder(
            self._config,
            self._evaluator,
            directory=self.run_dir.path,
            repeat_command=cli.repeat_command(self.run_dir.flags),
            compilation=mode.value + (f" ({reason})" if reason else ""),
            clock=self._clock,
            history=state.history if state else metrics.empty(len(self._task.names)),
            event_files=state.event_files if state else {},
        )
        self._evaluator.report = self._recorder.epochs

    def _begin(self, state: run_state.RunState | None) -> int:
        """Saves and records what is known before training; returns the first step."""
        first_step = state.step if state else 0
        is_extended = state is not None and state.last_step < self._last_step
        with files.writing(self.run_dir.result):
            self.run_dir.result.unlink(missing_ok=True)
        if state is None:
            self._save(0)
        else:
            with files.writing(self.run_dir.flags):
                flagfile.write(self.run_dir.flags, flagfile.from_config(self._given))
            console.say(f"Resuming at step {first_step:,} of {self._last_step:,}")
        if first_step == 0:
            self._recorder.start(self._graph)
        elif is_extended:
            self._recorder.extend(first_step)
        return first_step

    def _train(self, first_step: int) -> None:
        config = self._config
        steps, seconds = config.checkpoint_every, config.checkpoint_secs
        every = hooks.Every(steps=steps, seconds=seconds, step=first_step)
        stop = self._stop
        save = checkpoints.SaveCheckpoints(self._save, every, stop, self.command)
        profile = profiler.Profiler(config.profiled, self.run_dir.path / "train")
        records = self._recorder
        all_hooks = [self._evaluator, records, records.progress, records.images, profile, save]
        with stop, contextlib.closing(profile):
            try:
                hook = self.team.leading(hooks.Hooks(all_hooks))
                self._loop(first_step, hook, self._clock)
            except hooks.EndOfTraining as end:
                self._save(end.step)
                self._last_step = end.step
                self._recorder.end_early(end.step)
            self._save(self._last_step)
            stop.check(self.command)

    def _save(self, step: int) -> None:
        state = run_state.RunState(
            step=step,
            last_step=self._last_step,
            fingerprint=self._fingerprint,
            best=self._evaluator.best,
            start_loss=self._evaluator.start_loss,
            time=self._clock.now(),
            seconds=self._seconds_before + self._clock.seconds,
            event_files=self._recorder.flush(),
            history=self._recorder.history.rows(),
        )
        self._checkpoints.save(state, self._evaluator.best_variables)

    def _finish(self) -> evaluation.Evaluation:
        """Evaluates and records the state after the last update."""
        step = self._last_step
        self.team.tell(team.Command.LAST_ROW, step)
        row = (tensor.numpy()[None] for tensor in (self._task.values(), *self._row(step)))
        last = metrics.StepMetrics(np.array([step]), *row)
        if not len(last.until_divergence().step):
            raise hooks.Divergence(step, float(last.loss[0]))
        final = self._evaluator.evaluate()
        self._evaluator.check(step, final)
        self._evaluator.report_evaluation(step, final)
        self._measure_fits()
        self._recorder.finish(last, final, self._fits)
        self._checkpoints.save_best(self._evaluator.best.step, self._evaluator.best_variables)
        return final

    def _measure_fits(self) -> None:
        self.team.tell(team.Command.FIT)
        self._fits = self._evaluator.fits()

    def _row(self, step: int) -> train_step.StepResult:
        """What the next update would tell."""
        x, y = next(iter(self._batches.singly(step, step + 1)))
        whole = self.team.global_batch(self._batches.size(step))
        return train_step.before_update(self._task, x, y, whole, self.team.sum_of_tensor)

    def _diverged(self, end: hooks.Divergence) -> errors.DivergedError:
        """Records what happened, as far as it goes."""
        message = divergence.message(end, self._config, self._evaluator)
        self._recorder.diverged(message)
        self._write_result("diverged", step=end.step, message=message)
        watch = cli.command("watch", str(self.run_dir.path))
        return errors.DivergedError(f"{message}; see it with: {watch}")

    def _write_result(self, outcome: str, **more: Any) -> None:
        best, seconds = self._evaluator.best, self._seconds_before + self._clock.seconds
        result = {
            "outcome": outcome,
            "step": self._last_step,
            **more,
            "best": best._asdict(),
            "seconds_of_training": seconds,
            "settings": self._config.applied,
            "versions": results.versions(),
        }
        results.write_json(self.run_dir.result, result)

    def _export(self, final: evaluation.Evaluation) -> None:
        """Leaves the trained model; the last thing that a run does."""
        step, model = self._exported_step(), self._task.model
        if step != self._last_step:
            self._task.assign(self._checkpoints.best(step))
            epoch = step // self._evaluator.steps_per_epoch
            loss = f"{self._evaluator.decisive_loss}={self._evaluator.best.loss:.5f}"
            console.say(f"Exporting the best model, of epoch {epoch:,} with {loss}")
        version = versions.following(self.run_dir.export, *self.run_dir.exports_before())
        with files.writing(self.run_dir.export):
            if isinstance(model, tf.keras.Model):
                self._save_weights(model)
            export.publish(
                self._task,
                self._datasets,
                version,
                self._description(step, final),
                units=self._evaluator.units,
                formats=self._config.formats,
            )
        exported = str(version.relative_to(self.run_dir.path))
        fits = {
            f"{part}, {who}": fit._asdict()
            for who, parts in self._fits.items()
            for part, fit in parts.items()
        }
        self._write_result("trained", export=exported, **final._asdict(), fits=fits)

    def _remove_old_exports(self) -> None:
        with files.writing(self.run_dir.export):
            versions.remove_old(self.run_dir.export, keep=self._config.export_versions_to_keep)

    def _description(self, step: int, final: evaluation.Evaluation) -> dict[str, Any]:
        """What the export says of the model of a step, and of where it came from."""
        best, data = self._evaluator.best, self._datasets
        decisive = self._evaluator.decisive_loss.replace(" ", "_")
        return {
            "run": self.run_dir.path.name,
            "step": step,
            "last_step": self._last_step,
            "losses": final.named if step == self._last_step else {decisive: best.loss},
            "features": list(data.features),
            "label": data.label,
            "examples": {"training": data.num_train, "validation": data.num_validation},
            "formats": list(self._config.formats),
            "settings": self._config.applied,
            "versions": results.versions(),
        }

    def _save_weights(self, model: tf.keras.Model) -> None:
        """Saves the weights of a Keras model, of a linear one in the units of the data."""
        units, numbers = self._evaluator.units, self._task.numbers().numpy()[None]
        with files.replacing(self.run_dir.weights) as unfinished, self._task.unchanged():
            if units:
                self._task.assign(self._task.by_variable(units.parameters_in_units(numbers)[0]))
            size = sum(np.asarray(v).nbytes for v in self._task.variables.values())
            unfinished.write_bytes(bytes(size + 2**16))  # or HDF5 crashes on a full disk
            model.save_weights(unfinished)

    def _say_what_next(self) -> None:
        """Prints the commands that go on from here, ready to be copied."""
        path = str(self.run_dir.path)
        scale, last = self._datasets.scale, self._datasets.train.x[-1]
        numbers = [f"{x:.3g}" for x in last] if scale is None else scale.short_x_in_units(last)
        example = f"--x={','.join(numbers)}"
        if len(self._datasets.features) > _MOST_NUMBERS:
            example = f"--input={self._config.data}"
        predict = cli.command("predict", f"--export_dir={self.run_dir.export}", example)
        console.say(f"\nTrained: {path}\nWatch:   {cli.command('watch', path)}")
        repeat = cli.repeat_command(self.run_dir.flags)
        console.say(f"Predict: {predict}\nRepeat:  {repeat}")
