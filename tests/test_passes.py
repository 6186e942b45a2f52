"""Tests of pipeline.training.passes: the mean loss and --metrics, over all examples."""

import pathlib
from typing import Any

import numpy as np
import pytest

from pipeline import config as config_lib
from pipeline import errors
from pipeline.data import datasets as datasets_lib
from pipeline.training import make_task, passes

_CLASSES = """
import keras


def classes(num_features):
    output = keras.layers.Dense(3, activation="softmax")
    return keras.Sequential([keras.Input([num_features]), output])
"""


def _examples(count: int = 201, classes: int = 0) -> datasets_lib.Examples:
    """Examples with two features, and labels that are numbers or classes."""
    generator = np.random.default_rng(3)
    x = generator.normal(size=(count, 2)).astype(np.float32)
    y = x @ [1.0, -2.0] + generator.normal(size=count)
    if classes:
        y = np.searchsorted(np.quantile(y, np.arange(1, classes) / classes), y)
    return datasets_lib.Examples(x, y.astype(np.float32))


def _passes(examples: datasets_lib.Examples, **settings: Any) -> tuple[passes.Passes, np.ndarray]:
    """Passes of a model with random numbers, and its predictions of the examples."""
    config = config_lib.Config(**settings)
    datasets = datasets_lib.Datasets(examples, None, ("a", "b"), "y")
    made = make_task.make_task(config, datasets)
    generator = np.random.default_rng(1)
    made.assign({n: generator.normal(size=a.shape) for n, a in made.arrays().items()})
    prediction = made.predict(examples.x).numpy().astype(np.float64)
    return passes.Passes(made, config, num_features=2), prediction


def _auc(y: np.ndarray, score: np.ndarray) -> float:
    """The share of pairs of a 1 and a 0 in which the 1 has the larger score."""
    ones, zeros = score[y == 1], score[y == 0]
    return float(np.mean(ones[:, None] > zeros) + np.mean(ones[:, None] == zeros) / 2)


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_loss_and_errors_are_means_over_the_examples(run_eagerly: bool) -> None:
    """Under their names, in the order of the flag."""
    examples = _examples()
    settings = {"metrics": "mae,mse,root_mean_squared_error", "run_eagerly": run_eagerly}
    made, prediction = _passes(examples, model="module", **settings)
    error = prediction - examples.y
    found = made.evaluate(examples)
    assert list(found) == ["loss", "mae", "mse", "root_mean_squared_error"]
    square = np.mean(error**2)
    expected = [square, np.mean(np.abs(error)), square, np.sqrt(square)]
    np.testing.assert_allclose(list(found.values()), expected, rtol=1e-5)
    assert made.loss(examples, is_compiled=False) == pytest.approx(square, rel=1e-5)


def test_a_second_evaluation_forgets_the_first() -> None:
    """Each is of its examples alone, as many as they are."""
    examples = _examples()
    made, prediction = _passes(examples, model="mlp", metrics="mae")
    whole = made.evaluate(examples)
    part = datasets_lib.Examples(examples.x[:50], examples.y[:50])
    error = np.abs(prediction[:50] - examples.y[:50])
    assert made.evaluate(part)["mae"] == pytest.approx(error.mean(), rel=1e-5)
    assert made.evaluate(examples) == whole


def test_accuracy_and_auc_of_a_probability() -> None:
    """From 0.5 on it is a 1; the area is that of the ranks, to the 200 thresholds of Keras."""
    examples = _examples(classes=2)
    settings = {"model": "logistic", "loss": "binary_crossentropy"}
    made, p = _passes(examples, metrics="accuracy,acc,auc,AUC", **settings)
    found, y = made.evaluate(examples), examples.y
    assert 0.05 < found["accuracy"] < 0.95
    assert found["accuracy"] == found["acc"] == pytest.approx(np.mean((p > 0.5) == y))
    assert found["auc"] == found["AUC"] == pytest.approx(_auc(y, p), abs=5e-3)
    entropy = -np.mean(np.log(np.where(y == 1, p, 1 - p)))
    assert found["loss"] == pytest.approx(entropy, rel=1e-4)


def test_accuracy_of_several_outputs_is_that_of_the_largest(tmp_path: pathlib.Path) -> None:
    (tmp_path / "mine.py").write_text(_CLASSES)
    examples = _examples(classes=3)
    made, p = _passes(
        examples,
        model=f"{tmp_path}/mine.py:classes",
        loss="sparse_categorical_crossentropy",
        metrics="accuracy,sparse_categorical_crossentropy",
    )
    found, y = made.evaluate(examples), examples.y.astype(int)
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
    """In one line: unknown, or one that needs more than its name."""
    with pytest.raises(errors.InputError) as caught:
        _passes(_examples(), model="module", metrics=metrics)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_several_chunks_give_what_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last of them a short one: 201 = 4 * 50 + 1."""
    examples = _examples(classes=2)
    settings = {"model": "logistic", "loss": "binary_crossentropy", "metrics": "mae,accuracy,auc"}
    made, _ = _passes(examples, **settings)
    whole = made.evaluate(examples)
    monkeypatch.setattr(datasets_lib, "_CHUNK", 100)
    assert made.evaluate(examples) == pytest.approx(whole, rel=1e-6)


def test_an_evaluation_leaves_the_model_as_it_is(tmp_path: pathlib.Path) -> None:
    """Batch normalization takes its moving statistics, and no dropout is drawn."""
    text = """
import keras


def make(n):
    layers = keras.layers
    normal = layers.BatchNormalization()
    return keras.Sequential([keras.Input([n]), normal, layers.Dropout(0.5), layers.Dense(1)])
"""
    (tmp_path / "mine.py").write_text(text)
    examples = _examples()
    config = config_lib.Config(model=f"{tmp_path}/mine.py:make")
    datasets = datasets_lib.Datasets(examples, None, ("a", "b"), "y")
    made = make_task.make_task(config, datasets)
    before = made.arrays()
    loss = passes.Passes(made, config, num_features=2).loss(examples)
    x = examples.x / np.sqrt(1 + 1e-3)  # of the statistics at the start: 0 and 1
    error = x @ before["kernel"][:, 0] - examples.y
    assert loss == pytest.approx(np.mean(error**2), rel=1e-5)
    after = made.arrays()
    assert all(np.array_equal(before[name], after[name]) for name in before)
