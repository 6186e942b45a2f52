"""Measures the time of a run: when each step ran, and how long training alone took."""

import time

import numpy as np
import numpy.typing as npt

_CALLS = 2048  # latest calls whose times are kept, since rows of several are written at once


class Clock:
    """Wall time that never goes backwards within a run, and the loops' measurements.

    Attributes:
      steps: The number of measured steps.
      seconds: Their time, without compilation, summaries, checkpoints and evaluation.
    """

    def __init__(self, not_before: float = 0.0):
        """Starts now, or at `not_before` if the machine's clock was set back since then."""
        self._offset = max(time.time(), not_before) - time.monotonic()
        self.steps, self.seconds = 0, 0.0
        self._steps, self._times = [0], [self.now()]  # the ends of the latest calls

    def now(self) -> float:
        """The time in seconds since the epoch."""
        return self._offset + time.monotonic()

    def trained(self, first: int, end: int, *, since: float, is_measured: bool = True) -> None:
        """Records that the steps first to end - 1 were trained between `since` and now."""
        self._steps = [*self._steps[-_CALLS:], first, end]
        self._times = [*self._times[-_CALLS:], since, self.now()]
        if is_measured:
            self.steps += end - first
            self.seconds += self._times[-1] - since

    def times(self, steps: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Returns when the latest steps [K] began; the steps of a call count as equally long."""
        times: npt.NDArray[np.float64] = np.interp(steps, self._steps, self._times)
        return times
