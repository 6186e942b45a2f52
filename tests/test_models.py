"""Tests of pipeline.training.models."""

import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline.training import models

_KINDS = ("module", "keras")


def _make(kind: str, num_features: int = 1) -> Any:
    """Calls the function of --model."""
    return getattr(models, kind)(num_features)


def test_linear_model_of_the_guide_gives_15_for_3() -> None:
    assert models.module()(3.0) == 15.0  # 5 * 3 + 0


@pytest.mark.parametrize("kind", _KINDS)
def test_both_kinds_give_15_for_3(kind: str) -> None:
    assert float(_make(kind)(tf.constant(3.0))) == 15.0


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("num_features", [1, 3])
def test_model_starts_as_in_the_guide(kind: str, num_features: int) -> None:
    model = _make(kind, num_features)
    assert isinstance(model, tf.keras.Model) == (kind == "keras")
    assert isinstance(model, tf.Module) == (kind == "module")
    assert (model.W.numpy().tolist(), float(model.b)) == ([5] * num_features, 0)


@pytest.mark.parametrize("num_features", [1, 3])
def test_module_lists_both_variables(num_features: int) -> None:
    model = models.module(num_features)
    assert [v.name for v in model.variables] == ["W:0", "b:0"]
    assert [tuple(v.shape) for v in model.variables] == [(num_features,), ()]
    assert model.variables[0] is model.W
    assert model.variables[1] is model.b
    assert model.trainable_variables == model.variables


@pytest.mark.parametrize("num_features", [1, 3])
def test_keras_model_lists_both_before_it_is_called(num_features: int) -> None:
    """Otherwise fit would silently train nothing."""
    model = models.keras(num_features)
    assert [v.name for v in model.trainable_variables] == ["W", "b"]
    assert [tuple(v.shape) for v in model.trainable_variables] == [(num_features,), ()]


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("num_features", [1, 3, 8, 9, 40])
def test_prediction_and_gradient_are_those_of_numpy(kind: str, num_features: int) -> None:
    """The numbers of features are below and above the one where matrix products start."""
    generator = np.random.default_rng(0)
    model = _make(kind, num_features)
    model.b.assign(0.5)
    x = generator.normal(size=(20, num_features)).astype(np.float32)
    np.testing.assert_allclose(model(x), x.sum(axis=1) * 5 + 0.5, rtol=1e-4, atol=1e-5)

    W = generator.normal(size=num_features).astype(np.float32)
    model.W.assign(W)
    with tf.GradientTape() as tape:
        y = model(tf.constant(x))
        total = tf.reduce_sum(y)
    assert y.shape == (20,)
    np.testing.assert_allclose(y, x @ W + 0.5, rtol=1e-5, atol=5e-6)
    by_W, by_b = tape.gradient(total, model.trainable_variables)
    np.testing.assert_allclose(by_W, x.sum(axis=0), rtol=1e-5, atol=5e-6)
    assert float(by_b) == 20


@pytest.mark.parametrize("kind", _KINDS)
def test_one_feature_needs_no_dimension_of_its_own(kind: str) -> None:
    """The guide's x has the shape [B]."""
    model = _make(kind)
    np.testing.assert_array_equal(model(tf.constant([1.0, 2.0])), [5, 10])
    np.testing.assert_array_equal(model(tf.constant([[1.0], [2.0]])), [5, 10])


# Keras 3.15 copies its variables in a way that NumPy 2 warns about.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("num_features", [1, 3])
def test_keras_weights_survive_a_file(tmp_path: pathlib.Path, num_features: int) -> None:
    model = models.keras(num_features)
    model.W.assign([0.1] * num_features)
    model.b.assign(-2.0)
    model.save_weights(tmp_path / "model.weights.h5")
    other = models.keras(num_features)
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(other.W.numpy(), model.W.numpy())
    assert float(other.b) == -2
