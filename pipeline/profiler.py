"""Profiles some steps of training, for TensorBoard's Profile dashboard."""

import math
import pathlib

import tensorflow as tf


class Profile:
    """Starts TensorFlow's profiler at one step and stops it at another."""

    def __init__(self, steps: tuple[int, int] | None, folder: pathlib.Path, *, step: int = 0):
        """Prepares to profile from the first to the last of `steps`, if there are any.

        Args:
          steps: Two steps.
          folder: The curve in TensorBoard that the profile belongs to.
          step: Where training is now.
        """
        self._first: float
        self._last: float
        self._first, self._last = steps or (math.inf, math.inf)
        self._folder = folder
        self._is_running = False
        self(step)

    def next_stop(self, step: int) -> float:
        """The next step after this one where the profiler starts or stops."""
        return min(s for s in (self._first, self._last, math.inf) if s > step)

    def __call__(self, step: int) -> None:
        """Says that training has come to a step."""
        if self._is_running and step >= self._last:
            self.close()
        elif not self._is_running and self._first <= step < self._last:
            tf.profiler.experimental.start(str(self._folder))
            self._is_running = True

    def close(self) -> None:
        """Ends the profile, if one is running, and writes it."""
        if self._is_running:
            self._is_running = False
            tf.profiler.experimental.stop()
