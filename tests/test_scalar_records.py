"""Tests of pipeline.reporting.scalar_records."""

import pathlib
from collections.abc import Mapping

import numpy as np
import pytest
import tensorflow as tf

from pipeline.reporting import scalar_records

_WALL_TIME = 1_700_000_000.25
_LONG = "W/" + "Größe in m² " * 20  # 282 bytes: its length, and the value's, take 2 bytes


def _times(count: int) -> np.ndarray:
    """Times that differ in all bytes but the upper ones."""
    return _WALL_TIME + 0.000123456789 * np.arange(count) ** 3


def _encode(steps: list[int], values: Mapping[str, np.ndarray]) -> bytes:
    columns = {tag: array.astype(np.float32) for tag, array in values.items()}
    numbers = np.array(steps, np.int64)
    parts = scalar_records.encode(numbers, _times(len(steps)), columns)
    return b"".join(part.tobytes() for part in parts)


def _written_by_tensorflow(
    path: pathlib.Path, steps: list[int], values: Mapping[str, np.ndarray]
) -> bytes:
    """The records that TFRecordWriter writes for tf.summary.scalar, without the description."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for k, step in enumerate(steps):
            event = tf.compat.v1.Event(wall_time=_times(len(steps))[k], step=step)
            for tag, array in values.items():
                tensor = tf.io.serialize_tensor(tf.constant(array[k], tf.float32)).numpy()
                event.summary.value.add(tag=tag).tensor.ParseFromString(tensor)
            writer.write(event.SerializeToString())
    return path.read_bytes()


@pytest.mark.parametrize(
    "steps",
    [
        [1],
        [127, 128],
        [126, 127, 128, 129],
        [16383, 16384],
        [2**21 - 1, 2**21],
        [1, 2**35 - 1, 2**35],
        [5, 2**49, 2**50 + 1, 2**56 - 1],
        [*range(100, 300), *range(16300, 16500)],
    ],
    ids=lambda steps: f"{steps[0]}-{steps[-1]}",
)
@pytest.mark.parametrize("tags", [("a",), ("a", "b/c", "W/größe"), (_LONG, "x" * 127, "y" * 128)])
def test_records_are_the_bytes_that_tensorflow_writes(
    tmp_path: pathlib.Path, steps: list[int], tags: tuple[str, ...]
) -> None:
    numbers = np.random.default_rng(0).normal(size=(len(tags), len(steps)))
    values = dict(zip(tags, numbers, strict=True))
    expected = _written_by_tensorflow(tmp_path / "expected", steps, values)
    assert _encode(steps, values) == expected


def test_a_value_has_the_form_of_tf_summary_scalar(tmp_path: pathlib.Path) -> None:
    with tf.summary.create_file_writer(str(tmp_path)).as_default():
        tf.summary.scalar("a", 0.1, step=1)
        tf.summary.flush()
    (path,) = map(str, tmp_path.iterdir())
    *_, last = tf.data.TFRecordDataset(path).as_numpy_iterator()
    (expected,) = tf.compat.v1.Event.FromString(last).summary.value
    found = scalar_records.tensor(0.1).SerializeToString()
    assert found == expected.tensor.SerializeToString()
