"""Exports the model as a SavedModel, and loads exports for prediction."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline import errors, files
from pipeline.data import datasets as datasets_lib
from pipeline.training import task

_SAMPLE = 100  # examples on which a reloaded model must agree with the live one
_TOLERANCE = 1e-5
Array = npt.NDArray[np.float32]


class Exported:
    """A SavedModel that predicts y from x."""

    def __init__(self, path: pathlib.Path):
        """Loads the SavedModel at `path`; raises errors.InputError if it is none of ours."""
        self.path = path
        try:
            self._loaded = tf.saved_model.load(str(path))
            self._serve = self._loaded.signatures["serving_default"]
            shape = self._serve.structured_input_signature[1]["x"].shape
            if "y" not in self._serve.structured_outputs:
                raise KeyError("y")
        except (OSError, KeyError, ValueError, tf.errors.OpError) as error:
            raise errors.InputError(
                f"{path}: is no SavedModel with a signature serving_default from x to y"
            ) from error
        self.num_features: int | None = shape[1] if shape.rank == 2 else None  # None: x is [N]
        self.features = tuple(self._names("features"))  # or () where the export does not say
        self.label = "".join(self._names("label"))  # the name of y, or ''

    def predict(self, x: Array) -> Array:
        """Predicts y [N] from x [N, D]."""
        given = x[:, 0] if self.num_features is None else x
        return np.asarray(self._serve(x=tf.constant(given, tf.float32))["y"])

    def variables(self) -> Mapping[str, Array]:
        """The variables of the model, such as W and b; raises errors.InputError if not saved."""
        errors.require(
            "parameters" in self._loaded.signatures,
            f"{self.path}: has no signature parameters that gives the variables of the model",
        )
        return {k: v.numpy() for k, v in self._loaded.signatures["parameters"]().items()}

    def _names(self, attribute: str) -> list[str]:
        saved: Any = getattr(self._loaded, attribute, None)
        if getattr(saved, "dtype", None) != tf.string:  # another program's attribute
            return []
        return [name.decode() for name in np.atleast_1d(saved.numpy())]


def load(path: pathlib.Path) -> Exported:
    """Loads a version, or the newest of a directory of versions.

    Raises:
      errors.InputError: there is no SavedModel.
    """
    if (path / "saved_model.pb").is_file():
        return Exported(path)
    newest = newest_version(path)
    errors.require(
        newest,
        f"--export_dir={path} must be a SavedModel or a directory of numbered ones, such as "
        "logs/<run>/export; found neither",
    )
    return Exported(path / str(newest))


def newest_version(directory: pathlib.Path) -> int:
    """The highest number of a SavedModel in a directory of versions, or 0."""
    names = [path.parent.name for path in directory.glob("*/saved_model.pb")]
    return max((int(name) for name in names if re.fullmatch("[1-9][0-9]*", name)), default=0)


def publish(trained: task.Task, datasets: datasets_lib.Datasets, version: pathlib.Path) -> None:
    """Writes the model, with the names in the data, as a new version of an export directory.

    Raises:
      errors.RunError: reloaded, it predicts something else than the live model.
    """
    version.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(version) as unfinished:
        _save(trained, unfinished, features=datasets.features, label=datasets.label)
        _verify(unfinished, trained, datasets.train.x[:_SAMPLE])


def _save(trained: task.Task, path: pathlib.Path, *, features: tuple[str, ...], label: str) -> None:
    """Saves a module with the same two signatures for both kinds of model.

    With one feature x is [None] and W a scalar, as in the guide. keras.export.ExportArchive
    would save the same, but for Keras models only.
    """
    served = tf.Module()
    served.variables_by_name = dict(trained.variables)
    served.features = tf.Variable(features, trainable=False)
    served.label = tf.Variable(label, trainable=False)
    has_one_feature = len(features) == 1
    x = tf.TensorSpec([None] if has_one_feature else [None, len(features)], tf.float32, "x")

    @tf.function(input_signature=[x])  # type: ignore[untyped-decorator]
    def predict(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": trained.predict(x[:, None] if has_one_feature else x)}

    @tf.function(input_signature=[])  # type: ignore[untyped-decorator]
    def parameters() -> dict[str, tf.Tensor]:
        return {
            name: tf.reshape(variable, [] if variable.shape.num_elements() == 1 else variable.shape)
            for name, variable in trained.variables.items()
        }

    signatures = {"serving_default": predict, "parameters": parameters}
    tf.saved_model.save(served, str(path), signatures=signatures)


def _verify(path: pathlib.Path, trained: task.Task, sample: Array) -> None:
    live = trained.predict(tf.constant(sample)).numpy()
    reloaded = Exported(path).predict(sample)
    if not np.allclose(reloaded, live, rtol=_TOLERANCE, atol=_TOLERANCE):
        raise errors.RunError(
            f"{path}: the reloaded SavedModel does not predict what the model predicts "
            f"(largest difference {np.abs(reloaded - live).max()}); it was not exported"
        )
