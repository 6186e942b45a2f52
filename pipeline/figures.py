"""The guide's pictures, drawn with matplotlib."""

import io
from collections.abc import Callable
from typing import Any

import matplotlib.text
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from pipeline import examples, metrics

_MOST_DOTS = 2000
_MOST_WEIGHTS = 10
_GRID = 60


def png(figure: Figure) -> bytes:
    """The picture as a PNG file's content."""
    for text in figure.findobj(matplotlib.text.Text):
        text.set_parse_math(False)  # a $ in a column's name is a $
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def data(sample: examples.Data) -> Figure:
    """The examples: y against x, or against each of the first features."""
    x, y = _dots(sample.train)
    columns = min(x.shape[1], 4)
    figure = Figure(figsize=(3.2 + 3.2 * columns, 4.8), layout="constrained")
    for i, axes in enumerate(figure.subplots(1, columns, squeeze=False, sharey=True)[0]):
        axes.plot(x[:, i], y, ".", label="data")
        axes.set(xlabel=sample.features[i], ylabel=sample.label if i == 0 else "")
    figure.suptitle("The data")
    return figure


def fit(
    sample: examples.Data,
    model: metrics.Parameters,
    *,
    truth: metrics.Parameters | None,
    loss: float,
    title: str,
) -> Figure:
    """Data, truth and model over x; with several features predicted against actual y."""
    x, y = _dots(sample.train)
    figure, axes = _axes(f"{title}, loss={loss:.5f}")
    if x.shape[1] == 1:
        ends = np.array([x.min(), x.max()])
        axes.plot(x, y, ".", label="data")
        if truth is not None:
            axes.plot(ends, truth.W * ends + truth.b, label="truth")
        axes.plot(ends, model.W * ends + model.b, label="model")
        axes.set(xlabel=sample.features[0], ylabel=sample.label)
    else:
        ends = np.array([y.min(), y.max()])
        axes.plot(y, x @ model.W + model.b, ".", label="examples")
        axes.plot(ends, ends, label="predicted = actual")
        axes.set(xlabel=f"actual {sample.label}", ylabel=f"predicted {sample.label}")
    axes.legend()
    return figure


def parameters(
    points: metrics.StepMetrics, features: tuple[str, ...], *, truth: metrics.Parameters | None
) -> Figure:
    """W and b over the steps, with their true values where they are known."""
    figure, axes = _axes("W and b during training")
    weights = points.W.reshape(len(points.W), -1)[:, :_MOST_WEIGHTS]
    names = ["W"] if len(features) == 1 else [f"W {name}" for name in features]
    for name, column in zip(names, weights.T, strict=False):
        axes.plot(points.step, column, label=name)
    axes.plot(points.step, points.b, label="b")
    if truth is not None:
        axes.axhline(float(truth.W[0]), color="C0", linestyle="--", label="true W")
        axes.axhline(truth.b, color="C1", linestyle="--", label="true b")
    axes.set(xlabel="step")
    axes.legend()
    return figure


def path(
    points: metrics.StepMetrics,
    loss_at: Callable[[npt.ArrayLike, npt.ArrayLike], npt.NDArray[Any]],
    *,
    optimum: metrics.Parameters,
    truth: metrics.Parameters | None,
) -> Figure:
    """The way of training over the landscape of the loss, for one feature.

    Args:
      points: The way; W is [K].
      loss_at: Gives the loss at W [M] and b [M].
      optimum: Where the loss is smallest.
      truth: What the data were drawn from, or None.
    """
    figure, axes = _axes("The way of (W, b) down the loss")
    W, b = (_around(np.append(v, o)) for v, o in ((points.W, optimum.W), (points.b, optimum.b)))
    grid = np.meshgrid(W, b)
    loss = loss_at(grid[0].ravel(), grid[1].ravel()).reshape(grid[0].shape)
    levels = np.geomspace(max(loss.min(), 1e-12), max(loss.max(), 2e-12), 15)
    if (np.diff(levels) > 0).all():  # else the loss is the same wherever training went
        lines = axes.contour(*grid, loss, levels=levels, cmap="viridis", linewidths=0.8)
        axes.clabel(lines, fmt="%.3g", fontsize=7)
    axes.plot(points.W, points.b, ".-", color="C3", markersize=4, label="training")
    axes.plot(points.W[0], points.b[0], "s", color="C3", label="start")
    axes.plot(optimum.W, optimum.b, "*", color="C0", markersize=12, label="least squares")
    if truth is not None:
        axes.plot(truth.W, truth.b, "x", color="C1", markersize=9, label="truth")
    axes.set(xlabel="W", ylabel="b")
    axes.legend()
    return figure


def _around(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[M] even steps through the range of some values and a quarter beyond."""
    low, high = values.min(), values.max()
    margin = 0.25 * (high - low) or 1.0
    return np.linspace(low - margin, high + margin, _GRID)


def _axes(title: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    return figure, figure.subplots(subplot_kw={"title": title})


def _dots(
    drawn_from: examples.Examples,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Takes x [M, D] and y [M] of a sample that is small enough to draw."""
    count = len(drawn_from.y)
    rows = np.random.default_rng(0).choice(count, min(count, _MOST_DOTS), replace=False)
    rows.sort()
    return drawn_from.x[rows].reshape(len(rows), -1), drawn_from.y[rows]
