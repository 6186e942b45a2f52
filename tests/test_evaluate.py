"""Tests of pipeline.evaluation.evaluate: the loss and the metrics over all examples."""

import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline import config as config_lib
from pipeline import errors
from pipeline.data import batch as batch_lib
from pipeline.data import datasets as datasets_lib
from pipeline.evaluation import evaluate
from pipeline.run import trainer
from pipeline.training import make_task, task
from tests import helpers

Batch = batch_lib.Batch

_MINE = """
import keras

layers = keras.layers


def classes(num_features):
    return keras.Sequential([keras.Input([num_features]), layers.Dense(3, activation="softmax")])


def normal(num_features):
    return keras.Sequential(
        [keras.Input([num_features]), layers.BatchNormalization(), layers.Dropout(0.5),
         layers.Dense(1)]
    )


class Layer(layers.Layer):
    def call(self, x):
        self.add_loss(keras.ops.sum(x[:, 0] ** 2))
        return x


def of_a_batch(num_features):
    return keras.Sequential([keras.Input([num_features]), Layer(), layers.Dense(1)])


def regularized(num_features):
    dense = layers.Dense(1, kernel_regularizer="l2")
    return keras.Sequential([keras.Input([num_features]), dense])


def compiled(num_features):
    model = keras.Sequential([keras.Input([num_features]), layers.Dense(1)])
    model.compile("sgd", loss="mse", metrics=["mae"], weighted_metrics=["mse"])
    return model


def failing(num_features):
    def metric(y, y_pred):
        raise KeyError("in a metric")

    model = keras.Sequential([keras.Input([num_features]), layers.Dense(1)])
    model.compile("sgd", loss="mse", metrics=[metric])
    return model


class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(1)

    def call(self, x):
        return self.dense(x)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return {"own": keras.ops.sum(y_pred) * 0 + 7.0}

    def get_metrics_result(self):
        return {"own": 7.0}


def own_metrics():
    model = Own()
    model.compile("sgd", loss="mse")
    return model
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The user's file."""
    path = tmp_path_factory.mktemp("user") / "mine.py"
    path.write_text(_MINE)
    return path


def _examples(count: int = 201, classes: int = 0, seed: int = 3) -> Batch:
    """Examples with two features, and labels that are numbers or classes."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(count, 2)).astype(np.float32)
    y = x @ [1.0, -2.0] + generator.normal(size=count)
    if classes:
        y = np.searchsorted(np.quantile(y, np.arange(1, classes) / classes), y)
    return Batch(x, y.astype(np.float32))


def _evaluator(
    train: Batch, validation: Batch | None = None, **settings: Any
) -> tuple[evaluate.Evaluator, np.ndarray]:
    """The evaluator of a model with random numbers, and its predictions of the examples."""
    config = config_lib.Config(**settings)
    datasets = datasets_lib.Datasets(train, validation, ("a", "b"), "y")
    made = make_task.make_task(config, datasets)
    generator = np.random.default_rng(1)
    arrays = made.variables.arrays()
    made.variables.assign({n: generator.normal(size=a.shape) for n, a in arrays.items()})
    prediction = made.predict(tf.constant(train.x)).numpy().astype(np.float64)
    return evaluate.Evaluator(made, datasets, config), prediction


def _auc(y: np.ndarray, score: np.ndarray) -> float:
    """The fraction of (1, 0) pairs in which the 1 has the larger score."""
    ones, zeros = score[y == 1], score[y == 0]
    return float(np.mean(ones[:, None] > zeros) + np.mean(ones[:, None] == zeros) / 2)


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_loss_and_errors_are_means_over_the_examples(run_eagerly: bool) -> None:
    """They have their names in the order of the flag; each evaluation starts anew."""
    train, validation = _examples(), _examples(50, seed=4)
    metrics = "mae,mse,root_mean_squared_error,r2_score"
    evaluator, _ = _evaluator(
        train, validation, model="module", metrics=metrics, run_eagerly=run_eagerly
    )
    for W in ([5.0, -1.0], [1.0, 2.0]):
        evaluator.task.variables.assign({"W": W, "b": 0.5})
        found = evaluator.evaluate()
        for part, examples in zip(found, (train, validation), strict=True):
            error = examples.x.astype(np.float64) @ W + 0.5 - examples.y
            square = np.mean(error**2)
            assert list(part) == ["loss", *metrics.split(",")]
            r2 = 1 - square / examples.y.astype(np.float64).var()
            expected = [square, np.mean(np.abs(error)), square, np.sqrt(square), r2]
            np.testing.assert_allclose(list(part.values()), expected, rtol=1e-5)
        assert found.monitored == found.validation["loss"]
        validation_named = {f"validation_{name}": v for name, v in found.validation.items()}
        assert found.named == {**found.train, **validation_named}


def test_without_validation_examples_the_training_loss_is_monitored() -> None:
    evaluator, _ = _evaluator(_examples(), model="module")
    found = evaluator.evaluate()
    assert (list(found.train), found.validation) == (["loss"], {})
    assert found.monitored == found.train["loss"] == found.named["loss"]


@pytest.mark.parametrize(
    ("train", "validation", "is_finite"),
    [(1.0, 2.0, True), (1.0, None, True), (np.nan, 2.0, False), (1.0, np.inf, False)],
)
def test_an_evaluation_is_finite_where_its_losses_are(
    train: float, validation: float | None, is_finite: bool
) -> None:
    part = {} if validation is None else {"loss": validation, "mae": np.nan}
    assert evaluate.Evaluation({"loss": train}, part).is_finite == is_finite


def test_accuracy_and_auc_of_a_probability() -> None:
    """Probabilities from 0.5 count as 1; AUC has the precision of Keras' 200 thresholds."""
    examples = _examples(classes=2)
    settings = {"model": "logistic", "loss": "binary_crossentropy"}
    evaluator, p = _evaluator(examples, metrics="accuracy,acc,auc,AUC", **settings)
    found, y = evaluator.evaluate().train, examples.y
    assert 0.05 < found["accuracy"] < 0.95
    assert found["accuracy"] == found["acc"] == pytest.approx(np.mean((p > 0.5) == y))
    assert found["auc"] == found["AUC"] == pytest.approx(_auc(y, p), abs=5e-3)
    entropy = -np.mean(np.log(np.where(y == 1, p, 1 - p)))
    assert found["loss"] == pytest.approx(entropy, rel=1e-4)


def test_accuracy_of_several_outputs_is_that_of_the_largest(mine: pathlib.Path) -> None:
    examples = _examples(classes=3)
    evaluator, p = _evaluator(
        examples,
        model=f"{mine}:classes",
        loss="sparse_categorical_crossentropy",
        metrics="accuracy,sparse_categorical_crossentropy",
    )
    found, y = evaluator.evaluate().train, examples.y.astype(int)
    assert found["accuracy"] == pytest.approx(np.mean(p.argmax(axis=1) == y))
    entropy = -np.mean(np.log(p[np.arange(len(y)), y]))
    assert found["loss"] == pytest.approx(entropy, rel=1e-4)
    assert found["sparse_categorical_crossentropy"] == pytest.approx(entropy, rel=1e-4)


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ("nope", "--metrics=nope: tf.keras.metrics.get gives no metric of that name"),
        ("mae,nope", "--metrics=nope: "),
        ("MeanIoU", "--metrics=MeanIoU: "),
    ],
)
def test_a_metric_that_is_not_for_the_model_is_refused(metrics: str, words: str) -> None:
    """One line says that it is unknown, or needs more than its name."""
    with pytest.raises(errors.InputError) as caught:
        _evaluator(_examples(), model="module", metrics=metrics)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_several_pieces_give_what_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last piece is short: 201 = 6 * 33 + 3."""
    settings = {"model": "logistic", "loss": "binary_crossentropy", "metrics": "mae,accuracy,auc"}
    evaluator, _ = _evaluator(_examples(classes=2), **settings)
    whole = evaluator.evaluate()
    monkeypatch.setattr(batch_lib, "_FAST", 100)
    assert evaluator.evaluate().train == pytest.approx(whole.train, rel=1e-6)


def test_many_examples_count_once_each() -> None:
    """They need several calls; the squares are exact in float32, but not their sum."""
    x = np.ones((2**20 + 7, 2), np.float32)
    y = np.arange(2**20 + 7, dtype=np.float32) % 501
    evaluator, _ = _evaluator(Batch(x, y), model="module", metrics="mae")
    evaluator.task.variables.assign({"W": [0, 0], "b": 0.0})
    found = evaluator.evaluate().train
    assert found["loss"] == pytest.approx(np.mean(y.astype(np.float64) ** 2), rel=1e-7)
    assert found["mae"] == pytest.approx(np.mean(y, dtype=np.float64), rel=1e-5)


def test_an_evaluation_leaves_the_model_as_it_is(mine: pathlib.Path) -> None:
    """Batch normalization uses its moving statistics, and dropout is off."""
    examples = _examples()
    config = config_lib.Config(model=f"{mine}:normal")
    datasets = datasets_lib.Datasets(examples, None, ("a", "b"), "y")
    made = make_task.make_task(config, datasets)
    before = made.variables.arrays()
    evaluator = evaluate.Evaluator(made, datasets, config)
    assert evaluator.is_mean_over_examples
    loss = evaluator.evaluate().train["loss"]
    x = examples.x / np.sqrt(1 + 1e-3)  # the initial statistics are 0 and 1
    error = x @ before["kernel"][:, 0] - examples.y
    assert loss == pytest.approx(np.mean(error**2), rel=1e-5)
    after = made.variables.arrays()
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("name", "batch_size", "is_mean"),
    [("of_a_batch", 32, False), ("of_a_batch", 0, False), ("regularized", 32, True)],
)
def test_a_loss_of_a_batch_is_evaluated_in_batches(
    mine: pathlib.Path, name: str, batch_size: int, is_mean: bool
) -> None:
    """The batches are as large as in training, because added losses may depend on their size."""
    examples = _examples()
    evaluator, prediction = _evaluator(examples, model=f"{mine}:{name}", batch_size=batch_size)
    assert evaluator.is_mean_over_examples == is_mean
    expected = np.mean((prediction - examples.y) ** 2)
    if name == "of_a_batch":
        size = batch_size or 201
        parts = [examples.x[k : k + size, 0] for k in range(0, 201, size)]
        expected += sum(len(part) * np.sum(part**2) for part in parts) / 201
    elif name == "regularized":
        expected += 0.01 * np.square(evaluator.task.variables.arrays()["kernel"]).sum()
    assert evaluator.evaluate().train["loss"] == pytest.approx(expected, rel=1e-5)


def _weighted(examples: Batch) -> Batch:
    return examples._replace(weight=np.arange(examples.num_examples, dtype=np.float32) % 3)


def test_a_compiled_model_has_its_own_loss_and_metrics(mine: pathlib.Path) -> None:
    """Each evaluation starts anew; weights apply to the loss and the weighted metrics."""
    train, validation = _weighted(_examples()), _weighted(_examples(20, seed=4))
    evaluator, _ = _evaluator(train, validation, model=f"{mine}:compiled")
    arrays = evaluator.task.variables.arrays()
    for _ in range(2):
        for part, found in zip((train, validation), evaluator.evaluate(), strict=True):
            x = part.x.astype(np.float64)
            error = x @ arrays["kernel"][:, 0] + arrays["bias"][0] - part.y
            loss = np.mean(part.weight * error**2)
            mse = np.average(error**2, weights=part.weight)
            expected = {"loss": loss, "mae": np.abs(error).mean(), "mse": mse}
            assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in Keras
@pytest.mark.parametrize("loop", ["custom", "fit"])
def test_the_metrics_of_a_compiled_model_are_curves(
    mine: pathlib.Path, tmp_path: pathlib.Path, loop: str
) -> None:
    """Each has a description and the name that Keras gives it."""
    flags = {"logdir": str(tmp_path), "run_name": "run", "epochs": 3, "loop": loop}
    config = config_lib.Config(model=f"{mine}:compiled", **flags)
    found = trainer.train(config, datasets_lib.load(config)).evaluation
    for part in ("train", "validation"):
        curves = helpers.scalars(tmp_path / "run" / part)
        numbers = getattr(found, part)
        assert list(numbers) == ["loss", "mae", "mse"]
        for name, last in numbers.items():
            assert [step for step, _ in curves[f"evaluation/{name}"]] == [0, 1, 2, 3]
            assert curves[f"evaluation/{name}"][-1][1] == pytest.approx(last, rel=1e-6)


def test_a_metric_of_a_model_that_fails_is_the_users(mine: pathlib.Path) -> None:
    with pytest.raises(errors.InputError, match=r"the metrics raised .*failing in"):
        _evaluator(_examples(), model=f"{mine}:failing")


def test_metrics_that_a_model_computes_itself_are_its_own(mine: pathlib.Path) -> None:
    evaluator, _ = _evaluator(_examples(), model=f"{mine}:own_metrics")
    found = evaluator.evaluate().train
    assert (list(found), found["own"]) == (["loss", "own"], 7)


@pytest.mark.parametrize("model", ["module", "compiled"])
def test_metrics_are_in_the_units_of_the_data(mine: pathlib.Path, model: str) -> None:
    """The loss is computed on the standardized labels, as in training."""
    examples = _examples()
    units = helpers.units([1, 2, 100], [3, 4, 50])
    datasets = datasets_lib.Datasets(examples, None, ("a", "b"), "y", preprocessing=units)
    metrics = {} if model == "compiled" else {"metrics": "mae", "initial_w": 0.0, "initial_b": 0.0}
    config = config_lib.Config(model=f"{mine}:{model}" if model == "compiled" else model, **metrics)
    made = make_task.make_task(config, datasets)
    found = evaluate.Evaluator(made, datasets, config).evaluate().train
    error = made.predict(tf.constant(examples.x)).numpy().astype(np.float64) - examples.y
    assert found["loss"] == pytest.approx(np.mean(error**2), rel=1e-5)
    assert found["mae"] == pytest.approx(50 * np.abs(error).mean(), rel=1e-5)


class _Nested(tf.Module):
    """Two inputs, one of them an index, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.w = tf.Variable([1.0, 2.0, 3.0])

    def __call__(self, x: Any) -> Any:
        """Predicts two numbers."""
        factor = tf.gather(self.w, x["kind"])
        return {"one": factor * x["number"][:, 0], "two": factor}


def test_examples_of_any_structure_are_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples have arrays of several types, two labels and weights, in several pieces."""
    monkeypatch.setattr(batch_lib, "_FAST", 100)
    generator = np.random.default_rng(0)
    number = generator.normal(size=(201, 4)).astype(np.float32)
    kind = generator.integers(0, 3, 201)
    y = {"one": number[:, 1], "two": number[:, 2]}
    weight = generator.uniform(size=201).astype(np.float32)
    examples = Batch({"number": number, "kind": kind}, y, weight)

    def loss(batch: Batch, outputs: Any) -> tf.Tensor:
        errors_ = [tf.square(outputs[name] - batch.y[name]) for name in ("one", "two")]
        return tf.reduce_mean(batch.weight * tf.add_n(errors_))

    made = task.Task(_Nested(), loss, spec=helpers.spec(examples))
    evaluator = evaluate.Evaluator(
        made, datasets_lib.Datasets(examples, examples.rows(slice(7))), config_lib.Config()
    )
    factor = np.array([1.0, 2.0, 3.0])[kind]
    each = weight * ((factor * number[:, 0] - y["one"]) ** 2 + (factor - y["two"]) ** 2)
    found = evaluator.evaluate()
    assert found.train == {"loss": pytest.approx(each.mean(), rel=1e-5)}
    assert found.validation == {"loss": pytest.approx(each[:7].mean(), rel=1e-5)}


def test_the_numbers_of_workers_are_added_up() -> None:
    """Two workers have the same 10 examples; the metric's sums are added up too."""
    examples = _examples(10)
    config = config_lib.Config(model="module", metrics="mae,root_mean_squared_error")
    datasets = datasets_lib.Datasets(examples, None, ("a", "b"), "y")
    made = make_task.make_task(config, datasets)
    alone = evaluate.Evaluator(made, datasets, config).evaluate()
    sums = []

    def total(own: np.ndarray) -> np.ndarray:
        sums.append(own)
        return 2 * own

    both = evaluate.Evaluator(made, datasets, config, total).evaluate()
    assert both.train == pytest.approx(alone.train, rel=1e-6)
    assert all(own.dtype == np.float64 for own in sums)
    assert sums[0].tolist() == pytest.approx([10 * alone.train["loss"], 10])
