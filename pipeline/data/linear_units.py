"""W and b of linear models between standardized data and the units of the data. numpy alone.

With standardized columns, y = mean_y + stddev_y * ((x - mean) / stddev · W + b). Below, `numbers`
are K states [K, D + 1], each of them W and then b.
"""

import numpy as np
import numpy.typing as npt

from pipeline.data import least_squares, moments, preprocessing

Float64 = npt.NDArray[np.float64]


Units = moments.Units | preprocessing.Preprocessing


def in_data_units(numbers: npt.ArrayLike, units: Units) -> Float64:
    """W and b of standardized data in the units of the data."""
    result = np.asarray(numbers, np.float64) * _slopes(units)
    result[:, -1] += units.mean[-1] - result[:, :-1] @ units.mean[:-1]
    return result


def standardized(numbers: npt.ArrayLike, units: Units) -> Float64:
    """The inverse of in_data_units."""
    result = np.array(numbers, np.float64)
    result[:, -1] += result[:, :-1] @ units.mean[:-1] - units.mean[-1]
    return result / _slopes(units)


def least_squares_in_data_units(
    solved: least_squares.LeastSquares, units: Units
) -> least_squares.LeastSquares:
    """The loss of standardized data as a function of W and b in the units of the data."""
    (solution,) = in_data_units(solved.solution[None], units)
    root = solved.root / _slopes(units)
    root[:, :-1] += np.outer(root[:, -1], units.mean[:-1])
    return solved._replace(solution=solution, root=root)


def standardized_least_squares(
    solved: least_squares.LeastSquares, units: Units
) -> least_squares.LeastSquares:
    """The loss of standardized data, W and b, from a loss in the units of the data."""
    (solution,) = standardized(solved.solution[None], units)
    root = solved.root.copy()
    root[:, :-1] -= np.outer(root[:, -1], units.mean[:-1])
    spread = units.stddev[-1]
    minimum = solved.minimum / spread**2
    return least_squares.LeastSquares(solution, minimum, root * _slopes(units) / spread)


def _slopes(units: Units) -> Float64:
    """The factors [D + 1] of W and b from standardized data to the units of the data."""
    return np.append(units.stddev[-1] / units.stddev[:-1], units.stddev[-1])
