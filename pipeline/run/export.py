"""Exports the model as a SavedModel, and in other formats."""

import json
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import optree
import tensorflow as tf

from pipeline import errors, files
from pipeline.data import batches as batches_lib
from pipeline.data import datasets as datasets_lib
from pipeline.data import preprocessing
from pipeline.evaluation import linear
from pipeline.reporting import results
from pipeline.run import export_formats, exported, preprocessing_graph, serving, versions
from pipeline.training import task as task_lib

_SAMPLE = 100  # examples that compare the reloaded model with the live one
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
    """Writes a task's model and the preprocessing of its datasets as an export version.

    Args:
      task: The task whose model is exported.
      datasets: Its preprocessing is exported, and some examples test the export.
      version: The directory to make.
      description: The result of versions.description for this export.
      line: A linear model, whose W and b are exported in the units of the data.
      formats: Names in export_formats.FORMATS to write beside the SavedModel.

    Raises:
      errors.InputError: a format can't hold the model.
      errors.RunError: the reloaded model's predictions differ from the live model's.
    """
    errors.require(
        not formats or datasets.features,
        f"--export_formats={','.join(formats)}: only models of tables are written in them",
    )
    version.parent.mkdir(parents=True, exist_ok=True)
    with files.making(version) as unfinished:
        if datasets.features:
            _publish_table(task, datasets, unfinished, line, formats)
        else:
            _publish_arrays(task, batches_lib.sample(datasets, _SAMPLE).x, unfinished)
        (unfinished / versions.DESCRIPTION.parent).mkdir(exist_ok=True)
        results.write_json(unfinished / versions.DESCRIPTION, description)


def try_formats(
    task: task_lib.Task, datasets: datasets_lib.Datasets, formats: Sequence[str]
) -> None:
    """Raises the errors of `publish` before training starts; leaves no files."""
    with tempfile.TemporaryDirectory() as folder:
        publish(task, datasets, pathlib.Path(folder, "1"), {}, formats=formats)


def _publish_table(
    task: task_lib.Task,
    datasets: datasets_lib.Datasets,
    path: pathlib.Path,
    line: linear.Linear | None,
    formats: Sequence[str],
) -> None:
    """Saves and tests a table's model, and writes the other formats."""
    numbers = dict.fromkeys(datasets.features)
    learned = datasets.preprocessing or preprocessing.unchanged(numbers, datasets.label)
    errors.require(
        "litert" not in formats or not learned.needs_float64,
        "--export_formats=litert: LiteRT has no float64, which this table needs; use onnx",
    )
    shown = task.variables.by_name
    if line:
        (values,) = line.in_data_units(task.variables.numbers().numpy()[None])
        shown = {n: tf.Variable(v) for n, v in task.variables.split(values).items()}
    graph = preprocessing_graph.PreprocessingGraph(learned)
    state = json.dumps(learned.state())
    about = {"features": learned.features, "label": learned.label, "preprocessing": state}
    texts = {name: tf.Variable(text, trainable=False) for name, text in about.items()}
    _save(task, path, _from_columns(task, learned, graph), shown, graph=graph, **texts)

    saved = exported.Exported(path)
    given = learned.x_in_data_units(datasets.train.x[:_SAMPLE]).astype(saved.dtype)
    # The live model runs as a graph too, since the rounding of 16-bit layers depends on it.
    live = _function(task.predict, tf.TensorSpec([None, given.shape[1]], tf.float32))
    expected = live(learned.standardized_x(given).astype(np.float32)).numpy()
    if learned.standardizes:
        expected = learned.in_data_units(expected)
    for y in (saved.predict(given), saved.predict_columns(learned.decode(given))):
        _compare("the SavedModel", [(y, expected)])
    serving.write_warm_up(path, saved.inputs(learned.decode(given[:1])))
    for name in formats:
        run = export_formats.write(name, saved)
        _compare(f"--export_formats={name}", ((run(x), saved.predict(x)) for x in _unusual(given)))


def _from_columns(
    task: task_lib.Task,
    learned: preprocessing.Preprocessing,
    graph: preprocessing_graph.PreprocessingGraph,
) -> dict[str, Any]:
    """Makes functions that predict y from x and, if the table has texts, from its columns.

    With one feature, x is [None] and W is a scalar, as in the guide.
    """

    def predict(x: tf.Tensor) -> tf.Tensor:
        x = tf.reshape(tf.ensure_shape(x, graph.x.shape), [-1, len(learned.features)])
        return graph.in_data_units(task.predict(graph.standardized_x(x)))

    def predict_columns(columns: dict[str, tf.Tensor]) -> tf.Tensor:
        return from_x(tf.reshape(graph.encode(columns), [-1, *graph.x.shape[1:]]))

    from_x = _function(predict, graph.x)
    if not learned.has_texts:
        return {exported.SERVE: from_x}
    return {exported.SERVE: _function(predict_columns, graph.inputs), exported.ENCODED: from_x}


def _publish_arrays(task: task_lib.Task, sample: Any, path: pathlib.Path) -> None:
    """Saves and tests a model of arrays or nests of arrays, with their own dtypes.

    A single array is named x or y; arrays in a dict have its keys, in a tuple x_0, x_1, ...
    """
    structure, specs = optree.tree_structure(task.spec.x), exported.named(task.spec.x, "x")

    def predict(inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        leaves = [
            tf.nest.pack_sequence_as(spec, [inputs[n] for n in _tensors(name, spec)], True)
            for name, spec in specs.items()
        ]
        return exported.named(task.predict(optree.tree_unflatten(structure, leaves)), "y")

    def tensors(nest: Any) -> dict[str, Any]:
        pairs = exported.named(nest, "x").items()
        return {n: t for name, leaf in pairs for n, t in _tensors(name, leaf).items()}

    named = {n: tf.TensorSpec(s.shape, s.dtype, n) for n, s in tensors(task.spec.x).items()}
    _save(task, path, {exported.SERVE: _function(predict, named)}, task.variables.by_name)
    inputs = tensors(sample)
    found = tf.saved_model.load(str(path)).signatures[exported.SERVE](**inputs)
    for name, expected in _function(predict, named)(inputs).items():
        _compare(f"the SavedModel ({name})", [(found[name].numpy(), expected.numpy())])


def _tensors(name: str, leaf: Any) -> dict[str, Any]:
    """The tensors of a leaf by name: a RaggedTensor has values and row splits."""
    parts = tf.nest.flatten(leaf, expand_composites=True)
    return dict(zip([name, f"{name}_row_splits"], parts, strict=False))


def _function(predict: Callable[..., Any], inputs: Any) -> Any:
    """Makes a tf.function for inputs of these specs.

    AutoGraph converts only the model's own calls: converting the rest would take long.
    """
    return tf.function(predict, input_signature=[inputs], autograph=False)


def _save(
    task: task_lib.Task,
    path: pathlib.Path,
    functions: Mapping[str, Any],
    shown: Mapping[str, tf.Variable],
    **attributes: Any,
) -> None:
    """Saves a module whose signatures return the functions' outputs by name.

    keras.export.ExportArchive supports Keras models only.
    """
    served = tf.Module()
    for name, value in attributes.items():
        setattr(served, name, value)
    served.variables_by_name, served.shown = dict(task.variables.by_name), dict(shown)
    layers = task.model._flatten_layers() if isinstance(task.model, tf.keras.Model) else ()
    served.tables = [each.lookup_table for each in layers if hasattr(each, "lookup_table")]
    # As in the exports of Keras: loaded.serve(x), and TFSMLayer(path).
    served.serve = functions[exported.SERVE]

    def signature(function: Any) -> Any:
        (inputs,) = function.input_signature
        return _function(lambda given: exported.named(function(given), "y"), inputs)

    def variables() -> dict[str, tf.Tensor]:
        """Returns the variables; those with one element are scalars."""
        return {
            name: tf.reshape(variable, [] if variable.shape.num_elements() == 1 else variable.shape)
            for name, variable in served.shown.items()
        }

    # Without a signature name, LiteRT's Interpreter and the C library take the first one by name.
    signatures = {name: signature(function) for name, function in functions.items()}
    signatures[exported.VARIABLES] = tf.function(variables, input_signature=[], autograph=False)
    tf.saved_model.save(served, str(path), signatures=signatures)


def _unusual(sample: Array) -> Iterator[Array]:
    """Yields inputs [N, D] of all magnitudes and both signs, to test the other formats."""
    many = np.resize(sample, (_MANY, sample.shape[1]))
    many[1::2] *= -1
    for factor, count in ((1, _MANY), (0, 1), (1, 1), (1, 0), (_LARGE, _MANY)):
        yield many[:count] * many.dtype.type(factor)


def _compare(what: str, predictions: Iterable[tuple[Array, Array]]) -> None:
    """Raises RunError if predictions differ from the expected ones by more than rounding."""
    size = 0.0
    for found, expected in predictions:
        size = float(np.abs(expected[np.isfinite(expected)]).max(initial=size))
        least = _TOLERANCE * size
        if not np.allclose(found, expected, rtol=_TOLERANCE, atol=least, equal_nan=True):
            raise errors.RunError(
                f"{what} does not predict what the model predicts (largest "
                f"difference {np.abs(found - expected).max()}); it was not exported"
            )
