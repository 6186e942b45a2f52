"""Tests of pipeline.metrics."""

import itertools
import math

import numpy as np
import pytest

from pipeline import metrics

_MOST = 2048


def _points(first: int, end: int) -> metrics.StepMetrics:
    """Points first to end - 1 whose columns all differ."""
    step = np.arange(first, end)
    W, b, loss = ((step * factor).astype(np.float32) for factor in (0.5, -1, 0.25))
    return metrics.StepMetrics(step, W, b, loss)


def _ends(losses: list[float], validation: list[float] | None) -> metrics.EpochMetrics:
    count = len(losses)
    epoch = np.arange(count)
    W, b = epoch + 0.5, epoch + 0.25
    measured = None if validation is None else np.array(validation)
    return metrics.EpochMetrics(epoch, epoch * 10, W, b, np.array(losses), measured)


def _kept(last_step: int, stretch: int = 1000) -> metrics.StepMetrics:
    """What a history keeps of the points 0 to last_step."""
    history = metrics.History(last_step, metrics.no_points(()))
    for first in range(0, last_step + 1, stretch):
        history(_points(first, min(first + stretch, last_step + 1)))
    return history.points()


@pytest.mark.parametrize("most", [1, 7, 100])
def test_stride_is_the_smallest_power_of_two_that_leaves_few_enough(most: int) -> None:
    for count in range(1, 2000):
        powers = (2**k for k in range(20))
        expected = next(p for p in powers if len(range(p, count + 1, p)) <= most)
        assert metrics.stride(count, most) == expected, f"{count=}"


@pytest.mark.parametrize(
    ("count", "expected"), [(0, 1), (1, 1), (10_000, 1), (20_000, 2), (10**9, 2**17)]
)
def test_stride_of_runs_of_all_lengths(count: int, expected: int) -> None:
    assert metrics.stride(count, 10_000) == expected


@pytest.mark.parametrize("last_step", [1, 10, 2048, 2049, 4096, 100_000, 131_071])
def test_history_keeps_few_points_evenly_with_the_first_and_the_last(last_step: int) -> None:
    kept = _kept(last_step)
    assert len(kept.step) <= _MOST + 2  # step 0 and the last step come on top
    assert (kept.step[0], kept.step[-1]) == (0, last_step)
    every = np.unique(np.diff(kept.step)[:-1])
    assert len(every) <= 1
    assert all(math.log2(distance).is_integer() for distance in every)
    assert len(kept.step) >= min(last_step + 1, _MOST // 2)
    np.testing.assert_array_equal(kept.W, kept.step * 0.5)  # each with its own numbers
    np.testing.assert_array_equal(kept.loss, kept.step * 0.25)


def test_what_a_longer_run_keeps_is_among_what_a_shorter_one_kept() -> None:
    lengths = (2000, 5000, 20_000, 90_000)
    for shorter, longer in itertools.pairwise(lengths):
        common = _kept(longer).step
        common = common[common < shorter]
        assert len(common) > 10
        assert np.isin(common, _kept(shorter).step).all()


@pytest.mark.parametrize("stopped", [1, 700, 4999, 5000])
@pytest.mark.parametrize("last_step", [5000, 20_000])
def test_a_restored_history_keeps_what_one_that_never_stopped_keeps(
    stopped: int, last_step: int
) -> None:
    """Also where the run is made longer, from 5,000 to 20,000 steps."""
    before = metrics.History(5000, metrics.no_points(()))
    before(_points(0, stopped + 1))
    after = metrics.History(last_step, before.points())
    assert after.last.step == [stopped]
    if stopped < last_step:
        after(_points(stopped + 1, last_step + 1))
    for kept, expected in zip(after.points(), _kept(last_step), strict=True):
        np.testing.assert_array_equal(kept, expected)


def test_history_without_points_has_none() -> None:
    history = metrics.History(10, metrics.no_points((3,)))
    assert history.points().W.shape == (0, 3)
    assert len(history.last.step) == 0


@pytest.mark.parametrize("validation", [None, [3.0, 1.0, 2.0, 1.0]])
def test_best_is_the_first_epoch_of_the_smallest_loss(validation: list[float] | None) -> None:
    best = metrics.Best().or_better(_ends([4.0, 3.0, 0.5, 9.0], validation))
    expected = metrics.Best(20, 0.5, 2.5, 2.25) if validation is None else (10, 1.0, 1.5, 1.25)
    assert best == expected


@pytest.mark.parametrize("losses", [[], [1.0], [2.0, 1.5], [math.nan]])
def test_best_stays_where_later_epochs_are_not_better(losses: list[float]) -> None:
    best = metrics.Best(70, 1.0, 3.0, 2.0)
    assert best.or_better(_ends(losses, None)) is best
    assert best.or_better(_ends([2.0, 0.5], None)).step == 10


@pytest.mark.parametrize("num_features", [None, 3])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_is_finite_looks_at_the_loss_and_every_parameter(
    num_features: int | None, bad: float
) -> None:
    points = _points(0, 6)
    if num_features:
        points = points._replace(W=np.repeat(points.W[:, None], num_features, axis=1))
    assert points.is_finite().tolist() == [True] * 6
    points.W[(1, *[2] * bool(num_features))] = bad
    points.b[3] = bad
    points.loss[4] = bad
    assert points.is_finite().tolist() == [True, False, True, False, False, True]


def test_concatenate_undoes_at() -> None:
    points = _points(3, 20)
    parts = [points.at(slice(0, 5)), points.at(slice(5, 5)), points.at(points.step >= 8)]
    assert [len(part.step) for part in parts] == [5, 0, 12]
    for joined, column in zip(metrics.concatenate(parts), points, strict=True):
        np.testing.assert_array_equal(joined, column)
        assert joined.dtype == column.dtype


def test_epochs_at_select_every_column() -> None:
    chosen = _ends([4.0, 3.0, 2.0], [1.0, 2.0, 3.0]).at(slice(1, None))
    assert [column.tolist() for column in chosen if column is not None] == [
        [1, 2],
        [10, 20],
        [1.5, 2.5],
        [1.25, 2.25],
        [3.0, 2.0],
        [2.0, 3.0],
    ]
    assert _ends([1.0], None).at([0]).validation_loss is None


@pytest.mark.parametrize(("W", "expected"), [([1.0, 2.0], [2.0]), ([[1, 2], [3, 4]], [3.0, 4.0])])
def test_parameters_of_a_point_have_a_row_of_weights(W: list[float], expected: list[float]) -> None:
    points = metrics.StepMetrics(np.arange(2), np.array(W, np.float32), *[np.zeros(2)] * 2)
    assert points.parameters(-1).W.tolist() == expected
