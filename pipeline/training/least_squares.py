"""Linear least squares in closed form: the reference, and the loss of any W and b."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.data import datasets
from pipeline.distributed import workers

Float64 = npt.NDArray[np.float64]

_CHUNK = 2**20  # elements of x converted to float64 at a time


class LeastSquares(NamedTuple):
    """The mean squared error of y = x·W + b over fixed examples, as a function of W and b.

    It is a paraboloid around the least-squares solution (W*, b*),

      loss(W, b) = minimum + (W - W*)ᵀ C (W - W*) + (b - b* + mean·(W - W*))²

    with C the covariance of x (multiply out the square of the residual; the residuals
    of the solution are orthogonal to 1 and to x). So the loss of any W and b costs no pass over
    the examples. Below, `values` are K states [K, D + 1], each of them W and then b.
    """

    solution: Float64  # [D + 1], W* and b*
    minimum: float  # the loss there
    mean: Float64  # [D], of x
    covariance: Float64  # [D, D], of x

    @classmethod
    def of(
        cls, examples: datasets.Examples, total: workers.Total = workers.alone
    ) -> "LeastSquares":
        """Solves for the examples, of each worker its own; `total` adds up over all workers."""
        x, y = examples
        count = float(total(np.array([len(x)], np.float64))[0])
        sums: Float64 = np.zeros(x.shape[1] + 1)
        for part, label in _chunks(x, y):
            sums += np.append(part.sum(axis=0), label.sum()) / count
        *_, y_mean = means = total(sums)
        mean = means[:-1]
        products: Float64 = np.zeros((x.shape[1] + 1, x.shape[1]))  # covariance, then with y
        for part, label in _chunks(x, y):
            centred = part - mean
            products += np.vstack([centred.T, label - y_mean]) @ centred / count
        products = total(products.ravel()).reshape(products.shape)
        W = _solve(products[:-1], products[-1])
        b = y_mean - float(mean @ W)
        squares = sum(float(np.square(q - p @ W - b).sum()) for p, q in _chunks(x, y))
        minimum = float(total(np.array([squares]))[0]) / count
        return cls(np.append(W, b), minimum, mean, products[:-1])

    def loss(self, values: npt.ArrayLike) -> Float64:
        """The loss [K] of K states."""
        delta, offset = self._deltas(values)
        across = np.einsum("ki,ki->k", delta @ self.covariance, delta)
        return np.asarray(self.minimum + across + np.square(offset))

    def distance(self, values: npt.ArrayLike) -> Float64:
        """The distance [K] of K states from the solution."""
        return np.asarray(np.linalg.norm(np.asarray(values) - self.solution, axis=1))

    def _deltas(self, values: npt.ArrayLike) -> tuple[Float64, Float64]:
        """W - W* as [K, D], and the difference of the predictions at the mean x as [K]."""
        delta = np.asarray(values, np.float64) - self.solution
        return delta[:, :-1], delta[:, -1] + delta[:, :-1] @ self.mean

    def largest_stable_learning_rate(self) -> float:
        """Above this, full-batch gradient descent moves away from the minimum.

        It is 2 over the largest eigenvalue of the Hessian (Goodfellow, Bengio and
        Courville, Deep Learning, section 4.3.1).
        """
        mean = self.mean[:, None]
        hessian = 2 * np.block([[self.covariance + mean @ mean.T, mean], [mean.T, np.eye(1)]])
        return float(2 / np.linalg.eigvalsh(hessian)[-1])


def work(count: int, num_features: int) -> int:
    """About how many multiplications it takes to solve for so many examples.

    The covariance takes one for each of N * D * D, its decomposition some for each of D * D * D.
    """
    return num_features**2 * (count + 5 * num_features)


def _solve(covariance: Float64, with_y: Float64) -> Float64:
    """The W of least squares, also where columns depend on each other.

    They may differ in scale by orders of magnitude, so they are brought to one.
    """
    scale: Float64 = np.sqrt(np.diagonal(covariance))
    scale = np.where(scale > 0, scale, 1.0)
    correlation = covariance / np.outer(scale, scale)
    return np.asarray(np.linalg.lstsq(correlation, with_y / scale, rcond=None)[0] / scale)


def _chunks(x: datasets.Array, y: datasets.Array) -> Iterator[tuple[Float64, Float64]]:
    """Converts x and y to float64, a bounded number of rows at a time."""
    rows = max(1, _CHUNK // x.shape[1])
    for first in range(0, len(x), rows):
        chunk = slice(first, first + rows)
        yield x[chunk].astype(np.float64), y[chunk].astype(np.float64)
