"""The sides of the benchmark: each trains in its own way and times itself.

Usage: python scripts/benchmark_sides.py SIDE

Prints 'ready', then for each line that it reads the seconds that one step (of the full
batch) or one example (of mini-batches) has taken in one more round. Each side is started
by scripts/benchmark.py in the environment where its packages are.
"""

import contextlib
import io
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Round = Callable[[], float]  # seconds for a step, or for an example

_LEARNING_RATE = 0.1
_MILLION = 1_000_000


def examples(count: int = 201) -> tuple[Any, Any]:
    """The guide's data: x and y, float32 [count]."""
    x = np.linspace(-2, 2, count, dtype=np.float32)
    noise = np.random.default_rng(0).standard_normal(count, dtype=np.float32)
    return x, 3 * x + 2 + noise


def timed(work: Callable[[], Any], amount: int) -> Round:
    """Times work that is done `amount` times."""

    def one_round() -> float:
        start = time.perf_counter()
        work()
        return (time.perf_counter() - start) / amount

    return one_round


def pipeline(
    *,
    loop: str,
    epochs: int,
    batch_size: int = 0,
    count: int = 201,
    summaries: bool = True,
    csv: bool = False,
) -> Round:
    """This project: seconds from the end of the first block to the last, of each step.

    The first call is left out because it waits for the compiler.
    """
    from pipeline import tf_runtime

    tf_runtime.import_tensorflow()
    from pipeline import config as config_lib
    from pipeline.data import batches as batches_lib
    from pipeline.data import datasets as datasets_lib
    from pipeline.reporting import recorder
    from pipeline.training import evaluation, hooks, loops, metrics, optimizers, task

    class Clock(hooks.Hook):
        """Notes when the steps of each call were done."""

        def __init__(self) -> None:
            self.times: list[tuple[float, int]] = []

        def after(self, rows: metrics.StepMetrics) -> None:
            self.times.append((time.perf_counter(), len(rows.step)))

    def one_round() -> float:
        config = config_lib.Config(
            model="keras" if loop == "fit" else "module",
            loop=loop,
            epochs=epochs,
            batch_size=batch_size,
            data=csv_file() if csv else "",
            num_examples=count,
            summary_every=1,
            run_name="run",
            logdir=tempfile.mkdtemp(),
        )
        datasets = datasets_lib.load(config)
        batches = batches_lib.Batches(datasets.train, config)
        trained = task.linear(config, datasets.features)
        optimizer = optimizers.create(config, trained.model.trainable_variables)
        evaluator = evaluation.Evaluator(trained, datasets, config)
        clock = Clock()
        with contextlib.redirect_stdout(io.StringIO()):
            records = recorder.Recorder(
                config,
                evaluator,
                directory=pathlib.Path(config.logdir, "run"),
                repeat_command="",
                history=metrics.empty(len(trained.names)),
                event_files={},
            )
            evaluator.report = records.epochs
            recording = [records, evaluator, records.progress, records.images]
            loops.LOOPS[loop](
                trained,
                batches,
                optimizer=optimizer,
                first_step=0,
                last_step=epochs * batches.steps_per_epoch,
                hook=hooks.Hooks([*(recording if summaries else []), clock]),
            )
        records.close()
        seconds = clock.times[-1][0] - clock.times[0][0]
        steps = sum(steps for _, steps in clock.times[1:])
        return seconds / steps / (1 if batch_size == 0 else batches.batch_size)

    return one_round


def guide() -> Round:
    """The guide's eager loop, with three tf.summary.scalar a step."""
    from pipeline import tf_runtime

    tf_runtime.import_tensorflow()
    import tensorflow as tf

    x, y = map(tf.constant, examples())
    W, b = tf.Variable(5.0), tf.Variable(0.0)
    steps = 300

    def loop() -> None:
        for step in range(steps):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(y - (W * x + b)))
            dW, db = tape.gradient(loss, [W, b])
            W.assign_sub(_LEARNING_RATE * dW)
            b.assign_sub(_LEARNING_RATE * db)
            for tag, value in (("W", W), ("b", b), ("loss", loss)):
                tf.summary.scalar(tag, value, step=step)

    def work() -> None:
        with tf.summary.create_file_writer(tempfile.mkdtemp()).as_default():
            loop()

    return timed(work, steps)


def keras(*, epochs: int, batch_size: int, count: int = 201, tensorboard: bool = False) -> Round:
    """Keras fit on arrays, as in the guide: all in one batch is a step an epoch."""
    from pipeline import tf_runtime

    tf_runtime.import_tensorflow()
    import tensorflow as tf

    from pipeline.training import models

    x, y = examples(count)
    model = models.KerasLinearModel()
    model.compile(optimizer=tf.keras.optimizers.SGD(_LEARNING_RATE), loss="mean_squared_error")

    def work() -> None:
        callback = tf.keras.callbacks.TensorBoard(tempfile.mkdtemp(), write_graph=False)
        model.fit(
            x,
            y,
            epochs=epochs,
            batch_size=batch_size,
            callbacks=[callback] if tensorboard else [],
            verbose=0,
        )

    work()
    return timed(work, epochs * (count if count > batch_size else 1))


def jax_scan() -> Round:
    """JAX: lax.scan over the steps, that returns W, b and loss of each and writes nothing."""
    import jax

    x, y = map(jax.numpy.asarray, examples())
    steps = 100_000

    def loss(parameters: Any) -> Any:
        return jax.numpy.mean((y - (parameters[0] * x + parameters[1])) ** 2)

    def step(parameters: Any, _: Any) -> Any:
        value, gradients = jax.value_and_grad(loss)(parameters)
        new = tuple(p - _LEARNING_RATE * g for p, g in zip(parameters, gradients, strict=True))
        return new, (*parameters, value)

    @jax.jit
    def train(parameters: Any) -> Any:
        return jax.lax.scan(step, parameters, length=steps)

    start = (jax.numpy.float32(5), jax.numpy.float32(0))
    jax.block_until_ready(train(start))
    return timed(lambda: jax.block_until_ready(train(start)), steps)


def jax_epoch(*, batch_size: int) -> Round:
    """JAX: a permutation of a million examples and a scan over its batches."""
    import jax

    x, y = map(jax.numpy.asarray, examples(_MILLION))
    steps = _MILLION // batch_size

    def loss(parameters: Any, x: Any, y: Any) -> Any:
        return jax.numpy.mean((y - (parameters[0] * x + parameters[1])) ** 2)

    def step(parameters: Any, rows: Any) -> Any:
        value, gradients = jax.value_and_grad(loss)(parameters, x[rows], y[rows])
        new = tuple(p - _LEARNING_RATE * g for p, g in zip(parameters, gradients, strict=True))
        return new, (*parameters, value)

    @jax.jit
    def epoch(parameters: Any, key: Any) -> Any:
        order = jax.random.permutation(key, _MILLION)[: steps * batch_size]
        return jax.lax.scan(step, parameters, order.reshape(steps, batch_size))

    start = (jax.numpy.float32(5), jax.numpy.float32(0))
    key = jax.random.key(0)
    jax.block_until_ready(epoch(start, key))
    return timed(lambda: jax.block_until_ready(epoch(start, key)), _MILLION)


def torch_epoch(*, batch_size: int, count: int) -> Round:
    """PyTorch by hand: autograd, and the update under no_grad, over shuffled batches."""
    import torch

    x, y = map(torch.from_numpy, examples(_MILLION))
    W, b = torch.tensor(5.0, requires_grad=True), torch.tensor(0.0, requires_grad=True)

    def work() -> None:
        order = torch.randperm(_MILLION)[:count]
        for rows in order.split(batch_size):
            loss = ((y[rows] - (W * x[rows] + b)) ** 2).mean()
            loss.backward()
            with torch.no_grad():
                for parameter in (W, b):
                    assert parameter.grad is not None
                    parameter -= _LEARNING_RATE * parameter.grad
                    parameter.grad = None

    return timed(work, count)


def sgd_regressor() -> Round:
    """scikit-learn's SGDRegressor: an epoch over shuffled single examples."""
    from sklearn import linear_model, utils

    x, y = examples(_MILLION)
    x = x[:, None].astype(np.float64)
    y = y.astype(np.float64)
    model = linear_model.SGDRegressor(penalty=None, learning_rate="constant", eta0=0.01)

    def work() -> None:
        model.partial_fit(*utils.shuffle(x, y))

    return timed(work, _MILLION)


def csv_file() -> str:
    """The path of a CSV file of a million rows and two columns."""
    path = pathlib.Path(tempfile.gettempdir()) / "pipeline-benchmark.csv"
    if not path.exists():
        unfinished = path.with_suffix(f".{time.time_ns()}")
        table = np.column_stack(examples(_MILLION))
        np.savetxt(unfinished, table, delimiter=",", header="x,y", comments="", fmt="%.7g")
        unfinished.rename(path)
    return str(path)


def read_csv(*, with_numpy: bool) -> Round:
    """Reads the CSV file."""
    from pipeline.data import csv_reader

    path = csv_file()
    if with_numpy:
        return timed(
            lambda: np.loadtxt(path, dtype=np.float32, delimiter=",", skiprows=1), _MILLION
        )
    return timed(lambda: csv_reader.read_columns(path, ["x", "y"]), _MILLION)


SIDES: dict[str, Callable[[], Round]] = {
    "pipeline": lambda: pipeline(loop="custom", epochs=1_000_000),
    "pipeline without summaries": lambda: pipeline(
        loop="custom", epochs=1_000_000, summaries=False
    ),
    "pipeline --loop=fit": lambda: pipeline(loop="fit", epochs=5000),
    "guide": guide,
    "keras fit": lambda: keras(epochs=30, batch_size=1000, tensorboard=True),
    "jax scan": jax_scan,
    "jax scan with our XLA flag": jax_scan,  # benchmark.py sets it
    "pipeline 32": lambda: pipeline(loop="custom", epochs=4, batch_size=32, count=_MILLION),
    "pipeline 1024": lambda: pipeline(loop="custom", epochs=8, batch_size=1024, count=_MILLION),
    "pipeline 1024, CSV": lambda: pipeline(
        loop="custom", epochs=8, batch_size=1024, count=_MILLION, csv=True
    ),
    "keras fit 32": lambda: keras(epochs=1, batch_size=32, count=50_000),
    "keras fit 1024": lambda: keras(epochs=1, batch_size=1024, count=_MILLION),
    "jax 32": lambda: jax_epoch(batch_size=32),
    "jax 1024": lambda: jax_epoch(batch_size=1024),
    "torch 32": lambda: torch_epoch(batch_size=32, count=100_000),
    "torch 1024": lambda: torch_epoch(batch_size=1024, count=_MILLION),
    "sklearn": sgd_regressor,
    "pipeline csv": lambda: read_csv(with_numpy=False),
    "numpy csv": lambda: read_csv(with_numpy=True),
}


if __name__ == "__main__":
    one_round = SIDES[sys.argv[1]]()
    one_round()
    print("ready", flush=True)
    for _ in sys.stdin:
        print(one_round(), flush=True)
