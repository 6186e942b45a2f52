"""Makes the task that --model and --loss name, and checks what the functions there return."""

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline import config as config_lib
from pipeline import errors, tf_runtime, user_code
from pipeline.data import datasets as datasets_lib
from pipeline.training import losses
from pipeline.training import task as task_lib

_OF_STANDARDIZED = ("mean_squared_error", "mean_absolute_error", "huber", "log_cosh")
_SAMPLE = 100  # examples that the functions are tried on


def make_task(config: config_lib.Config, datasets: datasets_lib.Datasets) -> task_lib.Task:
    """Makes the model and its loss, and tries them on a few examples.

    Its initial values are a function of --seed, and its names the same in every process.

    Raises:
      errors.InputError: a function of the user's fails, or returns what can't be trained.
    """
    if config.model != "module" or config.optimizer != "sgd":
        # Keras numbers its names on, from one run of a process to the next.
        tf.keras.utils.clear_session(free_memory=False)
    tf.keras.utils.set_random_seed(config.seed)
    functions = user_code.find(config, ("model", "loss"))
    x, y = (array[:_SAMPLE] for array in datasets.train)
    model = _make_model(functions["model"], config, x)
    loss = functions["loss"].load() if "loss" in functions else losses.by_name(config.loss)
    made = task_lib.Task(
        model,
        loss,
        features=datasets.features,
        is_linear_regression=config.is_linear_regression,
        l2=config.l2,
        label_scale=_label_scale(config, datasets),
    )
    if config.is_linear:
        made.assign(made.by_variable(_start(config, datasets)))
    else:
        _check_model(functions["model"], made, x)
    with user_code.user_errors("calling the loss", *reversed(functions.values())):
        prediction = made.predict(x)
        names = [("loss", config.loss), *(("metrics", name) for name in config.metric_names)]
        for flag, name in names:
            losses.check_range(flag, name, datasets.train.y, prediction.numpy())
        with tf_runtime.quiet_stderr():
            made.losses_of(tf.constant(y), prediction)
    return made


def _label_scale(config: config_lib.Config, datasets: datasets_lib.Datasets) -> tuple[float, float]:
    """Mean and deviation of labels for a loss that is for the units of the data."""
    if datasets.scale is None or config.loss in _OF_STANDARDIZED:
        return 0.0, 1.0
    return float(datasets.scale.mean[-1]), float(datasets.scale.stddev[-1])


def _start(
    config: config_lib.Config, datasets: datasets_lib.Datasets
) -> npt.NDArray[np.floating[Any]]:
    """W and b [D + 1] that a linear model starts from, of standardized data if there is a scale."""
    W, b = config.initial_w, config.initial_b
    start = np.append(np.full(len(datasets.features), W or 0.0), b or 0.0)
    if datasets.scale is None:
        return start
    start[-1] = datasets.scale.mean[-1] if b is None else b
    numbers: npt.NDArray[np.floating[Any]] = datasets.scale.standardized_parameters(start[None])[0]
    return numbers


def _make_model(
    function: user_code.UserFunction, config: config_lib.Config, x: npt.NDArray[np.float32]
) -> Any:
    """Calls the function, and the model once, which then has its variables."""
    make = function.load()
    with user_code.user_errors("making the model", function):
        model = make(x.shape[1])
    errors.require(
        isinstance(model, tf.keras.Model) or (isinstance(model, tf.Module) and callable(model)),
        f"{function} must return a keras.Model, or a tf.Module with __call__; received "
        f"{type(model).__name__}",
    )
    errors.require(
        isinstance(model, tf.keras.Model) or config.loop == "custom",
        f"{function} returns a tf.Module, which has no compile and fit; use --loop=custom",
    )
    errors.require(
        not hasattr(model, "train_step") or type(model).train_step is tf.keras.Model.train_step,
        f"{function}: the model has a train_step of its own, which would not be called: both loops "
        "take the gradient of the loss of --loss",
    )
    with user_code.user_errors("calling the model", function), tf_runtime.quiet_stderr():
        y = model(tf.constant(x))
    shape, dtype = getattr(y, "shape", None), getattr(y, "dtype", tf.string)
    errors.require(
        shape is not None
        and len(shape) in (1, 2)
        and shape[0] == len(x)
        and tf.as_dtype(dtype).is_floating,
        f"{function}: the model must give one number, or C numbers, for each example; for x "
        f"{list(x.shape)} it gave {'no tensor' if shape is None else list(shape)}",
    )
    errors.require(
        model.trainable_variables,
        f"{function}: the model has no trainable variables; a keras.Model tracks layers and what "
        "add_weight gives, a tf.Module the tf.Variable in its attributes",
    )
    return model


def _check_model(
    function: user_code.UserFunction, made: task_lib.Task, x: npt.NDArray[np.float32]
) -> None:
    """Checks that predictions without training are the same each time, and change nothing."""
    before = made.arrays()
    with user_code.user_errors("calling the model", function):
        one, other = made.predict(x).numpy(), made.predict(x).numpy()
    after = made.arrays()
    changed = [n for n in before if not np.array_equal(before[n], after[n], equal_nan=True)]
    errors.require(
        np.array_equal(one, other, equal_nan=True) and not changed,
        f"{function}: the model must predict the same each time it is called with training=False, "
        "and leave its variables as they are, or a resumed run would differ; "
        + (f"it changed {', '.join(changed)}" if changed else "its predictions differed"),
    )
