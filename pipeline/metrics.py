"""What a training loop hands out, and what is made of it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]


class Parameters(NamedTuple):
    """One state of the model: W is [D] (D = 1 for one feature), b a number."""

    W: Floats
    b: float


class StepMetrics(NamedTuple):
    """A stretch of K consecutive points of a training run.

    Point k is the state after k updates: W_k, b_k, and the loss of the batch that
    update k + 1 uses, all three at the same parameters.

    Attributes:
      step: [K] int64.
      W: [K] float32 for one feature, [K, D] for D features.
      b: [K] float32.
      loss: [K] float32, the mean squared error over the step's batch.
    """

    step: npt.NDArray[np.int64]
    W: npt.NDArray[np.float32]
    b: npt.NDArray[np.float32]
    loss: npt.NDArray[np.float32]

    def at(self, index: Any) -> "StepMetrics":
        """The points that a numpy index (slice, mask, positions) selects."""
        return StepMetrics(self.step[index], self.W[index], self.b[index], self.loss[index])

    def is_finite(self) -> npt.NDArray[np.bool_]:
        """[K], whether a point's loss and parameters are all finite."""
        columns = np.column_stack([self.W, self.b, self.loss])
        return np.asarray(np.isfinite(columns).all(axis=1))


class EpochMetrics(NamedTuple):
    """The state at the ends of K epochs; epoch 0 is the start.

    Attributes:
      epoch: [K] int64.
      step: [K] int64.
      W: [K] or [K, D] float32.
      b: [K] float32.
      loss: [K] float64, over all training examples.
      validation_loss: [K] float64 over the validation examples, or None.
    """

    epoch: npt.NDArray[np.int64]
    step: npt.NDArray[np.int64]
    W: Floats
    b: Floats
    loss: Floats
    validation_loss: Floats | None


Observer = Callable[[StepMetrics], None]


def no_points(W_shape: tuple[int, ...]) -> StepMetrics:
    """A stretch of no points; the shape of W is () or (D,)."""
    nothing = np.zeros(0, np.float32)
    return StepMetrics(np.zeros(0, np.int64), np.zeros((0, *W_shape), np.float32), nothing, nothing)


def concatenate(stretches: list[StepMetrics]) -> StepMetrics:
    """One stretch out of several."""
    return StepMetrics(*(np.concatenate(parts) for parts in zip(*stretches, strict=True)))


class History:
    """An even selection of a run's points, small however long the run is.

    It keeps the steps that a power of two divides, so what a longer run keeps is
    among what a shorter one kept; and the last point so far.

    Attributes:
      last: The last point, or none, as a stretch.
    """

    _MOST_POINTS = 2048

    def __init__(self, last_step: int, points: StepMetrics):
        """Prepares for the points up to last_step, after those that were kept before."""
        self._stride = 1
        while last_step // self._stride >= self._MOST_POINTS:
            self._stride *= 2
        self._kept = points.at(points.step % self._stride == 0)
        self.last = points.at(slice(-1, None))

    def __call__(self, points: StepMetrics) -> None:
        """Takes the next stretch of at least one point."""
        self._kept = concatenate([self._kept, points.at(points.step % self._stride == 0)])
        self.last = points.at(slice(-1, None))

    def points(self) -> StepMetrics:
        """The points kept."""
        unkept = self.last.at(~np.isin(self.last.step, self._kept.step[-1:]))
        return concatenate([self._kept, unkept])
