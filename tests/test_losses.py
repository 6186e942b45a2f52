"""Tests of pipeline.losses."""

import numpy as np
import pytest
import tensorflow as tf

from pipeline import losses

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
    x = _INPUTS[name][0].astype(np.float32)
    columns = x.reshape(200, -1).astype(np.float64)
    spread = np.where(np.ptp(columns, axis=0) > 0, columns.std(axis=0), 1)
    y = ((columns - columns.mean(axis=0)) / spread).sum(axis=1) + 3 + _NORMAL[:, 3]
    return x, y.astype(np.float32)


def _with_ones(x: np.ndarray) -> np.ndarray:
    return np.column_stack([x.reshape(len(x), -1).astype(np.float64), np.ones(len(x))])


@pytest.mark.parametrize(
    ("count", "expected"),
    [(None, (0 + 4 + 9) / 3), (3, (0 + 4 + 9) / 3), (2, (0 + 4) / 2), (1, 0.0)],
)
def test_mean_squared_error_is_that_of_the_first_count_examples(
    count: int | None, expected: float
) -> None:
    y, prediction = tf.constant([1.0, 2.0, 3.0]), tf.constant([1.0, 4.0, 0.0])
    counting = None if count is None else tf.constant(count)
    loss = losses.mean_squared_error(y, prediction, counting)
    assert loss.shape == ()
    assert loss.dtype == tf.float32
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_filling_that_is_not_finite_counts_neither_in_the_loss_nor_in_its_gradient() -> None:
    prediction = tf.Variable([1.0, 5.0, 1e30])
    with tf.GradientTape() as tape:
        loss = losses.mean_squared_error(tf.constant([0.0, 3.0, 0.0]), prediction, tf.constant(2))
    assert float(loss) == (1 + 4) / 2
    np.testing.assert_array_equal(tape.gradient(loss, prediction), [1, 2, 0])  # 2 (p - y) / 2


@pytest.mark.parametrize("name", _INPUTS)
def test_quadratic_loss_is_the_mean_squared_error_at_any_point(name: str) -> None:
    x, y = _examples(name)
    inputs = _with_ones(x)
    spread = np.maximum(inputs[:, :-1].std(axis=0), 1e-3)
    W = np.random.default_rng(1).normal(size=(50, len(spread))) * 3 / spread
    b = np.random.default_rng(2).normal(size=50) * 3
    residuals = y.astype(np.float64)[:, None] - inputs @ np.vstack([W.T, b])
    expected = np.square(residuals).mean(axis=0)

    loss = losses.QuadraticLoss.over(x, y).at(W[:, 0] if x.ndim == 1 else W, b)
    assert loss.dtype == np.float64
    np.testing.assert_allclose(loss, expected, rtol=_INPUTS[name][1])


@pytest.mark.parametrize("name", _INPUTS)
def test_minimum_is_that_of_least_squares(name: str) -> None:
    x, y = _examples(name)
    inputs = _with_ones(x)
    solution = np.linalg.lstsq(inputs, y.astype(np.float64), rcond=None)[0]
    expected = np.square(y - inputs @ solution).mean()

    fitted = losses.QuadraticLoss.over(x, y)
    assert fitted.minimum == pytest.approx(expected, rel=_INPUTS[name][1])
    assert fitted.at([fitted.W], [fitted.b])[0] == pytest.approx(fitted.minimum, rel=1e-12)
    predicted = inputs @ [*fitted.W, fitted.b]
    assert np.square(y - predicted).mean() == pytest.approx(expected, rel=_INPUTS[name][1])


@pytest.mark.parametrize("name", ["one feature", "three features", "a column twice"])
def test_gradient_norm_is_that_of_the_gradients_over_the_examples(name: str) -> None:
    x, y = _examples(name)
    inputs = _with_ones(x)
    points = np.random.default_rng(4).normal(size=(20, inputs.shape[1])) * 3
    gradients = 2 * (points @ inputs.T - y) @ inputs / len(y)
    W = points[:, 0] if x.ndim == 1 else points[:, :-1]
    fitted = losses.QuadraticLoss.over(x, y)
    norm = fitted.gradient_norm(W, points[:, -1])
    np.testing.assert_allclose(norm, np.linalg.norm(gradients, axis=1), rtol=1e-9)
    assert fitted.gradient_norm([fitted.W], [fitted.b]) == [0]


@pytest.mark.parametrize("num_features", [1, 3])
def test_distance_is_the_euclidean_one_of_all_parameters_from_the_solution(
    num_features: int,
) -> None:
    W, b = np.array([3.0, -1.0, 0.5][:num_features]), 2.0
    x = _NORMAL[:, :num_features].astype(np.float32)
    y = x.astype(np.float64) @ W + b  # no noise: W and b are the solution
    fitted = losses.QuadraticLoss.over(x[:, 0] if num_features == 1 else x, y)
    offsets = np.zeros((4, num_features + 1))
    offsets[1:3, 0], offsets[1, -1], offsets[3, -1] = (3, -2), 4, -7
    points = offsets + np.append(W, b)
    distance = fitted.distance(points[:, 0] if num_features == 1 else points[:, :-1], points[:, -1])
    np.testing.assert_allclose(distance, [0, 5, 2, 7], atol=1e-12)  # 3² + 4² = 5²


@pytest.mark.parametrize("name", ["one feature", "three features", "far from zero"])
def test_solution_is_that_of_least_squares_where_there_is_only_one(name: str) -> None:
    x, y = _examples(name)
    solution = np.linalg.lstsq(_with_ones(x), y.astype(np.float64), rcond=None)[0]
    fitted = losses.QuadraticLoss.over(x, y)
    np.testing.assert_allclose([*fitted.W, fitted.b], solution, rtol=1e-8)


def test_more_examples_than_one_chunk_give_the_same_as_numpy() -> None:
    x = np.random.default_rng(3).normal(size=2**20 + 7).astype(np.float32)
    y = 3 * x + 2 + x**2
    fitted = losses.QuadraticLoss.over(x, y)
    slope, intercept = np.polyfit(x.astype(np.float64), y.astype(np.float64), 1)
    np.testing.assert_allclose([*fitted.W, fitted.b], [slope, intercept], rtol=1e-9)


@pytest.mark.parametrize("name", _INPUTS)
def test_largest_stable_learning_rate_is_2_over_the_largest_curvature(name: str) -> None:
    x, y = _examples(name)
    hessian = 2 * _with_ones(x).T @ _with_ones(x) / len(x)
    largest = losses.QuadraticLoss.over(x, y).largest_stable_learning_rate()
    assert largest == pytest.approx(2 / np.linalg.eigvalsh(hessian)[-1], rel=1e-9)


@pytest.mark.parametrize("name", ["one feature", "three features"])
def test_gradient_descent_converges_just_below_that_rate_and_diverges_above(name: str) -> None:
    x, y = _examples(name)
    inputs = _with_ones(x)
    fitted = losses.QuadraticLoss.over(x, y)
    best = np.append(fitted.W, fitted.b)
    distance = {}
    for factor in (0.99, 1.01):
        point = best + 1
        for _ in range(2000):
            gradient = 2 * inputs.T @ (inputs @ point - y) / len(y)
            point = point - factor * fitted.largest_stable_learning_rate() * gradient
        distance[factor] = np.linalg.norm(point - best)
    assert distance[0.99] < 1e-6
    assert distance[1.01] > 1e6
