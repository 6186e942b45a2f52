"""What TensorFlow Serving finds beside a SavedModel: a request to warm up with."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import tensorflow as tf

# TensorFlow Serving looks for it there.
WARM_UP = pathlib.Path("assets.extra", "tf_serving_warmup_requests")

_LOG_PREDICT, _REQUEST = 6, 1  # of PredictionLog and PredictLog
_MODEL, _INPUTS = 1, 2  # of PredictRequest
_SIGNATURE_NAME = 3  # of ModelSpec
_KEY, _VALUE = 1, 2  # of an entry of a map


def write_warm_up(saved_model: pathlib.Path, inputs: Mapping[str, npt.NDArray[Any]]) -> None:
    """Writes a request of one row, which a server makes when it has loaded the model.

    It is a message of tensorflow_serving/apis (prediction_log.proto, predict.proto, model.proto);
    their package is not needed for so little.
    """
    request = _field(_MODEL, _field(_SIGNATURE_NAME, b"serving_default"))
    for name, values in inputs.items():
        value = tf.make_tensor_proto(values).SerializeToString()
        request += _field(_INPUTS, _field(_KEY, name.encode()) + _field(_VALUE, value))
    (saved_model / WARM_UP).parent.mkdir()
    with tf.io.TFRecordWriter(str(saved_model / WARM_UP)) as file:
        file.write(_field(_LOG_PREDICT, _field(_REQUEST, request)))


def _field(number: int, content: bytes) -> bytes:
    """A message, string or bytes as a field of a protocol buffer."""
    length, size = len(content), b""
    while length > 127:
        size, length = size + bytes([length & 127 | 128]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + content
