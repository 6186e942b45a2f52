"""Tests of pipeline.reporting.image_logger."""

import contextlib
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from matplotlib.figure import Figure

from pipeline import config as config_lib
from pipeline.data import datasets as datasets_lib
from pipeline.evaluation import linear
from pipeline.reporting import image_logger, plots, summary_writer
from pipeline.training import clock, losses, make_task, step_metrics, task
from tests import helpers


class _Parabola(tf.Module):
    """The model y = a x², which is not linear."""

    def __init__(self) -> None:
        super().__init__()
        self.a = tf.Variable(2.0, name="a")

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return self.a * tf.square(x[:, 0])


def _task(model: tf.Module, loss: losses.ExampleLoss) -> task.Task:
    """The task of a model of the one feature x."""
    mean = losses.mean_loss(loss, model)
    return task.Task(model, mean, spec=helpers.linear().spec, features=("x",))


class _Images:
    """An image logger with its dependencies."""

    def __init__(
        self, directory: pathlib.Path, config: config_lib.Config, drawn: task.Task | None = None
    ):
        self.datasets = datasets_lib.load(config)
        self.task = drawn or make_task.make_task(config, self.datasets)
        self.writer = summary_writer.SummaryWriter(
            directory,
            names=self.task.variables.watched,
            clock=clock.Clock(),
            first_step=0,
            earlier={},
        )
        self.logger = image_logger.ImageLogger(
            self.task,
            self.datasets,
            linear.Linear.of(self.task, self.datasets, config),
            directory / "figures",
            self.writer,
            last_step=config.last_step(self.datasets.steps_per_epoch(config)),
        )

    def show(self, rows: step_metrics.StepMetrics) -> None:
        """Calls the logger with some rows and the model at its pauses."""
        helpers.show(self.logger, self.task, rows)

    def finish(self, rows: step_metrics.StepMetrics) -> None:
        """Finishes with the model of the last row."""
        self.task.variables.assign(self.task.variables.split(rows.values[-1]))
        self.logger.finish(rows)


@contextlib.contextmanager
def _images(
    directory: pathlib.Path, drawn: task.Task | None = None, **settings: Any
) -> Iterator[_Images]:
    images = _Images(directory, config_lib.Config(**settings), drawn)
    with contextlib.closing(images.writer):
        yield images


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are drawn, before they become PNG files."""
    drawn: list[Figure] = []
    png = plots.png

    def kept(figure: Figure) -> bytes:
        drawn.append(figure)
        return png(figure)

    monkeypatch.setattr(plots, "png", kept)
    return drawn


def _model(figure: Figure) -> tuple[np.ndarray, np.ndarray]:
    """The x and y of the line that shows the model."""
    (line,) = (line for line in figure.axes[0].lines if line.get_label() == "model")
    return line.get_data()


def _title(figure: Figure) -> tuple[str, float]:
    """The title of a fit, and the loss in it over all training examples."""
    words, loss = figure.axes[0].get_title().split(", loss=")
    return words, float(loss)


def _histogram(directory: pathlib.Path, step: int) -> np.ndarray:
    """The only histogram of a step: left and right ends and counts of its buckets."""
    (found,) = (
        tf.make_ndarray(value.tensor)
        for at, value in helpers.values(directory)
        if at == step and value.metadata.plugin_data.plugin_name == "histograms"
    )
    return found.T


def test_the_start_shows_the_data_and_the_untrained_model(
    tmp_path: pathlib.Path, figures: list[Figure]
) -> None:
    with _images(tmp_path) as images:
        images.logger.start()
    assert helpers.steps(tmp_path / "train", "images") == {"training/data": [0], "fit": [0]}
    data, fit = figures
    np.testing.assert_array_equal(data.axes[0].lines[0].get_ydata(), images.datasets.train.y)
    _, _, loss, _ = helpers.guide(0)
    assert _title(fit) == ("Before training", pytest.approx(loss[0], abs=1e-4))
    x, y = _model(fit)
    np.testing.assert_allclose(y, 5 * x, rtol=1e-6)


def test_fits_are_drawn_at_powers_of_four(tmp_path: pathlib.Path) -> None:
    with _images(tmp_path, epochs=10_000) as images:
        for first in range(0, 70, 7):
            images.show(helpers.line(first, first + 7))
        images.logger.flush()
        pauses = [images.logger.next_pause(step) for step in (0, 1, 3, 4, 63, 64)]
    assert pauses == [1, 4, 4, 16, 64, 256]
    assert helpers.steps(tmp_path / "train", "images") == {"fit": [1, 4, 16, 64]}


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [(10, range(11)), (32, range(0, 33, 2)), (50, [*range(0, 49, 4), 50]), (52, range(0, 53, 4))],
)
def test_residuals_are_counted_at_even_steps_and_the_last(
    tmp_path: pathlib.Path, epochs: int, expected: Iterable[int]
) -> None:
    with _images(tmp_path, epochs=epochs) as images:
        for first in range(0, epochs, 7):
            images.show(helpers.line(first, min(epochs, first + 7)))
        images.finish(helpers.line(0, epochs + 1))
    train = tmp_path / "train"
    assert helpers.steps(train, "histograms") == {"residuals": list(expected)}


def test_fits_wait_until_a_checkpoint_or_the_end(tmp_path: pathlib.Path) -> None:
    """Otherwise training would wait for each drawing."""
    with _images(tmp_path, epochs=70) as images:
        images.show(helpers.line(0, 5))
        images.show(helpers.line(5, 20))
        images.writer.sizes()
        assert not list(tmp_path.iterdir())
        images.logger.flush()
        images.writer.sizes()
        assert helpers.steps(tmp_path / "train", "images") == {"fit": [1, 4, 16]}
        images.logger.flush()
        images.show(helpers.line(20, 70))
        images.finish(helpers.line(0, 71))
    assert helpers.steps(tmp_path / "train", "images")["fit"] == [1, 4, 16, 64, 70]


@pytest.mark.parametrize("last_good", [15, 16])
def test_a_step_before_divergence_is_shown_once(tmp_path: pathlib.Path, last_good: int) -> None:
    """Training had paused there, or later, to draw it; no later step is shown."""
    with _images(tmp_path) as images:
        images.show(helpers.line(0, 17))
        images.finish(helpers.line(0, last_good + 1))
    train = tmp_path / "train"
    assert helpers.steps(train, "images")["fit"] == [1, 4, last_good]
    assert helpers.steps(train, "histograms")["residuals"] == list(range(last_good + 1))


def test_each_fit_shows_the_model_of_its_step(
    tmp_path: pathlib.Path, figures: list[Figure]
) -> None:
    """It may be drawn later; the model itself is not changed."""
    W, b, loss, _ = helpers.guide(20)
    values = np.stack([W, b], axis=1).astype(np.float32)
    rows = step_metrics.StepMetrics(np.arange(21), values, np.float32(loss), np.float32(loss))
    with _images(tmp_path) as images:
        images.show(rows)
        images.task.variables.assign({"W": [7.0], "b": -1.0})
        images.logger.flush()
        assert images.task.variables.values().numpy().tolist() == [7.0, -1.0]
    assert len(figures) == 3
    for step, figure in zip((1, 4, 16), figures, strict=True):
        assert _title(figure) == (f"Step {step}", pytest.approx(loss[step], abs=1e-4))
        x, y = _model(figure)
        np.testing.assert_allclose(y, W[step] * x + b[step], rtol=1e-5, atol=1e-5)


def test_a_model_that_is_no_line_is_drawn_as_it_is(
    tmp_path: pathlib.Path, figures: list[Figure]
) -> None:
    parabola = _task(_Parabola(), losses.squared_error)
    a = np.array([[2.0], [0.5], [0.5], [0.5], [-1.5]], np.float32)
    rows = step_metrics.StepMetrics(np.arange(5), a, a[:, 0], a[:, 0])
    with _images(tmp_path, parabola) as images:
        images.logger.start()
        images.show(rows.select(slice(0, 4)))
        images.finish(rows)
    _, before, *fits, parameters, trained = figures
    expected = [("Before training", 2), ("Step 1", 0.5), ("After training", -1.5)]
    x, y = images.datasets.train.x[:, 0].astype(np.float64), images.datasets.train.y
    for figure, (title, factor) in zip((before, *fits, trained), expected, strict=True):
        loss = np.mean((factor * x**2 - y) ** 2)
        assert _title(figure) == (title, pytest.approx(loss, rel=1e-5))
        inputs, predictions = _model(figure)
        assert len(inputs) > 100
        np.testing.assert_allclose(predictions, factor * inputs**2, rtol=1e-5, atol=1e-6)
    # There is nothing of linear regression: no path, and no true W and b.
    assert [line.get_label() for line in parameters.axes[0].lines] == ["a"]
    assert "training/path" not in helpers.steps(tmp_path / "train", "images")


def test_the_end_shows_the_model_and_how_it_came_to_be(
    tmp_path: pathlib.Path, figures: list[Figure]
) -> None:
    rows = helpers.line(0, 4)
    with _images(tmp_path) as images:
        images.finish(rows)
    parameters, trained, path = figures
    lines = {line.get_label(): line.get_data() for line in parameters.axes[0].lines}
    assert list(lines) == ["W", "b", "true W", "true b"]
    np.testing.assert_array_equal(lines["W"], (rows.step, rows.values[:, 0]))
    assert (list(lines["true W"][1]), list(lines["true b"][1])) == ([3, 3], [2, 2])
    x, y = _model(trained)
    W, b = rows.values[-1]
    np.testing.assert_allclose(y, W * x + b, rtol=1e-5)
    np.testing.assert_array_equal(path.axes[0].lines[0].get_data(), rows.values.T)


def test_the_figures_are_png_files_and_the_same_images(tmp_path: pathlib.Path) -> None:
    with _images(tmp_path) as images:
        images.logger.start()
        images.finish(helpers.line(0, 4))
    shown = {
        (value.tag, step): value.image.encoded_image_string
        for step, value in helpers.values(tmp_path / "train")
        if value.HasField("image")
    }
    files = {path.name: path.read_bytes() for path in (tmp_path / "figures").iterdir()}
    assert files == {
        "before_training.png": shown["fit", 0],
        "trained.png": shown["fit", 3],
        "data.png": shown["training/data", 0],
        "parameters.png": shown["training/parameters", 3],
        "path.png": shown["training/path", 3],
    }
    assert all(png.startswith(b"\x89PNG\r\n\x1a\n") for png in files.values())


def test_several_features_have_their_importance_but_no_path(tmp_path: pathlib.Path) -> None:
    """A path needs exactly two values."""
    data = tmp_path / "data.csv"
    data.write_text("rooms,area,price\n1,2,3\n2,1,4\n3,5,6\n")
    with _images(tmp_path, data=str(data)) as images:
        images.logger.start()
        values = np.array([[5, 5, 0], [1, 1, 0]], np.float32)
        images.finish(step_metrics.StepMetrics(np.arange(2), values, values[:, 0], values[:, 0]))
    names = ["before_training", "data", "importance", "parameters", "trained"]
    assert sorted(path.stem for path in (tmp_path / "figures").iterdir()) == names


class _Classes(tf.Module):
    """A model with three outputs: a x, a x + 1 and a x + 2."""

    def __init__(self) -> None:
        super().__init__()
        self.a = tf.Variable(2.0, name="a")

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return self.a * x + tf.range(3.0)


def test_a_model_of_several_outputs_has_no_residuals(
    tmp_path: pathlib.Path, figures: list[Figure]
) -> None:
    classes = _task(_Classes(), lambda y, p: y + p[:, 2])
    a = np.array([[2.0], [0.5]], np.float32)
    with _images(tmp_path, classes) as images:
        images.logger.start()
        images.finish(step_metrics.StepMetrics(np.arange(2), a, a[:, 0], a[:, 0]))
    assert helpers.steps(tmp_path / "train", "histograms") == {}
    *_, trained = figures
    lines = {line.get_label(): line.get_data() for line in trained.axes[0].lines}
    x, _ = lines["output 0"]
    for i in range(3):
        np.testing.assert_allclose(lines[f"output {i}"][1], 0.5 * x + i, rtol=1e-5, atol=1e-6)
    loss = np.mean(images.datasets.train.y, dtype=np.float64) + 2  # the mean of x is 0
    assert _title(trained) == ("After training", pytest.approx(loss, rel=1e-5))


@pytest.mark.parametrize("W", [np.nan, np.inf, 3e38])
def test_a_fit_that_is_not_finite_ends_nothing(tmp_path: pathlib.Path, W: float) -> None:
    """Training itself ends after the pause; the residuals have no histogram."""
    with _images(tmp_path) as images:
        images.logger.pause(1)
        images.task.variables.assign({"W": [W]})
        images.logger.pause(4)
        images.logger.flush()
    assert helpers.steps(tmp_path / "train", "images") == {"fit": [1, 4]}
    assert helpers.steps(tmp_path / "train", "histograms") == {"residuals": [1]}


def test_residuals_are_labels_less_predictions(tmp_path: pathlib.Path) -> None:
    with _images(tmp_path, num_examples=2, noise_stddev=0.0, x_min=-2, x_max=2) as images:
        images.logger.pause(0)
        images.logger.flush()
    left, right, count = _histogram(tmp_path / "train", 0)
    # y = 3x + 2 is -4 and 8; the model y = 5x predicts -10 and 10.
    assert (left[0], right[-1]) == (-2, 6)
    assert (count[0], count[-1], count.sum()) == (1, 1, 2)


def test_of_many_examples_a_sample_is_shown(tmp_path: pathlib.Path, figures: list[Figure]) -> None:
    """Each of 25,000 examples is equally likely; the title says that it is a sample."""
    with _images(tmp_path, num_examples=25_000, noise_stddev=0.0, x_min=-1, x_max=1) as images:
        images.logger.start()
        images.logger.pause(0)
        images.logger.flush()
    left, right, count = _histogram(tmp_path / "train", 0)
    assert count.sum() == 2000
    np.testing.assert_allclose((left[0], right[-1]), (0, 4), atol=0.02)  # 2 - 2x
    np.testing.assert_allclose(count, 2000 / 30, atol=5 * (2000 / 30) ** 0.5)
    title, loss = figures[1].axes[0].get_title().split("=")
    assert title == "Before training, loss of 2,000 examples"
    assert float(loss) == pytest.approx(4 + 4 / 3, rel=0.1)  # the mean of (2 - 2x)²
