"""The plots of the guide, drawn with matplotlib."""

import io
import warnings
from typing import Any, NamedTuple

import matplotlib
import matplotlib.text
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from pipeline.data import datasets as datasets_lib
from pipeline.training import least_squares, metrics

matplotlib.rcdefaults()  # whatever a matplotlibrc in the current directory says

_MOST_DOTS = 2000
_MOST_ELEMENTS = 10  # of a variable
_MOST_VARIABLES = 4
_MOST_CHARACTERS = 40  # of a name in a legend, or nothing else has room
_GRID = 60
_CURVE = 201  # inputs that a curve is drawn through

Array = npt.NDArray[np.float32]
Values = npt.NDArray[Any]


class Sample(NamedTuple):
    """The examples that plots show, and the inputs whose predictions are drawn."""

    x: Array  # [N, D], up to 2,000 training examples
    y: Array  # [N]
    inputs: Array  # [P, D]: evenly spaced for one feature, x for several
    features: tuple[str, ...]  # D names
    label: str  # the name of y
    truth: datasets_lib.Truth | None  # that the examples were drawn from
    is_whole: bool  # whether these are all training examples

    @classmethod
    def of(cls, datasets: datasets_lib.Datasets) -> "Sample":
        """Chooses examples at random, always the same."""
        count = len(datasets.train.y)
        chosen = np.random.default_rng(0).choice(count, min(count, _MOST_DOTS), replace=False)
        chosen.sort()
        x, y = datasets.train.x[chosen], datasets.train.y[chosen]
        ends = float(x.min()), float(x.max())
        inputs = np.linspace(*ends, _CURVE)[:, None] if x.shape[1] == 1 else x
        inputs = inputs.astype(np.float32, copy=False)
        return cls(x, y, inputs, *datasets[2:], count <= _MOST_DOTS)


def png(figure: Figure) -> bytes:
    """The content of a PNG file."""
    for text in figure.findobj(matplotlib.text.Text):
        text.set_parse_math(False)  # a $ in a column's name is a $
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A box stands for a character that the font lacks.
        warnings.filterwarnings("ignore", "Glyph|Matplotlib currently does not support")
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def data(sample: Sample) -> Figure:
    """The examples: y against each of the first features."""
    columns = min(sample.x.shape[1], 4)
    figure = Figure(figsize=(3.2 + 3.2 * columns, 4.8), layout="constrained")
    for i, axes in enumerate(figure.subplots(1, columns, squeeze=False, sharey=True)[0]):
        axes.plot(sample.x[:, i], sample.y, ".", label="data")
        axes.set(xlabel=sample.features[i], ylabel=sample.label if i == 0 else "")
    figure.suptitle("The data")
    return figure


def fit(sample: Sample, predictions: Array, *, loss: float, title: str) -> Figure:
    """Data, true curve and model over x; with several features, predicted against actual y.

    predictions [P] or [P, C] are those of sample.inputs, the loss is that of the sample.
    """
    of_some = "" if sample.is_whole else f" of {len(sample.y):,} examples"
    figure, axes = _axes(f"{title}, loss{of_some}={loss:.5f}")
    outputs = predictions.reshape(len(predictions), -1).T[:_MOST_ELEMENTS]
    several = len(outputs) > 1
    if sample.x.shape[1] == 1:
        x = sample.inputs[:, 0].astype(np.float64)
        axes.plot(sample.x[:, 0], sample.y, ".", label="data")
        if sample.truth is not None:
            axes.plot(x, sample.truth.at(x), label="truth")
        for i, output in enumerate(outputs):
            axes.plot(x, output, label=f"output {i}" if several else "model")
        axes.set(xlabel=sample.features[0], ylabel=sample.label)
    else:
        for i, output in enumerate(outputs):
            axes.plot(sample.y, output, ".", label=f"output {i}" if several else "examples")
        if not several:
            ends = np.array([sample.y.min(), sample.y.max()])
            axes.plot(ends, ends, label="predicted = actual")
        axes.set(xlabel=f"actual {sample.label}", ylabel=f"predicted {sample.label}")
    axes.legend()
    return figure


def values(rows: metrics.StepMetrics, names: tuple[str, ...], *, truth: Values | None) -> Figure:
    """The watched values over the steps, of a variable with many elements the first few.

    `names` are those of the M values, `truth` [M] their true values, if known.
    """
    variables = list(dict.fromkeys(name.partition("/")[0] for name in names))
    figure, axes = _axes(f"{' and '.join(variables[:4])} during training")
    for variable in variables[:_MOST_VARIABLES]:
        elements = [i for i, name in enumerate(names) if name.partition("/")[0] == variable]
        for i in elements[:_MOST_ELEMENTS]:
            name = names[i].replace("/", " ", 1)[:_MOST_CHARACTERS]
            axes.plot(rows.step, rows.values[:, i], label=name)
    for i, value in enumerate([] if truth is None else truth):
        axes.axhline(float(value), color=f"C{i}", linestyle="--", label=f"true {names[i]}")
    axes.set(xlabel="step")
    axes.legend()
    return figure


def loss_surface(
    rows: metrics.StepMetrics,
    names: tuple[str, ...],
    reference: least_squares.LeastSquares,
    *,
    truth: Values | None,
) -> Figure:
    """The optimization path on the loss surface of two values; `truth` [2] are their true ones."""
    figure, axes = _axes(f"Path of ({', '.join(names)}) on the loss surface")
    optimum = reference.solution
    grid = np.meshgrid(*map(_around, np.vstack([rows.values, optimum]).T))
    losses = reference.loss(np.column_stack([axis.ravel() for axis in grid]))
    surface = losses.reshape(grid[0].shape)
    levels = np.geomspace(max(surface.min(), 1e-12), max(surface.max(), 2e-12), 15)
    if (np.diff(levels) > 0).all():  # else the loss is the same wherever training went
        lines = axes.contour(*grid, surface, levels=levels, cmap="viridis", linewidths=0.8)
        axes.clabel(lines, fmt="%.3g", fontsize=7)
    axes.plot(*rows.values.T, ".-", color="C3", markersize=4, label="training")
    axes.plot(*rows.values[0], "s", color="C3", label="start")
    axes.plot(*optimum, "*", color="C0", markersize=12, label="least squares")
    if truth is not None:
        axes.plot(*truth, "x", color="C1", markersize=9, label="truth")
    axes.set(xlabel=names[0], ylabel=names[1])
    axes.legend()
    return figure


def _around(values: Values) -> Values:
    """[M] even steps through the range of some values and a quarter beyond."""
    low, high = values.min(), values.max()
    margin = 0.25 * (high - low) or 1.0
    return np.linspace(low - margin, high + margin, _GRID)


def _axes(title: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    return figure, figure.subplots(subplot_kw={"title": title})
