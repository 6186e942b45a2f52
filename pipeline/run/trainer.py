"""A run from start to end: prepare or resume, train, finish."""

import contextlib
import dataclasses

import numpy as np

from pipeline import cli, console, errors, files, flagfile, user_calls, user_code
from pipeline import config as config_lib
from pipeline.data import batches as batches_lib
from pipeline.data import datasets as datasets_lib
from pipeline.distributed import communicator as communicator_lib
from pipeline.distributed import workers
from pipeline.evaluation import callbacks, evaluate, linear, monitor, own_steps, reports
from pipeline.reporting import plots, profiler, recorder
from pipeline.reporting import reporters as reporters_lib
from pipeline.run import (
    agreement,
    checkpoints,
    export,
    finish,
    initialization,
    notes,
    run_dir,
    run_state,
    signals,
    versions,
)
from pipeline.training import clock as clock_lib
from pipeline.training import (
    compilation,
    hooks,
    keras_loop,
    learning_rate,
    make_task,
    optimizers,
    train_step,
)
from pipeline.training import loop as loop_lib


def train(
    config: config_lib.Config,
    datasets: datasets_lib.Datasets,
    communicator: communicator_lib.Communicator | None = None,
) -> finish.Result:
    """Trains a model and writes the directory of a finished run.

    If the directory holds an unfinished run with the same settings, the run is resumed. A signal
    ends training early, after a checkpoint; outside training it ends the process at once.

    All processes that train together call this. Only the first one writes.

    Raises:
      errors.InputError: a setting doesn't fit the data or an earlier run with this name.
      errors.RunError: the directory can't be written to, or its checkpoints are damaged.
      errors.DivergedError: the loss became infinite or NaN, or far larger than at the start.
      errors.StoppedError: a signal stopped the run; it can be resumed.
      errors.LostWorkerError: another worker can't be reached; restart all workers.
    """
    functions = user_code.find(config).values()
    with contextlib.ExitStack() as stack, plots.style():
        # files.writing handles TensorFlow's errors about the disk.
        stack.enter_context(user_calls.user_errors("training", *functions, beside_ours=True))
        trainer = _Trainer(config, datasets, communicator)
        resumes = datasets.worker.is_chief and stack.enter_context(trainer.run_dir.opened(config))
        stack.enter_context(agreement.ending_together(communicator))
        try:
            return trainer.run(resumes=resumes)
        except errors.WriteError as error:
            raise errors.RunError(
                f"the run {trainer.run_dir.path} can't be written: {error}; its checkpoints are "
                f"intact; resume with: {trainer.command}"
            ) from error


class _Trainer:
    """One process of a run."""

    def __init__(
        self,
        config: config_lib.Config,
        datasets: datasets_lib.Datasets,
        communicator: communicator_lib.Communicator | None,
    ):
        """Prepares and checks everything that can fail; writes nothing yet."""
        self._datasets, self._task = datasets, task = make_task.fitting(config, datasets)
        self._given, self._communicator = config, communicator
        self._writes = datasets.worker.is_chief
        self._reporters: reporters_lib.Reporters | None = None
        self._stop = signals.StopRequest()
        self.run_dir = run_dir.RunDir.of(config)
        self.command = cli.resume_command(config, self.run_dir.flags)
        batches = batches_lib.of(datasets, config)
        self._last_step = config.last_step(datasets.steps_per_epoch(config))
        self._total = communicator.sum if communicator else workers.alone
        self._evaluator = own_steps.evaluator(task, datasets, config, self._total)
        is_mean = self._evaluator.is_mean_over_examples
        agreement.check(config, datasets, task, communicator, is_mean_over_examples=is_mean)
        self._line = linear.Linear.of(task, datasets, config)
        stable = self._line.largest_stable_rate if self._line else np.inf
        rate = learning_rate.choose(config, task, datasets, largest_stable=stable)
        rate = float(communicator.of_chief([rate])[0]) if communicator and rate else rate
        self._config = config = dataclasses.replace(config, learning_rate=rate)
        # The learning rate is chosen before, with the initial model, as in a resumed run.
        if self._writes and config.initialize_from and not self.run_dir.resumes(config):
            initialization.initialize(task, self._line, config.initialize_from)
        self._optimizer = optimizer = optimizers.create(config, task, last_step=self._last_step)
        if config.loop == "fit":
            keras_loop.compile_model(task, optimizer)
        step = train_step.create(config.loop, task, optimizer)
        self._graph, self._compilation = compilation.prepare(config, task, optimizer, batches, step)
        mode = self._compilation.mode
        self._loop = loop_lib.Loop(
            task, optimizer, batches, mode, step=step, communicator=communicator
        )
        self._monitor = monitor.Monitor(self._evaluator, datasets, config)
        self._callbacks = callbacks.Callbacks(config, task, self._monitor.steps_per_epoch)
        self._fingerprint = agreement.fingerprint_of_all(datasets, communicator)
        self._checkpoints = checkpoints.Checkpoints(
            self.run_dir.checkpoints, task.variables, optimizer, datasets.preprocessing, batches
        )
        self._outputs = finish.Outputs(
            config, datasets, task, self._line, self._monitor, self.run_dir, self._checkpoints
        )

    def run(self, *, resumes: bool) -> finish.Result:
        """Trains from the start or from the newest checkpoint, and finishes."""
        state, config = None, self._config
        if self._writes:
            self._checkpoints.remove_unfinished()
            state = self._checkpoints.restore() if resumes else None
        state = agreement.state_of_first(state, self._communicator)
        if self._communicator:  # all processes start with the same bits
            own = self._task.variables.with_optimizer(self._optimizer)
            self._communicator.from_chief(own)
        self._clock = clock_lib.Clock(not_before=state.time if state else 0)
        self._seconds_before = state.seconds if state else 0.0
        if state is not None:
            errors.require(
                state.fingerprint == self._fingerprint,
                f"the examples of the run {self.run_dir.path} are not what they were when it was "
                "started; choose another --run_name, or start anew with --overwrite",
            )
            self._monitor.best, self._monitor.start_loss = state.best, state.start_loss
            if finished := self._if_finished(state):
                return finished
        if not self._writes:
            return self._train_and_finish(state.step if state else 0)
        if config.formats:  # fails before training, if at all
            export.try_formats(self._task, self._datasets, config.formats)
        about = config, self._datasets, self._task, self._line, self._compilation
        for note in (*notes.before_training(*about), *self._callbacks.notes()):
            console.say(note)
        if self._communicator and (note := self._loop.note_on_speed()):
            console.say(f"Note: {note}")
        with contextlib.closing(self._make_reporters(state)) as self._reporters:
            self._begin(state, self._reporters)
            return self._train_and_finish(state.step if state else 0)

    def _if_finished(self, state: run_state.RunState) -> finish.Result | None:
        """The result of a run that has ended and was exported; None for any other run."""
        final = self._evaluator.evaluate()
        is_end = state.step == self._last_step or self._monitor.is_exhausted(state.step, final)
        is_end |= bool(self._config.callbacks) and state.step < state.last_step  # if exported
        exported = versions.newest_steps(self.run_dir.export) if self._writes else None
        is_finished = is_end and exported is not None and exported.last == state.step
        if self._communicator:
            is_finished = bool(self._communicator.of_chief([int(is_finished)])[0])
        if not is_finished:
            return None
        self._monitor.noted(state.step, final)  # it may be the best evaluation
        found = reports.regression(self._task, self._datasets, self._line, self._total)
        if self._writes:
            self._outputs.export_again(state.step, self._last_step, final, found, state.seconds)
        return self._outputs.result(final)

    def _make_reporters(self, state: run_state.RunState | None) -> reporters_lib.Reporters:
        """Makes the reporters, which continue the files and the history of a checkpoint."""
        recording = recorder.Recorder(
            self._config,
            self._task,
            self._datasets,
            self._line,
            rates=lambda steps: optimizers.rates(self._optimizer, steps),
            directory=self.run_dir.path,
            last_step=self._last_step,
            clock=self._clock,
            rows=state.history if state else None,
            event_files=state.event_files if state else {},
        )
        return reporters_lib.Reporters(recording)

    def _train_and_finish(self, first_step: int) -> finish.Result:
        try:
            if first_step < self._last_step:
                self._train(first_step)
            final, found = self._finish()
        except hooks.Divergence as end:
            message = notes.of_divergence(end, self._config, self._line, self._monitor)
            if self._reporters:
                self._reporters.diverged(message)
                self._outputs.write_result("diverged", end.step, self._seconds(), message=message)
            watch = cli.command("watch", str(self.run_dir.path))
            raise errors.DivergedError(f"{message}; see it with: {watch}") from None
        if self._reporters:
            self._reporters.flush()  # even if the export fails
            self._outputs.export(self._last_step, final, found, self._seconds())
            self._outputs.say_what_next()
        return self._outputs.result(final)

    def _begin(self, state: run_state.RunState | None, reporters: reporters_lib.Reporters) -> None:
        """Saves and records the start of training."""
        with files.writing(self.run_dir.result):
            self.run_dir.result.unlink(missing_ok=True)
        mode, reason = self._compilation
        count = self._datasets.worker.count
        settings = {
            "repeat": f"`{cli.repeat_command(self._config, self.run_dir.flags)}`",
            "compilation": mode.value + (f" ({reason})" if reason else ""),
            **({"workers": str(count)} if count > 1 else {}),
        }
        if state is None:
            self._save(0)
        else:
            with files.writing(self.run_dir.flags):
                flagfile.write(self.run_dir.flags, flagfile.from_config(self._given))
            console.say(f"Resuming at step {state.step:,} of {self._last_step:,}")
        if state is None or state.step == 0:
            reporters.start(self._graph, settings)
        elif state.last_step < self._last_step:
            reporters.extend(settings, step=state.step)
        self._callbacks.begin(state.callbacks if state else ())

    def _train(self, first_step: int) -> None:
        config, reporters = self._config, self._reporters
        steps, seconds = config.checkpoint_every, config.checkpoint_secs
        every = hooks.Every(steps=steps, seconds=seconds, step=first_step)
        save = checkpoints.SaveCheckpoints(self._save, every, self._stop, self.command)
        directory = self.run_dir.path / "train"
        profiled = config.profiled if reporters else None
        profile = profiler.Profiler(profiled, directory, first_step=first_step)
        reported = reporters.hooks if reporters else ()
        hook = agreement.Hooks(
            [self._callbacks, self._monitor, *reported, profile, save],
            self._stop,
            self._communicator,
            self._monitor.is_good,
        )
        train = keras_loop.fit if config.loop == "fit" else loop_lib.train
        steps_of_run = {"first_step": first_step, "last_step": self._last_step}
        with self._stop, contextlib.closing(profile):
            try:
                train(self._loop, **steps_of_run, hook=hook, clock=self._clock)
            except hooks.EndOfTraining as end:
                self._save(end.step)
                self._last_step = end.step
                if reporters:
                    reporters.end_early(end.step, end.reason)
            self._save(self._last_step)
            self._stop.check(self.command)

    def _save(self, step: int) -> None:
        """Saves a checkpoint; only the first process does."""
        if self._reporters is None:
            return
        state = run_state.RunState(
            step=step,
            last_step=self._last_step,
            fingerprint=self._fingerprint,
            best=self._monitor.best,
            start_loss=self._monitor.start_loss,
            time=self._clock.now(),
            seconds=self._seconds(),
            event_files=self._reporters.flush(),
            history=self._reporters.history,
            callbacks=self._callbacks.state(),
        )
        self._checkpoints.save(state, self._monitor.best_variables)

    def _seconds(self) -> float:
        """Seconds of training so far."""
        return self._seconds_before + self._clock.seconds

    def _finish(self) -> tuple[evaluate.Evaluation, reports.Reports]:
        """Evaluates and records the model after the last update."""
        step = self._last_step
        last = self._loop.row(step)
        if not self._monitor.is_good(last).all():
            raise hooks.Divergence(step, float(last.loss[0]))
        final = self._monitor.checked(step)
        event = self._monitor.noted(step, final)
        self._callbacks.finish(event)
        found = reports.regression(self._task, self._datasets, self._line, self._total)
        if self._reporters:
            self._reporters.finish(last, event, found)
            self._checkpoints.save_best(self._monitor.best.step, self._monitor.best_variables)
        return final, found
