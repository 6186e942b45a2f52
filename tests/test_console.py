"""Tests of pipeline.console."""

import io
import re
import time

import numpy as np
import pytest

from pipeline import console, metrics

_GUIDE_ROW = r"W = 4\.44, b = 0\.39, loss=6\.50642"


class _Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def _ends(epochs: int, *, validation: bool = False) -> metrics.EpochMetrics:
    """The ends of epochs 0 ... epochs, each with the numbers of one row of the guide."""
    ones = np.ones(epochs + 1)
    return metrics.EpochMetrics(
        epoch=np.arange(epochs + 1),
        step=np.arange(epochs + 1) * 3,
        W=4.4412 * ones,
        b=0.3917 * ones,
        loss=6.506419 * ones,
        validation_loss=7.25 * ones if validation else None,
    )


def _table(epochs: int, *, stretch: int | None = None, validation: bool = False) -> list[str]:
    """The lines that so many epochs print, handed over `stretch` epochs at a time."""
    out = io.StringIO()
    printer = console.Console(epochs=epochs, last_step=3 * epochs, out=out)
    ends = _ends(epochs, validation=validation)
    for first in range(0, epochs + 1, stretch or epochs + 1):
        part = slice(first, first + (stretch or epochs + 1))
        printer.epochs(metrics.EpochMetrics(*(None if a is None else a[part] for a in ends)))
    return out.getvalue().splitlines()


def test_ten_epochs_print_a_start_and_ten_rows_of_the_guide() -> None:
    lines = _table(10)
    assert len(lines) == 11
    assert re.fullmatch(f"Starting: +{_GUIDE_ROW}", lines[0])
    for epoch, line in enumerate(lines[1:], start=1):
        assert re.fullmatch(f"Epoch +{epoch}: +{_GUIDE_ROW}", line)
    assert len({line.index("W") for line in lines}) == 1


@pytest.mark.parametrize("epochs", [1, 19, 20, 21, 199, 5000, 5001, 10**6])
def test_many_epochs_print_about_twenty_rows_with_the_first_and_the_last(epochs: int) -> None:
    lines = _table(epochs)
    assert min(epochs + 1, 11) <= len(lines) <= 22
    assert lines[0].startswith("Starting:")
    assert lines[-1].startswith(f"Epoch {epochs}:")
    assert len({line.index("W") for line in lines}) == 1


def test_rows_do_not_depend_on_how_the_epochs_are_handed_over() -> None:
    assert _table(500, stretch=7) == _table(500, stretch=1) == _table(500)


def test_validation_loss_stands_at_the_end_of_the_row() -> None:
    assert all(
        line.endswith("loss=6.50642, validation loss=7.25000")
        for line in _table(3, validation=True)
    )


@pytest.mark.parametrize(
    ("W", "b", "loss", "expected"),
    [
        (4.4412, 0.3917, 6.506419, "W = 4.44, b = 0.39, loss=6.50642"),
        ([4.4412], -0.3917, 0.0, "W = 4.44, b = -0.39, loss=0.00000"),
        ([1, 2], 3, 4, "W = [1.00, 2.00], b = 3.00, loss=4.00000"),
        (range(1, 1000), 3, 4, "W = [1.00, 2.00, 3.00, ...], b = 3.00, loss=4.00000"),
        (-1.25e20, 3e38, 1.5e300, "W = -1.25e+20, b = 3.00e+38, loss=1.50000e+300"),
        (9999999.0, 1e7, 12345678.0, "W = 9999999.00, b = 1.00e+07, loss=1.23457e+07"),
    ],
)
def test_report_is_in_the_words_of_the_guide(
    W: object, b: float, loss: float, expected: str
) -> None:
    assert console.report(np.array(W, float), b, loss) == expected


def test_terminal_gets_a_live_line_that_the_next_row_replaces() -> None:
    out = _Terminal()
    printer = console.Console(epochs=10, last_step=30_000, out=out)
    printer.progress(1000, 7.0)  # from here on the speed is taken
    time.sleep(0.15)  # no line within a tenth of a second after another
    printer.progress(1234, 6.506419)
    printer.progress(1235, 6.5)  # too soon
    live = out.getvalue()
    assert live.startswith("\r")
    assert "\n" not in live
    assert "step 1,234 of 30,000, loss=6.50642" in live
    assert "1,235" not in live
    printer.line("A row")
    assert out.getvalue() == f"{live}\r\033[KA row\n"


def test_live_line_fits_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    out = _Terminal()
    printer = console.Console(epochs=10, last_step=10**9, out=out)
    printer.progress(0, 1e30)
    time.sleep(0.15)
    printer.progress(10**8, 1e30)
    assert len(out.getvalue().removeprefix("\r\033[K")) < 20


def test_pipe_gets_no_control_characters() -> None:
    out = io.StringIO()
    printer = console.Console(epochs=1, last_step=3, out=out)
    time.sleep(0.15)
    printer.progress(1, 1.0)
    printer.epochs(_ends(1))
    printer.line("A row")
    assert re.fullmatch(f"Starting: +{_GUIDE_ROW}\nEpoch 1: +{_GUIDE_ROW}\nA row\n", out.getvalue())
