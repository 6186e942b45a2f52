"""The training loops that --loop names."""

from typing import Protocol

from pipeline.data import batches as batches_lib
from pipeline.training import clock as clock_lib
from pipeline.training import compilation, custom_loop, hooks, keras_loop, optimizers
from pipeline.training import task as task_lib


class Loop(Protocol):
    """Trains a task."""

    def __call__(
        self,
        task: task_lib.Task,
        batches: batches_lib.Batches,
        *,
        optimizer: optimizers.Optimizer,
        first_step: int,
        last_step: int,
        hook: hooks.Hook,
        clock: clock_lib.Clock,
        mode: compilation.Mode,
    ) -> None:
        """Makes the updates first_step + 1 to last_step of a task's model, in place.

        The hook's `before` is called at every pause that it asks for, its `after` gets one row for
        each update, in order, and both may end training by raising. The clock is told of each call
        that trains, before the hook is.
        """


LOOPS: dict[str, Loop] = {"custom": custom_loop.train, "fit": keras_loop.train}
