"""One trajectory, whichever the model and the loop."""

from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from pipeline import config as config_lib
from pipeline import custom_loop, examples, fit_loop, metrics, optimizers
from pipeline import data as data_lib
from pipeline import model as model_lib

SOLUTIONS = (("module", "custom"), ("keras", "custom"), ("keras", "fit"))


class Trained(NamedTuple):
    """What a training run gave."""

    points: metrics.StepMetrics
    model: model_lib.Model
    batches: data_lib.TrainingData


def sample(features: int = 1, count: int = 201) -> examples.Examples:
    """Examples of y = 3·x + 2 with noise, with one feature or several."""
    generator = np.random.default_rng(7)
    shape = count if features == 1 else (count, features)
    x = generator.uniform(-2, 2, shape).astype(np.float32)
    y = 3 * x.reshape(count, -1).sum(axis=1) + 2 + generator.normal(size=count)
    return examples.Examples(x, y.astype(np.float32))


def train(
    kind: str,
    loop: str,
    data: examples.Examples,
    *,
    steps: tuple[int, int],
    batch_size: int = 0,
    optimizer: str = "sgd",
    run_eagerly: bool = False,
    start: metrics.Parameters | None = None,
) -> Trained:
    """Trains from the first to the last of `steps`."""
    batches = data_lib.TrainingData(*data, batch_size=batch_size, seed=3, small_blocks=run_eagerly)
    model = model_lib.create(
        kind,
        initial_w=5.0,
        initial_b=0.0,
        num_features=None if data.x.ndim == 1 else data.x.shape[1],
    )
    if start is not None:
        model.W.assign(start.W)
        model.b.assign(start.b)
    stretches: list[metrics.StepMetrics] = []
    {"custom": custom_loop, "fit": fit_loop}[loop].train(
        model,
        batches,
        optimizer=optimizers.create(
            optimizer, 0.1, model.trainable_variables, hand_written=loop == "custom"
        ),
        first_step=steps[0],
        last_step=steps[1],
        observe=stretches.append,
        run_eagerly=run_eagerly,
    )
    return Trained(metrics.concatenate(stretches), model, batches)


def in_numpy(trained: Trained, data: examples.Examples, last_step: int) -> metrics.StepMetrics:
    """Gradient descent in float64 on the same batches."""
    W, b = np.full(data.x.reshape(len(data.y), -1).shape[1], 5.0), 0.0
    rows = []
    for step, (x, y) in enumerate(trained.batches.batches(0, last_step).as_numpy_iterator()):
        x = x.reshape(len(y), -1).astype(np.float64)
        residual = x @ W + b - y
        rows.append((step, W, b, np.mean(residual**2)))
        W = W - 0.1 * 2 * x.T @ residual / len(y)
        b = b - 0.1 * 2 * residual.mean()
    steps, weights, biases, losses = (np.array(column) for column in zip(*rows, strict=True))
    return metrics.StepMetrics(steps, weights, biases, losses)


def assert_same_bits(one: metrics.StepMetrics, other: metrics.StepMetrics) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("kind", "loop"), SOLUTIONS)
@pytest.mark.parametrize("batch_size", [0, 32])
@pytest.mark.parametrize("features", [1, 3])
def test_every_point_is_gradient_descent(
    kind: str, loop: str, batch_size: int, features: int
) -> None:
    """Also with a smaller last batch (201 = 6 * 32 + 9), against numpy in float64."""
    data = sample(features)
    last_step = 21
    trained = train(kind, loop, data, steps=(0, last_step), batch_size=batch_size)
    expected = in_numpy(trained, data, last_step)
    np.testing.assert_array_equal(trained.points.step, expected.step)
    W = trained.points.W.reshape(last_step + 1, -1)
    np.testing.assert_allclose(W, expected.W, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(trained.points.b, expected.b, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(trained.points.loss, expected.loss, rtol=2e-5)
    np.testing.assert_allclose(np.ravel(trained.model.W.numpy()), expected.W[-1], rtol=1e-5)


@pytest.mark.parametrize("name", ["adam", "rmsprop", "adagrad"])
def test_optimizers_of_keras_give_the_same_in_all_loops(name: str) -> None:
    results = [
        train(kind, loop, sample(), steps=(0, 28), batch_size=32, optimizer=name).points
        for kind, loop in SOLUTIONS
    ]
    assert np.abs(results[0].W - 5).max() > 0.1
    for result in results[1:]:
        np.testing.assert_allclose(result.W, results[0].W, rtol=1e-5)
        np.testing.assert_allclose(result.loss, results[0].loss, rtol=1e-4)


@pytest.mark.parametrize("loop", ["custom", "fit"])
def test_eager_training_gives_the_same(loop: str) -> None:
    results = [
        train("keras", loop, sample(), steps=(0, 21), batch_size=32, run_eagerly=eager).points
        for eager in (False, True)
    ]
    np.testing.assert_allclose(results[0].W, results[1].W, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [0, 32])
@pytest.mark.parametrize(("kind", "loop"), SOLUTIONS)
def test_a_longer_run_begins_with_the_bits_of_a_shorter(
    kind: str, loop: str, batch_size: int
) -> None:
    short = train(kind, loop, sample(), steps=(0, 35), batch_size=batch_size).points
    long = train(kind, loop, sample(), steps=(0, 70), batch_size=batch_size).points
    assert_same_bits(short, long.at(slice(0, 36)))


@pytest.mark.parametrize("batch_size", [0, 32])
@pytest.mark.parametrize(("kind", "loop"), SOLUTIONS)
def test_training_taken_up_at_any_step_gives_the_same_bits(
    kind: str, loop: str, batch_size: int
) -> None:
    """In the middle of an epoch, too: 31 = 4 * 7 + 3."""
    whole = train(kind, loop, sample(), steps=(0, 70), batch_size=batch_size).points
    at = metrics.Parameters(whole.W[31], whole.b[31])
    rest = train(kind, loop, sample(), steps=(31, 70), batch_size=batch_size, start=at).points
    assert_same_bits(rest, whole.at(slice(31, None)))


def test_one_executable_serves_blocks_of_every_length() -> None:
    data = sample()
    batches = data_lib.TrainingData(*data, batch_size=32, seed=0)
    model = model_lib.LinearModel()
    optimizer = optimizers.GradientDescent(0.1)
    train_block = custom_loop.TrainBlock(model, optimizer, batches)
    for block in batches.blocks(0, 3 * batches.block_steps):
        for stretch in ((0, batches.block_steps, batches.block_steps), (5, 7, 7), (12, 1, 0)):
            train_block.run(block, *map(tf.constant, stretch))
    assert train_block.run.experimental_get_tracing_count() == 1


def test_the_observer_can_end_training_by_raising() -> None:
    class Enough(Exception):  # noqa: N818
        pass

    def observe(points: metrics.StepMetrics) -> None:
        raise Enough(points)

    batches = data_lib.TrainingData(*sample(), batch_size=0, seed=0)
    model = model_lib.KerasLinearModel()
    for loop in (custom_loop, fit_loop):
        with pytest.raises(Enough):
            loop.train(
                model,
                batches,
                optimizer=optimizers.create(
                    "sgd", 0.1, model.trainable_variables, hand_written=loop is custom_loop
                ),
                first_step=0,
                last_step=10,
                observe=observe,
            )


def test_the_default_problem_is_the_guides() -> None:
    config = config_lib.Config()
    assert (config.num_examples, config.x_min, config.x_max) == (201, -2.0, 2.0)
    assert (config.true_w, config.true_b, config.initial_w, config.initial_b) == (3, 2, 5, 0)
    assert (config.learning_rate, config.epochs, config.batch_size) == (0.1, 10, 0)
