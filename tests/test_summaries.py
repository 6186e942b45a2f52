"""Tests of pipeline.summaries."""

import pathlib
import time

import numpy as np
import pytest
import tensorflow as tf

from pipeline import metrics, summaries


def _events(folder: pathlib.Path) -> list["tf.compat.v1.Event"]:
    """All records of the only event file in a folder."""
    (path,) = folder.iterdir()
    assert path.name.startswith("events.out.tfevents.")
    records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    return [tf.compat.v1.Event.FromString(record) for record in records]


def _points(folder: pathlib.Path) -> list[tuple[int, dict[str, float]]]:
    """Step and values of each record of scalars."""
    return [
        (event.step, {value.tag: value.simple_value for value in event.summary.value})
        for event in _events(folder)[1:]
    ]


def _steps(first: int, count: int, num_features: int | None = None) -> metrics.StepMetrics:
    """Points whose numbers are all exact and different, W = step / 4 (+ the feature)."""
    step = np.arange(first, first + count)
    W = (step / 4).astype(np.float32)
    if num_features is not None:
        W = W[:, None] + np.arange(num_features, dtype=np.float32) * 1024
    return metrics.StepMetrics(step, W, (-step).astype(np.float32), (step / 8).astype(np.float32))


def _summaries(folder: pathlib.Path, *features: str) -> summaries.RunSummaries:
    return summaries.RunSummaries(folder.joinpath, features=features)


def test_event_file_starts_with_the_version_and_holds_what_was_appended(
    tmp_path: pathlib.Path,
) -> None:
    before = time.time()
    file = summaries.EventFile(tmp_path / "new" / "folder")
    file.scalars([0, 5, 2**40], {"a": [1.5, 2.5, 3.5], "b/c": [-1, 0, 1e30]})
    file.image(7, "picture", b"\x89PNG\x00bytes")
    file.close()

    first, *scalars, image = _events(tmp_path / "new" / "folder")
    assert first.file_version == "brain.Event:2"
    found = [
        [event.step, *((value.tag, value.simple_value) for value in event.summary.value)]
        for event in scalars
    ]
    assert found == [
        [0, ("a", 1.5), ("b/c", -1)],
        [5, ("a", 2.5), ("b/c", 0)],
        [2**40, ("a", 3.5), ("b/c", float(np.float32(1e30)))],
    ]
    assert all(before <= event.wall_time <= time.time() for event in scalars)
    (picture,) = image.summary.value
    assert (image.step, picture.tag) == (7, "picture")
    assert picture.image.encoded_image_string == b"\x89PNG\x00bytes"


def test_values_must_be_as_many_as_steps(tmp_path: pathlib.Path) -> None:
    file = summaries.EventFile(tmp_path)
    with pytest.raises(ValueError, match="zip"):
        file.scalars([0, 1, 2], {"a": [1, 2]})
    file.close()


def test_flushed_records_can_be_read_while_the_file_is_open(tmp_path: pathlib.Path) -> None:
    file = summaries.EventFile(tmp_path)
    assert len(_events(tmp_path)) == 1
    file.scalars([3], {"a": [1]})
    file.flush()
    assert _points(tmp_path) == [(3, {"a": 1})]
    file.close()


def test_every_step_of_every_stretch_is_there_once(tmp_path: pathlib.Path) -> None:
    run = _summaries(tmp_path, "x")
    for first, count in ((0, 500), (500, 1), (501, 499)):
        run.steps(_steps(first, count))
    run.close()
    assert _points(tmp_path / "train") == [
        (step, {"W": step / 4, "b": -step, "loss": step / 8}) for step in range(1000)
    ]


def test_each_of_several_features_has_a_tag(tmp_path: pathlib.Path) -> None:
    run = _summaries(tmp_path, "rooms", "area")
    run.steps(_steps(0, 9, num_features=2))
    run.close()
    assert _points(tmp_path / "train") == [
        (i, {"W/rooms": i / 4, "W/area": i / 4 + 1024, "b": -i, "loss": i / 8}) for i in range(9)
    ]


@pytest.mark.parametrize(
    ("features", "W", "values"),
    [
        (("x",), [3.0], {"W": 3.0}),
        (("rooms", "area"), [3.0, 0.5], {"W/rooms": 3.0, "W/area": 0.5}),
    ],
)
def test_reference_is_a_flat_line_under_the_tags_of_training(
    tmp_path: pathlib.Path, features: tuple[str, ...], W: list[float], values: dict[str, float]
) -> None:
    run = _summaries(tmp_path, *features)
    run.reference("truth", metrics.Parameters(np.array(W), 2.0), loss=0.25, last_step=640)
    expected = {**values, "b": 2.0, "loss": 0.25}
    assert _points(tmp_path / "truth") == [(0, expected), (640, expected)]  # before close
    run.close()


@pytest.mark.parametrize("validation", [True, False])
def test_validation_loss_is_a_curve_of_its_own_where_there_is_one(
    tmp_path: pathlib.Path, validation: bool
) -> None:
    run = _summaries(tmp_path, "x")
    run.epochs(
        metrics.EpochMetrics(
            epoch=np.arange(2),
            step=np.arange(2) * 10,
            W=np.zeros(2),
            b=np.zeros(2),
            loss=np.zeros(2),
            validation_loss=np.array([0.5, 0.25]) if validation else None,
        )
    )
    run.close()
    folders = list(tmp_path.iterdir())
    assert folders == ([tmp_path / "validation"] if validation else [])
    if validation:
        assert _points(tmp_path / "validation") == [(0, {"loss": 0.5}), (10, {"loss": 0.25})]


def test_pictures_go_to_the_training_curve(tmp_path: pathlib.Path) -> None:
    run = _summaries(tmp_path, "x")
    run.steps(_steps(0, 1))
    run.image(4, "trained", b"png")
    run.close()
    image = _events(tmp_path / "train")[-1]
    assert (image.step, image.summary.value[0].tag) == (4, "trained")
    assert image.summary.value[0].image.encoded_image_string == b"png"
