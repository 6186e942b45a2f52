"""Tests of pipeline.training.step_metrics."""

import itertools
import math

import numpy as np
import pytest

from pipeline.training import step_metrics as metrics

_MOST = 2048


def _rows(first: int, end: int, num_values: int = 2) -> metrics.StepMetrics:
    """Rows first to end - 1, with numbers that tell the step and the column."""
    step = np.arange(first, end)
    values = step[:, None] * 0.5 + np.arange(num_values) * 0.125
    others = ((step * factor).astype(np.float32) for factor in (0.25, 0.75))
    return metrics.StepMetrics(step, values.astype(np.float32), *others)


def _assert_same(rows: metrics.StepMetrics, expected: metrics.StepMetrics) -> None:
    assert rows.numbers is expected.numbers is None
    for column, other in zip(rows[:4], expected[:4], strict=True):
        np.testing.assert_array_equal(column, other)
        assert column.dtype == other.dtype


def _kept(last_step: int, part: int = 1000) -> metrics.StepMetrics:
    """The rows that a history keeps of the rows 0 to last_step."""
    history = metrics.History(last_step, metrics.empty(2))
    for first in range(0, last_step + 1, part):
        history.add(_rows(first, min(first + part, last_step + 1)))
    return history.rows()


@pytest.mark.parametrize("most", [1, 7, 100])
def test_stride_is_the_smallest_power_of_two_that_fits(most: int) -> None:
    for count in range(1, 2000):
        powers = (2**k for k in range(20))
        expected = next(p for p in powers if len(range(p, count + 1, p)) <= most)
        assert metrics.power_of_two_stride(count, most) == expected, f"{count=}"


@pytest.mark.parametrize(
    ("count", "expected"), [(0, 1), (1, 1), (10_000, 1), (20_000, 2), (10**9, 2**17)]
)
def test_stride_of_runs_of_all_lengths(count: int, expected: int) -> None:
    assert metrics.power_of_two_stride(count, 10_000) == expected


@pytest.mark.parametrize("last_step", [1, 10, 2048, 2049, 4096, 100_000, 131_071])
def test_history_keeps_few_rows_evenly_and_both_ends(last_step: int) -> None:
    kept = _kept(last_step)
    assert len(kept.step) <= _MOST + 2  # step 0 and the last step come on top
    assert (kept.step[0], kept.step[-1]) == (0, last_step)
    every = np.unique(np.diff(kept.step)[:-1])
    assert len(every) <= 1
    assert all(math.log2(distance).is_integer() for distance in every)
    assert len(kept.step) >= min(last_step + 1, _MOST // 2)
    _assert_same(kept, _rows(0, last_step + 1).select(kept.step))  # each with its own numbers


@pytest.mark.parametrize("last_step", [10, 4096, 5000])
def test_size_of_the_parts_does_not_change_the_history(last_step: int) -> None:
    _assert_same(_kept(last_step, part=1), _kept(last_step, part=10**6))


def test_what_a_longer_run_keeps_a_shorter_one_kept_too() -> None:
    lengths = (2000, 5000, 20_000, 90_000)
    for shorter, longer in itertools.pairwise(lengths):
        common = _kept(longer).step
        common = common[common < shorter]
        assert len(common) > 10
        assert np.isin(common, _kept(shorter).step).all()


@pytest.mark.parametrize("stopped", [1, 700, 4999, 5000])
@pytest.mark.parametrize("last_step", [5000, 20_000])
def test_a_restored_history_keeps_what_an_unbroken_one_keeps(stopped: int, last_step: int) -> None:
    """This includes a run that is extended from 5,000 to 20,000 steps."""
    before = metrics.History(5000, metrics.empty(2))
    before.add(_rows(0, stopped + 1))
    after = metrics.History(last_step, before.rows())
    assert after.last.step == [stopped]
    if stopped < last_step:
        after.add(_rows(stopped + 1, last_step + 1))
    _assert_same(after.rows(), _kept(last_step))


@pytest.mark.parametrize("num_values", [2, 4])
def test_history_without_rows_has_none(num_values: int) -> None:
    history = metrics.History(10, metrics.empty(num_values))
    assert history.rows().values.shape == (0, num_values)
    assert len(history.last.step) == 0


def test_empty_rows_join_any_others() -> None:
    rows = _rows(3, 9, num_values=4)
    _assert_same(metrics.concatenate(metrics.empty(4), rows, metrics.empty(4)), rows)


def test_next_step_is_the_step_after_the_last_row() -> None:
    assert _rows(3, 9).next_step == 9
    assert type(_rows(3, 9).next_step) is int


@pytest.mark.parametrize("num_values", [2, 4])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", ["loss", "first value", "last value"])
@pytest.mark.parametrize("at", [0, 2, 5])
def test_a_row_is_finite_where_its_loss_and_values_are(
    column: str, bad: float, num_values: int, at: int
) -> None:
    rows = _rows(10, 16, num_values)
    if column == "loss":
        rows.loss[at] = bad
    else:
        rows.values[at, 0 if column == "first value" else -1] = bad
    assert rows.is_finite.tolist() == [row != at for row in range(6)]


def test_rows_are_usually_finite() -> None:
    """The loss and the values count; the last step's gradient may be infinite."""
    assert _rows(10, 16)._replace(gradient_norm=np.full(6, np.inf)).is_finite.tolist() == [True] * 6
    assert metrics.empty(2).is_finite.shape == (0,)


@pytest.mark.parametrize("steps", [1, 4, 7, 100])
def test_every_takes_the_multiples(steps: int) -> None:
    rows = _rows(3, 20)
    expected = [step for step in range(3, 20) if step % steps == 0]
    _assert_same(rows.every(steps), rows.select(np.array(expected, int) - 3))


def test_concatenate_undoes_select() -> None:
    rows = _rows(3, 20)
    parts = [rows.select(slice(0, 5)), rows.select(slice(5, 5)), rows.select(rows.step >= 8)]
    assert [len(part.step) for part in parts] == [5, 0, 12]
    _assert_same(metrics.concatenate(*parts), rows)
