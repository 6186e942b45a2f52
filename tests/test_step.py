"""Tests of pipeline.step."""

import numpy as np
import pytest
import tensorflow as tf

from pipeline import model as model_lib
from pipeline import optimizers, step

_RANDOM = np.random.default_rng(0)
_KINDS = ("module", "keras")


def _model(kind: str, W: np.ndarray, b: float) -> model_lib.Model:
    """A model at given parameters."""
    num_features = len(W) if W.ndim else None
    model = model_lib.create(kind, initial_w=0.0, initial_b=b, num_features=num_features)
    model.W.assign(W)
    return model


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("num_features", [None, 1, 3])
@pytest.mark.parametrize("given", [None, 8, 5, 1])
def test_loss_and_gradients_are_those_of_the_examples_that_count(
    kind: str, num_features: int | None, given: int | None
) -> None:
    count = 8 if given is None else given
    x = _RANDOM.normal(size=(8, num_features) if num_features else 8).astype(np.float32)
    y = _RANDOM.normal(size=8).astype(np.float32)
    W = _RANDOM.normal(size=x.shape[1:]).astype(np.float32)
    model = _model(kind, W, 0.5)
    residual = x[:count] * W if x.ndim == 1 else x[:count] @ W
    residual = residual.astype(np.float64) + 0.5 - y[:count]
    by_W = 2 * residual @ x[:count] / count
    x[count:] = 1e30  # what fills the batch up must not count
    counting = None if given is None else tf.constant(given)
    loss, gradients = step.loss_and_gradients(model, tf.constant(x), tf.constant(y), counting)
    assert float(loss) == pytest.approx(np.mean(residual**2), rel=1e-5)
    names = [variable.name.split(":")[0] for variable in model.trainable_variables]
    found = dict(zip(names, gradients, strict=True))
    assert found.keys() == {"W", "b"}
    assert found["W"].shape == x.shape[1:]
    np.testing.assert_allclose(found["W"], by_W, rtol=1e-4, atol=1e-6)
    assert float(found["b"]) == pytest.approx(2 * residual.mean(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("num_features", [None, 3])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_graph_has_the_inputs_and_the_scopes_of_a_step(
    kind: str, num_features: int | None, optimizer: str
) -> None:
    model = model_lib.create(kind, initial_w=5.0, initial_b=0.0, num_features=num_features)
    made = optimizers.create(optimizer, 0.1, model.trainable_variables, hand_written=True)
    shape = (9, num_features) if num_features else (9,)
    definition = step.graph(model, made, np.zeros(shape, np.float32))

    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(definition, name="")  # which checks that it is whole
    placeholders = [op for op in graph.get_operations() if op.type == "Placeholder"]
    inputs = [op.outputs[0] for op in placeholders if op.outputs[0].dtype != tf.resource]
    assert {tensor.name: tensor.shape.as_list() for tensor in inputs} == {
        "x:0": [None, *shape[1:]],
        "y:0": [None],
    }
    assert {tensor.dtype for tensor in inputs} == {tf.float32}
    scopes = {node.name.split("/")[0] for node in definition.node if "/" in node.name}
    assert {"loss_and_gradients", "update"} <= scopes
    updates = [node.op for node in definition.node if node.name.startswith("update/")]
    assert any(op.startswith("Assign") for op in updates)


@pytest.mark.parametrize("kind", _KINDS)
def test_making_the_graph_changes_no_parameter(kind: str) -> None:
    model = _model(kind, np.array(5.0, np.float32), 0.25)
    made = optimizers.create("sgd", 0.1, model.trainable_variables, hand_written=True)
    step.graph(model, made, np.ones(4, np.float32))
    assert (float(model.W), float(model.b)) == (5.0, 0.25)
