"""Means and standard deviations of columns whose rows come in parts. numpy alone."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class Units(NamedTuple):
    """Means and standard deviations [D + 1] of rows."""

    mean: Float64
    stddev: Float64


class Moments:
    """Means and variances of columns whose rows come in parts.

    The update is that of Chan, Golub and LeVeque (Algorithms for computing the sample variance,
    1983).
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
        centered = rows - mean
        self._squares += np.einsum("ij,ij->j", centered, centered)
        self._squares += np.square(step) * (self.count * len(rows) / total)
        self.mean = self.mean + step * (len(rows) / total)
        self.count = total

    @property
    def stddev(self) -> Float64:
        """The standard deviations [C], dividing by the number of rows."""
        return np.asarray(np.sqrt(self._squares / max(1, self.count)))

    def units(self, standardized: Bools) -> Units:
        """The means and deviations; 0 and 1 for columns that are not standardized or constant."""
        stddev = np.where(standardized & (self.stddev > 0), self.stddev, 1.0)
        return Units(np.where(standardized, self.mean, 0.0), stddev)


def around(rows: Float64, standardized: Bools) -> Units:
    """Units near those of all rows; the mean is the first row, so constant columns become 0."""
    if not len(rows):
        return Units(np.zeros(rows.shape[1]), np.ones(rows.shape[1]))
    with np.errstate(over="ignore"):  # the caller checks for that
        moved = rows - rows[0]
    largest = np.abs(moved).max(axis=0)
    is_usable = standardized & (largest > 0) & np.isfinite(largest)
    largest = np.where(is_usable, largest, 1.0)
    spread = largest * np.sqrt(np.square(moved / largest).mean(axis=0))
    return Units(np.where(standardized, rows[0], 0.0), np.where(is_usable, spread, 1.0))
