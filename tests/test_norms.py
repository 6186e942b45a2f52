"""Tests of pipeline.training.norms against numpy."""

import numpy as np
import pytest
import tensorflow as tf

from pipeline.training import norms

_SHAPES = ((), (1,), (5,), (3, 4), (1, 7), (7, 1), (2, 3, 4), (2, 2, 3, 2))


def _array(shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(dtype)


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_norm_is_that_of_all_numbers(shape: tuple[int, ...], jit_compile: bool) -> None:
    """This holds in a graph and compiled by XLA."""
    array = _array(shape)
    found = tf.function(norms.norm, jit_compile=jit_compile)(tf.constant(array))
    assert found.dtype == tf.float32
    assert found.shape == []
    np.testing.assert_allclose(found, np.linalg.norm(np.ravel(array)), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32"])
def test_the_norm_of_other_types_is_in_float32(dtype: str) -> None:
    array = (_array((3, 4)) * 10).astype(dtype)
    found = norms.norm(tf.constant(array))
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, np.linalg.norm(array.astype(np.float64)), rtol=1e-6)


def test_the_norm_of_variables_is_that_of_their_numbers() -> None:
    """The variables are TensorFlow's and Keras'."""
    for variable in (tf.Variable([3.0, -4.0]), tf.keras.Variable([3.0, -4.0])):
        assert float(norms.norm(tf.convert_to_tensor(variable))) == 5
    assert float(norms.norm(tf.Variable(-2.0))) == 2


def test_the_global_norm_is_that_of_one_long_vector() -> None:
    arrays = [_array(shape) for shape in _SHAPES]
    found = norms.global_norm([tf.constant(array) for array in arrays])
    whole = np.concatenate([np.ravel(array) for array in arrays])
    np.testing.assert_allclose(found, np.linalg.norm(whole), rtol=1e-6)
    assert float(norms.global_norm([tf.constant([3.0]), tf.constant([[4.0]])])) == 5


def test_slices_of_the_same_row_are_added_up_before_they_are_squared() -> None:
    """The gradient of an embedding: 1 + 2 in row 0, and 4 in row 2."""
    slices = tf.IndexedSlices(tf.constant([[1.0], [4.0], [2.0]]), tf.constant([0, 2, 0]), (3, 1))
    assert float(norms.global_norm([slices])) == 5


def test_what_is_not_finite_stays_so() -> None:
    assert np.isnan(norms.global_norm([tf.constant([1.0, np.nan]), tf.constant(1.0)]))
    assert np.isinf(norms.global_norm([tf.constant([[1.0, np.inf]]), tf.constant(1.0)]))
    assert float(norms.norm(tf.zeros([3, 2]))) == 0
