"""The folder of a run: what lies where, and who may write in it."""

import contextlib
import fcntl
import os
import pathlib
import shutil
import time
from collections.abc import Iterator
from typing import TextIO

from pipeline import config as config_lib
from pipeline import errors

# What a run makes in its folder.
_OWN = frozenset(
    (
        *("flags.txt", ".flags.unfinished", ".lock", "checkpoints", "figures", "export"),
        *("train", "validation", "least_squares", "truth"),
        *("model.weights.h5", ".unfinished.model.weights.h5"),
    )
)


class RunFolder:
    """Paths of one run, `<logdir>/<run_name>/`.

    Attributes:
      path: The folder itself; the other attributes lie in it.
      flags: The flagfile that repeats or resumes the run. It appears when the run can be
        resumed, so a folder without it holds nothing worth keeping.
      checkpoints: The folder of the checkpoints.
      figures: The folder of the pictures.
      export: The folder of the numbered SavedModels.
      weights: The weights of a Keras model.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.flags = path / "flags.txt"
        self.checkpoints = path / "checkpoints"
        self.figures = path / "figures"
        self.export = path / "export"
        self.weights = path / "model.weights.h5"
        self._lock = path / ".lock"

    @classmethod
    def of(cls, config: config_lib.Config) -> "RunFolder":
        """The folder that a config names."""
        return cls(pathlib.Path(config.logdir) / config.run_name)

    def events(self, curve: str) -> pathlib.Path:
        """The folder of one curve's event files, a run of its own in TensorBoard."""
        return self.path / curve

    def check(self, config: config_lib.Config) -> None:
        """Says early, before anything is loaded, why a run can't be here.

        Raises:
          errors.InputError: there is something else, or a run with other settings.
          errors.RunError: the folder can't be written to, or another process does.
        """
        if not self.path.exists():
            self._check_parent()
            return
        if not self.path.is_dir() or not self._is_run():
            raise errors.InputError(
                f"{self.path} exists already and is no run of this pipeline; choose another "
                "--run_name"
            )
        if self.resumes(config):
            self._check_flags(config)
        if self._lock.exists():
            with self._locked():
                pass

    def resumes(self, config: config_lib.Config) -> bool:
        """Whether a run with these settings would go on with one that is here."""
        return self.flags.exists() and not config.overwrite

    @contextlib.contextmanager
    def opened(self, config: config_lib.Config) -> Iterator[bool]:
        """Owns the folder for a while; gives whether there is a run to resume.

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
                if not self.flags.exists():  # there is nothing yet to go on from
                    self._remove()
                raise

    def write_flags(self, config: config_lib.Config) -> None:
        """Records the settings; from now on the run can be resumed."""
        self._write_flags(config.to_flags())

    def _write_flags(self, flags: list[str]) -> None:
        unfinished = self.path / ".flags.unfinished"
        unfinished.write_text("\n".join(flags) + "\n")
        unfinished.rename(self.flags)

    def _read_flags(self) -> list[str]:
        return self.flags.read_text().splitlines()

    def _is_run(self) -> bool:
        """Whether the folder holds a run, or what a killed start of one left, or nothing."""
        names = {path.name for path in self.path.iterdir()}
        return "flags.txt" in names or not names or (".lock" in names and names <= _OWN)

    def _check_parent(self) -> None:
        parent = self.path.parent
        while not parent.exists():
            parent = parent.parent
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise errors.RunError(
                f"--logdir={self.path.parent} can't be written to: {parent} is not a "
                "folder that you may write in"
            )

    def _check_flags(self, config: config_lib.Config) -> None:
        flags = self._read_flags()
        different = config_lib.differences(flags, config.to_flags())
        if different:
            raise errors.InputError(
                f"the run {self.path} has other settings: {', '.join(different)}; give the "
                "same to resume it, or choose another --run_name, or start anew with "
                "--overwrite"
            )
        for flag in flags:
            name, _, value = flag.partition("=")
            if name == "--epochs" and config.epochs < int(value):
                raise errors.InputError(
                    f"the run {self.path} has {flag}, which may grow but not shrink; "
                    f"received --epochs={config.epochs}"
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
        """Whether an open file is still the lock, and was not moved away with the folder."""
        try:
            return os.path.samestat(os.fstat(file.fileno()), os.stat(self._lock))
        except FileNotFoundError:
            return False

    def _move_aside(self) -> None:
        """Gives the run another name, under which it can go on."""
        moved = RunFolder(self.path.with_name(f"{self.path.name}.{name_from_time()}"))
        self.path.rename(moved.path)
        if moved.flags.exists():
            name = f"--run_name={moved.path.name}"
            flags = moved._read_flags()
            moved._write_flags([name if f.startswith("--run_name=") else f for f in flags])

    def _clear(self) -> None:
        """Removes what a start left that was killed before it could be resumed."""
        for child in self.path.iterdir():
            if child.name not in _OWN or child == self._lock:
                continue
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            else:
                child.unlink()

    def _remove(self) -> None:
        """Removes a run that can't be resumed, and leaves what else is in the folder."""
        with contextlib.suppress(OSError):
            self._clear()
            self._lock.unlink()
            self.path.rmdir()


def name_from_time() -> str:
    """A run name that sorts by time, and no other process on this machine takes."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
