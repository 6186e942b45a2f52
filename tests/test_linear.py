"""Tests of pipeline.evaluation.linear: W and b in data units, and least squares as a reference."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline import config as config_lib
from pipeline.data import batch as batch_lib
from pipeline.data import datasets as datasets_lib
from pipeline.data import synthetic
from pipeline.evaluation import linear
from pipeline.training import losses, models, task
from tests import helpers

Batch = batch_lib.Batch

_NAMES = tuple("abcdefghijklmnopqrst")
_OTHER = "this model with this loss is not linear regression"


class _OfOnesOwn(tf.Module):
    """A model with a given formula and the variables W [D] and b."""

    def __init__(self, formula: Callable[..., tf.Tensor], W: list[float], b: float):
        super().__init__()
        self._formula = formula
        self.W = tf.Variable(W, name="W", dtype=tf.float32)
        self.b = tf.Variable(b, name="b", dtype=tf.float32)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Predicts y [B]."""
        return self._formula(x, self.W, self.b)


def _line(x: Any, W: Any, b: Any) -> Any:
    return x @ W[:, None] + b  # [B, 1]


def _parabola(x: Any, W: Any, b: Any) -> Any:
    return W[0] * x[:, 0] * x[:, 0] + b


def _examples(
    count: int = 50, num_features: int = 1, *, seed: int = 0, scale: float = 1, offset: float = 0
) -> Batch:
    """Examples with y = the sum of the standardised features + 2 + noise."""
    generator = np.random.default_rng(seed)
    normal = generator.normal(size=(count, num_features))
    x = (normal * scale + offset).astype(np.float32)
    y = normal.sum(axis=1) + 2 + generator.normal(size=count) * 0.5
    return Batch(x, y.astype(np.float32))


_TRAIN = _examples()


def _datasets(train: Batch = _TRAIN, **more: Any) -> datasets_lib.Datasets:
    names = tuple(f"x{i}" for i in range(train.x.shape[1])) if train.x.shape[1] > 20 else _NAMES
    solved = datasets_lib.solved(train)
    return datasets_lib.Datasets(
        train, None, names[: train.x.shape[1]], "y", least_squares=solved, **more
    )


def _task(
    formula: Callable[..., Any] = _line,
    each: losses.ExampleLoss = losses.squared_error,
    *,
    W: float = 5.0,
    b: float = 0.5,
) -> task.Task:
    """A task of one feature."""
    model: Any = _OfOnesOwn(formula, [W], b)
    return task.Task(model, losses.mean_loss(each, model), spec=helpers.spec(_TRAIN))


def _linear(
    datasets: datasets_lib.Datasets, made: task.Task | None = None, **settings: Any
) -> linear.Linear | None:
    made = made or helpers.linear(datasets.features)
    return linear.Linear.of(made, datasets, config_lib.Config(**settings))


def _known(*arguments: Any, **settings: Any) -> linear.Linear:
    found = _linear(*arguments, **settings)
    assert found is not None
    return found


def _numpy_solution(examples: Batch, l2: float = 0.0) -> np.ndarray:
    inputs = np.column_stack([examples.x, np.ones(len(examples.y))]).astype(np.float64)
    penalty = math.sqrt(l2 * len(inputs)) * np.eye(inputs.shape[1])[:-1]
    y = np.append(examples.y.astype(np.float64), np.zeros(len(penalty)))
    return np.linalg.lstsq(np.vstack([inputs, penalty]), y, rcond=None)[0]


# What is a linear model.


@pytest.mark.parametrize("kind", ["module", "keras"])
@pytest.mark.parametrize("num_features", [1, 3, 15, 16, 17, 100])
def test_the_guides_model_has_a_reference_for_any_number_of_features(
    kind: str, num_features: int
) -> None:
    """With more than 16 numbers, norms are watched, and they have no paraboloid."""
    examples = _examples(200, num_features)
    datasets = _datasets(examples)
    made = helpers.linear(datasets.features, model=kind)
    line = _known(datasets, made)
    solution = _numpy_solution(examples)
    assert line.why_not == ""
    np.testing.assert_allclose(line.solution, solution, rtol=1e-7, atol=1e-9)
    assert (line.reference is None) == (num_features > 15) == (not line.variables.watches_all)
    flat = line.flat_lines()
    assert list(flat) == ["least_squares"]
    assert list(flat["least_squares"]) == [*made.variables.watched, "loss"]
    values = [flat["least_squares"][name] for name in made.variables.watched]
    np.testing.assert_allclose(values, made.variables.values_at(solution), rtol=1e-6)
    residual = examples.x.astype(np.float64) @ solution[:-1] + solution[-1] - examples.y
    assert flat["least_squares"]["loss"] == pytest.approx(np.mean(residual**2), rel=1e-9)


@pytest.mark.parametrize(
    "formula",
    [
        _parabola,
        lambda x, W, b: x[:, 0] * W[0] + 0 * b,
        lambda x, W, b: tf.nn.relu(_line(x, W, b)),
        lambda x, W, b: tf.stack([W[0] * x[:, 0] + b] * 2, axis=1),
    ],
)
@pytest.mark.parametrize(("W", "b"), [(5.0, 0.5), (0.0, 0.0), (1.0, 0.0), (0.0, 2.0)])
def test_other_models_are_not_linear(formula: Callable[..., Any], W: float, b: float) -> None:
    """The start does not matter: with W = 0, W·x·x + b predicts the same as x·W + b."""
    assert _linear(_datasets(), _task(formula, W=W, b=b)) is None
    assert _known(_datasets(), _task(_line, W=W, b=b)).reference is not None


@pytest.mark.parametrize("scale", [1e-6, 1e6, 1e20])
@pytest.mark.parametrize("formula", [_parabola, lambda x, W, b: _line(x, W, 0 * b)])
def test_the_scale_of_the_data_hides_no_difference(
    scale: float, formula: Callable[..., Any]
) -> None:
    """With an unscaled W, W·x would be so small or large that the difference is lost."""
    assert _linear(_datasets(_examples(scale=scale)), _task(formula)) is None


def test_more_numbers_than_weights_and_bias_are_not_linear() -> None:
    """Two features that the model sums, but three weights."""
    examples = _examples(50, 2)
    model: Any = _OfOnesOwn(lambda x, W, b: tf.linalg.matvec(x, W[:2]) + b, [5, 5, 0], 0.5)
    mean = losses.mean_loss(losses.squared_error, model)
    made = task.Task(model, mean, spec=helpers.spec(examples))
    assert _linear(_datasets(examples), made) is None


def test_a_model_of_another_name_is_none() -> None:
    assert _linear(_datasets(), model="mlp") is None


@pytest.mark.parametrize(
    ("each", "settings"),
    [
        (helpers.absolute_error, {}),
        (lambda y, prediction: 1.01 * tf.square(y - prediction), {}),
        (lambda y, prediction: tf.square(y - 2 * prediction), {}),
        (tf.keras.losses.huber, {"loss": "huber"}),
    ],
)
def test_other_losses_have_no_reference(each: losses.ExampleLoss, settings: dict[str, Any]) -> None:
    """The model is still linear, with W and b in data units; a note says why."""
    line = _known(_datasets(), _task(each=each), **settings)
    assert (line.standardized, line.reference, line.solution, line.truth) == (None,) * 4
    assert line.why_not == ("" if settings else _OTHER)
    assert line.flat_lines() == {}
    assert line.largest_stable_rate == math.inf


def test_weights_of_examples_have_no_reference() -> None:
    """Least squares ignores weights of examples."""
    examples = _TRAIN._replace(weight=np.ones(50, np.float32))
    line = _known(_datasets()._replace(train=examples))
    assert (line.reference, line.solution) == (None, None)
    assert line.why_not == "the examples have weights"


@pytest.mark.parametrize("make", [helpers.linear, lambda: helpers.linear(model="keras"), _task])
def test_the_model_keeps_its_values(make: Callable[[], task.Task]) -> None:
    """The values are exactly the same."""
    made = make()
    values = np.array([0.1, -1 / 3], np.float32)
    made.variables.assign(made.variables.split(values))
    _linear(_datasets(), made)
    np.testing.assert_array_equal(made.variables.values(), values)


# Odd data.


def _with_y(y: Any) -> Batch:
    return Batch(_TRAIN.x, np.asarray(y, np.float32))


_LARGEST = 3.4e38
_ODD = {
    "a year": _examples(scale=30, offset=1990),
    "no y but zero": _with_y(_TRAIN.y * 0),
    "no x but zero": Batch(_TRAIN.x * 0, _TRAIN.y),
    "no x but one": Batch(_TRAIN.x * 0 + 1, _TRAIN.y),
    "an outlier": Batch(
        np.append(_TRAIN.x, [[1e7]], 0).astype("f4"), np.append(_TRAIN.y, np.float32(1))
    ),
    "two examples": _examples(2),
    "very different units": Batch(
        (_examples(50, 3).x * [1e-6, 1, 1e6] + [0, 1e3, 0]).astype(np.float32), _TRAIN.y
    ),
    "a column twice": Batch(np.repeat(_TRAIN.x, 2, axis=1), _TRAIN.y),
    "many examples": _examples(2**20 + 7),
}


@pytest.mark.parametrize("name", _ODD)
def test_oddly_scaled_data_have_a_reference(name: str) -> None:
    """The loss of the reference is the minimum."""
    examples = _ODD[name]
    line = _known(_datasets(examples))
    assert line.reference is not None
    assert line.why_not == ""
    x, y = examples.x.astype(np.float64), examples.y.astype(np.float64)
    centered = x - x.mean(axis=0)
    spread = np.where(np.ptp(x, axis=0) > 0, centered.std(axis=0), 1)
    W = np.linalg.lstsq(centered / spread, y - y.mean(), rcond=1e-12)[0] / spread
    expected = np.mean((centered @ W + y.mean() - y) ** 2)
    tolerance = 1e-9 * np.mean(y**2)
    assert line.flat_lines()["least_squares"]["loss"] == pytest.approx(expected, abs=tolerance)


_AT_THE_END_OF_FLOAT32 = {
    "y whose squares are too large": _with_y(_TRAIN.y * 1e20),
    "the largest y": _with_y(np.sign(_TRAIN.y) * _LARGEST),
    "one y whose square is too large": _with_y(np.append(_TRAIN.y[:-1], 1e25)),
    "y whose squares are zero": _with_y(_TRAIN.y * 1e-30),
    "the largest x": Batch(np.sign(_TRAIN.x) * np.float32(_LARGEST), _TRAIN.y),
    "one very large x": Batch(np.append(_TRAIN.x[:-1], [[_LARGEST]], 0).astype("f4"), _TRAIN.y),
    "x too small for any W": Batch(_TRAIN.x * np.float32(1e-40), _TRAIN.y),
    "a solution that float32 can't hold": Batch(
        np.append(_TRAIN.x, _TRAIN.x + 1e-6 * _TRAIN.y[:, None], 1).astype("f4")
        * np.float32(1e-32),
        np.square(_TRAIN.y) * 100,
    ),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", _AT_THE_END_OF_FLOAT32)
def test_a_reference_at_the_end_of_float32_is_right_or_left_out(name: str) -> None:
    """There is no warning; a reference is computed in float64, and drawn within float32."""
    examples = _AT_THE_END_OF_FLOAT32[name]
    line = _linear(_datasets(examples))
    if line is None or line.reference is None:
        return
    expected = _datasets(examples).least_squares
    assert expected is not None
    np.testing.assert_array_equal(line.solution, expected.solution)
    values = line.flat_lines()["least_squares"]
    assert all(abs(values[name]) <= np.finfo(np.float32).max for name in line.variables.watched)


@pytest.mark.parametrize(
    ("columns", "count", "reason"),
    [
        (1500, 5, "1,500 features of 5 examples take too long to solve for"),
        (300, 120_000, "300 features of 120,000 examples take too long to solve for"),
        (300, 2000, ""),
    ],
)
def test_there_is_no_reference_where_it_takes_too_long(
    columns: int, count: int, reason: str
) -> None:
    line = _known(_datasets(Batch(np.ones((count, columns), np.float32), np.ones(count, "f4"))))
    assert line.why_not == reason
    assert (line.solution is None) == bool(reason)


# Ridge regression, the truth, and the rate.


@pytest.mark.parametrize("l2", [0.0, 0.1])
@pytest.mark.parametrize("num_features", [1, 20])
def test_a_penalty_is_in_the_reference(num_features: int, l2: float) -> None:
    examples = _examples(100, num_features)
    datasets = _datasets(examples)
    line = _known(datasets, helpers.linear(datasets.features, l2=l2), l2=l2)
    expected = _numpy_solution(examples, l2)
    np.testing.assert_allclose(line.solution, expected, rtol=1e-7, atol=1e-9)


def test_the_truth_is_a_reference_of_examples_drawn_from_a_line() -> None:
    truth = synthetic.Truth(3, 2)
    line = _known(_datasets(truth=truth))
    flat = line.flat_lines()
    assert list(flat) == ["least_squares", "truth"]
    residual = 3 * _TRAIN.x[:, 0].astype(np.float64) + 2 - _TRAIN.y
    assert flat["truth"] == {"W": 3, "b": 2, "loss": pytest.approx(np.mean(residual**2))}
    sine = _known(_datasets(truth=truth._replace(is_line=False)))
    assert (sine.truth, list(sine.flat_lines())) == (None, ["least_squares"])


# The units of the data.

_UNITS = helpers.units([10, -20, 100], [2, 4, 50])


def _in_units(examples: Batch) -> Batch:
    x, y = _UNITS.x_in_data_units(examples.x), _UNITS.in_data_units(examples.y)
    return Batch(x.astype(np.float32), y.astype(np.float32))


def test_standardized_parameters_are_given_in_the_units_of_the_data() -> None:
    """They convert back, and predictions are the same in both units."""
    examples = _examples(50, 2)
    line = _known(_datasets(examples, preprocessing=_UNITS))
    numbers = np.array([[0.5, -2.0, 0.25], [1.0, 3.0, 0.0]], np.float32)
    found = line.in_data_units(numbers)
    assert found.dtype == np.float32
    data = _in_units(examples)
    for standardized, (*W, b) in zip(numbers, found.tolist(), strict=True):
        expected = _UNITS.in_data_units(examples.x @ standardized[:-1] + standardized[-1])
        np.testing.assert_allclose(data.x @ np.array(W) + b, expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(line.from_data_units(found), numbers, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(line.watched_in_data_units(numbers), found)


def test_a_reference_is_drawn_in_the_units_of_the_data() -> None:
    """The loss is still computed on standardized labels, as in training."""
    examples = _examples(50, 2)
    line = _known(_datasets(examples, preprocessing=_UNITS))
    np.testing.assert_allclose(line.solution, _numpy_solution(examples), rtol=1e-7)
    assert line.reference is not None
    expected = _numpy_solution(_in_units(examples))
    np.testing.assert_allclose(line.reference.solution, expected, rtol=1e-4)
    flat = line.flat_lines()["least_squares"]
    assert [flat["W/a"], flat["W/b"], flat["b"]] == pytest.approx(expected.tolist(), rel=1e-4)
    plain = _known(_datasets(examples)).flat_lines()["least_squares"]
    assert flat["loss"] == pytest.approx(plain["loss"], rel=1e-9)


def test_without_units_numbers_are_those_of_the_data() -> None:
    line = _known(_datasets())
    numbers = np.array([[0.1, -3.0]], np.float32)
    for convert in (line.in_data_units, line.from_data_units, line.watched_in_data_units):
        np.testing.assert_array_equal(convert(numbers), numbers)
    assert line.importance == {}


def test_norms_have_no_units() -> None:
    """Norms of standardized data are not converted."""
    examples = _examples(100, 20)
    units = helpers.units([3.0] * 21, [2.0] * 21)
    line = _known(_datasets(examples, preprocessing=units))
    norms = np.array([[1.5, 2.5]], np.float32)
    np.testing.assert_array_equal(line.watched_in_data_units(norms), norms)
    assert line.in_data_units(np.ones([1, 21])).shape == (1, 21)


def test_the_most_important_feature_comes_first() -> None:
    """Importance is |W| of standardized features."""
    made = helpers.linear(("a", "b"))
    line = _known(_datasets(_examples(50, 2), preprocessing=_UNITS), made)
    made.variables.assign({"W": [0.5, -2.0], "b": 9.0})
    assert list(line.importance.items()) == [("b", 2.0), ("a", 0.5)]


def test_arrays_of_ones_own_may_be_a_table(tmp_path: Any) -> None:
    """The arrays are x [N, D] and y [N], without names."""
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n\n\ndef data():\n    x = np.arange(20.0).reshape(10, 2) % 7\n"
        "    return x, x @ [1.0, 2.0] + 3\n"
    )
    config = config_lib.Config(data=f"{tmp_path}/mine.py:data", learning_rate=0.01)
    datasets = datasets_lib.load(config)
    made = helpers.linear(("", ""))
    line = linear.Linear.of(made, datasets, config)
    assert line is not None
    np.testing.assert_allclose(line.solution, [1, 2, 3], rtol=1e-6)
    assert isinstance(made.model, models.LinearModel)
