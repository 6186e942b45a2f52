"""Training progress on the terminal: a table of epochs, and a line between its rows."""

import time
from collections.abc import Iterator, Mapping
from typing import TextIO

import numpy as np
import numpy.typing as npt

from pipeline import console
from pipeline.training import evaluation, hooks, metrics, regression

_MAX_ROWS = 20
_MAX_VALUES = 3  # of a variable
_MAX_VARIABLES = 4


def report(
    names: tuple[str, ...],
    values: npt.ArrayLike,
    train: Mapping[str, float],
    validation: Mapping[str, float] | None = None,
) -> str:
    """One state of the model in the words of the guide, such as 'W = 5.00, b = 0.00, loss=...'.

    The names of a variable's elements begin with its name and a slash. The first few elements are
    shown, and no norms. Losses and metrics are those over all examples.
    """
    variables: dict[str, list[str]] = {}
    for name, value in zip(names, np.asarray(values), strict=True):
        if not name.startswith("norm/"):
            variables.setdefault(name.partition("/")[0], []).append(_fixed(value, 2))
    words = []
    for name, numbers in list(variables.items())[:_MAX_VARIABLES]:
        shown = numbers[:_MAX_VALUES] + ["..."] * (len(numbers) > _MAX_VALUES)
        words.append(f"{name} = " + (f"[{', '.join(shown)}]" if len(numbers) > 1 else shown[0]))
    words += [f"{name}={number(value)}" for name, value in train.items()]
    words += [f"validation {name}={number(value)}" for name, value in (validation or {}).items()]
    return ", ".join(words)


def table_of_fits(fits: Mapping[str, Mapping[str, regression.Fit]], label: str) -> Iterator[str]:
    """Lines with RMSE, MAE and R² of the model and of least squares, by part."""
    found = [
        (f"  {part}, {who}", parts[part])
        for part in ("training", "validation")
        for who, parts in fits.items()
        if part in parts
    ]
    rows = [(who, f"{f.rmse:.6g}", f"{f.mae:.6g}", f"{f.r2:.4f}") for who, f in found]
    if rows:
        yield from console.table([f"Fit of {label}", "RMSE", "MAE", "R²"], rows).splitlines()


def number(value: float) -> str:
    """A loss or a metric: with five decimals as in the guide, unless they were all zero."""
    return f"{value:.5e}" if 0 < abs(value) < 5e-6 else _fixed(value, 5)


def _fixed(value: float, decimals: int) -> str:
    """A number with so many decimals as in the guide, unless it would fill the line."""
    return f"{value:.{decimals}{'f' if abs(value) < 1e7 else 'e'}}"


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
        self._names, self._live = names, console.LiveLine(out)
        self._steps_per_epoch, self.last_step = steps_per_epoch, last_step
        epochs = last_step // steps_per_epoch
        self._every = -(-epochs // _MAX_ROWS)
        self._digits = len(str(epochs))
        self._first: tuple[int, float] | None = None

    def epochs(self, ends: evaluation.EpochMetrics) -> None:
        """Prints the rows of the table that are among these epochs."""
        epoch = ends.step // self._steps_per_epoch
        is_last = ends.step == self.last_step
        for i in np.flatnonzero((epoch % self._every == 0) | is_last):
            one = ends.select(i)
            label = f"Epoch {epoch[i]:{self._digits}d}:" if epoch[i] else "Starting:"
            text = report(self._names, one.values, one.train, one.validation)  # type: ignore[arg-type]
            self.line(f"{label:{max(7 + self._digits, len('Starting:'))}} {text}")

    def after(self, rows: metrics.StepMetrics) -> None:
        """Shows that training is alive, if nothing else has for a while."""
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
