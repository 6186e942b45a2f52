"""Converts an exported SavedModel to LiteRT (TensorFlow Lite) and ONNX."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline import errors, tf_runtime
from pipeline.run import exported

Array = npt.NDArray[np.floating[Any]]


class Format(NamedTuple):
    """Functions that write and run a format."""

    file: str  # beside the SavedModel
    write: Callable[[exported.Exported, pathlib.Path], None]
    predict: Callable[[pathlib.Path, Array], Array]  # y from the x of the signature


def _write_litert(saved: exported.Exported, target: pathlib.Path) -> None:
    keys = [saved.name_of_x]  # the model has no text columns
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved.path), signature_keys=keys)
    target.write_bytes(converter.convert())


def _predict_litert(path: pathlib.Path, x: Array) -> Array:
    from ai_edge_litert import interpreter

    run = interpreter.Interpreter(str(path)).get_signature_runner()
    return np.asarray(run(x=x)["y"])


def _write_onnx(saved: exported.Exported, target: pathlib.Path) -> None:
    import onnx
    import tf2onnx

    inputs = [saved.from_x.structured_input_signature[1]["x"]]
    function = tf.function(lambda x: saved.from_x(x=x), inputs, autograph=False)
    model, _ = tf2onnx.convert.from_function(function, inputs)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.checker.check_model(model)
    onnx.save(model, str(target))


def _predict_onnx(path: pathlib.Path, x: Array) -> Array:
    from onnx import reference

    with np.errstate(all="ignore"):  # the model itself may predict an infinity
        (y,) = reference.ReferenceEvaluator(str(path)).run(["y"], {"x": x})
    return np.asarray(y)


FORMATS = {
    "litert": Format("model.tflite", _write_litert, _predict_litert),
    "onnx": Format("model.onnx", _write_onnx, _predict_onnx),
}


def write(name: str, saved: exported.Exported) -> Callable[[Array], Array]:
    """Writes a format beside a SavedModel; returns its function that predicts y from x [N, D].

    Raises:
      errors.InputError: a package is missing, or the format can't express a part of the model.
    """
    format_ = FORMATS[name]
    target = saved.path / format_.file

    def predict(x: Array) -> Array:
        with _explained(name), tf_runtime.quiet_stderr():
            return format_.predict(target, x.reshape(len(x), *saved.shape))

    with _explained(name), tf_runtime.quiet_stderr():
        format_.write(saved, target)
    return predict


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Re-raises a converter's errors as one line, except errors of a full disk."""
    try:
        yield
    except OSError:
        raise
    except ImportError as error:
        raise errors.InputError(
            f"--export_formats={name} needs a package that is not installed ({error}); install it "
            "with: pip install -e '.[export]'"
        ) from error
    except Exception as error:  # the type depends on the converter
        raise errors.InputError(
            f"--export_formats={name}: the model can't be written in this format: "
            f"{errors.one_line(error)[:300]}"
        ) from error
