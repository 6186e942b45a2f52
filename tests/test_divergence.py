"""Tests of pipeline.run.divergence."""

import contextlib
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import metadata as hparams

from pipeline import errors
from pipeline.run import divergence
from pipeline.training import metrics, task
from tests import helpers


class _Run:
    """A recorder, and then the hook that ends training, as in a run."""

    def __init__(self, recording: helpers.Recording):
        self._recording = recording
        self._stop = divergence.StopOnDivergence(
            recording.config, recording.evaluator, recording.recorder
        )

    def after(self, rows: metrics.StepMetrics) -> None:
        self._recording.after(rows)
        self._stop.after(rows)


@contextlib.contextmanager
def _run(
    directory: pathlib.Path, trained: task.Task | None = None, **settings: Any
) -> Iterator[_Run]:
    recording = helpers.Recording(directory, trained=trained, **settings)
    with contextlib.closing(recording):
        yield _Run(recording)


def _message(run: _Run, first: int = 20, at: int = 27) -> str:
    """What is said of rows of which one has an infinite loss."""
    rows = helpers.line(first, 40)
    rows.loss[at - first :] = np.inf
    with pytest.raises(errors.DivergedError) as caught:
        run.after(rows)
    return str(caught.value)


def test_finite_rows_go_on(tmp_path: pathlib.Path) -> None:
    with _run(tmp_path, epochs=100) as run:
        run.after(helpers.line(0, 20))
        run.after(helpers.line(20, 40))
    assert [step for step, _ in helpers.scalars(tmp_path / "train")["W"]] == list(range(40))
    assert not any(
        value.tag == hparams.SESSION_END_INFO_TAG for _, value in helpers.values(tmp_path / "train")
    )


@pytest.mark.parametrize("column", ["W", "b", "loss"])
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
@pytest.mark.parametrize("at", [20, 27])
def test_divergence_names_its_step_and_the_last_good_one(
    tmp_path: pathlib.Path, column: str, bad: float, at: int
) -> None:
    with _run(tmp_path, epochs=100, learning_rate=0.9) as run:
        run.after(helpers.line(0, 20))
        rows = helpers.line(20, 40)
        {"W": rows.values[:, 0], "b": rows.values[:, 1], "loss": rows.loss}[column][at - 20 :] = bad
        with pytest.raises(errors.DivergedError) as caught:
            run.after(rows)
    W, b, loss = 3 + 2 * 0.999 ** (at - 1), 2 - 2 * 0.999 ** (at - 1), 1 + 0.999 ** (at - 1)
    expected = (
        f"the loss is not finite at step {at}; the last good step is {at - 1}: "
        f"W = {W:.2f}, b = {b:.2f}, loss={loss:.5f}; the largest stable learning rate for these "
        r"data is [\d.]+; received --learning_rate=0.9"
    )
    assert re.fullmatch(expected, str(caught.value))
    steps = [step for step, _ in helpers.scalars(tmp_path / "train")["W"]]
    assert steps == list(range(at))
    (value,) = helpers.events(tmp_path / "train")[-1].summary.value
    ended = hparams.parse_session_end_info_plugin_data(value.metadata.plugin_data.content)
    assert ended.status == api_pb2.STATUS_FAILURE


def test_the_learning_rate_in_the_message_is_the_largest(tmp_path: pathlib.Path) -> None:
    """At x = -2, ..., 2 of 5 examples: the Hessian is 2 diag(mean of x², 1) = diag(4, 2)."""
    with _run(tmp_path, num_examples=5, x_min=-2, x_max=2, epochs=100) as run:
        run.after(helpers.line(0, 20))
        message = _message(run)
    assert "the largest stable learning rate for these data is 0.5; received" in message


def test_the_learning_rate_is_less_for_mini_batches(tmp_path: pathlib.Path) -> None:
    with _run(tmp_path, epochs=100, batch_size=32) as run:
        run.after(helpers.line(0, 20))
        message = _message(run)
    assert re.search(r"these data is [\d.]+, for mini-batches it is less; received", message)


def test_other_optimizers_have_no_largest_learning_rate(tmp_path: pathlib.Path) -> None:
    with _run(tmp_path, epochs=100, optimizer="adam") as run:
        run.after(helpers.line(0, 20))
        message = _message(run)
    assert message.endswith("loss=1.97432; received --learning_rate=0.1")


def test_other_losses_have_no_largest_learning_rate(tmp_path: pathlib.Path) -> None:
    absolute = helpers.linear(loss=helpers.absolute_error)
    with _run(tmp_path, absolute, epochs=100) as run:
        run.after(helpers.line(0, 20))
        message = _message(run)
    assert message.endswith("loss=1.97432; received --learning_rate=0.1")


def test_divergence_at_the_start_has_no_good_step(tmp_path: pathlib.Path) -> None:
    with _run(tmp_path, epochs=100) as run:
        message = _message(run, first=0, at=0)
    assert message == (
        "the loss is not finite at step 0: the examples, or the model at its start, are too large "
        "for float32"
    )


def test_divergence_after_resuming_knows_the_last_good_step(tmp_path: pathlib.Path) -> None:
    with _run(tmp_path, epochs=100, history=helpers.line(0, 20)) as run:
        message = _message(run, first=20, at=20)
    assert message.startswith("the loss is not finite at step 20; the last good step is 19: W = ")


def test_a_batch_size_beyond_the_examples_is_a_full_batch(tmp_path: pathlib.Path) -> None:
    with _run(tmp_path, epochs=100, num_examples=201, batch_size=500) as run:
        run.after(helpers.line(0, 20))
        message = _message(run)
    assert "mini-batches" not in message
    assert re.search(r"these data is [\d.]+; received", message)
