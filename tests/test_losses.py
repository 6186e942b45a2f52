"""Tests of pipeline.training.losses: the loss of a batch."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline import errors
from pipeline.data import batch as batch_lib
from pipeline.training import losses, models

_Y = np.array([1.0, 2.0, 3.0], np.float32)
_PREDICTION = np.array([1.0, 4.0, 0.0], np.float32)
_NO_MODEL = tf.Module()


def _loss(
    each: losses.ExampleLoss, *, weight: Any = None, y: Any = _Y, outputs: Any = None
) -> float:
    outputs = _PREDICTION if outputs is None else outputs
    batch = batch_lib.Batch((), y, weight).map(tf.constant)
    found = losses.mean_loss(each, _NO_MODEL)(batch, tf.constant(outputs))
    assert (found.shape, found.dtype) == ([], tf.float32)
    return float(found)


def test_squared_error_is_that_of_each_example() -> None:
    loss = losses.squared_error(tf.constant(_Y), tf.constant(_PREDICTION))
    assert loss.dtype == tf.float32
    assert loss.numpy().tolist() == [0, 4, 9]


@pytest.mark.parametrize("name", ["mean_absolute_error", "mae", "MeanAbsoluteError"])
def test_a_loss_of_keras_is_that_of_each_example(name: str) -> None:
    each = losses.of_examples(losses.by_name(name))
    assert each(tf.constant(_Y), tf.constant(_PREDICTION)).numpy().tolist() == [0, 2, 3]


@pytest.mark.parametrize("name", ["squared", "mse2", ""])
def test_a_loss_that_keras_does_not_know_is_refused(name: str) -> None:
    with pytest.raises(errors.InputError, match=r"must be a name that tf\.keras"):
        losses.by_name(name)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 13 / 3),
        ({"weight": np.array([1.0, 0.5, 2.0])}, 20 / 3),  # by the number of examples, as in Keras
        ({"weight": np.array([0, 1, 0])}, 4 / 3),
        ({"weight": np.array([[0], [1], [0]])}, 4 / 3),
        ({"outputs": _PREDICTION[:, None]}, 13 / 3),  # y is [B]
        ({"outputs": _PREDICTION[:, None], "y": _Y[:, None]}, 13 / 3),
        ({"y": _Y[:, None]}, 13 / 3),
        ({"outputs": np.zeros([3, 2], np.float32), "y": np.stack([_Y, 2 * _Y], 1)}, 35 / 3),
        ({"y": np.array([1, 2, 3])}, 13 / 3),
    ],
)
def test_the_loss_of_a_batch_is_the_mean_of_weighted_losses(
    changes: dict[str, Any], expected: float
) -> None:
    assert _loss(losses.squared_error, **changes) == pytest.approx(expected, rel=1e-6)


def test_a_loss_that_takes_the_mean_is_refused() -> None:
    """The mean over all examples would average the means of pieces of different sizes."""
    with pytest.raises(errors.InputError, match="one number for each of the examples"):
        _loss(lambda y, prediction: tf.reduce_mean(tf.abs(y - prediction)))


@pytest.mark.parametrize("shape", [[1], [1, 1]])
@pytest.mark.parametrize(
    "found", [losses.by_name("binary_crossentropy"), tf.keras.losses.BinaryCrossentropy()]
)
def test_the_logits_of_a_sigmoid_are_used_as_in_keras(found: Any, shape: list[int]) -> None:
    """Probabilities would be clipped at 1e-7, and the loss at 16."""
    loss = losses.mean_loss(found, _NO_MODEL)
    batch = batch_lib.Batch((), tf.zeros(shape))
    value = tf.function(lambda x: loss(batch, tf.sigmoid(x)))(tf.constant([[40.0]]))
    assert float(value) == pytest.approx(40)


def _regularized() -> Any:
    dense = tf.keras.layers.Dense(
        1, kernel_initializer="ones", bias_initializer="ones", kernel_regularizer="l2"
    )
    return tf.keras.Sequential([tf.keras.Input([2]), dense])


@pytest.mark.parametrize(
    ("make", "l2", "expected"),
    [
        (_regularized, 0.0, 0.01 * 2),  # what the model adds in its last call
        (_regularized, 0.25, 0.01 * 2 + 0.25 * 2),  # of weights, not of biases
        (lambda: models.keras(3), 0.1, 0.1 * 75),
        (lambda: models.module(3), 0.1, 0.1 * 75),
        (lambda: models.module(3), 0.0, 0.0),
    ],
)
def test_penalties_are_added_once(make: Any, l2: float, expected: float) -> None:
    model = make()
    x = tf.zeros([5, model.trainable_variables[0].shape[0]])
    outputs = model(x)
    batch = batch_lib.Batch(x, tf.reshape(outputs, [-1]))
    loss = losses.mean_loss(losses.squared_error, model, l2=l2)
    assert float(loss(batch, outputs)) == pytest.approx(expected, rel=1e-6)


def test_a_compiled_model_computes_its_own_loss() -> None:
    """The loss includes weights of outputs and examples, and added losses."""
    model = _regularized()
    model.compile(loss="mae", loss_weights=[3.0])
    x = tf.constant([[1.0, 2.0], [0.0, 0.0]])
    batch = batch_lib.Batch(x, tf.constant([[0.0], [0.0]]), tf.constant([0.5, 2.0]))
    found = losses.compiled_loss(model)(batch, model(x))
    assert found.dtype == tf.float32
    assert float(found) == pytest.approx(3 * (0.5 * 4 + 2 * 1) / 2 + 0.02, rel=1e-6)


def test_a_loss_of_ones_own_may_depend_on_tensors() -> None:
    """AutoGraph converts its `if` during tracing; it is not a separate tf.function."""

    def each(y: tf.Tensor, prediction: tf.Tensor) -> tf.Tensor:
        if tf.reduce_sum(prediction) > 0:
            return tf.abs(y - prediction)
        return y

    loss = losses.mean_loss(each, _NO_MODEL)
    batch = batch_lib.Batch((), tf.constant(_Y))
    traced = tf.function(loss, autograph=False)
    for outputs, expected in ((_PREDICTION, 5 / 3), (-_PREDICTION, 2)):
        for run in (loss, traced):
            assert float(run(batch, tf.constant(outputs))) == pytest.approx(expected, rel=1e-6)
    graph = traced.get_concrete_function(batch, tf.TensorSpec([None])).graph.as_graph_def()
    calls = [node.op for node in graph.node if "Call" in node.op]
    assert calls == []


@pytest.mark.parametrize("shape", [None, [4, 1], [4, 3]])
def test_masks_and_weights_of_sequences_count_as_in_keras(shape: list[int] | None) -> None:
    """The mask comes from the model; weights are those of examples or of steps."""
    x = np.array([[1, 2, 0], [3, 0, 0], [1, 1, 1], [2, 3, 0]])
    parts = tf.keras.layers.Embedding(4, 2, mask_zero=True), tf.keras.layers.Dense(3)
    model = tf.keras.Sequential([tf.keras.Input([3], dtype="int32"), *parts])
    found = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=found)
    y = tf.constant(x % 3)
    weight = (
        None if shape is None else tf.constant(np.arange(1.0, 1 + np.prod(shape)).reshape(shape))
    )
    batch = batch_lib.Batch(tf.constant(x), y, weight)
    outputs = model(batch.x)
    expected = model.compute_loss(x=batch.x, y=y, y_pred=outputs, sample_weight=weight)
    assert float(losses.mean_loss(found, model)(batch, outputs)) == pytest.approx(float(expected))
