"""Tests of pipeline.training.task: outputs, predictions and the loss."""

import inspect
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline.data import batch as batch_lib
from pipeline.training import losses, models, task
from tests import helpers

_KINDS = {"module": models.LinearModel, "keras": models.KerasLinearModel}
_X = np.array([[1, 2], [3, -4]], np.float32)
_Y = np.array([10, -10], np.float32)


def _batch(count: int = 2, weight: Any = None) -> batch_lib.Batch:
    return batch_lib.Batch(tf.constant(_X[:count]), tf.constant(_Y[:count]), weight)


def _task(model: Any, y: Any = _Y, x: Any = _X, **more: Any) -> task.Task:
    loss = losses.mean_loss(losses.squared_error, model)
    return task.Task(model, loss, spec=helpers.spec(batch_lib.Batch(x, y)), **more)


@pytest.mark.parametrize("kind", list(_KINDS))
def test_the_guides_task_is_that_of_the_config(kind: str) -> None:
    """Its predictions are x·W + 0.5, and its loss is the mean squared error of a batch."""
    made = helpers.linear(("a", "b"), model=kind, initial_w=2, initial_b=0.5)
    assert type(made.model) is _KINDS[kind]
    assert made.variables.watched == ("W/a", "W/b", "b")
    assert made.variables.values().numpy().tolist() == [2, 2, 0.5]
    assert not made.is_compiled
    made.variables.assign({"W": [1, -1]})
    assert made.predict(tf.constant(_X)).numpy().tolist() == [-0.5, 7.5]
    for count, expected in ((2, (10.5**2 + 17.5**2) / 2), (1, 10.5**2)):
        loss = made.loss(_batch(count))
        assert (loss.shape, loss.dtype, float(loss)) == ([], tf.float32, expected)
    assert float(made.loss_of(_batch(), tf.constant([10.0, -12.0]))) == 2
    assert float(made.loss(_batch(weight=tf.constant([4.0, 0.0])))) == 4 * 10.5**2 / 2


class _Outputs(tf.Module):
    """A model that calls a function."""

    def __init__(self, function: Any):
        super().__init__()
        self._function, self.w = function, tf.Variable(2.0)

    def __call__(self, x: Any) -> Any:
        """Its outputs."""
        return self._function(x, self.w)


@pytest.mark.parametrize(
    ("function", "y", "expected"),
    [
        (lambda x, w: x[:, :1] * w, _Y, [2.0, 6.0]),  # [B, 1] for y [B]
        (lambda x, w: x[:, :1] * w, _Y[:, None], [[2.0], [6.0]]),
        (lambda x, w: x[:, 0] * w, _Y[:, None], [[2.0], [6.0]]),
        (lambda x, w: x * w, _Y, [[2.0, 4.0], [6.0, -8.0]]),  # as for classes
        (lambda x, w: tf.cast(x[:, 0] * w, tf.float16), _Y, [2.0, 6.0]),
        (lambda x, w: tf.cast(x[:, 0] * w, tf.float64), _Y.astype(int), [2.0, 6.0]),
        (lambda x, w: {"a": x[:, 0] * w}, {"a": _Y}, {"a": [2.0, 6.0]}),
    ],
)
def test_predictions_have_the_form_of_the_labels(function: Any, y: Any, expected: Any) -> None:
    found = _task(_Outputs(function), y).predict(tf.constant(_X))
    found = tf.nest.map_structure(lambda t: (t.numpy().tolist(), t.dtype.name), found)
    assert found == (
        {"a": (expected["a"], "float32")} if isinstance(expected, dict) else (expected, "float32")
    )


def test_a_model_may_take_a_nest() -> None:
    x = {"a": _X, "b": (_X[:, 0], _X[:, 1])}
    made = _task(_Outputs(lambda x, w: w * tf.reduce_sum(x["a"], axis=1) + x["b"][1]), x=x)
    x = tf.nest.map_structure(tf.constant, x)
    assert made.predict(x).numpy().tolist() == [8, -6]
    assert float(made.loss(batch_lib.Batch(x, tf.constant(_Y)))) == (2**2 + 4**2) / 2


def test_dropout_and_penalties_of_keras_count_where_they_should() -> None:
    """With training=True half of x is dropped, the other half doubled; a penalty is always on."""
    layers, l2 = tf.keras.layers, tf.keras.regularizers.L2(0.25)
    dense = layers.Dense(1, kernel_initializer="ones", kernel_regularizer=l2)
    model = tf.keras.Sequential([tf.keras.Input((2,)), layers.Dropout(0.5, seed=0), dense])
    made = _task(model)
    batch = batch_lib.Batch(tf.ones([1000, 2]), tf.fill([1000], 2.0))
    assert set(made.predict(batch.x).numpy()) == {2}
    assert set(made.outputs(batch.x, training=True).numpy().ravel()) == {0, 2, 4}
    assert float(made.loss(batch)) == 0.5
    # The mean of (0 - 2)², (2 - 2)² and (4 - 2)² in the proportion 1 : 2 : 1, and 0.25 · 2.
    assert float(made.loss(batch, training=True)) == pytest.approx(2 + 0.5, abs=0.3)


class _Trained(tf.Module):
    """A model whose output shows whether it is called in training."""

    def __init__(self) -> None:
        super().__init__()
        self.w = tf.Variable(1.0)

    def __call__(self, x: tf.Tensor, training: bool = True) -> tf.Tensor:
        """Predicts 1 in training and 0 otherwise."""
        return x[:, 0] * 0 + self.w * float(training)


def test_a_module_is_told_of_training_if_it_asks() -> None:
    made = _task(_Trained())
    assert made.predict(_X).numpy().tolist() == [0, 0]
    assert made.outputs(_X, training=True).numpy().tolist() == [1, 1]
    assert "training" not in inspect.signature(models.LinearModel.__call__).parameters
    assert _task(models.module(2)).outputs(_X, training=True).numpy().tolist() == [15, -5]
