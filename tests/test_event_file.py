"""Tests of pipeline.reporting.event_file."""

import contextlib
import pathlib
import time
import types

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator, plugin_event_accumulator
from tensorboard.compat.proto import summary_pb2

from pipeline.reporting import event_file
from pipeline.training import clock
from tests import helpers

_DESCRIPTIONS = {"a": "What a is.", "b/c": "What b/c is."}


def _open(directory: pathlib.Path, *, first_step: int = 0) -> event_file.EventFile:
    path = directory / event_file.file_name(1)
    return event_file.EventFile(
        path, first_step=first_step, clock=clock.Clock(), describe=_DESCRIPTIONS.__getitem__
    )


def _events(directory: pathlib.Path) -> list["tf.compat.v1.Event"]:
    """The events after the two first ones of every file."""
    return helpers.events(directory)[2:]


def test_a_file_starts_with_its_version_and_first_step(tmp_path: pathlib.Path) -> None:
    _open(tmp_path / "new" / "directory", first_step=42).close()
    version, start = helpers.events(tmp_path / "new" / "directory")
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (42, tf.compat.v1.SessionLog.START)


def test_scalars_keep_their_times_and_float32_values(tmp_path: pathlib.Path) -> None:
    numbers = [1, np.nan, np.inf, -np.inf, -0.0, 1e-45, 0.1, 3.4e38, 7]
    times = 1_700_000_000.5 + np.arange(9) ** 3
    with contextlib.closing(_open(tmp_path)) as file:
        file.scalars(range(9), {"a": numbers, "b/c": numbers[::-1]}, times)
    curves = helpers.scalars(tmp_path)
    for tag, expected in (("a", numbers), ("b/c", numbers[::-1])):
        steps, found = zip(*curves[tag], strict=True)
        assert steps == tuple(range(9))
        np.testing.assert_array_equal(found, np.float32(expected))
        np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))
    assert [event.wall_time for event in _events(tmp_path)] == times.tolist()


def test_step_0_is_read_as_0_wherever_it_is(tmp_path: pathlib.Path) -> None:
    file = _open(tmp_path)
    file.scalars([0, 0], {"a": [1, 2]}, [1, 1])
    file.scalars([0, 3], {"a": [4, 5]}, [2, 3])
    file.close()
    assert helpers.scalars(tmp_path)["a"] == [(0, 1), (0, 2), (0, 4), (3, 5)]


def test_only_the_first_value_of_a_tag_is_described(tmp_path: pathlib.Path) -> None:
    file = _open(tmp_path)
    file.scalars([7, 8], {"a": [1.5, 2.5]}, [1, 2])
    file.scalars([9], {"b/c": [3.5]}, [3])
    file.scalars([10, 11], {"a": [4.5, 5.5], "b/c": [6.5, 7.5]}, [4, 5])
    file.close()
    first, second, third, *others = _events(tmp_path)
    for event, step, tag, number in ((first, 7, "a", 1.5), (third, 9, "b/c", 3.5)):
        (value,) = event.summary.value
        assert (event.step, value.tag, float(tf.make_ndarray(value.tensor))) == (step, tag, number)
        assert value.metadata.plugin_data.plugin_name == "scalars"
        assert value.metadata.summary_description == _DESCRIPTIONS[tag]
    for event in (second, *others):
        assert not any(value.HasField("metadata") for value in event.summary.value)
    plain = [
        (event.step, [float(tf.make_ndarray(value.tensor)) for value in event.summary.value])
        for event in (second, *others)
    ]
    assert plain == [(8, [2.5]), (10, [4.5, 6.5]), (11, [5.5, 7.5])]


@pytest.mark.parametrize(
    ("module", "all_points"),
    [
        (event_accumulator, {"size_guidance": {"tensors": 0}}),
        (plugin_event_accumulator, {"tensor_size_guidance": {"scalars": 0}}),
    ],
)
def test_tensorboard_reads_one_curve_and_its_description(
    tmp_path: pathlib.Path, module: types.ModuleType, all_points: dict[str, dict[str, int]]
) -> None:
    """Other programs use the first reader, which distinguishes tensors and simple values."""
    times = 1_700_000_000 + np.arange(300) / 8
    with contextlib.closing(_open(tmp_path)) as file:
        file.scalars(range(300), {"a": np.arange(300) / 4}, times)
    board = module.EventAccumulator(str(tmp_path), **all_points).Reload()
    points = board.Tensors("a")
    assert [point.wall_time for point in points] == times.tolist()
    found = [(point.step, float(tf.make_ndarray(point.tensor_proto))) for point in points]
    assert found == [(step, step / 4) for step in range(300)]
    assert board.SummaryMetadata("a").summary_description == "What a is."
    assert not board.Tags().get("scalars")


def test_no_steps_write_nothing(tmp_path: pathlib.Path) -> None:
    """The description is written with the first step."""
    file = _open(tmp_path)
    file.scalars([], {"a": []}, [])
    file.scalars([4], {"a": [1]}, [1])
    file.scalars([], {"a": []}, [])
    file.close()
    (event,) = _events(tmp_path)
    assert event.step == 4
    assert event.summary.value[0].metadata.summary_description == "What a is."


def test_there_must_be_as_many_values_as_steps(tmp_path: pathlib.Path) -> None:
    file = _open(tmp_path)
    for values in ([1, 2], [1, 2, 3, 4]):
        with pytest.raises(ValueError, match="a has values"):
            file.scalars([0, 1, 2], {"a": values}, [1, 2, 3])
    file.close()
    assert _events(tmp_path) == []


def test_a_short_record_may_follow_a_long_one(tmp_path: pathlib.Path) -> None:
    png = bytes(range(256)) * 400
    image = summary_pb2.Summary.Image(encoded_image_string=png)
    value = summary_pb2.Summary.Value(tag="image", image=image)
    file = _open(tmp_path)
    file.write(step=7, summary=summary_pb2.Summary(value=[value]))
    file.write(step=8)
    file.scalars([9, 10], {"a": [1, 2]}, [1, 2])
    file.close()
    long, short, *scalars = _events(tmp_path)
    assert (long.step, long.summary.value[0].image.encoded_image_string) == (7, png)
    assert (short.step, short.ByteSize()) == (8, 11)  # a double, a small int and their keys
    assert [event.step for event in scalars] == [9, 10]


def test_flushed_scalars_can_be_read_at_once(tmp_path: pathlib.Path) -> None:
    file = _open(tmp_path)
    file.scalars([3, 4], {"a": [1, 2]}, [1, 2])
    file.scalars([5], {"a": [3]}, [3])
    file.flush()
    assert helpers.scalars(tmp_path)["a"] == [(3, 1), (4, 2), (5, 3)]
    file.close()


def test_scalars_are_flushed_now_and_then(tmp_path: pathlib.Path) -> None:
    """The first value of a tag is flushed at once, later values after a second."""
    file = _open(tmp_path)
    file.scalars([3], {"a": [1]}, [1])
    assert helpers.scalars(tmp_path)["a"] == [(3, 1)]
    file.scalars([4], {"b/c": [2]}, [2])
    assert helpers.scalars(tmp_path)["b/c"] == [(4, 2)]
    time.sleep(1.05)
    file.scalars([5], {"a": [3]}, [3])
    assert helpers.scalars(tmp_path)["a"] == [(3, 1), (5, 3)]
    file.close()
