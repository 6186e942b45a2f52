"""Tests of pipeline.model."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from pipeline import model as model_lib

_KINDS = ["module", "keras"]


def test_linear_model_of_the_guide_gives_15_for_3() -> None:
    assert model_lib.LinearModel()(3.0) == 15.0  # 5 * 3 + 0


@pytest.mark.parametrize("kind", _KINDS)
def test_both_kinds_give_15_for_3(kind: str) -> None:
    model = model_lib.create(kind, initial_w=5.0, initial_b=0.0)
    assert float(model(tf.constant(3.0))) == 15.0


@pytest.mark.parametrize("kind", _KINDS)
def test_create_makes_the_kind_asked_for_at_its_starting_point(kind: str) -> None:
    model = model_lib.create(kind, initial_w=-1.5, initial_b=2.5)
    assert isinstance(model, tf.keras.Model) == (kind == "keras")
    assert isinstance(model, tf.Module) == (kind == "module")
    assert (float(model.W), float(model.b)) == (-1.5, 2.5)


@pytest.mark.parametrize("num_features", [None, 1, 3])
def test_module_lists_both_variables(num_features: int | None) -> None:
    model = model_lib.LinearModel(num_features=num_features)
    assert [v.name for v in model.variables] == ["W:0", "b:0"]
    assert [v is own for v, own in zip(model.variables, (model.W, model.b), strict=True)] == [
        True
    ] * 2
    assert model.trainable_variables == model.variables


@pytest.mark.parametrize("num_features", [None, 1, 3])
def test_keras_model_lists_both_variables_before_it_is_called(num_features: int | None) -> None:
    """Else fit would train nothing and say nothing."""
    model = model_lib.KerasLinearModel(num_features=num_features)
    assert [v.name for v in model.trainable_variables] == ["W", "b"]
    shape = () if num_features is None else (num_features,)
    assert [tuple(v.shape) for v in model.trainable_variables] == [shape, ()]


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("num_features", [None, 1, 3])
def test_prediction_and_gradient_are_those_of_numpy(kind: str, num_features: int | None) -> None:
    generator = np.random.default_rng(0)
    shape = () if num_features is None else (num_features,)
    model = model_lib.create(kind, initial_w=5.0, initial_b=0.5, num_features=num_features)
    x = generator.normal(size=(20, *shape)).astype(np.float32)
    np.testing.assert_allclose(model(x), x.reshape(20, -1).sum(axis=1) * 5 + 0.5, rtol=1e-5)

    W = generator.normal(size=shape).astype(np.float32)
    model.W.assign(W)
    with tf.GradientTape() as tape:
        y = model(tf.constant(x))
        total = tf.reduce_sum(y)
    assert y.shape == (20,)
    expected = (x * W if num_features is None else x @ W) + 0.5
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    by_W, by_b = tape.gradient(total, model.trainable_variables)
    np.testing.assert_allclose(by_W, x.sum(axis=0), rtol=1e-5)
    assert float(by_b) == 20


# Keras 3.15 copies its variables in a way that NumPy 2 warns about.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("num_features", [None, 3])
def test_keras_weights_survive_a_file(tmp_path: pathlib.Path, num_features: int | None) -> None:
    model = model_lib.KerasLinearModel(initial_w=0.1, initial_b=-2, num_features=num_features)
    model.save_weights(tmp_path / "model.weights.h5")
    other = model_lib.KerasLinearModel(num_features=num_features)
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(other.W.numpy(), model.W.numpy())
    assert float(other.b) == -2
