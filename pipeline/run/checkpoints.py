"""Checkpoints, saved whole and verified before use."""

import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from absl import logging

from pipeline import errors
from pipeline.run import run_state, signals
from pipeline.training import evaluation, hooks, metrics, optimizers, task

_KEPT = 3
_MODEL, _SUFFIX = "model/", "/.ATTRIBUTES/VARIABLE_VALUE"
_STATE = f"run_state{_SUFFIX}"
_HOW_TO_START_ANEW = "to start anew and keep it under another name: --overwrite"


class Checkpoints:
    """The checkpoints of one run: `ckpt-<step>`, of which the newest three are kept.

    `best-<step>` beside them holds the model of the best epoch so far.
    """

    def __init__(
        self, directory: pathlib.Path, trained: task.Task, optimizer: optimizers.Optimizer
    ):
        """Prepares to save and restore a model, its optimizer and the state of the run."""
        self._directory = directory
        self._variables = [*trained.variables.values(), *getattr(optimizer, "variables", ())]
        self._state = tf.Variable("", trainable=False)
        self._checkpoint = tf.train.Checkpoint(
            model=dict(trained.variables), optimizer=optimizer, run_state=self._state
        )
        self._saved = -1

    def save(self, state: run_state.RunState, best_variables: evaluation.Variables | None) -> None:
        """Saves the model and the optimizer as they are at state.step, with the state.

        A model that is not finite, or a step that is saved already, is not saved. best_variables
        is the model of the best epoch, None if that is saved already.
        """
        is_finite = all(np.isfinite(np.asarray(v, np.float64)).all() for v in self._variables)
        if state.step <= self._saved or not is_finite:
            return
        self.save_best(state.best.step, best_variables)
        self._state.assign(state.to_bytes())
        self._checkpoint.write(str(self._directory / f"ckpt-{state.step}"))
        self._saved = state.step
        older = [path for path in _newest_first(self._directory) if _step(path) <= self._saved]
        for path in older[_KEPT:]:  # newer ones are damaged
            _remove(path)

    def save_best(self, step: int, variables: evaluation.Variables | None) -> None:
        """Saves the model of the best epoch so far, unless it is saved, in place of the last."""
        name = f"best-{step}"
        if variables is None:
            return
        if not (self._directory / f"{name}.index").exists():
            best = {name: tf.Variable(value) for name, value in variables.items()}
            tf.train.Checkpoint(model=best).write(str(self._directory / name))
        for path in self._directory.glob("best-*.index"):
            if path.stem != name:
                _remove(path.with_suffix(""))

    def restore(self) -> run_state.RunState:
        """Restores the newest checkpoint that is not damaged, and returns its state.

        Raises:
          errors.RunError: there is none.
        """
        self._remove_unfinished()
        for path in _newest_first(self._directory):
            if reader := _verify(path):
                if not reader.has_tensor(_STATE):
                    raise errors.RunError(
                        f"{path} was written by an earlier version of this pipeline, whose runs "
                        f"can't be resumed; {_HOW_TO_START_ANEW}"
                    )
                self._checkpoint.read(str(path)).assert_consumed()
                self._saved = _step(path)
                return run_state.RunState.from_bytes(self._state.numpy())
        raise errors.RunError(
            f"{self._directory} holds no undamaged checkpoint, so the run can't be resumed; "
            f"{_HOW_TO_START_ANEW}"
        )

    def _remove_unfinished(self) -> None:
        """Removes what a killed process has not finished saving."""
        for path in self._directory.glob("*_temp"):
            shutil.rmtree(path, ignore_errors=True)
        for path in self._directory.glob("*.data-*"):
            if not path.with_suffix(".index").exists():
                path.unlink()
        for path in self._directory.glob("*.tempstate*"):
            path.unlink(missing_ok=True)


class SaveCheckpoints(hooks.Hook):
    """Saves checkpoints while the model trains, and ends training when a signal has come."""

    def __init__(
        self,
        save: Callable[[int], None],
        every: hooks.Every,
        stop: signals.StopRequest,
        how_to_resume: str,
    ):
        """Prepares to call `save` with the step: when it is due, and before a stop."""
        self._save, self._every = save, every
        self._stop, self._how_to_resume = stop, how_to_resume

    def next_stop(self, step: int) -> float:
        """The next step after `step` with a checkpoint."""
        return self._every.next_stop(step)

    def after(self, rows: metrics.StepMetrics) -> None:
        """Saves if it is due; raises errors.StoppedError if a signal has come."""
        if self._stop or self._every.is_due(rows.end):
            self._save(rows.end)
            self._every.done(rows.end)
            # A signal that comes later than the save waits for the next one.
            self._stop.check(self._how_to_resume)


def variables(path: pathlib.Path) -> Mapping[str, npt.NDArray[np.float32]]:
    """The variables of the model, by name, in a checkpoint or the newest one in a directory.

    Raises:
      errors.InputError: there is no undamaged checkpoint of this pipeline.
    """
    # What the shell completes is the name of a checkpoint's file.
    prefix = path.with_suffix("") if path.suffix == ".index" else path
    for candidate in _newest_first(path) if path.is_dir() else [prefix]:
        is_there = candidate.with_name(f"{candidate.name}.index").exists()
        if is_there and (reader := _verify(candidate)):
            keys = [key for key in reader.get_variable_to_shape_map() if key.startswith(_MODEL)]
            names = [key.removeprefix(_MODEL).removesuffix(_SUFFIX) for key in keys]
            if keys:
                return dict(zip(names, map(reader.get_tensor, keys), strict=True))
    raise errors.InputError(f"{path}: holds no undamaged checkpoint of this pipeline")


def _newest_first(directory: pathlib.Path) -> list[pathlib.Path]:
    """The prefixes of the checkpoints in a directory."""
    paths = [p.with_suffix("") for p in directory.glob("ckpt-*.index") if p.stem[5:].isdecimal()]
    return sorted(paths, key=_step, reverse=True)


def _step(path: pathlib.Path) -> int:
    return int(path.name.removeprefix("ckpt-"))


def _remove(prefix: pathlib.Path) -> None:
    """Removes the files of a checkpoint, first the one without which it is none."""
    for path in sorted(prefix.parent.glob(f"{prefix.name}.*"), reverse=True):
        path.unlink()


def _verify(path: pathlib.Path) -> Any:
    """Reads every tensor, which verifies its checksum; returns the reader, None if damaged."""
    try:
        reader = tf.train.load_checkpoint(str(path))
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except Exception as error:  # depending on the byte, damage shows as almost any type
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        logging.warning("skipping the damaged checkpoint %s: %s", path, reason)
        return None
    return reader
