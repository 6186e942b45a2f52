"""Keeps processes that train together in step: all run the same program with the same hooks.

They agree on what only the first process has (files to write, a checkpoint to resume from) and on
what only one process receives (a signal).
"""

import contextlib
import dataclasses
import functools
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline import config as config_lib
from pipeline import errors, user_code
from pipeline.data import batches as batches_lib
from pipeline.data import datasets as datasets_lib
from pipeline.data import fingerprint
from pipeline.distributed import communicator as communicator_lib
from pipeline.run import run_state, signals
from pipeline.training import hooks, step_metrics
from pipeline.training import task as task_lib

_FOREVER = 2**40  # steps
_PATHS = ("data", "initialize_from", "model", "loss")  # paths may differ between machines
_SHARED = ("epochs", "metrics", "early_stopping_patience", "export")


class Hooks(hooks.Hooks):
    """The hooks of one process, which pause at the same steps as the first process.

    Training ends before the first diverged row, or when any process has received a signal.
    """

    def __init__(
        self,
        all_hooks: Sequence[hooks.Hook],
        stop: signals.StopRequest,
        communicator: communicator_lib.Communicator | None,
        is_good: Callable[[step_metrics.StepMetrics], npt.NDArray[np.bool_]],
    ):
        """Prepares to agree through a communicator, unless this process is alone."""
        super().__init__(all_hooks)
        self._stop, self._communicator, self._is_good = stop, communicator, is_good

    def next_pause(self, step: int) -> float:
        """The next pause of the first process; all processes ask at the same steps."""
        pause = min(super().next_pause(step), step + _FOREVER)
        if self._communicator is None:
            return pause
        is_first = self._communicator.worker.is_chief
        own = [int(self._stop.received == number) for number in signals.SIGNALS]
        message = [int(pause) - step if is_first else 0, *own]
        steps, *told = self._communicator.sum(message).tolist()
        self._stop.agreed = next((n for n, c in zip(signals.SIGNALS, told, strict=True) if c), 0)
        return step + int(steps)

    def after(self, rows: step_metrics.StepMetrics) -> None:
        """Calls each hook with the rows before divergence; then raises hooks.Divergence."""
        good = self._is_good(rows)
        if good.all():
            super().after(rows)
            return
        end = int(np.argmin(good))
        if end:
            super().after(rows.select(slice(end)))
        raise hooks.Divergence(int(rows.step[end]), float(rows.loss[end]))


def check(
    config: config_lib.Config,
    datasets: datasets_lib.Datasets,
    task: task_lib.Task,
    communicator: communicator_lib.Communicator | None,
    *,
    is_mean_over_examples: bool,
) -> None:
    """Checks that the processes can train the model together.

    Raises:
      errors.InputError: several processes can't train this model, or their flags, files or
        examples differ. All processes raise it.
    """
    if communicator is None:
        return
    problem = unfit(config, datasets, task, is_mean_over_examples=is_mean_over_examples)
    own = settings(config) | _of_examples(datasets) | {"the model": zlib.crc32(problem.encode())}
    numbers = np.array(list(own.values()), np.int64)
    differing = communicator.sum((numbers != communicator.of_chief(numbers)).astype(np.int64))
    different = [name for name, count in zip(own, differing, strict=True) if count]
    errors.require(not problem, problem)
    errors.require(
        not different,
        f"the workers differ in {', '.join(different)}; start all with the same flags, on the "
        "same files",
    )


def settings(config: config_lib.Config) -> dict[str, int]:
    """Returns a checksum of each setting that must be the same for all workers.

    Every config has the same settings, in the same order.
    """
    result = {}
    for field in dataclasses.fields(config):
        is_shared = not field.metadata["may_change"] or field.name in _SHARED
        if is_shared and field.name not in _PATHS:
            result[f"--{field.name}"] = zlib.crc32(str(getattr(config, field.name)).encode())
    result["--loss"] = zlib.crc32(config.loss.encode())  # a name, unless it is a function
    result["--data"] = 0
    for flag, function in user_code.find(config).items():
        result[f"--{flag}"] = zlib.crc32(function.name.encode(), zlib.crc32(function.code))
    return result


def fingerprint_of_all(
    datasets: datasets_lib.Datasets, communicator: communicator_lib.Communicator | None
) -> int:
    """Returns the fingerprint of all processes' examples."""
    own = datasets.fingerprint()
    if communicator is None:
        return own
    return int(communicator.sum([own])[0]) % fingerprint.COUNT


def state_of_first(
    state: run_state.RunState | None, communicator: communicator_lib.Communicator | None
) -> run_state.RunState | None:
    """Broadcasts the state that the first process resumes from; None for a new run."""
    if communicator is None:
        return state
    content = communicator.bytes_of_chief(state.to_bytes() if state else b"")
    return run_state.RunState.from_bytes(content) if content else None


@contextlib.contextmanager
def ending_together(communicator: communicator_lib.Communicator | None) -> Iterator[None]:
    """Waits for the other processes at the end, because the first one is still writing."""
    try:
        yield
    except (errors.DivergedError, errors.StoppedError):
        if communicator:
            communicator.wait_for_all()
        raise
    if communicator:
        communicator.wait_for_all()


def _of_examples(datasets: datasets_lib.Datasets) -> dict[str, int]:
    about = [*datasets.features, datasets.label, datasets.num_train, datasets.num_validation]
    is_whole = datasets.train.num_examples == datasets.num_train
    arrays = [np.ascontiguousarray(array) for array in datasets.train.arrays if is_whole]
    return {
        "the columns or the number of the examples": zlib.crc32(str(about).encode()),
        "the training examples": functools.reduce(
            lambda crc, array: zlib.crc32(array.view(np.uint8).data, crc), arrays, 0
        ),
    }


def unfit(
    config: config_lib.Config,
    datasets: datasets_lib.Datasets,
    task: task_lib.Task,
    *,
    is_mean_over_examples: bool,
) -> str:
    """Returns why several processes can't train a model together, or ''."""
    variables = task.variables
    others = sorted(variables.by_name.keys() - variables.trainable.keys())
    if others:
        return (
            "several workers can't train a model with variables that change without a gradient: "
            f"{', '.join(others)} (of batch normalization, dropout and the like)"
        )
    if not is_mean_over_examples:
        return (
            "several workers can't train this: the loss of a batch is not the mean of the losses "
            "of its parts"
        )
    odd = [name for name, v in variables.trainable.items() if v.dtype != "float32"]
    if odd:
        return f"several workers train float32 variables only; {', '.join(odd)}"
    sample = batches_lib.sample(datasets, 2)
    with tf.GradientTape() as tape:
        loss = task.loss(sample, training=True)
    gradients = tape.gradient(loss, task.model.trainable_variables)
    is_sparse = any(isinstance(gradient, tf.IndexedSlices) for gradient in gradients)
    if is_sparse and (task.is_compiled or config.optimizer != "sgd"):
        return (
            "several workers train embeddings with --optimizer=sgd only: Keras' other optimizers "
            "treat the gradients of looked-up rows in another way than sums over workers"
        )
    return ""
