"""Linear least squares in closed form, and W and b in data units. Imports numpy only.

With standardized columns, y = mean_y + stddev_y * ((x - mean) / stddev · W + b). Below, `values`
are K states [K, D + 1]; each is W followed by b.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.data import batch, preprocessing

Float64 = npt.NDArray[np.float64]

_MOST_WORK = 1e10  # multiplications that a solution may cost: one or two seconds
_ROUNDING = 1e-13  # relative; smaller values count as 0
# Singular values of standardized columns below this fraction of the largest count as 0. In float32,
# columns that are sums of others have singular values of 1e-8, which would make W millions.
_RANK = 1e-6


class LeastSquares(NamedTuple):
    """The mean squared error of y = x·W + b over fixed examples, as a function of W and b.

    It is a paraboloid around the least-squares solution (W*, b*),

      loss(W, b) = minimum + |R (W - W*, b - b*)|²

    R comes from the QR decomposition of the rows (x, 1) divided by the square root of their number
    (Golub and Van Loan, Matrix Computations, section 5.3). So the loss of any W and b needs no
    pass over the examples.
    """

    solution: Float64  # [D + 1], W* and b*; with the shortest W if it is not unique
    minimum: float  # the loss there
    root: Float64  # [D + 1 or less, D + 1], R

    @classmethod
    def of(cls, x: npt.NDArray[np.floating], y: npt.NDArray[np.floating]) -> "LeastSquares":
        """Solves for examples x [N, D] and y [N]."""
        triangle = StreamingQR()
        for piece in batch.Batch(x, y).pieces():
            triangle.add(np.column_stack([piece.x, piece.y]).astype(np.float64))
        return triangle.solve()

    def loss(self, values: npt.ArrayLike) -> Float64:
        """The loss [K] of K states."""
        deltas = np.asarray(values, np.float64) - self.solution
        return np.asarray(self.minimum + np.square(deltas @ self.root.T).sum(axis=1))

    def distance(self, values: npt.ArrayLike) -> Float64:
        """The distance [K] of K states from the solution."""
        return np.asarray(np.linalg.norm(np.asarray(values) - self.solution, axis=1))

    @property
    def condition_number(self) -> float:
        """The condition number of the columns of x and of ones, each scaled to length 1.

        Above 30 they are nearly collinear (Belsley, Kuh and Welsch, Regression Diagnostics, 1980,
        section 3.2). Exactly dependent columns, such as the indicators of all texts of a column,
        are left out: they do no harm.
        """
        lengths = np.linalg.norm(self.root, axis=0)
        columns = self.root[:, lengths > 0] / lengths[lengths > 0]
        values = np.linalg.svd(columns, compute_uv=False)
        return float(values[0] / values[values > _RANK * values[0]][-1])

    def penalized(self, l2: float) -> "LeastSquares":
        """The loss plus l2 * |W|² (ridge regression), as additional rows of the problem."""
        if not l2:
            return self
        num_values = len(self.solution)
        rows = np.vstack([self.root, np.sqrt(l2) * np.eye(num_values)[:-1]])
        target = np.append(self.root @ self.solution, np.zeros(num_values - 1))
        solution = np.linalg.lstsq(rows, target, rcond=_ROUNDING)[0]
        rest = rows @ solution - target
        root = np.asarray(np.linalg.qr(rows, mode="r"))
        return LeastSquares(solution, self.minimum + float(rest @ rest), root)

    def largest_stable_learning_rate(self) -> float:
        """The learning rate above which full-batch gradient descent diverges.

        It is 2 over the largest eigenvalue of the Hessian, 2 RᵀR (Goodfellow, Bengio and
        Courville, Deep Learning, section 4.3.1).
        """
        return float(np.linalg.norm(self.root, 2) ** -2)

    def in_data_units(self, units: preprocessing.Preprocessing) -> "LeastSquares":
        """The loss of standardized data as a function of W and b in the units of the data."""
        (solution,) = in_data_units(self.solution[None], units)
        root = self.root / _slopes(units)
        root[:, :-1] += np.outer(root[:, -1], units.mean[:-1])
        return self._replace(solution=solution, root=root)


class StreamingQR:
    """QR decomposition of rows (1, x, y) that arrive in parts; keeps only the triangle R."""

    def __init__(self) -> None:
        self._count = 0
        self._triangle: Float64 = np.zeros((0, 0))

    def add(self, rows: Float64) -> None:
        """Adds rows [N, D + 1]: the features, then the label."""
        self._count += len(rows)
        parts = [np.column_stack([np.ones(len(rows)), rows])]
        parts += [self._triangle] if self._triangle.size else []
        self._triangle = np.asarray(np.linalg.qr(np.vstack(parts), mode="r"))

    def solve(self, mean: Float64 | float = 0.0, stddev: Float64 | float = 1.0) -> LeastSquares:
        """Solves least squares of (rows - mean) / stddev, for the rows so far.

        The first row of the triangle holds the means, the others the deviations of x and y.
        Columns may differ in scale by orders of magnitude, so they are rescaled. The solution and
        the loss leave out directions in which the rescaled columns hardly vary.
        """
        count, rest = self._triangle[0, 0], self._triangle[1:, 1:] / stddev
        means = (self._triangle[0, 1:] - count * mean) / stddev
        scale = np.linalg.norm(rest[:, :-1], axis=0)
        scale = np.where(scale > _ROUNDING * np.abs(means[:-1]), scale, np.inf)  # that vary
        left, values, right = np.linalg.svd(rest[:, :-1] / scale, full_matrices=False)
        kept = values > _RANK * values.max(initial=0.0)
        varying = values[kept, None] * right[kept]
        W = right[kept].T @ ((left[:, kept].T @ rest[:, -1]) / values[kept]) / scale
        b = (means[-1] - means[:-1] @ W) / count
        residuals = rest[:, -1] - rest[:, :-1] @ W
        finite = np.where(np.isfinite(scale), scale, 0.0)
        root = np.vstack([np.append(means[:-1], count), np.pad(varying * finite, ((0, 0), (0, 1)))])
        minimum = float(residuals @ residuals) / self._count
        return LeastSquares(np.append(W, b), minimum, root / np.sqrt(self._count))


def is_cheap(count: int, num_features: int) -> bool:
    """Whether least squares of `count` examples takes at most a second or two."""
    # The decomposition takes about N * D * D multiplications, the solution some D * D * D.
    return num_features**2 * (count + 5 * num_features) <= _MOST_WORK


def in_data_units(values: npt.ArrayLike, units: preprocessing.Preprocessing) -> Float64:
    """Converts W and b of standardized data to the units of the data."""
    result = np.asarray(values, np.float64) * _slopes(units)
    result[:, -1] += units.mean[-1] - result[:, :-1] @ units.mean[:-1]
    return result


def standardized(values: npt.ArrayLike, units: preprocessing.Preprocessing) -> Float64:
    """The inverse of in_data_units."""
    result = np.array(values, np.float64)
    result[:, -1] += result[:, :-1] @ units.mean[:-1] - units.mean[-1]
    return result / _slopes(units)


def _slopes(units: preprocessing.Preprocessing) -> Float64:
    """The factors [D + 1] of W and b from standardized data to the units of the data."""
    return np.append(units.stddev[-1] / units.stddev[:-1], units.stddev[-1])
