"""Tests of pipeline.training.task."""

import numpy as np
import pytest
import tensorflow as tf

from pipeline import errors
from pipeline.training import losses, models, task
from tests import helpers

_KINDS = {"module": models.LinearModel, "keras": models.KerasLinearModel}
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
    return helpers.linear(features, model=kind, initial_w=2, initial_b=0.5)


def _scaled(loss: losses.Loss = losses.squared_error) -> task.Task:
    return task.Task(_Scaled(), loss, features=("a", "b"))


@pytest.mark.parametrize("kind", list(_KINDS))
def test_linear_task_is_that_of_the_config(kind: str) -> None:
    made = _linear(kind, "a", "b")
    assert type(made.model) is _KINDS[kind]
    assert made.is_linear_regression
    assert made.loss is losses.squared_error
    assert made.values().numpy().tolist() == [2, 2, 0.5]
    assert made.values().dtype == tf.float32


@pytest.mark.parametrize("kind", list(_KINDS))
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
    made = task.Task(model, losses.squared_error, features=("a", "b"))
    assert made.names == ("kernel/a", "kernel/b", "bias")


def test_all_variables_are_there_but_only_trained_ones_watched() -> None:
    made = _scaled()
    assert set(made.variables) == {"V", "W", "scale"}
    assert len(made.names) == 9


def _layers(*units: int) -> task.Task:
    """The task of a Keras model of two features with some dense layers."""
    layers = (
        tf.keras.layers.Dense(count, kernel_initializer="ones", name=f"layer{i}")
        for i, count in enumerate(units)
    )
    model = tf.keras.Sequential([tf.keras.Input((2,)), *layers])
    return task.Task(model, losses.squared_error, features=("a", "b"))


def test_variables_of_the_same_name_are_told_apart_by_layer() -> None:
    made = _layers(1, 1)
    assert list(made.variables) == ["layer0.kernel", "layer0.bias", "layer1.kernel", "layer1.bias"]
    assert made.names == (
        *("layer0.kernel/a", "layer0.kernel/b", "layer0.bias"),
        *("layer1.kernel", "layer1.bias"),
    )
    made.assign({name: np.full(variable.shape, 3) for name, variable in made.variables.items()})
    np.testing.assert_array_equal(made.values(), [3] * 5)


class _Same(tf.Module):
    """y = (v + v') x, of two variables of one name."""

    def __init__(self) -> None:
        super().__init__()
        self.both = [tf.Variable(1.0, name="v"), tf.Variable(2.0, name="v")]

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Predicts y [B]."""
        return sum(self.both) * x[:, 0]


def test_variables_that_nothing_tells_apart_get_numbers() -> None:
    made = task.Task(_Same(), losses.squared_error, features=("a",))
    assert made.names == tuple(made.variables) == ("v", "v_1")
    made.assign({"v": 3, "v_1": 4})
    assert made.values().numpy().tolist() == [3, 4]


def test_up_to_16_numbers_are_watched_one_by_one() -> None:
    """2 * 4 + 4 and 4 * 1 are 16; a bias more is 17."""
    model = tf.keras.Sequential(
        [
            *(tf.keras.Input((2,)), tf.keras.layers.Dense(4, name="first")),
            tf.keras.layers.Dense(1, use_bias=False, name="second"),
        ]
    )
    made = task.Task(model, losses.squared_error, features=("a", "b"))
    assert (made.watches_all, made.num_trainable, len(made.names)) == (True, 16, 16)
    assert made.names[:2] == ("first.kernel/0", "first.kernel/1")  # they belong to no feature
    more = _layers(4, 1)
    assert (more.watches_all, more.num_trainable, len(more.names)) == (False, 17, 4)


def test_of_more_numbers_the_norms_of_variables_are_watched() -> None:
    """The norm of eight ones is √8."""
    made = _layers(4, 1)
    made.assign({"layer1.bias": [-3.0]})
    assert made.names == tuple(
        f"norm/{name}" for name in ("layer0.kernel", "layer0.bias", "layer1.kernel", "layer1.bias")
    )
    assert made.values().dtype == tf.float32
    np.testing.assert_allclose(made.values(), [8**0.5, 0, 2, 3], rtol=1e-6)


@pytest.mark.parametrize("units", [(1,), (4, 1)])
def test_values_at_other_numbers_are_those_of_such_a_model(units: tuple[int, ...]) -> None:
    """Whether the numbers themselves are watched or their norms."""
    made = _layers(*units)
    before = made.values().numpy()
    numbers = np.arange(made.num_trainable) - 2.5
    expected = made.values_at(numbers)
    np.testing.assert_array_equal(made.values(), before)
    made.assign(made.by_variable(numbers))
    assert expected.dtype == np.float32
    np.testing.assert_allclose(made.values(), expected, rtol=1e-6)
    np.testing.assert_array_equal(made.numbers(), numbers)


@pytest.mark.parametrize("kind", list(_KINDS))
def test_variables_are_those_of_the_model(kind: str) -> None:
    """Variables of TensorFlow, also where the model has those of Keras around them."""
    made = _linear(kind, "a", "b")
    assert list(made.variables) == ["W", "b"]
    assert all(isinstance(variable, tf.Variable) for variable in made.variables.values())
    made.variables["W"].assign([7, 8])
    assert made.model.W.numpy().tolist() == [7, 8]


@pytest.mark.parametrize("kind", list(_KINDS))
def test_prediction_and_losses_are_those_of_the_examples(kind: str) -> None:
    made = _linear(kind, "a", "b")
    made.assign({"W": [1, -1]})
    assert made.predict(tf.constant(_X)).numpy().tolist() == [-0.5, 7.5]  # x·W + 0.5
    found = made.losses_of(tf.constant(_Y), made.predict(tf.constant(_X)))
    assert found.numpy().tolist() == [10.5**2, 17.5**2]


@pytest.mark.parametrize(("count", "expected"), [(2, (10.5**2 + 17.5**2) / 2), (1, 10.5**2)])
def test_batch_loss_is_the_mean_over_the_batch(count: int, expected: float) -> None:
    """Also where it is a short one."""
    made = _linear("module", "a", "b")
    made.assign({"W": [1, -1]})
    loss = made.batch_loss(tf.constant(_X[:count]), tf.constant(_Y[:count]))
    assert loss.shape == ()
    assert loss.dtype == tf.float32
    assert float(loss) == expected


def test_batch_loss_has_the_penalty_and_the_dropout_of_keras() -> None:
    """Those of a call with training=True: here half of x is dropped, the other half doubled."""
    model = tf.keras.Sequential(
        [
            *(tf.keras.Input((2,)), tf.keras.layers.Dropout(0.5, seed=0)),
            tf.keras.layers.Dense(
                *(1,), kernel_initializer="ones", kernel_regularizer=tf.keras.regularizers.L2(0.25)
            ),
        ]
    )
    made = task.Task(model, losses.squared_error, features=("a", "b"))
    x = tf.ones([1000, 2])
    assert set(made.predict(x).numpy()) == {2}
    assert set(made.predict(x, training=True).numpy()) == {0, 2, 4}
    # The mean of (0 - 2)², (2 - 2)² and (4 - 2)² in the proportion 1 : 2 : 1, and 0.25 · 2.
    loss = made.batch_loss(x, tf.fill([1000], 2.0))
    assert float(loss) == pytest.approx(2 + 0.5, abs=0.3)
    assert float(made.penalty()) == 0.5


def test_prediction_of_one_column_becomes_one_number_each() -> None:
    """x·W·V is (1, 4)·x·(-2): each row of W times V is its first minus its last element."""
    made = _scaled()
    prediction = made.predict(tf.constant(_X))
    assert prediction.shape == (2,)
    assert prediction.numpy().tolist() == [-3, 1]  # 0.5 * (-2 * (x_a + x_b))
    found = made.losses_of(tf.constant(_Y), prediction)
    assert found.numpy().tolist() == [13.0**2, 11.0**2]


@pytest.mark.parametrize("loss", [tf.keras.losses.MeanSquaredError(), tf.keras.losses.mse])
def test_loss_that_takes_the_mean_is_refused(loss: losses.Loss) -> None:
    """The mean over all examples would be that of the means of chunks of unlike sizes."""
    with pytest.raises(errors.InputError, match="one number for each of the examples"):
        _scaled(loss).batch_loss(tf.constant(_X), tf.constant(_Y))


def test_several_outputs_stay_columns_and_meet_their_labels() -> None:
    model = tf.keras.Sequential([tf.keras.Input((2,)), tf.keras.layers.Softmax()])

    def loss(y: tf.Tensor, prediction: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(prediction, axis=1) - y

    made = task.Task(model, loss, features=("a", "b"))
    prediction = made.predict(tf.constant(_X))
    assert prediction.shape == (2, 2)
    np.testing.assert_allclose(made.losses_of(tf.constant(_Y), prediction), [-9, 11], rtol=1e-6)


def test_by_variable_gives_the_values_the_shapes_of_variables() -> None:
    arrays = _scaled().by_variable(range(9))
    assert {name: array.tolist() for name, array in arrays.items()} == {
        "V": [[0], [1], [2]],
        "W": [[3, 4, 5], [6, 7, 8]],
    }
    assert all(array.dtype == np.float32 for array in arrays.values())


@pytest.mark.parametrize("kind", list(_KINDS))
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


@pytest.mark.parametrize("kind", list(_KINDS))
def test_unchanged_gives_all_variables_their_values_back(kind: str) -> None:
    """To the bit, after an error too."""
    made = _linear(kind, "a", "b")
    own = np.array([0.1, -1 / 3, 1e-30], np.float32)
    made.assign(made.by_variable(own))
    with made.unchanged():
        made.assign({"W": [1, -1], "b": 0.5})
        assert made.predict(tf.constant(_X)).numpy().tolist() == [-0.5, 7.5]
    np.testing.assert_array_equal(made.values(), own)
    with pytest.raises(KeyError), made.unchanged():
        made.assign({"W": [1, -1], "no such variable": 0.5})
    np.testing.assert_array_equal(made.values(), own)


def test_unchanged_keeps_variables_that_are_not_trained() -> None:
    made = _scaled()
    arrays = made.arrays()
    assert list(arrays) == ["V", "W", "scale"]
    with made.unchanged():
        made.assign({"scale": 7.0})
        assert float(made.model.scale) == 7
        assert arrays["scale"] == 0.5  # they are copies
    assert float(made.model.scale) == 0.5
