"""Tests of pipeline.training.clock."""

import time

import numpy as np
import pytest

from pipeline.training import clock


def test_steps_are_spread_over_the_time_they_took() -> None:
    times = clock.Clock()
    start = times.now()
    times.trained(40, 50, since=start - 5)
    found = times.times(np.arange(40, 50))
    np.testing.assert_allclose(found, start - 5 + np.arange(10) / 2, atol=0.01)
    assert (np.diff(found) > 0).all()


def test_what_is_no_step_of_the_latest_is_now() -> None:
    """Examples are records before training, and the evaluation after the last step."""
    times = clock.Clock()
    before = times.now()
    assert before - 1 < times.times(np.array([0]))[0] <= before
    times.trained(0, 10, since=before)
    assert times.times(np.array([10]))[0] <= times.now()


def test_only_what_is_measured_counts() -> None:
    times = clock.Clock()
    times.trained(0, 10, since=times.now() - 5, is_measured=False)
    assert (times.steps, times.seconds) == (0, 0)
    times.trained(10, 30, since=times.now() - 2)
    times.trained(30, 31, since=times.now() - 1)
    assert times.steps == 21
    assert times.seconds == pytest.approx(3, abs=0.01)


@pytest.mark.parametrize("set_back", [0, 86400])
def test_time_never_goes_back_in_a_run(monkeypatch: pytest.MonkeyPatch, set_back: float) -> None:
    """The machine's clock goes back, but not the run's clock in this process or the next."""
    wall = time.time()
    first = clock.Clock()
    saved = first.now()
    monkeypatch.setattr(time, "time", lambda: wall - set_back)
    assert first.now() >= saved
    second = clock.Clock(not_before=saved)
    assert saved <= second.now() < saved + 1
    assert second.times(np.array([0]))[0] >= saved


def test_time_that_has_passed_since_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    wall = time.time()
    saved = clock.Clock().now()
    monkeypatch.setattr(time, "time", lambda: wall + 3600)
    assert clock.Clock(not_before=saved).now() == pytest.approx(wall + 3600, abs=1)
