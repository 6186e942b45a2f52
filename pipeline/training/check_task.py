"""Checks what the functions of --model, --loss and --optimizer return. All raise InputError."""

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline import config as config_lib
from pipeline import errors, tf_runtime, user_calls, user_code
from pipeline.data import batch as batch_lib
from pipeline.training import losses
from pipeline.training import task as task_lib

_RATE = ("learning_rate", "schedule", "decay_steps", "warmup_steps")
# Flags that have no effect on a compiled model.
_COMPILED = ("loss", "optimizer", "metrics", "l2", "clip_norm", *_RATE)


def outputs(function: user_code.UserFunction, outputs: Any, sample: batch_lib.Batch) -> None:
    """Checks that a model returns an output for each example."""
    found = batch_lib.Batch(outputs, ()).arrays
    shapes = [list(getattr(each, "shape", ())) for each in found]
    errors.require(
        found and all(shape[:1] == [sample.num_examples] for shape in shapes),
        f"{function}: the model must give a tensor with one row for each example, or a nest of "
        f"them; for {sample.num_examples} examples it gave {str(shapes)[1:-1] or 'nothing'}",
    )


def compiled(function: user_code.UserFunction, config: config_lib.Config) -> None:
    """Checks that no flag is set that a compiled model ignores."""
    given = [n for n in _COMPILED if getattr(config, n) != getattr(config_lib.Config(), n)]
    if config.learning_rate is None or config.is_synthetic:
        given = [name for name in given if name != "learning_rate"]
    errors.require(
        not given,
        f"{function} returns a compiled model, which brings its loss, optimizer and metrics; "
        f"received --{', --'.join(given)}: leave out these flags, or the call of compile",
    )


def optimizer(function: user_code.UserFunction | None, config: config_lib.Config) -> None:
    """Checks that no flag is set that the user's own optimizer ignores."""
    if function is None:
        return
    ignored = ("clip_norm", *(_RATE if "learning_rate" not in function.parameters else ()))
    given = [n for n in ignored if getattr(config, n) != getattr(config_lib.Config, n)]
    errors.require(
        not given,
        f"{function.flag} would ignore --{', --'.join(given)}: leave out these flags; a function "
        f"may take learning_rate, which follows --learning_rate and --schedule ({function})",
    )


def model(function: user_code.UserFunction, made: task_lib.Task, sample: batch_lib.Batch) -> None:
    """Checks that predictions are repeatable and change no variables."""
    before = made.variables.arrays()
    with user_calls.user_errors("calling the model", function), made.variables.unchanged():
        one, other = (
            [np.asarray(array) for array in batch_lib.Batch(made.predict(sample.x), ()).arrays]
            for _ in range(2)
        )
        after = made.variables.arrays()
    # A VAE's encoder draws random numbers, even if `call` takes only their mean.
    changed = [n for n in before if not (made.has_own_step or _are_equal(before[n], after[n]))]
    errors.require(
        all(map(_are_equal, one, other)) and not changed,
        f"{function}: the model must predict the same each time it is called with training=False, "
        "and leave its variables as they are, or a resumed run would differ; "
        + (f"it changed {', '.join(changed)}" if changed else "its predictions differed"),
    )


def loss(
    config: config_lib.Config, found: Any, made: task_lib.Task, y: Any, sample: batch_lib.Batch
) -> None:
    """Calls the loss once, and checks that it fits the labels."""
    prediction = made.predict(sample.x)
    if not made.is_compiled and isinstance(prediction, tf.Tensor) and hasattr(y, "dtype"):
        kind = found if ":" in config.loss else config.loss
        named = [(f"--metrics={name}", name) for name in config.metric_names]
        for flag, each in [(f"--loss={config.loss}", kind), *named]:
            losses.check_range(flag, each, np.asarray(y), prediction.numpy())
    with tf_runtime.quiet_stderr():
        loss = made.loss(sample)
    errors.require(
        loss.shape.rank == 0, f"the loss of a batch must be one number; received {loss.shape}"
    )


def _are_equal(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> bool:
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
