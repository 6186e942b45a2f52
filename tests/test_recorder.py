"""Tests of pipeline.reporting.recorder and .reporters."""

import contextlib
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import metadata as hparams

from pipeline.evaluation import evaluate, monitor
from pipeline.reporting import plots
from pipeline.training import hooks, losses, step_metrics, task
from tests import helpers

_RATES = ("speed/steps_per_second", "speed/examples_per_second")


def _feed(recording: helpers.Recording, last_step: int, *, at_a_time: int = 4096) -> None:
    """Records the steps of a whole run."""
    for first in range(0, last_step, at_a_time):
        recording.after(helpers.line(first, min(first + at_a_time, last_step)))
    recording.finish(helpers.line(last_step, last_step + 1))


def _steps(directory: pathlib.Path) -> dict[str, list[int]]:
    """The steps of each scalar."""
    return {tag: [s for s, _ in curve] for tag, curve in helpers.scalars(directory).items()}


@pytest.fixture(autouse=True)
def _blank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves plots blank, because drawing takes most of the time and is not tested here.

    test_plots and test_image_logger test the drawing.
    """
    monkeypatch.setattr(plots, "png", lambda _: b"a picture")


@pytest.fixture
def houses(tmp_path: pathlib.Path) -> str:
    """A CSV file with two features."""
    path = tmp_path / "houses.csv"
    path.write_text("rooms,area,price\n1,2,3\n2,1,4\n3,5,6\n4,4,4\n")
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("last_step", "summary_every", "expected"),
    [
        (10, 0, range(11)),
        pytest.param(10_000, 0, range(10_001), marks=pytest.mark.slow),
        (10, 7, [0, 7, 10]),
        (14, 7, [0, 7, 14]),
        pytest.param(100_000, 0, range(0, 100_001, 16), marks=pytest.mark.slow),
        pytest.param(99_999, 0, [*range(0, 99_999, 16), 99_999], marks=pytest.mark.slow),
    ],
)
def test_at_most_ten_thousand_steps_are_recorded_evenly(
    tmp_path: pathlib.Path, last_step: int, summary_every: int, expected: Any
) -> None:
    """They always include the first and the last step."""
    settings = {"epochs": last_step, "summary_every": summary_every}
    with contextlib.closing(helpers.Recording(tmp_path, **settings)) as recording:
        _feed(recording, last_step)
    assert len(expected) <= 10_001
    validation = _steps(tmp_path / "validation")
    evaluated = validation["evaluation/loss"]
    assert validation["loss"] == evaluated
    assert (evaluated[0], evaluated[-1], len(evaluated) <= 1001) == (0, last_step, True)
    assert len(set(np.diff(evaluated[:-1]))) == 1
    curves = helpers.scalars(tmp_path / "train")
    rows = helpers.line(0, last_step + 1)
    for tag, column in zip(("W", "b", "loss"), (*rows.values.T, rows.loss), strict=True):
        steps, values = zip(*curves[tag], strict=True)
        assert list(steps) == list(expected)
        np.testing.assert_array_equal(values, column[list(expected)])
    steps, values = zip(*curves["training/gradient_norm"], strict=True)
    np.testing.assert_array_equal(values, rows.gradient_norm[list(steps)])
    derived, *others = (
        [step for step, _ in curves[f"training/{name}"]]
        for name in ("gradient_norm", "learning_rate", "distance_to_optimum")
    )
    assert others == [derived] * 2
    assert (derived[0], derived[-1]) == (0, last_step)
    assert len(derived) <= 2050
    assert set(derived) <= set(expected)


@pytest.mark.parametrize("summary_every", [0, 3, 20])
def test_the_model_is_evaluated_at_ends_of_epochs(
    tmp_path: pathlib.Path, summary_every: int
) -> None:
    """The recorded steps do not matter."""
    settings = {"epochs": 9, "batch_size": 41, "summary_every": summary_every}
    with contextlib.closing(helpers.Recording(tmp_path, **settings)) as recording:
        _feed(recording, 45, at_a_time=7)  # some contain no end of an epoch
    evaluated = list(range(0, 46, 5))
    assert _steps(tmp_path / "validation") == dict.fromkeys(("loss", "evaluation/loss"), evaluated)
    train = _steps(tmp_path / "train")
    assert train["evaluation/loss"] == train["evaluation/best_epoch"] == evaluated


def test_rows_may_have_no_step_that_is_due(tmp_path: pathlib.Path) -> None:
    """This happens between checkpoints that are closer than recorded steps."""
    settings = {"epochs": 50, "summary_every": 20}
    with contextlib.closing(helpers.Recording(tmp_path, **settings)) as recording:
        _feed(recording, 50, at_a_time=6)
    steps = _steps(tmp_path / "train")
    for tag in ("W", "training/gradient_norm", "training/learning_rate"):
        assert steps[tag] == [0, 20, 40, 50]


def test_the_rate_and_the_distance_are_those_of_a_step(tmp_path: pathlib.Path) -> None:
    """A step has the rate of its next update: half of the first rate after 10 of 20 steps."""
    W, b, loss, datasets = helpers.guide(20)
    values = np.stack([W, b], axis=1).astype(np.float32)
    rows = step_metrics.StepMetrics(np.arange(20), values[:20], *[np.float32(loss[:20])] * 2)
    settings = {"epochs": 20, "schedule": "cosine"}
    with contextlib.closing(helpers.Recording(tmp_path, **settings)) as recording:
        recording.after(rows)
    x, y = datasets.train.x[:, 0].astype(np.float64), datasets.train.y.astype(np.float64)
    best = np.polyfit(x, y, 1)
    curves = helpers.scalars(tmp_path / "train")
    for k in range(20):
        rate = 0.1 * (1 + np.cos(np.pi * k / 20)) / 2
        assert curves["training/learning_rate"][k] == (k, pytest.approx(rate, rel=1e-5))
        distance = np.hypot(W[k] - best[0], b[k] - best[1])
        assert curves["training/distance_to_optimum"][k] == (k, pytest.approx(distance, rel=1e-5))


def test_the_start_records_what_is_known_before(tmp_path: pathlib.Path) -> None:
    graph = tf.compat.v1.GraphDef()
    graph.node.add(name="the_step")
    with contextlib.closing(helpers.Recording(tmp_path, epochs=70)) as recording:
        recording.start(graph)
    train = tmp_path / "train"
    assert helpers.steps(train, "images") == {"training/data": [0], "fit": [0]}
    assert helpers.steps(train, "text") == {"settings": [0]}
    assert list(helpers.steps(train, "custom_scalars").values()) == [[0]]
    (written,) = (event.graph_def for event in helpers.events(train) if event.graph_def)
    assert tf.compat.v1.GraphDef.FromString(written) == graph


@pytest.mark.parametrize(("epochs", "between"), [(10, 1), (30, 2), (250, 16)])
def test_references_are_flat_lines_of_up_to_16_points(
    tmp_path: pathlib.Path, epochs: int, between: int
) -> None:
    """The last step is added. With their ends only, they would be dots over wall time."""
    with contextlib.closing(helpers.Recording(tmp_path, epochs=epochs)) as recording:
        _feed(recording, epochs, at_a_time=7)
    steps = sorted({*range(0, epochs, between), epochs})
    truth = helpers.scalars(tmp_path / "truth")
    assert truth["W"] == [(step, 3) for step in steps]
    assert truth["b"] == [(step, 2) for step in steps]
    x, y = (column.astype(np.float64) for column in recording.datasets.train.arrays)
    W, b = np.polyfit(x[:, 0], y, 1)
    best = np.mean((W * x[:, 0] + b - y) ** 2)
    least_squares = helpers.scalars(tmp_path / "least_squares")
    for tag, value in (("W", W), ("b", b), ("loss", best)):
        assert least_squares[tag] == [(step, pytest.approx(value, rel=1e-6)) for step in steps]


def test_references_may_be_left_out(tmp_path: pathlib.Path) -> None:
    with contextlib.closing(helpers.Recording(tmp_path, epochs=3, references=False)) as recording:
        _feed(recording, 3)
    directories = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert directories == ["figures", "final", "train", "validation"]


def test_no_graph_is_recorded_where_none_is_given(tmp_path: pathlib.Path) -> None:
    with contextlib.closing(helpers.Recording(tmp_path)) as recording:
        recording.start()
    assert not any(event.graph_def for event in helpers.events(tmp_path / "train"))
    assert helpers.steps(tmp_path / "train", "text") == {"settings": [0]}


def _settings(directory: pathlib.Path) -> list[str]:
    """The tables of the settings."""
    return [
        tf.make_ndarray(value.tensor).item().decode()
        for _, value in helpers.values(directory)
        if value.tag == "settings"
    ]


def test_the_settings_are_a_table_of_all_that_matters(tmp_path: pathlib.Path, houses: str) -> None:
    settings = {"data": houses, "validation_examples": 1, "epochs": 2000, "learning_rate": 0.25}
    with contextlib.closing(helpers.Recording(tmp_path, **settings)) as recording:
        recording.start()
    (table,) = _settings(tmp_path / "train")
    lines = table.splitlines()
    assert lines[:2] == ["| setting | value |", "|---|---|"]
    for line in (
        "| repeat | `python -m pipeline.train --a_flag` |",
        "| training | 3 examples |",
        "| validation | 1 examples |",
        "| features | rooms, area |",
        "| steps | 2,000, 1 an epoch |",
        "| learning_rate | `0.25` |",
        f"| tensorflow | {tf.__version__} |",
    ):
        assert line in lines


def test_an_extended_run_extends_its_references(tmp_path: pathlib.Path) -> None:
    with contextlib.closing(helpers.Recording(tmp_path, epochs=10)) as recording:
        recording.start()
        recording.after(helpers.line(0, 10))
        earlier = {
            "history": recording.reporters.history,
            "event_files": recording.reporters.flush(),
        }
    with contextlib.closing(helpers.Recording(tmp_path, epochs=40, **earlier)) as recording:
        recording.reporters.extend({}, step=10)
        recording.after(helpers.line(10, 41))
    expected = [*range(10), *range(12, 41, 4)]
    for curve in ("truth", "least_squares"):
        assert _steps(tmp_path / curve) == dict.fromkeys(("W", "b", "loss"), expected)
    assert helpers.steps(tmp_path / "train", "text") == {"settings": [0, 10]}
    old, new = _settings(tmp_path / "train")
    assert ("| epochs | `10` |" in old, "| epochs | `40` |" in new) == (True, True)
    assert len(_sessions(tmp_path / "final")) == 1  # HParams shows the first


def _sessions(directory: pathlib.Path) -> list[dict[str, Any]]:
    """The settings that HParams shows."""
    contents = [
        value.metadata.plugin_data.content
        for _, value in helpers.values(directory)
        if value.tag == hparams.SESSION_START_INFO_TAG
    ]
    infos = [hparams.parse_session_start_info_plugin_data(content) for content in contents]
    return [
        {name: getattr(v, v.WhichOneof("kind")) for name, v in info.hparams.items()}
        for info in infos
    ]


def test_hparams_are_what_runs_differ_by(tmp_path: pathlib.Path, houses: str) -> None:
    for name, settings in (("guide", {}), ("file", {"data": houses}), ("mlp", {"model": "mlp"})):
        with contextlib.closing(helpers.Recording(tmp_path / name, **settings)) as recording:
            recording.start()
        (session,) = _sessions(tmp_path / name / "final")
        count = 4 if name == "file" else 201
        assert session == {**recording.config.compared, "num_examples": count}


def test_a_file_has_least_squares_but_no_truth(
    tmp_path: pathlib.Path, houses: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.closing(helpers.Recording(tmp_path, data=houses, epochs=1)) as recording:
        recording.start()
        values = np.array([[1, 0, 0], [0.5, 0.25, 1]], np.float32)
        rows = step_metrics.StepMetrics(np.arange(2), values, values[:, 0], values[:, 1])
        recording.after(rows.select(slice(0, 1)))
        recording.finish(rows.select(slice(1, 2)))
    units = recording.datasets.units
    assert units
    x, y = (
        units.x_in_data_units(recording.datasets.train.x),
        units.in_data_units(recording.datasets.train.y),
    )
    solution = np.linalg.lstsq(np.column_stack([x, np.ones(4)]), y, rcond=None)[0]
    curves = helpers.scalars(tmp_path / "least_squares")
    for i, tag in enumerate(("W/rooms", "W/area", "b")):
        assert curves[tag] == [(step, pytest.approx(solution[i], abs=1e-5)) for step in (0, 1)]
    assert not (tmp_path / "truth").exists()
    assert not (tmp_path / "validation").exists()
    W0, W1, b = solution
    output = capsys.readouterr().out
    assert f"Least squares: W = [{W0:.2f}, {W1:.2f}], b = {b:.2f}, loss=" in output


def test_a_task_that_is_no_linear_regression_has_no_reference(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    absolute = helpers.linear(loss=helpers.absolute_error)
    recording = helpers.Recording(tmp_path, trained=absolute, epochs=5)
    with contextlib.closing(recording):
        recording.start()
        recording.after(helpers.line(0, 5))
        recording.finish(helpers.line(5, 6))
    directories = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert directories == ["figures", "final", "train", "validation"]
    assert helpers.scalars(tmp_path / "train").keys() == {
        *("W", "b", "loss", "training/gradient_norm", "training/learning_rate"),
        *("evaluation/loss", "evaluation/best_epoch"),
    }
    x, y = (column.astype(np.float64) for column in recording.datasets.train.arrays)
    W, b = helpers.line(5, 6).values[0]
    expected = np.mean(np.abs(W * x[:, 0] + b - y))
    curves = helpers.scalars(tmp_path / "final")
    assert curves["final/loss"] == [(5, pytest.approx(expected, rel=1e-5))]
    assert "Least squares" not in capsys.readouterr().out


@pytest.mark.parametrize("validation_examples", [201, 0])
def test_the_end_records_the_final_losses_and_metrics(
    tmp_path: pathlib.Path, validation_examples: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each has the tag that HParams compares."""
    settings = {"epochs": 3, "validation_examples": validation_examples, "metrics": "mae,r2_score"}
    train = {"loss": 0.5, "mae": 0.25, "r2_score": 4.0}
    validation = {"loss": 0.75, "mae": 0.125, "r2_score": 8.0} if validation_examples else {}
    last = helpers.line(3, 4)
    with contextlib.closing(helpers.Recording(tmp_path, **settings)) as recording:
        recording.start()
        recording.after(helpers.line(0, 3))
        recording.reporters.finish(last, _evaluation(3, train, validation), {})
    expected = {"final/diverged": 0} | {f"final/{name}": v for name, v in train.items()}
    expected |= {f"final/validation_{name}": number for name, number in validation.items()}
    assert helpers.scalars(tmp_path / "final") == {tag: [(3, v)] for tag, v in expected.items()}
    assert (tmp_path / "validation").exists() == bool(validation_examples)
    assert helpers.scalars(tmp_path / "train")["W"][-1] == (3, last.values[0, 0])
    images = helpers.steps(tmp_path / "train", "images")
    assert images.pop("training/data") == [0]
    assert [curve[-1] for curve in images.values()] == [3, 3, 3]
    assert images.keys() == {"fit", "training/parameters", "training/path"}
    assert _status(tmp_path / "final") == api_pb2.STATUS_SUCCESS
    assert "Least squares: W = 3." in capsys.readouterr().out


def _status(directory: pathlib.Path) -> Any:
    """The status of the run in the last event."""
    (value,) = helpers.events(directory)[-1].summary.value
    return hparams.parse_session_end_info_plugin_data(value.metadata.plugin_data.content).status


def _evaluation(
    step: int, train: dict[str, float], validation: dict[str, float], best: int = 0
) -> monitor.EpochEvaluation:
    found = evaluate.Evaluation(train, validation)
    values = np.zeros(2, np.float32)
    return monitor.EpochEvaluation(step, values, found, monitor.Best(best, 0.0))


def test_an_evaluation_is_recorded_with_the_metrics_of_both_sets(tmp_path: pathlib.Path) -> None:
    """Epochs have 7 steps, and each evaluation has its own numbers."""
    settings = {"epochs": 8, "batch_size": 32, "metrics": "mae"}
    with contextlib.closing(helpers.Recording(tmp_path, **settings)) as recording:
        for k in range(9):
            train = {"loss": k + 0.5, "mae": k + 0.25}
            validation = {name: -number for name, number in train.items()}
            recording.hooks.after_pause(_evaluation(7 * k, train, validation, 7 * (k // 2)))
    assert helpers.scalars(tmp_path / "train") == {
        "evaluation/loss": [(7 * k, k + 0.5) for k in range(9)],
        "evaluation/mae": [(7 * k, k + 0.25) for k in range(9)],
        "evaluation/best_epoch": [(7 * k, k // 2) for k in range(9)],
    }
    assert helpers.scalars(tmp_path / "validation") == {
        "loss": [(7 * k, -k - 0.5) for k in range(9)],
        "evaluation/loss": [(7 * k, -k - 0.5) for k in range(9)],
        "evaluation/mae": [(7 * k, -k - 0.25) for k in range(9)],
    }
    header, *rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert header == "step,epoch,loss,mae,validation_loss,validation_mae,learning_rate"
    rate = float(np.float32(0.1))
    assert rows == [
        f"{7 * k},{k},{k + 0.5},{k + 0.25},{-k - 0.5},{-k - 0.25},{rate}" for k in range(9)
    ]


def test_of_many_numbers_their_distributions_are_recorded(tmp_path: pathlib.Path) -> None:
    """Each trainable variable has them at up to 100 evenly spaced epochs and the last one."""
    tf.keras.utils.clear_session(free_memory=False)
    layers = [tf.keras.Input([1]), tf.keras.layers.Dense(20), tf.keras.layers.BatchNormalization()]
    model = tf.keras.Sequential([*layers, tf.keras.layers.Dense(1, name="last")])
    loss, spec = losses.mean_loss(losses.squared_error, model), helpers.linear().spec
    many = task.Task(model, loss, spec=spec, features=("x",))
    recording = helpers.Recording(tmp_path, trained=many, epochs=150)
    with contextlib.closing(recording):
        for step in range(151):
            recording.hooks.pause(step)
    names = {"dense.kernel", "dense.bias", "gamma", "beta", "last.kernel", "last.bias"}
    histograms = helpers.steps(tmp_path / "train", "histograms")
    assert histograms == {name: list(range(0, 151, 2)) for name in names}


def _trained(recording: helpers.Recording, first: int, end: int, seconds: float) -> None:
    """Records steps that took `seconds`."""
    recording.clock.trained(first, end, since=recording.clock.now() - seconds)
    recorder, *_ = recording.reporters.hooks
    recorder.after(helpers.line(first, end))


def test_rates_are_of_every_second_of_training(tmp_path: pathlib.Path) -> None:
    """201 examples make 7 batches, so a step has 201 / 7 examples on average."""
    settings = {"epochs": 50, "batch_size": 32}
    with contextlib.closing(helpers.Recording(tmp_path, **settings)) as recording:
        for first, seconds in zip(range(0, 350, 70), (0.5, 0.75, 1, 0.25, 0.125), strict=True):
            _trained(recording, first, first + 70, seconds)
    steps, examples = (helpers.scalars(tmp_path / "train")[tag] for tag in _RATES)
    assert [step for step, _ in steps] == [139, 209]
    expected = 140 / 1.25, 70
    assert [rate for _, rate in steps] == pytest.approx(expected, rel=1e-3)
    for (_, rate), (_, per_second) in zip(steps, examples, strict=True):
        assert per_second == pytest.approx(rate * 201 / 7, rel=1e-6)


@pytest.mark.parametrize(("seconds", "has_rate"), [(0.5, True), (0.125, True), (0.0625, False)])
def test_a_short_run_has_one_rate_if_it_was_measured(
    tmp_path: pathlib.Path, seconds: float, has_rate: bool
) -> None:
    with contextlib.closing(helpers.Recording(tmp_path, epochs=50)) as recording:
        for first in (0, 25):
            _trained(recording, first, first + 25, seconds / 2)
    curve = helpers.scalars(tmp_path / "train").get(_RATES[0], [])
    assert [step for step, _ in curve] == ([49] if has_rate else [])
    assert [rate for _, rate in curve] == pytest.approx(
        [50 / seconds] if has_rate else [], rel=0.01
    )


def test_a_flush_draws_and_writes_what_waits(tmp_path: pathlib.Path) -> None:
    with contextlib.closing(helpers.Recording(tmp_path, epochs=70)) as recording:
        recording.after(helpers.line(0, 20))
        sizes = recording.reporters.flush()
        train = tmp_path / "train"
        assert helpers.steps(train, "images") == {"fit": [1, 4, 16]}
        assert _steps(train)["W"] == list(range(20))
    paths = [*tmp_path.glob("*/events.out.tfevents.*"), tmp_path / "metrics.csv"]
    assert sizes == {str(path.relative_to(tmp_path)): path.stat().st_size for path in paths}
    curves = {"least_squares", "metrics.csv", "train", "truth", "validation"}
    assert {path.partition("/")[0] for path in sizes} == curves


@pytest.mark.slow
@pytest.mark.parametrize(
    ("saved", "settings"), [(0, {}), (25, {"summary_every": 4, "validation_examples": 0})]
)
def test_a_resumed_recording_equals_one_that_never_stopped(
    tmp_path: pathlib.Path, saved: int, settings: dict[str, Any]
) -> None:
    """Later records than the checkpoint are recorded again."""
    W, b, loss, _ = helpers.guide(60)
    values = np.stack([W, b], axis=1).astype(np.float32)
    rows = step_metrics.StepMetrics(np.arange(61), values, *[np.float32(loss)] * 2)
    whole = helpers.Recording(tmp_path / "whole", epochs=60, **settings)
    whole.start()
    for part in (slice(0, 10), slice(10, 60)):
        whole.after(rows.select(part))

    cut = helpers.Recording(tmp_path / "cut", epochs=60, **settings)
    if saved:
        cut.start()
    cut.after(rows.select(slice(0, saved)))
    sizes, history = cut.reporters.flush(), cut.reporters.history
    best = cut.monitor.best
    if not saved:
        cut.start()
    cut.after(rows.select(slice(saved, 40)))
    cut.reporters.flush()
    cut.close()

    second = helpers.Recording(
        tmp_path / "cut", epochs=60, history=history, event_files=sizes, **settings
    )
    second.monitor.best = best
    if not saved:
        second.start()
    second.after(rows.select(slice(saved, 60)))
    assert second.monitor.best == whole.monitor.best
    for recording in (whole, second):
        recording.finish(rows.select(slice(60, 61)))
        recording.close()
    _assert_equal_recordings(tmp_path / "cut", tmp_path / "whole")


def _assert_equal_recordings(found: pathlib.Path, expected: pathlib.Path) -> None:
    curves = sorted(path.name for path in expected.iterdir())
    assert sorted(path.name for path in found.iterdir()) == curves
    table = "metrics.csv"
    assert (found / table).read_text() == (expected / table).read_text()
    for curve in curves:
        both = [helpers.scalars(path / curve) for path in (found, expected)]
        assert both[0] == both[1]
    assert _others(found / "train") == _others(expected / "train")


def _others(directory: pathlib.Path) -> list[tuple[int, str, bytes]]:
    """The images, histograms and texts."""
    return sorted(
        (step, value.tag, value.SerializeToString())
        for step, value in helpers.values(directory)
        if value.HasField("image")
        or value.metadata.plugin_data.plugin_name in ("histograms", "text", "custom_scalars")
    )


@pytest.mark.parametrize("column", ["values", "loss"])
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
@pytest.mark.parametrize("at", [20, 27])
def test_rows_before_divergence_are_recorded(
    tmp_path: pathlib.Path, column: str, bad: float, at: int
) -> None:
    with contextlib.closing(helpers.Recording(tmp_path, epochs=100)) as recording:
        recording.after(helpers.line(0, 20))
        rows = helpers.line(20, 40)
        getattr(rows, column)[at - 20 :] = bad
        with pytest.raises(hooks.Divergence) as caught:
            recording.after(rows)
        recording.reporters.diverged("the outcome")
    assert caught.value.step == at
    steps = _steps(tmp_path / "train")
    for tag in ("W", "b", "loss", "training/gradient_norm", "training/learning_rate"):
        assert steps[tag] == list(range(at))
    # The model itself is good where the loss alone is not.
    evaluated = at + (column == "loss")
    assert _steps(tmp_path / "validation")["loss"] == list(range(evaluated))
    assert recording.reporters.history.step[-1] == at - 1
    assert helpers.scalars(tmp_path / "final") == {"final/diverged": [(at - 1, 1)]}
    assert _status(tmp_path / "final") == api_pb2.STATUS_FAILURE
