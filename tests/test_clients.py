"""An export gives the same numbers in the programs that load it as their manuals say."""

import ctypes
import pathlib
import re
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from ai_edge_litert import interpreter
from onnx import checker, reference
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from pipeline import config as config_lib
from pipeline import errors
from pipeline.data import batch
from pipeline.data import datasets as datasets_lib
from pipeline.data import preprocessing as preprocessing_lib
from pipeline.run import export, export_formats, serving
from pipeline.training import make_task, task
from tests import helpers, processes

pytestmark = pytest.mark.slow
Array = npt.NDArray[np.floating[Any]]

_X = np.float32([[0.5, -1.0, 2.0], [-0.25, 3.0, 1.0], [1e4, -1e4, 0.0], [0, 0, 0]])
_CONFIGS: dict[str, dict[str, Any]] = {
    "module": {"loss": "huber"},
    "keras": {"model": "keras"},
    "polynomial": {"model": "polynomial", "loss": "mean_absolute_error"},
    "mlp": {"model": "mlp"},
    "logistic": {"model": "logistic", "loss": "binary_crossentropy"},
}
# Models of one feature and of three; with three also on standardized data.
_EXPORTS = [(name, number) for name in _CONFIGS for number in (1, 3)]


def _trained(name: str, datasets: datasets_lib.Datasets) -> task.Task:
    """A task whose variables differ from their initial values."""
    made = make_task.make_task(config_lib.Config(**_CONFIGS[name]), datasets)
    numbers = np.random.default_rng(0).normal(size=made.variables.numbers().shape[0])
    made.variables.assign(made.variables.split(numbers))
    return made


_Learned = preprocessing_lib.Preprocessing


def _datasets(num_features: int, *, learned: _Learned | None = None) -> datasets_lib.Datasets:
    x = np.random.default_rng(1).normal(size=(20, num_features)).astype(np.float32)
    examples = batch.Batch(x, (x[:, 0] > 0).astype(np.float32))
    return datasets_lib.Datasets(
        examples, None, ("a", "b", "c")[:num_features], "y", preprocessing=learned
    )


class _Export:
    """An export version, and the live model's predictions."""

    def __init__(self, path: pathlib.Path, name: str, num_features: int):
        units = np.float64([7, -3, 2, 5]), np.float64([2, 4, 0.5, 3])
        scale = _Learned(dict.fromkeys("abc"), "y", *units)
        is_standardized = name == "keras" and num_features == 3
        datasets = _datasets(num_features, learned=scale if is_standardized else None)
        trained = _trained(name, datasets)
        self.path, x = path, _X[:, :num_features]
        export.publish(trained, datasets, path, {}, formats=("litert", "onnx"))
        self.x = x[:, 0] if num_features == 1 else x
        if is_standardized:
            live = trained.predict((x - scale.mean[:-1]) / scale.stddev[:-1])
            self.y = live.numpy().astype(np.float64) * scale.stddev[-1] + scale.mean[-1]
        else:
            self.y = trained.predict(tf.constant(x)).numpy()

    def check(self, y: Any) -> None:
        """Compares a client's predictions, relative to the largest number."""
        size = float(np.abs(self.y).max())
        np.testing.assert_allclose(y, self.y, rtol=1e-5, atol=1e-6 * size)


@pytest.fixture(scope="module", params=_EXPORTS, ids=lambda each: f"{each[0]}-{each[1]}")
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> _Export:
    """One export of each model and loss."""
    return _Export(tmp_path_factory.mktemp("export") / "1", *request.param)


def test_tensorflow_loads_its_endpoint_and_its_signature(exported: _Export) -> None:
    loaded = tf.saved_model.load(str(exported.path))
    exported.check(loaded.serve(exported.x))
    exported.check(loaded.signatures["serving_default"](x=tf.constant(exported.x))["y"])


def test_keras_takes_it_as_a_layer(exported: _Export) -> None:
    layer = tf.keras.layers.TFSMLayer(str(exported.path))
    exported.check(layer(exported.x))


def test_the_first_interpreter_of_litert_predicts(exported: _Export) -> None:
    """It uses the first signature, without names."""
    model = interpreter.Interpreter(str(exported.path / "model.tflite"))
    (x,), (y,) = model.get_input_details(), model.get_output_details()
    model.resize_tensor_input(x["index"], exported.x.shape, strict=True)
    model.allocate_tensors()
    model.set_tensor(x["index"], exported.x)
    model.invoke()
    exported.check(model.get_tensor(y["index"]))


def test_the_signature_of_litert_predicts(exported: _Export) -> None:
    model = interpreter.Interpreter(str(exported.path / "model.tflite"))
    assert model.get_signature_list() == {"serving_default": {"inputs": ["x"], "outputs": ["y"]}}
    exported.check(model.get_signature_runner()(x=exported.x)["y"])


def test_onnx_predicts(exported: _Export) -> None:
    """The input, the output and the open dimension have names."""
    path = str(exported.path / "model.onnx")
    checker.check_model(path, full_check=True)
    model = reference.ReferenceEvaluator(path)
    assert (model.input_names, model.output_names) == (["x"], ["y"])
    assert model.input_types[0].tensor_type.shape.dim[0].dim_param == "batch"
    with np.errstate(all="ignore"):
        exported.check(model.run(None, {"x": exported.x})[0])


class _Output(ctypes.Structure):
    """TF_Output of the C library."""

    _fields_ = (("operation", ctypes.c_void_p), ("index", ctypes.c_int))


def _c_library() -> Any:
    """The C library, with the types of the functions used here."""
    library = ctypes.CDLL(f"{tf.sysconfig.get_lib()}/libtensorflow_cc.so.2")
    for name in ("NewStatus", "NewSessionOptions", "NewGraph", "Message", "TensorData"):
        getattr(library, f"TF_{name}").restype = ctypes.c_void_p
    for name in ("LoadSessionFromSavedModel", "GraphOperationByName", "AllocateTensor"):
        getattr(library, f"TF_{name}").restype = ctypes.c_void_p
    library.TF_TensorByteSize.restype = ctypes.c_size_t
    return library


def _predict_in_c(path: pathlib.Path, x: Array) -> Array:
    """Predicts as a C program does, by the operation names in the manual."""
    library, pointer = _c_library(), ctypes.c_void_p
    status, graph = pointer(library.TF_NewStatus()), pointer(library.TF_NewGraph())
    options = pointer(library.TF_NewSessionOptions())
    tags = (ctypes.c_char_p * 1)(b"serve")
    folder = str(path).encode()
    session = library.TF_LoadSessionFromSavedModel(
        options, None, folder, tags, 1, graph, None, status
    )
    assert library.TF_GetCode(status) == 0, ctypes.string_at(library.TF_Message(status))
    names = b"serving_default_x", b"StatefulPartitionedCall"
    ends = [_Output(library.TF_GraphOperationByName(graph, name), 0) for name in names]
    shape = (ctypes.c_int64 * x.ndim)(*x.shape)
    tensor = library.TF_AllocateTensor(1, shape, x.ndim, ctypes.c_size_t(x.nbytes))
    ctypes.memmove(library.TF_TensorData(pointer(tensor)), x.tobytes(), x.nbytes)
    given, result = (pointer * 1)(tensor), (pointer * 1)()
    before, after = (ctypes.byref(end) for end in ends)
    library.TF_SessionRun(
        pointer(session), None, before, given, 1, after, result, 1, None, 0, None, status
    )
    assert library.TF_GetCode(status) == 0, ctypes.string_at(library.TF_Message(status))
    size = library.TF_TensorByteSize(pointer(result[0]))
    data = ctypes.string_at(library.TF_TensorData(pointer(result[0])), size)
    return np.frombuffer(data, np.float32)


def test_the_c_library_predicts(exported: _Export) -> None:
    """The manual's first name belongs to the first signature."""
    exported.check(_predict_in_c(exported.path, exported.x))


def test_saved_model_cli_predicts(tmp_path: pathlib.Path) -> None:
    made = _Export(tmp_path / "1", "mlp", 3)
    rows = str(made.x.tolist())
    process = processes.Process(
        "tensorflow.python.tools.saved_model_cli",
        *("run", "--dir", made.path, "--tag_set", "serve", "--signature_def", "serving_default"),
        *("--input_exprs", f"x={rows}", "--outdir", tmp_path),
        cwd=tmp_path,
    )
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "Result for output key y:" in out
    made.check(np.load(tmp_path / "y.npy"))


def test_another_shape_is_refused(exported: _Export) -> None:
    """It must not be broadcast; TensorFlow itself does not check shapes of a signature."""
    loaded = tf.saved_model.load(str(exported.path))
    for predict in (loaded.serve, lambda x: loaded.signatures["serving_default"](x=x)):
        for wrong in ([*exported.x.shape, 1], [4, 2], [3, 1], []):
            with pytest.raises((TypeError, ValueError, tf.errors.InvalidArgumentError)):
                predict(tf.ones(wrong))


def test_tensorflow_serving_finds_a_request_to_warm_up_with(exported: _Export) -> None:
    """The request uses Serving's messages and has one row that the signature can predict."""
    path = str(exported.path / serving.WARM_UP)
    (record,) = tf.data.TFRecordDataset(path).as_numpy_iterator()
    request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
    assert isinstance(request, predict_pb2.PredictRequest)
    assert request.model_spec.signature_name == "serving_default"
    assert list(request.inputs) == ["x"]
    x = tf.make_ndarray(request.inputs["x"])
    assert x.shape == (1, *exported.x.shape[1:])
    loaded = tf.saved_model.load(str(exported.path))
    assert loaded.signatures["serving_default"](x=tf.constant(x))["y"].shape == [1]


def test_a_format_that_can_not_hold_a_model_is_named(tmp_path: pathlib.Path) -> None:
    """LiteRT has no float64, which these columns need."""
    learned = _Learned({"a": None}, "y", np.float64([1e12, 0]), np.float64([1, 1]))
    assert learned.needs_float64
    datasets = _datasets(1, learned=learned)
    trained = _trained("module", datasets)
    with pytest.raises(
        errors.InputError, match="LiteRT has no float64, which this table needs; use onnx"
    ):
        export.try_formats(trained, datasets, ["litert"])
    export.try_formats(trained, datasets, ["onnx"])
    with pytest.raises(errors.InputError, match="litert"):
        export.publish(trained, datasets, tmp_path / "1", {}, formats=["litert"])
    assert not list(tmp_path.iterdir())


def test_a_table_with_texts_is_served_by_its_columns(tmp_path: pathlib.Path) -> None:
    """Inputs have the columns' names, as TensorFlow allows; formats without texts take x [N, D]."""
    columns: dict[str, Any] = {"größe": ("M", "S"), "a": None}
    learned = _Learned(columns, "y", np.float64([0, 0, 1990, 5]), np.float64([1, 1, 10, 3]))
    x = np.float32([[1, 0, -1], [0, 1, 2]])
    examples = batch.Batch(x, x[:, 0])
    datasets = datasets_lib.Datasets(examples, None, learned.features, "y", preprocessing=learned)
    trained = _trained("keras", datasets)
    export.publish(trained, datasets, tmp_path / "1", {}, formats=("litert", "onnx"))
    expected = learned.in_data_units(trained.predict(tf.constant(x)).numpy())
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    assert list(loaded.signatures) == ["serving_default", "serving_encoded", "variables"]
    columns = {"gr__e": tf.constant(["M", "S "]), "a": tf.constant([1980.0, 2010.0])}
    encoded = np.float32([[1, 0, 1980], [0, 1, 2010]])
    litert = interpreter.Interpreter(str(tmp_path / "1" / "model.tflite")).get_signature_runner()
    onnx = reference.ReferenceEvaluator(str(tmp_path / "1" / "model.onnx"))
    for y in (
        loaded.serve(columns),
        loaded.signatures["serving_default"](**columns)["y"],
        loaded.signatures["serving_encoded"](x=tf.constant(encoded))["y"],
        litert(x=encoded)["y"],
        onnx.run(None, {"x": encoded})[0],
    ):
        np.testing.assert_allclose(y, expected, rtol=1e-5)
    columns["gr__e"] = tf.constant(["M", "XL"])
    with pytest.raises(tf.errors.InvalidArgumentError, match="trained with M, S; received"):
        loaded.serve(columns)


class _Searching(tf.Module):  # type: ignore[misc]
    """A model with an operation that only TensorFlow has."""

    def __init__(self) -> None:
        super().__init__()
        self.b = tf.Variable(0.5)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        places = tf.searchsorted([0.0, 1.0], tf.reduce_sum(x, axis=1))
        return tf.cast(places, tf.float32) + self.b


def test_the_flag_knows_all_formats() -> None:
    for name in export_formats.FORMATS:
        config_lib.Config(export_formats=name)
    with pytest.raises(errors.InputError, match=", ".join(export_formats.FORMATS)):
        config_lib.Config(export_formats="tflite")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = _datasets(1)
    for name, package in (("litert", "ai_edge_litert"), ("onnx", "tf2onnx")):
        monkeypatch.setitem(sys.modules, package, None)  # type: ignore[arg-type]
        with pytest.raises(errors.InputError, match=rf"{name} needs .*{package}.*\[export\]"):
            export.try_formats(_trained("module", datasets), datasets, [name])


@pytest.mark.parametrize("name", ["litert", "onnx"])
def test_what_a_converter_lacks_is_said_in_a_line(name: str) -> None:
    datasets = _datasets(1)
    trained = helpers.task(_Searching(), ("a",))
    with pytest.raises(errors.InputError) as caught:
        export.try_formats(trained, datasets, [name])
    assert re.match(f"--export_formats={name}: the model can't be written in", str(caught.value))
    assert "\n" not in str(caught.value)
