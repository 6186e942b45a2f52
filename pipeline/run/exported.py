"""Loads exports: SavedModels that predict y from x."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline import errors, files
from pipeline.run import versions

Array = npt.NDArray[np.floating[Any]]
VARIABLES = "variables"  # the signature that gives them, behind serving_default in every order
_VARIABLES_BEFORE = "parameters"  # its name in exports of earlier versions of this package


class Exported:
    """A SavedModel that predicts y from x."""

    def __init__(self, path: pathlib.Path):
        """Loads the SavedModel at `path`.

        Raises:
          errors.InputError: there is none whose signature serving_default maps x to y.
        """
        self.path = path
        try:
            with files.without_pattern(path) as readable:
                self._loaded = tf.saved_model.load(str(readable))
            self._serve = self._loaded.signatures.get("serving_default")
            is_from_x_to_y = self._serve is not None and _maps_x_to_y(self._serve)
        except Exception as error:  # depending on the byte, damage shows as almost any type
            raise errors.InputError(
                f"{path}: can't be loaded as a SavedModel: {errors.one_line(error)[:200]}"
            ) from error
        errors.require(
            is_from_x_to_y,
            f"{path}: is no SavedModel whose signature serving_default maps x (floats, [None] or "
            "[None, D]) to y (floats, [None] or [None, C])",
        )
        inputs = self._serve.structured_input_signature[1]["x"]
        self.dtype, shape = inputs.dtype.as_numpy_dtype, inputs.shape
        self.num_features: int | None = shape[1] if shape.rank == 2 else None  # None: x is [N]
        self.features = self._names("features", self.num_features or 1)
        self.label = "".join(self._names("label", 1))

    def predict(self, x: Array) -> Array:
        """Predicts y [N] or [N, C] from x [N, D]; raises errors.InputError where it can't."""
        given = x[:, 0] if self.num_features is None else x
        try:
            y = np.asarray(self._serve(x=tf.constant(given, self.dtype))["y"])
        except tf.errors.OpError as error:
            raise errors.InputError(
                f"{self.path}: can't predict: {errors.one_line(error)[:200]}"
            ) from error
        errors.require(
            y.ndim in (1, 2) and len(y) == len(x) and y.size >= len(x),
            f"{self.path}: gave y {list(y.shape)} for {len(x)} inputs",
        )
        return y

    def variables(self) -> Mapping[str, Array]:
        """The variables of the model, such as W and b; raises errors.InputError if not saved."""
        signatures = self._loaded.signatures
        name = VARIABLES if VARIABLES in signatures else _VARIABLES_BEFORE
        try:
            tensors = signatures[name]()
        except (KeyError, TypeError, tf.errors.OpError) as error:
            raise errors.InputError(
                f"{self.path}: has no signature {VARIABLES} that gives the variables of the model"
            ) from error
        return {name: tensor.numpy() for name, tensor in tensors.items()}

    def _names(self, attribute: str, count: int) -> tuple[str, ...]:
        """The names that are saved with the model, or () if it has none, or something else."""
        saved: Any = getattr(self._loaded, attribute, None)
        if getattr(saved, "dtype", None) != tf.string or saved.shape.num_elements() != count:
            return ()
        return tuple(name.decode(errors="replace") for name in np.ravel(saved.numpy()))


def _maps_x_to_y(serve: Any) -> bool:
    """Whether a signature has x ([None] or [None, D]) and y ([None] or [None, C]) of one type.

    That is float32, or float64 where float32 can't tell the examples apart.
    """
    inputs, outputs = serve.structured_input_signature[1], serve.structured_outputs
    if list(inputs) != ["x"] or "y" not in outputs:
        return False
    x, y = inputs["x"], outputs["y"]
    is_y = any(y.shape.is_compatible_with(shape) for shape in ([None], [None, None]))
    if x.dtype != y.dtype or x.dtype not in (tf.float32, tf.float64) or not is_y:
        return False
    return bool(x.shape.rank in (1, 2) and x.shape[0] is None and x.shape[1:].num_elements())


def load(path: pathlib.Path) -> Exported:
    """Loads a version, or the newest of a directory of versions.

    Raises:
      errors.InputError: there is no SavedModel.
    """
    version = versions.find(path)
    if version is None:
        raise errors.InputError(
            f"--export_dir={path} must be a SavedModel or a directory of numbered ones, such as "
            "logs/<run>/export; found neither"
        )
    return Exported(version)
