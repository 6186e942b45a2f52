"""Tests of pipeline.training.task."""

import numpy as np
import pytest
import tensorflow as tf

from pipeline import config as config_lib
from pipeline import errors
from pipeline.training import losses, models, task

_X = np.array([[1, 2], [3, -4]], np.float32)
_Y = np.array([10, -10], np.float32)


class _Scaled(tf.Module):
    """y = scale · (x·W·V), with variables of several shapes, one of them not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.W = tf.Variable([[1.0, 2, 3], [4, 5, 6]], name="W")
        self.V = tf.Variable([[1.0], [0], [-1]], name="V")
        self.scale = tf.Variable(0.5, trainable=False, name="scale")

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Predicts y [B, 1]."""
        return self.scale * (x @ self.W @ self.V)


def _linear(kind: str, *features: str) -> task.Task:
    return task.linear(config_lib.Config(model=kind, initial_w=2, initial_b=0.5), features)


def _scaled(loss: task.Loss = losses.squared_error) -> task.Task:
    return task.Task(_Scaled(), loss, features=("a", "b"), is_linear_regression=False)


@pytest.mark.parametrize("kind", list(models.MODELS))
def test_linear_task_is_that_of_the_config(kind: str) -> None:
    made = _linear(kind, "a", "b")
    assert type(made.model) is models.MODELS[kind]
    assert made.is_linear_regression
    assert made.loss is losses.squared_error
    assert made.values().numpy().tolist() == [2, 2, 0.5]
    assert made.values().dtype == tf.float32


@pytest.mark.parametrize("kind", list(models.MODELS))
@pytest.mark.parametrize(
    ("features", "names"),
    [
        (("x",), ("W", "b")),
        (("area",), ("W", "b")),
        (("area", "rooms"), ("W/area", "W/rooms", "b")),
        (tuple("abcdefghijkl"), (*(f"W/{letter}" for letter in "abcdefghijkl"), "b")),
    ],
)
def test_values_are_named_after_variables_and_features(
    kind: str, features: tuple[str, ...], names: tuple[str, ...]
) -> None:
    assert _linear(kind, *features).names == names


def test_elements_that_belong_to_no_feature_are_numbered() -> None:
    made = _scaled()
    assert made.names == ("V/0", "V/1", "V/2", *(f"W/{i}" for i in range(6)))
    assert made.values().numpy().tolist() == [1, 0, -1, 1, 2, 3, 4, 5, 6]


def test_weights_of_a_keras_layer_are_named_after_features() -> None:
    """The kernel of a layer with one unit is [D, 1]: each element belongs to a feature."""
    model = tf.keras.Sequential([tf.keras.Input((2,)), tf.keras.layers.Dense(1)])
    made = task.Task(model, losses.squared_error, features=("a", "b"), is_linear_regression=False)
    assert made.names == ("kernel/a", "kernel/b", "bias")


def test_all_variables_are_there_but_only_trained_ones_watched() -> None:
    made = _scaled()
    assert set(made.variables) == {"V", "W", "scale"}
    assert len(made.names) == 9


def test_variables_of_the_same_name_get_numbers() -> None:
    model = tf.keras.Sequential(
        [tf.keras.Input((2,)), tf.keras.layers.Dense(1), tf.keras.layers.Dense(1)]
    )
    made = task.Task(model, losses.squared_error, features=("a", "b"), is_linear_regression=False)
    assert len(made.variables) == len(model.variables) == 4
    assert len(set(made.names)) == len(made.names) == 2 + 1 + 1 + 1
    made.assign({name: np.full(variable.shape, 3) for name, variable in made.variables.items()})
    np.testing.assert_array_equal(made.values(), [3] * 5)


@pytest.mark.parametrize("kind", list(models.MODELS))
def test_variables_are_those_of_the_model(kind: str) -> None:
    """Variables of TensorFlow, also where the model has those of Keras around them."""
    made = _linear(kind, "a", "b")
    assert list(made.variables) == ["W", "b"]
    assert all(isinstance(variable, tf.Variable) for variable in made.variables.values())
    made.variables["W"].assign([7, 8])
    assert made.model.W.numpy().tolist() == [7, 8]


@pytest.mark.parametrize("kind", list(models.MODELS))
def test_prediction_and_losses_are_those_of_the_examples(kind: str) -> None:
    made = _linear(kind, "a", "b")
    made.assign({"W": [1, -1]})
    assert made.predict(tf.constant(_X)).numpy().tolist() == [-0.5, 7.5]  # x·W + 0.5
    found = made.losses(tf.constant(_X), tf.constant(_Y))
    assert found.numpy().tolist() == [10.5**2, 17.5**2]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(None, (10.5**2 + 17.5**2) / 2), (2, (10.5**2 + 17.5**2) / 2), (1, 10.5**2)],
)
def test_batch_loss_is_the_mean_of_those_that_count(count: int | None, expected: float) -> None:
    made = _linear("module", "a", "b")
    made.assign({"W": [1, -1]})
    counting = None if count is None else tf.constant(count)
    loss = made.batch_loss(tf.constant(_X), tf.constant(_Y), counting)
    assert loss.shape == ()
    assert float(loss) == expected


def test_prediction_of_one_column_becomes_one_number_each() -> None:
    """x·W·V is (1, 4)·x·(-2): each row of W times V is its first minus its last element."""
    made = _scaled()
    prediction = made.predict(tf.constant(_X))
    assert prediction.shape == (2,)
    assert prediction.numpy().tolist() == [-3, 1]  # 0.5 * (-2 * (x_a + x_b))
    found = made.losses(tf.constant(_X), tf.constant(_Y))
    assert found.numpy().tolist() == [13.0**2, 11.0**2]


@pytest.mark.parametrize("loss", [tf.keras.losses.MeanSquaredError(), tf.keras.losses.mse])
def test_loss_that_takes_the_mean_is_refused(loss: task.Loss) -> None:
    """Its gradient would be that of the whole batch, the filling of a short one included."""
    with pytest.raises(errors.InputError, match="one number for each of the examples"):
        _scaled(loss).batch_loss(tf.constant(_X), tf.constant(_Y), tf.constant(1))


def test_by_variable_gives_the_values_the_shapes_of_variables() -> None:
    arrays = _scaled().by_variable(range(9))
    assert {name: array.tolist() for name, array in arrays.items()} == {
        "V": [[0], [1], [2]],
        "W": [[3, 4, 5], [6, 7, 8]],
    }
    assert all(array.dtype == np.float32 for array in arrays.values())


@pytest.mark.parametrize("kind", list(models.MODELS))
@pytest.mark.parametrize("features", ["a", "abc"])
def test_assign_undoes_by_variable(kind: str, features: str) -> None:
    made = _linear(kind, *features)
    values = np.arange(len(features) + 1, dtype=np.float32) - 0.5
    made.assign(made.by_variable(values))
    np.testing.assert_array_equal(made.values(), values)


def test_assign_sets_any_variable_from_an_array_of_its_size() -> None:
    made = _scaled()
    made.assign({"scale": [2.0], "V": [4, 5, 6]})
    assert float(made.model.scale) == 2
    assert made.model.V.numpy().tolist() == [[4], [5], [6]]
    assert made.model.W.numpy().tolist() == [[1, 2, 3], [4, 5, 6]]  # left alone


@pytest.mark.parametrize("kind", list(models.MODELS))
def test_at_gives_other_values_for_a_while(kind: str) -> None:
    """And gives the own ones back, to the bit, after an error too."""
    made = _linear(kind, "a", "b")
    own = np.array([0.1, -1 / 3, 1e-30], np.float32)
    made.assign(made.by_variable(own))
    with made.at([1, -1, 0.5]):
        assert made.predict(tf.constant(_X)).numpy().tolist() == [-0.5, 7.5]
    np.testing.assert_array_equal(made.values(), own)
    with pytest.raises(ZeroDivisionError), made.at([1, -1, 0.5]):
        raise ZeroDivisionError
    np.testing.assert_array_equal(made.values(), own)
