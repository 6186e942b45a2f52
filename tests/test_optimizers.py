"""Tests of pipeline.training.optimizers, and of the names that --optimizer takes."""

import dataclasses
import inspect
import pathlib
import time
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline import config as config_lib
from pipeline import errors
from pipeline.training import optimizers
from tests import helpers

_FIELDS = {field.name: field for field in dataclasses.fields(config_lib.Config)}
_NAMES: tuple[str, ...] = _FIELDS["optimizer"].metadata["choices"]


def _keras_version() -> tuple[int, ...]:
    return tuple(map(int, tf.keras.__version__.split(".")[:2]))


def _of_keras() -> set[str]:
    """The names of the optimizers of Keras, but for its base class and those that wrap others."""
    return {
        name.lower()
        for name, value in vars(tf.keras.optimizers).items()
        if isinstance(value, type)
        and issubclass(value, tf.keras.optimizers.Optimizer)
        and value is not tf.keras.optimizers.Optimizer
        and "learning_rate" in inspect.signature(value).parameters
    }


def test_the_names_are_those_of_keras() -> None:
    """Of the version that the table was made from; an earlier one may lack some."""
    assert _of_keras() <= set(_NAMES)
    assert _keras_version() < (3, 15) or _of_keras() == set(_NAMES)


@pytest.mark.parametrize("loop", ["custom", "fit"])
@pytest.mark.parametrize("name", _NAMES)
def test_each_follows_the_gradient_at_its_rate(name: str, loop: str) -> None:
    """And has its own variables before the first update."""
    config = config_lib.Config(model="keras", loop=loop, optimizer=name, learning_rate=0.01)
    if name not in _of_keras():
        with pytest.raises(errors.InputError, match=f"--optimizer={name} needs a newer Keras"):
            optimizers.create(config, [])
        return
    variable: Any = tf.keras.Variable([0.0, 0.0])
    optimizer = optimizers.create(config, [variable])
    assert float(optimizer.learning_rate) == pytest.approx(0.01)
    is_hand_written = isinstance(optimizer, optimizers.GradientDescent)
    assert is_hand_written == (name == "sgd" and loop == "custom")
    count = 0 if is_hand_written else len(optimizer.variables)
    values = [variable.numpy()]
    for _ in range(3):
        gradients = [tf.constant([1.0, -1.0])]
        optimizer.apply_gradients(zip(gradients, [variable.value], strict=True))
        values.append(variable.numpy())
    assert (np.diff(values, axis=0) * [-1, 1] > 0).all()
    assert is_hand_written or len(optimizer.variables) == count


def test_an_unknown_name_is_answered_at_once(tmp_path: pathlib.Path) -> None:
    """With the names that there are, and before TensorFlow is imported."""
    started = time.monotonic()
    result = helpers.call("train", "--optimizer=foo", cwd=tmp_path)
    assert time.monotonic() - started < 3
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert all(name in line for name in ("foo", *_NAMES))
