"""What the person at the terminal reads."""

import shutil
import sys
import time
from typing import TextIO

import numpy as np
import numpy.typing as npt

from pipeline import metrics, output

_MOST_ROWS = 20
_MOST_WEIGHTS = 3
_LARGE = 1e7
_SECONDS_BETWEEN_LIVE_LINES = 0.1
_SECONDS_BETWEEN_PLAIN_LINES = 30.0


def report(W: npt.ArrayLike, b: float, loss: float, validation_loss: float | None = None) -> str:
    """One state in the words of the guide; of many W the first few."""
    weights = [_number(w, 2) for w in np.atleast_1d(W)[:_MOST_WEIGHTS]]
    if np.size(W) > _MOST_WEIGHTS:
        weights.append("...")
    text = weights[0] if np.size(W) == 1 else f"[{', '.join(weights)}]"
    line = f"W = {text}, b = {_number(b, 2)}, loss={_number(loss, 5)}"
    if validation_loss is None:
        return line
    return f"{line}, validation loss={_number(validation_loss, 5)}"


def _number(value: float, decimals: int) -> str:
    """Fixed decimals as in the guide, unless the number would fill the line."""
    return f"{value:.{decimals}f}" if abs(value) < _LARGE else f"{value:.{decimals}e}"


class Console:
    """A table of about twenty epochs, and a sign of life between its rows.

    On a terminal the sign of life is a line that is rewritten in place; in a pipe or
    a file it is a plain line now and then.
    """

    def __init__(self, *, epochs: int, last_step: int, out: TextIO | None = None):
        self._out = out or sys.stdout
        self._is_terminal = self._out.isatty()
        self._epochs = epochs
        self._last_step = last_step
        self._every = -(-epochs // _MOST_ROWS)
        self._first: tuple[int, float] | None = None
        self._spoke = time.monotonic()

    def epochs(self, ends: metrics.EpochMetrics) -> None:
        """Prints the rows of the table that are among these epochs."""
        shown = (ends.epoch % self._every == 0) | (ends.epoch == self._epochs)
        for i in np.flatnonzero(shown):
            epoch = int(ends.epoch[i])
            validation = None if ends.validation_loss is None else float(ends.validation_loss[i])
            text = report(ends.W[i], float(ends.b[i]), float(ends.loss[i]), validation)
            self.line(f"{self._label(epoch)} {text}")

    def progress(self, step: int, loss: float) -> None:
        """Shows that training is alive, at most ten times a second."""
        now = time.monotonic()
        if self._first is None:  # what went before was compilation
            self._first = step, now
        first_step, started = self._first
        pause = _SECONDS_BETWEEN_LIVE_LINES if self._is_terminal else _SECONDS_BETWEEN_PLAIN_LINES
        if now - self._spoke < pause or now == started:
            return
        self._spoke = now
        speed = (step - first_step) / (now - started)
        text = f"  step {step:,} of {self._last_step:,}, loss={loss:.5f}, {speed:,.0f} steps/s"
        if self._is_terminal:
            width = shutil.get_terminal_size().columns - 1
            self._write(f"\r\033[K{text[:width]}")
        else:
            self._write(f"{text}\n")

    def line(self, text: str) -> None:
        """Prints a line of its own."""
        self._spoke = time.monotonic()
        self._write(f"\r\033[K{text}\n" if self._is_terminal else f"{text}\n")

    def _label(self, epoch: int) -> str:
        width = len(f"Epoch {self._epochs}:")
        label = f"Epoch {epoch:{len(str(self._epochs))}d}:" if epoch else "Starting:"
        return label.ljust(max(width, len("Starting:")))

    def _write(self, text: str) -> None:
        output.say(text, self._out, end="")
