"""Tests of pipeline.reporting.progress."""

import fcntl
import io
import os
import pty
import re
import struct
import sys
import termios
import time
import tty
from collections.abc import Iterable

import numpy as np
import pytest

from pipeline.evaluation import evaluate, monitor
from pipeline.reporting import progress
from pipeline.training import step_metrics

_NAMES = ("W", "b")
_GUIDE_ROW = r"W = 4\.44, b = 0\.39, loss=6\.50642"


class _Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def _show(printer: progress.Progress, epochs: Iterable[int], *, validation: bool = False) -> None:
    """Shows the ends of some epochs of 3 steps, each with the numbers of one row of the guide."""
    found = evaluate.Evaluation({"loss": 6.506419}, {"loss": 7.25} if validation else {})
    values = np.array([4.4412, 0.3917], np.float32)
    for epoch in epochs:
        printer.after_pause(monitor.EpochEvaluation(3 * epoch, values, found, monitor.Best()))


def _table(epochs: int, *, every: int = 1, validation: bool = False) -> list[str]:
    """The printed lines of some epochs; every `every`-th epoch and the last are evaluated."""
    out = io.StringIO()
    printer = progress.Progress(_NAMES, steps_per_epoch=3, last_step=3 * epochs, out=out)
    _show(printer, [*range(0, epochs, every), epochs], validation=validation)
    return out.getvalue().splitlines()


def _row(step: int, loss: float) -> step_metrics.StepMetrics:
    """The row before the update that leads to a step."""
    numbers = np.zeros((1, 2), np.float32), np.float32([loss]), np.float32([loss])
    return step_metrics.StepMetrics(np.array([step - 1]), *numbers)


def test_ten_epochs_are_a_start_and_the_rows_of_the_guide() -> None:
    lines = _table(10)
    assert len(lines) == 11
    assert re.fullmatch(f"Starting: +{_GUIDE_ROW}", lines[0])
    for epoch, line in enumerate(lines[1:], start=1):
        assert re.fullmatch(f"Epoch +{epoch}: +{_GUIDE_ROW}", line)
    assert len({line.index("W") for line in lines}) == 1


@pytest.mark.parametrize("epochs", [1, 19, 20, 21, 199, 5000, 5001, 10**6])
def test_many_epochs_are_about_twenty_rows(epochs: int) -> None:
    """The rows include the first and the last epoch."""
    lines = _table(epochs, every=step_metrics.power_of_two_stride(epochs, 1000))
    assert min(epochs + 1, 11) <= len(lines) <= 22
    assert lines[0].startswith("Starting:")
    assert lines[-1].startswith(f"Epoch {epochs}:")
    assert len({line.index("W") for line in lines}) == 1


def test_an_early_end_has_its_row() -> None:
    """With 100 epochs, every fifth one has a row."""
    out = io.StringIO()
    printer = progress.Progress(_NAMES, steps_per_epoch=3, last_step=300, out=out)
    _show(printer, range(52))
    printer.last_step = 3 * 52
    _show(printer, [52])
    labels = [line.partition(":")[0].split()[-1] for line in out.getvalue().splitlines()]
    assert labels == ["Starting", *map(str, range(5, 55, 5)), "52"]


def test_the_validation_loss_is_at_the_end_of_the_row() -> None:
    lines = _table(3, validation=True)
    assert len(lines) == 4
    assert all(line.endswith("loss=6.50642, validation loss=7.25000") for line in lines)


@pytest.mark.parametrize(
    ("W", "b", "loss", "expected"),
    [
        ([4.4412], 0.3917, 6.506419, "W = 4.44, b = 0.39, loss=6.50642"),
        ([4.4412], -0.3917, 0.0, "W = 4.44, b = -0.39, loss=0.00000"),
        ([1, 2], 3, 4, "W = [1.00, 2.00], b = 3.00, loss=4.00000"),
        ([1, 2, 3], 3, 4, "W = [1.00, 2.00, 3.00], b = 3.00, loss=4.00000"),
        (range(1, 1000), 3, 4, "W = [1.00, 2.00, 3.00, ...], b = 3.00, loss=4.00000"),
        ([-1.25e20], 3e38, 1.5e300, "W = -1.25e+20, b = 3.00e+38, loss=1.50000e+300"),
        ([9999999.0], 1e7, 12345678.0, "W = 9999999.00, b = 1.00e+07, loss=1.23457e+07"),
    ],
)
def test_a_report_is_in_the_words_of_the_guide(
    W: list[float], b: float, loss: float, expected: str
) -> None:
    elements = ("W",) if len(W) == 1 else tuple(f"W/{i}" for i in range(len(W)))
    names, values, train = (*elements, "b"), np.array([*W, b]), {"loss": loss}
    assert progress.report(names, values, train) == expected
    with_validation = progress.report(names, values, train, {"loss": 0.5})
    assert with_validation == f"{expected}, validation loss=0.50000"


def test_a_report_shows_metrics_after_the_loss() -> None:
    train, validation = {"loss": 4, "mae": 1.5, "auc": 0.25}, {"loss": 5, "mae": 2, "auc": 1e9}
    assert progress.report(("b",), [1], train, validation) == (
        "b = 1.00, loss=4.00000, mae=1.50000, auc=0.25000, "
        "validation loss=5.00000, validation mae=2.00000, validation auc=1.00000e+09"
    )


def test_a_report_shows_no_norms() -> None:
    names = ("norm/first.kernel", "norm/first.bias", "norm/second.kernel")
    assert progress.report(names, [1, 2, 3], {"loss": 4}) == "loss=4.00000"


def test_a_report_shows_four_variables() -> None:
    names = ("kernel/0", "kernel/1", "bias", "kernel_1", "bias_1", "kernel_2", "bias_2")
    expected = "kernel = [1.00, 2.00], bias = 3.00, kernel_1 = 4.00, bias_1 = 5.00, loss=0.00000"
    assert progress.report(names, np.arange(1, 8), {"loss": 0}) == expected


def test_a_terminal_gets_a_live_line_that_the_next_replaces() -> None:
    out = _Terminal()
    printer = progress.Progress(_NAMES, steps_per_epoch=3000, last_step=30_000, out=out)
    printer.after(_row(1000, 7.0))  # from here on the speed is taken
    time.sleep(0.15)  # no line within a tenth of a second after another
    printer.after(_row(1234, 6.506419))
    printer.after(_row(1235, 6.5))  # too soon
    live = out.getvalue()
    assert live.startswith("\r")
    assert "\n" not in live
    assert "step 1,234 of 30,000 (4%), " in live
    assert " left, loss=6.50642, " in live
    assert "1,235" not in live
    printer.line("A row")
    assert out.getvalue() == f"{live}\r\033[K\033[JA row\n"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(7.4, "0:07"), (59.6, "1:00"), (754, "12:34"), (3723, "1:02:03"), (360_000, "100:00:00")],
)
def test_the_time_left_is_that_of_all_that_happens(
    monkeypatch: pytest.MonkeyPatch, seconds: float, expected: str
) -> None:
    """A hundred steps took half of these seconds, so the last two hundred take all of them."""
    out = _Terminal()
    printer = progress.Progress(_NAMES, steps_per_epoch=1, last_step=301, out=out)
    clock = iter([0.0, seconds / 2])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock, seconds / 2))
    printer.after(_row(1, 1.0))
    time.sleep(0.11)
    printer.after(_row(101, 3e-9))
    line = f"(33%), {expected} left, loss=3.00000e-09, {200 / seconds:,.0f} steps/s"
    assert line in out.getvalue()


def test_the_live_line_fits_a_window_that_shrinks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cursor stays before the line, so all rows that it wraps into can be cleared."""
    monkeypatch.delenv("COLUMNS", raising=False)
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb"), os.fdopen(theirs, "w", newline="") as out:
        tty.setraw(theirs)  # as it is written, without a carriage return for each new line
        monkeypatch.setattr(sys, "__stdout__", out)
        printer = progress.Progress(_NAMES, steps_per_epoch=1, last_step=10**9, out=out)
        printer.after(_row(1, 1.0))
        for columns, step in ((50, 10**8), (20, 2 * 10**8)):
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
            time.sleep(0.15)
            printer.after(_row(step, 1.0))
            line = os.read(ours, 1000).decode()
            expected = f"  step {step:,} of 1,000,000,000 ({step // 10**7}%), "
            assert line.startswith(f"\r{expected[: columns - 1]}")
            assert line.endswith("\033[J\r")
            assert len(line.strip("\r").removesuffix("\033[J")) == columns - 1


def test_a_pipe_gets_no_control_characters() -> None:
    out = io.StringIO()
    printer = progress.Progress(_NAMES, steps_per_epoch=3, last_step=3, out=out)
    time.sleep(0.15)
    printer.after(_row(1, 1.0))
    _show(printer, range(2))
    printer.line("A row")
    assert re.fullmatch(f"Starting: +{_GUIDE_ROW}\nEpoch 1: +{_GUIDE_ROW}\nA row\n", out.getvalue())
