"""The loss that is minimised, and the same loss in closed form as the yardstick."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

Float64 = npt.NDArray[np.float64]

_CHUNK = 2**20  # numbers converted to float64 at a time


def mean_squared_error(
    y: tf.Tensor, prediction: tf.Tensor, count: tf.Tensor | None = None
) -> tf.Tensor:
    """The mean of (y - prediction)² over the first `count` examples of a batch.

    Args:
      y: [B] float32.
      prediction: [B] float32.
      count: Scalar int32, at most B, or None for B. A short batch is filled up to B
        examples so that one compiled function fits every batch; the filling does not
        count.

    Returns:
      A scalar float32.
    """
    squares = tf.square(y - prediction)
    if count is None:
        return tf.reduce_mean(squares)
    belongs = tf.range(tf.shape(y)[0]) < count
    return tf.reduce_sum(tf.where(belongs, squares, 0.0)) / tf.cast(count, tf.float32)


class QuadraticLoss(NamedTuple):
    """The mean squared error over fixed examples as a function of W and b.

    For a linear model it is a paraboloid around the least-squares solution,

      loss(W, b) = minimum + (W - W*)ᵀ C (W - W*) + (b - b* + mean·(W - W*))²

    with C the covariance of x (multiply out the square of the residual; the residuals
    of the solution are orthogonal to 1 and to x). So the loss at any number of points
    costs no pass over the examples.

    Attributes:
      W: [D] float64, of least squares.
      b: Of least squares.
      minimum: The loss there.
      mean: [D] float64, of x.
      covariance: [D, D] float64, of x.
    """

    W: Float64
    b: float
    minimum: float
    mean: Float64
    covariance: Float64

    @classmethod
    def over(cls, x: npt.NDArray[np.float32], y: npt.NDArray[np.float32]) -> "QuadraticLoss":
        """Fits the paraboloid to examples: x is [N] or [N, D], y is [N]."""
        x = x.reshape(len(x), -1)
        mean: Float64 = np.zeros(x.shape[1])
        y_mean = 0.0
        for part, label in _chunks(x, y):
            mean = mean + part.sum(axis=0) / len(x)
            y_mean += float(label.sum() / len(x))
        covariance: Float64 = np.zeros((x.shape[1], x.shape[1]))
        with_y: Float64 = np.zeros(x.shape[1])
        for part, label in _chunks(x, y):
            centred = part - mean
            covariance = covariance + centred.T @ centred / len(x)
            with_y = with_y + centred.T @ (label - y_mean) / len(x)
        W = _solution(covariance, with_y)
        b = y_mean - float(mean @ W)
        squares = sum(float(np.square(q - p @ W - b).sum()) for p, q in _chunks(x, y))
        return cls(W, b, squares / len(x), mean, covariance)

    def at(self, W: npt.ArrayLike, b: npt.ArrayLike) -> Float64:
        """The loss at K points: W is [K] or [K, D], b is [K]; returns [K] float64."""
        away, above = self._away(W, b)
        across = np.einsum("ki,ki->k", away @ self.covariance, away)
        result: Float64 = self.minimum + across + np.square(above)
        return result

    def gradient_norm(self, W: npt.ArrayLike, b: npt.ArrayLike) -> Float64:
        """The length of the gradient at K points; arguments and result as of `at`."""
        away, above = self._away(W, b)
        by_W = away @ self.covariance + np.outer(above, self.mean)
        result: Float64 = 2 * np.sqrt(np.square(by_W).sum(axis=1) + np.square(above))
        return result

    def distance(self, W: npt.ArrayLike, b: npt.ArrayLike) -> Float64:
        """The distance of K points from the solution; arguments and result as of `at`."""
        away, _ = self._away(W, b)
        result: Float64 = np.hypot(np.linalg.norm(away, axis=1), np.asarray(b) - self.b)
        return result

    def _away(self, W: npt.ArrayLike, b: npt.ArrayLike) -> tuple[Float64, Float64]:
        """W - W* as [K, D], and the difference of the predictions at the mean x as [K]."""
        b = np.asarray(b, np.float64)
        away = np.asarray(W, np.float64).reshape(len(b), len(self.W)) - self.W
        return away, b - self.b + away @ self.mean

    def largest_stable_learning_rate(self) -> float:
        """Above this, full-batch gradient descent moves away from the minimum.

        It is 2 over the largest eigenvalue of the Hessian (Goodfellow, Bengio and
        Courville, Deep Learning, section 4.3.1).
        """
        mean = self.mean[:, None]
        hessian = 2 * np.block([[self.covariance + mean @ mean.T, mean], [mean.T, np.eye(1)]])
        return float(2 / np.linalg.eigvalsh(hessian)[-1])


def _solution(covariance: Float64, with_y: Float64) -> Float64:
    """The W of least squares, also where columns depend on each other.

    They may differ in scale by orders of magnitude, so they are brought to one.
    """
    scale: Float64 = np.sqrt(np.diagonal(covariance))
    scale = np.where(scale > 0, scale, 1.0)
    correlation = covariance / np.outer(scale, scale)
    result: Float64 = np.linalg.lstsq(correlation, with_y / scale, rcond=None)[0] / scale
    return result


def _chunks(
    x: npt.NDArray[np.float32], y: npt.NDArray[np.float32]
) -> Iterator[tuple[Float64, Float64]]:
    """Converts x and y to float64, a bounded number of rows at a time."""
    rows = max(1, _CHUNK // x.shape[1])
    for first in range(0, len(x), rows):
        chunk = slice(first, first + rows)
        yield x[chunk].astype(np.float64), y[chunk].astype(np.float64)
