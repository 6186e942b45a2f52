"""The directory of a run: its layout, and the lock of the process that writes to it."""

import contextlib
import fcntl
import os
import pathlib
import shutil
import time
from collections.abc import Iterator
from typing import TextIO

from pipeline import config as config_lib
from pipeline import errors, flagfile

# What a run makes in its directory.
_OWN = {
    *("flags.txt", ".unfinished.flags.txt", ".lock", "checkpoints", "figures", "export"),
    *("train", "validation", "least_squares", "truth"),
    *("model.weights.h5", ".unfinished.model.weights.h5"),
}


class RunDir:
    """The directory of one run, `<logdir>/<run_name>/`, and the paths in it."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        # The flagfile that repeats or resumes the run. It appears when the run can be resumed, so
        # a directory without it holds nothing to keep.
        self.flags = path / "flags.txt"
        self.checkpoints = path / "checkpoints"
        self.export = path / "export"  # numbered SavedModels
        self.weights = path / "model.weights.h5"  # of a Keras model
        self._lock = path / ".lock"

    @classmethod
    def of(cls, config: config_lib.Config) -> "RunDir":
        """The directory that a config names."""
        return cls(pathlib.Path(config.logdir) / config.run_name)

    def check(self, config: config_lib.Config) -> None:
        """Checks early, before anything is loaded, whether a run can be here.

        Raises:
          errors.InputError: there is something else, or a run with other settings.
          errors.RunError: the directory can't be written to, or another process does.
        """
        if not self.path.exists():
            self._check_parent()
            return
        errors.require(
            self.path.is_dir() and self._is_run(),
            f"{self.path} exists already and is no run of this pipeline; choose another --run_name",
        )
        if self.resumes(config):
            self._check_flags(config)
        if self._lock.exists():
            with self._locked():
                pass

    def resumes(self, config: config_lib.Config) -> bool:
        """Whether a run with these settings would resume one that is here."""
        return self.flags.exists() and not config.overwrite

    @contextlib.contextmanager
    def opened(self, config: config_lib.Config) -> Iterator[bool]:
        """Holds the lock of the directory; yields whether there is a run to resume.

        Raises:
          As check does.
        """
        self.check(config)
        if config.overwrite and self.path.exists():
            with self._locked():
                self._move_aside()
        is_new = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise errors.RunError(f"{self.path} can't be made: {error.strerror}") from error
        with self._locked():
            resumes = self.flags.exists()
            if not resumes and not is_new:
                self._clear()
            try:
                yield resumes
            except BaseException:
                if not self.flags.exists():  # there is nothing to resume yet
                    self._remove()
                raise

    def _is_run(self) -> bool:
        """Whether the directory holds a run, or what a killed start of one left, or nothing."""
        names = {path.name for path in self.path.iterdir()}
        return "flags.txt" in names or not names or (".lock" in names and names <= _OWN)

    def _check_parent(self) -> None:
        parent = self.path.parent
        while not parent.exists():
            parent = parent.parent
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise errors.RunError(
                f"--logdir={self.path.parent} can't be written to: {parent} is not a "
                "directory that you may write to"
            )

    def _check_flags(self, config: config_lib.Config) -> None:
        flags = flagfile.read(self.flags)
        different = flagfile.differences(flags, flagfile.from_config(config))
        errors.require(
            not different,
            f"the run {self.path} has other settings: {', '.join(different)}; give the same to "
            "resume it, or choose another --run_name, or start anew with --overwrite",
        )
        errors.require(
            config.epochs >= int(flags["epochs"]),
            f"the run {self.path} has --epochs={flags['epochs']}, which may grow but not shrink; "
            f"received --epochs={config.epochs}",
        )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Holds the lock; the system releases it when the process ends in any way."""
        try:
            file = open(self._lock, "a+")  # noqa: SIM115 (closed below)
        except OSError as error:
            raise errors.RunError(f"{self.path} can't be written to: {error.strerror}") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise errors.RunError(
                    f"the run {self.path} is in use by process {file.read() or '?'}; wait for "
                    "it, or stop it, or choose another --run_name"
                ) from None
            if not self._is_lock(file):
                raise errors.RunError(
                    f"another process has just started the run {self.path} anew; wait for it, "
                    "or stop it, or choose another --run_name"
                )
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def _is_lock(self, file: TextIO) -> bool:
        """Whether an open file is still the lock, and was not renamed with the directory."""
        try:
            return os.path.samestat(os.fstat(file.fileno()), os.stat(self._lock))
        except FileNotFoundError:
            return False

    def _move_aside(self) -> None:
        """Renames the run, which can be resumed under the new name."""
        moved = RunDir(self.path.with_name(f"{self.path.name}.{name_from_time()}"))
        self.path.rename(moved.path)
        if moved.flags.exists():
            flags = flagfile.read(moved.flags)
            flagfile.write(moved.flags, flags | {"run_name": moved.path.name})

    def _clear(self) -> None:
        """Removes what a process left that was killed before the run could be resumed."""
        for child in self.path.iterdir():
            if child.name not in _OWN or child == self._lock:
                continue
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            else:
                child.unlink()

    def _remove(self) -> None:
        """Removes a run that can't be resumed, and leaves what else is in the directory."""
        with contextlib.suppress(OSError):
            self._clear()
            self._lock.unlink()
            self.path.rmdir()


def name_from_time() -> str:
    """A run name that sorts by time, and no other process on this machine takes."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
