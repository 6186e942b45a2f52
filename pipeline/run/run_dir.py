"""The directory of a run: its layout and its lock, held by the process that writes."""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import shutil
import time
from collections.abc import Iterator
from typing import TextIO

from pipeline import config as config_lib
from pipeline import console, errors, files, flagfile, tf_runtime, user_code

_last_name = ""


class RunDir:
    """The directory of one run, `<logdir>/<run_name>/`, and the paths in it.

    The flagfile is written first and marks the directory as a run. Files that pipeline did not
    write are never deleted.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.flags = path / "flags.txt"  # the flagfile that repeats or resumes the run
        self.checkpoints = path / "checkpoints"
        self.figures = path / "figures"
        self.code = path / "code"  # copies of the user's files, such as model.py
        self.export = path / "export"  # numbered SavedModels
        self.result = path / "result.json"
        self.weights = path / "model.weights.h5"  # of a Keras model
        self._lock = path / ".lock"

    @classmethod
    def of(cls, config: config_lib.Config) -> "RunDir":
        """The run directory of a config."""
        return cls(pathlib.Path(config.logdir) / config.run_name)

    def check(self, config: config_lib.Config) -> None:
        """Checks, before any data is loaded, whether the run can use this directory.

        Raises:
          errors.InputError: it holds other files, or a run with other settings.
          errors.RunError: it can't be written to, or another process is writing to it.
        """
        if not self.path.exists():
            parent = next(each for each in self.path.parents if each.exists())
            if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
                raise errors.RunError(
                    f"--logdir={self.path.parent} can't be written to: {parent} is not a "
                    "directory that you may write to"
                )
            return
        errors.require(
            self.path.is_dir() and (flagfile.is_of_run(self.flags) or not self._content()),
            f"{self.path} exists already and is no run of this pipeline, or of an earlier version "
            "of it; choose another --run_name",
        )
        if self.resumes(config):
            self._check_flags(config)
        if self._lock.exists():
            with self._locked():
                pass

    def resumes(self, config: config_lib.Config) -> bool:
        """Whether a run with these settings would resume an existing run."""
        return self._has_begun() and not config.overwrite

    def exports_before(self) -> list[pathlib.Path]:
        """The export directories of the runs that --overwrite has renamed."""
        name = re.compile(re.escape(self.path.name) + r"\.\d{8}-\d{6}-\d+")
        runs = [path for path in self.path.parent.iterdir() if name.fullmatch(path.name)]
        return [path / self.export.name for path in runs]

    @contextlib.contextmanager
    def opened(self, config: config_lib.Config) -> Iterator[bool]:
        """Checks and locks the directory; yields whether there is a run to resume."""
        self.check(config)
        if config.overwrite and self.path.exists():
            with self._locked():
                self.path.rename(f"{self.path}.{name_from_time()}")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise errors.RunError(f"{self.path} can't be made: {error.strerror}") from error
        with self._locked():
            resumes = self._has_begun()
            with files.writing(self.path):
                for directory in (self.path, self.figures, self.export):
                    files.remove_unfinished(directory)
                if not resumes:
                    flagfile.write(self.flags, flagfile.from_config(config))
                for copy, function in self._own_code(config).items():
                    if not function.code:  # an object of a Python program without a source
                        continue
                    self.code.mkdir(exist_ok=True)
                    with files.replacing(copy) as unfinished:
                        unfinished.write_bytes(function.code)
                self._check_files(user_code.named_files(config), resumes=resumes)
            try:
                yield resumes
            except BaseException:
                if not self._has_begun():  # there is nothing to resume
                    self._remove()
                raise

    def _content(self) -> list[pathlib.Path]:
        """The content of the directory, except leftovers of a process killed at its start."""
        found = [path for path in self.path.iterdir() if not files.is_unfinished(path)]
        if self._lock.is_file() and re.fullmatch(rb"\d*", self._lock.read_bytes()):
            found = [path for path in found if path != self._lock]
        return found

    def _has_begun(self) -> bool:
        """Whether training has begun, so there should be a checkpoint."""
        beginning = {self.flags, self.checkpoints, self.code}
        return flagfile.is_of_run(self.flags) and (
            any(self.checkpoints.glob("*.index")) or not set(self._content()) <= beginning
        )

    def _check_flags(self, config: config_lib.Config) -> None:
        flags = flagfile.read(self.flags)
        different = flagfile.differences(flags, flagfile.from_config(config))
        errors.require(
            not different,
            f"the run {self.path} has other settings: {', '.join(different)}; give the same to "
            "resume it, or choose another --run_name, or start anew with --overwrite",
        )
        epochs = flags.get("epochs", "")
        errors.require(
            re.fullmatch(r"\d{1,16}", epochs) and config.epochs >= int(epochs),
            f"the run {self.path} has --epochs={epochs}, which may grow but not shrink; "
            f"received --epochs={config.epochs}",
        )
        errors.require(
            config.epochs == int(epochs) or not ends_with_run(config),
            f"the run {self.path} can't be extended: its {ends_with_run(config)} ends with "
            f"--epochs={epochs}, and a later end would change the steps so far; start another "
            f"run with --initialize_from={self.path}",
        )
        for copy, function in self._own_code(config).items():
            changed = function.path if function.module else function
            may_differ = copy.stem == "metrics" or not copy.exists()
            errors.require(
                may_differ or user_code.is_same_code(copy.read_bytes(), function.code),
                f"{changed} has changed since the run {self.path} was started, which keeps "
                f"it as {copy}; choose another --run_name, or start anew with --overwrite",
            )

    def _check_files(self, named: dict[str, str], *, resumes: bool) -> None:
        """Notes which files that the user's code names have changed since the run was started."""
        path = self.code / "files.json"
        if not resumes and named:
            with files.replacing(path) as unfinished:
                unfinished.write_text(json.dumps(named), "utf-8")
        before = json.loads(path.read_text("utf-8")) if path.exists() else {}
        for name in sorted(name for name, crc in before.items() if named.get(name) != crc):
            console.say(
                f"Warning: {name}, which your code names, has changed since the run {self.path} "
                "was started; if the model reads it, this is no longer the same run"
            )

    def _own_code(self, config: config_lib.Config) -> dict[pathlib.Path, user_code.UserFunction]:
        """The user's functions, by the paths of the run's copies of their files."""
        found = user_code.find(config).items()
        return {self.code / f"{flag}.py": function for flag, function in found if function.is_own}

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
        """Whether an open file is still the lock; the directory may have been renamed."""
        try:
            return os.path.samestat(os.fstat(file.fileno()), os.stat(self._lock))
        except FileNotFoundError:
            return False

    def _remove(self) -> None:
        """Removes the files that mark a run, and the directory if it is then empty."""
        with contextlib.suppress(OSError):
            self.flags.unlink()
            self._lock.unlink()
            shutil.rmtree(self.code, ignore_errors=True)
            if self.checkpoints.exists():
                self.checkpoints.rmdir()
            self.path.rmdir()


def ends_with_run(config: config_lib.Config) -> str:
    """The flag whose learning rate depends on the last step, or ''."""
    if not config.may_be_extended:
        return f"--schedule={config.schedule}"
    own = user_code.find(config, ("optimizer",)).get("optimizer")
    with tf_runtime.importing() if own else contextlib.nullcontext():
        return own.flag if own and "last_step" in own.parameters else ""


def name_from_time() -> str:
    """A run name that sorts by time and is unique on this machine."""
    global _last_name
    while (name := f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}") == _last_name:
        time.sleep(0.01)  # this process has made one in this second
    _last_name = name
    return name
