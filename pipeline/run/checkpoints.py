"""Checkpoints, saved whole and verified before use."""

import dataclasses
import json
import pathlib
import re
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from absl import logging

from pipeline import errors, files
from pipeline.data import batches as batches_lib
from pipeline.data import preprocessing
from pipeline.run import run_state, signals
from pipeline.training import hooks, optimizers, step_metrics
from pipeline.training import variables as variables_lib

_KEPT = 3
_MODEL, _SUFFIX = "model/", "/.ATTRIBUTES/VARIABLE_VALUE"
_NAME = re.compile(r"(ckpt|best)-(\d+)")
# TensorFlow writes to these first: a directory, a part of the index, and the data.
_UNFINISHED = re.compile(rf"{_NAME.pattern}(?:_temp|\.index\.tempstate\d+|(\.data-00000-of-00001))")


class Checkpoints:
    """The newest three checkpoints of a run, `ckpt-<step>`, and its best model, `best-<step>`."""

    def __init__(
        self,
        directory: pathlib.Path,
        variables: variables_lib.Variables,
        optimizer: optimizers.Optimizer,
        learned: preprocessing.Preprocessing | None = None,
        batches: batches_lib.AnyBatches | None = None,
    ):
        """Prepares to save and restore; `preprocessing_of` will return `learned`.

        The position of `batches` in a stream is saved, too.
        """
        position = (
            {} if batches is None or batches.position is None else {"position": batches.position}
        )
        self._directory = directory
        self._variables = variables.with_optimizer(optimizer)
        self._state = tf.Variable("", trainable=False)
        self._checkpoint = tf.train.Checkpoint(
            model=dict(variables.by_name),
            optimizer=optimizer,
            run_state=self._state,
            **position,
            preprocessing=tf.Variable(json.dumps(learned and learned.state()), trainable=False),
        )
        self._saved = -1

    def save(self, state: run_state.RunState, best_variables: variables_lib.Arrays | None) -> None:
        """Saves the state, with the current model and optimizer.

        Skips a model that is not finite and a step that is already saved. best_variables is the
        model of the best epoch; None if it is already saved.
        """
        if state.step <= self._saved or not all(map(_is_finite, self._variables)):
            return
        self.save_best(state.best.step, best_variables)
        self._state.assign(state.to_bytes())
        with files.writing(self._directory):
            self._checkpoint.write(str(self._directory / f"ckpt-{state.step}"))
            self._saved = state.step
            older = [path for path in _newest_first(self._directory) if _step(path) <= self._saved]
            for path in older[_KEPT:]:  # newer ones are damaged
                _remove(path)

    def save_best(self, step: int, variables: variables_lib.Arrays | None) -> None:
        """Saves the best epoch's model, unless it is saved, and removes the previous one."""
        if variables is None:
            return
        prefix = self._directory / f"best-{step}"
        with files.writing(self._directory):
            if not prefix.with_suffix(".index").exists():
                best = {name: tf.Variable(value) for name, value in variables.items()}
                tf.train.Checkpoint(model=best).write(str(prefix))
            for path in _newest_first(self._directory, "best"):
                if path != prefix:
                    _remove(path)

    def best(self, step: int) -> variables_lib.Arrays:
        """Reads the model of the best epoch, which ended at `step`; raises errors.RunError."""
        try:
            return variables(self._directory / f"best-{step}")
        except errors.InputError as error:
            raise errors.RunError(f"the best model can't be exported: {error}") from error

    def restore(self) -> run_state.RunState:
        """Restores the newest undamaged checkpoint; returns its state, or raises RunError."""
        for path in filter(_read, _newest_first(self._directory)):
            try:  # another model, another optimizer or another program may have written it
                with files.without_pattern(path) as prefix:
                    self._checkpoint.read(str(prefix)).assert_consumed()
            except (AssertionError, ValueError, tf.errors.OpError) as error:
                _warn(path, "belongs to another run", error)
                continue
            self._saved = _step(path)
            return run_state.RunState.from_bytes(self._state.numpy())
        raise errors.RunError(
            f"{self._directory} holds no undamaged checkpoint of this run, so it can't be resumed; "
            "to start anew and keep it under another name: --overwrite"
        )

    def remove_unfinished(self) -> None:
        """Removes unfinished checkpoints of killed processes."""
        for path in self._directory.iterdir() if self._directory.is_dir() else ():
            found = _UNFINISHED.fullmatch(path.name)
            if found and path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif found and not (found[3] and path.with_suffix(".index").exists()):
                path.unlink()


@dataclasses.dataclass(eq=False)
class SaveCheckpoints(hooks.Hook):
    """Saves checkpoints during training, and ends training after a signal."""

    save: Callable[[int], None]  # saves a checkpoint of a step
    every: hooks.Every
    stop: signals.StopRequest
    how_to_resume: str

    def next_pause(self, step: int) -> float:
        """The next step after `step` that saves a checkpoint."""
        return self.every.next_pause(step)

    def after(self, rows: step_metrics.StepMetrics) -> None:
        """Saves a checkpoint if it is due; raises errors.StoppedError after a signal."""
        if self.stop or self.every.is_due(rows.next_step):
            self.stop.announce()
            self.save(rows.next_step)
            self.every.done(rows.next_step)
            # A signal that arrives after this save waits for the next save.
            self.stop.check(self.how_to_resume)


def variables(path: pathlib.Path) -> Mapping[str, npt.NDArray[Any]]:
    """Reads the model's variables by name, from a checkpoint or the newest one in a directory.

    Raises:
      errors.InputError: there is no undamaged checkpoint of this pipeline.
    """
    return {
        name.removeprefix(_MODEL).removesuffix(_SUFFIX).replace("..", "."): array
        for name, array in _newest(path).items()
        if name.startswith(_MODEL)
    }


def preprocessing_of(path: pathlib.Path) -> preprocessing.Preprocessing | None:
    """Reads the preprocessing of the same checkpoint; None if the data were no table."""
    state = json.loads(bytes(_newest(path).get(f"preprocessing{_SUFFIX}", b"null")))
    return preprocessing.Preprocessing.from_state(state) if state else None


def _is_finite(variable: Any) -> bool:
    array: npt.NDArray[Any] = np.asarray(variable)
    return array.dtype.kind not in "fV" or bool(np.isfinite(array.astype(np.float64)).all())


def _newest(path: pathlib.Path) -> dict[str, npt.NDArray[Any]]:
    """Reads the tensors of a checkpoint or of the newest one in a directory."""
    # The shell completes the name of a checkpoint's file.
    prefix = path.with_suffix("") if path.suffix == ".index" else path
    is_there = prefix.with_name(f"{prefix.name}.index").exists()
    for candidate in _newest_first(path) if path.is_dir() else [prefix] * is_there:
        tensors = _read(candidate)
        if any(name.startswith(_MODEL) for name in tensors):
            return tensors
    raise errors.InputError(f"{path}: holds no undamaged checkpoint of this pipeline")


def _newest_first(directory: pathlib.Path, kind: str = "ckpt") -> list[pathlib.Path]:
    """Returns the path prefix of each checkpoint of a kind, newest first."""
    indices = [path for path in directory.glob(f"{kind}-*.index") if _NAME.fullmatch(path.stem)]
    return sorted((path.with_suffix("") for path in indices), key=_step, reverse=True)


def _step(path: pathlib.Path) -> int:
    return int(path.name.partition("-")[2])


def _remove(prefix: pathlib.Path) -> None:
    """Removes the files of a checkpoint, the index first."""
    for suffix in (".index", ".data-00000-of-00001"):
        prefix.with_name(f"{prefix.name}{suffix}").unlink(missing_ok=True)


def _read(path: pathlib.Path) -> dict[str, npt.NDArray[Any]]:
    """Reads every tensor of a checkpoint and verifies checksums; empty if it is damaged."""
    try:
        with files.without_pattern(path) as prefix:
            reader = tf.train.load_checkpoint(str(prefix))
            return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    except Exception as error:  # a damaged byte can raise almost any type
        _warn(path, "is damaged", error)
        return {}


def _warn(path: pathlib.Path, problem: str, error: Exception) -> None:
    reason = errors.one_line(error)[:200]
    logging.warning("skipping the checkpoint %s, which %s: %s", path, problem, reason)
