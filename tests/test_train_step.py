"""Tests of pipeline.training.train_step."""

import numpy as np
import pytest
import tensorflow as tf

from pipeline import config as config_lib
from pipeline.training import optimizers, task, train_step

_RANDOM = np.random.default_rng(0)
_KINDS = ("module", "keras")


def _task(kind: str, num_features: int, *, initial_b: float = 0.5) -> task.Task:
    """The task of the guide."""
    config = config_lib.Config(model=kind, initial_b=initial_b)
    return task.linear(config, tuple("xyz"[:num_features]))


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("num_features", [1, 3])
@pytest.mark.parametrize("given", [None, 8, 5, 1])
def test_update_is_by_the_gradient_of_the_first_examples(
    kind: str, num_features: int, given: int | None
) -> None:
    count = 8 if given is None else given
    x = _RANDOM.normal(size=(8, num_features)).astype(np.float32)
    y = _RANDOM.normal(size=8).astype(np.float32)
    W = _RANDOM.normal(size=num_features).astype(np.float32)
    trained = _task(kind, num_features)
    trained.assign({"W": W})
    residual = x[:count].astype(np.float64) @ W + 0.5 - y[:count]
    by_W = 2 * residual @ x[:count] / count
    x[count:] = 1e30  # what fills the batch up must not count
    counting = None if given is None else tf.constant(given)
    optimizer = optimizers.GradientDescent(0.25)
    loss = train_step.train(trained, optimizer, tf.constant(x), tf.constant(y), counting)
    assert loss.shape == ()
    assert float(loss) == pytest.approx(np.mean(residual**2), rel=1e-5)  # before the update
    found = trained.by_variable(trained.values())
    np.testing.assert_allclose(found["W"], W - 0.25 * by_W, rtol=1e-4, atol=1e-5)
    assert float(found["b"]) == pytest.approx(0.5 - 0.25 * 2 * residual.mean(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("kind", _KINDS)
def test_only_trainable_variables_are_updated(kind: str) -> None:
    trained = _task(kind, 1)
    model = trained.model
    model.offset = (  # one more variable, which is not trained
        tf.Variable(3.0, trainable=False, name="offset")
        if kind == "module"
        else model.add_weight(name="offset", shape=(), initializer="ones", trainable=False)
    )
    before = float(model.offset)
    train_step.train(
        trained, optimizers.GradientDescent(0.1), tf.ones([4, 1]), tf.constant([0.0] * 4)
    )
    assert float(model.offset) == before
    # The residual is 5 * 1 + 0.5 - 0, so W and b both lose 0.1 * 2 * 5.5.
    np.testing.assert_allclose(trained.values(), [5 - 1.1, 0.5 - 1.1], rtol=1e-6)


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("num_features", [1, 3])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_graph_has_the_inputs_and_the_scopes_of_a_step(
    kind: str, num_features: int, optimizer: str
) -> None:
    trained = _task(kind, num_features)
    made = optimizers.create(
        config_lib.Config(optimizer=optimizer), trained.model.trainable_variables
    )
    definition = train_step.graph(trained, made, num_features=num_features)

    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(definition, name="")  # which checks that it is whole
    placeholders = [op for op in graph.get_operations() if op.type == "Placeholder"]
    inputs = [op.outputs[0] for op in placeholders if op.outputs[0].dtype != tf.resource]
    assert {tensor.name: tensor.shape.as_list() for tensor in inputs} == {
        "x:0": [None, num_features],
        "y:0": [None],
    }
    assert {tensor.dtype for tensor in inputs} == {tf.float32}
    scopes = {node.name.split("/")[0] for node in definition.node if "/" in node.name}
    assert {"loss_and_gradients", "update"} <= scopes
    updates = [node.op for node in definition.node if node.name.startswith("update/")]
    assert any(op.startswith("Assign") for op in updates)


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_making_the_graph_changes_no_variable(kind: str, optimizer: str) -> None:
    trained = _task(kind, 1, initial_b=0.25)
    config = config_lib.Config(model="keras", loop="fit", optimizer=optimizer)
    made = optimizers.create(config, trained.model.trainable_variables)
    before = [variable.numpy() for variable in made.variables]
    train_step.graph(trained, made, num_features=1)
    assert trained.values().numpy().tolist() == [5.0, 0.25]
    np.testing.assert_equal([variable.numpy() for variable in made.variables], before)
