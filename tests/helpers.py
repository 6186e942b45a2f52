"""Helpers of several test files: processes, runs, a TensorBoard, one event reader."""

import contextlib
import dataclasses
import itertools
import json
import pathlib
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline import config as config_lib
from pipeline.data import batch as batch_lib
from pipeline.data import batches as batches_lib
from pipeline.data import datasets as datasets_lib
from pipeline.data import preprocessing
from pipeline.data import streams as streams_lib
from pipeline.evaluation import evaluate
from pipeline.evaluation import linear as linear_lib
from pipeline.evaluation import monitor as monitor_lib
from pipeline.reporting import recorder
from pipeline.reporting import reporters as reporters_lib
from pipeline.run import agreement, signals
from pipeline.training import clock as clock_lib
from pipeline.training import (
    compilation,
    hooks,
    keras_loop,
    learning_rate,
    losses,
    make_task,
    optimizers,
    step_metrics,
    train_step,
)
from pipeline.training import loop as loop_lib
from pipeline.training import task as task_lib
from tests import processes

SOLUTIONS = ("module-custom", "keras-custom", "keras-fit")

# A run that trains for about two seconds, in steps of about 60 us, and saves often.
SLOW = (
    *("--num_examples=50000", "--epochs=30000"),
    *("--checkpoint_every=3000", "--summary_every=1"),
)


def singly(batches: batches_lib.Batches, first: int, last: int) -> list[batch_lib.Batch]:
    """The batches of some updates, out of their blocks and without padding."""
    result: list[batch_lib.Batch] = []
    for block in batches.blocks(first, last):
        for step in range(min(batches.block_steps, last - first - len(result))):
            batch, size = block.at(tf.constant(step))
            result.append(batch.map(lambda t, n=int(size): t[:n]))
    return result


def batches_for_keras(
    config: config_lib.Config, datasets: datasets_lib.Datasets
) -> "tf.data.Dataset[Any]":
    """All batches of a run, as plain fit takes them."""
    count = config.last_step(datasets.steps_per_epoch(config))

    def all_batches() -> Iterator[Any]:
        if datasets.stream:
            (iterator,) = streams_lib.Batches(datasets.stream, run_eagerly=False).blocks(0, 1)
            yield from itertools.islice(iterator, count)
            return
        for batch in singly(batches_lib.Batches(datasets.train, config), 0, count):
            yield batch.as_keras

    spec = datasets.stream.spec if datasets.stream else batches_lib.of(datasets, config).spec
    data = tf.data.Dataset.from_generator(all_batches, output_signature=spec.as_keras)
    return data.apply(tf.data.experimental.assert_cardinality(count))


def fitted_by_keras(config: config_lib.Config, **compiled: Any) -> tuple[Any, dict[str, Any]]:
    """A model and its weights, by the pipeline's names, after plain fit on the same batches.

    A model that is not compiled is compiled as the arguments say.
    """
    datasets = datasets_lib.load(config)
    task = make_task.make_task(config, datasets)
    if compiled:
        task.model.compile(**compiled, jit_compile=False)
    task.model.fit(batches_for_keras(config, datasets), shuffle=False, verbose=0)
    return task.model, dict(task.variables.arrays())


def start(module: str, *arguments: object, cwd: pathlib.Path) -> processes.Process:
    """Starts an entry point as a user would."""
    return processes.Process(f"pipeline.{module}", *arguments, cwd=cwd)


def finish(
    process: "processes.Process | subprocess.Popen[str]",
) -> "subprocess.CompletedProcess[str]":
    """Waits for the end of a process."""
    out, err = process.communicate(timeout=120)
    assert process.returncode is not None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def call(module: str, *arguments: object, cwd: pathlib.Path) -> "subprocess.CompletedProcess[str]":
    """Runs an entry point to its end."""
    return finish(start(module, *arguments, cwd=cwd))


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    """Polls until a condition is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def saved_steps(run: pathlib.Path) -> list[int]:
    """The steps of the checkpoints of a run, ascending.

    TensorFlow writes the index last and in place; an empty index is still being written.
    """
    found = []
    for path in run.glob("checkpoints/ckpt-*.index"):
        with contextlib.suppress(FileNotFoundError):  # an old checkpoint was removed meanwhile
            if path.stat().st_size:
                found.append(int(path.stem[5:]))
    return sorted(found)


def newest(run: pathlib.Path) -> int:
    """The step of the newest checkpoint of a run; -1 without one."""
    return max(saved_steps(run), default=-1)


def answers(commands: list[list[str]], *, cwd: pathlib.Path) -> list[tuple[Any, str, str]]:
    """Runs command lines of `predict` and `train`; returns exit codes, stdout and stderr.

    All run in one process, which saves the seconds of its start.
    """
    result = finish(processes.Process("tests.terminal", json.dumps(commands), cwd=cwd))
    assert result.returncode == 0, result.stderr
    return [tuple(answer) for answer in json.loads(result.stdout)]


class Runs:
    """The three solutions, each trained in its own process on the default problem."""

    def __init__(self, folder: pathlib.Path):
        """Trains them two at a time, as many as there are cores in CI."""
        self.folder = folder
        self.logdir = folder / "logs"
        self.results: dict[str, subprocess.CompletedProcess[str]] = {}
        running = {}
        for name in SOLUTIONS:
            model, loop = name.split("-")
            flags = f"--run_name={name}", f"--model={model}", f"--loop={loop}"
            running[name] = start("train", *flags, cwd=folder)
            if len(running) == 2:
                self._collect(running)
        self._collect(running)

    def _collect(self, running: dict[str, processes.Process]) -> None:
        for name, process in running.items():
            self.results[name] = finish(process)
        running.clear()


class TensorBoard:
    """A TensorBoard server, asked over HTTP."""

    def __init__(self, url: str, output: str):
        self.url = url
        self.output = output

    def get(self, path: str, **query: str) -> Any:
        """Returns an answer: parsed if it is JSON, bytes otherwise."""
        address = f"{self.url}/data/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(address, timeout=10) as response:
            content = response.read()
            is_json = "json" in response.headers["Content-Type"]
        return json.loads(content) if is_json else content

    def wait_for(self, ready: Callable[[], Any], seconds: float = 30) -> Any:
        """Polls until the result is not empty."""
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(urllib.error.HTTPError):
                if answer := ready():
                    return answer
            assert time.monotonic() < end, "TensorBoard did not get the data in time"
            time.sleep(0.2)

    def scalars(self, run: str, tag: str, points: int = 1) -> list[tuple[int, float]]:
        """The (step, value) pairs of a curve, once it has at least `points` of them."""

        def ready() -> Any:
            answer = self.get("plugin/scalars/scalars", run=run, tag=tag)
            return answer if len(answer) >= points else None

        return [(step, value) for _, step, value in self.wait_for(ready)]

    def images(self, run: str, tag: str) -> list[bytes]:
        """The pictures of a tag as PNG files."""
        entries = self.get("plugin/images/images", run=run, tag=tag, sample="0")
        queries = [dict(urllib.parse.parse_qsl(entry["query"])) for entry in entries]
        return [self.get("plugin/images/individualImage", **query) for query in queries]


@contextlib.contextmanager
def tensorboard(logdir: pathlib.Path, *flags: str) -> Iterator[TensorBoard]:
    """Serves a folder with `python -m pipeline.watch` on a free port."""
    flags = ("--port=0", "--reload_interval=1", *flags)
    process = start("watch", logdir, *flags, cwd=logdir)
    try:
        assert process.stdout is not None
        output = process.stdout.readline() + process.stdout.readline()
        found = re.search(r"http://localhost:\d+", output)
        assert found, process.communicate(timeout=10)
        yield TensorBoard(found[0], output)
    finally:
        process.terminate()
        process.communicate(timeout=20)


def events(directory: pathlib.Path) -> list["tf.compat.v1.Event"]:
    """All events in the event files of a directory, file by file; checks their checksums."""
    return [
        tf.compat.v1.Event.FromString(record)
        for path in sorted(directory.glob("events.out.tfevents.*.pipeline"))
        for batch in tf.data.TFRecordDataset(str(path)).batch(1024).as_numpy_iterator()
        for record in batch
    ]


def values(directory: pathlib.Path) -> Iterator[tuple[int, Any]]:
    """The step and the Summary.Value of each value in a directory's event files."""
    for event in events(directory):
        for value in event.summary.value:
            yield event.step, value


def scalars(directory: pathlib.Path) -> dict[str, list[tuple[int, float]]]:
    """The (step, value) pairs of each scalar tag in a directory's event files."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for step, value in values(directory):
        if value.metadata.plugin_data.plugin_name == "scalars":
            curves.setdefault(value.tag, [])  # only the first one names the plugin
        if value.tag in curves:
            curves[value.tag].append((step, float(tf.make_ndarray(value.tensor))))
    return curves


def steps(directory: pathlib.Path, plugin: str) -> dict[str, list[int]]:
    """The steps of each tag of a plugin, such as histograms or images, in a directory's files."""
    found: dict[str, list[int]] = {}
    for step, value in values(directory):
        kind = "images" if value.HasField("image") else value.metadata.plugin_data.plugin_name
        if kind == plugin:
            found.setdefault(value.tag, []).append(step)
    return found


def guide(count: int) -> tuple[list[float], list[float], list[float], datasets_lib.Datasets]:
    """The guide's loop in numpy on the default data: W, b and loss of the steps 0 to count."""
    datasets = datasets_lib.load(config_lib.Config())
    x, y = datasets.train.x[:, 0].astype(np.float64), datasets.train.y.astype(np.float64)
    W, b = [5.0], [0.0]
    loss = []
    for _ in range(count + 1):
        residual = W[-1] * x + b[-1] - y
        loss.append(float(np.mean(residual**2)))
        W.append(W[-1] - 0.1 * float(np.mean(2 * residual * x)))
        b.append(b[-1] - 0.1 * float(np.mean(2 * residual)))
    return W[:-1], b[:-1], loss, datasets


def units(mean: list[float], stddev: list[float]) -> preprocessing.Preprocessing:
    """The preprocessing of columns a, b, ... and a label y."""
    names = "abcdefghijklmnopqrst"[: len(mean) - 1]
    columns = dict.fromkeys(names)
    return preprocessing.Preprocessing(columns, "y", np.array(mean), np.array(stddev))


def line(first: int, end: int) -> step_metrics.StepMetrics:
    """Rows first to end - 1 on a straight line from (5, 0) to (3, 2); other columns are made up."""
    step = np.arange(first, end)
    rest = (0.999**step).astype(np.float32)
    values = np.stack([3 + 2 * rest, 2 - 2 * rest], axis=1)
    return step_metrics.StepMetrics(step, values, loss=1 + rest, gradient_norm=7 * rest)


def absolute_error(y: tf.Tensor, prediction: tf.Tensor) -> tf.Tensor:
    """A user's own loss."""
    return tf.abs(y - prediction)


def spec(examples: batch_lib.Batch) -> batch_lib.Batch:
    """The TensorSpecs of a batch of arrays."""
    return examples.map(lambda a: tf.TensorSpec([None, *a.shape[1:]], a.dtype))


def task(model: Any, features: tuple[str, ...] = ("x",)) -> task_lib.Task:
    """The task of a model of columns, with squared errors."""
    x = np.ones((2, len(features)), np.float32)
    loss = losses.mean_loss(losses.squared_error, model)
    return task_lib.Task(model, loss, spec=spec(batch_lib.Batch(x, x[:, 0])), features=features)


def linear(
    features: tuple[str, ...] = ("x",), *, loss: losses.ExampleLoss | None = None, **settings: Any
) -> task_lib.Task:
    """The task of the guide with these settings and features, perhaps with another loss."""
    x = np.ones((2, len(features)), np.float32)
    examples = batch_lib.Batch(x, x[:, 0])
    datasets = datasets_lib.Datasets(examples, None, features, "y")
    made = make_task.make_task(config_lib.Config(**settings), datasets)
    if loss is None:
        return made
    mean = losses.mean_loss(loss, made.model)
    return task_lib.Task(made.model, mean, spec=made.spec, features=features)


def loop(
    task: task_lib.Task,
    optimizer: Any,
    batches: batches_lib.Batches,
    mode: compilation.Mode = compilation.Mode.XLA,
    *,
    name: str = "custom",
) -> loop_lib.Loop:
    """The loop with this name, before it compiles anything."""
    step = train_step.guide_step(task, optimizer)
    if name == "fit":
        keras_loop.compile_model(task, optimizer)
        step = train_step.keras_step(task, optimizer)
    return loop_lib.Loop(task, optimizer, batches, mode, step=step)


LOOPS = {"custom": loop_lib.train, "fit": keras_loop.fit}


def show(hook: hooks.Hook, trained: task_lib.Task, rows: step_metrics.StepMetrics) -> None:
    """Calls a hook with some rows and the model at its pauses, as a loop does.

    Nothing is trained; at the end the model is at the last pause.
    """
    first = 0
    while first < len(rows.step):
        step = int(rows.step[first])
        if hook.next_pause(step - 1) == step:
            trained.variables.assign(trained.variables.split(rows.values[first]))
            hook.pause(step)
        end = int(min(len(rows.step), first + hook.next_pause(step) - step))
        hook.after(rows.select(slice(first, end)))
        first = end


class Recording:
    """The reporters of a run with the objects that a trainer makes for them, without training."""

    def __init__(
        self,
        directory: pathlib.Path,
        *,
        trained: task_lib.Task | None = None,
        clock: clock_lib.Clock | None = None,
        history: step_metrics.StepMetrics | None = None,
        event_files: dict[str, int] | None = None,
        **settings: Any,
    ):
        """Prepares to record a run of these settings, by default of the guide's task."""
        self.config = config_lib.Config(**settings)
        self.datasets = datasets_lib.load(self.config)
        self.task = trained or make_task.make_task(self.config, self.datasets)
        self.line = linear_lib.Linear.of(self.task, self.datasets, self.config)
        stable = self.line.largest_stable_rate if self.line else np.inf
        rate = learning_rate.choose(self.config, self.task, self.datasets, largest_stable=stable)
        self.config = dataclasses.replace(self.config, learning_rate=rate)
        last_step = self.config.last_step(self.datasets.steps_per_epoch(self.config))
        optimizer = optimizers.create(self.config, self.task, last_step=last_step)
        evaluator = evaluate.Evaluator(self.task, self.datasets, self.config)
        self.monitor = monitor_lib.Monitor(evaluator, self.datasets, self.config)
        self.clock = clock or clock_lib.Clock()
        recording = recorder.Recorder(
            self.config,
            self.task,
            self.datasets,
            self.line,
            rates=lambda steps: optimizers.rates(optimizer, steps),
            directory=directory,
            last_step=last_step,
            clock=self.clock,
            rows=history,
            event_files=event_files or {},
        )
        self.reporters = reporters_lib.Reporters(recording)
        all_hooks = [self.monitor, *self.reporters.hooks]
        self.hooks = agreement.Hooks(all_hooks, signals.StopRequest(), None, self.monitor.is_good)

    def start(self, graph: Any = None) -> None:
        """Records the start of training."""
        self.reporters.start(graph, {"repeat": "`python -m pipeline.train --a_flag`"})

    def after(self, rows: step_metrics.StepMetrics) -> None:
        """Records rows, with the pauses among them."""
        if len(rows.step):
            since = self.clock.now() - 0.001
            self.clock.trained(int(rows.step[0]), rows.next_step, since=since)
        show(self.hooks, self.task, rows)

    def finish(self, last: step_metrics.StepMetrics) -> None:
        """Records the row of the last step as the trained model's row."""
        self.task.variables.assign(self.task.variables.split(last.values[0]))
        step = int(last.step[0])
        event = self.monitor.noted(step, self.monitor.checked(step))
        self.reporters.finish(last, event, {})

    def close(self) -> None:
        """Closes the event files."""
        self.reporters.close()
