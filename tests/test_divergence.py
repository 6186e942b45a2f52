"""Tests of divergence, and of pipeline.run.notes."""

import contextlib
import csv
import json
import pathlib
import re
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import metadata as hparams

from pipeline import config as config_lib
from pipeline.data import datasets as datasets_lib
from pipeline.run import notes, trainer
from pipeline.training import compilation, hooks, task
from tests import helpers


def _steps(directory: pathlib.Path) -> list[int]:
    return [step for step, _ in helpers.scalars(directory / "train")["W"]]


def _diverged(recording: helpers.Recording, first: int = 20, at: int = 27) -> hooks.Divergence:
    """The divergence that ends rows with an infinite one."""
    rows = helpers.line(first, 40)
    rows.loss[at - first :] = rows.values[at - first :] = np.inf
    with pytest.raises(hooks.Divergence) as caught:
        recording.after(rows)
    return caught.value


def _said(end: hooks.Divergence, recording: helpers.Recording) -> str:
    return notes.of_divergence(end, recording.config, recording.line, recording.monitor)


def _warning(recording: helpers.Recording) -> str:
    """The warning before training, or ''."""
    compiled = compilation.Compilation(compilation.Mode.XLA)
    about = recording.config, recording.datasets, recording.task, recording.line, compiled
    found = [each for each in notes.before_training(*about) if each.startswith("Warning: ")]
    return found[0].removeprefix("Warning: ") if found else ""


def _message(
    directory: pathlib.Path, trained: task.Task | None = None, **settings: Any
) -> tuple[str, str]:
    """The messages before training, and after divergence at step 27."""
    recording = helpers.Recording(directory, trained=trained, **{"epochs": 100, **settings})
    with contextlib.closing(recording):
        recording.after(helpers.line(0, 20))
        end = _diverged(recording)
        warning = _warning(recording)
        return warning, _said(end, recording)


@pytest.mark.parametrize(("epochs", "between"), [(100, 1), (5000, 8)])
def test_a_loss_that_rises_and_stays_finite_ends_training(
    tmp_path: pathlib.Path, epochs: int, between: int
) -> None:
    """The loss rises from 10 to 5e18; later finite rows are not recorded."""
    with contextlib.closing(helpers.Recording(tmp_path, epochs=epochs)) as recording:
        recording.after(helpers.line(0, 20))
        rows = helpers.line(20, 40)
        rows.values[7:9, 1], rows.loss[7:9] = 5e18**0.5, 5e18
        with pytest.raises(hooks.Divergence) as caught:
            recording.after(rows)
    message = _said(caught.value, recording)
    start = "the loss has risen to 5e+18 at step 27; the best validation loss was "
    assert message.startswith(start)
    assert _steps(tmp_path) == list(range(27))
    validation = helpers.scalars(tmp_path / "validation")
    for tag in ("loss", "evaluation/loss"):
        assert [step for step, _ in validation[tag]] == list(range(0, 27, between))


def test_message_names_the_step_and_the_best_one_before(tmp_path: pathlib.Path) -> None:
    _, message = _message(tmp_path, learning_rate=0.9)
    expected = (
        r"the loss is not finite at step 27; the best validation loss was (\d\.\d{5}) at step 26; "
        r"the largest stable learning rate for these data is [\d.]+; received --learning_rate=0.9"
    )
    found = re.fullmatch(expected, message)
    assert found
    curve = helpers.scalars(tmp_path / "validation")["loss"]
    assert min(curve, key=lambda point: point[1]) == (26, pytest.approx(float(found[1]), abs=6e-6))


@pytest.mark.parametrize(("learning_rate", "is_warned"), [(0.4, False), (0.51, True), (0.9, True)])
def test_too_large_a_learning_rate_is_said_before_training(
    tmp_path: pathlib.Path, learning_rate: float, is_warned: bool
) -> None:
    """With 5 examples at x = -2, ..., 2 the Hessian is 2 diag(mean of x², 1) = diag(4, 2)."""
    settings = {"num_examples": 5, "x_min": -2.0, "x_max": 2.0}
    warning, message = _message(tmp_path, learning_rate=learning_rate, **settings)
    assert "the largest stable learning rate for these data is 0.5; received" in message
    assert warning == (
        f"--learning_rate={learning_rate:g} is above 0.5, the largest with which gradient descent "
        "is stable on these data; the loss will rise"
        if is_warned
        else ""
    )


@pytest.mark.parametrize(
    ("batch_size", "words"), [(32, ", for mini-batches it is less"), (500, "")]
)
def test_the_learning_rate_is_less_for_mini_batches(
    tmp_path: pathlib.Path, batch_size: int, words: str
) -> None:
    """A batch size equal to the number of examples makes a full batch."""
    _, message = _message(tmp_path, batch_size=batch_size)
    assert re.search(rf"these data is [\d.]+{words}; received", message)


@pytest.mark.parametrize(
    "settings",
    [{"optimizer": "adam"}, {"clip_norm": 1.0}, {"trained": "absolute"}],
    ids=["optimizer", "clipped", "loss"],
)
def test_only_plain_least_squares_has_a_largest_learning_rate(
    tmp_path: pathlib.Path, settings: dict[str, Any]
) -> None:
    trained = helpers.linear(loss=helpers.absolute_error) if settings.pop("trained", 0) else None
    rows, end = helpers.line(0, 20), hooks.Divergence(20, np.inf)
    settings = {"epochs": 100, "learning_rate": 0.9, **settings}
    with contextlib.closing(helpers.Recording(tmp_path, trained=trained, **settings)) as recording:
        recording.after(rows)
        assert _warning(recording) == ""
        message = _said(end, recording)
    end_of_line = r"best validation loss was [\d.]+ at step \d+; received --learning_rate=0.9$"
    assert re.search(end_of_line, message)


def test_divergence_at_the_start_has_no_best_step(tmp_path: pathlib.Path) -> None:
    with contextlib.closing(helpers.Recording(tmp_path, epochs=100)) as recording:
        end = _diverged(recording, first=0, at=0)
        message = _said(end, recording)
    assert message == (
        "the loss is not finite at step 0: the examples, or the model at its start, are too large "
        "for float32"
    )


class _Hot(NamedTuple):
    """A run that diverged."""

    path: pathlib.Path
    step: int  # at which it diverged
    message: str


@pytest.fixture(scope="module")
def hot(tmp_path_factory: pytest.TempPathFactory) -> _Hot:
    """A run of 30 epochs whose loss rises and stays finite to the end."""
    folder = tmp_path_factory.mktemp("hot")
    flags = "--learning_rate=0.9", "--epochs=30", "--run_name=hot"
    result = helpers.call("train", *flags, cwd=folder)
    assert result.returncode == 3
    assert "Warning: --learning_rate=0.9 is above " in result.stdout
    (error,) = result.stderr.splitlines()
    expected = r"train: (the loss has risen to \S+ at step (\d+); .*); see it with: (.*)"
    found = re.fullmatch(expected, error)
    assert found
    assert found[3].endswith("-m pipeline.watch logs/hot")
    return _Hot(folder / "logs" / "hot", int(found[2]), found[1])


@pytest.mark.slow
def test_diverged_run_is_recorded_up_to_there(hot: _Hot) -> None:
    """The last row is good: its loss is below a million times the loss of predicting 0."""
    assert 15 < hot.step < 30
    train = helpers.scalars(hot.path / "train")
    loss_of_zero = np.mean(np.square(helpers.guide(0)[3].train.y))
    assert 1e5 * loss_of_zero < train["evaluation/loss"][-1][1] < 1e6 * loss_of_zero
    for tag in ("W", "loss", "evaluation/loss", "training/gradient_norm"):
        assert [step for step, _ in train[tag]] == list(range(hot.step))
    with (hot.path / "metrics.csv").open(newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(hot.step))
    assert not (hot.path / "export").exists()


@pytest.mark.slow
def test_diverged_run_has_its_outcome_and_pictures(hot: _Hot) -> None:
    train, last = hot.path / "train", hot.step - 1
    assert helpers.steps(train, "images") == {
        "training/data": [0],
        "fit": [0, 1, 4, 16, last],
        "training/parameters": [last],
        "training/path": [last],
    }
    assert helpers.steps(train, "histograms") == {"residuals": sorted({*range(0, last, 2), last})}
    (outcome,) = (
        (step, tf.make_ndarray(value.tensor).item().decode())
        for step, value in helpers.values(train)
        if value.tag == "outcome"
    )
    assert outcome == (hot.step, hot.message)
    result = json.loads((hot.path / "result.json").read_text())
    assert (result["outcome"], result["message"]) == ("diverged", hot.message)
    assert result["step"] == hot.step
    assert not {"train", "validation", "export"} & result.keys()


@pytest.mark.slow
def test_diverged_run_is_marked_among_those_compared(hot: _Hot) -> None:
    """It has no final loss, which would spoil the axis of the other runs."""
    assert helpers.scalars(hot.path / "final") == {"final/diverged": [(hot.step - 1, 1)]}
    *_, ended = (
        value
        for _, value in helpers.values(hot.path / "final")
        if value.metadata.plugin_data.plugin_name == "hparams"
    )
    content = ended.metadata.plugin_data.content
    status = hparams.parse_session_end_info_plugin_data(content).status
    assert status == api_pb2.STATUS_FAILURE


_OPTIMUM = {"initial_w": 3.0, "initial_b": 2.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        _OPTIMUM,
        {**_OPTIMUM, "noise_stddev": 0.0},
        {"initial_w": 0.0, "true_w": 0.0, "true_b": 0.0, "noise_stddev": 0.0},
        {**_OPTIMUM, "optimizer": "adam", "learning_rate": 100.0},
    ],
    ids=["noise", "loss 0", "all 0", "overshooting"],
)
def test_a_start_at_the_optimum_never_diverges(
    tmp_path: pathlib.Path, settings: dict[str, Any]
) -> None:
    config = config_lib.Config(epochs=200, logdir=str(tmp_path), run_name="run", **settings)
    final = trainer.train(config, datasets_lib.load(config)).evaluation
    assert np.isfinite(final.train["loss"])
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["outcome"], result["step"]) == ("trained", 200)
