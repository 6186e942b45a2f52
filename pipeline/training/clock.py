"""The time of a run: when its steps were taken, and how long training alone took."""

import time

import numpy as np
import numpy.typing as npt

_CALLS = 2048  # whose times are known, so that the rows of several may be written at once


class Clock:
    """Wall time that never goes backwards within a run, and what the loops measure by it.

    Attributes:
      steps: The steps that were measured.
      seconds: How long they took, without compilation, summaries, checkpoints and evaluation.
    """

    def __init__(self, not_before: float = 0.0):
        """Starts now, or at a time of an earlier process where the clock was set back since."""
        self._offset = max(time.time(), not_before) - time.monotonic()
        self.steps, self.seconds = 0, 0.0
        self._steps, self._times = [0], [self.now()]  # the ends of the latest calls

    def now(self) -> float:
        """The time in seconds since the epoch."""
        return self._offset + time.monotonic()

    def trained(self, first: int, end: int, *, since: float, is_measured: bool = True) -> None:
        """Takes note that the steps from first to end - 1 were trained since a time until now."""
        self._steps = [*self._steps[-_CALLS:], first, end]
        self._times = [*self._times[-_CALLS:], since, self.now()]
        if is_measured:
            self.steps += end - first
            self.seconds += self._times[-1] - since

    def times(self, steps: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """When the latest steps [K] began; those of a call are taken to be equally long."""
        times: npt.NDArray[np.float64] = np.interp(steps, self._steps, self._times)
        return times
