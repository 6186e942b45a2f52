"""Tests of pipeline.evaluation.monitor: the best evaluation, patience and divergence."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline import config as config_lib
from pipeline.data import batch as batch_lib
from pipeline.data import batches as batches_lib
from pipeline.data import datasets as datasets_lib
from pipeline.evaluation import evaluate
from pipeline.evaluation import monitor as monitor_lib
from pipeline.run import agreement, signals
from pipeline.training import clock, hooks, losses, optimizers, step_metrics, task
from tests import helpers

Batch = batch_lib.Batch

# The loss of y = x·W is W² at b = 0.
_SYMMETRIC = Batch(np.tile(np.float32([[1], [-1]]), (10, 1)), np.zeros(20, np.float32))


def _labelled(y: float) -> Batch:
    """Examples whose loss is W² + y² at b = 0: the optimum is W = 0, which predicts 0."""
    return Batch(_SYMMETRIC.x, np.full(20, y, np.float32))


def _monitor(
    train: Batch = _SYMMETRIC,
    validation: Batch | None = None,
    *,
    watched: task.Task | None = None,
    **settings: Any,
) -> tuple[monitor_lib.Monitor, task.Task]:
    """A monitor of the guide's model, by default with 10 steps in each of 100 epochs."""
    config = config_lib.Config(**{"batch_size": 2, "epochs": 100, **settings})
    made = watched or helpers.linear()
    datasets = datasets_lib.Datasets(train, validation, ("x",), "y")
    evaluator = evaluate.Evaluator(made, datasets, config)
    return monitor_lib.Monitor(evaluator, datasets, config), made


def _pauses(
    watched: monitor_lib.Monitor, made: task.Task, W: list[float], first: int = 0
) -> list[monitor_lib.EpochEvaluation | None]:
    """The monitor's results at the ends of epochs with these W."""
    found = []
    for step, each in zip(itertools.count(first, watched.every), W, strict=False):
        made.variables.assign({"W": [each], "b": 0.0})
        found.append(watched.pause(step))
    return found


def _rows(W: list[float], loss: list[float] | None = None) -> step_metrics.StepMetrics:
    values = np.column_stack([W, np.zeros(len(W))]).astype(np.float32)
    column = np.array(np.square(W) if loss is None else loss, np.float32)
    return step_metrics.StepMetrics(np.arange(len(W)), values, column, column)


# When.


@pytest.mark.parametrize("batch_size", [0, 2])
@pytest.mark.parametrize(
    ("epochs", "every"),
    [(6, 1), (1000, 1), (1001, 2), (2001, 2), (2002, 4), (3001, 4), (10**6, 8192)],
)
def test_up_to_1000_ends_of_epochs_are_evaluated(epochs: int, every: int, batch_size: int) -> None:
    """They are evenly spaced, plus the start; a longer run's are a subset of a shorter run's."""
    watched, _ = _monitor(epochs=epochs, batch_size=batch_size)
    steps_per_epoch = 10 if batch_size else 1
    assert (watched.steps_per_epoch, watched.every) == (steps_per_epoch, every * steps_per_epoch)
    last_step = epochs * steps_per_epoch
    steps = [-1]
    while (step := int(watched.next_pause(steps[-1]))) <= last_step:
        steps.append(step)
    assert steps[1:] == list(range(0, last_step + 1, every * steps_per_epoch))
    assert len(steps) - 2 <= 1000


class _Kept(hooks.Hook):
    """Keeps events and rows."""

    def __init__(self) -> None:
        self.events: list[monitor_lib.EpochEvaluation] = []
        self.rows = step_metrics.empty(2)

    def after_pause(self, event: Any) -> None:
        self.events.append(event)

    def after(self, rows: step_metrics.StepMetrics) -> None:
        self.rows = step_metrics.concatenate(self.rows, rows)


def _noisy(count: int, seed: int) -> Batch:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(count, 1)).astype(np.float32)
    return Batch(x, (x[:, 0] + 2 + generator.normal(size=count) * 0.5).astype(np.float32))


def _mean_squares(examples: Batch, values: Any) -> float:
    """The mean squared error of y = x·W + b in float64."""
    *W, b = np.asarray(values, np.float64)
    return float(np.mean((examples.x.astype(np.float64) @ W + b - examples.y) ** 2))


@pytest.mark.slow
@pytest.mark.parametrize("has_validation", [False, True])
@pytest.mark.parametrize(("kind", "loop"), [("module", "custom"), ("keras", "fit")])
@pytest.mark.parametrize("batch_size", [0, 8])
def test_every_epoch_of_a_short_run_is_evaluated(
    kind: str, loop: str, batch_size: int, has_validation: bool
) -> None:
    """A real loop also has mini-batches, 50 = 6 * 8 + 2; the monitor knows the best evaluation.

    Training passes through the best W and b for the validation examples.
    """
    train = _noisy(50, 0)
    validation = Batch(train.x, 1.5 * train.x[:, 0] + 1) if has_validation else None
    settings = {"model": "keras", "loop": loop, "epochs": 30, "batch_size": batch_size}
    config = config_lib.Config(**settings)
    made = helpers.linear(model=kind)
    watched, _ = _monitor(train, validation, watched=made, **settings)
    batches = batches_lib.Batches(train, config)
    last_step = 30 * batches.steps_per_epoch
    optimizer = optimizers.create(config, made, last_step=last_step)
    kept = _Kept()
    helpers.LOOPS[loop](
        helpers.loop(made, optimizer, batches, name=loop),
        first_step=0,
        last_step=last_step,
        hook=hooks.Hooks([watched, kept]),
        clock=clock.Clock(),
    )
    assert [event.step for event in kept.events] == list(range(0, last_step, watched.every))
    assert watched.start_loss == kept.events[0].evaluation.train["loss"]
    for event in kept.events:
        np.testing.assert_array_equal(event.values, kept.rows.values[event.step])
        expected = _mean_squares(train, event.values)
        assert event.evaluation.train["loss"] == pytest.approx(expected, rel=1e-5)
        if validation:
            expected = _mean_squares(validation, event.values)
            assert event.evaluation.validation["loss"] == pytest.approx(expected, rel=1e-5)
    monitored = [event.evaluation.monitored for event in kept.events]
    for k, event in enumerate(kept.events):
        best = int(np.argmin(monitored[: k + 1]))
        assert event.best == (best * watched.every, monitored[best])
    assert watched.best == kept.events[-1].best
    assert 0 < best < 29 if has_validation else best > 3
    assert watched.best_variables is not None
    at_best = kept.events[best].values
    assert watched.best_variables["W"].tolist() == [at_best[0]]
    assert watched.best_variables["b"] == at_best[1]


# The best.


def test_best_is_the_first_of_equals() -> None:
    watched, made = _monitor()
    events = _pauses(watched, made, [3.0, 1.0, -1.0, 2.0, 1.0])
    assert [event and event.step for event in events] == [0, 10, 20, 30, 40]
    assert [event and event.best.step for event in events] == [0, 10, 10, 10, 10]
    assert watched.best == (10, 1.0)
    assert watched.best_variables == {"W": [1.0], "b": 0.0}
    assert watched.start_loss == 9


def test_best_variables_include_those_that_are_not_trained() -> None:
    model: Any = helpers.linear().model
    model.offset = tf.Variable(3.0, trainable=False, name="offset")
    mean = losses.mean_loss(losses.squared_error, model)
    whole = task.Task(model, mean, spec=helpers.spec(_SYMMETRIC))
    watched, _ = _monitor(watched=whole)
    watched.pause(0)
    whole.variables.assign({"offset": 4.0, "W": [1e2]})
    watched.pause(10)
    assert watched.best.step == 0
    assert watched.best_variables == {"W": [5], "b": 0, "offset": 3}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_evaluation_that_is_not_finite_is_none(bad: float) -> None:
    """The next step ends training; until then nothing is reported."""
    train, validation = _SYMMETRIC, Batch(_SYMMETRIC.x * 1e18, _SYMMETRIC.y)
    watched, made = _monitor(train)
    assert [event and event.step for event in _pauses(watched, made, [3.0, math.nan])] == [0, None]
    watched, made = _monitor(train, validation)
    W = bad if math.isnan(bad) else 1e3  # its square is infinite for the validation examples
    assert [event and event.step for event in _pauses(watched, made, [3.0, W, 1.0])] == [
        0,
        None,
        20,
    ]
    assert watched.best.step == 20


def test_best_of_an_earlier_process_stands_until_beaten() -> None:
    watched, made = _monitor()
    watched.best = monitor_lib.Best(70, 1.0)
    _pauses(watched, made, [1.0, 1.5], 80)
    assert watched.best == (70, 1.0)
    assert watched.best_variables is None
    _pauses(watched, made, [0.5], 100)
    assert watched.best == (100, 0.25)
    assert watched.best_variables == {"W": [0.5], "b": 0.0}


def test_what_is_monitored_is_said_in_words() -> None:
    assert _monitor()[0].monitored == "loss"
    assert _monitor(_SYMMETRIC, _SYMMETRIC)[0].monitored == "validation loss"


# Patience.

_W = [3.0, 2.0, 2.5, 2.0, 1.0, 1.5, 2.0, 0.5]  # at the ends of epochs; the loss is its square


@pytest.mark.parametrize(("patience", "ends_at"), [(0, None), (1, 20), (2, 30), (3, None)])
def test_training_ends_where_patience_runs_out(patience: int, ends_at: int | None) -> None:
    """A loss equal to the smallest is no improvement; the end itself is reported later."""
    watched, made = _monitor(early_stopping_patience=patience)
    if ends_at is None:
        events = _pauses(watched, made, _W)
        assert [event and event.evaluation.train["loss"] for event in events] == np.square(
            _W
        ).tolist()
        return
    before = _pauses(watched, made, _W[: ends_at // 10])
    assert [event and event.step for event in before] == list(range(0, ends_at, 10))
    with pytest.raises(hooks.EndOfTraining) as caught:
        _pauses(watched, made, _W[ends_at // 10 :], ends_at)
    assert caught.value.step == ends_at


def test_patience_of_an_earlier_process_counts_on() -> None:
    """It depends on the losses only, so a finished run knows that it is finished."""
    watched, made = _monitor(early_stopping_patience=3)
    watched.best = monitor_lib.Best(40, 4.0)

    def is_exhausted(step: int, W: float) -> bool:
        made.variables.assign({"W": [W], "b": 0.0})
        return watched.is_exhausted(step, watched.checked(step))

    assert [is_exhausted(step, 2.5) for step in (50, 60, 70, 75, 80)] == [
        *(False, False, True),
        *(False, True),  # 75 is no end of an epoch
    ]
    assert not is_exhausted(70, 1.5)


def test_patience_counts_evaluations() -> None:
    """Here one epoch in two has an evaluation."""
    watched, made = _monitor(epochs=2000, early_stopping_patience=2)
    assert watched.every == 20
    with pytest.raises(hooks.EndOfTraining) as caught:
        _pauses(watched, made, [1.0, 2.0, 2.0, 2.0])
    assert caught.value.step == 40


def test_patience_looks_at_the_validation_loss() -> None:
    """Validation examples have y = 5x, training examples y = 3x; the training loss always falls."""
    validation = Batch(_SYMMETRIC.x, 5 * _SYMMETRIC.x[:, 0])
    train = Batch(_SYMMETRIC.x, 3 * _SYMMETRIC.x[:, 0])
    watched, made = _monitor(train, validation, early_stopping_patience=2)
    with pytest.raises(hooks.EndOfTraining):
        _pauses(watched, made, [5.0, 4.0, 3.5])
    assert watched.best == (0, pytest.approx(0, abs=1e-25))


# Divergence.


@pytest.mark.parametrize("by_rows", [False, True])
@pytest.mark.parametrize(
    ("y", "start", "allowed", "risen"),
    [
        (0, 3, 2999, 3001),  # predicting 0 is perfect: a million times the loss at the start
        (2, 0, 1999, 2001),  # a start at the optimum: a million times the loss of predicting 0
        (0.5, 3, 3041, 3042),  # the larger of the two: 9.25
        (1e-3, 0, 0.9, 1.1),
        (0, 1e6, 0.999e9, 1.001e9),
    ],
)
def test_loss_a_million_times_that_of_start_and_0_has_risen(
    y: float, start: float, allowed: float, risen: float, by_rows: bool
) -> None:
    """It is noticed at a pause and, with full batches, also between pauses."""
    watched, made = _monitor(_labelled(y), batch_size=0)
    _pauses(watched, made, [start])
    W = [start, allowed, risen, start]
    if by_rows:
        rows = _rows(W, [each**2 + y**2 for each in W])
        assert watched.is_good(rows).tolist() == [True, True, False, True]
        return
    assert _pauses(watched, made, [allowed], 1)[0] is not None
    with pytest.raises(hooks.Divergence) as caught:
        _pauses(watched, made, [risen], 2)
    assert caught.value.step == 2
    assert caught.value.loss == pytest.approx(risen**2 + y**2, rel=1e-4)


def test_the_loss_of_a_batch_may_rise() -> None:
    """One of several batches may hold an outlier; what is not finite is never good."""
    watched, made = _monitor(_labelled(1))
    _pauses(watched, made, [1.0])
    rows = _rows([1.0, 1e9, math.nan, 1.0], [1.0, 1e18, 1.0, math.inf])
    assert watched.is_good(rows).tolist() == [True, True, False, False]


@pytest.mark.parametrize("at", [0, 2])
def test_hooks_get_the_rows_before_divergence(at: int) -> None:
    """Good rows after divergence are not passed on."""
    watched, made = _monitor(batch_size=0)
    _pauses(watched, made, [1.0])
    kept, rows = _Kept(), _rows([1.0, 2.0, 3.0, 1.0])
    rows.loss[at] = math.nan
    both = agreement.Hooks([kept], signals.StopRequest(), None, watched.is_good)
    with pytest.raises(hooks.Divergence) as caught:
        both.after(rows)
    assert caught.value.step == at
    assert kept.rows.step.tolist() == list(range(at))
    kept.rows = step_metrics.empty(2)
    both.after(_rows([1.0, 2.0]))
    assert kept.rows.step.tolist() == [0, 1]


@pytest.mark.parametrize("W", [1e-20, 1.0, 1e15])
def test_no_loss_has_risen_where_start_and_labels_are_zero(W: float) -> None:
    """An example is a run with noise 0 that starts at its optimum: no scale is known."""
    watched, made = _monitor(batch_size=0)
    events = _pauses(watched, made, [0.0, W, W])
    assert [event and event.step for event in events] == [0, 1, 2]
    assert watched.is_good(_rows([0.0, W, W])).all()


def test_a_resumed_run_knows_its_loss_at_the_start() -> None:
    watched, made = _monitor(batch_size=0)
    assert watched.is_good(_rows([1e15])).all()  # it is not known yet
    watched.start_loss = 9.0
    assert watched.is_good(_rows([2999.0, 3001.0])).tolist() == [True, False]
    with pytest.raises(hooks.Divergence):
        _pauses(watched, made, [3001.0], 50)


def test_a_negative_loss_may_fall_far() -> None:
    """A loss such as a negative likelihood may fall to minus a million times its start."""

    def loss(y: tf.Tensor, prediction: tf.Tensor) -> tf.Tensor:
        return y - 1 - tf.abs(prediction)

    watched, made = _monitor(watched=helpers.linear(loss=loss), batch_size=0)
    events = _pauses(watched, made, [1.0, 1e9])
    assert [event and event.best.step for event in events] == [0, 1]
    assert watched.is_good(_rows([1.0], [-1e9])).all()
