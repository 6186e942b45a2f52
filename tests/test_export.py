"""Tests of pipeline.export."""

import pathlib
import shutil
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline import errors, export
from pipeline import model as model_lib

_KINDS = ["module", "keras"]
_NAMES = {None: ("x",), 1: ("only",), 3: ("größe", "b c", "d")}
_NUM_FEATURES = list(_NAMES)


def _model(kind: str = "module", num_features: int | None = None) -> model_lib.Model:
    model = model_lib.create(kind, initial_w=2.0, initial_b=0.25, num_features=num_features)
    if num_features is not None:
        model.W.assign(np.arange(num_features) - 0.5)
    return model


def _sample(num_features: int | None = None, count: int = 7) -> np.ndarray:
    shape = (count,) if num_features is None else (count, num_features)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def _publish(
    version: pathlib.Path, model: model_lib.Model, num_features: int | None = None
) -> pathlib.Path:
    features = _NAMES[num_features]
    export.publish(model, version, features=features, label="price", sample=_sample(num_features))
    return version


def _expected(x: np.ndarray, model: model_lib.Model) -> np.ndarray:
    W = model.W.numpy()
    return (x * W if x.ndim == 1 else x @ W) + 0.25


def test_publish_makes_the_version_and_its_folder_and_leaves_nothing_else(
    tmp_path: pathlib.Path,
) -> None:
    folder = tmp_path / "runs" / "export"
    assert export.newest_version(folder) == 0
    for number, kind in enumerate(("module", "keras", "module"), start=1):
        _publish(folder / str(number), _model(kind))
        assert export.newest_version(folder) == number
    assert sorted(folder.iterdir()) == [folder / "1", folder / "2", folder / "3"]


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("num_features", _NUM_FEATURES)
def test_anybody_can_load_the_signatures_and_predict(
    tmp_path: pathlib.Path, kind: str, num_features: int | None
) -> None:
    model = _model(kind, num_features)
    loaded = tf.saved_model.load(str(_publish(tmp_path / "1", model, num_features)))
    assert sorted(loaded.signatures) == ["parameters", "serving_default"]

    serve = loaded.signatures["serving_default"]
    ((), inputs) = serve.structured_input_signature
    shape = [None] if num_features is None else [None, num_features]
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
        result = serve(x=tf.constant(x))["y"].numpy()
        np.testing.assert_allclose(result, _expected(x, model), rtol=1e-5, atol=1e-6)

    parameters = loaded.signatures["parameters"]()
    np.testing.assert_array_equal(parameters["W"], model.W.numpy())
    assert float(parameters["b"]) == 0.25


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("num_features", _NUM_FEATURES)
def test_load_gives_back_the_model_and_its_feature_names(
    tmp_path: pathlib.Path, kind: str, num_features: int | None
) -> None:
    model = _model(kind, num_features)
    version = _publish(tmp_path / "1", model, num_features)
    x = _sample(num_features, 50)
    for path in (version, tmp_path):
        exported = export.load(path)
        assert exported.path == version
        assert exported.num_features == num_features
        assert exported.features == _NAMES[num_features]
        assert exported.label == "price"
        np.testing.assert_allclose(exported.predict(x), model(x), rtol=1e-6, atol=1e-6)
        W, b = exported.parameters()
        np.testing.assert_array_equal(W, model.W.numpy())
        assert b == 0.25


def test_newest_version_is_the_largest_number(tmp_path: pathlib.Path) -> None:
    """And not the last name: '9' sorts after '10'."""
    _publish(tmp_path / "9", _model())
    changed = _model()
    changed.W.assign(-7.0)
    _publish(tmp_path / "10", changed)
    (tmp_path / "11").mkdir()  # holds no SavedModel
    shutil.copytree(tmp_path / "9", tmp_path / "012")  # is not how a version is written
    (tmp_path / "notes.txt").touch()
    exported = export.load(tmp_path)
    assert exported.path == tmp_path / "10"
    assert exported.parameters()[0] == -7


class _Unfaithful(model_lib.LinearModel):
    """Predicts something else than its W and b say, as a wrong export would."""

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return super().__call__(x) + 0.01


def test_model_that_predicts_something_else_is_not_published(tmp_path: pathlib.Path) -> None:
    _publish(tmp_path / "1", _model())
    with pytest.raises(errors.RunError, match=r"largest difference 0\.01.*not published"):
        _publish(tmp_path / "2", _Unfaithful())
    assert list(tmp_path.iterdir()) == [tmp_path / "1"]


def test_remains_of_a_killed_export_are_no_version_and_no_hindrance(tmp_path: pathlib.Path) -> None:
    shutil.copytree(_publish(tmp_path / "1", _model()), tmp_path / ".2.unfinished")
    (tmp_path / ".2.unfinished" / "left").touch()
    assert export.load(tmp_path).path == tmp_path / "1"
    _publish(tmp_path / "2", _model())
    assert not (tmp_path / "2" / "left").exists()
    assert sorted(tmp_path.iterdir()) == [tmp_path / "1", tmp_path / "2"]


def _empty(path: pathlib.Path) -> None:
    path.mkdir()


def _without_signature(path: pathlib.Path) -> None:
    tf.saved_model.save(tf.Module(), str(path))


def _other_signature(path: pathlib.Path) -> None:
    module = tf.Module()
    double: Any = tf.function(lambda z: 2 * z, input_signature=[tf.TensorSpec([None], name="z")])
    tf.saved_model.save(module, str(path), signatures=double)


def _damaged(path: pathlib.Path) -> None:
    path.mkdir()
    (path / "saved_model.pb").write_bytes(b"\xff no protobuf")


def _incomplete(path: pathlib.Path) -> None:
    _publish(path, _model())
    shutil.rmtree(path / "variables")


@pytest.mark.parametrize(
    "make",
    [_empty, _without_signature, _other_signature, _damaged, _incomplete, pathlib.Path.touch],
)
def test_load_of_anything_else_is_refused_in_one_line(tmp_path: pathlib.Path, make: Any) -> None:
    path = tmp_path / "export"
    make(path)
    with pytest.raises(errors.InputError, match="SavedModel") as caught:
        export.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
