"""Hooks: callbacks of the training loops."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.training import step_metrics


class EndOfTraining(Exception):  # noqa: N818 (it is no error)
    """Training should end at a step, earlier than planned."""

    def __init__(self, step: int, reason: str):
        super().__init__(step, reason)
        self.step, self.reason = step, reason


class Divergence(Exception):  # noqa: N818
    """The loss at a step is not finite, or has become far larger than at the start."""

    def __init__(self, step: int, loss: float):
        super().__init__(step, loss)
        self.step, self.loss = step, loss


class Hook:
    """A callback during training; this base class does nothing.

    One call trains many steps, and returns no later than at the next pause of any hook.
    """

    def next_pause(self, step: int) -> float:
        """The next step after `step` that needs a call of `pause`; it depends on the step only."""
        del step
        return math.inf

    def pause(self, step: int) -> Any:
        """Called at a pause: the model has had `step` updates, and at least one more follows.

        A result that is not None is passed to `after_pause` of all hooks. May raise EndOfTraining
        or Divergence.
        """

    def after_pause(self, event: Any) -> None:
        """Called with the result of a hook's `pause`, such as an evaluation."""

    def after(self, rows: step_metrics.StepMetrics) -> None:
        """Called with the metrics of the updates since the last call; may raise to end training.

        The model is at the step after the last row.
        """


class Hooks(Hook):
    """A list of hooks, called in order."""

    def __init__(self, hooks: Sequence[Hook]):
        self._hooks = hooks

    def next_pause(self, step: int) -> float:
        """The earliest pause."""
        return min((hook.next_pause(step) for hook in self._hooks), default=math.inf)

    def pause(self, step: int) -> None:
        """Calls the hooks that are due at this step."""
        for hook in self._hooks:
            if hook.next_pause(step - 1) == step:
                self.after_pause(hook.pause(step))

    def after_pause(self, event: Any) -> None:
        """Passes an event to each hook."""
        if event is not None:
            for hook in self._hooks:
                hook.after_pause(event)

    def after(self, rows: step_metrics.StepMetrics) -> None:
        """Calls each hook."""
        for hook in self._hooks:
            hook.after(rows)


class Every:
    """A timer that is due every `steps` steps, or else every `seconds` seconds."""

    def __init__(
        self,
        *,
        steps: int = 0,
        seconds: float = math.inf,
        step: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Starts at a step and now; steps=0 uses the seconds."""
        self._steps, self._seconds, self._clock = steps, seconds, clock
        self._step, self._time = step, clock()

    def is_due(self, step: int = 0) -> bool:
        """Whether the timer is due at a step, now."""
        if self._steps:
            return step // self._steps > self._step // self._steps
        return self._clock() - self._time >= self._seconds

    def done(self, step: int = 0) -> None:
        """Restarts the timer at a step and now."""
        self._step, self._time = step, self._clock()

    def next_pause(self, step: int) -> float:
        """The next step after `step` at which the timer is due by its number of steps."""
        return (step // self._steps + 1) * self._steps if self._steps else math.inf
