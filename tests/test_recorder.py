"""Tests of pipeline.recorder."""

import contextlib
import io
import pathlib
import re
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import metadata as hparams

from pipeline import config as config_lib
from pipeline import errors, examples, folder, metrics, recorder, yardstick
from tests.test_train import events, guide


def _recorder(
    path: pathlib.Path, *, steps_per_epoch: int = 1, state: Any = None, **settings: Any
) -> recorder.Recorder:
    config = config_lib.Config(**settings)
    data = examples.load(config)
    return recorder.Recorder(
        config,
        data,
        yardstick.Yardstick.of(config, data),
        paths=folder.RunFolder(path),
        steps_per_epoch=steps_per_epoch,
        state=state,
    )


def _line(first: int, end: int) -> metrics.StepMetrics:
    """Points first to end - 1 on the way from (5, 0) to (3, 2), losses made up."""
    step = np.arange(first, end)
    rest = (0.999**step).astype(np.float32)
    return metrics.StepMetrics(step, 3 + 2 * rest, 2 - 2 * rest, 1 + rest)


def _descent(last_step: int) -> metrics.StepMetrics:
    """The guide's loop on the default data."""
    W, b, loss, _ = guide(last_step)
    columns = (np.array(column, np.float32) for column in (W, b, loss))
    return metrics.StepMetrics(np.arange(last_step + 1), *columns)


def _feed(observer: recorder.Recorder, last_step: int, *, stretch: int = 4096) -> None:
    for start in range(0, last_step + 1, stretch):
        observer(_line(start, min(start + stretch, last_step + 1)))


def _steps(path: pathlib.Path) -> dict[str, list[int]]:
    """The steps of each curve in a folder's event files."""
    return {tag: [step for step, _ in points] for tag, points in events(path).items()}


def _shown(path: pathlib.Path, kind: str) -> dict[str, list[int]]:
    """The steps at which each tag of a kind of value is in a folder's event files."""
    steps: dict[str, list[int]] = {}
    for file in sorted(path.glob("*tfevents*")):
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                if value.HasField(kind):
                    steps.setdefault(value.tag, []).append(event.step)
    return steps


@pytest.mark.parametrize(
    ("last_step", "summary_every", "expected"),
    [
        (10, 0, range(11)),
        (10_000, 0, range(10_001)),
        (10, 7, [0, 7, 10]),
        (14, 7, [0, 7, 14]),
        (100_000, 0, range(0, 100_001, 16)),
        (99_999, 0, [*range(0, 99_999, 16), 99_999]),
    ],
)
def test_at_most_ten_thousand_steps_are_summarised_evenly_with_the_first_and_the_last(
    tmp_path: pathlib.Path, last_step: int, summary_every: int, expected: Any
) -> None:
    settings = {"epochs": last_step, "summary_every": summary_every}
    with contextlib.closing(_recorder(tmp_path, **settings)) as observer:
        _feed(observer, last_step)
    assert len(expected) <= 10_001
    steps = _steps(tmp_path / "train")
    for found in (steps["W"], steps["b"], steps["loss"], _steps(tmp_path / "validation")["loss"]):
        assert found == list(expected)
    derived = steps["gradient_norm"]
    assert derived == steps["distance_to_optimum"]
    assert (derived[0], derived[-1]) == (0, last_step)
    assert len(derived) <= 2050
    assert set(derived) <= set(expected)
    curve = dict(events(tmp_path / "train")["W"])
    np.testing.assert_array_equal([*curve.values()], _line(0, last_step + 1).W[[*curve]])


@pytest.mark.parametrize(("summary_every", "between"), [(0, 5), (3, 5), (7, 5), (20, 20)])
def test_validation_is_summarised_at_ends_of_epochs(
    tmp_path: pathlib.Path, summary_every: int, between: int
) -> None:
    settings = {"epochs": 9, "steps_per_epoch": 5, "summary_every": summary_every}
    with contextlib.closing(_recorder(tmp_path, **settings)) as observer:
        _feed(observer, 45, stretch=7)  # some stretches end no epoch
    expected = sorted({*range(0, 46, between), 45})
    assert _steps(tmp_path / "validation")["loss"] == expected


def test_a_stretch_may_have_no_step_that_is_due(tmp_path: pathlib.Path) -> None:
    """As between two checkpoints that are closer than two points."""
    with contextlib.closing(_recorder(tmp_path, epochs=50, summary_every=20)) as observer:
        _feed(observer, 50, stretch=6)
    steps = _steps(tmp_path / "train")
    assert steps["W"] == steps["gradient_norm"] == [0, 20, 40, 50]


def test_derived_curves_are_the_gradient_and_the_distance_at_each_point(
    tmp_path: pathlib.Path,
) -> None:
    points = _descent(20)
    with contextlib.closing(_recorder(tmp_path, epochs=20)) as observer:
        observer(points)
    x, y = (column.astype(np.float64) for column in examples.load(config_lib.Config()).train)
    best = np.polyfit(x, y, 1)
    curves = events(tmp_path / "train")
    for k, (W, b) in enumerate(zip(points.W, points.b, strict=True)):
        residual = W * x + b - y
        gradient = 2 * np.mean(residual * x), 2 * np.mean(residual)
        assert curves["gradient_norm"][k] == (k, pytest.approx(np.hypot(*gradient), rel=1e-5))
        distance = np.hypot(W - best[0], b - best[1])
        assert curves["distance_to_optimum"][k] == (k, pytest.approx(distance, rel=1e-5))


def test_the_moving_fit_is_drawn_at_powers_of_four(tmp_path: pathlib.Path) -> None:
    with contextlib.closing(_recorder(tmp_path, epochs=70)) as observer:
        _feed(observer, 70, stretch=16)
        observer.finish()
    images = _shown(tmp_path / "train", "image")
    assert images.pop("fit") == [1, 4, 16, 64]
    assert images == {"parameters": [70], "trained": [70], "path": [70]}
    assert _shown(tmp_path / "train", "histo") == {"residuals": [1, 4, 16, 64, 70]}


def _restored(state: Any) -> dict[str, Any]:
    """A state after it has been in a file."""
    buffer = io.BytesIO()
    np.savez(buffer, **state)
    buffer.seek(0)
    with np.load(buffer) as arrays:
        return dict(arrays)


@pytest.mark.parametrize(
    ("saved", "settings"),
    [(0, {}), (25, {"summary_every": 4, "validation_examples": 0})],
)
def test_a_recording_that_goes_on_equals_one_that_never_stopped(
    tmp_path: pathlib.Path, saved: int, settings: dict[str, Any]
) -> None:
    """Though more was recorded after the state, and some is handed out again."""
    points, model = _descent(60), metrics.Parameters(np.array([5.0]), 0.0)
    whole, cut = (_recorder(tmp_path / name, epochs=60, **settings) for name in ("whole", "cut"))
    for observer in (whole, cut):
        observer.start(model, graph=tf.compat.v1.GraphDef())
    for part in (slice(0, 10), slice(10, 61)):
        whole(points.at(part))
    cut(points.at(slice(0, saved)))
    state = _restored(cut.state())
    cut(points.at(slice(saved, 40)))
    cut.close()
    second = _recorder(tmp_path / "cut", epochs=60, state=state, **settings)
    assert second.recorded == saved
    second(points.at(slice(max(0, saved - 5), 61)))
    assert second.best == whole.best
    for observer in (whole, second):
        observer.finish()
        observer.close()
    curves = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert curves == sorted(path.name for path in (tmp_path / "cut").iterdir())
    for curve in curves:
        expected, found = (events(tmp_path / name / curve) for name in ("whole", "cut"))
        for tag in ("steps_per_second", "examples_per_second"):  # they depend on the clock
            assert bool(expected.pop(tag, None)) == bool(found.pop(tag, None))
        assert found == expected
    for kind in ("image", "histo"):
        found, expected = (_shown(tmp_path / n / "train", kind) for n in ("cut", "whole"))
        assert found == expected


@pytest.mark.parametrize("column", ["W", "b", "loss"])
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
@pytest.mark.parametrize("at", [20, 27])
def test_divergence_names_the_step_and_keeps_the_points_before(
    tmp_path: pathlib.Path, column: str, bad: float, at: int
) -> None:
    observer = _recorder(tmp_path, epochs=100, learning_rate=0.9)
    observer(_line(0, 20))
    points = _line(20, 40)
    getattr(points, column)[at - 20 :] = bad
    with pytest.raises(errors.DivergedError) as caught:
        observer(points)
    message = str(caught.value)
    found = re.search(r"at step (\d+); the last good step is (\d+): W = \S+, b = \S+,", message)
    assert found
    assert [int(number) for number in found.groups()] == [at, at - 1]
    assert message.endswith("received --learning_rate=0.9")
    assert observer.recorded == at
    observer.close()
    steps = _steps(tmp_path / "train")
    for tag in ("W", "b", "loss", "gradient_norm"):
        assert steps[tag] == list(range(at))
    (path,) = (tmp_path / "train").iterdir()
    *_, last = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    (value,) = tf.compat.v1.Event.FromString(last).summary.value
    ended = hparams.parse_session_end_info_plugin_data(value.metadata.plugin_data.content)
    assert ended.status == api_pb2.STATUS_FAILURE


def test_divergence_at_the_start_has_no_good_step(tmp_path: pathlib.Path) -> None:
    observer = _recorder(tmp_path, epochs=10)
    points = _line(0, 3)
    points.loss[:] = np.inf
    with pytest.raises(errors.DivergedError, match="at step 0: the examples, or W and b"):
        observer(points)
    observer.close()
    assert observer.recorded == 0
