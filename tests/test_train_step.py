"""Tests of pipeline.training.train_step."""

import numpy as np
import pytest
import tensorflow as tf

from pipeline import config as config_lib
from pipeline.training import losses, models, optimizers, task, train_step
from tests import helpers

_RANDOM = np.random.default_rng(0)
_KINDS = ("module", "keras")


def _task(kind: str, num_features: int, *, initial_b: float = 0.5) -> task.Task:
    """The task of the guide."""
    return helpers.linear(tuple("xyz"[:num_features]), model=kind, initial_b=initial_b)


def _descent(learning_rate: float) -> optimizers.GradientDescent:
    """The hand-written update at a constant rate."""
    config = config_lib.Config(learning_rate=learning_rate)
    return optimizers.GradientDescent(optimizers.LearningRate(config, 100), clip_norm=0.0)


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("num_features", [1, 3])
@pytest.mark.parametrize("count", [8, 5, 1])
def test_update_is_by_the_gradient_of_the_batch(kind: str, num_features: int, count: int) -> None:
    x = _RANDOM.normal(size=(count, num_features)).astype(np.float32)
    y = _RANDOM.normal(size=count).astype(np.float32)
    W = _RANDOM.normal(size=num_features).astype(np.float32)
    trained = _task(kind, num_features)
    trained.assign({"W": W})
    residual = x.astype(np.float64) @ W + 0.5 - y
    by_W, by_b = 2 * residual @ x / count, 2 * residual.mean()
    norm = np.linalg.norm([*by_W, by_b])

    expected = np.mean(residual**2), norm  # before the update
    evaluated = train_step.before_update(trained, tf.constant(x), tf.constant(y))
    assert trained.by_variable(trained.values())["W"].tolist() == W.tolist()
    result = train_step.train(trained, _descent(0.25), tf.constant(x), tf.constant(y))
    for each in (evaluated, result):
        assert (each.loss.shape, each.gradient_norm.shape) == ((), ())
        assert (float(each.loss), float(each.gradient_norm)) == pytest.approx(expected, rel=1e-5)
    found = trained.by_variable(trained.values())
    np.testing.assert_allclose(found["W"], W - 0.25 * by_W, rtol=1e-4, atol=1e-5)
    assert float(found["b"]) == pytest.approx(0.5 - 0.25 * by_b, rel=1e-4, abs=1e-5)


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
    train_step.train(trained, _descent(0.1), tf.ones([4, 1]), tf.constant([0.0] * 4))
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
    config = config_lib.Config(optimizer=optimizer)
    made = optimizers.create(config, trained.model.trainable_variables, last_step=10)
    definition = train_step.trace(trained, made, num_features=num_features).as_graph_def()

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


def _used(trained: task.Task, config: config_lib.Config) -> set[str]:
    """The names of the variables that the traced step uses."""
    optimizer = optimizers.create(config, trained.model.trainable_variables, last_step=10)
    nodes = train_step.trace(trained, optimizer, num_features=1).as_graph_def().node
    assert "values" in {node.name.split("/")[0] for node in nodes}
    used = {name for node in nodes for name in node.input}
    variables = (node for node in nodes if node.attr["dtype"].type == tf.resource.as_datatype_enum)
    return {node.name for node in variables if node.op == "Placeholder" and node.name in used}


@pytest.mark.parametrize("kind", _KINDS)
def test_the_graph_has_variables_under_their_names(kind: str) -> None:
    trained = _task(kind, 1)
    assert _used(trained, config_lib.Config()) == {"W", "b", "step"}
    used = _used(trained, config_lib.Config(optimizer="adam"))
    assert {name for name in used if not name.startswith("adam")} == {"W", "b"}
    assert len(used) == 2 + 2 + 2 * 2  # with the iteration, the rate, and two moments of each


def test_the_graph_has_a_scope_for_each_layer() -> None:
    model = models.mlp(1)
    trained = task.Task(model, losses.squared_error, features=("x",))
    layers = [layer.name for layer in model.layers]
    expected = {f"{layer}/{name}" for layer in layers for name in ("kernel", "bias")}
    assert _used(trained, config_lib.Config()) == {*expected, "step"}


def test_names_that_a_graph_can_not_have_are_changed() -> None:
    trained = _task("module", 1)
    trained.variables = dict(zip(("_größe 1", "x"), trained.variables.values(), strict=True))
    assert _used(trained, config_lib.Config()) == {"gr__e_1", "x_1", "step"}


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_tracing_the_step_changes_no_variable(kind: str, optimizer: str) -> None:
    trained = _task(kind, 1, initial_b=0.25)
    config = config_lib.Config(model="keras", loop="fit", optimizer=optimizer)
    made = optimizers.create(config, trained.model.trainable_variables, last_step=10)
    before = [variable.numpy() for variable in made.variables]
    train_step.trace(trained, made, num_features=1)
    assert trained.values().numpy().tolist() == [5.0, 0.25]
    np.testing.assert_equal([variable.numpy() for variable in made.variables], before)
