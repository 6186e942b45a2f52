"""Profiles some steps of training, for TensorBoard's Profile dashboard."""

import math
import pathlib

import tensorflow as tf

from pipeline.training import hooks, metrics


class Profiler(hooks.Hook):
    """Starts TensorFlow's profiler at one step and stops it at another."""

    def __init__(self, steps: tuple[int, int] | None, directory: pathlib.Path):
        """Prepares to profile from the first to the last of two steps, if they are given.

        The directory is the run in TensorBoard that the profile belongs to.
        """
        self._first, self._last = map(float, steps or (math.inf, math.inf))
        self._directory, self._is_running = directory, False

    def next_stop(self, step: int) -> float:
        """The next step after this one where the profiler starts or stops."""
        return min((s for s in (self._first, self._last) if s > step), default=math.inf)

    def before(self, step: int) -> None:
        """Starts the profiler at the first step, or in a run resumed after it."""
        if not self._is_running and self._first <= step < self._last:
            tf.profiler.experimental.start(str(self._directory))
            self._is_running = True

    def after(self, rows: metrics.StepMetrics) -> None:
        """Stops the profiler at the last step."""
        if rows.end >= self._last:
            self.close()

    def close(self) -> None:
        """Stops the profiler, if it is running, and writes the profile."""
        if self._is_running:
            self._is_running = False
            tf.profiler.experimental.stop()
