"""Tests of pipeline.training.loops: one trajectory, whichever the model and the loop."""

import math
import time
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from pipeline import config as config_lib
from pipeline.data import batches as batches_lib
from pipeline.data import datasets
from pipeline.training import (
    clock,
    compilation,
    custom_loop,
    hooks,
    loops,
    losses,
    metrics,
    models,
    optimizers,
    task,
)
from tests import helpers

SOLUTIONS = (("module", "custom"), ("keras", "custom"), ("keras", "fit"))
Mode = compilation.Mode
USUAL = {"custom": Mode.XLA, "fit": Mode.GRAPH}  # where there is no GPU


class Recorded(hooks.Hook):
    """Keeps what it is called with, and pauses at some steps."""

    def __init__(self, watched: task.Task, *pauses: int):
        self._task, self._pauses = watched, pauses
        self.states: dict[int, list[float]] = {}  # the model's values when before was called
        self.rows = metrics.empty(len(watched.names))

    def next_pause(self, step: int) -> float:
        """The next of the steps."""
        return min((pause for pause in self._pauses if pause > step), default=math.inf)

    def before(self, step: int) -> None:
        """Keeps the state of the model, once for each step."""
        assert step not in self.states
        assert not len(self.rows.step) or step == self.rows.end
        self.states[step] = self._task.values().numpy().tolist()

    def after(self, rows: metrics.StepMetrics) -> None:
        """Keeps the rows."""
        self.rows = metrics.concatenate(self.rows, rows)


class Trained(NamedTuple):
    """What a training run gave."""

    rows: metrics.StepMetrics
    states: dict[int, list[float]]
    task: task.Task
    batches: batches_lib.Batches
    updates: int  # as the optimizer counts them


def sample(features: int = 1, count: int = 201) -> datasets.Examples:
    """Examples of y = 3·x + 2 with noise, with one feature or several."""
    generator = np.random.default_rng(7)
    x = generator.uniform(-2, 2, (count, features)).astype(np.float32)
    y = 3 * x.sum(axis=1) + 2 + generator.normal(size=count)
    return datasets.Examples(x, y.astype(np.float32))


def linear(kind: str, num_features: int = 1, loss: losses.Loss = losses.squared_error) -> task.Task:
    """A task of y = x·W + b, from W = 5 and b = 0."""
    model = getattr(models, kind)(num_features)
    return task.Task(model, loss, features=tuple("abc"[:num_features]))


def train(
    trained: task.Task,
    loop: str,
    examples: datasets.Examples,
    *,
    steps: tuple[int, int],
    batch_size: int = 0,
    optimizer: str = "sgd",
    mode: compilation.Mode | None = None,
    pauses: tuple[int, ...] = (),
    **settings: Any,
) -> Trained:
    """Trains from the first to the last of `steps`."""
    config = config_lib.Config(
        model="keras",
        loop=loop,
        batch_size=batch_size,
        seed=3,
        optimizer=optimizer,
        run_eagerly=mode is Mode.EAGER,
        **settings,
    )
    batches = batches_lib.Batches(examples, config)
    variables = trained.model.trainable_variables
    made = optimizers.create(config, variables, last_step=steps[1])
    hook = Recorded(trained, *pauses)
    loops.LOOPS[loop](
        trained,
        batches,
        optimizer=made,
        first_step=steps[0],
        last_step=steps[1],
        hook=hook,
        clock=clock.Clock(),
        mode=mode or USUAL[loop],
    )
    return Trained(hook.rows, hook.states, trained, batches, int(made.iterations.numpy()))


def in_numpy(trained: Trained, last_step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradient descent in float64 on the same batches.

    Values, loss and length of the gradient before each update, and the values at the end.
    """
    values = np.array([*[5.0] * (len(trained.task.names) - 1), 0.0])
    states, batch_losses, norms = [], [], []
    for x, y in trained.batches.singly(0, last_step).as_numpy_iterator():
        inputs = np.column_stack([x, np.ones(len(y))]).astype(np.float64)
        residual = inputs @ values - y
        gradient = 2 * inputs.T @ residual / len(y)
        states.append(values)
        batch_losses.append(np.mean(residual**2))
        norms.append(np.linalg.norm(gradient))
        values = values - 0.1 * gradient
    return np.array([*states, values]), np.array(batch_losses), np.array(norms)


def assert_is_gradient_descent(trained: Trained, last_step: int) -> None:
    """From the first step on, that of numpy."""
    values, loss, norm = in_numpy(trained, last_step)
    np.testing.assert_array_equal(trained.rows.step, range(last_step))
    np.testing.assert_allclose(trained.rows.values, values[:-1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(trained.rows.loss, loss, rtol=2e-5)
    np.testing.assert_allclose(trained.rows.gradient_norm, norm, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(trained.task.values(), values[-1], rtol=1e-5)


def assert_same_bits(one: metrics.StepMetrics, other: metrics.StepMetrics) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("kind", "loop"), SOLUTIONS)
@pytest.mark.parametrize("batch_size", [0, 32])
@pytest.mark.parametrize("features", [1, 3])
def test_every_row_is_gradient_descent(
    kind: str, loop: str, batch_size: int, features: int
) -> None:
    """Also with a smaller last batch (201 = 6 * 32 + 9), against numpy in float64."""
    task_ = linear(kind, features)
    trained = train(task_, loop, sample(features), steps=(0, 22), batch_size=batch_size)
    assert_is_gradient_descent(trained, 22)
    assert {column.dtype for column in trained.rows[1:]} == {np.dtype(np.float32)}
    assert trained.rows.step.dtype == np.int64


@pytest.mark.slow
@pytest.mark.parametrize("mode", Mode)
def test_what_fills_up_a_short_batch_counts_nowhere(mode: compilation.Mode) -> None:
    """A block holds 9 examples of the last batch of 32; here the other 23 are not finite."""
    trained = linear("module", 3)
    config = config_lib.Config(batch_size=32, seed=3, run_eagerly=True)  # blocks of 16 steps
    batches = batches_lib.Batches(sample(3), config)
    optimizer = optimizers.create(config, trained.model.trainable_variables, last_step=16)
    training_loop = custom_loop.make_training_loop(trained, batches, optimizer, mode)
    (block,) = batches.blocks(0, 16)
    counts = tf.sequence_mask(block.size, 32)
    assert block.size.numpy().tolist() == [*[32] * 6, 9, *[32] * 6, 9, 32, 32]
    filled = block._replace(
        x=tf.where(counts[..., None], block.x, np.inf), y=tf.where(counts, block.y, np.nan)
    )
    columns = training_loop(filled, tf.constant(0), tf.constant(16))
    rows = metrics.StepMetrics(np.arange(16), *(column.numpy() for column in columns))
    assert_is_gradient_descent(Trained(rows, {}, trained, batches, 16), 16)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "loop"), SOLUTIONS)
@pytest.mark.parametrize("batch_size", [0, 32])
@pytest.mark.parametrize("steps", [(0, 1), (300, 600)])
def test_as_many_updates_are_made_as_asked_for(
    kind: str, loop: str, batch_size: int, steps: tuple[int, int]
) -> None:
    """One row each: 32 leaves a short batch of 9, and 300 steps are more than one Keras call."""
    first, last = steps
    task_ = linear(kind)
    trained = train(task_, loop, sample(), steps=steps, batch_size=batch_size, optimizer="rmsprop")
    assert trained.updates == last - first
    np.testing.assert_array_equal(trained.rows.step, range(first, last))
    assert trained.rows.values.shape == (last - first, 2)
    assert trained.rows.loss.shape == trained.rows.gradient_norm.shape == (last - first,)
    np.testing.assert_array_equal(trained.rows.values[0], [5, 0])


@pytest.mark.parametrize(("kind", "loop"), SOLUTIONS)
def test_no_update_is_made_where_none_is_left(kind: str, loop: str) -> None:
    trained = train(linear(kind), loop, sample(), steps=(8, 8))
    assert trained.task.values().numpy().tolist() == [5, 0]
    assert len(trained.rows.step) == 0
    assert trained.states == {}


def assert_states_are_those_of_the_rows(trained: Trained, pauses: tuple[int, ...]) -> None:
    """At every pause before step 40, to the bit."""
    assert set(trained.states) >= {0, *(pause for pause in pauses if pause < 40)}
    assert max(trained.states) < 40  # no update follows step 40
    for step, values in trained.states.items():
        assert trained.rows.values[step].tolist() == values


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [0, 32])
@pytest.mark.parametrize(("kind", "loop"), SOLUTIONS)
def test_before_is_called_at_every_pause_in_that_state(
    kind: str, loop: str, batch_size: int
) -> None:
    """And the pauses change no bit of the training."""
    pauses = (1, 2, 7, 31, 39, 50)
    trained, unpaused = (
        train(linear(kind), loop, sample(), steps=(0, 40), batch_size=batch_size, pauses=some)
        for some in (pauses, ())
    )
    assert_states_are_those_of_the_rows(trained, pauses)
    assert_same_bits(trained.rows, unpaused.rows)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "loop"), SOLUTIONS)
def test_before_is_called_at_every_pause_when_eager(kind: str, loop: str) -> None:
    pauses = (1, 7, 31)
    trained = train(
        linear(kind), loop, sample(), steps=(0, 40), batch_size=32, pauses=pauses, mode=Mode.EAGER
    )
    assert_states_are_those_of_the_rows(trained, pauses)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adam", "rmsprop", "adagrad"])
def test_optimizers_of_keras_give_the_same_in_all_loops(name: str) -> None:
    results = [
        train(linear(kind), loop, sample(), steps=(0, 29), batch_size=32, optimizer=name).rows
        for kind, loop in SOLUTIONS
    ]
    assert np.abs(results[0].values[:, 0] - 5).max() > 0.1
    for result in results[1:]:
        np.testing.assert_allclose(result.values, results[0].values, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(result.loss, results[0].loss, rtol=1e-4)
        np.testing.assert_allclose(result.gradient_norm, results[0].gradient_norm, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["custom", "fit"])
def test_every_mode_gives_the_same(loop: str) -> None:
    results = [
        train(linear("keras"), loop, sample(), steps=(0, 22), batch_size=32, mode=mode).rows
        for mode in Mode
    ]
    for result in results[1:]:
        for column, expected in zip(result, results[0], strict=True):
            np.testing.assert_allclose(column, expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "loop"), SOLUTIONS)
def test_the_gradient_is_recorded_before_it_is_clipped(kind: str, loop: str) -> None:
    """An update is at most 0.1 · 0.5 long, whatever the gradient."""
    trained = train(linear(kind), loop, sample(), steps=(0, 30), batch_size=32, clip_norm=0.5)
    lengths = np.linalg.norm(np.diff(trained.rows.values, axis=0), axis=1)
    np.testing.assert_allclose(
        lengths, 0.1 * np.minimum(trained.rows.gradient_norm[:-1], 0.5), rtol=1e-3
    )
    assert trained.rows.gradient_norm.max() > 5


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "loop"), SOLUTIONS)
def test_each_update_has_the_rate_of_its_step(kind: str, loop: str) -> None:
    """The rate is the length of an update over that of the gradient."""
    schedule = {"schedule": "exponential", "decay_steps": 20, "warmup_steps": 2}
    trained = train(linear(kind), loop, sample(), steps=(0, 23), batch_size=32, **schedule)
    lengths = np.linalg.norm(np.diff(trained.rows.values, axis=0), axis=1)
    rates = lengths / trained.rows.gradient_norm[:-1]
    expected = [0.05, 0.1, *(0.1 * 0.1 ** (np.arange(20) / 20))]
    np.testing.assert_allclose(rates, expected, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [0, 32])
@pytest.mark.parametrize(("kind", "loop"), SOLUTIONS)
def test_a_loss_of_ones_own_is_trained(kind: str, loop: str, batch_size: int) -> None:
    """The gradient of the mean of |x·W + b - y| is the mean of sign(x·W + b - y)·(x, 1)."""
    task_ = linear(kind, loss=helpers.absolute_error)
    trained = train(task_, loop, sample(), steps=(0, 20), batch_size=batch_size)
    values = np.array([5.0, 0.0])
    for row, (x, y) in enumerate(trained.batches.singly(0, 20).as_numpy_iterator()):
        inputs = np.column_stack([x, np.ones(len(y))]).astype(np.float64)
        residual = inputs @ values - y
        np.testing.assert_allclose(trained.rows.values[row], values, rtol=1e-5, atol=1e-5)
        assert trained.rows.loss[row] == pytest.approx(np.abs(residual).mean(), rel=1e-5)
        values = values - 0.1 * np.sign(residual) @ inputs / len(y)
    np.testing.assert_allclose(trained.task.values(), values, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [0, 32])
@pytest.mark.parametrize("loop", ["custom", "fit"])
def test_a_model_of_ones_own_is_trained(loop: str, batch_size: int) -> None:
    """A Keras layer, whose predictions are [B, 1]: the same as y = x·W + b."""
    dense = tf.keras.layers.Dense(1, kernel_initializer=tf.keras.initializers.Constant(5.0))
    model = tf.keras.Sequential([tf.keras.Input((3,)), dense])
    own = task.Task(model, losses.squared_error, features=("a", "b", "c"))
    trained = train(own, loop, sample(3), steps=(0, 22), batch_size=batch_size)
    assert_is_gradient_descent(trained, 22)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [0, 32])
@pytest.mark.parametrize(
    ("kind", "loop", "mode"),
    [*((kind, loop, USUAL[loop]) for kind, loop in SOLUTIONS), ("module", "custom", Mode.GRAPH)],
)
def test_shorter_and_resumed_runs_have_the_same_bits(
    kind: str, loop: str, mode: compilation.Mode, batch_size: int
) -> None:
    """A longer run begins as a shorter one; step 31 is in the middle of an epoch: 4 * 7 + 3."""
    short, whole = (
        train(linear(kind), loop, sample(), steps=(0, last), batch_size=batch_size, mode=mode).rows
        for last in (36, 71)
    )
    assert_same_bits(short, whole.select(slice(0, 36)))
    resumed = linear(kind)
    resumed.assign(resumed.by_variable(whole.values[31]))
    rest = train(resumed, loop, sample(), steps=(31, 71), batch_size=batch_size, mode=mode).rows
    assert_same_bits(rest, whole.select(slice(31, None)))


def test_one_executable_serves_every_number_of_steps() -> None:
    batches = batches_lib.Batches(sample(), config_lib.Config(batch_size=32))
    trained = linear("module")
    optimizer = optimizers.create(
        config_lib.Config(), trained.model.trainable_variables, last_step=1000
    )
    training_loop: Any = custom_loop.make_training_loop(trained, batches, optimizer, Mode.XLA)
    for block in batches.blocks(0, 3 * batches.block_steps):
        for first, steps in ((0, batches.block_steps), (5, 7), (12, 1)):
            training_loop(block, tf.constant(first), tf.constant(steps))
    assert training_loop.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("loop", ["custom", "fit"])
@pytest.mark.parametrize("method", ["before", "after"])
def test_a_hook_ends_training_by_raising(loop: str, method: str) -> None:
    class EnoughError(Exception):
        pass

    def end(argument: object) -> None:
        raise EnoughError(argument)

    hook = hooks.Hook()
    setattr(hook, method, end)
    trained = linear("keras")
    config = config_lib.Config(model="keras", loop=loop)
    optimizer = optimizers.create(config, trained.model.trainable_variables, last_step=10)
    with pytest.raises(EnoughError):
        loops.LOOPS[loop](
            trained,
            batches_lib.Batches(sample(), config),
            optimizer=optimizer,
            first_step=0,
            last_step=10,
            hook=hook,
            clock=clock.Clock(),
            mode=Mode.GRAPH,
        )
    is_trained = trained.values().numpy().tolist() != [5, 0]
    assert is_trained == (method == "after")


class _Slow(hooks.Hook):
    """Takes a tenth of a second for each of four calls, and keeps when it was called."""

    def __init__(self, times: clock.Clock):
        self.clock = times
        self.calls: list[float] = []
        self.rows: list[np.ndarray] = []  # when they began

    def next_pause(self, step: int) -> float:
        return (step // 10 + 1) * 10

    def before(self, step: int) -> None:
        del step
        time.sleep(0.05)
        self.calls.append(self.clock.now())

    def after(self, rows: metrics.StepMetrics) -> None:
        self.rows.append(self.clock.times(rows.step))
        self.calls.append(self.clock.now())
        time.sleep(0.05)


@pytest.mark.parametrize(("loop", "measured"), [("custom", 40), ("fit", 30)])
def test_clock_measures_training_alone(loop: str, measured: int) -> None:
    """Without hooks and compilation, which in fit is a part of the first call."""
    hook = _Slow(clock.Clock())
    trained = linear("keras")
    config = config_lib.Config(model="keras", loop=loop)
    loops.LOOPS[loop](
        trained,
        batches_lib.Batches(sample(), config),
        optimizer=optimizers.create(config, trained.model.trainable_variables, last_step=40),
        first_step=0,
        last_step=40,
        hook=hook,
        clock=hook.clock,
        mode=USUAL[loop],
    )
    assert hook.clock.steps == measured
    assert 0 < hook.clock.seconds < 0.1
    starts, ends = hook.calls[::2], hook.calls[1::2]
    for times, start, end in zip(hook.rows, starts, ends, strict=True):
        assert start <= times[0] < times[-1] < end
        assert (np.diff(times) > 0).all()


def test_the_default_problem_is_the_guides() -> None:
    config = config_lib.Config()
    assert (config.num_examples, config.x_min, config.x_max) == (201, -2.0, 2.0)
    assert (config.true_w, config.true_b, config.initial_w, config.initial_b) == (3, 2, 5, 0)
    assert (config.learning_rate, config.epochs, config.batch_size) == (0.1, 10, 0)
