"""Training progress on the terminal: a table of epochs, and a line between its rows."""

import time
from collections.abc import Iterator, Mapping
from typing import TextIO

import numpy as np
import numpy.typing as npt

from pipeline import printing
from pipeline.training import evaluation, hooks, metrics, regression

_MOST_ROWS = 20
_MOST_VALUES = 3  # of a variable
_MOST_VARIABLES = 4
_LARGE, _SMALL = 1e7, 5e-6


def report(
    names: tuple[str, ...],
    values: npt.ArrayLike,
    train: Mapping[str, float],
    validation: Mapping[str, float] | None = None,
) -> str:
    """One state of the model in the words of the guide, such as 'W = 5.00, b = 0.00, loss=...'.

    The names of a variable's elements begin with its name and a slash; of many elements the first
    few are shown, and norms none. Losses and metrics are those over all examples.
    """
    variables: dict[str, list[float]] = {}
    for name, value in zip(names, np.asarray(values), strict=True):
        if not name.startswith("norm/"):
            variables.setdefault(name.partition("/")[0], []).append(float(value))
    shown = list(variables.items())[:_MOST_VARIABLES]
    words = [f"{name} = {_elements(numbers)}" for name, numbers in shown]
    words += [f"{name}={number(value)}" for name, value in train.items()]
    words += [f"validation {name}={number(value)}" for name, value in (validation or {}).items()]
    return ", ".join(words)


def table_of_fits(fits: Mapping[str, Mapping[str, regression.Fit]], label: str) -> Iterator[str]:
    """Lines with RMSE, MAE and R² of the model and of least squares, by part."""
    rows = [
        (f"{part}, {who}", parts[part])
        for part in ("training", "validation")
        for who, parts in fits.items()
        if part in parts
    ]
    if rows:
        yield f"{f'Fit of {label}':30.30}{'RMSE':>14}{'MAE':>14}{'R²':>10}"
    for name, fit in rows:
        yield f"  {name:28}{fit.rmse:14.6g}{fit.mae:14.6g}{fit.r2:10.4f}"


def number(value: float) -> str:
    """A loss or a metric: with five decimals as in the guide, unless they were all zero."""
    return f"{value:.5e}" if 0 < abs(value) < _SMALL else _number(value, 5)


def _elements(numbers: list[float]) -> str:
    if len(numbers) == 1:
        return _number(numbers[0], 2)
    shown = [_number(each, 2) for each in numbers[:_MOST_VALUES]]
    return f"[{', '.join(shown + ['...'] * (len(numbers) > _MOST_VALUES))}]"


def _number(value: float, decimals: int) -> str:
    """Fixed decimals as in the guide, unless the number would fill the line."""
    return f"{value:.{decimals}f}" if abs(value) < _LARGE else f"{value:.{decimals}e}"


def _duration(seconds: float) -> str:
    """A time such as 0:07, 12:34 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress(hooks.Hook):
    """Prints about twenty epochs, and between them that training is alive."""

    def __init__(
        self,
        names: tuple[str, ...],
        *,
        steps_per_epoch: int,
        last_step: int,
        out: TextIO | None = None,
    ):
        """Prepares to print the values of these names up to the last epoch and step."""
        self._names = names
        self._live = printing.LiveLine(out)
        self._steps_per_epoch, self.last_step = steps_per_epoch, last_step
        self._num_epochs = last_step // steps_per_epoch
        self._every = -(-self._num_epochs // _MOST_ROWS)
        self._first: tuple[int, float] | None = None

    def epochs(self, ends: evaluation.EpochMetrics) -> None:
        """Prints the rows of the table that are among these epochs."""
        epoch = ends.step // self._steps_per_epoch
        is_last = ends.step == self.last_step
        for i in np.flatnonzero((epoch % self._every == 0) | is_last):
            one = ends.select(i)
            text = report(self._names, one.values, one.train, one.validation)  # type: ignore[arg-type]
            self.line(f"{self._label(int(epoch[i]))} {text}")

    def after(self, rows: metrics.StepMetrics) -> None:
        """Shows that training is alive, where nothing else has for a while."""
        now = time.monotonic()
        if self._first is None:  # what went before was compilation
            self._first = rows.end, now
        first_step, started = self._first
        if not self._live.is_due() or now == started:
            return
        speed = (rows.end - first_step) / (now - started)  # with all else that takes time
        left = _duration((self.last_step - rows.end) / speed)
        self._live.show(
            f"  step {rows.end:,} of {self.last_step:,} ({100 * rows.end // self.last_step}%), "
            f"{left} left, loss={number(float(rows.loss[-1]))}, {speed:,.0f} steps/s"
        )

    def line(self, text: str) -> None:
        """Prints a line of its own."""
        self._live.add(text)

    def close(self) -> None:
        """Leaves a terminal at the start of a line."""
        self._live.close()

    def _label(self, epoch: int) -> str:
        width = len(f"Epoch {self._num_epochs}:")
        label = f"Epoch {epoch:{len(str(self._num_epochs))}d}:" if epoch else "Starting:"
        return label.ljust(max(width, len("Starting:")))
