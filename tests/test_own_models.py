"""Nonlinear models, including the user's own: all guarantees hold for them too."""

import contextlib
import dataclasses
import math
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from pipeline import config as config_lib
from pipeline.data import batch as batch_lib
from pipeline.data import batches as batches_lib
from pipeline.data import datasets as datasets_lib
from pipeline.run import checkpoints, exported, trainer, versions
from pipeline.training import clock, hooks, make_task, optimizers, step_metrics, task
from tests import helpers

# In Keras' save_weights, on Python 3.11 with numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

_LOOPS = ("custom", "fit")
_SHIPPED = {"polynomial": "huber", "mlp": "mean_squared_error", "logistic": "binary_crossentropy"}

# A file as a user would write it.
_MINE = """
import keras
import tensorflow as tf


def cubic(num_features):  # of one feature
    x = keras.Input([num_features])
    powers = keras.layers.Concatenate()([x, x**2, x**3])
    return keras.Model(x, keras.layers.Dense(1, kernel_initializer="zeros")(powers))


def everything(num_features):
    return keras.Sequential(
        [
            keras.Input([num_features]),
            keras.layers.Dense(8, activation="tanh", kernel_regularizer="l2"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(1),
        ]
    )


def classes(num_features):
    output = keras.layers.Dense(3, activation="softmax")
    return keras.Sequential([keras.Input([num_features]), output])
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The user's file."""
    path = tmp_path_factory.mktemp("user") / "mine.py"
    path.write_text(_MINE)
    return path


class _Recording(hooks.Hook):
    def __init__(self, watched: task.Task):
        self.rows = step_metrics.empty(len(watched.variables.watched))

    def after(self, rows: step_metrics.StepMetrics) -> None:
        self.rows = step_metrics.concatenate(self.rows, rows)


class _Trained(NamedTuple):
    """The results of a training loop."""

    rows: step_metrics.StepMetrics
    task: task.Task
    start: dict[str, np.ndarray]  # the variables before the first update
    batches: list[tuple[np.ndarray, np.ndarray]]  # of the first steps, in float64

    @property
    def path(self) -> np.ndarray:
        """The watched values before each update, and after the last."""
        return np.vstack([self.rows.values, self.task.variables.values()]).astype(np.float64)


def _examples(count: int = 37, features: int = 2, *, is_binary: bool = False) -> Any:
    """Examples of a curve with noise, or of two overlapping classes."""
    generator = np.random.default_rng(5)
    x = generator.uniform(-1, 1, (count, features)).astype(np.float32)
    noise = generator.logistic(size=count)
    score = 2 * x[:, 0] - x[:, -1] ** 2 + 0.5 + noise * (1 if is_binary else 0.3)
    y = score > 0 if is_binary else score
    return batch_lib.Batch(x, y.astype(np.float32))


def _train(examples: batch_lib.Batch, last: int, **settings: Any) -> _Trained:
    """Trains from the start to the last step, as trainer.train does without a directory.

    The default batches of 8 leave a short one of 37 examples: 4 * 8 + 5.
    """
    config = config_lib.Config(**({"batch_size": 8} | settings))
    names = tuple("abc"[: examples.x.shape[1]])
    made = make_task.make_task(config, datasets_lib.Datasets(examples, None, names, "y"))
    start = made.variables.arrays()
    optimizer = optimizers.create(config, made, last_step=last)
    batches, hook = batches_lib.Batches(examples, config), _Recording(made)
    loop = helpers.loop(made, optimizer, batches, name=config.loop)
    train = helpers.LOOPS[config.loop]
    train(loop, first_step=0, last_step=last, hook=hook, clock=clock.Clock())
    return _Trained(hook.rows, made, start, _taken(batches, min(last, 20)))


def _taken(batches: batches_lib.Batches, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The x and y of the first batches, in float64."""
    taken = map(batches.batch, range(count))
    return [(np.float64(batch.x), np.float64(batch.y)) for batch in taken]


def _assert_agree(one: step_metrics.StepMetrics, other: step_metrics.StepMetrics) -> None:
    """Asserts agreement to 1e-5 of each column at every step."""
    np.testing.assert_array_equal(one.step, other.step)
    for a, b in zip(one[1:4], other[1:4], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def _powers(x: np.ndarray) -> np.ndarray:
    """The inputs [B, 3·D + 1] of the polynomial's linear form."""
    return np.hstack([x, x**2, x**3, np.ones([len(x), 1])])


# Both loops, and by hand.


def _by_hand(trained: _Trained, name: str) -> step_metrics.StepMetrics:
    """Eager gradient descent on the same batches with the formulas of each model and loss."""
    start = {n: tf.Variable(array, dtype=tf.float64) for n, array in trained.start.items()}
    variables = [start[n] for n in trained.task.variables.trainable]
    rows = []
    for x, y in trained.batches:
        with tf.GradientTape() as tape:
            hidden = tf.constant(_powers(x)[:, :-1] if name == "polynomial" else x)
            *layers, (W, b) = zip(variables[::2], variables[1::2], strict=True)
            for kernel, bias in layers:
                hidden = tf.maximum(hidden @ kernel + bias, 0)
            output = (hidden @ W + b)[:, 0]
            error = tf.abs(output - y)
            loss = {
                "polynomial": tf.where(error < 1, error**2 / 2, error - 0.5),  # Huber's
                "mlp": error**2,
                "logistic": tf.math.softplus(output) - y * output,
            }[name]
            mean = tf.reduce_mean(loss)
        gradients = tape.gradient(mean, variables)
        flat = [np.concatenate([np.ravel(v) for v in part]) for part in (variables, gradients)]
        is_norm = not trained.task.variables.watches_all
        values = [np.linalg.norm(v) for v in variables] if is_norm else flat[0]
        rows.append((values, mean.numpy(), np.linalg.norm(flat[1])))
        for variable, gradient in zip(variables, gradients, strict=True):
            variable.assign_sub(0.1 * gradient)
    columns = (np.array(column) for column in zip(*rows, strict=True))
    return step_metrics.StepMetrics(np.arange(len(rows)), *columns)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(_SHIPPED))
def test_both_loops_take_the_steps_made_by_hand(name: str) -> None:
    """Values, loss and gradient norm agree at every step, also for short batches."""
    examples = _examples(is_binary=name == "logistic")
    settings = {"model": name, "loss": _SHIPPED[name]}
    custom, fit = (_train(examples, 12, loop=loop, **settings) for loop in _LOOPS)
    assert [len(y) for _, y in custom.batches[:6]] == [8, 8, 8, 8, 5, 8]
    assert np.ptp(custom.rows.loss) > 0.03
    _assert_agree(custom.rows, fit.rows)
    _assert_agree(custom.rows, _by_hand(custom, name))
    np.testing.assert_allclose(custom.path[-1], fit.path[-1], rtol=1e-5, atol=1e-6)


# Where training ends.


def test_the_polynomial_reaches_least_squares() -> None:
    """With one feature, W has three numbers."""
    examples = _examples(201, 1)
    trained = _train(examples, 5_000, model="polynomial", batch_size=0, learning_rate=0.3)
    x, y = trained.batches[0]
    best, *_ = np.linalg.lstsq(_powers(x), y, rcond=None)
    np.testing.assert_allclose(trained.path[-1], best, rtol=1e-3)


@pytest.mark.slow
def test_logistic_regression_reaches_the_largest_likelihood() -> None:
    """Newton's method in numpy, which needs no learning rate, gives the reference."""
    examples = _examples(201, is_binary=True)
    settings = {"model": "logistic", "loss": "binary_crossentropy"}
    trained = _train(examples, 10_000, batch_size=0, learning_rate=1.0, **settings)
    x, y = trained.batches[0]
    inputs, best = np.column_stack([x, np.ones(len(y))]), np.zeros(3)
    for _ in range(20):
        p = 1 / (1 + np.exp(-inputs @ best))
        best += np.linalg.solve(inputs.T * (p * (1 - p)) @ inputs, inputs.T @ (y - p))
    np.testing.assert_allclose(trained.path[-1], best, rtol=1e-3)
    assert trained.task.variables.watched == ("kernel/a", "kernel/b", "bias")


# Exports.


def _three_classes(path: pathlib.Path) -> None:
    """Writes a table in which each class is a third of the plane."""
    x = np.random.default_rng(1).normal(size=(60, 2))
    angle = np.arctan2(x[:, 1], x[:, 0])
    rows = np.column_stack([x, np.floor((angle + math.pi) / (2 * math.pi) * 3)])
    np.savetxt(path, rows, delimiter=",", header="a,b,kind", comments="", fmt="%.6g")


@pytest.mark.slow
def test_three_outputs_are_trained_and_predicted(
    mine: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Predictions have a column for each, and the accuracy is as counted by hand."""
    _three_classes(tmp_path / "t.csv")
    config = config_lib.Config(
        model=f"{mine}:classes",
        loss="sparse_categorical_crossentropy",
        metrics="accuracy",
        data=str(tmp_path / "t.csv"),
        learning_rate=0.5,
        epochs=100,
        logdir=str(tmp_path),
        run_name="run",
    )
    datasets = datasets_lib.load(config)
    result = trainer.train(config, datasets)
    assert "accuracy=" in result.report
    *inputs, y = np.loadtxt(tmp_path / "t.csv", delimiter=",", skiprows=1).T
    inputs = ",".join(map(str, np.column_stack(inputs).ravel()))
    arguments = (f"--export_dir={tmp_path}/run/export", f"--x={inputs}")
    printed = helpers.call("predict", *arguments, cwd=tmp_path)
    assert (printed.returncode, printed.stderr) == (0, "")
    header, *lines = printed.stdout.splitlines()
    assert header == "a,b,kind_0,kind_1,kind_2"  # of these, probabilities
    table = np.array([line.split(",") for line in lines], float)
    np.testing.assert_allclose(table[:, 2:].sum(axis=1), 1, rtol=1e-5)
    accuracy = float(np.mean(table[:, 2:].argmax(axis=1) == y))
    assert accuracy > 0.8
    assert helpers.scalars(tmp_path / "run" / "train")["evaluation/accuracy"][-1] == (
        100,
        pytest.approx(accuracy),
    )


# Stopped and resumed.


class _KilledError(BaseException):
    """Ends a process in the middle of its training."""


def _run(config: config_lib.Config) -> pathlib.Path:
    trainer.train(config, datasets_lib.load(config))
    return pathlib.Path(config.logdir) / config.run_name


def _run_killed(
    config: config_lib.Config, monkeypatch: pytest.MonkeyPatch, *, at: int
) -> pathlib.Path:
    """Trains, and is killed before the checkpoint of a step is saved; then resumes."""
    save = checkpoints.Checkpoints.save

    def save_or_die(self: Any, state: Any, best: Any) -> None:
        if state.step == at:
            raise _KilledError
        save(self, state, best)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Checkpoints, "save", save_or_die)
        with pytest.raises(_KilledError):
            _run(config)
    return _run(config)


def _bits(run: pathlib.Path) -> dict[str, bytes]:
    """All that the newest checkpoint holds of the model and the optimizer."""
    newest = max(run.glob("checkpoints/ckpt-*.index"), key=lambda path: int(path.stem[5:]))
    reader = tf.train.load_checkpoint(str(newest.with_suffix("")))
    names = [n for n in reader.get_variable_to_shape_map() if n.startswith(("model", "optimizer"))]
    return {n: np.asarray(reader.get_tensor(n)).tobytes() for n in names} | {
        "": newest.stem.encode()
    }


def _curves(run: pathlib.Path) -> dict[str, Any]:
    """What is in the event files, but for the speed."""
    return {
        f"{part}/{tag}": points
        for part in ("train", "validation")
        for tag, points in helpers.scalars(run / part).items()
        if not tag.endswith("_per_second")
    }


@pytest.mark.slow
@pytest.mark.parametrize("loop", _LOOPS)
def test_a_killed_run_ends_with_the_same_bits(
    loop: str, mine: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model has dropout, batch normalization and a regularizer; the kill is in mid-epoch."""
    config = config_lib.Config(
        model=f"{mine}:everything",
        loop=loop,
        optimizer="adam",
        learning_rate=0.01,
        batch_size=8,
        num_examples=37,
        epochs=3,
        checkpoint_every=7,
        logdir=str(tmp_path),
        run_name="undisturbed",
    )
    undisturbed = _run(config)
    again = dataclasses.replace(config, run_name="killed")
    killed = _run_killed(again, monkeypatch, at=14)
    assert len(list((killed / "train").iterdir())) == 2  # a file for each process
    assert _bits(killed) == _bits(undisturbed)
    assert _curves(killed) == _curves(undisturbed)
    assert len(_curves(killed)["train/loss"]) == 16
    assert any("seed_generator" in name for name in _bits(killed))


# Early stopping, the best model and the user's file, in one run.

_STEPS_PER_EPOCH = 10
_PATIENCE = 2


class _Ended(NamedTuple):
    """A run that ended early."""

    config: config_lib.Config
    path: pathlib.Path
    validation: list[tuple[int, float]]  # the losses

    @property
    def end(self) -> int:
        """The step at which it ended."""
        return self.validation[-1][0]

    @property
    def best(self) -> tuple[int, float]:
        """Step and loss of its best evaluation."""
        return min(self.validation, key=lambda point: point[1])

    def events(self) -> dict[str, bytes]:
        """Its event files."""
        return {str(p): p.read_bytes() for p in self.path.glob("*/events.*")}


@pytest.fixture(scope="module")
def ended(mine: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> _Ended:
    """Trains with small batches, so the validation loss goes up and down."""
    config = config_lib.Config(
        model=f"{mine}:cubic",
        learning_rate=0.02,
        batch_size=2,
        num_examples=2 * _STEPS_PER_EPOCH,
        seed=3,
        epochs=40,
        early_stopping_patience=_PATIENCE,
        checkpoint_every=15,
        logdir=str(tmp_path_factory.mktemp("ended")),
        run_name="run",
    )
    path = _run(config)
    return _Ended(config, path, helpers.scalars(path / "validation")["loss"])


@pytest.mark.slow
def test_a_run_ends_where_patience_runs_out(ended: _Ended) -> None:
    """It ends at the second evaluation without a smaller loss than the best so far."""
    steps, losses = zip(*ended.validation, strict=True)
    without = [i - int(np.argmin(losses[: i + 1])) for i in range(len(losses))]
    assert without[-1] == _PATIENCE
    assert max(without[:-1]) < _PATIENCE
    assert 4 < len(losses) < 40
    assert list(steps) == list(range(0, ended.end + 1, _STEPS_PER_EPOCH))
    curves = helpers.scalars(ended.path / "train")
    assert [step for step, _ in curves["loss"]] == list(range(ended.end + 1))
    final = helpers.scalars(ended.path / "final")
    assert [step for step, _ in final["final/loss"]] == [ended.end]
    assert versions.newest_steps(ended.path / "export") == (ended.end, ended.end)


@pytest.mark.slow
def test_the_best_model_is_exported_without_training(
    ended: _Ended, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its validation loss is the smallest; a repeat does nothing, until the last one is wanted."""
    directory = ended.path / "export"
    events, before = ended.events(), len(list(directory.iterdir()))
    best = dataclasses.replace(ended.config, export="best")
    onnx = dataclasses.replace(ended.config, export_formats="onnx")
    for config, count in ((best, 1), (best, 1), (ended.config, 2), (onnx, 3), (ended.config, 3)):
        _run(config)
        assert "is finished" in capsys.readouterr().out
        assert len(list(directory.iterdir())) == before + count
        step = ended.best[0] if config is best else ended.end
        assert versions.newest_steps(directory) == (step, ended.end)
    assert [path.parent.name for path in directory.glob("*/model.onnx")] == [str(before + 3)]
    assert ended.events() == events
    validation = datasets_lib.load(best).validation
    assert validation is not None
    for version, (_, loss) in ((1, ended.best), (2, ended.validation[-1])):
        path = directory / str(before + version)
        described = versions.description(path)
        assert described
        assert described["losses"]["validation_loss"] == pytest.approx(loss)
        error = exported.load(path).predict(validation.x).astype(np.float64) - validation.y
        assert np.mean(error**2) == pytest.approx(loss, rel=1e-5)
    assert ended.best[0] < ended.end


@pytest.mark.slow
def test_an_early_stopped_run_resumes_to_the_same_end(
    ended: _Ended, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is killed after its best evaluation, so the best loss is the earlier process's."""
    at = ended.end // 15 * 15
    assert at - 15 <= ended.best[0] < at < ended.end
    again = dataclasses.replace(ended.config, logdir=str(tmp_path))
    killed = _run_killed(again, monkeypatch, at=ended.end)
    assert _bits(killed) == _bits(ended.path)
    assert _curves(killed) == _curves(ended.path)
    assert (killed / "checkpoints" / f"best-{ended.best[0]}.index").exists()


@pytest.mark.slow
def test_more_patience_extends_a_run_and_is_kept(ended: _Ended, tmp_path: pathlib.Path) -> None:
    """flags.txt keeps it; otherwise the resuming command would end the run at once."""
    config = dataclasses.replace(ended.config, logdir=str(tmp_path), epochs=20)
    run = _run(config)
    longer = dataclasses.replace(config, early_stopping_patience=4)
    assert _run(longer) == run
    losses = [loss for _, loss in helpers.scalars(run / "validation")["loss"]]
    assert losses[: len(ended.validation)] == [loss for _, loss in ended.validation]
    without = [i - int(np.argmin(losses[: i + 1])) for i in range(len(losses))]
    assert without[-1] == 4 or len(losses) == 21
    assert len(losses) > len(ended.validation)
    assert "--early_stopping_patience=4" in (run / "flags.txt").read_text().splitlines()


@pytest.mark.slow
def test_an_extended_run_ends_when_its_results_are_written(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its best model was exported before it was extended."""
    config = config_lib.Config(
        model="polynomial",
        learning_rate=0.02,
        batch_size=2,
        num_examples=20,
        seed=3,
        export="best",
        epochs=7,
        logdir=str(tmp_path),
        run_name="run",
    )
    run = _run(config)
    assert versions.newest_steps(run / "export") == (60, 70)
    longer = dataclasses.replace(config, epochs=8)

    def die(*_: object) -> None:
        raise _KilledError

    with monkeypatch.context() as patch:
        patch.setattr(trainer._Trainer, "_finish", die)
        with contextlib.suppress(_KilledError):
            _run(longer)
    _run(longer)
    assert helpers.scalars(run / "train")["loss"][-1][0] == 80
    assert helpers.scalars(run / "final")["final/loss"][-1][0] == 80


# Schedules.


def _polynomial_by_hand(start: np.ndarray, batches: Iterable[Any], rates: list[float]) -> Any:
    """The values of gradient descent on the squared error, in float64."""
    values = [start]
    for (x, y), rate in zip(batches, rates, strict=True):
        inputs = _powers(x)
        gradient = 2 * inputs.T @ (inputs @ values[-1] - y) / len(y)
        values.append(values[-1] - rate * gradient)
    return np.array(values)


@pytest.mark.slow
def test_a_schedule_with_its_own_length_can_be_extended(tmp_path: pathlib.Path) -> None:
    """The learning rate is continuous: it falls to a tenth in every 8 steps."""
    config = config_lib.Config(
        model="polynomial",
        num_examples=37,
        batch_size=8,
        epochs=2,
        schedule="exponential",
        decay_steps=8,
        warmup_steps=2,
        learning_rate=0.01,
        logdir=str(tmp_path),
        run_name="extended",
    )
    run = _run(config)
    assert _run(dataclasses.replace(config, epochs=4)) == run
    steps, rates = zip(*helpers.scalars(run / "train")["training/learning_rate"], strict=True)
    assert steps == tuple(range(21))
    expected = [0.005, 0.01, *(0.01 * 0.1 ** (s / 8) for s in range(19))]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)
    curves = helpers.scalars(run / "train")
    names = (*(f"kernel/{i}" for i in range(3)), "bias")
    values = np.array([[value for _, value in curves[name]] for name in names]).T
    batches = _taken(batches_lib.Batches(datasets_lib.load(config).train, config), 20)
    by_hand = _polynomial_by_hand(values[0], batches, expected[:20])
    np.testing.assert_allclose(values, by_hand, rtol=1e-5, atol=1e-6)
