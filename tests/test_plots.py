"""Tests of pipeline.reporting.plots."""

import io
from collections.abc import Iterator

import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from pipeline.data import batch as batch_lib
from pipeline.data import datasets as datasets_lib
from pipeline.data import least_squares, synthetic
from pipeline.reporting import plots
from pipeline.training import step_metrics

_A_MILLION = 10**6


def _datasets(
    count: int, num_features: int = 1, truth: synthetic.Truth | None = None
) -> datasets_lib.Datasets:
    """Examples of y = the sum of the features, whose columns never share a value."""
    x = np.linspace(0, 1, count * num_features, dtype=np.float32).reshape(count, num_features)
    names = tuple(f"feature{i}" for i in range(num_features))
    examples = batch_lib.Batch(x, x.sum(axis=1))
    return datasets_lib.Datasets(examples, None, names, "target", truth)


@pytest.fixture(autouse=True)
def _style() -> Iterator[None]:
    """Draws as a run does."""
    with plots.style():
        yield


def _sample(count: int, num_features: int = 1) -> plots.Sample:
    return plots.Sample.of(_datasets(count, num_features))


def _rows(count: int, num_values: int = 2) -> step_metrics.StepMetrics:
    values = np.random.default_rng(0).normal(size=(count, num_values)).astype(np.float32)
    return step_metrics.StepMetrics(np.arange(count), values, values[:, 0], values[:, 0])


def _fit(sample: plots.Sample) -> Figure:
    """The fit of y = 2 * the sum of the features + 0.5."""
    predictions = 2 * sample.inputs.sum(axis=1) + np.float32(0.5)
    return plots.predictions(sample, predictions, loss=6.506419, title="Before training")


def _lines(figure: Figure) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The x and y of each line of the only axes, by its label."""
    (axes,) = figure.axes
    return {str(line.get_label()): line.get_data() for line in axes.lines}


def _pixels(figure: Figure) -> np.ndarray:
    return matplotlib.image.imread(io.BytesIO(plots.png(figure)), format="png")


@pytest.mark.parametrize("num_features", [1, 2, 12])
@pytest.mark.parametrize("plot", ["data", "fit", "values"])
def test_a_plot_is_a_png_that_shows_something(plot: str, num_features: int) -> None:
    sample = _sample(50, num_features)
    names = (*(f"W/{name}" for name in sample.features), "b")
    figure = {
        "data": lambda: plots.data(sample),
        "fit": lambda: _fit(sample),
        "values": lambda: plots.values(_rows(50, num_features + 1), names, truth=None),
    }[plot]()
    width, height = (round(inches * figure.dpi) for inches in figure.get_size_inches())
    pixels = _pixels(figure)
    assert pixels.shape[:2] == (height, width)
    assert 400 < height < width < 2000
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 10


def test_two_thousand_of_a_million_examples_are_drawn() -> None:
    sample = _sample(_A_MILLION)
    for figure in (plots.data(sample), _fit(sample)):
        x, y = figure.axes[0].lines[0].get_data()
        assert len(x) == 2000
        assert len(set(x)) == 2000  # none is chosen twice
        np.testing.assert_array_equal(x, y)  # y = x holds: each dot is an example
        np.testing.assert_allclose(x.mean(), 0.5, atol=0.05)
        assert len(plots.png(figure)) < 200_000
    assert _fit(sample).axes[0].get_title() == "Before training, loss of 2,000 examples=6.50642"


def test_few_examples_are_all_drawn() -> None:
    datasets = _datasets(2000)
    sample = plots.Sample.of(datasets)
    for figure in (plots.data(sample), _fit(sample)):
        x, y = figure.axes[0].lines[0].get_data()
        np.testing.assert_array_equal(x, datasets.train.x[:, 0])
        np.testing.assert_array_equal(y, datasets.train.y)


def test_inputs_are_even_for_one_feature_else_the_examples() -> None:
    sample = _sample(50)
    assert sample.inputs.shape == (201, 1)
    np.testing.assert_allclose(sample.inputs[:, 0], np.arange(201) / 200, rtol=1e-6)
    several = _sample(50, 3)
    np.testing.assert_array_equal(several.inputs, several.x)


def test_data_are_drawn_against_each_of_the_first_features() -> None:
    datasets = _datasets(50, 6)
    figure = plots.data(plots.Sample.of(datasets))
    axes = figure.axes
    assert figure.get_supylabel() == "target"
    assert [each.get_xlabel() for each in axes] == ["feature0", "feature1", "feature2", "feature3"]
    for i, each in enumerate(axes):
        np.testing.assert_array_equal(each.lines[0].get_xdata(), datasets.train.x[:, i])
        np.testing.assert_array_equal(each.lines[0].get_ydata(), datasets.train.y)


def test_the_fit_of_one_feature_has_truth_and_model() -> None:
    sample = plots.Sample.of(_datasets(50, truth=synthetic.Truth(3.0, 2.0)))
    figure = _fit(sample)
    lines = _lines(figure)
    assert list(lines) == ["data", "truth", "model"]
    x = np.arange(201) / 200
    np.testing.assert_allclose(lines["truth"], [x, 3 * x + 2], rtol=1e-6)
    np.testing.assert_allclose(lines["model"], [x, 2 * x + 0.5], rtol=1e-6)
    assert figure.axes[0].get_title() == "Before training, loss=6.50642"
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("feature0", "target")
    assert figure.axes[0].get_legend() is not None


def test_the_truth_may_be_a_curve() -> None:
    x = np.arange(201) / 200
    sample = plots.Sample.of(_datasets(50, truth=synthetic.Truth(3.0, 2.0, is_line=False)))
    np.testing.assert_allclose(
        _lines(_fit(sample))["truth"], [x, 3 * np.sin(np.pi * x) + 2], atol=1e-6
    )


@pytest.mark.parametrize("num_features", [1, 2])
def test_each_of_several_outputs_is_drawn(num_features: int) -> None:
    """Outputs may be the probabilities of classes."""
    sample = _sample(50, num_features)
    total = sample.inputs.sum(axis=1)
    predictions = np.stack([total, 2 * total, 3 * total], axis=1)
    lines = _lines(plots.predictions(sample, predictions, loss=1.0, title="Classes"))
    x = sample.inputs[:, 0] if num_features == 1 else sample.y
    assert [name for name in lines if name != "data"] == ["output 0", "output 1", "output 2"]
    for i in range(3):
        np.testing.assert_allclose(lines[f"output {i}"], [x, (i + 1) * total], rtol=1e-6)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [(10.143245, "10.14325"), (1.2345e18, "1.23450e+18"), (3e-9, "3.00000e-09"), (0, "0.00000")],
)
def test_the_loss_in_a_title_is_short(loss: float, expected: str) -> None:
    sample = _sample(5)
    figure = plots.predictions(sample, sample.inputs[:, 0], loss=loss, title="Step 4")
    assert figure.axes[0].get_title() == f"Step 4, loss={expected}"


@pytest.mark.parametrize("num_features", [1, 3, 20])
def test_no_text_leaves_the_picture(num_features: int) -> None:
    """Names may have any length."""
    names = tuple(f"{i}_{'average_income' * 9}_{i}" for i in range(num_features))
    sample = _sample(3000, num_features)._replace(features=names, label="house_value" * 9)
    values = (*(f"W/{name}" for name in names), "bias" * 25)
    fit = plots.predictions(sample, sample.inputs[:, 0], loss=1e18, title="Before training")
    figures = plots.data(sample), fit, plots.values(_rows(5, len(values)), values, truth=None)
    for figure in figures:
        _check_nothing_is_cut_off(figure)


@pytest.mark.parametrize(
    ("low", "high"),
    [(-9e4, 1e4), (-1.1e-3, -1e-3), (12345.6, 12347.1), (-8000.5, -8000.1), (-1e30, 1e-30)],
)
def test_no_number_leaves_the_picture(low: float, high: float) -> None:
    """Numbers may have any number of digits."""
    y = np.linspace(low, high, 2000).astype(np.float32)
    sample = _sample(3000)._replace(y=y)
    for figure in (
        plots.predictions(sample, y[:201], loss=1e18, title="Before training"),
        plots.values(_rows(2000)._replace(values=np.stack([y, y], 1)), ("W", "b"), truth=None),
    ):
        _check_nothing_is_cut_off(figure)


def _check_nothing_is_cut_off(figure: Figure) -> None:
    plots.png(figure)  # computes the layout
    drawn = figure.get_tightbbox()  # in inches
    assert (drawn.min >= 0).all()
    assert (drawn.max <= figure.get_size_inches()).all()


def test_a_legend_of_many_lines_is_beside_them() -> None:
    """All lines look different."""
    figure = plots.values(_rows(50, 13), (*(f"W/{i}" for i in range(12)), "b"), truth=None)
    plots.png(figure)
    (axes,), (legend,) = figure.axes, figure.legends
    assert legend.get_window_extent().x0 > axes.get_window_extent().x1
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 11


def test_the_fit_without_a_truth_has_none() -> None:
    assert list(_lines(_fit(_sample(50)))) == ["data", "model"]


def test_the_fit_of_several_features_is_predicted_by_actual() -> None:
    datasets = _datasets(50, 3)
    y = datasets.train.y
    figure = _fit(plots.Sample.of(datasets))
    actual, predicted = _lines(figure)["examples"]
    np.testing.assert_array_equal(actual, y)
    np.testing.assert_allclose(predicted, 2 * y + 0.5, rtol=1e-6)
    ideal_x, ideal_y = _lines(figure)["predicted = actual"]
    np.testing.assert_array_equal(ideal_x, [y.min(), y.max()])
    np.testing.assert_array_equal(ideal_y, ideal_x)
    assert figure.axes[0].get_xlabel() == "actual target"
    assert figure.axes[0].get_ylabel() == "predicted target"


def test_values_are_drawn_over_the_steps_with_the_true_ones() -> None:
    rows = _rows(50)
    figure = plots.values(rows, ("W", "b"), truth=np.array([3.0, 2.0]))
    lines = _lines(figure)
    assert list(lines) == ["W", "b", "true W", "true b"]
    np.testing.assert_array_equal(lines["W"], (rows.step, rows.values[:, 0]))
    np.testing.assert_array_equal(lines["b"], (rows.step, rows.values[:, 1]))
    np.testing.assert_array_equal(lines["true W"][1], [3, 3])
    np.testing.assert_array_equal(lines["true b"][1], [2, 2])
    colors = {line.get_label(): line.get_color() for line in figure.axes[0].lines}
    for name in ("W", "b"):
        assert matplotlib.colors.same_color(colors[f"true {name}"], colors[name])
    assert not matplotlib.colors.same_color(colors["W"], colors["b"])


def test_ten_elements_of_a_variable_are_drawn() -> None:
    rows = _rows(50, 13)
    names = (*(f"W/feature{i}" for i in range(12)), "b")
    lines = _lines(plots.values(rows, names, truth=None))
    assert list(lines) == [*(f"W feature{i}" for i in range(10)), "b"]
    np.testing.assert_array_equal(lines["W feature9"], (rows.step, rows.values[:, 9]))
    np.testing.assert_array_equal(lines["b"], (rows.step, rows.values[:, 12]))


def test_four_variables_are_drawn() -> None:
    names = ("kernel/0", "kernel/1", "bias", "kernel_1/0", "bias_1", "kernel_2", "bias_2")
    figure = plots.values(_rows(50, 7), names, truth=None)
    expected = ["kernel 0", "kernel 1", "bias", "kernel_1 0", "bias_1"]
    assert list(_lines(figure)) == expected


def _surface(rows: step_metrics.StepMetrics, optimum: list[float], minimum: float) -> Figure:
    """The path over a round bowl around the optimum."""
    bowl = least_squares.LeastSquares(np.array(optimum), minimum, np.eye(2))
    return plots.loss_surface(rows, ("W", "b"), bowl, truth=np.array([3.0, 2.0]))


def test_the_path_goes_from_the_start_over_the_surface() -> None:
    rows = _rows(50)
    W, b = rows.values.T
    figure = _surface(rows, [-1.5, 0.25], 0.1)
    lines = _lines(figure)
    assert list(lines) == ["training", "start", "least squares", "truth"]
    np.testing.assert_array_equal(lines["training"], (W, b))
    np.testing.assert_array_equal(lines["start"], [[W[0]], [b[0]]])
    np.testing.assert_array_equal(lines["least squares"], [[-1.5], [0.25]])
    np.testing.assert_array_equal(lines["truth"], [[3], [2]])
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("W", "b")
    for (low, high), values in ((axes.get_xlim(), W), (axes.get_ylim(), b)):
        assert low < values.min() < values.max() < high
    pixels = _pixels(figure)
    assert pixels.shape == (480, 640, 4)
    assert len(np.unique(pixels.reshape(-1, 4), axis=0)) > 100  # the contours' colours


def test_the_path_has_no_truth_where_none_is_known() -> None:
    bowl = least_squares.LeastSquares(np.zeros(2), 0.1, np.eye(2))
    figure = plots.loss_surface(_rows(5), ("W", "b"), bowl, truth=None)
    assert list(_lines(figure)) == ["training", "start", "least squares"]


def test_contours_are_where_the_loss_has_their_level() -> None:
    """The loss of this bowl is the squared distance from (1, 2)."""
    nothing = np.zeros(2, np.float32)
    values = np.array([[4, 2], [1, 3]], np.float32)
    rows = step_metrics.StepMetrics(np.arange(2), values, nothing, nothing)
    (contours,) = _surface(rows, [1.0, 2.0], 0.0).axes[0].collections
    drawn = 0
    for level, path in zip(contours.levels, contours.get_paths(), strict=True):
        distances = np.hypot(*(path.vertices - [1, 2]).T)
        if level > 0.05:  # finer ones are between the points of the grid
            np.testing.assert_allclose(distances, np.sqrt(level), atol=0.02)
            drawn += len(distances) > 0
    assert drawn > 3


@pytest.mark.parametrize(
    ("offset", "minimum"),
    [(0.0, 0.0), (1e-8, 0.0), (0.0, 1.0), (1e-8, 1.0), (1e-4, 1e10), (1e-3, 1.0), (1e15, 1.0)],
)
def test_the_path_may_be_of_any_length(offset: float, minimum: float) -> None:
    """Training may start at the optimum, or near that of noisy data, or diverge."""
    W = np.array([3 + offset, 3], np.float32)
    rows = step_metrics.StepMetrics(np.arange(2), np.stack([W, W - 1], axis=1), W, W)
    pixels = _pixels(_surface(rows, [3 + offset, 2.0 + offset], minimum))
    assert pixels.shape == (480, 640, 4)


@pytest.mark.parametrize("name", ["price_$_to_$", "$_$", "a_b^c", "50 %", "C:\\x", "_hidden"])
def test_a_column_may_have_any_name(name: str) -> None:
    """A name that looks like a formula to matplotlib must not end the run."""
    sample = _sample(5, 2)._replace(features=(name, "b"), label=name)
    names = (f"W/{name}", "W/b", "b")
    for figure in (plots.data(sample), _fit(sample), plots.values(_rows(5, 3), names, truth=None)):
        assert plots.png(figure).startswith(b"\x89PNG\r\n\x1a\n")
