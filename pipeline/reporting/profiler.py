"""Profiles some training steps for TensorBoard's Profile dashboard."""

import contextlib
import math
import pathlib

import tensorflow as tf

from pipeline import files
from pipeline.training import hooks, step_metrics


class Profiler(hooks.Hook):
    """Starts TensorFlow's profiler at one step and stops it at another.

    A step in the dashboard's overview is one call, which trains up to the next pause of a hook or
    the end of a block. If TensorFlow's own kernels run the loop in the call (without XLA, and in
    Keras' fit), the dashboard ignores the call and reports that no step was observed.
    """

    def __init__(self, steps: tuple[int, int] | None, directory: pathlib.Path, *, first_step: int):
        """Prepares to profile from the first to the last of `steps`, if given.

        A run that resumes between them, at first_step, profiles the rest.
        """
        first, self._last = map(float, steps or (math.inf, math.inf))
        self._first = max(first, first_step) if first_step < self._last else math.inf
        self._directory, self._is_running = directory, False
        self._call = contextlib.ExitStack()

    def next_pause(self, step: int) -> float:
        """The next step after `step` at which the profiler starts or stops."""
        return min((s for s in (self._first, self._last) if s > step), default=math.inf)

    def pause(self, step: int) -> None:
        """Starts the profiler at the first step."""
        if step == self._first:
            with files.writing(self._directory):
                tf.profiler.experimental.start(str(self._directory))
            self._is_running = True
            self._mark(step)

    def after(self, rows: step_metrics.StepMetrics) -> None:
        """Stops the profiler at the last step."""
        self._call.close()
        if rows.next_step >= self._last:
            self.close()
        elif self._is_running:
            self._mark(rows.next_step)

    def _mark(self, step: int) -> None:
        marker = tf.profiler.experimental.Trace("train", step_num=step, _r=1)  # 1: a step
        self._call.enter_context(marker)

    def close(self) -> None:
        """Stops the profiler if it is running, and writes the profile."""
        if self._is_running:
            self._is_running = False
            self._call.close()
            with files.writing(self._directory):
                tf.profiler.experimental.stop()
