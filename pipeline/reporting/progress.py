"""Training progress on the terminal: a table of epochs and a live progress line."""

import time
from collections.abc import Mapping
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from pipeline import console
from pipeline.evaluation import linear, monitor
from pipeline.training import hooks, step_metrics

_MAX_ROWS = 20
_MAX_VALUES = 3  # of a variable
_MAX_VARIABLES = 4


def report(
    names: tuple[str, ...],
    values: npt.ArrayLike,
    train: Mapping[str, float],
    validation: Mapping[str, float] | None = None,
) -> str:
    """Formats a state of the model as in the guide, such as 'W = 5.00, b = 0.00, loss=...'.

    The name of a variable's element begins with the variable's name and a slash.
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


def number(value: float) -> str:
    """Formats a loss or a metric with five decimals as in the guide, unless all would be zero."""
    return f"{value:.5e}" if 0 < abs(value) < 5e-6 else _fixed(value, 5)


def _fixed(value: float, decimals: int) -> str:
    """Formats a number with a fixed number of decimals, unless it would be too long."""
    return f"{value:.{decimals}{'f' if abs(value) < 1e7 else 'e'}}"


def _duration(seconds: float) -> str:
    """Formats a time such as 0:07, 12:34 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress(hooks.Hook):
    """Prints about twenty epochs, and a live progress line between them."""

    def __init__(
        self,
        names: tuple[str, ...],
        *,
        steps_per_epoch: int,
        last_step: int,
        line: linear.Linear | None = None,
        out: TextIO | None = None,
    ):
        """Prepares to print watched values; `line` converts them to the units of the data."""
        self._names, self._line, self._live = names, line, console.LiveLine(out)
        self._steps_per_epoch, self.last_step = steps_per_epoch, last_step
        epochs = last_step // steps_per_epoch
        self._every, self._digits = -(-epochs // _MAX_ROWS), len(str(epochs))
        self._printed = -1  # the epoch
        self._first: tuple[int, float] | None = None

    def after_pause(self, event: Any) -> None:
        """Prints an evaluation if it belongs in the table."""
        if not isinstance(event, monitor.EpochEvaluation):
            return
        epoch = event.step // self._steps_per_epoch
        if epoch // self._every > self._printed // self._every or event.step == self.last_step:
            values = event.values[None]
            values = self._line.watched_in_data_units(values) if self._line else values
            label = f"Epoch {epoch:{self._digits}d}:" if epoch else "Starting:"
            text = report(self._names, values[0], *event.evaluation)
            self.line(f"{label:{max(7 + self._digits, len('Starting:'))}} {text}")
            self._printed = epoch

    def after(self, rows: step_metrics.StepMetrics) -> None:
        """Updates the progress line if nothing was printed for a while."""
        now = time.monotonic()
        if self._first is None:  # the time before was compilation
            self._first = rows.next_step, now
        first_step, started = self._first
        if not self._live.is_due() or now == started:
            return
        step, last = rows.next_step, self.last_step
        speed = (step - first_step) / (now - started)  # including pauses
        left = _duration((last - step) / speed)
        self._live.show(
            f"  step {step:,} of {last:,} ({100 * step // last}%), "
            f"{left} left, loss={number(float(rows.loss[-1]))}, {speed:,.0f} steps/s"
        )

    def line(self, text: str) -> None:
        """Prints a permanent line."""
        self._live.add(text)

    def close(self) -> None:
        """Leaves a terminal at the start of a line."""
        self._live.close()
