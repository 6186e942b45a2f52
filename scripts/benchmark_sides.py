"""The sides of the benchmark: each trains in its own way and times itself.

Usage: python scripts/benchmark_sides.py SIDE

Prints 'ready'. For each line that it reads, it runs one more round and prints the seconds of one
step (full batch) or of one example (mini-batches). scripts/benchmark.py starts each side in the
environment that has its packages.
"""

import contextlib
import functools
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
_SMALL_RATE = 0.001  # the learning rate of networks
_MILLION = 1_000_000
_STREAMED = 256_000  # examples of a stream


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
    epochs: int,
    batch_size: int = 0,
    count: int = 201,
    num_features: int = 1,
    loop: str = "custom",
    model: str = "module",
    optimizer: str = "sgd",
    learning_rate: float = _LEARNING_RATE,
    summaries: bool = True,
    data: str = "",
) -> Round:
    """This project: seconds of each step, from the end of the first block to the end of the last.

    The first call is left out because it waits for the compiler.
    """
    from pipeline import tf_runtime

    tf_runtime.import_tensorflow()
    from pipeline import config as config_lib
    from pipeline.data import datasets as datasets_lib
    from pipeline.data import streams
    from pipeline.evaluation import evaluate, linear, monitor
    from pipeline.reporting import recorder, reporters
    from pipeline.training import clock as clock_lib
    from pipeline.training import (
        compilation,
        hooks,
        keras_loop,
        make_task,
        optimizers,
        step_metrics,
        train_step,
    )
    from pipeline.training import loop as loop_lib

    class Stopwatch(hooks.Hook):
        """Records when the steps of each call were done."""

        def __init__(self) -> None:
            self.times: list[tuple[float, int]] = []

        def after(self, rows: step_metrics.StepMetrics) -> None:
            self.times.append((time.perf_counter(), len(rows.step)))

    def one_round() -> float:
        config = config_lib.Config(
            model=model,
            loop=loop,
            optimizer=optimizer,
            learning_rate=learning_rate,
            epochs=epochs,
            batch_size=batch_size,
            data=data,
            num_examples=count,
            summary_every=1,
            run_name="run",
            logdir=tempfile.mkdtemp(),
        )
        datasets = datasets_lib.load(config)
        if num_features > 1 and not datasets.stream:
            names = tuple(f"x{i}" for i in range(num_features))
            train = datasets_lib.Batch(*table(count, num_features))
            datasets = datasets_lib.Datasets(train, None, names, "y")
        last_step = config.last_step(datasets.steps_per_epoch(config))
        batches = streams.batches_of(datasets, config)
        trained = make_task.make_task(config, datasets)
        updates = optimizers.create(config, trained, last_step=last_step)
        step, train_all = train_step.guide_step(trained, updates), loop_lib.train
        if loop == "fit":
            keras_loop.compile_model(trained, updates)
            step, train_all = train_step.keras_step(trained, updates), keras_loop.fit
        _, chosen = compilation.prepare(config, trained, updates, batches, step)
        looped = loop_lib.Loop(trained, updates, batches, chosen.mode, step=step)
        evaluator = evaluate.Evaluator(trained, datasets, config)
        clock, stopwatch = clock_lib.Clock(), Stopwatch()
        directory = pathlib.Path(config.logdir, "run")
        with contextlib.redirect_stdout(io.StringIO()):
            recorded = recorder.Recorder(
                config,
                trained,
                datasets,
                linear.Linear.of(trained, datasets, config),
                rates=lambda steps: optimizers.rates(updates, steps),
                directory=directory,
                last_step=last_step,
                clock=clock,
                rows=None,
                event_files={},
            )
            records = reporters.Reporters(recorded)
            recording = [monitor.Monitor(evaluator, datasets, config), *records.hooks]
            train_all(
                looped,
                first_step=0,
                last_step=last_step,
                hook=hooks.Hooks([*(recording if summaries else []), stopwatch]),
                clock=clock,
            )
        records.close()
        seconds = stopwatch.times[-1][0] - stopwatch.times[0][0]
        taken = sum(count for _, count in stopwatch.times[1:])
        is_full = batch_size == 0 and not datasets.stream
        return seconds / taken / (1 if is_full else batches.own_batch_size)

    return one_round


def table(count: int, num_features: int) -> tuple[Any, Any]:
    """Examples of several features: x float32 [count, D], y float32 [count]."""
    x = np.random.default_rng(0).standard_normal((count, num_features), dtype=np.float32)
    return x, np.tanh(x).sum(axis=1)


def mlp_64(num_features: int) -> Any:
    """A model for --model: two hidden layers of 64 units."""
    return _mlp(num_features, 64)


def mlp_256(num_features: int) -> Any:
    """A model for --model: two hidden layers of 256 units."""
    return _mlp(num_features, 256)


def mlp_1024(num_features: int) -> Any:
    """A model for --model: two hidden layers of 1024 units."""
    return _mlp(num_features, 1024)


def _mlp(num_features: int, units: int) -> Any:
    from tensorflow import keras

    hidden = [keras.layers.Dense(units, activation="relu") for _ in range(2)]
    return keras.Sequential([keras.Input([num_features]), *hidden, keras.layers.Dense(1)])


def convolution(num_features: int) -> Any:
    """A model for --model: two small convolutions over images of 16 by 16."""
    from tensorflow import keras

    return keras.Sequential(
        [
            keras.Input([num_features]),
            keras.layers.Reshape([16, 16, 1]),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(1),
        ]
    )


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
    """Keras fit on arrays, as in the guide: with one full batch an epoch is one step."""
    from pipeline import tf_runtime

    tf_runtime.import_tensorflow()
    import tensorflow as tf

    from pipeline.training import models

    x, y = examples(count)
    model = models.keras()
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


def keras_network(
    make: Callable[[int], Any] | None = None,
    *,
    batch_size: int,
    count: int,
    num_features: int = 1,
    optimizer: str = "sgd",
    is_tuned: bool = False,
) -> Round:
    """Keras fit of a network on arrays; is_tuned compiles it with 256 steps in a call."""
    from pipeline import tf_runtime

    tf_runtime.import_tensorflow()
    import tensorflow as tf

    from pipeline.training import models

    x, y = examples(count) if num_features == 1 else table(count, num_features)
    model = (make or models.mlp)(num_features)
    classes = {"sgd": tf.keras.optimizers.SGD, "adam": tf.keras.optimizers.Adam}
    more = {"jit_compile": True, "steps_per_execution": 256} if is_tuned else {}
    model.compile(optimizer=classes[optimizer](_SMALL_RATE), loss="mean_squared_error", **more)
    x = x.reshape(count, -1)
    return timed(lambda: model.fit(x, y, batch_size=batch_size, verbose=0), count)


def cheap_stream() -> Any:
    """A function for --data: batches of a shuffled table of one column."""
    import tensorflow as tf

    x, y = examples(_STREAMED)
    return tf.data.Dataset.from_tensor_slices((x[:, None], y)).shuffle(10_000).batch(32)


def augmented_stream() -> Any:
    """A function for --data: batches of images of 16 by 16, with noise of their own each time."""
    import tensorflow as tf

    def noisy(example: Any, seed: Any) -> Any:
        x, y = example
        return x + 0.1 * tf.random.stateless_normal([256], [seed, seed]), y

    images = tf.data.Dataset.from_tensor_slices(table(_STREAMED // 4, 256)).shuffle(1000)
    both = tf.data.Dataset.zip((images, tf.data.Dataset.random(seed=1)))
    return both.map(noisy, num_parallel_calls=2).batch(32).prefetch(2)


def keras_stream(
    make: Callable[[int], Any],
    stream: Callable[[], Any],
    *,
    num_features: int,
    steps_per_execution: int = 1,
) -> Round:
    """Keras fit of a network on a stream."""
    from pipeline import tf_runtime

    tf_runtime.import_tensorflow()
    import tensorflow as tf

    model, batches = make(num_features), stream()
    optimizer = tf.keras.optimizers.SGD(_SMALL_RATE)
    model.compile(optimizer, "mean_squared_error", steps_per_execution=steps_per_execution)
    return timed(lambda: model.fit(batches, shuffle=False, verbose=0), 32 * len(batches))


def jax_scan() -> Round:
    """JAX: lax.scan over the steps; returns W, b and loss of each step and writes nothing."""
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
    """PyTorch by hand: autograd and an update under no_grad, over shuffled batches."""
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


def jax_network(*, optimizer: str) -> Round:
    """JAX: a permutation and a scan over the batches of the MLP 1-64-64-1, SGD or Adam by hand."""
    import jax

    numpy = jax.numpy
    x, y = map(numpy.asarray, examples(_MILLION))
    steps = _MILLION // 32
    generator = np.random.default_rng(0)
    start = [
        (generator.standard_normal((i, o), dtype=np.float32) / i**0.5, np.zeros(o, np.float32))
        for i, o in ((1, 64), (64, 64), (64, 1))
    ]

    def loss(layers: Any, x: Any, y: Any) -> Any:
        values = x[:, None]
        for W, b in layers[:-1]:
            values = jax.nn.relu(values @ W + b)
        W, b = layers[-1]
        return numpy.mean(((values @ W + b)[:, 0] - y) ** 2)

    def updated(layers: Any, means: Any, squares: Any, gradients: Any, step: Any) -> Any:
        tree = jax.tree.map
        if optimizer == "sgd":
            return tree(lambda p, g: p - _SMALL_RATE * g, layers, gradients), means, squares
        means = tree(lambda m, g: 0.9 * m + 0.1 * g, means, gradients)
        squares = tree(lambda s, g: 0.999 * s + 0.001 * g * g, squares, gradients)
        rate = _SMALL_RATE * numpy.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1))
        change = lambda p, m, s: p - rate * m / (numpy.sqrt(s) + 1e-7)  # noqa: E731
        return tree(change, layers, means, squares), means, squares

    def one_step(state: Any, rows: Any) -> Any:
        *parameters, step = state
        value, gradients = jax.value_and_grad(loss)(parameters[0], x[rows], y[rows])
        return (*updated(*parameters, gradients, step), step + 1), value

    @jax.jit
    def epoch(state: Any, key: Any) -> Any:
        order = jax.random.permutation(key, _MILLION).reshape(steps, 32)
        return jax.lax.scan(one_step, state, order)

    zeros = jax.tree.map(numpy.zeros_like, start)
    state, key = (start, zeros, zeros, numpy.float32(0)), jax.random.key(0)
    jax.block_until_ready(epoch(state, key))
    return timed(lambda: jax.block_until_ready(epoch(state, key)), _MILLION)


def torch_network(*, optimizer: str, count: int) -> Round:
    """PyTorch by hand: the MLP 1-64-64-1 and its optimizers over shuffled batches of 32."""
    import torch

    x, y = (torch.from_numpy(array)[:, None] for array in examples(_MILLION))
    layers = torch.nn
    model = layers.Sequential(
        *(layers.Linear(1, 64), layers.ReLU(), layers.Linear(64, 64), layers.ReLU()),
        layers.Linear(64, 1),
    )
    classes = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    updates = classes[optimizer](model.parameters(), lr=_SMALL_RATE)

    def work() -> None:
        for rows in torch.randperm(_MILLION)[:count].split(32):
            loss = ((y[rows] - model(x[rows])) ** 2).mean()
            updates.zero_grad()
            loss.backward()
            updates.step()

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
    from pipeline.data import text_tables

    path = csv_file()
    if with_numpy:
        return timed(
            lambda: np.loadtxt(path, dtype=np.float32, delimiter=",", skiprows=1), _MILLION
        )
    return timed(lambda: list(text_tables.open_file(path).rows(["x", "y"])), _MILLION)


SIDES: dict[str, Callable[[], Round]] = {
    "pipeline": lambda: pipeline(epochs=1_000_000),
    "pipeline without summaries": lambda: pipeline(epochs=1_000_000, summaries=False),
    "pipeline --loop=fit": lambda: pipeline(loop="fit", model="keras", epochs=5000),
    "guide": guide,
    "keras fit": lambda: keras(epochs=30, batch_size=1000, tensorboard=True),
    "jax scan": jax_scan,
    "jax scan with our XLA flag": jax_scan,  # benchmark.py sets it
    "pipeline 32": lambda: pipeline(epochs=4, batch_size=32, count=_MILLION),
    "pipeline 1024": lambda: pipeline(epochs=8, batch_size=1024, count=_MILLION),
    "pipeline 1024, CSV": lambda: pipeline(
        epochs=8, batch_size=1024, count=_MILLION, data=csv_file()
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
_OWN = f"{pathlib.Path(__file__).resolve()}:"
for _optimizer in ("sgd", "adam"):
    _network = {"model": "mlp", "optimizer": _optimizer, "learning_rate": _SMALL_RATE}
    SIDES |= {
        f"pipeline mlp {_optimizer}": functools.partial(
            pipeline, epochs=1, batch_size=32, count=_MILLION, **_network
        ),
        f"pipeline --loop=fit mlp {_optimizer}": functools.partial(
            pipeline, epochs=1, batch_size=32, count=100_000, loop="fit", **_network
        ),
        f"keras fit mlp {_optimizer}": functools.partial(
            keras_network, batch_size=32, count=50_000, optimizer=_optimizer
        ),
        f"keras fit tuned mlp {_optimizer}": functools.partial(
            keras_network, batch_size=32, count=200_000, optimizer=_optimizer, is_tuned=True
        ),
        f"jax mlp {_optimizer}": functools.partial(jax_network, optimizer=_optimizer),
        f"torch mlp {_optimizer}": functools.partial(
            torch_network, optimizer=_optimizer, count=50_000
        ),
    }
for _name, _make, _size, _count, _features in (
    ("20-256-256-1", mlp_256, 256, 256_000, 20),
    ("20-1024-1024-1", mlp_1024, 1024, 102_400, 20),
    ("convolution", convolution, 32, 64_000, 256),
):
    _shape = {"batch_size": _size, "count": _count, "num_features": _features}
    SIDES |= {
        f"pipeline {_name}": functools.partial(
            pipeline, epochs=1, model=_OWN + _make.__name__, learning_rate=_SMALL_RATE, **_shape
        ),
        f"keras fit {_name}": functools.partial(keras_network, _make, **_shape),
    }
for _name, _make, _stream, _features in (
    ("stream", mlp_64, cheap_stream, 1),
    ("augmented stream", convolution, augmented_stream, 256),
):
    for _loop, _prefix in (("custom", ""), ("fit", "--loop=fit ")):
        SIDES[f"pipeline {_prefix}{_name}"] = functools.partial(
            pipeline,
            epochs=1,
            loop=_loop,
            model=_OWN + _make.__name__,
            data=_OWN + _stream.__name__,
            learning_rate=_SMALL_RATE,
        )
    for _steps, _prefix in ((1, ""), (256, "tuned ")):
        SIDES[f"keras fit {_prefix}{_name}"] = functools.partial(
            keras_stream, _make, _stream, num_features=_features, steps_per_execution=_steps
        )


if __name__ == "__main__":
    one_round = SIDES[sys.argv[1]]()
    one_round()
    print("ready", flush=True)
    for _ in sys.stdin:
        print(one_round(), flush=True)
