"""Tests of pipeline.training.optimizers, and of the names that --optimizer takes."""

import dataclasses
import inspect
import pathlib
import subprocess
import sys
import types
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline import config as config_lib
from pipeline import errors
from pipeline.data import batch as batch_lib
from pipeline.training import losses, optimizers, task
from tests import helpers

_FIELDS = {field.name: field for field in dataclasses.fields(config_lib.Config)}
_NAMES: tuple[str, ...] = _FIELDS["optimizer"].metadata["choices"]


def _task(*variables: Any) -> task.Task:
    """A task of these variables."""
    return types.SimpleNamespace(  # type: ignore[return-value]
        model=types.SimpleNamespace(trainable_variables=list(variables)), is_compiled=False
    )


def _keras_version() -> tuple[int, ...]:
    return tuple(map(int, tf.keras.__version__.split(".")[:2]))


def _of_keras() -> set[str]:
    """The names of Keras' optimizers, except its base class and wrappers."""
    return {
        name.lower()
        for name, value in vars(tf.keras.optimizers).items()
        if isinstance(value, type)
        and issubclass(value, tf.keras.optimizers.Optimizer)
        and value is not tf.keras.optimizers.Optimizer
        and "learning_rate" in inspect.signature(value).parameters
    }


def test_the_names_are_those_of_keras() -> None:
    """The table has the optimizers of one Keras version; an earlier one may lack some."""
    assert _of_keras() <= set(_NAMES)
    assert _keras_version() < (3, 15) or _of_keras() == set(_NAMES)


@pytest.mark.parametrize("loop", ["custom", "fit"])
@pytest.mark.parametrize("name", _NAMES)
def test_each_follows_the_gradient_at_its_rate(name: str, loop: str) -> None:
    """The optimizer's variables exist before the first update."""
    config = config_lib.Config(model="keras", loop=loop, optimizer=name, learning_rate=0.01)
    if name not in _of_keras():
        with pytest.raises(errors.InputError, match=f"--optimizer={name} needs a newer Keras"):
            optimizers.create(config, _task(), last_step=10)
        return
    variable: Any = tf.keras.Variable([0.0, 0.0])
    optimizer = optimizers.create(config, _task(variable), last_step=10)
    is_hand_written = isinstance(optimizer, optimizers.GradientDescent)
    assert is_hand_written == (name == "sgd" and loop == "custom")
    assert is_hand_written or float(optimizer.learning_rate) == pytest.approx(0.01)
    count = len(optimizer.variables)
    values = [variable.numpy()]
    for _ in range(3):
        gradients = [tf.constant([1.0, -1.0])]
        optimizer.apply_gradients(zip(gradients, [variable.value], strict=True))
        values.append(variable.numpy())
    assert (np.diff(values, axis=0) * [-1, 1] > 0).all()
    if is_hand_written:
        np.testing.assert_allclose(values, np.outer(range(4), [-0.01, 0.01]), rtol=1e-6)
    assert len(optimizer.variables) == count
    assert int(optimizer.iterations) == 3


def _rates(count: int, **settings: Any) -> np.ndarray:
    """The learning rates of the first updates of a run of 100 steps."""
    config = config_lib.Config(**settings)
    optimizer = optimizers.create(config, _task(tf.keras.Variable(0.0)), last_step=100)
    return optimizers.rates(optimizer, np.arange(count))["learning_rate"]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({}, {0: 0.1, 99: 0.1}),
        ({"warmup_steps": 4}, {0: 0.025, 1: 0.05, 3: 0.1, 4: 0.1, 99: 0.1}),
        ({"schedule": "cosine"}, {0: 0.1, 50: 0.05, 100: 0.0, 150: 0.0}),
        ({"schedule": "cosine", "decay_steps": 60}, {0: 0.1, 20: 0.075, 30: 0.05, 60: 0.0}),
        ({"schedule": "exponential"}, {0: 0.1, 50: 0.1 / 10**0.5, 100: 0.01}),
        ({"schedule": "exponential", "decay_steps": 10}, {0: 0.1, 10: 0.01, 30: 0.0001}),
        ({"schedule": "cosine", "warmup_steps": 20}, {9: 0.05, 19: 0.1, 60: 0.05, 100: 0.0}),
    ],
)
def test_the_rate_of_a_step_is_that_of_the_schedule(
    settings: dict[str, Any], rates: dict[int, float], optimizer: str
) -> None:
    """Without --decay_steps it ends with the run; the schedule starts after the warm-up."""
    found = _rates(200, optimizer=optimizer, **settings)
    assert found.dtype == np.float32
    assert {step: found[step] for step in rates} == pytest.approx(rates, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("name", ["sgd", "adam"])
@pytest.mark.parametrize("loop", ["custom", "fit"])
def test_each_update_has_the_rate_of_its_step(loop: str, name: str) -> None:
    """Adam's first updates by a constant gradient of 1 are as long as the rate."""
    settings = {"schedule": "exponential", "decay_steps": 2, "warmup_steps": 2}
    config = config_lib.Config(model="keras", loop=loop, optimizer=name, **settings)
    variable: Any = tf.keras.Variable(0.0)
    optimizer = optimizers.create(config, _task(variable), last_step=100)
    values = [0.0]
    for _ in range(6):
        optimizer.apply_gradients([(tf.constant(1.0), variable.value)])
        values.append(float(variable))
    np.testing.assert_allclose(-np.diff(values), _rates(6, **settings), rtol=1e-3)


@pytest.mark.parametrize("loop", ["custom", "fit"])
@pytest.mark.parametrize(("clip_norm", "factor"), [(0.0, 1), (100.0, 1), (13.0, 1), (6.5, 0.5)])
def test_a_longer_gradient_is_scaled_to_the_norm_given(
    loop: str, clip_norm: float, factor: float
) -> None:
    """The norm is over all variables together: 3, 4 and 12 are 13 long."""
    config = config_lib.Config(model="keras", loop=loop, clip_norm=clip_norm, learning_rate=0.5)
    variables: list[Any] = [tf.keras.Variable([0.0, 0.0]), tf.keras.Variable(0.0)]
    optimizer = optimizers.create(config, _task(*variables), last_step=100)
    gradients = [tf.constant([3.0, 4.0]), tf.constant(12.0)]
    optimizer.apply_gradients(zip(gradients, [v.value for v in variables], strict=True))
    found = np.append(*(variable.numpy() for variable in variables))
    np.testing.assert_allclose(found, np.multiply([3, 4, 12], -0.5 * factor), rtol=1e-6)


@pytest.mark.parametrize("loop", ["custom", "fit"])
@pytest.mark.parametrize("is_scaled", [False, True])
def test_a_compiled_model_brings_its_optimizer(is_scaled: bool, loop: str) -> None:
    """The optimizer has its schedule, and its variables exist before the first update."""
    schedule = tf.keras.optimizers.schedules.CosineDecay(0.5, 100)
    own = tf.keras.optimizers.Adam(schedule)
    if is_scaled:
        own = tf.keras.mixed_precision.LossScaleOptimizer(own)
    model = tf.keras.Sequential([tf.keras.Input([2]), tf.keras.layers.Dense(1)])
    model.compile(own, loss="mse")
    spec = helpers.spec(batch_lib.Batch(np.ones([2, 2]), np.ones(2)))
    trained = task.Task(model, losses.compiled_loss(model), spec=spec, is_compiled=True)
    config = config_lib.Config(model="keras", loop=loop)
    made = optimizers.create(config, trained, last_step=10)
    assert made is own
    assert made.built
    (rates,) = optimizers.rates(made, np.array([0, 50])).values()
    assert rates.tolist() == pytest.approx([0.5, 0.25])


def test_slices_of_the_same_row_are_added_up() -> None:
    """In the gradient of an embedding, row 0 occurs twice: 1 + 2."""
    variable = tf.Variable([[0.0], [0.0], [0.0]])
    config = config_lib.Config(learning_rate=1.0)
    slices = tf.IndexedSlices(tf.constant([[1.0], [4.0], [2.0]]), tf.constant([0, 2, 0]), (3, 1))
    optimizer = optimizers.create(config, _task(variable), last_step=10)
    optimizer.apply_gradients([(slices, variable)])
    assert variable.numpy().tolist() == [[-3], [0], [-4]]


def test_an_unknown_name_is_answered_at_once(tmp_path: pathlib.Path) -> None:
    """The message has all names, and comes before TensorFlow is imported."""
    command = [sys.executable, "-X", "importtime", "-m", "pipeline.train", "--optimizer=foo"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith("import time:")]
    assert " tensorflow\n" not in result.stderr
    assert " absl.flags\n" in result.stderr
    assert all(name in line for name in ("foo", *_NAMES))
