"""Several workers as one run: the chief says what comes next, and the others do their part.

The chief alone decides when to train, to evaluate and to end, so nothing that it reads (the clock,
a signal, a checkpoint) need be the same for all. Each of its commands is a message of all workers,
in which each also says whether it was told to stop.
"""

import contextlib
import dataclasses
import enum
import functools
import timeit
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import tensorflow as tf

from pipeline import config as config_lib
from pipeline import errors, user_code
from pipeline.data import batches as batches_lib
from pipeline.data import datasets as datasets_lib
from pipeline.data import fingerprint
from pipeline.distributed import communicator as communicator_lib
from pipeline.distributed import workers
from pipeline.run import signals
from pipeline.training import compilation, custom_loop, hooks, loops, train_step
from pipeline.training import task as task_lib

_FOREVER = 2**40  # steps
_PATHS = ("data", "initialize_from", "model", "loss")  # may lie elsewhere on another machine
_SHARED = ("epochs", "metrics", "early_stopping_patience")
_LEAST_SECONDS = 1e-3  # of work in a step, from which on several workers may be faster


class Command(enum.IntEnum):
    """What the chief does next, together with the others."""

    START = enum.auto()  # with the first step
    TRAIN = enum.auto()  # with the number of steps
    EVALUATE = enum.auto()
    LAST_ROW = enum.auto()
    FIT = enum.auto()
    END = enum.auto()  # with the exit code


class Team:
    """The messages between the chief and the other workers; with one worker, none are sent.

    Attributes:
      total: Adds up float64 numbers [N] of all workers.
    """

    def __init__(
        self, communicator: communicator_lib.Communicator | None, stop: signals.StopRequest
    ):
        """Prepares to pass on the requests to stop that any worker gets."""
        self._communicator, self._stop = communicator, stop
        self.total: workers.Total = communicator.sum if communicator else workers.alone

    def check(
        self, config: config_lib.Config, datasets: datasets_lib.Datasets, task: task_lib.Task
    ) -> None:
        """Checks that the workers can train this together.

        Raises:
          errors.InputError: not this model, or (in all workers) one has other flags or examples.
        """
        if self._communicator is None:
            return
        problem = _unfit(task)
        own = _shared(config, datasets) | {"the model": zlib.crc32(problem.encode())}
        numbers = np.array(list(own.values()), np.int64)
        chief = self._communicator.of_chief(numbers)
        differing = self._communicator.sum((numbers != chief).astype(np.int64))
        different = [name for name, count in zip(own, differing, strict=True) if count]
        errors.require(not problem, problem)
        errors.require(
            not different,
            f"the workers differ in {', '.join(different)}; start all with the same flags, on the "
            "same files",
        )

    def fingerprint(self, datasets: datasets_lib.Datasets) -> int:
        """The fingerprint of the examples of all workers."""
        own = datasets.fingerprint()
        if self._communicator is None:
            return own
        return int(self._communicator.sum([own])[0]) % fingerprint.COUNT

    def of_chief(self, number: float) -> float:
        """The chief's number, for all."""
        if self._communicator is None:
            return number
        return float(self._communicator.of_chief([number])[0])

    def from_chief(self, variables: Iterable[tf.Variable]) -> None:
        """Gives all workers the chief's values of variables, bit for bit."""
        if self._communicator:
            self._communicator.from_chief(variables)

    def sum_of_tensor(self, numbers: tf.Tensor) -> tf.Tensor:
        """The sum of float32 numbers [N] over all workers."""
        return self._communicator.total(numbers) if self._communicator else numbers

    def global_batch(self, batch_size: int) -> task_lib.GlobalBatch | None:
        """The batch of that size that the workers share; None with one worker."""
        if self._communicator is None:
            return None
        return task_lib.GlobalBatch(batch_size, self._communicator.worker.count)

    def loop(self, name: str) -> Callable[..., None]:
        """The training loop of that name, for all workers together."""
        if self._communicator is None:
            return loops.LOOPS[name]
        return functools.partial(custom_loop.train, communicator=self._communicator)

    def leading(self, hook: hooks.Hook) -> hooks.Hook:
        """The chief's hook, of which the others get to know where training pauses."""
        return _Leading(self, hook) if self._communicator else hook

    def tell(self, command: Command, amount: int = 0) -> None:
        """As the chief, tells the others what comes next."""
        if self._communicator and self._communicator.worker.is_chief:
            self._exchange(command, amount)

    def hear(self) -> tuple[Command, int]:
        """As another worker, waits for what comes next.

        Raises:
          Ended: the chief has ended the run.
        """
        command, amount = self._exchange(0, 0)
        if command == Command.END:
            raise Ended(amount)
        return Command(command), amount

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """As the chief, ends the run for the others as it ends here."""
        try:
            yield
        except errors.LostWorkerError:
            raise  # there is nobody to tell
        except errors.PipelineError as error:
            self.tell(Command.END, error.exit_code)
            raise
        except BaseException:
            self.tell(Command.END, 1)
            raise
        self.tell(Command.END, 0)

    def _exchange(self, command: int, amount: int) -> tuple[int, int]:
        assert self._communicator
        own = [int(self._stop.received == number) for number in signals.SIGNALS]
        command, amount, *told = self._communicator.sum([command, amount, *own]).tolist()
        for number, count in zip(signals.SIGNALS, told, strict=True):
            if count:
                self._stop.follow(number)
        return command, amount


def note(
    task: task_lib.Task,
    batches: batches_lib.Batches,
    whole: task_lib.GlobalBatch,
    mode: compilation.Mode,
) -> str:
    """Says where a step is so short that its message takes longer than what it saves, or ''."""
    batch = next(iter(batches.singly(0, 1)))

    def seconds(function: Callable[..., tf.Tensor]) -> float:
        run = tf.function(function, jit_compile=mode is compilation.Mode.XLA, autograph=False)
        run(*batch).numpy()  # compiles it
        return min(timeit.repeat(lambda: run(*batch).numpy(), number=1, repeat=5))

    def work(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        return train_step.shared_loss_and_gradients(task, x, y, whole)

    alone = whole.num_workers * max(0.0, seconds(work) - seconds(lambda x, y: x[0, :1] + y[:1]))
    if mode is compilation.Mode.EAGER or alone > _LEAST_SECONDS:
        return ""
    return (
        f"one process would do a step in about {1e3 * alone:.1g} ms, less than a message between "
        f"workers takes; it is faster than {whole.num_workers} workers"
    )


def _unfit(task: task_lib.Task) -> str:
    """Says why several workers can't train a model together, or ''."""
    others = sorted(task.variables.keys() - task.trainable.keys())
    if others:
        return (
            f"several workers can't train a model with variables that change without a gradient: "
            f"{', '.join(others)} (of batch normalization, dropout and the like)"
        )
    odd = [name for name, v in task.trainable.items() if v.dtype != tf.float32]
    return f"several workers train float32 variables only; {', '.join(odd)}" if odd else ""


def _shared(config: config_lib.Config, datasets: datasets_lib.Datasets) -> dict[str, int]:
    """A number for each thing that must be the same for all workers."""
    result = settings(config)
    about = [*datasets.features, datasets.label, datasets.num_train, datasets.num_validation]
    result["the columns or the number of the examples"] = zlib.crc32(str(about).encode())
    if len(datasets.train.y) == datasets.num_train:
        result["the training examples"] = functools.reduce(
            lambda crc, array: zlib.crc32(array.data, crc), datasets.train, 0
        )
    return result


def settings(config: config_lib.Config) -> dict[str, int]:
    """A number for each setting that must be the same for all workers.

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


class _Leading(hooks.Hooks):
    """The chief's hooks, of which the others get to know where training pauses."""

    def __init__(self, team: Team, hook: hooks.Hook):
        """Prepares to call a hook."""
        super().__init__([hook])
        self._team = team

    def next_pause(self, step: int) -> float:
        """The next pause of the hook; the loop asks for it when all else before it is done."""
        pause = min(super().next_pause(step), step + _FOREVER)
        self._team.tell(Command.TRAIN, int(pause) - step)
        return pause


class Following(hooks.Hook):
    """What another worker does at the pauses of the chief."""

    def __init__(self, team: Team, work: Mapping[Command, Callable[[int], object]]):
        """Prepares to do what the chief says, up to the next TRAIN."""
        self._team, self._work = team, work
        self._pause = 0

    def before(self, step: int) -> None:
        """Works until the chief trains on.

        Raises:
          Ended: the chief has ended the run.
        """
        command, amount = self._team.hear()
        while command != Command.TRAIN:
            self._work[command](amount)
            command, amount = self._team.hear()
        self._pause = step + amount

    def next_pause(self, step: int) -> float:
        """The chief's next pause."""
        del step
        return self._pause


class Ended(Exception):  # noqa: N818 (it is no error)
    """The chief has ended the run, with an exit code."""

    def __init__(self, exit_code: int):
        super().__init__(exit_code)
        self.exit_code = exit_code

    def check(self, how_to_resume: str) -> None:
        """Raises what ends this worker as the chief ended, unless that was well."""
        code = self.exit_code
        if code - 128 in signals.SIGNALS:
            raise errors.StoppedError(code - 128, how_to_resume)
        if code:
            kind = {2: errors.InputError, 3: errors.DivergedError}.get(code, errors.RunError)
            raise kind("the first worker has ended the run; it says why")
