"""Checkpoints: saved whole, tried before they are believed."""

import io
import math
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from absl import logging

from pipeline import errors
from pipeline import model as model_lib

_KEPT = 3
State = Mapping[str, npt.NDArray[Any]]


class Schedule:
    """Decides when a checkpoint is due: every so many steps, or else seconds."""

    def __init__(
        self, *, every: int, seconds: float, saved: int, clock: Callable[[], float] = time.monotonic
    ):
        """Counts from the step that was saved last, and from now."""
        self._every = every
        self._seconds = seconds
        self._clock = clock
        self._saved, self._saved_at = saved, clock()

    def __call__(self, step: int) -> bool:
        """Whether one is due; the answer yes is taken as its being saved."""
        if self._every:
            is_due = step // self._every > self._saved // self._every
        else:
            is_due = self._clock() - self._saved_at >= self._seconds
        if is_due:
            self._saved, self._saved_at = step, self._clock()
        return is_due

    def next_stop(self, step: int) -> float:
        """The next step after this one where training must stop for a checkpoint."""
        return (step // self._every + 1) * self._every if self._every else math.inf


class _Arrays(tf.train.experimental.PythonState):  # type: ignore[misc]
    """Numpy arrays by name, as one more entry of a checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.arrays: State = {}

    def serialize(self) -> bytes:
        """The arrays as the content of an .npz file."""
        buffer = io.BytesIO()
        np.savez(buffer, **self.arrays)  # type: ignore[arg-type]
        return buffer.getvalue()

    def deserialize(self, content: bytes) -> None:
        """Takes the arrays back."""
        with np.load(io.BytesIO(content)) as arrays:
            self.arrays = dict(arrays)


class Checkpoints:
    """The checkpoints of one run.

    The newest three are kept. Each bears the number of points recorded so far, which is
    that of the step, or one more when training is complete. `best-<step>` beside them holds
    the W and b of the best epoch so far.
    """

    def __init__(self, folder: pathlib.Path, model: model_lib.Model, optimizer: Any):
        """Prepares to save and restore a model and its optimizer."""
        self._folder = folder
        self._variables = [*map(model_lib.variable, (model.W, model.b))]
        self._variables += [*map(model_lib.variable, getattr(optimizer, "variables", ()))]
        self._state = _Arrays()
        self._checkpoint = tf.train.Checkpoint(
            W=self._variables[0], b=self._variables[1], optimizer=optimizer, state=self._state
        )
        self._manager: tf.train.CheckpointManager | None = None
        self._saved = -1

    def save(self, number: int, state: State) -> None:
        """Saves the model and the optimizer as they are, and some arrays.

        A state that is not finite, or that is saved already, is not saved.
        """
        if number <= self._saved or not self._is_finite():
            return
        if self._manager is None:
            if self._saved >= 0:
                self._tell_manager()
            self._manager = tf.train.CheckpointManager(
                self._checkpoint, str(self._folder), max_to_keep=_KEPT
            )
        self._state.arrays = state
        self._manager.save(checkpoint_number=number)
        self._saved = number

    def save_best(self, step: int, W: npt.ArrayLike, b: npt.ArrayLike) -> None:
        """Saves the parameters of the best epoch so far, in place of those before."""
        name = f"best-{step}"
        if (self._folder / f"{name}.index").exists():
            return
        tf.train.Checkpoint(W=tf.Variable(W), b=tf.Variable(b)).write(str(self._folder / name))
        for path in self._folder.glob("best-*.*"):
            if path.stem != name:
                path.unlink()

    def restore(self) -> State:
        """Restores the newest checkpoint that is whole, and returns its arrays.

        Raises:
          errors.RunError: none is.
        """
        self._remove_unfinished()
        for path in _newest_first(self._folder):
            problem = _damage(path)
            if problem is None:
                self._checkpoint.restore(str(path)).assert_consumed()
                self._saved = _number(path)
                return self._state.arrays
            logging.warning("passing over the damaged checkpoint %s: %s", path, problem)
        raise errors.RunError(
            f"{self._folder} holds no checkpoint that is whole, so the run can't be resumed; "
            "to start anew and move it aside: --overwrite"
        )

    def _is_finite(self) -> bool:
        return all(np.isfinite(np.asarray(v, np.float64)).all() for v in self._variables)

    def _remove_unfinished(self) -> None:
        """Removes what a killed save left."""
        for path in self._folder.glob("*_temp"):
            shutil.rmtree(path, ignore_errors=True)
        for path in self._folder.glob("*.tempstate*"):
            path.unlink()

    def _tell_manager(self) -> None:
        """Lists the checkpoints up to the restored one in the manager's state file.

        So that the manager goes on to delete the oldest; the file may be damaged, too.
        """
        names = [p.name for p in _newest_first(self._folder) if _number(p) <= self._saved]
        lines = [f'model_checkpoint_path: "{names[0]}"']
        lines += [f'all_model_checkpoint_paths: "{name}"' for name in reversed(names)]
        (self._folder / "checkpoint").write_text("\n".join(lines) + "\n")


def parameters(path: pathlib.Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """W (scalar or [D]) and b of a checkpoint, or of the newest good one in a folder.

    Raises:
      errors.InputError: there is none.
    """
    # What the shell completes is the name of a checkpoint's file.
    prefix = path.with_suffix("") if path.suffix == ".index" else path
    candidates = _newest_first(path) if path.is_dir() else [prefix]
    for candidate in candidates:
        if _damage(candidate) is None:
            reader = tf.train.load_checkpoint(str(candidate))
            W, b = (reader.get_tensor(f"{n}/.ATTRIBUTES/VARIABLE_VALUE") for n in ("W", "b"))
            return W, b
    raise errors.InputError(f"{path}: holds no whole checkpoint of a linear model")


def _newest_first(folder: pathlib.Path) -> list[pathlib.Path]:
    """The prefixes of the checkpoints in a folder. The state file is not relied on."""
    paths = [p.with_suffix("") for p in folder.glob("ckpt-*.index") if p.stem[5:].isdecimal()]
    return sorted(paths, key=_number, reverse=True)


def _number(path: pathlib.Path) -> int:
    return int(path.name.removeprefix("ckpt-"))


def _damage(path: pathlib.Path) -> str | None:
    """Reads every tensor, which checks their checksums; returns what is wrong."""
    try:
        reader = tf.train.load_checkpoint(str(path))
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
        if not reader.has_tensor("W/.ATTRIBUTES/VARIABLE_VALUE"):
            return "has no W"
    except Exception as error:  # depending on the byte, damage shows as almost any type
        return " ".join(str(error).split())[:200] or type(error).__name__
    return None
