"""Loads exports: SavedModels that predict y from x, or from named columns."""

import contextlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import optree
import tensorflow as tf

from pipeline import errors, files
from pipeline.data import preprocessing
from pipeline.run import preprocessing_graph, versions

Array = npt.NDArray[np.floating[Any]]
SERVE = "serving_default"
# Signatures that sort after SERVE: the one with x of a model that takes columns, and the one with
# the model's variables.
ENCODED, VARIABLES = "serving_encoded", "variables"
_VARIABLES_BEFORE = "parameters"  # VARIABLES in exports of earlier versions of this package


@contextlib.contextmanager
def loaded(path: pathlib.Path) -> Iterator[Any]:
    """Loads a SavedModel, to look at it; raises errors.InputError if either fails."""
    try:
        with files.without_pattern(path) as readable:
            model = tf.saved_model.load(str(readable))
        yield model
    except Exception as error:  # a damaged byte can raise almost any type
        raise errors.InputError(
            f"{path}: can't be loaded as a SavedModel: {errors.one_line(error)[:200]}"
        ) from error


class Exported:
    """A SavedModel that predicts y from x, or from named columns.

    Attributes:
      path: The SavedModel.
      features, label: The saved names, if any.
      columns: The input columns; the value of a text column is its known texts.
      dtype: The dtype of numeric inputs.
      from_x: The signature that takes x, whose input is named `name_of_x`.
      shape: The shape of an input x: (D,), or () if x is [N].
    """

    def __init__(self, path: pathlib.Path):
        """Loads the SavedModel at `path`.

        Raises:
          errors.InputError: there is no SavedModel whose signature serving_default returns y.
        """
        self.path = path
        with loaded(path) as self._loaded:
            signatures = self._loaded.signatures
            self._serve = signatures.get(SERVE)
            self.name_of_x = ENCODED if ENCODED in signatures else SERVE
            self.from_x = signatures.get(self.name_of_x)
            is_from_x_to_y = self.from_x is not None and _maps_x_to_y(self.from_x)
            state = "".join(self._names("preprocessing", 1))
            learned = preprocessing.Preprocessing.from_state(json.loads(state)) if state else None
        errors.require(
            is_from_x_to_y,
            f"{path}: is no SavedModel whose signature serving_default maps x (floats, [None] or "
            "[None, D]) to y (floats, [None] or [None, C])",
        )
        x = self.from_x.structured_input_signature[1]["x"]
        self.dtype, self.shape = x.dtype.as_numpy_dtype, tuple(x.shape[1:])
        made_up = [f"x{i}" for i in range(*self.shape)] if self.shape else ["x"]
        self.features = self._names("features", len(made_up))
        self.label = "".join(self._names("label", 1))
        unnamed = dict.fromkeys(self.features or made_up)
        self.columns = dict(learned.columns) if learned else unnamed

    def predict(self, x: Array) -> Array:
        """Predicts y [N] or [N, C] from x [N, D]; raises errors.InputError."""
        return self._call(self.from_x, self._x(x))

    def predict_columns(self, columns: Mapping[str, npt.NDArray[Any]]) -> Array:
        """Predicts y [N] or [N, C] from columns [N]; raises errors.InputError."""
        return self._call(self._serve, self.inputs(columns))

    def inputs(self, columns: Mapping[str, npt.NDArray[Any]]) -> dict[str, tf.Tensor]:
        """Converts columns to the inputs of serving_default: the columns themselves, or x."""
        if self._serve is self.from_x:
            return self._x(np.stack([columns[name] for name in self.columns], axis=1))
        names = preprocessing_graph.input_names(self.columns)
        return {
            name: tf.constant(columns[column], tf.string if texts else self.dtype)
            for name, (column, texts) in zip(names, self.columns.items(), strict=True)
        }

    def _x(self, x: Array) -> dict[str, tf.Tensor]:
        return {"x": tf.constant(x.reshape(len(x), *self.shape), self.dtype)}

    def _call(self, signature: Any, inputs: Mapping[str, tf.Tensor]) -> Array:
        count = len(next(iter(inputs.values())))
        try:
            y = np.asarray(signature(**inputs)["y"])
        except tf.errors.OpError as error:
            raise errors.InputError(
                f"{self.path}: can't predict: {errors.one_line(error)[:200]}"
            ) from error
        errors.require(
            y.ndim in (1, 2) and len(y) == count and y.size >= count,
            f"{self.path}: gave y {list(y.shape)} for {count} inputs",
        )
        return y

    def variables(self) -> Mapping[str, Array]:
        """The model's variables, such as W and b; raises errors.InputError if not saved."""
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
        """Reads names that are saved with the model; () if they are missing or malformed."""
        saved: Any = getattr(self._loaded, attribute, None)
        if getattr(saved, "dtype", None) != tf.string or saved.shape.num_elements() != count:
            return ()
        return tuple(name.decode(errors="replace") for name in np.ravel(saved.numpy()))


def _maps_x_to_y(serve: Any) -> bool:
    """Whether a signature maps x ([None] or [None, D]) to y ([None] or [None, C]) of one dtype.

    The dtype is float32, or float64 if float32 lacks the precision for the examples.
    """
    inputs, outputs = serve.structured_input_signature[1], serve.structured_outputs
    if list(inputs) != ["x"] or "y" not in outputs:
        return False
    x, y = inputs["x"], outputs["y"]
    is_y = any(y.shape.is_compatible_with(shape) for shape in ([None], [None, None]))
    if x.dtype != y.dtype or x.dtype not in (tf.float32, tf.float64) or not is_y:
        return False
    return bool(x.shape.rank in (1, 2) and x.shape[0] is None and x.shape[1:].num_elements())


def named(nest: Any, default: str) -> dict[str, Any]:
    """Returns the leaves of a nest by name: a single array is named as by default."""
    leaves = optree.tree_leaves(nest)
    if len(leaves) == 1 and not isinstance(nest, dict):
        return {default: leaves[0]}
    paths = ["_".join(map(str, path)) for path in optree.tree_paths(nest)]
    names = [path if path[:1].isalpha() else f"{default}_{path}" for path in paths]
    return dict(zip(names, leaves, strict=True))


def load(path: pathlib.Path) -> Exported:
    """Loads a version, or the newest version in a directory.

    Raises:
      errors.InputError: there is no SavedModel.
    """
    version = versions.find(path)
    if version:
        return Exported(version)
    raise errors.InputError(
        f"--export_dir={path} must be a SavedModel or a directory of numbered ones, such as "
        "logs/<run>/export; found neither"
    )
