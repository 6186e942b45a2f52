"""Tests of pipeline.figures."""

import io

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from pipeline import examples, figures, losses, metrics

_A_MILLION = 10**6


def _data(count: int, num_features: int = 1) -> examples.Data:
    """Examples of y = the sum of the features, whose columns never share a value."""
    x = np.linspace(0, 1, count * num_features, dtype=np.float32).reshape(count, num_features)
    y = x.sum(axis=1)
    names = tuple(f"feature{i}" for i in range(num_features))
    x = x[:, 0] if num_features == 1 else x
    return examples.Data(examples.Examples(x, y), None, names, "target")


def _points(count: int, num_features: int = 1) -> metrics.StepMetrics:
    W = np.random.default_rng(0).normal(size=(count, num_features)).astype(np.float32)
    b = np.linspace(0, 1, count, dtype=np.float32)
    return metrics.StepMetrics(np.arange(count), W[:, 0] if num_features == 1 else W, b, b)


def _parameters(num_features: int = 1) -> metrics.Parameters:
    return metrics.Parameters(np.arange(1.0, num_features + 1), 0.5)


def _fit(data: examples.Data, truth: metrics.Parameters | None = None) -> Figure:
    model = _parameters(len(data.features))
    return figures.fit(data, model, truth=truth, loss=6.506419, title="Before training")


def _lines(figure: Figure) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The x and y of each line of the only axes, by its label."""
    (axes,) = figure.axes
    return {str(line.get_label()): line.get_data() for line in axes.lines}


@pytest.mark.parametrize("num_features", [1, 2, 12])
@pytest.mark.parametrize("picture", ["data", "fit", "parameters"])
def test_picture_is_a_png_that_shows_something(picture: str, num_features: int) -> None:
    data = _data(50, num_features)
    figure = {
        "data": lambda: figures.data(data),
        "fit": lambda: _fit(data),
        "parameters": lambda: figures.parameters(
            _points(50, num_features), data.features, truth=None
        ),
    }[picture]()
    width, height = (round(inches * figure.dpi) for inches in figure.get_size_inches())
    pixels = matplotlib.image.imread(io.BytesIO(figures.png(figure)), format="png")
    assert pixels.shape[:2] == (height, width)
    assert 400 < height < width < 2000
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 10


def test_of_a_million_examples_a_sample_is_drawn() -> None:
    data = _data(_A_MILLION)
    for figure in (figures.data(data), _fit(data)):
        x, y = figure.axes[0].lines[0].get_data()
        assert 500 < len(x) <= 5000
        np.testing.assert_array_equal(x, y)  # y = x holds: each dot is an example
        np.testing.assert_allclose(x.mean(), 0.5, atol=0.05)
        assert len(figures.png(figure)) < 200_000


def test_few_examples_are_all_drawn() -> None:
    data = _data(2000)
    for figure in (figures.data(data), _fit(data)):
        np.testing.assert_array_equal(figure.axes[0].lines[0].get_data(), data.train)


def test_data_are_drawn_against_each_of_the_first_features() -> None:
    data = _data(50, 6)
    axes = figures.data(data).axes
    assert [each.get_xlabel() for each in axes] == ["feature0", "feature1", "feature2", "feature3"]
    assert axes[0].get_ylabel() == "target"
    for i, each in enumerate(axes):
        np.testing.assert_array_equal(each.lines[0].get_xdata(), data.train.x[:, i])
        np.testing.assert_array_equal(each.lines[0].get_ydata(), data.train.y)


def test_fit_of_one_feature_draws_truth_and_model_as_lines() -> None:
    figure = _fit(_data(50), metrics.Parameters(np.array([3.0]), 2.0))
    lines = _lines(figure)
    assert list(lines) == ["data", "truth", "model"]
    np.testing.assert_array_equal(lines["truth"], [[0, 1], [2, 5]])  # 3x + 2
    np.testing.assert_array_equal(lines["model"], [[0, 1], [0.5, 1.5]])  # x + 0.5
    assert "6.50642" in figure.axes[0].get_title()
    assert figure.axes[0].get_legend() is not None


def test_fit_without_a_truth_draws_none() -> None:
    assert list(_lines(_fit(_data(50)))) == ["data", "model"]


def test_fit_of_several_features_draws_predicted_against_actual() -> None:
    data = _data(50, 3)
    figure = _fit(data)
    actual, predicted = _lines(figure)["examples"]
    np.testing.assert_array_equal(actual, data.train.y)
    np.testing.assert_allclose(predicted, data.train.x @ np.array([1, 2, 3]) + 0.5)
    ideal_x, ideal_y = _lines(figure)["predicted = actual"]
    np.testing.assert_array_equal(ideal_x, [data.train.y.min(), data.train.y.max()])
    np.testing.assert_array_equal(ideal_y, ideal_x)
    assert figure.axes[0].get_xlabel() == "actual target"
    assert figure.axes[0].get_ylabel() == "predicted target"


def test_parameters_are_drawn_over_the_steps_with_their_true_values() -> None:
    points = _points(50)
    truth = metrics.Parameters(np.array([3.0]), 2.0)
    lines = _lines(figures.parameters(points, ("x",), truth=truth))
    assert list(lines) == ["W", "b", "true W", "true b"]
    np.testing.assert_array_equal(lines["W"], (points.step, points.W))
    np.testing.assert_array_equal(lines["b"], (points.step, points.b))
    np.testing.assert_array_equal(lines["true W"][1], [3, 3])
    np.testing.assert_array_equal(lines["true b"][1], [2, 2])


def test_of_many_weights_ten_are_drawn() -> None:
    points = _points(50, 12)
    lines = _lines(figures.parameters(points, _data(2, 12).features, truth=None))
    assert list(lines) == [*(f"W feature{i}" for i in range(10)), "b"]
    np.testing.assert_array_equal(lines["W feature9"], (points.step, points.W[:, 9]))


def _path(points: metrics.StepMetrics, optimum: metrics.Parameters, minimum: float) -> Figure:
    """The picture of the way over a round bowl around the optimum."""
    bowl = losses.QuadraticLoss(*optimum, minimum, np.zeros(1), np.eye(1))
    truth = metrics.Parameters(np.array([3.0]), 2.0)
    return figures.path(points, bowl.at, optimum=optimum, truth=truth)


def test_path_shows_the_way_from_the_start_the_optimum_and_the_truth() -> None:
    points, optimum = _points(50), metrics.Parameters(np.array([-1.5]), 0.25)
    figure = _path(points, optimum, 0.1)
    lines = _lines(figure)
    assert list(lines) == ["training", "start", "least squares", "truth"]
    np.testing.assert_array_equal(lines["training"], (points.W, points.b))
    np.testing.assert_array_equal(lines["start"], [[points.W[0]], [points.b[0]]])
    np.testing.assert_array_equal(lines["least squares"], [[-1.5], [0.25]])
    np.testing.assert_array_equal(lines["truth"], [[3], [2]])
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("W", "b")
    for (low, high), values in ((axes.get_xlim(), points.W), (axes.get_ylim(), points.b)):
        assert low < values.min() < values.max() < high
    pixels = matplotlib.image.imread(io.BytesIO(figures.png(figure)), format="png")
    assert pixels.shape == (480, 640, 4)
    assert len(np.unique(pixels.reshape(-1, 4), axis=0)) > 100  # the contours' colours


@pytest.mark.parametrize(
    ("offset", "minimum"),
    [(0.0, 0.0), (1e-8, 0.0), (0.0, 1.0), (1e-8, 1.0), (1e-4, 1e10), (1e-3, 1.0), (1e15, 1.0)],
)
def test_path_may_be_as_short_or_long_as_it_likes(offset: float, minimum: float) -> None:
    """As where training starts at the optimum, or near that of noisy data, or diverges."""
    W = np.array([3 + offset, 3], np.float32)
    points = metrics.StepMetrics(np.arange(2), W, W - 1, W)
    optimum = metrics.Parameters(np.array([3 + offset]), 2.0 + offset)
    pixels = matplotlib.image.imread(io.BytesIO(figures.png(_path(points, optimum, minimum))))
    assert pixels.shape == (480, 640, 4)


@pytest.mark.parametrize("name", ["price_$_to_$", "$_$", "a_b^c", "50 %", "C:\\x", "_hidden"])
def test_column_may_have_any_name(name: str) -> None:
    """What looks like matplotlib's formulas to it must not end the run."""
    data = _data(5, 2)._replace(features=(name, "b"), label=name)
    for figure in (
        figures.data(data),
        _fit(data),
        figures.parameters(_points(5, 2), data.features, truth=None),
    ):
        assert figures.png(figure).startswith(b"\x89PNG\r\n\x1a\n")
