"""Measures the steps of one of several workers; benchmark.py starts it with TF_CONFIG.

The first worker prints a line for each problem: its name and the seconds of a step.
"""

import time
from typing import Any

import numpy as np

from pipeline import config as config_lib
from pipeline.data import batches as batches_lib
from pipeline.data import datasets as datasets_lib
from pipeline.distributed import start, workers

# Examples, features, batch size, steps.
PROBLEMS = {
    "201 points": (201, 1, 0, 2000),
    "2 million points": (2_000_000, 1, 0, 200),
    "200,000 x 256, batch 65,536": (200_000, 256, 65_536, 60),
}
MESSAGES = {"12 B": 3, "64 KiB": 2**14, "256 KiB": 2**16, "4 MiB": 2**20}
_ROUNDS = 5


def main() -> None:
    """Measures the steps of each problem, and messages of some sizes."""
    worker = workers.from_environment()
    communicator = start.import_tensorflow(worker, timeout_secs=60)
    for name, problem in PROBLEMS.items():
        *sizes, steps = problem
        if worker.count == 1:
            steps *= 200 if name == "201 points" else 1  # a step takes less than a microsecond
        _print(worker, name, _seconds_per_step(worker, communicator, *sizes, steps))
    for name, numbers in MESSAGES.items() if communicator else ():
        _print(worker, name, _seconds_per_message(communicator, numbers))


def _print(worker: workers.Worker, name: str, seconds: float) -> None:
    if worker.is_chief:
        print(f"{name}\t{seconds}", flush=True)


def _seconds_per_step(
    worker: workers.Worker,
    communicator: Any,
    count: int,
    num_features: int,
    batch_size: int,
    steps: int,
) -> float:
    """The median over the calls of these steps."""
    from pipeline.training import clock as clock_lib
    from pipeline.training import compilation, hooks, make_task, optimizers, step_metrics
    from pipeline.training import loop as loop_lib

    config = config_lib.Config(batch_size=batch_size, learning_rate=1e-3)
    random = np.random.default_rng(0)
    x = random.standard_normal((count, num_features), np.float32)
    whole = datasets_lib.Batch(x, x[:, 0].copy())
    own = whole if batch_size else whole.map(worker.part)
    names = tuple(f"x{i}" for i in range(num_features))
    datasets = datasets_lib.Datasets(own, None, names, "y", None, worker, (count, 0))
    batches = batches_lib.Batches(own, config, worker=worker, count=count)
    made = make_task.make_task(config, datasets)
    optimizer = optimizers.create(config, made, last_step=steps)

    class Stopwatch(hooks.Hook):
        """Records the end and the number of steps of each call."""

        def __init__(self) -> None:
            self.times, self.steps = [time.perf_counter()], [0]

        def after(self, rows: step_metrics.StepMetrics) -> None:
            self.times.append(time.perf_counter())
            self.steps.append(len(rows.step))

    stopwatch = Stopwatch()
    mode = compilation.Mode.XLA
    loop = loop_lib.Loop(made, optimizer, batches, mode, communicator=communicator)
    clock = clock_lib.Clock()
    loop_lib.train(loop, first_step=0, last_step=steps, hook=stopwatch, clock=clock)
    return float(np.median(np.diff(stopwatch.times) / stopwatch.steps[1:]))


def _seconds_per_message(communicator: Any, numbers: int) -> float:
    """The median time of a sum of float32 numbers over all workers, in a loop."""
    import tensorflow as tf

    @tf.function(autograph=False)
    def loop(count: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        def body(i: tf.Tensor, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return i + 1, communicator.total(x) * 0.5

        return tf.while_loop(lambda i, x: i < count, body, [0, x])[1]  # noqa: ARG005

    x, count = tf.ones([numbers]), 50
    times = []
    for _ in range(1 + _ROUNDS):
        began = time.perf_counter()
        loop(tf.constant(count), x).numpy()
        times.append((time.perf_counter() - began) / count)
    return float(np.median(times[1:]))


if __name__ == "__main__":
    main()
