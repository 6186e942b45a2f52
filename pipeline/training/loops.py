"""The training loops that --loop names."""

from typing import Protocol

from pipeline.data import batches as batches_lib
from pipeline.training import custom_loop, hooks, keras_loop, optimizers, task


class Loop(Protocol):
    """Trains a task."""

    def __call__(
        self,
        trained: task.Task,
        batches: batches_lib.Batches,
        *,
        optimizer: optimizers.Optimizer,
        first_step: int,
        last_step: int,
        hook: hooks.Hook,
        run_eagerly: bool = False,
    ) -> None:
        """Makes the updates first_step + 1 to last_step of a task's model, in place.

        The hook's `before` is called at every stop that it asks for, its `after` gets one row for
        each update, in order, and may end training by raising. run_eagerly runs the steps as
        plain Python.
        """


LOOPS: dict[str, Loop] = {"custom": custom_loop.train, "fit": keras_loop.train}
