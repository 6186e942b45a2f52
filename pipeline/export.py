"""SavedModels: written whole or not at all, and loaded again."""

import pathlib
import re
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline import errors
from pipeline import model as model_lib

_TOLERANCE = 1e-5
Array = npt.NDArray[np.float32]


class Exported:
    """A SavedModel that predicts y from x.

    Attributes:
      path: Where it was loaded from.
      num_features: D, or None where x is [N].
      features: Names of the features, or () where the export does not say.
      label: The name of y, or '' where the export does not say.
    """

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
        self.num_features: int | None = shape[1] if shape.rank == 2 else None
        self.features = tuple(self._names("features"))
        self.label = "".join(self._names("label"))

    def predict(self, x: Array) -> Array:
        """Predicts y [N] from x [N] or [N, D]."""
        result: Array = self._serve(x=tf.constant(x, tf.float32))["y"].numpy()
        return result

    def parameters(self) -> tuple[Array, Array]:
        """W, a scalar or [D], and b; raises errors.InputError if it does not say."""
        if "parameters" not in self._loaded.signatures:
            raise errors.InputError(f"{self.path}: has no signature parameters that gives W and b")
        values = self._loaded.signatures["parameters"]()
        return values["W"].numpy(), values["b"].numpy()

    def _names(self, attribute: str) -> list[str]:
        saved: Any = getattr(self._loaded, attribute, None)
        if getattr(saved, "dtype", None) != tf.string:  # another program's attribute
            return []
        return [name.decode() for name in np.atleast_1d(saved.numpy())]


def load(path: pathlib.Path) -> Exported:
    """Loads a version, or the newest of a folder of versions.

    Raises:
      errors.InputError: there is no SavedModel.
    """
    if (path / "saved_model.pb").is_file():
        return Exported(path)
    newest = newest_version(path)
    if not newest:
        raise errors.InputError(
            f"--export_dir={path} must be a SavedModel or a folder of numbered ones, such "
            "as logs/<run>/export; found neither"
        )
    return Exported(path / str(newest))


def newest_version(folder: pathlib.Path) -> int:
    """The highest number of a SavedModel in a folder of versions, or 0."""
    names = [path.parent.name for path in folder.glob("*/saved_model.pb")]
    return max((int(name) for name in names if re.fullmatch("[1-9][0-9]*", name)), default=0)


def publish(
    model: model_lib.Model,
    version: pathlib.Path,
    *,
    features: tuple[str, ...],
    label: str,
    sample: Array,
) -> None:
    """Writes the model as a version of an export folder, after it was tried.

    Args:
      model: The live model.
      version: The path of the version, which must not exist. Its folder is made if
        needed.
      features: Names of the features, saved with the model.
      label: The name of y, saved with the model.
      sample: [N] or [N, D], inputs on which the reloaded model must agree with the
        live one before it gets its version's name.

    Raises:
      errors.RunError: the reloaded model predicts something else.
    """
    unfinished = version.with_name(f".{version.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        _save(model, unfinished, features=features, label=label)
        _check(unfinished, model, sample)
        unfinished.rename(version)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _save(
    model: model_lib.Model, path: pathlib.Path, *, features: tuple[str, ...], label: str
) -> None:
    """Saves a module of two signatures that is the same for both kinds of model.

    keras.export.ExportArchive would save the same, but for Keras models only.
    """
    W, b = (tf.convert_to_tensor(v) for v in (model.W, model.b))
    served = model_lib.LinearModel(num_features=None if W.shape.rank == 0 else len(features))
    served.W.assign(W)
    served.b.assign(b)
    served.features = tf.Variable(features, trainable=False)
    served.label = tf.Variable(label, trainable=False)
    x = tf.TensorSpec([None] if W.shape.rank == 0 else [None, len(features)], tf.float32, "x")
    predict: Callable[..., object] = tf.function(lambda x: {"y": served(x)}, input_signature=[x])
    parameters = tf.function(
        lambda: {"W": served.W.read_value(), "b": served.b.read_value()}, input_signature=[]
    )
    tf.saved_model.save(
        served, str(path), signatures={"serving_default": predict, "parameters": parameters}
    )


def _check(path: pathlib.Path, model: model_lib.Model, sample: Array) -> None:
    live = model(tf.constant(sample)).numpy()
    reloaded = Exported(path).predict(sample)
    if not np.allclose(reloaded, live, rtol=_TOLERANCE, atol=_TOLERANCE):
        raise errors.RunError(
            f"{path}: the reloaded SavedModel does not predict what the model predicts "
            f"(largest difference {np.abs(reloaded - live).max()}); it was not published"
        )
