"""Tests of pipeline.summaries."""

import contextlib
import pathlib
import re
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import metadata as hparams

from pipeline import metrics, summaries


def _events(folder: pathlib.Path) -> list["tf.compat.v1.Event"]:
    """All records of the only event file in a folder, after the two that it starts with."""
    (path,) = folder.iterdir()
    records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    return [tf.compat.v1.Event.FromString(record) for record in records][2:]


def _points(folder: pathlib.Path) -> list[tuple[int, dict[str, float]]]:
    """Step and values of each record of scalars; of a first one the values are tensors."""
    return [(e.step, {v.tag: _number(v) for v in e.summary.value}) for e in _events(folder)]


def _number(value: Any) -> float:
    if value.HasField("tensor"):
        return float(tf.make_ndarray(value.tensor))
    assert value.HasField("simple_value")
    return float(value.simple_value)


def _values(folder: pathlib.Path) -> list[Any]:
    """The values of the records."""
    return [value for event in _events(folder) for value in event.summary.value]


def _steps(first: int, count: int, num_features: int | None = None) -> metrics.StepMetrics:
    """Points whose numbers are all exact and different, W = step / 4 (+ the feature)."""
    step = np.arange(first, first + count)
    W = (step / 4).astype(np.float32)
    if num_features is not None:
        W = W[:, None] + np.arange(num_features, dtype=np.float32) * 1024
    return metrics.StepMetrics(step, W, (-step).astype(np.float32), (step / 8).astype(np.float32))


def _summaries(folder: pathlib.Path, *features: str, first_step: int = 0) -> summaries.RunSummaries:
    return summaries.RunSummaries(folder, features=features, first_step=first_step)


def test_every_step_of_every_stretch_is_there_once(tmp_path: pathlib.Path) -> None:
    run = _summaries(tmp_path, "x")
    for first, count in ((0, 500), (500, 1), (501, 499)):
        run.steps(_steps(first, count))
    run.close()
    assert _points(tmp_path / "train") == [
        (step, {"W": step / 4, "b": -step, "loss": step / 8}) for step in range(1000)
    ]


@pytest.mark.parametrize("features", [("x",), ("rooms", "area")])
def test_a_stretch_of_no_points_writes_none(
    tmp_path: pathlib.Path, features: tuple[str, ...]
) -> None:
    num_features = len(features) if len(features) > 1 else None
    with contextlib.closing(_summaries(tmp_path, *features)) as run:
        run.steps(_steps(0, 0, num_features))
    assert _points(tmp_path / "train") == []


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


def test_every_tag_is_described_once(tmp_path: pathlib.Path) -> None:
    run = _summaries(tmp_path, "rooms", "area")
    run.steps(_steps(0, 3, num_features=2))
    run.scalars([0, 1], {"gradient_norm": [1, 2], "distance_to_optimum": [3, 4]})
    run.scalars([2], {"final_loss": [1], "final_validation_loss": [2]})
    run.scalars([2], {"steps_per_second": [1], "examples_per_second": [2]})
    run.close()
    described = [v for v in _values(tmp_path / "train") if v.metadata.summary_description]
    tags = {v.tag for v in _values(tmp_path / "train")}
    assert len(tags) == 10
    assert sorted(v.tag for v in described) == sorted(tags)
    assert {v.metadata.plugin_data.plugin_name for v in described} == {"scalars"}


def test_other_values_are_scalars_of_the_training_curve(tmp_path: pathlib.Path) -> None:
    run = _summaries(tmp_path, "x")
    run.scalars([0, 3], {"gradient_norm": [1.5, 0.5]})
    run.close()
    expected = [(0, {"gradient_norm": 1.5}), (3, {"gradient_norm": 0.5})]
    assert _points(tmp_path / "train") == expected


def test_pictures_go_to_the_training_curve(tmp_path: pathlib.Path) -> None:
    run = _summaries(tmp_path, "x")
    run.image(4, "trained", b"\x89PNG\x00bytes")
    run.close()
    (event,) = _events(tmp_path / "train")
    assert (event.step, event.summary.value[0].tag) == (4, "trained")
    assert event.summary.value[0].image.encoded_image_string == b"\x89PNG\x00bytes"


@pytest.mark.parametrize(
    "numbers",
    [
        np.random.default_rng(0).normal(size=1000),
        np.array([-1.5, 2.0, 2.0, 7.0]),
        np.zeros(5),
        np.full(5, 1e9),  # float32 has no 30 numbers around these
        1e9 + 64 * np.arange(5),
    ],
    ids=["normal", "few", "zeros", "large and equal", "large and close"],
)
def test_histogram_counts_every_number_in_its_bucket(
    tmp_path: pathlib.Path, numbers: np.ndarray
) -> None:
    numbers = numbers.astype(np.float32)
    with contextlib.closing(_summaries(tmp_path, "x")) as run:
        run.histogram(16, "residuals", numbers)
    (event,) = _events(tmp_path / "train")
    (value,) = event.summary.value
    assert (event.step, value.tag) == (16, "residuals")
    histo, exact = value.histo, numbers.astype(np.float64)
    assert histo.min <= exact.min() <= exact.max() <= histo.max
    assert (histo.num, sum(histo.bucket)) == (len(numbers), len(numbers))
    np.testing.assert_allclose(histo.sum, exact.sum(), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(histo.sum_squares, np.square(exact).sum(), rtol=1e-5)
    assert len(histo.bucket) == len(histo.bucket_limit)
    limits = [histo.min, *histo.bucket_limit]
    assert np.all(np.diff(limits) > 0)
    np.testing.assert_array_equal(histo.bucket, np.histogram(exact, limits)[0])


def test_text_is_markdown_of_the_text_dashboard(tmp_path: pathlib.Path) -> None:
    run = _summaries(tmp_path, "x")
    run.text("settings", "| größe |\n|---|", step=0)
    run.close()
    (value,) = _values(tmp_path / "train")
    assert (value.tag, value.metadata.plugin_data.plugin_name) == ("settings", "text")
    assert tf.make_ndarray(value.tensor).tolist() == ["| größe |\n|---|".encode()]


def test_graph_is_read_back_as_it_was(tmp_path: pathlib.Path) -> None:
    with tf.Graph().as_default() as graph:
        tf.add(tf.constant(1.0, name="one"), 2.0, name="sum")
    run = _summaries(tmp_path, "x")
    run.graph(graph.as_graph_def())
    run.close()
    (event,) = _events(tmp_path / "train")
    assert tf.compat.v1.GraphDef.FromString(event.graph_def) == graph.as_graph_def()


def test_layout_has_a_chart_for_each_parameter_and_the_loss(tmp_path: pathlib.Path) -> None:
    run = _summaries(tmp_path, "x")
    run.layout()
    run.close()
    (value,) = _values(tmp_path / "train")
    assert value.metadata.plugin_data.plugin_name == "custom_scalars"
    (content,) = tf.make_ndarray(value.tensor).ravel()
    (category,) = layout_pb2.Layout.FromString(content).category
    tags = ["W", "W/rooms", "b", "loss", "final_loss", "steps_per_second"]
    found = {
        chart.title: [t for t in tags for r in chart.multiline.tag if re.match(r, t)]
        for chart in category.chart
    }
    assert found == {"W": ["W", "W/rooms"], "b": ["b"], "loss": ["loss"]}


@pytest.mark.parametrize("has_validation", [True, False])
@pytest.mark.parametrize("is_success", [True, False])
def test_hparams_say_what_was_set_what_to_compare_and_how_it_ended(
    tmp_path: pathlib.Path, has_validation: bool, is_success: bool
) -> None:
    run = _summaries(tmp_path / "name", "x")
    given = {"model": "keras", "learning_rate": 0.25, "epochs": 10}
    run.hparams(given, has_validation=has_validation)
    run.end(is_success=is_success)
    run.close()
    experiment, started, ended = (
        value.metadata.plugin_data.content for value in _values(tmp_path / "name" / "train")
    )
    shown = hparams.parse_experiment_plugin_data(experiment)
    assert [column.name for column in shown.hparam_infos] == list(given)
    compared = [info.name.tag for info in shown.metric_infos]
    assert compared == ["final_loss", *["final_validation_loss"] * has_validation]
    session = hparams.parse_session_start_info_plugin_data(started)
    assert session.group_name == "name"
    values = {name: getattr(v, v.WhichOneof("kind")) for name, v in session.hparams.items()}
    assert values == given
    status = hparams.parse_session_end_info_plugin_data(ended).status
    assert status == (api_pb2.STATUS_SUCCESS if is_success else api_pb2.STATUS_FAILURE)


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
    (path,) = (tmp_path / "train").iterdir()
    records = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    start = tf.compat.v1.Event.FromString(records[1])
    assert (start.step, start.session_log.status) == (200, tf.compat.v1.SessionLog.START)
    assert [step for step, _ in _points(tmp_path / "train")] == list(range(200, 300))
