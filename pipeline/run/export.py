"""Exports the model as a SavedModel, and in other formats beside it."""

import json
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline import errors, files
from pipeline.data import datasets as datasets_lib
from pipeline.data import preprocessing
from pipeline.evaluation import linear
from pipeline.reporting import results
from pipeline.run import (
    export_formats,
    exported,
    nest_export,
    preprocessing_graph,
    serving,
    versions,
)
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
    """Writes a task's model, and the preprocessing of its datasets, as a version of an export.

    Args:
      task: Its model is exported.
      datasets: Some of the examples are tried.
      version: The directory to make.
      description: What versions.description gives.
      line: What is known of a linear model, whose W and b are in the units of the data.
      formats: Names in export_formats.FORMATS, which are written beside the SavedModel.

    Raises:
      errors.InputError: the model can't be written in one of the formats.
      errors.RunError: the reloaded model predicts something else than the live one.
    """
    learned = _preprocessing(datasets, formats)
    version.parent.mkdir(parents=True, exist_ok=True)
    with files.making(version) as unfinished:
        if not datasets.features:
            _save_nest(task, unfinished)
            _describe(unfinished, description)
            nest_export.check(unfinished, task, datasets.train.rows(slice(_SAMPLE)))
            return
        _save(task, unfinished, learned, line)
        _describe(unfinished, description)
        saved, x = exported.Exported(unfinished), datasets.train.x[:_SAMPLE]
        given, live = learned.x_in_data_units(x).astype(saved.dtype), _live(task, learned)
        for predict in (saved.predict, lambda x: saved.predict_columns(learned.decode(x))):
            _compare("the SavedModel", predict, live, [given])
        serving.write_warm_up(unfinished, saved.inputs(learned.decode(given[:1])))
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
    variables = _returning(served.variables_by_name)
    signatures = {exported.SERVE: served.serve, exported.VARIABLES: variables}
    tf.saved_model.save(served, str(path), signatures=signatures)


def _describe(version: pathlib.Path, description: Mapping[str, Any]) -> None:
    (version / versions.DESCRIPTION.parent).mkdir()
    results.write_json(version / versions.DESCRIPTION, description)


def _save(
    task: task_lib.Task,
    path: pathlib.Path,
    learned: preprocessing.Preprocessing,
    line: linear.Linear | None,
) -> None:
    """Saves a module with the same signatures for both kinds of model.

    It takes x, which is [None] with one feature, as W is a scalar then, as in the guide; or the
    columns of a table that has texts. keras.export.ExportArchive is for Keras models only.
    """
    served, graph = tf.Module(), preprocessing_graph.PreprocessingGraph(learned)
    served.variables_by_name = dict(task.variables.by_name)
    served.features = tf.Variable(learned.features, trainable=False)
    served.label = tf.Variable(learned.label, trainable=False)
    served.preprocessing = tf.Variable(json.dumps(learned.state()), trainable=False)
    served.graph, from_x = graph, graph.serve_x(task.predict)
    signatures = {exported.SERVE: from_x}
    if learned.has_texts:
        signatures = {exported.SERVE: graph.serve_columns(from_x), exported.ENCODED: from_x}
    # As in the exports of Keras: loaded.serve(x), and TFSMLayer(path).
    served.serve = signatures[exported.SERVE]
    served.shown = dict(task.variables.by_name)
    if line:
        (numbers,) = line.in_data_units(task.variables.numbers().numpy()[None])
        served.shown = {n: tf.Variable(v) for n, v in task.variables.split(numbers).items()}
    # LiteRT's Interpreter without a signature, and the C library, take the first one by name.
    signatures = {name: _returning_y(function) for name, function in signatures.items()}
    signatures[exported.VARIABLES] = _returning(served.shown)
    tf.saved_model.save(served, str(path), signatures=signatures)


def _returning_y(function: Any) -> Any:
    """The function of a signature, which names its output."""
    named = lambda inputs: {"y": function(inputs)}  # noqa: E731
    return tf.function(named, function.input_signature, autograph=False)


def _returning(variables: Mapping[str, tf.Variable]) -> Any:
    """The function that returns variables; one of a single number as a scalar."""

    @tf.function(input_signature=[], autograph=False)  # type: ignore[untyped-decorator]
    def shaped() -> dict[str, tf.Tensor]:
        return {
            name: tf.reshape(variable, [] if variable.shape.num_elements() == 1 else variable.shape)
            for name, variable in variables.items()
        }

    return shaped


def _preprocessing(
    datasets: datasets_lib.Datasets, formats: Sequence[str]
) -> preprocessing.Preprocessing:
    """That of the datasets; raises errors.InputError if a format can't hold it."""
    numbers = dict.fromkeys(datasets.features)
    learned = datasets.preprocessing or preprocessing.unchanged(numbers, datasets.label)
    errors.require(
        not formats or datasets.features,
        f"--export_formats={','.join(formats)}: only models of tables are written in them",
    )
    errors.require(
        "litert" not in formats or not learned.needs_float64,
        "--export_formats=litert: LiteRT has no float64, which this table needs; use onnx",
    )
    return learned


def _live(task: task_lib.Task, learned: preprocessing.Preprocessing) -> Callable[[Array], Array]:
    """What predicts y from x [N, D] in the units of the data, with the model in memory."""
    # As a graph, too: the rounding of 16-bit layers depends on that.
    x = tf.TensorSpec([None, len(learned.features)], tf.float32)
    predict = tf.function(task.predict, [x], autograph=False)

    def live(x: Array) -> Array:
        y = predict(learned.standardized_x(x).astype(np.float32)).numpy()
        return learned.in_data_units(y) if learned.standardizes else np.asarray(y)

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
