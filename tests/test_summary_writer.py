"""Tests of pipeline.reporting.summary_writer."""

import contextlib
import os
import pathlib
import re
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import metadata as hparams

from pipeline.reporting import summary_writer
from pipeline.training import clock, step_metrics
from tests import helpers

_NAMES = ("W", "b")


def _writer(
    directory: pathlib.Path,
    names: tuple[str, ...] = _NAMES,
    *,
    times: clock.Clock | None = None,
    first_step: int = 0,
    earlier: Mapping[str, int] | None = None,
) -> summary_writer.SummaryWriter:
    return summary_writer.SummaryWriter(
        directory,
        names=names,
        clock=times or clock.Clock(),
        first_step=first_step,
        earlier=earlier or {},
    )


def _rows(first: int, count: int, num_values: int = 2) -> step_metrics.StepMetrics:
    """Rows with exact numbers: value i of a step is step / 4 + 1024 i."""
    step = np.arange(first, first + count)
    values = step[:, None] / 4 + 1024 * np.arange(num_values)
    others = ((step / factor).astype(np.float32) for factor in (8, 2))
    return step_metrics.StepMetrics(step, values.astype(np.float32), *others)


def _values(directory: pathlib.Path) -> list[Any]:
    return [value for _, value in helpers.values(directory)]


def test_each_row_is_written_once(tmp_path: pathlib.Path) -> None:
    with contextlib.closing(_writer(tmp_path)) as writer:
        for first, count in ((0, 500), (500, 1), (501, 499)):
            writer.steps(_rows(first, count))
    assert helpers.scalars(tmp_path / "train") == {
        "W": [(step, step / 4) for step in range(1000)],
        "b": [(step, step / 4 + 1024) for step in range(1000)],
        "loss": [(step, step / 8) for step in range(1000)],
    }


def test_other_scalars_belong_to_train_or_a_named_curve(tmp_path: pathlib.Path) -> None:
    with contextlib.closing(_writer(tmp_path)) as writer:
        writer.scalars([0, 3], {"training/learning_rate": [1.5, 0.5]})
        writer.scalars([0, 10], {"loss": [0.5, 0.25]}, curve="validation")
    assert helpers.scalars(tmp_path / "train") == {"training/learning_rate": [(0, 1.5), (3, 0.5)]}
    assert helpers.scalars(tmp_path / "validation") == {"loss": [(0, 0.5), (10, 0.25)]}


def test_each_tag_is_described_once(tmp_path: pathlib.Path) -> None:
    names = "W/rooms", "W/area", "b", "slope"
    with contextlib.closing(_writer(tmp_path, names)) as writer:
        writer.steps(_rows(0, 3, num_values=4))
        for group, tags in (
            ("training", ("learning_rate", "gradient_norm", "distance_to_optimum")),
            ("evaluation", ("loss", "mae", "best_epoch")),
            ("speed", ("steps_per_second", "examples_per_second")),
            ("final", ("loss", "validation_loss", "mae", "validation_mae", "diverged")),
        ):
            writer.scalars([0, 2], {f"{group}/{tag}": [1, 2] for tag in tags})
    values = _values(tmp_path / "train")
    described = {v.tag: v.metadata for v in values if v.metadata.summary_description}
    tags = {value.tag for value in values}
    assert len(tags) == 18
    assert sum(value.HasField("metadata") for value in values) == 18
    assert described.keys() == tags
    assert {metadata.plugin_data.plugin_name for metadata in described.values()} == {"scalars"}
    for tag in ("slope", "evaluation/mae", "final/mae", "final/validation_mae"):
        assert re.split("[/_]", tag)[-1] in described[tag].summary_description


def test_an_image_is_written_as_it_is(tmp_path: pathlib.Path) -> None:
    with contextlib.closing(_writer(tmp_path)) as writer:
        writer.image(4, "trained", b"\x89PNG\x00bytes")
    ((step, value),) = helpers.values(tmp_path / "train")
    assert (step, value.tag) == (4, "trained")
    assert value.image.encoded_image_string == b"\x89PNG\x00bytes"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "numbers",
    [
        np.random.default_rng(0).normal(size=1000),
        np.array([-1.5, 2.0, 2.0, 7.0]),
        np.zeros(5),
        np.full(5, 1e9),  # float32 has no 30 numbers around these
        1e9 + 64 * np.arange(5),
        np.array([-3e38, 3e38]),  # their distance is no float32
    ],
    ids=["normal", "few", "zeros", "large and equal", "large and close", "large and far"],
)
def test_a_histogram_counts_each_number_in_its_bucket(
    tmp_path: pathlib.Path, numbers: np.ndarray, dtype: type
) -> None:
    numbers = numbers.astype(dtype)
    with contextlib.closing(_writer(tmp_path)) as writer:
        writer.histogram(16, "residuals", numbers)
    ((step, value),) = helpers.values(tmp_path / "train")
    assert (step, value.tag) == (16, "residuals")
    assert value.metadata.plugin_data.plugin_name == "histograms"
    left, right, count = tf.make_ndarray(value.tensor).T
    exact = numbers.astype(np.float64)
    assert (left[0], right[-1]) == (exact.min(), exact.max())
    np.testing.assert_array_equal(left[1:], right[:-1])
    if exact.min() < exact.max():
        np.testing.assert_array_equal(count, np.histogram(exact, [*left, right[-1]])[0])
    else:  # all buckets have a width of 0
        assert (count[-1], count[:-1].sum()) == (len(numbers), 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_have_no_histogram(tmp_path: pathlib.Path, bad: float) -> None:
    """TensorBoard has no buckets for them; a nearly diverged run continues."""
    with contextlib.closing(_writer(tmp_path)) as writer:
        writer.histogram(1, "residuals", np.array([1.0, bad, 2.0]))
        writer.histogram(4, "residuals", np.array([1.0, 3.0, 2.0]))
    assert helpers.steps(tmp_path / "train", "histograms") == {"residuals": [4]}


def test_a_text_is_markdown_for_the_text_dashboard(tmp_path: pathlib.Path) -> None:
    with contextlib.closing(_writer(tmp_path)) as writer:
        writer.text("settings", "| größe |\n|---|", step=3)
    ((step, value),) = helpers.values(tmp_path / "train")
    assert (step, value.tag) == (3, "settings")
    assert value.metadata.plugin_data.plugin_name == "text"
    assert tf.make_ndarray(value.tensor).tolist() == ["| größe |\n|---|".encode()]


@pytest.mark.parametrize(
    ("names", "title", "expected"),
    [
        (_NAMES, "W, b, loss and evaluation/loss", {"W": ["W"], "b": ["b"]}),
        (
            ("W/rooms", "W/area", "slope"),
            "W, slope, loss and evaluation/loss",
            {"W": ["W/rooms", "W/area"], "slope": ["slope"]},
        ),
    ],
)
def test_the_layout_has_a_chart_of_each_variable_and_loss(
    tmp_path: pathlib.Path, names: tuple[str, ...], title: str, expected: dict[str, list[str]]
) -> None:
    with contextlib.closing(_writer(tmp_path, names)) as writer:
        writer.layout()
    (value,) = _values(tmp_path / "train")
    assert value.metadata.plugin_data.plugin_name == "custom_scalars"
    (content,) = tf.make_ndarray(value.tensor).ravel()
    (category,) = layout_pb2.Layout.FromString(content).category
    assert category.title.startswith(title)
    tags = [*names, "loss", "evaluation/loss", "final/loss", "speed/steps_per_second"]
    found = {
        chart.title: [t for t in tags for r in chart.multiline.tag if re.match(r, t)]
        for chart in category.chart
    }
    assert found == expected | {tag: [tag] for tag in ("loss", "evaluation/loss")}


@pytest.mark.parametrize("is_success", [True, False])
def test_hparams_are_the_settings_and_how_it_ended(
    tmp_path: pathlib.Path, is_success: bool
) -> None:
    """There is no list of columns, as TensorBoard makes one of all runs that it shows."""
    given = {"model": "keras", "learning_rate": 0.25, "epochs": 10}
    with contextlib.closing(_writer(tmp_path / "logs" / "name")) as writer:
        writer.hparams(given)
        writer.end(is_success=is_success)
    started, ended = (
        value.metadata.plugin_data.content for value in _values(tmp_path / "logs/name/final")
    )
    session = hparams.parse_session_start_info_plugin_data(started)
    assert session.group_name == "name (logs)"
    values = {name: getattr(v, v.WhichOneof("kind")) for name, v in session.hparams.items()}
    assert values == given
    status = hparams.parse_session_end_info_plugin_data(ended).status
    assert status == (api_pb2.STATUS_SUCCESS if is_success else api_pb2.STATUS_FAILURE)


def test_what_was_written_after_a_checkpoint_is_cut_off(tmp_path: pathlib.Path) -> None:
    """The resumed run after a crash writes no step twice."""
    writer = _writer(tmp_path)
    writer.steps(_rows(0, 300))
    sizes = writer.sizes()
    (path,) = (tmp_path / "train").iterdir()
    assert sizes == {f"train/{path.name}": path.stat().st_size}
    writer.steps(_rows(300, 50))
    writer.scalars([350], {"W": [3]}, curve="truth")
    writer.close()
    others = ("notes.txt", "events.out.tfevents.1732502400.host", "events.out.tfevents.1.pipeline")
    for name in others:  # event files, too, that this program did not write
        (tmp_path / "truth" / name).write_text("mine")

    _writer(tmp_path, first_step=300, earlier=sizes).close()
    curves = helpers.scalars(tmp_path / "train")
    assert curves["W"] == [(step, step / 4) for step in range(300)]
    assert {p.name: p.read_text() for p in (tmp_path / "truth").iterdir()} == dict.fromkeys(
        others, "mine"
    )


def test_sizes_include_the_files_of_earlier_processes(tmp_path: pathlib.Path) -> None:
    """Otherwise the second resume would remove the first process's data."""
    sizes: dict[str, int] = {}
    for first in (0, 10):
        with contextlib.closing(_writer(tmp_path, first_step=first, earlier=sizes)) as writer:
            writer.steps(_rows(first, 10))
            sizes = writer.sizes()
    for _ in range(2):
        with contextlib.closing(_writer(tmp_path, first_step=20, earlier=sizes)) as writer:
            assert writer.sizes() == sizes
            writer.steps(_rows(20, 10))
    _writer(tmp_path, first_step=20, earlier=sizes).close()
    assert len(sizes) == 2
    assert [step for step, _ in helpers.scalars(tmp_path / "train")["W"]] == list(range(20))


def test_a_resumed_run_starts_a_file_that_says_where(tmp_path: pathlib.Path) -> None:
    """Then TensorBoard drops later steps that it has already read."""
    with contextlib.closing(_writer(tmp_path)) as writer:
        writer.steps(_rows(0, 300))
        sizes = writer.sizes()
    (old,) = (tmp_path / "train").iterdir()
    content = old.read_bytes()

    with contextlib.closing(_writer(tmp_path, first_step=200, earlier=sizes)) as writer:
        writer.steps(_rows(200, 100))
    assert old.read_bytes() == content
    old.unlink()
    _, start, *_ = helpers.events(tmp_path / "train")
    assert (start.step, start.session_log.status) == (200, tf.compat.v1.SessionLog.START)
    steps = [step for step, _ in helpers.scalars(tmp_path / "train")["W"]]
    assert steps == list(range(200, 300))


def test_files_are_ordered_by_process_and_not_by_time(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is set back by a day before each of twelve processes."""
    sizes: dict[str, int] = {}
    now = time.time()
    for process in range(12):
        monkeypatch.setattr(time, "time", lambda process=process: now - 86400 * process)
        with contextlib.closing(_writer(tmp_path, first_step=process, earlier=sizes)) as writer:
            writer.steps(_rows(process, 1))
            sizes = writer.sizes()
    curve = helpers.scalars(tmp_path / "train")["W"]
    assert curve == [(step, step / 4) for step in range(12)]
    loader = event_accumulator.EventAccumulator(str(tmp_path / "train"), {"tensors": 0}).Reload()
    assert [tensor.step for tensor in loader.Tensors("W")] == list(range(12))


def test_name_of_a_removed_file_is_not_given_again(tmp_path: pathlib.Path) -> None:
    """A TensorBoard with the old file open would not see the new one."""
    _write(tmp_path, {})
    sizes = _write(tmp_path, {})  # removes the first
    (path,) = (tmp_path / "train").iterdir()
    assert sizes.keys() == {f"train/{path.name}"}
    assert path.name == "events.out.tfevents.0000000002.pipeline"


def _write(directory: pathlib.Path, earlier: Mapping[str, int]) -> dict[str, int]:
    """Writes the steps 0 to 99 as another process; returns the sizes of the files."""
    with contextlib.closing(_writer(directory, earlier=earlier)) as writer:
        writer.steps(_rows(0, 100))
        return writer.sizes()


@pytest.mark.parametrize("lost", [1, 5, 20, 400, 10**6], ids="{} bytes lost".format)
def test_what_a_file_cut_short_has_left_is_shown(
    tmp_path: pathlib.Path, lost: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file ends with a whole record, because TensorBoard's readers stop at a partial one."""
    sizes = _write(tmp_path, {})
    (path,) = (tmp_path / "train").iterdir()
    os.truncate(path, max(0, path.stat().st_size - lost))
    with contextlib.closing(_writer(tmp_path, first_step=100, earlier=sizes)) as writer:
        writer.steps(_rows(100, 50))
        assert sum(writer.sizes().values()) == sum(
            path.stat().st_size for path in (tmp_path / "train").iterdir()
        )
    steps = [step for step, _ in helpers.scalars(tmp_path / "train")["W"]]
    left = len(steps) - 50
    assert steps == [*range(left), *range(100, 150)]
    assert left == {1: 99, 5: 99, 20: 99, 400: 95}.get(lost, 0)
    assert capsys.readouterr().err == (
        f"Warning: a part of {path} is gone, so its curves have a gap\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("load_fast", ["true", "false"])
def test_board_shows_what_comes_after_a_gap_and_a_clock_set_back(
    tmp_path: pathlib.Path, load_fast: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both of its readers show it; the times still ascend."""
    now = time.time()
    sizes, saved = {}, 0.0
    for first, count, set_back in ((0, 100, 0), (100, 50, 86400)):
        monkeypatch.setattr(time, "time", lambda set_back=set_back: now - set_back)
        times = clock.Clock(not_before=saved)
        since = times.now()
        time.sleep(0.1)
        times.trained(first, first + count, since=since)
        writer = _writer(tmp_path, times=times, first_step=first, earlier=sizes)
        with contextlib.closing(writer):
            writer.steps(_rows(first, count))
            sizes, saved = writer.sizes(), times.now()
        if not set_back:
            (path,) = (tmp_path / "train").iterdir()
            os.truncate(path, path.stat().st_size - 400)
    with helpers.tensorboard(tmp_path, f"--load_fast={load_fast}") as board:
        curve = board.scalars("train", "W", points=145)
        points = board.get("plugin/scalars/scalars", run="train", tag="W")
    seconds = [second for second, _, _ in points]
    assert (np.diff(seconds) > 0).all()
    assert now <= seconds[0] < seconds[-1] < now + 60
    assert curve == [(step, step / 4) for step in (*range(95), *range(100, 150))]
