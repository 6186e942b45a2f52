"""The guide's plots, drawn with matplotlib."""

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib import rcsetup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.data import datasets as datasets_lib
from pipeline.data import least_squares, preprocessing, synthetic
from pipeline.reporting import progress
from pipeline.training import step_metrics

_STYLES = rcsetup.cycler("linestyle", ["-", ":"])
_SETTINGS: Any = {
    "axes.formatter.limits": (-4, 5),  # outside these, an axis shows a power of ten
    "axes.titlesize": "medium",
    "axes.prop_cycle": _STYLES * matplotlib.rcParamsDefault["axes.prop_cycle"],
    # 640 x 480 pixels; the text is readable at half the size, as in TensorBoard.
    "figure.figsize": (4.8, 3.6),
    "figure.dpi": 400 / 3,
    "figure.titlesize": "medium",
    "text.parse_math": False,  # a $ in a column's name is a $
}
# Leaves room for tick labels of eight characters beside one pair of axes. Matplotlib's automatic
# layout would take as long as the drawing.
_MARGINS = {"left": 0.2, "right": 0.97, "bottom": 0.14, "top": 0.88}

_MOST_DOTS = 2000
_FEW_DOTS = 300
_MOST_ELEMENTS = 10  # of a variable
_MOST_VARIABLES = 4
_MOST_BARS = 15
_MOST_CHARACTERS = 20  # of a name, to leave room for the rest
_MOST_FEATURES = 4
_MOST_LINES = 4  # with a legend inside the plot; it would cover more lines
_GRID = 60
_CURVE = 201  # points of a curve

Array = npt.NDArray[np.float32]
Values = npt.NDArray[Any]


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draws with this package's settings, not with a matplotlibrc or those of a notebook."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


class Sample(NamedTuple):
    """The plotted examples, as the model's inputs and labels; plots show the units of the data."""

    x: Array  # [N, D], up to 2,000 training examples
    y: Array  # [N]
    inputs: Array  # [P, D], to predict for: evenly spaced for one feature, x for several
    features: tuple[str, ...]  # D names
    label: str  # the name of y
    truth: synthetic.Truth | None  # the true curve of synthetic examples
    is_whole: bool  # whether x has all training examples
    units: preprocessing.Preprocessing | None = None  # None if nothing is standardized

    @classmethod
    def of(cls, datasets: datasets_lib.Datasets) -> "Sample":
        """Chooses random examples, the same ones each time."""
        count = len(datasets.train.y)
        chosen = np.random.default_rng(0).choice(count, min(count, _MOST_DOTS), replace=False)
        chosen.sort()
        x, y = datasets.train.x[chosen], datasets.train.y[chosen]
        inputs: Array = x
        if x.shape[1] == 1:
            ends = float(x.min()), float(x.max())
            inputs = np.linspace(*ends, _CURVE, dtype=np.float32)[:, None]
        is_whole = datasets.num_train == len(chosen)
        about = datasets.features, datasets.label, datasets.truth
        return cls(x, y, inputs, *about, is_whole, datasets.units)

    def in_units(self, y: Values) -> Values:
        """Converts labels or predictions to the units of the data."""
        return self.units.in_data_units(y) if self.units else y

    def column(self, i: int, x: Array) -> Values:
        """Returns feature i of inputs [N, D] in the units of the data."""
        return self.units.x_in_data_units(x)[:, i] if self.units else x[:, i]


def png(figure: Figure) -> bytes:
    """Renders a figure as the content of a PNG file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A character that the font lacks is drawn as a box.
        warnings.filterwarnings("ignore", "Glyph|Matplotlib currently does not support")
        # Figure.savefig would run the layout twice.
        FigureCanvasAgg(figure).print_png(buffer)  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def data(sample: Sample) -> Figure:
    """Plots the examples: y against each of the first features, two plots in a row."""
    shown = min(sample.x.shape[1], _MOST_FEATURES)
    figure = Figure(layout="constrained")
    shape = (shown + 1) // 2, min(shown, 2)
    grid = figure.subplots(*shape, squeeze=False, sharey=True).ravel()
    for i, axes in enumerate(grid[:shown]):
        x, y = sample.column(i, sample.x), sample.in_units(sample.y)
        axes.plot(x, y, ".", label="data", markersize=_size(sample))
        axes.set_xlabel(_short(sample.features[i]))
    for axes in grid[shown:]:
        axes.remove()
    figure.supylabel(_short(sample.label), fontsize="medium")
    figure.suptitle("The data")
    return figure


def predictions(sample: Sample, drawn: Array, *, loss: float, title: str) -> Figure:
    """Plots data, true curve and model over x; with several features, predicted against actual y.

    `drawn`, [P] or [P, C], are the predictions for sample.inputs in the units of the data.
    """
    of_some = "" if sample.is_whole else f" of {len(sample.y):,} examples"
    figure, axes = _axes(f"{title}, loss{of_some}={progress.number(loss)}")
    outputs = drawn.reshape(len(drawn), -1).T[:_MOST_ELEMENTS]
    several, size, y_name = len(outputs) > 1, _size(sample), _short(sample.label)
    y = sample.in_units(sample.y)
    if sample.x.shape[1] == 1:
        x = sample.column(0, sample.inputs).astype(np.float64)
        axes.plot(sample.column(0, sample.x), y, ".", label="data", markersize=size)
        if sample.truth is not None:
            axes.plot(x, sample.truth.at(x), label="truth")
        for i, output in enumerate(outputs):
            axes.plot(x, output, label=f"output {i}" if several else "model")
        axes.set(xlabel=_short(sample.features[0]), ylabel=y_name)
    else:
        for i, output in enumerate(outputs):
            name = f"output {i}" if several else "examples"
            axes.plot(y, output, ".", label=name, markersize=size)
        if not several:
            ends = np.array([y.min(), y.max()])
            axes.plot(ends, ends, label="predicted = actual")
        axes.set(xlabel=f"actual {y_name}", ylabel=f"predicted {y_name}")
    _legend(axes)
    return figure


def values(
    rows: step_metrics.StepMetrics, names: tuple[str, ...], *, truth: Values | None
) -> Figure:
    """Plots the first watched values over the steps; `truth` [M] are the true values, if known."""
    elements: dict[str, list[int]] = {}  # by variable
    for i, name in enumerate(names):
        elements.setdefault(name.partition("/")[0], []).append(i)
    what = " and ".join(map(_short, elements)) if len(elements) <= 2 else "Variables"
    figure, axes = _axes(f"{what} during training")
    for some in list(elements.values())[:_MOST_VARIABLES]:
        for i in some[:_MOST_ELEMENTS]:
            axes.plot(rows.step, rows.values[:, i], label=_short(names[i].replace("/", " ", 1)))
    for i, value in enumerate([] if truth is None else truth):
        axes.axhline(float(value), color=f"C{i}", linestyle="--", label=f"true {names[i]}")
    axes.set(xlabel="step")
    _legend(axes)
    return figure


def importance(sizes: Mapping[str, float]) -> Figure:
    """Plots bars with the importance of the first features."""
    figure, axes = _axes("|W| of standardized features")
    figure.set_layout_engine("constrained")
    names = list(sizes)[:_MOST_BARS]
    axes.barh(range(len(names)), [sizes[name] for name in names])
    axes.set_yticks(range(len(names)), [_short(name) for name in names])
    axes.invert_yaxis()
    return figure


def loss_surface(
    rows: step_metrics.StepMetrics,
    names: tuple[str, ...],
    reference: least_squares.LeastSquares,
    *,
    truth: Values | None,
) -> Figure:
    """Plots the training path on the loss surface of two values; `truth` [2] are the true ones."""
    figure, axes = _axes(f"Path of ({', '.join(names)}) on the loss surface")
    optimum = reference.solution
    grid = np.meshgrid(*map(_around, np.vstack([rows.values, optimum]).T))
    losses = reference.loss(np.column_stack([axis.ravel() for axis in grid]))
    surface = losses.reshape(grid[0].shape)
    levels = np.geomspace(max(surface.min(), 1e-12), max(surface.max(), 2e-12), 15)
    if (np.diff(levels) > 0).all():  # else the loss is constant along the path
        lines = axes.contour(*grid, surface, levels=levels, cmap="viridis", linewidths=0.8)
        axes.clabel(lines, fmt="%.3g", fontsize=7)
    axes.plot(*rows.values.T, ".-", color="C3", markersize=4, label="training")
    axes.plot(*rows.values[0], "s", color="C3", label="start")
    axes.plot(*optimum, "*", color="C0", markersize=12, label="least squares")
    if truth is not None:
        axes.plot(*truth, "x", color="C1", markersize=9, label="truth")
    axes.set(xlabel=names[0], ylabel=names[1])
    _legend(axes)
    return figure


def _around(values: Values) -> Values:
    """Returns [M] evenly spaced numbers over the range of values, extended by a quarter."""
    low, high = values.min(), values.max()
    margin = 0.25 * (high - low) or 1.0
    return np.linspace(low - margin, high + margin, _GRID)


def _axes(title: str) -> tuple[Figure, Any]:
    figure = Figure()
    axes = figure.subplots(gridspec_kw=_MARGINS)
    axes.set_title(title, y=1.06)  # above the power of ten of the y axis, if any
    return figure, axes


def _legend(axes: Any) -> None:
    """Adds a legend, beside the plot if there are many lines."""
    if len(axes.lines) > _MOST_LINES:
        axes.figure.set_layout_engine("constrained")
        axes.figure.legend(loc="outside right upper", fontsize="small")
    else:
        axes.legend()


def _short(name: str) -> str:
    """Shortens a long name to its beginning and end."""
    half = _MOST_CHARACTERS // 2
    return name if len(name) <= _MOST_CHARACTERS else f"{name[:half]}…{name[-half:]}"


def _size(sample: Sample) -> float:
    """The size of a dot in points; smaller if there are many dots."""
    return 6.0 if len(sample.y) <= _FEW_DOTS else 3.0
