"""Tests of pipeline.events."""

import pathlib
import time
from collections.abc import Mapping

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import plugin_event_accumulator

from pipeline import events

_DESCRIPTIONS = {"a": "What a is.", "b/c": "What b/c is."}
_LONG = "W/" + "Größe in m² " * 20  # 282 bytes: its length, and the value's, take 2 bytes


def _open(folder: pathlib.Path, *tags: str, first_step: int = 0) -> events.EventFile:
    descriptions = _DESCRIPTIONS | {tag: f"What {tag} is." for tag in tags}
    return events.EventFile(folder, first_step=first_step, descriptions=descriptions)


def _read(folder: pathlib.Path) -> list["tf.compat.v1.Event"]:
    """All records of the only event file in a folder; reading checks their checksums."""
    (path,) = folder.iterdir()
    assert path.name.startswith("events.out.tfevents.")
    records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    return [tf.compat.v1.Event.FromString(record) for record in records]


def _assert_as_tensorflow_writes(
    folder: pathlib.Path, steps: list[int], values: Mapping[str, np.ndarray]
) -> None:
    """The file's last records are, byte for byte, what protobuf and TFRecordWriter give."""
    read = _read(folder)
    (path,) = folder.iterdir()
    expected = folder / "expected"
    with tf.io.TFRecordWriter(str(expected)) as writer:
        for k, (step, event) in enumerate(zip(steps, read[-len(steps) :], strict=True)):
            rebuilt = tf.compat.v1.Event(wall_time=event.wall_time, step=step)
            for tag, array in values.items():
                rebuilt.summary.value.add(tag=tag, simple_value=float(np.float32(array[k])))
            writer.write(rebuilt.SerializeToString())
    content = expected.read_bytes()
    assert path.read_bytes()[-len(content) :] == content
    expected.unlink()


@pytest.mark.parametrize(
    "steps",
    [
        [1],
        [127, 128],
        [126, 127, 128, 129],
        [16383, 16384],
        [2**21 - 1, 2**21],
        [1, 2**35 - 1, 2**35],
        [5, 2**49, 2**50 + 1],
        [*range(100, 300), *range(16300, 16500)],
    ],
    ids=lambda steps: f"{steps[0]}-{steps[-1]}",
)
@pytest.mark.parametrize("tags", [("a",), ("a", "b/c", "W/größe"), (_LONG, "x" * 127, "y" * 128)])
def test_scalar_records_are_the_bytes_that_tensorflow_writes(
    tmp_path: pathlib.Path, steps: list[int], tags: tuple[str, ...]
) -> None:
    numbers = np.random.default_rng(0).normal(size=(len(tags), len(steps)))
    values = dict(zip(tags, numbers, strict=True))
    file = _open(tmp_path, *tags)
    file.scalars([0], {tag: [0.0] for tag in tags})
    before = time.time()
    file.scalars(steps, values)
    file.close()
    _assert_as_tensorflow_writes(tmp_path, steps, values)
    read = _read(tmp_path)
    assert len(read) == 3 + len(steps)
    assert all(before <= event.wall_time <= time.time() for event in read[3:])


def test_values_that_are_not_finite_or_not_exact_are_kept_as_float32(
    tmp_path: pathlib.Path,
) -> None:
    values = {"a": np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, 0.1, 3.4e38, 7])}
    file = _open(tmp_path)
    file.scalars([0], {"a": [1]})
    file.scalars(range(1, 9), values)
    file.close()
    _assert_as_tensorflow_writes(tmp_path, list(range(1, 9)), values)


def test_step_0_is_read_as_0_wherever_it_stands(tmp_path: pathlib.Path) -> None:
    file = _open(tmp_path)
    file.scalars([0, 0], {"a": [1, 2]})
    file.scalars([0, 3], {"a": [4, 5]})
    file.close()
    assert [event.step for event in _read(tmp_path)[2:]] == [0, 0, 0, 3]


def test_only_the_first_point_of_a_tag_carries_its_description(tmp_path: pathlib.Path) -> None:
    file = _open(tmp_path)
    file.scalars([7, 8], {"a": [1.5, 2.5]})
    file.scalars([9], {"b/c": [3.5]})
    file.scalars([10, 11], {"a": [4.5, 5.5], "b/c": [6.5, 7.5]})
    file.close()
    first, second, third, *others = _read(tmp_path)[2:]
    for event, step, tag, number in ((first, 7, "a", 1.5), (third, 9, "b/c", 3.5)):
        (value,) = event.summary.value
        assert (event.step, value.tag, float(tf.make_ndarray(value.tensor))) == (step, tag, number)
        assert value.metadata.plugin_data.plugin_name == "scalars"
        assert value.metadata.summary_description == _DESCRIPTIONS[tag]
    for event in (second, *others):
        assert not any(value.HasField("metadata") for value in event.summary.value)
    plain = [(e.step, [v.simple_value for v in e.summary.value]) for e in (second, *others)]
    assert plain == [(8, [2.5]), (10, [4.5, 6.5]), (11, [5.5, 7.5])]


def test_tensorboard_reads_one_curve_and_its_description(tmp_path: pathlib.Path) -> None:
    file = _open(tmp_path)
    file.scalars(range(300), {"a": np.arange(300) / 4})
    file.close()
    board = plugin_event_accumulator.EventAccumulator(
        str(tmp_path), tensor_size_guidance={"scalars": 0}
    ).Reload()
    points = [(e.step, float(tf.make_ndarray(e.tensor_proto))) for e in board.Tensors("a")]
    assert points == [(step, step / 4) for step in range(300)]
    assert board.SummaryMetadata("a").summary_description == "What a is."


def test_no_points_write_nothing_and_leave_the_description_for_the_first(
    tmp_path: pathlib.Path,
) -> None:
    file = _open(tmp_path)
    file.scalars([], {"a": []})
    file.scalars([4], {"a": [1]})
    file.scalars([], {"a": []})
    file.close()
    (event,) = _read(tmp_path)[2:]
    assert event.step == 4
    assert event.summary.value[0].metadata.summary_description == "What a is."


def test_values_must_be_as_many_as_steps(tmp_path: pathlib.Path) -> None:
    file = _open(tmp_path)
    for values in ([1, 2], [1, 2, 3, 4]):
        with pytest.raises(ValueError, match="a has values"):
            file.scalars([0, 1, 2], {"a": values})
    file.close()


def test_a_file_starts_with_its_version_and_the_first_step(tmp_path: pathlib.Path) -> None:
    _open(tmp_path / "new" / "folder", first_step=42).close()
    version, start = _read(tmp_path / "new" / "folder")
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (42, tf.compat.v1.SessionLog.START)


def test_a_short_record_after_a_long_one_keeps_nothing_of_it(tmp_path: pathlib.Path) -> None:
    png = bytes(range(256)) * 400
    image = tf.compat.v1.Summary.Image(encoded_image_string=png)
    value = tf.compat.v1.Summary.Value(tag="picture", image=image)
    file = _open(tmp_path)
    file.write(step=7, summary=tf.compat.v1.Summary(value=[value]))
    file.write(step=8)
    file.scalars([9, 10], {"a": [1, 2]})
    file.close()
    long, short, *points = _read(tmp_path)[2:]
    assert (long.step, long.summary.value[0].image.encoded_image_string) == (7, png)
    assert (short.step, short.ByteSize()) == (8, 11)  # a double, a small int and their keys
    assert [event.step for event in points] == [9, 10]


def test_flushed_records_can_be_read_while_the_file_is_open(tmp_path: pathlib.Path) -> None:
    file = _open(tmp_path)
    file.scalars([3, 4], {"a": [1, 2]})
    file.flush()
    assert [event.step for event in _read(tmp_path)[2:]] == [3, 4]
    file.close()
