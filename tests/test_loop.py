"""Tests of pipeline.training.loop and keras_loop: every model and loop trains the same way."""

import math
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from pipeline import config as config_lib
from pipeline.data import batch as batch_lib
from pipeline.data import batches as batches_lib
from pipeline.training import clock, compilation, hooks, losses, optimizers, task
from pipeline.training import step_metrics as metrics
from tests import helpers

SOLUTIONS = (("module", "custom"), ("keras", "custom"), ("keras", "fit"))
Mode = compilation.Mode
USUAL = {"custom": Mode.XLA, "fit": Mode.GRAPH}  # where there is no GPU


class Recorded(hooks.Hook):
    """Records its calls, and pauses at some steps."""

    def __init__(self, watched: task.Task, *pauses: int):
        self._variables, self._pauses = watched.variables, pauses
        self.states: dict[int, list[float]] = {}  # the model's values at each pause
        self.rows = metrics.empty(len(watched.variables.watched))

    def next_pause(self, step: int) -> float:
        """The next of the steps."""
        return min((pause for pause in self._pauses if pause > step), default=math.inf)

    def pause(self, step: int) -> None:
        """Keeps the state of the model, once for each step."""
        assert step not in self.states
        assert not len(self.rows.step) or step == self.rows.next_step
        self.states[step] = self._variables.values().numpy().tolist()

    def after(self, rows: metrics.StepMetrics) -> None:
        """Keeps the rows."""
        self.rows = metrics.concatenate(self.rows, rows)


class Trained(NamedTuple):
    """The results of a training run."""

    rows: metrics.StepMetrics
    states: dict[int, list[float]]
    task: task.Task
    batches: batches_lib.Batches
    updates: int  # as the optimizer counts them


def sample(features: int = 1, count: int = 201) -> batch_lib.Batch:
    """Examples of y = 3·x + 2 with noise, with one feature or several."""
    generator = np.random.default_rng(7)
    x = generator.uniform(-2, 2, (count, features)).astype(np.float32)
    y = 3 * x.sum(axis=1) + 2 + generator.normal(size=count)
    return batch_lib.Batch(x, y.astype(np.float32))


def linear(kind: str, num_features: int = 1, **settings: Any) -> task.Task:
    """A task of y = x·W + b, from W = 5 and b = 0."""
    return helpers.linear(tuple("abc"[:num_features]), model=kind, **settings)


def train(
    trained: task.Task,
    loop: str,
    examples: batch_lib.Batch,
    *,
    steps: tuple[int, int],
    batch_size: int = 0,
    optimizer: str = "sgd",
    mode: compilation.Mode | None = None,
    pauses: tuple[int, ...] = (),
    make_batches: type[batches_lib.Batches] = batches_lib.Batches,
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
    batches = make_batches(examples, config)
    made = optimizers.create(config, trained, last_step=steps[1])
    hook = Recorded(trained, *pauses)
    helpers.LOOPS[loop](
        helpers.loop(trained, made, batches, mode or USUAL[loop], name=loop),
        first_step=steps[0],
        last_step=steps[1],
        hook=hook,
        clock=clock.Clock(),
    )
    return Trained(hook.rows, hook.states, trained, batches, int(made.iterations.numpy()))


def in_numpy(
    trained: Trained, last_step: int, *, is_absolute: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradient descent on the squared or the absolute error in float64, on the same batches.

    Returns values, loss and gradient norm before each update, and the values at the end.
    """
    values = np.array([*[5.0] * (len(trained.task.variables.watched) - 1), 0.0])
    states, batch_losses, norms = [], [], []
    for step in range(last_step):
        x, y = (each.numpy() for each in trained.batches.batch(step)[:2])
        inputs = np.column_stack([x, np.ones(len(y))]).astype(np.float64)
        residual = inputs @ values - y
        slope = np.sign(residual) if is_absolute else 2 * residual
        gradient = inputs.T @ slope / len(y)
        states.append(values)
        batch_losses.append(np.mean(np.abs(residual) if is_absolute else residual**2))
        norms.append(np.linalg.norm(gradient))
        values = values - 0.1 * gradient
    return np.array([*states, values]), np.array(batch_losses), np.array(norms)


def assert_is_gradient_descent(
    trained: Trained, last_step: int, *, is_absolute: bool = False
) -> None:
    """Asserts that all steps equal gradient descent in numpy."""
    values, loss, norm = in_numpy(trained, last_step, is_absolute=is_absolute)
    np.testing.assert_array_equal(trained.rows.step, range(last_step))
    np.testing.assert_allclose(trained.rows.values, values[:-1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(trained.rows.loss, loss, rtol=2e-5)
    np.testing.assert_allclose(trained.rows.gradient_norm, norm, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(trained.task.variables.values(), values[-1], rtol=1e-5, atol=1e-5)


def assert_same_bits(one: metrics.StepMetrics, other: metrics.StepMetrics) -> None:
    for a, b in zip(one[:4], other[:4], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("kind", "loop"), SOLUTIONS)
@pytest.mark.parametrize("batch_size", [0, 32])
@pytest.mark.parametrize("features", [1, 3])
def test_every_row_is_gradient_descent(
    kind: str, loop: str, batch_size: int, features: int
) -> None:
    """The rows equal numpy's in float64, also with a smaller last batch (201 = 6 * 32 + 9)."""
    task_ = linear(kind, features)
    trained = train(task_, loop, sample(features), steps=(0, 22), batch_size=batch_size)
    assert_is_gradient_descent(trained, 22)
    assert {column.dtype for column in trained.rows[1:4]} == {np.dtype(np.float32)}
    assert trained.rows.step.dtype == np.int64


class _FilledUp(batches_lib.Batches):
    """Batches whose padding is not finite."""

    def blocks(self, first_step: int, last_step: int) -> Iterator[batches_lib.Block]:  # type: ignore[override]
        """The blocks, with infinite x and NaN y as padding of each batch."""
        for block in super().blocks(first_step, last_step):
            x, y, _ = block.batch
            counts = tf.sequence_mask(block.size, y.shape[1])
            x, y = tf.where(counts[..., None], x, np.inf), tf.where(counts, y, np.nan)
            yield block._replace(batch=batch_lib.Batch(x, y))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loop", "mode"), [*(("custom", mode) for mode in Mode), ("fit", Mode.GRAPH)]
)
def test_what_fills_up_a_short_batch_counts_nowhere(loop: str, mode: compilation.Mode) -> None:
    """The last batch of 32 has 9 examples; here the other 23 rows are not finite."""
    trained = train(
        *(linear("keras", 3), loop, sample(3)),
        steps=(0, 22),
        batch_size=32,
        mode=mode,
        make_batches=_FilledUp,
    )
    assert_is_gradient_descent(trained, 22)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "loop"), SOLUTIONS)
@pytest.mark.parametrize("batch_size", [0, 32])
@pytest.mark.parametrize("steps", [(0, 1), (300, 5000)])
def test_as_many_updates_are_made_as_asked_for(
    kind: str, loop: str, batch_size: int, steps: tuple[int, int]
) -> None:
    """Each gives a row: batches of 32 leave a short one of 9; 4,700 steps exceed a block."""
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
    assert trained.task.variables.values().numpy().tolist() == [5, 0]
    assert len(trained.rows.step) == 0
    assert trained.states == {}


@pytest.mark.slow
@pytest.mark.parametrize(("batch_size", "mode"), [(0, None), (32, None), (32, Mode.EAGER)])
@pytest.mark.parametrize(("kind", "loop"), SOLUTIONS)
def test_hooks_pause_at_every_pause_in_that_state(
    kind: str, loop: str, batch_size: int, mode: compilation.Mode | None
) -> None:
    """States are exact, and pauses do not change the training. No update follows step 40."""
    pauses = (1, 2, 7, 31, 39, 50)
    trained, unpaused = (
        train(
            *(linear(kind), loop, sample()),
            steps=(0, 40),
            batch_size=batch_size,
            mode=mode,
            pauses=some,
        )
        for some in (pauses, ())
    )
    assert {0, 1, 2, 7, 31, 39} <= set(trained.states)
    assert max(trained.states) < 40
    for step, values in trained.states.items():
        assert trained.rows.values[step].tolist() == values
    assert_same_bits(trained.rows, unpaused.rows)


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
        for column, expected in zip(result[:4], results[0][:4], strict=True):
            np.testing.assert_allclose(column, expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "loop"), SOLUTIONS)
def test_the_gradient_is_recorded_before_it_is_clipped(kind: str, loop: str) -> None:
    """An update is at most 0.1 · 0.5 long for any gradient."""
    trained = train(linear(kind), loop, sample(), steps=(0, 30), batch_size=32, clip_norm=0.5)
    lengths = np.linalg.norm(np.diff(trained.rows.values, axis=0), axis=1)
    np.testing.assert_allclose(
        lengths, 0.1 * np.minimum(trained.rows.gradient_norm[:-1], 0.5), rtol=1e-3
    )
    assert trained.rows.gradient_norm.max() > 5


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [0, 32])
@pytest.mark.parametrize(("kind", "loop"), SOLUTIONS)
def test_a_loss_of_ones_own_is_trained(kind: str, loop: str, batch_size: int) -> None:
    """The gradient of the mean of |x·W + b - y| is the mean of sign(x·W + b - y)·(x, 1)."""
    task_ = linear(kind, loss=helpers.absolute_error)
    trained = train(task_, loop, sample(), steps=(0, 20), batch_size=batch_size)
    assert_is_gradient_descent(trained, 20, is_absolute=True)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [0, 32])
@pytest.mark.parametrize("loop", ["custom", "fit"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_of_ones_own_is_trained(loop: str, batch_size: int, dtype: str) -> None:
    """A Keras layer with predictions [B, 1] equals y = x·W + b."""
    start = tf.keras.initializers.Constant(5.0)
    dense = tf.keras.layers.Dense(1, kernel_initializer=start, dtype=dtype)
    model = tf.keras.Sequential([tf.keras.Input((3,)), dense])
    mean = losses.mean_loss(losses.squared_error, model)
    own = task.Task(model, mean, spec=helpers.spec(sample(3)), features=("a", "b", "c"))
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
    """A longer run starts like a shorter one; step 31 = 4 * 7 + 3 is in the middle of an epoch."""
    short, whole = (
        train(linear(kind), loop, sample(), steps=(0, last), batch_size=batch_size, mode=mode).rows
        for last in (36, 71)
    )
    assert_same_bits(short, whole.select(slice(0, 36)))
    resumed = linear(kind)
    resumed.variables.assign(resumed.variables.split(whole.values[31]))
    rest = train(resumed, loop, sample(), steps=(31, 71), batch_size=batch_size, mode=mode).rows
    assert_same_bits(rest, whole.select(slice(31, None)))


class _Own(tf.Module):
    """The model y = x·W as a user writes it: AutoGraph converts its `if`."""

    def __init__(self) -> None:
        super().__init__()
        self.W = tf.Variable([5.0, 5.0])

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Predicts y [B]."""
        if tf.reduce_any(x > 1e9):
            x = x / 2
        return tf.linalg.matvec(x, self.W)


def _own_loss(y: tf.Tensor, prediction: tf.Tensor) -> tf.Tensor:
    if tf.reduce_any(y > 1e9):
        y = y / 2
    return tf.square(y[:, None] - prediction[:, None])[:, 0]


@pytest.mark.parametrize("is_own", [False, True])
def test_one_executable_serves_every_number_of_steps(is_own: bool) -> None:
    """No later call takes as long as the compilation, also for a user's model and loss."""
    trained, config = linear("module", 2), config_lib.Config(batch_size=32)
    if is_own:
        model: Any = _Own()
        mean = losses.mean_loss(_own_loss, model)
        trained = task.Task(model, mean, spec=helpers.spec(sample(2)))
    batches = batches_lib.Batches(sample(2), config)
    loop = helpers.loop(trained, optimizers.create(config, trained, last_step=1000), batches)
    seconds = [time.monotonic()]
    pauses = (5, 12, 13, 200, batches.block_steps)
    for _ in loop.train(
        first_step=0,
        last_step=3 * batches.block_steps,
        hook=Recorded(trained, *pauses),
        clock=clock.Clock(),
    ):
        seconds.append(time.monotonic())
    first, *later = np.diff(seconds)
    assert len(later) == len(pauses) + 1
    assert np.median(later) < first / 5
    assert loop._run.experimental_get_tracing_count() == 1


@pytest.mark.parametrize(("kind", "loop"), SOLUTIONS)
def test_the_row_of_a_step_is_that_of_the_next_update(kind: str, loop: str) -> None:
    """The row is exactly the same, and the model is not changed."""
    trained = linear(kind)
    config = config_lib.Config(model="keras", loop=loop, optimizer="adam", batch_size=32)
    optimizer = optimizers.create(config, trained, last_step=9)
    made = helpers.loop(
        trained, optimizer, batches_lib.Batches(sample(), config), USUAL[loop], name=loop
    )
    rows = []
    for first, last in ((0, 5), (5, 9)):
        hook = Recorded(trained)
        rows += [made.row(first), made.row(first)]
        helpers.LOOPS[loop](made, first_step=first, last_step=last, hook=hook, clock=clock.Clock())
        assert_same_bits(rows[-1], hook.rows.select([0]))
        assert_same_bits(rows[-2], hook.rows.select([0]))
    assert int(optimizer.iterations) == 9


# Examples of any structure, and compiled models.


def _nested(count: int = 50) -> batch_lib.Batch:
    """Examples with two inputs, two labels, and weights."""
    generator = np.random.default_rng(5)
    image = generator.normal(size=(count, 4, 3)).astype(np.float32)
    token = generator.integers(0, 7, size=(count, 2))
    y = {"sum": image.sum(axis=(1, 2))[:, None], "kind": token[:, :1]}
    return batch_lib.Batch({"image": image, "token": token}, y, np.float32(np.arange(count) % 3))


def _two_heads() -> Any:
    """A compiled model with two inputs and two outputs."""
    layers = tf.keras.layers
    tf.keras.utils.set_random_seed(1)
    image, token = tf.keras.Input([4, 3], name="image"), tf.keras.Input([2], name="token")
    embedded = layers.Embedding(7, 2)(token)
    both = layers.Concatenate()([layers.Flatten()(image), layers.Flatten()(embedded)])
    outputs = {"sum": layers.Dense(1, name="sum")(both), "kind": layers.Dense(7, name="kind")(both)}
    model = tf.keras.Model({"image": image, "token": token}, outputs)
    kind = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    weights = {"sum": 0.1, "kind": 2.0}
    model.compile("adam", loss={"sum": "mse", "kind": kind}, loss_weights=weights)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["custom", "fit"])
def test_a_compiled_model_of_any_structure_is_trained_as_by_keras(loop: str) -> None:
    """Exactly so with `fit`: two inputs, two losses, weights, a short batch (50 = 3 * 16 + 2)."""
    examples, model = _nested(), _two_heads()
    mean = losses.compiled_loss(model)
    own = task.Task(model, mean, spec=helpers.spec(examples), is_compiled=True)
    trained = train(own, loop, examples, steps=(0, 10), batch_size=16, mode=Mode.GRAPH)
    plain = _two_heads()
    plain_losses = []
    for step in range(10):
        x, y, weight = trained.batches.batch(step)
        found = plain.fit(x, y, 64, sample_weight=weight, shuffle=False, verbose=0)
        plain_losses += found.history["loss"]
    np.testing.assert_allclose(trained.rows.loss, plain_losses, rtol=1e-5)
    tolerance = 0 if loop == "fit" else 1e-6
    for one, other in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


# Hooks and the clock.


@pytest.mark.parametrize("loop", ["custom", "fit"])
@pytest.mark.parametrize("method", ["pause", "after"])
def test_a_hook_ends_training_by_raising(loop: str, method: str) -> None:
    class EnoughError(Exception):
        pass

    def end(argument: object) -> None:
        raise EnoughError(argument)

    hook = hooks.Hook()
    setattr(hook, method, end)
    trained = linear("keras")
    with pytest.raises(EnoughError):
        _run(trained, loop, hook, clock.Clock(), last_step=10, mode=Mode.GRAPH)
    is_trained = trained.variables.values().numpy().tolist() != [5, 0]
    assert is_trained == (method == "after")


def _run(
    trained: task.Task,
    loop: str,
    hook: hooks.Hook,
    times: clock.Clock,
    *,
    last_step: int,
    mode: compilation.Mode,
) -> None:
    config = config_lib.Config(model="keras", loop=loop)
    optimizer = optimizers.create(config, trained, last_step=last_step)
    batches = batches_lib.Batches(sample(), config)
    made = helpers.loop(trained, optimizer, batches, mode, name=loop)
    helpers.LOOPS[loop](made, first_step=0, last_step=last_step, hook=hook, clock=times)


class _Slow(hooks.Hook):
    """Takes a tenth of a second for each of four calls, and records their times."""

    def __init__(self, times: clock.Clock):
        self.clock = times
        self.calls: list[float] = []
        self.rows: list[np.ndarray] = []  # when they began

    def next_pause(self, step: int) -> float:
        return (step // 10 + 1) * 10

    def pause(self, step: int) -> None:
        del step
        time.sleep(0.05)
        self.calls.append(self.clock.now())

    def after(self, rows: metrics.StepMetrics) -> None:
        self.rows.append(self.clock.times(rows.step))
        self.calls.append(self.clock.now())
        time.sleep(0.05)


@pytest.mark.parametrize("loop", ["custom", "fit"])
def test_clock_measures_training_alone(loop: str) -> None:
    """Hooks and compilation are not measured."""
    hook = _Slow(clock.Clock())
    _run(linear("keras"), loop, hook, hook.clock, last_step=40, mode=USUAL[loop])
    assert hook.clock.steps == 40
    assert 0 < hook.clock.seconds < 0.2  # the hooks take 0.4
    starts, ends = hook.calls[::2], hook.calls[1::2]
    for times, start, end in zip(hook.rows, starts, ends, strict=True):
        assert start <= times[0] < times[-1] < end
        assert (np.diff(times) > 0).all()
