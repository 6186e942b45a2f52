"""An export predicts the same as the model, for every program that loads it."""

import dataclasses
import pathlib
import shutil
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from pipeline import config as config_lib
from pipeline import errors
from pipeline.data import batch
from pipeline.data import datasets as datasets_lib
from pipeline.run import export, exported, trainer, versions
from pipeline.training import models, task
from tests import helpers

_NAMES = {1: ("only",), 3: ("größe", "b c", "d")}
_kinds = pytest.mark.parametrize("kind", ["module", "keras"])
_num_features = pytest.mark.parametrize("num_features", list(_NAMES))
Array = npt.NDArray[np.float32]


def _task(model: Any, num_features: int = 1) -> task.Task:
    return helpers.task(model, _NAMES[num_features])


def _trained(kind: str = "module", num_features: int = 1) -> task.Task:
    """The task of a model with b = 0.25 and W = 2, or W = -0.5, 0.5, 1.5."""
    model = getattr(models, kind)(num_features)
    model.W.assign([2.0] * num_features)
    model.b.assign(0.25)
    if num_features > 1:
        model.W.assign(np.arange(num_features) - 0.5)
    return _task(model, num_features)


def _sample(num_features: int = 1, count: int = 7) -> Array:
    shape = count, num_features
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def _publish(
    version: pathlib.Path, trained: task.Task, num_features: int = 1, *, step: int = 10
) -> pathlib.Path:
    x = _sample(num_features)
    examples = batch.Batch(x, x[:, 0])
    datasets = datasets_lib.Datasets(examples, None, _NAMES[num_features], "price")
    export.publish(trained, datasets, version, {"step": step, "last_step": step + 2})
    return version


def _expected(x: Array) -> Array:
    """The predictions of the models above."""
    W = np.float32([2.0]) if x.shape[1] == 1 else np.arange(x.shape[1], dtype=np.float32) - 0.5
    return x @ W + np.float32(0.25)


def test_publish_makes_the_version_and_its_directory(tmp_path: pathlib.Path) -> None:
    """No other files are left."""
    directory = tmp_path / "export"
    assert (versions.find(directory), versions.newest_steps(directory)) == (None, None)
    for number, kind in enumerate(("module", "keras", "module"), start=1):
        assert versions.following(directory) == directory / str(number)
        _publish(directory / str(number), _trained(kind), step=7 * number)
        assert versions.find(directory) == directory / str(number)
        assert versions.newest_steps(directory) == (7 * number, 7 * number + 2)
    assert sorted(directory.iterdir()) == [directory / "1", directory / "2", directory / "3"]


@_kinds
@_num_features
def test_anybody_can_load_the_signatures_and_predict(
    tmp_path: pathlib.Path, kind: str, num_features: int
) -> None:
    """With one feature, x is [None] and W is a scalar, as in the guide."""
    version = _publish(tmp_path / "1", _trained(kind, num_features), num_features)
    loaded = tf.saved_model.load(str(version))
    assert sorted(loaded.signatures) == ["serving_default", "variables"]

    serve = loaded.signatures["serving_default"]
    ((), inputs) = serve.structured_input_signature
    shape = [None] if num_features == 1 else [None, num_features]
    assert {name: (spec.shape.as_list(), spec.dtype) for name, spec in inputs.items()} == {
        "x": (shape, tf.float32)
    }
    (y,) = serve.structured_outputs.values()
    assert (list(serve.structured_outputs), y.shape.as_list(), y.dtype) == (
        ["y"],
        [None],
        tf.float32,
    )
    for count in (1, 50):
        x = _sample(num_features, count)
        result = serve(x=tf.constant(x[:, 0] if num_features == 1 else x))["y"].numpy()
        np.testing.assert_allclose(result, _expected(x), rtol=1e-5, atol=1e-6)

    parameters = loaded.signatures["variables"]()
    assert sorted(parameters) == ["W", "b"]
    assert parameters["W"].numpy().tolist() == (2 if num_features == 1 else [-0.5, 0.5, 1.5])
    assert parameters["b"].numpy().tolist() == 0.25


@_kinds
@_num_features
def test_load_gives_the_model_and_its_names(
    tmp_path: pathlib.Path, kind: str, num_features: int
) -> None:
    trained = _trained(kind, num_features)
    version = _publish(tmp_path / "1", trained, num_features)
    x = _sample(num_features, 50)
    for path in (version, tmp_path):
        loaded = exported.load(path)
        assert loaded.path == version
        assert loaded.shape == (() if num_features == 1 else (num_features,))
        assert loaded.features == _NAMES[num_features]
        assert loaded.label == "price"
        live = trained.predict(tf.constant(x)).numpy()
        np.testing.assert_allclose(loaded.predict(x), live, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(live, _expected(x), rtol=1e-5, atol=1e-6)
        variables = loaded.variables()
        assert sorted(variables) == ["W", "b"]
        np.testing.assert_array_equal(np.reshape(variables["W"], [-1]), trained.model.W.numpy())
        assert variables["b"] == 0.25


@_num_features
def test_another_programs_export_predicts(tmp_path: pathlib.Path, num_features: int) -> None:
    """It takes x [N, D], also for D = 1, and may have other attributes of the same names."""
    module = tf.Module()
    module.features, module.label = tf.Variable(7.0), tf.Variable([1, 2])
    spec = tf.TensorSpec([None, num_features], tf.float32, "x")
    total: Any = tf.function(lambda x: {"y": tf.reduce_sum(x, 1)}, input_signature=[spec])
    tf.saved_model.save(module, str(tmp_path / "1"), signatures=total)
    loaded = exported.load(tmp_path)
    assert (loaded.shape, loaded.features, loaded.label) == ((num_features,), (), "")
    x = _sample(num_features)
    np.testing.assert_allclose(loaded.predict(x), x.sum(axis=1), rtol=1e-5, atol=1e-6)
    with pytest.raises(errors.InputError, match="has no signature variables"):
        loaded.variables()


def test_newest_version_is_the_largest_number(tmp_path: pathlib.Path) -> None:
    """It is not the last name: '9' sorts after '10'."""
    _publish(tmp_path / "9", _trained())
    changed = _trained()
    changed.model.W.assign([-7.0])
    _publish(tmp_path / "10", changed)
    (tmp_path / "11").mkdir()  # holds no SavedModel
    shutil.copytree(tmp_path / "9", tmp_path / "012")  # is not how a version is written
    (tmp_path / "notes.txt").touch()
    loaded = exported.load(tmp_path)
    assert loaded.path == tmp_path / "10"
    assert loaded.variables()["W"] == -7


class _Unfaithful(models.LinearModel):
    """Predicts something else in each traced graph, so also in an export's graph."""

    calls = 0

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        self.calls += 1
        return super().__call__(x) + 0.125 * self.calls


def _several_outputs(num_features: int) -> task.Task:
    """A Keras model of x, of 2 x and of 3 x, each summed over the features."""
    layer = tf.keras.layers.Dense(3, use_bias=False)
    model = tf.keras.Sequential([tf.keras.Input((num_features,)), layer])
    layer.set_weights([np.tile(np.float32([1, 2, 3]), (num_features, 1))])
    return _task(model, num_features)


@_num_features
def test_several_outputs_are_exported_as_columns(tmp_path: pathlib.Path, num_features: int) -> None:
    _publish(tmp_path / "1", _several_outputs(num_features), num_features)
    x = _sample(num_features, 50)
    loaded = exported.load(tmp_path)
    assert (loaded.features, loaded.label) == (_NAMES[num_features], "price")
    expected = x.sum(axis=1)[:, None] * [1, 2, 3]
    np.testing.assert_allclose(loaded.predict(x), expected, rtol=1e-5, atol=1e-6)
    (name, kernel), *others = loaded.variables().items()
    assert (name, others) == ("kernel", [])
    np.testing.assert_array_equal(kernel, np.tile([1, 2, 3], (num_features, 1)))


def test_the_export_predicts_as_after_training(tmp_path: pathlib.Path) -> None:
    """Dropout is off; the parameters include non-trainable variables."""
    layers = [tf.keras.layers.Dropout(0.9), tf.keras.layers.BatchNormalization(epsilon=0.0)]
    model = tf.keras.Sequential([tf.keras.Input((3,)), *layers])
    trained = _task(model, 3)
    trained.variables.assign({"moving_mean": [1, 2, 3], "moving_variance": [4, 4, 4]})
    loaded = exported.load(_publish(tmp_path / "1", trained, 3))
    x = _sample(3, 50)
    np.testing.assert_allclose(loaded.predict(x), (x - [1, 2, 3]) / 2, rtol=1e-5, atol=1e-6)
    assert trained.variables.by_name.keys() >= {"moving_mean", "moving_variance", "gamma", "beta"}
    assert loaded.variables().keys() == trained.variables.by_name.keys()
    assert loaded.variables()["moving_mean"].tolist() == [1, 2, 3]


def test_export_that_predicts_something_else_is_withheld(tmp_path: pathlib.Path) -> None:
    _publish(tmp_path / "1", _trained())
    with pytest.raises(errors.RunError, match=r"largest difference 0\.125\).*not exported"):
        _publish(tmp_path / "2", _task(_Unfaithful(1)))
    assert list(tmp_path.iterdir()) == [tmp_path / "1"]


def test_next_version_comes_after_all_that_is_there(tmp_path: pathlib.Path) -> None:
    """A server that knows a number never sees it change; a foreign directory is left alone."""
    (tmp_path / "7").mkdir()
    (tmp_path / ".unfinished-2").mkdir()
    (tmp_path / "notes").touch()
    assert versions.following(tmp_path) == tmp_path / "8"
    assert versions.following(tmp_path / "none", tmp_path) == tmp_path / "none" / "8"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__")  # of Keras, which saves weights
def test_versions_count_on_and_the_oldest_go(tmp_path: pathlib.Path) -> None:
    """This also holds after --overwrite; only versions with our description are removed."""
    config = config_lib.Config(logdir=str(tmp_path), run_name="run", model="keras", epochs=3)
    directory = tmp_path / "run" / "export"
    datasets = datasets_lib.load(config)
    trainer.train(config, datasets)
    assert [path.name for path in directory.iterdir()] == ["1"]
    trainer.train(dataclasses.replace(config, overwrite=True, loop="fit"), datasets)
    assert [path.name for path in directory.iterdir()] == ["2"]
    (directory / "1").mkdir()
    (directory / "notes").touch()
    changes = {"epochs": 4, "loop": "fit", "export_versions_to_keep": 1}
    result = trainer.train(dataclasses.replace(config, **changes), datasets)
    assert sorted(path.name for path in directory.iterdir()) == ["1", "3", "notes"]
    described = versions.description(directory)
    assert described
    assert (described["run"], described["step"], described["last_step"]) == ("run", 4, 4)
    assert described["losses"] == result.evaluation.named
    assert described["examples"] == {"training": 201, "validation": 201}
    assert described["settings"]["loop"] == "fit"
    assert described["versions"]["tensorflow"] == tf.__version__
