"""Tests of pipeline.profiler."""

import math
import pathlib

import pytest
import tensorflow as tf

from pipeline import profiler
from tests import conftest


def _profiles(folder: pathlib.Path) -> list[pathlib.Path]:
    """The profiles where TensorBoard looks for those of a curve."""
    return sorted((folder / "plugins" / "profile").glob("*/*.xplane.pb"))


@pytest.mark.parametrize(
    ("steps", "step", "expected"),
    [
        (None, 0, math.inf),
        (None, 10**9, math.inf),
        ((10, 20), 0, 10),
        ((10, 20), 9, 10),
        ((10, 20), 10, 20),
        ((10, 20), 19, 20),
        ((10, 20), 20, math.inf),
        ((10, 20), 5000, math.inf),
    ],
)
def test_training_must_stop_where_the_profiler_starts_and_stops(
    tmp_path: pathlib.Path, steps: tuple[int, int] | None, step: int, expected: float
) -> None:
    assert profiler.Profile(steps, tmp_path).next_stop(step) == expected


@pytest.mark.parametrize(
    ("steps", "visited", "written_at"),
    [
        ((2, 4), [1, 2, 3, 4, 5], 4),
        ((0, 3), [1, 2, 3, 9], 3),
        ((2, 4), [3, 7], 7),  # a loop that could not stop in time
        ((2, 4), [4, 5], None),  # a run that goes on after them
        (None, [1, 2, 3], None),
    ],
)
def test_a_profile_is_written_once_when_its_last_step_is_reached(
    tmp_path: pathlib.Path,
    steps: tuple[int, int] | None,
    visited: list[int],
    written_at: int | None,
) -> None:
    profile = profiler.Profile(steps, tmp_path)
    for step in visited:
        tf.square(1.0)  # something to profile
        profile(step)
        assert bool(_profiles(tmp_path)) == (written_at is not None and step >= written_at)
    profile.close()
    assert len(_profiles(tmp_path)) == (written_at is not None)


def test_a_run_that_ends_early_keeps_the_profile_so_far(tmp_path: pathlib.Path) -> None:
    profile = profiler.Profile((2, 400), tmp_path)
    profile(2)
    assert not _profiles(tmp_path)
    profile.close()
    profile.close()
    assert len(_profiles(tmp_path)) == 1


def test_a_run_leaves_the_profile_of_these_steps_and_its_usual_curves(
    tmp_path: pathlib.Path,
) -> None:
    flags = ("--epochs=50", "--profile_steps=10,20", "--run_name=a")
    result = conftest.call("train", *flags, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    (profile,) = (tmp_path / "logs").rglob("*.xplane.pb")
    assert _profiles(tmp_path / "logs" / "a" / "train") == [profile]
    assert profile.stat().st_size > 1000
    assert "Epoch 50:" in result.stdout
