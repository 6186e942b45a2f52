"""Makes the task of --model and --loss."""

import inspect
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline import config as config_lib
from pipeline import errors, tf_runtime, user_calls, user_code
from pipeline.data import batch as batch_lib
from pipeline.data import batches as batches_lib
from pipeline.data import datasets as datasets_lib
from pipeline.data import least_squares, streams, table_examples
from pipeline.training import check_task, losses, train_step
from pipeline.training import settings as training_settings
from pipeline.training import task as task_lib
from pipeline.training import variables as variables_lib

_ROUNDING = 1e-3  # of labels that were standardized in float32
_SAMPLE = 100  # examples that test the functions
# Layers of Keras that look up, count or scale the features, so they need them as they are.
_OF_RAW_FEATURES = (
    *("Embedding", "Normalization", "Discretization", "CategoryEncoding", "Hashing"),
    *("HashedCrossing", "IntegerLookup"),
)


class _Reload(errors.InputError):
    """The model needs features or labels as they are in the table, but they are standardized."""

    def __init__(self, function: user_code.UserFunction, kept: str):
        super().__init__(f"{function}: the model needs --standardize=false")
        self.kept = kept


def fitting(
    config: config_lib.Config, datasets: datasets_lib.Datasets
) -> tuple[datasets_lib.Datasets, task_lib.Task]:
    """Makes the task, and loads a table again if the model needs more of it as it is.

    If the user has not set --standardize, a model with an Embedding or a preprocessing layer needs
    the features, and a compiled classifier the labels.

    Raises:
      errors.InputError: as make_task does.
    """
    keeps: tuple[str, ...] = ()
    while True:
        try:
            return datasets, make_task(config, datasets)
        except _Reload as needed:
            keeps = (*keeps, needed.kept)
            datasets = datasets_lib.load(config, datasets.worker, keeps=keeps)


def raw_layer(model: Any) -> str:
    """The class of the model's first layer that needs features as they are; '' without one."""
    layers = model._flatten_layers() if _is_keras(model) else ()
    kinds = tuple(getattr(tf.keras.layers, name) for name in _OF_RAW_FEATURES)
    return next((type(layer).__name__ for layer in layers if isinstance(layer, kinds)), "")


def make_task(config: config_lib.Config, datasets: datasets_lib.Datasets) -> task_lib.Task:
    """Makes the model and its loss, and tests them on a few examples.

    The initial values depend on --seed only, and variable names are the same in every process.

    Raises:
      errors.InputError: a user's function fails, or returns something that can't be trained.
    """
    if config.model != "module" or config.optimizer != "sgd" or config.metrics:
        # Keras would continue to number names across the runs of a process.
        tf.keras.utils.clear_session(free_memory=False)
    tf.keras.utils.set_random_seed(config.seed)
    functions = user_code.of_training(config)
    sample = batches_lib.sample(datasets, _SAMPLE)
    spec = datasets.stream.spec if datasets.stream else sample.map(streams.any_size)
    learned = datasets.preprocessing
    is_raw = config.standardize is not None or not (learned and learned.standardizes_features)
    model = _make_model(functions["model"], config, sample, is_raw=is_raw)
    is_compiled = bool(getattr(model, "compiled", False))
    numbers: tuple[str, ...] = ()
    has_own_step = task_lib.overrides(model, "train_step")
    if is_compiled:
        check_task.compiled(functions["model"], config)
        if config.standardize is None and _has_standardized_classes(model, datasets):
            raise _Reload(functions["model"], "classes")
        found, loss = None, losses.compiled_loss(model)
        if has_own_step:
            numbers = _own_numbers(functions["model"], config, model, spec)
    else:
        check_task.optimizer(functions.get("optimizer"), config)
        found = _loss(config, functions, model)
        loss = losses.mean_loss(found, model, l2=config.l2)
    made = task_lib.Task(
        model, loss, spec=spec, features=datasets.features, is_compiled=is_compiled, numbers=numbers
    )
    if config.is_linear:
        made.variables.assign(made.variables.split(_start(config, datasets)))
    else:
        check_task.model(functions["model"], made, sample)
    blamed = functions.get("loss", functions["model"]), functions["model"]
    if not made.has_own_step:
        with user_calls.user_errors("calling the loss", *blamed):
            check_task.loss(config, found, made, datasets.train.y, sample)
    return made


def _loss(
    config: config_lib.Config, functions: dict[str, user_code.UserFunction], model: Any
) -> Any:
    """Returns the loss of an uncompiled model, a function or a Keras Loss."""
    for name in ("compute_loss", "compute_metrics", "train_step", "test_step"):
        errors.require(
            not task_lib.overrides(model, name),
            f"{functions['model']}: the model has a {name} of its own, which only a compiled model "
            "uses: compile it in this function",
        )
    return losses.own(functions["loss"]) if "loss" in functions else losses.by_name(config.loss)


def _own_numbers(
    function: user_code.UserFunction, config: config_lib.Config, model: Any, spec: batch_lib.Batch
) -> tuple[str, ...]:
    """Traces a model's own train_step, which makes all variables; returns Task.numbers."""
    errors.require(
        config.loop == "fit",
        f"{function}: the model has a train_step of its own, which only --loop=fit calls",
    )
    names: list[str] = []

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def trace(batch: batch_lib.Batch) -> None:
        names[:] = train_step.of_own_step(model, batch)[0]  # may be traced twice

    with user_calls.user_errors("calling train_step", function):
        trace.get_concrete_function(spec)
    return tuple(name for name in names if name != "loss")


def _start(
    config: config_lib.Config, datasets: datasets_lib.Datasets
) -> npt.NDArray[np.floating[Any]]:
    """The initial W and b [D + 1] of a linear model, in the model's units."""
    W, b = config.initial_w, config.initial_b
    start = np.append(np.full(datasets.train.x.shape[1], W or 0.0), b or 0.0)
    if datasets.units is None:
        return start
    start[-1] = datasets.units.mean[-1] if b is None else b
    (numbers,) = least_squares.standardized(start[None], datasets.units)
    return np.asarray(numbers)


def _make_model(
    function: user_code.UserFunction,
    config: config_lib.Config,
    sample: batch_lib.Batch,
    *,
    is_raw: bool,
) -> Any:
    """Calls the function, then the model once, which creates the model's variables."""
    make = function.load()
    arguments = _arguments(function, make, sample)
    with user_calls.user_errors("making the model", function):
        model = make(*arguments)
    errors.require(
        _is_keras(model) or (isinstance(model, tf.Module) and callable(model)),
        f"{function} must return a keras.Model, or a tf.Module with __call__; received "
        f"{type(model).__name__}",
    )
    errors.require(
        _is_keras(model) or config.loop == "custom",
        f"{function} returns a tf.Module, which has no compile and fit; use --loop=custom",
    )
    errors.require(
        not _is_keras(model) or task_lib.overrides(model, "call"),
        f"{function}: the model has no `call`, which the export serves: define what it predicts",
    )
    has_own_step = task_lib.overrides(model, "train_step")
    errors.require(
        has_own_step or sample.y is not None,
        f"--data={config.data} returns no labels: only a model with a train_step of its own can do "
        "without; return (x, y)",
    )
    takes_training = task_lib.takes_training(model)
    _check_features(function, model, is_raw=is_raw)  # an Embedding refuses other numbers
    with (
        user_calls.user_errors("calling the model", function),
        tf_runtime.quiet_stderr(),
        # An encoder of a VAE draws random numbers; plain fit starts before them.
        variables_lib.unchanged(model.variables if has_own_step else ()),
    ):
        outputs = model(sample.x, training=False) if takes_training else model(sample.x)
    _check_features(function, model, is_raw=is_raw)  # a call may make layers
    check_task.outputs(function, outputs, sample)
    errors.require(
        model.trainable_variables,
        f"{function}: the model has no trainable variables; a keras.Model tracks layers and what "
        "add_weight gives, a tf.Module the tf.Variable in its attributes",
    )
    return model


def _check_features(function: user_code.UserFunction, model: Any, *, is_raw: bool) -> None:
    """Raises _Reload if a layer of the model needs other features than it gets."""
    if not is_raw and raw_layer(model):
        raise _Reload(function, "features")


def _has_standardized_classes(model: Any, datasets: datasets_lib.Datasets) -> bool:
    """Whether labels are standardized that may be classes to a compiled model."""
    loss = getattr(model, "loss", "")
    name = getattr(loss, "name", None) or getattr(loss, "__name__", None) or loss
    if not datasets.units or (isinstance(name, str) and training_settings.is_of_regression(name)):
        return False
    labels = datasets.units.in_data_units(datasets.train.y).astype(np.float64)
    is_whole = np.abs(labels - np.round(labels)).max() < _ROUNDING
    return datasets.units.is_regression and is_whole and table_examples.are_classes(labels.round())


def _arguments(
    function: user_code.UserFunction, make: Any, sample: batch_lib.Batch
) -> tuple[Any, ...]:
    """The arguments of a model function: none, the spec, or the number of features."""
    with user_calls.user_errors("making the model", function):
        parameters = list(inspect.signature(make).parameters.values())
    names = [p.name for p in parameters]
    if "spec" in names[:1]:
        return (sample.map(lambda t: tf.TensorSpec(t.shape[1:], t.dtype)),)
    is_matrix = getattr(getattr(sample.x, "shape", None), "rank", None) == 2
    takes_one = bool(parameters) and parameters[0].kind in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )
    needs_one = takes_one and parameters[0].default is inspect.Parameter.empty
    errors.require(
        is_matrix or not needs_one,
        f"{function} takes {''.join(names[:1])}, the number of features, but x is no array [N, D]; "
        "let it take nothing, or `spec`, the TensorSpecs of x, y and weight",
    )
    return (sample.x.shape[1],) if takes_one and is_matrix else ()


def _is_keras(model: Any) -> bool:
    return isinstance(model, tf.keras.Model)
