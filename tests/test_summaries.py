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
        for event in _events(folder)
        if event.HasField("summary")
    ]


def _steps(first: int, count: int, num_features: int | None = None) -> metrics.StepMetrics:
    """Points whose numbers are all exact and different, W = step / 4 (+ the feature)."""
    step = np.arange(first, first + count)
    W = (step / 4).astype(np.float32)
    if num_features is not None:
        W = W[:, None] + np.arange(num_features, dtype=np.float32) * 1024
    return metrics.StepMetrics(step, W, (-step).astype(np.float32), (step / 8).astype(np.float32))


def _summaries(folder: pathlib.Path, *features: str, first_step: int = 0) -> summaries.RunSummaries:
    return summaries.RunSummaries(folder, features=features, first_step=first_step)


def test_event_file_holds_the_version_the_start_and_what_was_appended(
    tmp_path: pathlib.Path,
) -> None:
    before = time.time()
    file = summaries.EventFile(tmp_path / "new" / "folder", first_step=42)
    file.scalars([0, 5, 2**40], {"a": [1.5, 2.5, 3.5], "b/c": [-1, 0, 1e30]})
    file.image(7, "picture", b"\x89PNG\x00bytes")
    file.close()

    version, start, *scalars, image = _events(tmp_path / "new" / "folder")
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (42, tf.compat.v1.SessionLog.START)
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
    file = summaries.EventFile(tmp_path, first_step=0)
    with pytest.raises(ValueError, match="zip"):
        file.scalars([0, 1, 2], {"a": [1, 2]})
    file.close()


def test_flushed_records_can_be_read_while_the_file_is_open(tmp_path: pathlib.Path) -> None:
    file = summaries.EventFile(tmp_path, first_step=0)
    assert len(_events(tmp_path)) == 2
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
    run.reference("truth", metrics.Parameters(np.array(W), 2.0), loss=0.25, steps=[0, 640])
    expected = {**values, "b": 2.0, "loss": 0.25}
    run.close()
    assert _points(tmp_path / "truth") == [(0, expected), (640, expected)]


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


def test_cut_back_leaves_what_was_there_when_the_sizes_were_taken(tmp_path: pathlib.Path) -> None:
    """As after a crash: no step is written twice by the run that goes on."""
    run = _summaries(tmp_path, "x")
    run.steps(_steps(0, 300))
    sizes = run.sizes()
    (path,) = (tmp_path / "train").iterdir()
    assert sizes == {f"train/{path.name}": path.stat().st_size}
    run.steps(_steps(300, 50))
    run.reference("truth", metrics.Parameters(np.array([3.0]), 2.0), loss=0.25, steps=[350])
    run.close()
    (tmp_path / "truth" / "notes.txt").touch()

    summaries.cut_back(tmp_path, sizes)
    assert [step for step, _ in _points(tmp_path / "train")] == list(range(300))
    assert [p.name for p in (tmp_path / "truth").iterdir()] == ["notes.txt"]


def test_resumed_run_says_in_a_new_file_where_it_starts(tmp_path: pathlib.Path) -> None:
    """Then TensorBoard forgets the later steps that it has read already."""
    run = _summaries(tmp_path, "x")
    run.steps(_steps(0, 300))
    run.close()
    (old,) = (tmp_path / "train").iterdir()
    content = old.read_bytes()

    resumed = _summaries(tmp_path, "x", first_step=200)
    resumed.steps(_steps(200, 100))
    resumed.close()
    assert old.read_bytes() == content
    assert old == min((tmp_path / "train").iterdir())
    old.unlink()
    start = _events(tmp_path / "train")[1]
    assert (start.step, start.session_log.status) == (200, tf.compat.v1.SessionLog.START)
    assert [step for step, _ in _points(tmp_path / "train")] == list(range(200, 300))
