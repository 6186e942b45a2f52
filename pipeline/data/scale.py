"""Where examples lie, and the way between their units and standardized ones. numpy alone."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.data import least_squares

Float64 = npt.NDArray[np.float64]

_COARSE = 1e-3  # of a standard deviation, that numbers may be rounded by


class Scale(NamedTuple):
    """The means and standard deviations of D features and, last, of the label.

    A column is standardized by (column - mean) / stddev. One that is not, or that is constant,
    has the stddev 1.
    """

    mean: Float64  # [D + 1]
    stddev: Float64  # [D + 1]

    @property
    def needs_float64(self) -> bool:
        """Whether float32 is too coarse, or too small, for the numbers in the units of the data."""
        float32 = np.finfo(np.float32)
        largest = np.abs(self.mean) + 100 * self.stddev
        is_coarse = largest * float32.eps > _COARSE * self.stddev
        return bool((is_coarse | (largest > float32.max) | (self.stddev < float32.tiny)).any())

    def standardized_x(self, x: npt.NDArray[np.floating]) -> Float64:
        """Inputs [N, D] in units of the scale."""
        return np.asarray((x - self.mean[:-1]) / self.stddev[:-1])

    def x_in_units(self, x: npt.NDArray[np.floating]) -> Float64:
        """Standardized inputs [N, D] in the units of the data."""
        return np.asarray(x * self.stddev[:-1] + self.mean[:-1])

    def short_x_in_units(self, x: npt.NDArray[np.floating]) -> list[str]:
        """A standardized input [D] in the units of the data, with a few digits each."""
        digits = 2 - np.floor(np.log10(self.stddev[:-1]))
        columns = zip(self.x_in_units(x).tolist(), digits.tolist(), strict=True)
        return [f"{round(number, int(count)) + 0.0:.15g}" for number, count in columns]

    def y_in_units(self, y: npt.NDArray[np.floating]) -> Float64:
        """Standardized labels or predictions, of any shape, in the units of the data."""
        return np.asarray(y * self.stddev[-1] + self.mean[-1])

    def of_scaled(self, other: "Scale") -> "Scale":
        """The scale in the units of the data, of one that was measured on standardized data."""
        return Scale(self.mean + self.stddev * other.mean, self.stddev * other.stddev)

    # With standardized columns, y = mean_y + stddev_y * ((x - mean) / stddev · W + b).

    def parameters_in_units(self, numbers: npt.ArrayLike) -> Float64:
        """K states [K, D + 1], each W and b of standardized data, in the units of the data."""
        result = np.asarray(numbers, np.float64) * self._slopes
        result[:, -1] += self.mean[-1] - result[:, :-1] @ self.mean[:-1]
        return result

    def standardized_parameters(self, values: npt.ArrayLike) -> Float64:
        """The inverse of parameters_in_units."""
        result = np.array(values, np.float64)
        result[:, -1] += result[:, :-1] @ self.mean[:-1] - self.mean[-1]
        return result / self._slopes

    def least_squares_in_units(
        self, solved: least_squares.LeastSquares
    ) -> least_squares.LeastSquares:
        """The loss of standardized data as a function of W and b in the units of the data."""
        (solution,) = self.parameters_in_units(solved.solution[None])
        root = solved.root / self._slopes
        root[:, :-1] += np.outer(root[:, -1], self.mean[:-1])
        return solved._replace(solution=solution, root=root)

    def standardized_least_squares(
        self, solved: least_squares.LeastSquares
    ) -> least_squares.LeastSquares:
        """Of a loss in the units of the data, that of standardized data, W and b."""
        (solution,) = self.standardized_parameters(solved.solution[None])
        root = solved.root.copy()
        root[:, :-1] -= np.outer(root[:, -1], self.mean[:-1])
        spread = self.stddev[-1]
        minimum = solved.minimum / spread**2
        return least_squares.LeastSquares(solution, minimum, root * self._slopes / spread)

    @property
    def _slopes(self) -> Float64:
        """The factors [D + 1] of W and b from standardized data to the units of the data."""
        return np.append(self.stddev[-1] / self.stddev[:-1], self.stddev[-1])


class Moments:
    """Means and variances of columns, of rows that come in parts.

    By the update of Chan, Golub and LeVeque (Algorithms for computing the sample variance, 1983).
    """

    def __init__(self, num_columns: int):
        self.count = 0
        self.mean, self._squares = np.zeros(num_columns), np.zeros(num_columns)

    def add(self, rows: Float64) -> None:
        """Takes more rows [N, C]."""
        if not len(rows):
            return
        mean = rows.mean(axis=0)
        total, step = self.count + len(rows), mean - self.mean
        self._squares += np.square(rows - mean).sum(axis=0)
        self._squares += np.square(step) * (self.count * len(rows) / total)
        self.mean = self.mean + step * (len(rows) / total)
        self.count = total

    @property
    def stddev(self) -> Float64:
        """The standard deviations [C], dividing by the number of rows."""
        return np.asarray(np.sqrt(self._squares / max(1, self.count)))
