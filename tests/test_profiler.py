"""Tests of pipeline.reporting.profiler."""

import itertools
import math
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from pipeline.reporting import profiler
from pipeline.training import step_metrics
from tests import helpers


def _profiles(directory: pathlib.Path) -> list[pathlib.Path]:
    """The profiles where TensorBoard looks for those of a run."""
    return sorted((directory / "plugins" / "profile").glob("*/*.xplane.pb"))


def _rows(first: int, end: int) -> step_metrics.StepMetrics:
    count = end - first
    values, nothing = np.zeros((count, 2), np.float32), np.zeros(count, np.float32)
    return step_metrics.StepMetrics(np.arange(first, end), values, nothing, nothing)


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
def test_training_stops_where_the_profiler_starts_and_ends(
    tmp_path: pathlib.Path, steps: tuple[int, int] | None, step: int, expected: float
) -> None:
    profile = profiler.Profiler(steps, tmp_path, first_step=0)
    assert profile.next_pause(step) == expected


@pytest.mark.parametrize(
    ("steps", "stops", "written_at"),
    [
        ((2, 4), [0, 1, 2, 3, 4, 5], 4),
        ((0, 3), [0, 1, 2, 3, 9], 3),
        ((2, 9), [5, 7, 9, 10], 9),  # a run resumed between them
        ((2, 4), [4, 5, 6], None),  # a run resumed after them
        (None, [0, 1, 2, 3], None),
    ],
)
def test_a_profile_is_written_once_at_its_last_step(
    tmp_path: pathlib.Path, steps: tuple[int, int] | None, stops: list[int], written_at: int | None
) -> None:
    profile = profiler.Profiler(steps, tmp_path, first_step=stops[0])
    for step, following in itertools.pairwise(stops):
        profile.pause(step)
        tf.square(1.0)  # something to profile
        profile.after(_rows(step, following))
        is_written = written_at is not None and following >= written_at
        assert len(_profiles(tmp_path)) == is_written
    profile.close()
    assert len(_profiles(tmp_path)) == (written_at is not None)


def test_a_run_that_ends_early_keeps_the_profile_so_far(tmp_path: pathlib.Path) -> None:
    profile = profiler.Profiler((2, 400), tmp_path, first_step=0)
    profile.pause(2)
    profile.after(_rows(2, 20))
    assert not _profiles(tmp_path)
    profile.close()
    profile.close()
    assert len(_profiles(tmp_path)) == 1


def test_a_profile_marks_each_call_as_a_step(tmp_path: pathlib.Path) -> None:
    """Without a marker, the Profile dashboard's overview says that no step was observed."""
    profile = profiler.Profiler((2, 9), tmp_path, first_step=0)
    for step, following in itertools.pairwise([0, 2, 3, 7, 9, 12]):
        profile.pause(step)
        tf.square(1.0)
        profile.after(_rows(step, following))
    (path,) = _profiles(tmp_path)
    found = []
    for plane in xplane_pb2.XSpace.FromString(path.read_bytes()).planes:
        for event in (event for line in plane.lines for event in line.events):
            if plane.event_metadata[event.metadata_id].name == "train":
                names = (plane.stat_metadata[stat.metadata_id].name for stat in event.stats)
                values = (stat.int64_value for stat in event.stats)
                found.append(dict(zip(names, values, strict=True)))
    assert found == [{"step_num": step, "_r": 1} for step in (2, 3, 7)]


@pytest.mark.slow
def test_a_run_leaves_a_profile_and_its_usual_output(tmp_path: pathlib.Path) -> None:
    flags = ("--epochs=50", "--profile_steps=10,20", "--run_name=a")
    result = helpers.call("train", *flags, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    (profile,) = (tmp_path / "logs").rglob("*.xplane.pb")
    assert _profiles(tmp_path / "logs" / "a" / "train") == [profile]
    assert profile.stat().st_size > 1000
    assert "Epoch 50:" in result.stdout
