"""The folder of a run: what lies where."""

import os
import pathlib
import time

from pipeline import config as config_lib
from pipeline import errors


class RunFolder:
    """Paths of one run, `<logdir>/<run_name>/`.

    Attributes:
      path: The folder itself; the other attributes lie in it.
      flags: The flagfile that repeats the run.
      figures: The folder of the pictures.
      export: The folder of the numbered SavedModels.
      weights: The weights of a Keras model.
    """

    def __init__(self, config: config_lib.Config):
        self.path = pathlib.Path(config.logdir) / config.run_name
        self.flags = self.path / "flags.txt"
        self.figures = self.path / "figures"
        self.export = self.path / "export"
        self.weights = self.path / "model.weights.h5"

    def events(self, curve: str) -> pathlib.Path:
        """The folder of one curve's event files, a run of its own in TensorBoard."""
        return self.path / curve

    def check_new(self) -> None:
        """Raises where the folder is there already or can't be made."""
        if self.path.exists():
            raise errors.InputError(
                f"the run folder {self.path} exists already; choose another --run_name or delete it"
            )
        parent = self.path.parent
        while not parent.exists():
            parent = parent.parent
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise errors.RunError(
                f"--logdir={self.path.parent} can't be written to: {parent} is not a "
                "folder that you may write in"
            )

    def create(self, config: config_lib.Config) -> None:
        """Makes the folder, with the flags of its run in it."""
        self.check_new()
        try:
            self.path.mkdir(parents=True)
            self.flags.write_text("\n".join(config.to_flags()) + "\n")
        except OSError as error:
            raise errors.RunError(
                f"--logdir={self.path.parent} can't be written to: {error.strerror}"
            ) from error


def name_from_time() -> str:
    """A run name that sorts by time."""
    return time.strftime("%Y%m%d-%H%M%S")
