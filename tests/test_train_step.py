"""Tests of pipeline.training.train_step."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline import config as config_lib
from pipeline import errors
from pipeline.data import batch as batch_lib
from pipeline.training import keras_loop, losses, models, optimizers, task, train_step
from tests import helpers

_RANDOM = np.random.default_rng(0)
_KINDS = ("module", "keras")
_SOLUTIONS = (("module", "custom"), ("keras", "custom"), ("keras", "fit"))


def _task(kind: str, num_features: int, *, initial_b: float = 0.5) -> task.Task:
    """The task of the guide."""
    return helpers.linear(tuple("xyz"[:num_features]), model=kind, initial_b=initial_b)


def _step(trained: task.Task, loop: str = "custom", **settings: Any) -> train_step.Step:
    """The step of a loop, by default by gradient descent."""
    config = config_lib.Config(model="keras", loop=loop, **settings)
    optimizer = optimizers.create(config, trained, last_step=100)
    if loop == "custom":
        return train_step.guide_step(trained, optimizer)
    keras_loop.compile_model(trained, optimizer)
    return train_step.keras_step(trained, optimizer)


def _batch(x: Any, y: Any, weight: Any = None) -> batch_lib.Batch:
    return batch_lib.Batch(x, y, weight).map(lambda a: tf.constant(a, tf.float32))


@pytest.mark.parametrize("is_traced", [False, True])
@pytest.mark.parametrize("has_weight", [False, True])
@pytest.mark.parametrize(("kind", "loop"), _SOLUTIONS)
@pytest.mark.parametrize(("count", "num_features"), [(8, 1), (5, 3), (1, 3)])
def test_update_is_by_the_gradient_of_the_batch(
    kind: str, loop: str, num_features: int, count: int, has_weight: bool, is_traced: bool
) -> None:
    """The row has the state before the update; weights multiply the examples' losses."""
    x, y = _RANDOM.normal(size=(count, num_features)), _RANDOM.normal(size=count)
    W = _RANDOM.normal(size=num_features).astype(np.float32)
    weight = _RANDOM.uniform(size=count) if has_weight else np.ones(count)
    trained = _task(kind, num_features)
    trained.variables.assign({"W": W})
    residual = x @ W + 0.5 - y
    by_W, by_b = 2 * (weight * residual) @ x / count, 2 * (weight * residual).mean()

    step = _step(trained, loop, learning_rate=0.25)
    run = tf.function(step, autograph=False) if is_traced else step
    row = run(_batch(x, y, weight if has_weight else None))
    np.testing.assert_array_equal(row.values, [*W, 0.5])
    assert (row.loss.shape, row.gradient_norm.shape) == ((), ())
    expected = np.mean(weight * residual**2), np.linalg.norm([*by_W, by_b])
    assert (float(row.loss), float(row.gradient_norm)) == pytest.approx(expected, rel=1e-5)
    found = trained.variables.arrays()
    np.testing.assert_allclose(found["W"], W - 0.25 * by_W, rtol=1e-4, atol=1e-5)
    assert float(found["b"]) == pytest.approx(0.5 - 0.25 * by_b, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(("kind", "loop"), _SOLUTIONS)
def test_only_trainable_variables_are_updated(kind: str, loop: str) -> None:
    model = getattr(models, kind)(1)
    model.offset = (  # one more variable, which is not trained
        tf.Variable(3.0, trainable=False, name="offset")
        if kind == "module"
        else model.add_weight(name="offset", shape=(), initializer="ones", trainable=False)
    )
    batch = _batch(np.ones([4, 1]), [0.5] * 4)
    mean = losses.mean_loss(losses.squared_error, model)
    trained = task.Task(model, mean, spec=helpers.spec(batch))
    before = float(model.offset)
    _step(trained, loop)(batch)
    assert float(model.offset) == before
    # The residual is 5 * 1 - 0.5, so W and b both lose 0.1 * 2 * 4.5.
    np.testing.assert_allclose(trained.variables.values(), [5 - 0.9, -0.9], rtol=1e-6)


@pytest.mark.parametrize(("kind", "loop"), _SOLUTIONS)
def test_the_loss_must_depend_on_all_variables(kind: str, loop: str) -> None:
    """Keras itself would only warn and continue."""
    trained = _task(kind, 1)
    trained.loss_of = lambda batch, _: tf.reduce_sum(trained.model.b * batch.y)
    with pytest.raises(errors.InputError, match="the loss does not depend on W: use it"):
        _step(trained, loop)(_batch(np.ones([4, 1]), [0.0] * 4))


def test_the_step_of_keras_leaves_the_model_as_it_was() -> None:
    """The methods that record its loss and gradients are replaced only while it runs."""
    trained = _task("keras", 1)
    step = _step(trained, "fit")
    names = "_compute_loss", "apply"
    before = [getattr(each, name) for each, name in zip(_parts(trained), names, strict=True)]
    step(_batch(np.ones([4, 1]), [0.0] * 4))
    after = [getattr(each, name) for each, name in zip(_parts(trained), names, strict=True)]
    assert before == after


def _parts(trained: task.Task) -> tuple[Any, Any]:
    return trained.model, trained.model.optimizer


@pytest.mark.parametrize("loop", ["custom", "fit"])
def test_losses_scaled_for_16_bits_are_recorded_as_they_are(loop: str) -> None:
    """The loss scale is 2¹⁵, which keeps small float16 gradients from becoming 0."""
    model = models.keras(1)
    optimizer = tf.keras.mixed_precision.LossScaleOptimizer(tf.keras.optimizers.SGD(0.1))
    model.compile(optimizer, loss="mse")
    batch = _batch(np.ones([4, 1]), np.zeros([4, 1]))
    loss = losses.compiled_loss(model)
    trained = task.Task(model, loss, spec=helpers.spec(batch), is_compiled=True)
    row = _step(trained, loop)(batch)
    assert (float(row.loss), float(row.gradient_norm)) == pytest.approx((25, 10 * 2**0.5))
    np.testing.assert_allclose(trained.variables.values(), [5 - 1, -1], rtol=1e-6)


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_the_terms_of_workers_add_up_to_the_gradient(share: float) -> None:
    """They add up for the loss and each trainable number; the update equals the batch's."""
    x, y = _RANDOM.normal(size=(8, 2)), _RANDOM.normal(size=8)
    alone, together = _task("module", 2), _task("module", 2)
    row = _step(alone)(_batch(x, y))
    count = int(8 * share)
    parts = (_batch(x[:count], y[:count]), share), (_batch(x[count:], y[count:]), 1 - share)
    terms = [train_step.shared_loss_and_gradients(together, part, s) for part, s in parts]
    assert [term.shape for term in terms] == [[4], [4]]
    optimizer = optimizers.create(config_lib.Config(), together, last_step=100)
    shared = train_step.shared_update(together, optimizer, terms[0] + terms[1])
    for one, other in zip(shared[:3], row[:3], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    np.testing.assert_allclose(together.variables.values(), alone.variables.values(), rtol=1e-6)


# The graph.


def _definition(trained: task.Task, config: config_lib.Config) -> Any:
    optimizer = optimizers.create(config, trained, last_step=10)
    make_step = train_step.guide_step
    if config.loop == "fit":
        keras_loop.compile_model(trained, optimizer)
        make_step = train_step.keras_step
    return train_step.trace(make_step(trained, optimizer), trained, optimizer).as_graph_def()


@pytest.mark.parametrize(
    ("kind", "loop"), [("module", "custom"), ("keras", "custom"), ("keras", "fit")]
)
@pytest.mark.parametrize("num_features", [1, 3])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_graph_has_the_inputs_and_the_scopes_of_a_step(
    kind: str, loop: str, num_features: int, optimizer: str
) -> None:
    trained = _task(kind, num_features)
    config = config_lib.Config(model=kind, loop=loop, optimizer=optimizer)
    definition = _definition(trained, config)

    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(definition, name="")  # checks that the graph is complete
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


def test_the_inputs_of_a_nest_are_numbered() -> None:
    x = {"a": np.ones([2, 3], np.float32), "b": np.ones(2, np.int64)}
    examples = batch_lib.Batch(x, np.ones(2, np.float32), np.ones(2, np.float32))
    model = _Nested()
    mean = losses.mean_loss(losses.squared_error, model)
    trained = task.Task(model, mean, spec=helpers.spec(examples))
    nodes = _definition(trained, config_lib.Config()).node
    inputs = {n.name for n in nodes if n.op == "Placeholder" and n.attr["dtype"].type != 20}
    assert inputs == {"x_0", "x_1", "y", "weight"}


class _Nested(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = tf.Variable(1.0)

    def __call__(self, x: Any) -> Any:
        return self.w * x["a"][:, 0] + tf.cast(x["b"], tf.float32)


def _used(trained: task.Task, config: config_lib.Config) -> set[str]:
    """The names of the variables that the traced step uses."""
    nodes = _definition(trained, config).node
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
    spec = helpers.spec(_batch(np.ones([2, 1]), np.ones(2)))
    trained = task.Task(model, losses.mean_loss(losses.squared_error, model), spec=spec)
    layers = [layer.name for layer in model.layers]
    expected = {f"{layer}/{name}" for layer in layers for name in ("kernel", "bias")}
    assert _used(trained, config_lib.Config()) == {*expected, "step"}


def test_names_that_a_graph_can_not_have_are_changed() -> None:
    trained = _task("module", 1)
    by_name = trained.variables.by_name
    trained.variables.by_name = dict(zip(("_größe 1", "x"), by_name.values(), strict=True))
    assert _used(trained, config_lib.Config()) == {"gr__e_1", "x_1", "step"}


@pytest.mark.parametrize(("kind", "loop"), _SOLUTIONS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_tracing_the_step_changes_no_variable(kind: str, loop: str, optimizer: str) -> None:
    trained = _task(kind, 1, initial_b=0.25)
    config = config_lib.Config(model="keras", loop=loop, optimizer=optimizer)
    made = optimizers.create(config, trained, last_step=10)
    make = train_step.guide_step
    if loop == "fit":
        keras_loop.compile_model(trained, made)
        make = train_step.keras_step
    before = [variable.numpy() for variable in made.variables]
    train_step.trace(make(trained, made), trained, made)
    assert trained.variables.values().numpy().tolist() == [5.0, 0.25]
    np.testing.assert_equal([variable.numpy() for variable in made.variables], before)
