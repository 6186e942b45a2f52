"""Tests of pipeline.training.hooks."""

import math
from typing import Any

import numpy as np

from pipeline.training import hooks, step_metrics


class _Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class _Log(hooks.Hook):
    """Logs its calls under its name; pauses at the given steps."""

    def __init__(self, name: str, calls: list[tuple[str, str, Any]], *pauses: int, event: Any = 0):
        self._name, self._calls, self._pauses, self._event = name, calls, pauses, event

    def next_pause(self, step: int) -> float:
        return min((pause for pause in self._pauses if pause > step), default=math.inf)

    def pause(self, step: int) -> Any:
        self._calls.append((self._name, "pause", step))
        return self._event or None

    def after_pause(self, event: Any) -> None:
        self._calls.append((self._name, "after_pause", event))

    def after(self, rows: step_metrics.StepMetrics) -> None:
        self._calls.append((self._name, "after", rows.next_step))


def test_every_number_of_seconds_counts_from_when_it_was_done() -> None:
    clock = _Clock()
    every = hooks.Every(seconds=10, clock=clock)
    assert not every.is_due(5)
    clock.now = 109.5
    assert not every.is_due(6)
    clock.now = 113.0
    assert every.is_due(7)
    assert every.is_due(7)  # until it is done
    every.done(7)
    assert not every.is_due(8)
    clock.now = 122.5
    assert not every.is_due(9)
    clock.now = 123.0
    assert every.is_due(9)


def test_every_number_of_steps_ignores_the_seconds() -> None:
    clock = _Clock()
    every = hooks.Every(steps=10, seconds=1, step=15, clock=clock)
    due = []
    for step in range(16, 45):
        clock.now += 100
        if every.is_due(step):
            due.append(step)
            every.done(step)
    assert due == [20, 30, 40]


def test_steps_that_were_missed_are_due_once() -> None:
    """One call may have many steps."""
    every = hooks.Every(steps=10, step=0)
    assert not every.is_due(9)
    assert every.is_due(37)
    every.done(37)
    assert not every.is_due(39)
    assert every.is_due(40)


def test_next_pause_is_the_next_step_that_is_due() -> None:
    every = hooks.Every(steps=10, step=3)
    assert [every.next_pause(step) for step in (0, 3, 9, 10, 11, 20)] == [10, 10, 10, 20, 20, 30]
    assert hooks.Every(seconds=10).next_pause(3) == math.inf


def test_neither_steps_nor_seconds_is_never_due() -> None:
    clock = _Clock()
    every = hooks.Every(clock=clock)
    clock.now = 1e300
    assert not every.is_due(10**15)
    assert every.next_pause(0) == math.inf


def test_a_plain_hook_asks_for_no_pause() -> None:
    hook = hooks.Hook()
    assert hook.next_pause(0) == math.inf
    assert hook.pause(0) is None
    hook.after_pause("event")
    hook.after(step_metrics.empty(2))


def test_several_hooks_pause_at_the_earliest_of_their_pauses() -> None:
    both = hooks.Hooks([_Log("a", [], 4, 6), hooks.Hook(), _Log("b", [], 5)])
    assert [both.next_pause(step) for step in (0, 4, 5, 6)] == [4, 5, 6, math.inf]
    assert hooks.Hooks([]).next_pause(0) == math.inf


def test_several_hooks_are_called_in_their_order() -> None:
    """At a pause the due hooks are called; all hooks get the results."""
    calls: list[tuple[str, str, Any]] = []
    both = hooks.Hooks([_Log("a", calls, 3), _Log("b", calls, 3, 4, event="event")])
    for step in (2, 3, 4):
        both.pause(step)
    numbers = np.zeros((2, 2), np.float32), np.zeros(2), np.zeros(2)
    both.after(step_metrics.StepMetrics(np.array([3, 4]), *numbers))
    events = [("a", "after_pause", "event"), ("b", "after_pause", "event")]
    assert calls == [
        *(("a", "pause", 3), ("b", "pause", 3), *events),
        *(("b", "pause", 4), *events),
        *(("a", "after", 5), ("b", "after", 5)),
    ]
