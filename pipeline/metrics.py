"""What a training loop hands out, and what is made of it."""

import math
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

    def parameters(self, index: int) -> "Parameters":
        """The parameters at one point."""
        return Parameters(np.atleast_1d(self.W[index]), float(self.b[index]))

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

    def at(self, index: Any) -> "EpochMetrics":
        """The epochs that a numpy index (slice, mask, positions) selects."""
        validation = None if self.validation_loss is None else self.validation_loss[index]
        epoch, step, W, b, loss, _ = self
        return EpochMetrics(epoch[index], step[index], W[index], b[index], loss[index], validation)


class Best(NamedTuple):
    """The epoch with the smallest validation loss, or training loss where there is none.

    Attributes:
      step: The epoch's last step, -1 where there was no epoch yet.
      loss: Its loss.
      W: [D] or a scalar.
      b: A scalar.
    """

    step: int = -1
    loss: float = math.inf
    W: npt.ArrayLike = math.nan
    b: npt.ArrayLike = math.nan

    def or_better(self, ends: EpochMetrics) -> "Best":
        """The best of this one and some later epochs."""
        losses = ends.loss if ends.validation_loss is None else ends.validation_loss
        if not len(losses) or not losses.min() < self.loss:
            return self
        i = int(np.argmin(losses))
        return Best(int(ends.step[i]), float(losses[i]), ends.W[i], ends.b[i])


Observer = Callable[[StepMetrics], None]


def no_points(W_shape: tuple[int, ...]) -> StepMetrics:
    """A stretch of no points; the shape of W is () or (D,)."""
    nothing = np.zeros(0, np.float32)
    return StepMetrics(np.zeros(0, np.int64), np.zeros((0, *W_shape), np.float32), nothing, nothing)


def concatenate(stretches: list[StepMetrics]) -> StepMetrics:
    """One stretch out of several."""
    return StepMetrics(*(np.concatenate(parts) for parts in zip(*stretches, strict=True)))


def stride(count: int, most: int) -> int:
    """The smallest power of two that divides at most so many of the numbers 1 to count."""
    return 1 << (count // (most + 1)).bit_length()


class History:
    """An even selection of a run's points, small however long the run is.

    It keeps the steps that a power of two divides, so what a longer run keeps is
    among what a shorter one kept; and the last point so far.

    Attributes:
      stride: Steps between the points kept.
      last: The last point, or none, as a stretch.
    """

    _MOST_POINTS = 2048

    def __init__(self, last_step: int, points: StepMetrics):
        """Prepares for the points up to last_step, after those that were kept before."""
        self.stride = stride(last_step, self._MOST_POINTS)
        self._kept = points.at(points.step % self.stride == 0)
        self.last = points.at(slice(-1, None))

    def __call__(self, points: StepMetrics) -> None:
        """Takes the next stretch of at least one point."""
        self._kept = concatenate([self._kept, points.at(points.step % self.stride == 0)])
        self.last = points.at(slice(-1, None))

    def points(self) -> StepMetrics:
        """The points kept."""
        unkept = self.last.at(~np.isin(self.last.step, self._kept.step[-1:]))
        return concatenate([self._kept, unkept])
