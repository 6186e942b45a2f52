"""Calls Keras callbacks in --loop=fit: at the start and the end of training and of every epoch."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline import config as config_lib
from pipeline import console, errors, user_calls, user_code
from pipeline.evaluation import monitor
from pipeline.training import hooks
from pipeline.training import task as task_lib

_CALLED = ("on_train_begin", "on_epoch_begin", "on_epoch_end", "on_train_end")
_REFUSED = {
    "TensorBoard": "a run writes event files of its own: see them with pipeline.watch",
    "BackupAndRestore": "a run saves checkpoints of its own: the same command resumes it",
}
State = Mapping[str, Any]  # attributes of a callback that have changed, by name


class Callbacks(hooks.Hook):
    """The callbacks of --callbacks; without that flag it does nothing.

    They get the evaluation after each epoch. It is the first hook, so an evaluation after which a
    callback ends training is recorded once, as the last one.
    """

    def __init__(self, config: config_lib.Config, task: task_lib.Task, steps_per_epoch: int):
        """Makes the callbacks of a compiled model; raises errors.InputError."""
        self._function = user_code.find(config).get("callbacks")
        self._task, self._steps_per_epoch = task, steps_per_epoch
        self._callbacks = _made(self._function) if self._function else []
        self._list: Any = None
        if self._callbacks:
            parameters = {"epochs": config.epochs, "steps": steps_per_epoch, "verbose": 0}
            self._list = tf.keras.callbacks.CallbackList(
                self._callbacks, model=task.model, **parameters
            )
        self._state: Sequence[State] | None = ()  # None while the callbacks themselves hold it
        self._at_start: list[dict[str, Any]] = []
        self._not_kept: set[str] = set()
        self._ended = 0  # the step of the last on_epoch_end

    def notes(self) -> Iterator[str]:
        """Yields notes on what callbacks can't do here."""
        keras = tf.keras.callbacks.Callback
        names = [name for name in dir(keras) if name.startswith("on_") and name not in _CALLED]
        for each in self._callbacks:
            methods = {name: getattr(getattr(each, name), "__func__", None) for name in names}
            own = [name for name, method in methods.items() if method != getattr(keras, name)]
            if own and getattr(each, "save_freq", "") != "epoch":  # of ModelCheckpoint
                yield f"Note: {_name(each)} has {', '.join(own)}, which --callbacks never calls"
            if getattr(each, "restore_best_weights", False):
                yield (
                    f"Note: {_name(each)}(restore_best_weights=True) has no effect here; use "
                    "--export=best"
                )

    def begin(self, state: Sequence[State]) -> None:
        """Calls on_train_begin, then restores the state of an earlier process."""
        self._call("on_train_begin")
        for each in self._callbacks:
            if getattr(each, "monitor_op", ...) is None:
                # Keras does this in the first epoch, which may have been in an earlier process; it
                # changes the sign of min_delta.
                self._call("_set_monitor_op", of=each)
        self._state, self._at_start = None, [dict(vars(each)) for each in self._callbacks]
        self._plain_at_start = [_plain(each) for each in self._callbacks]
        for each, attributes in zip(self._callbacks, state, strict=False):
            vars(each).update(attributes)

    def state(self) -> Sequence[State]:
        """What callbacks keep of the epochs so far: the plain attributes that have changed."""
        if self._state is not None:
            return self._state
        state = []
        for each, plain, start in zip(
            self._callbacks, self._plain_at_start, self._at_start, strict=True
        ):
            now = _plain(each)
            for name, value in vars(each).items():
                is_new = name not in now and start.get(name) is not value and not callable(value)
                if is_new and name != "best_weights" and name not in self._not_kept:
                    self._not_kept.add(name)
                    console.say(
                        f"Note: checkpoints can't keep {_name(each)}.{name}, which is "
                        f"{type(value).__name__}; a resumed run starts without it"
                    )
            state.append({n: v for n, v in now.items() if n not in plain or plain[n] != v})
        return state

    def after_pause(self, event: Any) -> None:
        """Ends an epoch and begins the next one; raises hooks.EndOfTraining if a callback asks."""
        if not self._callbacks or not isinstance(event, monitor.EpochEvaluation):
            return
        if event.step:
            before = self.state()
            if self._end_epoch(event):
                # A process that starts again from here calls on_epoch_end once more.
                self._state = before
                raise hooks.EndOfTraining(event.step, "a callback set model.stop_training")
        self._call("on_epoch_begin", event.step // self._steps_per_epoch)

    def finish(self, event: monitor.EpochEvaluation) -> None:
        """Ends the last epoch and training; the trained model stays as it is."""
        if self._callbacks:
            with self._task.variables.unchanged():
                if event.step != self._ended:
                    self._end_epoch(event)
                self._call("on_train_end")

    def _end_epoch(self, event: monitor.EpochEvaluation) -> bool:
        """Calls on_epoch_end; returns whether training should end."""
        train, validation = event.evaluation
        logs = {**train, **{f"val_{name}": value for name, value in validation.items()}}
        self._task.model.stop_training, self._ended = False, event.step
        self._call("on_epoch_end", event.step // self._steps_per_epoch - 1, logs)
        return bool(self._task.model.stop_training)

    def _call(self, method: str, *arguments: Any, of: Any = None) -> None:
        if self._function:
            with user_calls.user_errors(f"calling {method}", self._function):
                getattr(of or self._list, method)(*arguments)


def _made(function: user_code.UserFunction) -> list[Any]:
    """The callbacks of --callbacks; raises errors.InputError."""
    loaded: Any = function.load()
    with user_calls.user_errors("making the callbacks", function):
        made = loaded() if callable(loaded) else loaded
    keras = tf.keras.callbacks
    errors.require(
        isinstance(made, list | tuple) and all(isinstance(each, keras.Callback) for each in made),
        f"{function.flag} must give a list of keras.callbacks.Callback; received {made!r:.100}",
    )
    for name, instead in _REFUSED.items():
        is_refused = any(isinstance(each, getattr(keras, name)) for each in made)
        errors.require(not is_refused, f"{function.flag}: leave out {name}; {instead}")
    return list(made)


def _name(callback: Any) -> str:
    return type(callback).__name__


def _plain(callback: Any) -> dict[str, Any]:
    """Copies of the attributes that JSON can hold unchanged."""
    result = {}
    for name, value in vars(callback).items():
        try:
            value = value.item() if isinstance(value, np.generic) else value
            copy = json.loads(json.dumps(value))
        except (TypeError, ValueError, RecursionError):
            continue
        if name != "params" and copy == value:
            result[name] = copy
    return result
