"""Tests of models that need the features of a table as they are: embeddings, preprocessing."""

import pathlib

import numpy as np
import polars
import pytest
import tensorflow as tf

from pipeline import config as config_lib
from pipeline.data import datasets as datasets_lib
from pipeline.run import checkpoints, trainer
from pipeline.training import make_task
from tests import helpers

pytestmark = pytest.mark.filterwarnings("ignore:__array__")  # of Keras, which saves weights
_N, _USERS, _ITEMS = 400, 7, 9
_random = np.random.default_rng(0)
_X = np.column_stack([_random.integers(0, each, _N) for each in (_USERS, _ITEMS)])
_Y = 100 + _random.normal(size=_USERS)[_X[:, 0]] * _random.normal(size=_ITEMS)[_X[:, 1]]
_CODE = """
import numpy as np
import tensorflow as tf
from tests.test_raw_features import _X

L = tf.keras.layers


class Ratings(tf.keras.Model):
    def __init__(self):
        super().__init__()
        self.parts = [L.Embedding(7, 3), L.Embedding(9, 3)]
        self.out = L.Dense(1)

    def call(self, x):
        users, items = self.parts
        return self.out(users(x[:, 0]) * items(x[:, 1]))


def ratings(n):
    model = Ratings()
    model.compile("adam", "mse", metrics=["mae"], jit_compile=False)
    return model


def nested(layer, width=2):
    inner = tf.keras.Sequential([tf.keras.Input([2]), layer])
    return tf.keras.Sequential([tf.keras.Input([2]), inner, L.Dense(1)])


def normalized(n):
    layer = L.Normalization()
    layer.adapt(_X.astype(np.float32))
    return nested(layer)


def encoded(n):
    return nested(L.CategoryEncoding(9))


class Late(tf.keras.Model):  # whose first call makes the layer
    def build(self, shape):
        self.part = L.Embedding(9, 1)

    def call(self, x):
        return tf.reduce_sum(self.part(x), axis=[1, 2])


def late(n):
    return Late()


def dense(n):
    return nested(L.Dense(4))
"""


def _config(folder: pathlib.Path, model: str, **more: object) -> config_lib.Config:
    (folder / "mine.py").write_text(_CODE)
    table = {"user": _X[:, 0], "item": _X[:, 1], "rating": _Y}
    polars.DataFrame(table).write_csv(folder / "t.csv")
    model = f"{folder}/mine.py:{model}"
    return config_lib.Config(model=model, data=f"{folder}/t.csv", logdir=str(folder), **more)


def test_embeddings_of_a_table_are_trained_as_by_plain_keras(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Features stay integers, and the label is standardized; resume and export do the same."""
    config = _config(tmp_path, "ratings", batch_size=32, epochs=3)
    datasets, task = make_task.fitting(config, datasets_lib.load(config))
    np.testing.assert_array_equal(datasets.train.x, _X)
    np.testing.assert_allclose(datasets.train.y, (_Y - _Y.mean()) / _Y.std(), rtol=1e-4, atol=1e-5)
    task.model.fit(helpers.batches_for_keras(config, datasets), shuffle=False, verbose=0)
    expected = task.variables.arrays()
    for loop, epochs in (("custom", [3]), ("fit", [1, 3])):
        for count in epochs:
            more = {"batch_size": 32, "loop": loop, "epochs": count, "run_name": loop}
            config = _config(tmp_path, "ratings", **more)
            trainer.train(config, datasets_lib.load(config))
            said = capsys.readouterr().out
            assert said.count("Note: the model has an Embedding layer, so the features are") == 1
        found = checkpoints.variables(tmp_path / loop / "checkpoints")
        for name, value in expected.items():
            tolerance = {"rtol": 1e-5, "atol": 1e-6} if loop == "custom" else {"rtol": 0}
            np.testing.assert_allclose(found[name], value, err_msg=name, **tolerance)
    served = tf.saved_model.load(str(tmp_path / "fit" / "export" / "2"))
    predicted = served.signatures["serving_default"](x=tf.constant(_X, tf.float32))["y"]
    plain = task.model.predict(_X.astype(np.float32), verbose=0)[:, 0] * _Y.std() + _Y.mean()
    np.testing.assert_allclose(predicted, plain, rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "standardize", "layer"),
    [
        ("normalized", None, "Normalization"),
        ("encoded", None, "CategoryEncoding"),
        ("late", None, "Embedding"),
        ("ratings", True, ""),
        ("dense", None, ""),
    ],
)
def test_features_are_standardized_unless_a_layer_needs_them_as_they_are(
    tmp_path: pathlib.Path, model: str, standardize: bool | None, layer: str
) -> None:
    """--standardize=true decides; layers may be nested."""
    config = _config(tmp_path, model, standardize=standardize)
    datasets, task = make_task.fitting(config, datasets_lib.load(config))
    assert not layer or make_task.raw_layer(task.model) == layer
    expected = _X if layer else (_X - _X.mean(axis=0)) / _X.std(axis=0)
    np.testing.assert_allclose(datasets.train.x, expected, atol=1e-5)
    assert datasets.units is not None
    assert datasets.units.mean[-1] == pytest.approx(_Y.mean())


_CLASSIFIER = """
import tensorflow as tf


def classifier(n, loss="binary_crossentropy"):
    parts = tf.keras.layers.Dense(4, "tanh"), tf.keras.layers.Dense(1, "sigmoid")
    model = tf.keras.Sequential([tf.keras.Input([n]), *parts])
    model.compile("adam", loss, metrics=["accuracy"])
    return model


def regression(n):
    return classifier(n, "mse")
"""


@pytest.mark.parametrize(("model", "is_kept"), [("classifier", True), ("regression", False)])
def test_the_labels_of_a_compiled_classifier_stay_classes(
    tmp_path: pathlib.Path, model: str, is_kept: bool
) -> None:
    """The features are standardized."""
    (tmp_path / "mine.py").write_text(_CLASSIFIER)
    x = _random.normal(5, 2, _N)
    polars.DataFrame({"x": x, "y": (x > 5).astype(int)}).write_csv(tmp_path / "table.csv")
    config = config_lib.Config(
        data=str(tmp_path / "table.csv"), model=f"{tmp_path}/mine.py:{model}", logdir=str(tmp_path)
    )
    datasets, _ = make_task.fitting(config, datasets_lib.load(config))
    assert (set(datasets.train.y) == {0, 1}) == is_kept
    assert abs(datasets.train.x.mean()) < 1e-5
