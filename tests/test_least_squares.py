"""Tests of pipeline.data.least_squares."""

import numpy as np
import pytest

from pipeline.data import least_squares

_NORMAL = np.random.default_rng(0).normal(size=(200, 4))
_CELSIUS = np.round(_NORMAL[:, 0] * 10 + 15, 1)

# name: x, relative tolerance of the loss
_INPUTS = {
    "one feature": (_NORMAL[:, 0], 1e-12),
    "three features": (_NORMAL[:, :3] * [1, 2, 0.5] + [1, -2, 0], 1e-12),
    "far from zero": (_NORMAL[:, :2] + 1e4, 1e-9),
    "very different units": (_NORMAL[:, :2] * [1e-3, 1e6], 1e-6),
    "a constant column": (np.column_stack([_NORMAL[:, 0], np.full(200, 7.3)]), 1e-12),
    "a column twice": (_NORMAL[:, [0, 1, 0]], 1e-12),
    "columns that add up to 1": (np.eye(3)[np.arange(200) % 3], 1e-12),
    "a column in two units, rounded": (np.column_stack([_CELSIUS, _CELSIUS * 1.8 + 32]), 1e-4),
}


def _examples(name: str) -> tuple[np.ndarray, np.ndarray]:
    """The inputs of that name and y = the sum of their standardised columns + 3 + noise."""
    x = _INPUTS[name][0].reshape(200, -1).astype(np.float32)
    columns = x.astype(np.float64)
    spread = np.where(np.ptp(columns, axis=0) > 0, columns.std(axis=0), 1)
    y = ((columns - columns.mean(axis=0)) / spread).sum(axis=1) + 3 + _NORMAL[:, 3]
    return x, y.astype(np.float32)


def _with_ones(x: np.ndarray) -> np.ndarray:
    return np.column_stack([x.astype(np.float64), np.ones(len(x))])


@pytest.mark.parametrize("name", _INPUTS)
def test_loss_is_the_mean_squared_error_at_any_values(name: str) -> None:
    x, y = _examples(name)
    inputs = _with_ones(x)
    spread = np.maximum(inputs[:, :-1].std(axis=0), 1e-3)
    W = np.random.default_rng(1).normal(size=(50, len(spread))) * 3 / spread
    b = np.random.default_rng(2).normal(size=50) * 3
    values = np.column_stack([W, b])
    residuals = y.astype(np.float64)[:, None] - inputs @ values.T
    expected = np.square(residuals).mean(axis=0)

    loss = least_squares.LeastSquares.of(*_examples(name)).loss(values)
    assert loss.dtype == np.float64
    np.testing.assert_allclose(loss, expected, rtol=_INPUTS[name][1])


@pytest.mark.parametrize("name", _INPUTS)
def test_minimum_is_that_of_least_squares(name: str) -> None:
    x, y = _examples(name)
    inputs = _with_ones(x)
    solution = np.linalg.lstsq(inputs, y.astype(np.float64), rcond=None)[0]
    expected = np.square(y - inputs @ solution).mean()

    fitted = least_squares.LeastSquares.of(*_examples(name))
    assert fitted.minimum == pytest.approx(expected, rel=_INPUTS[name][1])
    assert fitted.loss([fitted.solution])[0] == pytest.approx(fitted.minimum, rel=1e-12)
    predicted = inputs @ fitted.solution
    assert np.square(y - predicted).mean() == pytest.approx(expected, rel=_INPUTS[name][1])


def test_a_column_that_is_rounding_is_left_out() -> None:
    """An example is deficit = out - rec: float32's rounding alone would give a W of millions.

    The loss depends only on W of the other directions.
    """
    x = np.column_stack([_NORMAL[:, :2], _NORMAL[:, 0] - _NORMAL[:, 1]]).astype(np.float32)
    y = (x[:, 0] + 0.1 * _NORMAL[:, 3]).astype(np.float32)
    assert 1e-9 < np.linalg.cond(x) ** -1 < 1e-6
    fitted, other = (least_squares.LeastSquares.of(part, y) for part in (x, x[:, :2]))
    assert np.abs(fitted.solution).max() < 2
    assert fitted.minimum == pytest.approx(other.minimum, rel=1e-6)
    values = np.append(other.solution[:2], [0, other.solution[2]])
    np.testing.assert_allclose(
        fitted.loss([values, values + 1]),
        other.loss([other.solution, other.solution + np.array([2, 0, 1])]),
        rtol=1e-6,
    )
    residuals = y - x.astype(np.float64) @ fitted.solution[:-1] - fitted.solution[-1]
    assert np.square(residuals).mean() == pytest.approx(fitted.minimum, rel=1e-9)


@pytest.mark.parametrize("num_features", [1, 3])
def test_distance_is_the_euclidean_one_from_the_solution(num_features: int) -> None:
    W, b = np.array([3.0, -1.0, 0.5][:num_features]), 2.0
    x = _NORMAL[:, :num_features].astype(np.float32)
    y = x.astype(np.float64) @ W + b  # no noise: W and b are the solution
    fitted = least_squares.LeastSquares.of(x, y)
    offsets = np.zeros((4, num_features + 1))
    offsets[1:3, 0], offsets[1, -1], offsets[3, -1] = (3, -2), 4, -7
    distance = fitted.distance(offsets + np.append(W, b))
    np.testing.assert_allclose(distance, [0, 5, 2, 7], atol=1e-12)  # 3² + 4² = 5²


@pytest.mark.parametrize("name", ["one feature", "three features", "far from zero"])
def test_the_only_solution_is_that_of_least_squares(name: str) -> None:
    x, y = _examples(name)
    solution = np.linalg.lstsq(_with_ones(x), y.astype(np.float64), rcond=None)[0]
    fitted = least_squares.LeastSquares.of(*_examples(name))
    np.testing.assert_allclose(fitted.solution, solution, rtol=1e-8)


def test_more_examples_than_one_chunk_give_the_same_as_numpy() -> None:
    x = np.random.default_rng(3).normal(size=2**20 + 7).astype(np.float32)
    y = 3 * x + 2 + x**2
    fitted = least_squares.LeastSquares.of(x[:, None], y)
    expected = np.polyfit(x.astype(np.float64), y.astype(np.float64), 1)
    np.testing.assert_allclose(fitted.solution, expected, rtol=1e-9)


@pytest.mark.parametrize("name", _INPUTS)
def test_largest_stable_rate_is_2_over_the_largest_curvature(name: str) -> None:
    x, _ = _examples(name)
    hessian = 2 * _with_ones(x).T @ _with_ones(x) / len(x)
    largest = least_squares.LeastSquares.of(*_examples(name)).largest_stable_learning_rate()
    assert largest == pytest.approx(2 / np.linalg.eigvalsh(hessian)[-1], rel=1e-9)
