"""Exports the model as a SavedModel, and loads exports for prediction."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline import errors, files
from pipeline.data import datasets as datasets_lib
from pipeline.data import scale as scale_lib
from pipeline.training import task

_SAMPLE = 100  # examples on which a reloaded model must agree with the live one
_TOLERANCE = 1e-5
Array = npt.NDArray[np.floating[Any]]


class Exported:
    """A SavedModel that predicts y from x."""

    def __init__(self, path: pathlib.Path):
        """Loads the SavedModel at `path`; raises errors.InputError if it is none of ours."""
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
            f"{path}: is no SavedModel whose signature serving_default maps x (float32, [None] or "
            "[None, D]) to y (float32, [None] or [None, C])",
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
        try:
            tensors = self._loaded.signatures["parameters"]()
        except (KeyError, TypeError, tf.errors.OpError) as error:
            raise errors.InputError(
                f"{self.path}: has no signature parameters that gives the variables of the model"
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
    names = [path.parent.name for path in directory.glob("*/saved_model.pb") if path.is_file()]
    return max((int(name) for name in names if re.fullmatch("[1-9][0-9]*", name)), default=0)


def next_version(directory: pathlib.Path) -> pathlib.Path:
    """The path of the version that comes after all that is in a directory."""
    names = [path.name for path in directory.glob("*") if path.name.isdecimal()]
    return directory / str(1 + max(map(int, names), default=0))


class Steps(NamedTuple):
    """What an export says of its run."""

    model: int  # the step of the exported model
    last: int  # the step at which the run had come to its end


def newest_steps(directory: pathlib.Path) -> Steps | None:
    """The steps in the newest version of a directory, None if there is none."""
    version = directory / str(newest_version(directory))
    try:
        with files.without_pattern(version) as path:
            reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
            return Steps(*map(int, reader.get_tensor("steps/.ATTRIBUTES/VARIABLE_VALUE")))
    except Exception:  # depending on the byte, damage shows as almost any type
        return None


def publish(
    trained: task.Task,
    datasets: datasets_lib.Datasets,
    version: pathlib.Path,
    steps: Steps,
    units: scale_lib.Scale | None = None,
) -> None:
    """Writes the model, with the names in the data, as a version of an export directory.

    Given `units`, the signature `parameters` gives W and b in the units of that scale.

    Raises:
      errors.RunError: reloaded, it predicts something else than the live model.
    """
    version.parent.mkdir(parents=True, exist_ok=True)
    with files.making(version) as unfinished:
        _save(trained, unfinished, datasets, steps, units)
        _verify(unfinished, trained, datasets)


def _save(
    trained: task.Task,
    path: pathlib.Path,
    datasets: datasets_lib.Datasets,
    steps: Steps,
    units: scale_lib.Scale | None,
) -> None:
    """Saves a module with the same two signatures for both kinds of model.

    With one feature x is [None] and W a scalar, as in the guide. keras.export.ExportArchive
    would save the same, but for Keras models only.
    """
    served, scale = tf.Module(), _InGraph(datasets.scale)
    served.variables_by_name = dict(trained.variables)
    served.steps = tf.Variable(steps, dtype=tf.int64, trainable=False)
    served.features = tf.Variable(datasets.features, trainable=False)
    served.label = tf.Variable(datasets.label, trainable=False)
    served.scale = scale
    count = len(datasets.features)
    has_one_feature = count == 1
    x = tf.TensorSpec([None] if has_one_feature else [None, count], scale.dtype, "x")

    @tf.function(input_signature=[x])  # type: ignore[untyped-decorator]
    def predict(x: tf.Tensor) -> dict[str, tf.Tensor]:
        standardized = scale.standardized(x[:, None] if has_one_feature else x)
        return {"y": scale.labels(trained.predict(standardized))}

    served.shown = dict(trained.variables)
    if units:
        (numbers,) = units.to_units(trained.numbers().numpy()[None])
        served.shown = {n: tf.Variable(v) for n, v in trained.by_variable(numbers).items()}
    signatures = {"serving_default": predict, "parameters": _giving(served.shown)}
    tf.saved_model.save(served, str(path), signatures=signatures)


def _giving(variables: Mapping[str, tf.Variable]) -> Any:
    """The function that returns variables; one of a single number as a scalar."""

    @tf.function(input_signature=[])  # type: ignore[untyped-decorator]
    def parameters() -> dict[str, tf.Tensor]:
        return {
            name: tf.reshape(variable, [] if variable.shape.num_elements() == 1 else variable.shape)
            for name, variable in variables.items()
        }

    return parameters


class _InGraph(tf.Module):  # type: ignore[misc]
    """A scale as part of a served model; without one, it changes nothing.

    Of each mean the part that float32 rounds off is subtracted by itself, so that the differences
    are exact to float32. Where the numbers themselves are not, it is all in float64.
    """

    def __init__(self, scale: scale_lib.Scale | None):
        super().__init__()
        self.dtype = tf.float64 if scale and scale.needs_float64 else tf.float32
        self._is_used = scale is not None
        if scale:
            near = scale.mean.astype(self.dtype.as_numpy_dtype)
            parts = near, scale.mean - near, scale.stddev
            self._near, self._rest, self._stddev = (tf.Variable(p, dtype=self.dtype) for p in parts)

    def standardized(self, x: tf.Tensor) -> tf.Tensor:
        """Inputs [N, D] as the model takes them."""
        if not self._is_used:
            return x
        moved = (x - self._near[:-1]) - self._rest[:-1]
        return tf.cast(moved / self._stddev[:-1], tf.float32)

    def labels(self, y: tf.Tensor) -> tf.Tensor:
        """The model's predictions, of any shape, in the units of the data."""
        if not self._is_used:
            return y
        return (tf.cast(y, self.dtype) * self._stddev[-1] + self._rest[-1]) + self._near[-1]


def _verify(path: pathlib.Path, trained: task.Task, datasets: datasets_lib.Datasets) -> None:
    exported, scale = Exported(path), datasets.scale
    sample = inputs = datasets.train.x[:_SAMPLE]
    if scale:  # to the digits that the export gets
        inputs = scale.inputs(sample).astype(exported.dtype)
        sample = scale.standardized(inputs).astype(np.float32)
    # As a graph, too: the rounding of 16-bit layers depends on that.
    x = tf.TensorSpec([None, sample.shape[1]], tf.float32)
    live = tf.function(trained.predict, [x], autograph=False)(sample).numpy()
    reloaded, size = exported.predict(inputs), _TOLERANCE
    if scale:
        live, size = scale.labels(live), _TOLERANCE * float(scale.stddev[-1])
    if not np.allclose(reloaded, live, rtol=_TOLERANCE, atol=size):
        raise errors.RunError(
            f"{path}: the reloaded SavedModel does not predict what the model predicts "
            f"(largest difference {np.abs(reloaded - live).max()}); it was not exported"
        )
