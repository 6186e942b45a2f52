"""Exports the model as a SavedModel, and in other formats beside it."""

import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline import errors, files
from pipeline.data import datasets as datasets_lib
from pipeline.data import scale as scale_lib
from pipeline.evaluation import linear
from pipeline.reporting import results
from pipeline.run import export_formats, exported, nest_export, serving, versions
from pipeline.training import task as task_lib

_SAMPLE = 100  # examples on which a reloaded model must agree with the live one
_MANY, _LARGE = 1000, 1e4
_TOLERANCE = 1e-5
Array = npt.NDArray[np.floating[Any]]


def publish(
    task: task_lib.Task,
    datasets: datasets_lib.Datasets,
    version: pathlib.Path,
    description: Mapping[str, Any],
    *,
    line: linear.Linear | None = None,
    formats: Sequence[str] = (),
) -> None:
    """Writes the model, with the names in the data, as a version of an export directory.

    Args:
      task: Its model is exported.
      datasets: Their names and their scale become a part of the export; some examples are tried.
      version: The directory to make.
      description: What versions.description gives.
      line: What is known of a linear model, whose W and b are in the units of the data.
      formats: Names in export_formats.FORMATS, which are written beside the SavedModel.

    Raises:
      errors.InputError: the model can't be written in one of the formats.
      errors.RunError: reloaded, it predicts something else than the live model.
      OSError: it can't be written at all.
    """
    errors.require(
        not formats or datasets.features,
        f"--export_formats={','.join(formats)}: only models of tables are written in them",
    )
    errors.require(
        "litert" not in formats or not datasets.scale or not datasets.scale.needs_float64,
        "--export_formats=litert: LiteRT has no float64, which this table needs; use onnx",
    )
    version.parent.mkdir(parents=True, exist_ok=True)
    with files.making(version) as unfinished:
        if not datasets.features:
            _save_nest(task, unfinished)
            _describe(unfinished, description)
            nest_export.check(unfinished, task, datasets.train.rows(slice(_SAMPLE)))
            return
        request = _save(task, unfinished, datasets, line)
        _describe(unfinished, description)
        serving.write_warm_up(unfinished, request)
        saved, x = exported.Exported(unfinished), datasets.train.x[:_SAMPLE]
        given = (datasets.scale.x_in_units(x) if datasets.scale else x).astype(saved.dtype)
        _compare("the SavedModel", saved.predict, _live(task, datasets), [given])
        for name in formats:
            predict = export_formats.write(name, saved)
            _compare(f"--export_formats={name}", predict, saved.predict, _unusual(given))


def try_formats(
    task: task_lib.Task, datasets: datasets_lib.Datasets, formats: Sequence[str]
) -> None:
    """Raises what `publish` would, before there is anything to lose; leaves nothing."""
    with tempfile.TemporaryDirectory() as folder:
        publish(task, datasets, pathlib.Path(folder, "1"), {}, formats=formats)


def _save_nest(task: task_lib.Task, path: pathlib.Path) -> None:
    """Saves a model of arrays or nests of arrays."""
    served = tf.Module()
    served.variables_by_name = dict(task.variables.by_name)
    served.serve = nest_export.signature(task)
    layers = task.model._flatten_layers() if isinstance(task.model, tf.keras.Model) else ()
    served.tables = [each.lookup_table for each in layers if hasattr(each, "lookup_table")]
    variables = _giving(served.variables_by_name)
    signatures = {"serving_default": served.serve, exported.VARIABLES: variables}
    tf.saved_model.save(served, str(path), signatures=signatures)


def _describe(version: pathlib.Path, description: Mapping[str, Any]) -> None:
    (version / versions.DESCRIPTION.parent).mkdir()
    results.write_json(version / versions.DESCRIPTION, description)


def _save(
    task: task_lib.Task,
    path: pathlib.Path,
    datasets: datasets_lib.Datasets,
    line: linear.Linear | None,
) -> tf.TensorSpec:
    """Saves a module with the same signatures for both kinds of model; returns what x is.

    With one feature x is [None] and W a scalar, as in the guide. keras.export.ExportArchive
    would save the same, but for Keras models only.
    """
    served, scale = tf.Module(), _InGraph(datasets.scale)
    served.variables_by_name = dict(task.variables.by_name)
    served.features = tf.Variable(datasets.features, trainable=False)
    served.label = tf.Variable(datasets.label, trainable=False)
    served.scale = scale
    count = len(datasets.features)
    has_one_feature = count == 1
    x = tf.TensorSpec([None] if has_one_feature else [None, count], scale.dtype, "x")

    # The model's own calls are converted by AutoGraph; the rest need not be, which takes a while.
    @tf.function(input_signature=[x], autograph=False)  # type: ignore[untyped-decorator]
    def serve(x: tf.Tensor) -> tf.Tensor:
        x = tf.ensure_shape(x, [None] if has_one_feature else [None, count])  # signatures do not
        standardized = scale.standardized_x(x[:, None] if has_one_feature else x)
        return scale.y_in_units(task.predict(standardized))

    predict = tf.function(lambda x: {"y": serve(x)}, [x], autograph=False)
    served.serve = serve  # as in the exports of Keras: loaded.serve(x), and TFSMLayer(path)
    served.shown = dict(task.variables.by_name)
    if line:
        (numbers,) = line.in_data_units(task.variables.numbers().numpy()[None])
        served.shown = {n: tf.Variable(v) for n, v in task.variables.split(numbers).items()}
    # LiteRT's Interpreter without a signature, and the C library, take the first one by name.
    signatures = {"serving_default": predict, exported.VARIABLES: _giving(served.shown)}
    tf.saved_model.save(served, str(path), signatures=signatures)
    return x


def _giving(variables: Mapping[str, tf.Variable]) -> Any:
    """The function that returns variables; one of a single number as a scalar."""

    @tf.function(input_signature=[], autograph=False)  # type: ignore[untyped-decorator]
    def shaped() -> dict[str, tf.Tensor]:
        return {
            name: tf.reshape(variable, [] if variable.shape.num_elements() == 1 else variable.shape)
            for name, variable in variables.items()
        }

    return shaped


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

    def standardized_x(self, x: tf.Tensor) -> tf.Tensor:
        """Inputs [N, D] as the model takes them."""
        if not self._is_used:
            return x
        moved = (x - self._near[:-1]) - self._rest[:-1]
        return tf.cast(moved / self._stddev[:-1], tf.float32)

    def y_in_units(self, y: tf.Tensor) -> tf.Tensor:
        """The model's predictions, of any shape, in the units of the data."""
        if not self._is_used:
            return y
        return (tf.cast(y, self.dtype) * self._stddev[-1] + self._rest[-1]) + self._near[-1]


def _live(task: task_lib.Task, datasets: datasets_lib.Datasets) -> Callable[[Array], Array]:
    """What predicts y from x [N, D] in the units of the data, with the model in memory."""
    # As a graph, too: the rounding of 16-bit layers depends on that.
    x = tf.TensorSpec([None, len(datasets.features)], tf.float32)
    predict = tf.function(task.predict, [x], autograph=False)

    def live(x: Array) -> Array:
        scale = datasets.scale
        if scale is None:
            return np.asarray(predict(x))
        return scale.y_in_units(predict(scale.standardized_x(x).astype(np.float32)).numpy())

    return live


def _unusual(sample: Array) -> Iterator[Array]:
    """Inputs [N, D] by which the other formats are tried: of all sizes, and of both signs."""
    many = np.resize(sample, (_MANY, sample.shape[1]))
    many[1::2] *= -1
    for factor, count in ((1, _MANY), (0, 1), (1, 1), (1, 0), (_LARGE, _MANY)):
        yield many[:count] * many.dtype.type(factor)


def _compare(
    what: str,
    predict: Callable[[Array], Array],
    live: Callable[[Array], Array],
    inputs: Iterable[Array],
) -> None:
    """Raises RunError where the predictions differ by more than rounding."""
    size = 0.0
    for x in inputs:
        found, expected = predict(x), live(x)
        size = float(np.abs(expected[np.isfinite(expected)]).max(initial=size))
        if not np.allclose(
            found, expected, rtol=_TOLERANCE, atol=_TOLERANCE * size, equal_nan=True
        ):
            raise errors.RunError(
                f"{what} does not predict what the model predicts (largest "
                f"difference {np.abs(found - expected).max()}); it was not exported"
            )
