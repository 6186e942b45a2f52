"""The metrics of training steps, returned by the loops."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class StepMetrics(NamedTuple):
    """The metrics of K consecutive steps, or of a selection of steps.

    A row is the state after `step` updates: the watched values of the model, and the loss and
    gradient norm of the next update's batch at these values.
    """

    step: npt.NDArray[np.int64]  # [K]
    values: npt.NDArray[np.float32]  # [K, M], named by Variables.watched
    loss: npt.NDArray[np.float32]  # [K]
    gradient_norm: npt.NDArray[np.float32]  # [K]; NaN if a model's own train_step shows none
    # [K, L], what a model's own train_step returns besides the loss, named by Task.numbers.
    numbers: npt.NDArray[np.float32] | None = None

    @property
    def next_step(self) -> int:
        """The step after the last row; 0 if there are no rows."""
        return int(self.step[-1]) + 1 if len(self.step) else 0

    def select(self, index: Any) -> "StepMetrics":
        """The rows that a numpy index (slice, mask, positions) selects."""
        return StepMetrics(*(column[index] for column in self if column is not None))

    def every(self, steps: int) -> "StepMetrics":
        """The rows whose steps are multiples of `steps`; no copy for steps=1."""
        return self if steps == 1 else self.select(self.step % steps == 0)

    @property
    def is_finite(self) -> npt.NDArray[np.bool_]:
        """Returns [K]: whether the loss and all values of a row are finite."""
        if np.isfinite(self.loss).all() and np.isfinite(self.values).all():
            return np.ones(len(self.step), np.bool_)
        return np.asarray(np.isfinite(self.loss) & np.isfinite(self.values).all(axis=1))


def empty(num_values: int, num_numbers: int = 0) -> StepMetrics:
    """Returns no rows, with M values and L numbers."""
    nothing = np.zeros(0, np.float32)
    values = np.zeros((0, num_values), np.float32)
    numbers = np.zeros((0, num_numbers), np.float32) if num_numbers else None
    return StepMetrics(np.zeros(0, np.int64), values, nothing, nothing, numbers)


def concatenate(*parts: StepMetrics) -> StepMetrics:
    """Concatenates the rows of several parts in order."""
    columns = zip(*parts, strict=True)
    return StepMetrics(*(np.concatenate(each) for each in columns if each[0] is not None))


def power_of_two_stride(count: int, max_kept: int) -> int:
    """The smallest power of two that leaves at most max_kept of count steps."""
    return 1 << (count // (max_kept + 1)).bit_length()


class History:
    """Evenly spaced rows of a run, few even in a long run, and the last row.

    It keeps the multiples of a power of two, so a longer run keeps a subset of the steps that a
    shorter one kept.

    Attributes:
      stride: Steps between the rows kept.
      last: The last row so far, or none.
    """

    _MOST_ROWS = 2048

    def __init__(self, last_step: int, rows: StepMetrics):
        """Starts with the rows kept before, and prepares for rows up to last_step."""
        self.stride = power_of_two_stride(last_step, self._MOST_ROWS)
        self._kept = rows.select(slice(0, 0))
        self.add(rows)

    def add(self, rows: StepMetrics) -> None:
        """Adds the next rows."""
        self._kept = concatenate(self._kept, rows.every(self.stride))
        self.last = rows.select(slice(-1, None))

    def rows(self) -> StepMetrics:
        """The kept rows and the last row."""
        is_kept = np.isin(self.last.step, self._kept.step[-1:])
        return concatenate(self._kept, self.last.select(~is_kept))
