"""Tests of pipeline.training.variables: names, copies, and the watched values."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline.training import models
from pipeline.training import variables as variables_lib

_KINDS = {"module": models.LinearModel, "keras": models.KerasLinearModel}


class _Scaled(tf.Module):
    """Variables of several shapes, one of them not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.W = tf.Variable([[1.0, 2, 3], [4, 5, 6]], name="W")
        self.V = tf.Variable([[1.0], [0], [-1]], name="V")
        self.scale = tf.Variable(0.5, trainable=False, name="scale")


class _Same(tf.Module):
    """Two variables with one name."""

    def __init__(self) -> None:
        super().__init__()
        self.both = [tf.Variable(1.0, name="v"), tf.Variable(2.0, name="v")]


def _scaled() -> variables_lib.Variables:
    return variables_lib.Variables(_Scaled(), ("a", "b"))


def _layers(*units: int, use_bias: bool = True) -> variables_lib.Variables:
    """The variables of a Keras model of two features with dense layers, whose kernels are ones."""
    layers = (
        tf.keras.layers.Dense(
            count, kernel_initializer="ones", name=f"layer{i}", use_bias=use_bias or i == 0
        )
        for i, count in enumerate(units)
    )
    model = tf.keras.Sequential([tf.keras.Input((2,)), *layers])
    return variables_lib.Variables(model, ("a", "b"))


def _linear(kind: str, *features: str) -> variables_lib.Variables:
    return variables_lib.Variables(_KINDS[kind](len(features)), features)


_BOTH = ("layer0.kernel", "layer0.bias", "layer1.kernel", "layer1.bias")

# name: the variables, the names of all, and of the watched values
_NAMES: dict[str, tuple[Callable[[], variables_lib.Variables], str, str]] = {
    "one feature": (lambda: _linear("module", "area"), "W b", "W b"),
    "two features": (lambda: _linear("keras", "area", "rooms"), "W b", "W/area W/rooms b"),
    "twelve": (
        lambda: _linear("module", *"abcdefghijkl"),
        "W b",
        " ".join([*(f"W/{letter}" for letter in "abcdefghijkl"), "b"]),
    ),
    "sixteen": (lambda: _linear("keras", *"abcdefghijklmnop"), "W b", "norm/W norm/b"),
    # Elements without a feature are numbered; non-trainable variables are not watched.
    "matrices": (_scaled, "V W scale", "V/0 V/1 V/2 W/0 W/1 W/2 W/3 W/4 W/5"),
    # The kernel of a layer with one unit is [D, 1]: each element belongs to a feature.
    "a layer": (lambda: _layers(1), "kernel bias", "kernel/a kernel/b bias"),
    "two layers": (
        lambda: _layers(1, 1),
        " ".join(_BOTH),
        "layer0.kernel/a layer0.kernel/b layer0.bias layer1.kernel layer1.bias",
    ),
    "16 numbers": (  # a hidden layer of 4 units, which are no features
        lambda: _layers(4, 1, use_bias=False),
        "layer0.kernel bias layer1.kernel",
        " ".join(
            [
                *(f"layer0.kernel/{i}" for i in range(8)),
                *(f"bias/{i}" for i in range(4)),
                *(f"layer1.kernel/{i}" for i in range(4)),
            ]
        ),
    ),
    "17 numbers": (lambda: _layers(4, 1), " ".join(_BOTH), " ".join(f"norm/{n}" for n in _BOTH)),
    "nothing tells them apart": (
        lambda: variables_lib.Variables(_Same(), ("a",)),
        "v v_1",
        "v v_1",
    ),
}


@pytest.mark.parametrize("name", _NAMES)
def test_names_tell_variables_and_watched_values_apart(name: str) -> None:
    """Up to 16 numbers are watched one by one; with more, the norm of each variable."""
    make, names, watched = _NAMES[name]
    made = make()
    assert list(made.by_name) == names.split()
    assert made.watched == tuple(watched.split())
    sizes = [variable.shape.num_elements() for variable in made.trainable.values()]
    assert made.num_trainable == sum(sizes)
    assert made.watches_all == (sum(sizes) <= 16)
    assert made.values().shape == (len(made.watched),)
    assert made.numbers().shape == (sum(sizes),)


@pytest.mark.parametrize("name", _NAMES)
def test_the_values_at_other_numbers_are_those_of_such_a_model(name: str) -> None:
    """This holds for watched numbers and for watched norms."""
    made = _NAMES[name][0]()
    before = made.numbers().numpy()
    numbers = np.arange(made.num_trainable) - 2.5
    expected, arrays = made.values_at(numbers), made.split(numbers)
    np.testing.assert_array_equal(made.numbers(), before)  # it is left as it is
    assert {n: a.shape for n, a in arrays.items()} == {
        n: v.shape for n, v in made.trainable.items()
    }
    made.assign(arrays)
    assert {expected.dtype, *(a.dtype for a in arrays.values())} == {np.dtype(np.float32)}
    assert made.values().dtype == made.numbers().dtype == tf.float32
    np.testing.assert_allclose(made.values(), expected, rtol=1e-6)
    np.testing.assert_array_equal(made.numbers(), numbers)
    if not made.watches_all:
        norms = [np.linalg.norm(array) for array in arrays.values()]
        np.testing.assert_allclose(expected, norms, rtol=1e-6)


def test_numbers_are_split_in_their_order() -> None:
    arrays = _scaled().split(range(9))
    assert {name: array.tolist() for name, array in arrays.items()} == {
        "V": [[0], [1], [2]],
        "W": [[3, 4, 5], [6, 7, 8]],
    }


def test_numbers_become_the_nearest_float32_that_is_finite() -> None:
    largest = float(np.finfo(np.float32).max)
    arrays = _linear("module", "a").split([1e300, -1e300])
    assert np.concatenate([*map(np.ravel, arrays.values())]).tolist() == [largest, -largest]
    assert _linear("module", "a").values_at([0.1, 1e39]).tolist() == [np.float32(0.1), largest]


@pytest.mark.parametrize("kind", list(_KINDS))
def test_variables_are_those_of_the_model(kind: str) -> None:
    """They are TensorFlow variables, also inside Keras variables."""
    model: Any = _KINDS[kind](2)
    made = variables_lib.Variables(model, ("a", "b"))
    assert all(isinstance(variable, tf.Variable) for variable in made.by_name.values())
    made.by_name["W"].assign([7, 8])
    assert model.W.numpy().tolist() == [7, 8]


def test_assign_sets_any_variable_from_an_array_of_its_size() -> None:
    made = _scaled()
    made.assign({"scale": [2.0], "V": [4, 5, 6]})
    assert {name: array.tolist() for name, array in made.arrays().items()} == {
        "V": [[4], [5], [6]],
        "W": [[1, 2, 3], [4, 5, 6]],  # left alone
        "scale": 2,
    }


@pytest.mark.parametrize("kind", list(_KINDS))
def test_unchanged_gives_all_variables_their_values_back(kind: str) -> None:
    """The values are exactly the same, also after an error."""
    made = _linear(kind, "a", "b")
    own = np.array([0.1, -1 / 3, 1e-30], np.float32)
    made.assign(made.split(own))
    with made.unchanged():
        made.assign({"W": [1, -1], "b": 0.5})
        assert made.numbers().numpy().tolist() == [1, -1, 0.5]
    np.testing.assert_array_equal(made.numbers(), own)
    with pytest.raises(KeyError), made.unchanged():
        made.assign({"W": [1, -1], "no such variable": 0.5})
    np.testing.assert_array_equal(made.numbers(), own)


def test_unchanged_keeps_variables_that_are_not_trained() -> None:
    made = _scaled()
    arrays = made.arrays()
    with made.unchanged():
        made.assign({"scale": 7.0})
        assert float(made.by_name["scale"]) == 7
        assert arrays["scale"] == 0.5  # they are copies
    assert float(made.by_name["scale"]) == 0.5


def test_a_variable_of_another_type_is_watched_in_float32() -> None:
    model: Any = tf.Module()
    model.w = tf.Variable([1.5, 2.5], dtype=tf.float64)
    made = variables_lib.Variables(model)
    assert (made.values().dtype, made.values().numpy().tolist()) == (tf.float32, [1.5, 2.5])
    made.assign(made.split([0.1, 0.2]))
    assert model.w.numpy().tolist() == [np.float32(0.1), np.float32(0.2)]
