"""Writes a warm-up request for TensorFlow Serving beside a SavedModel."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import tensorflow as tf

# The path where TensorFlow Serving looks for it.
WARM_UP = pathlib.Path("assets.extra", "tf_serving_warmup_requests")

_LOG_PREDICT, _REQUEST = 6, 1  # of PredictionLog and PredictLog
_MODEL, _INPUTS = 1, 2  # of PredictRequest
_SIGNATURE_NAME = 3  # of ModelSpec
_KEY, _VALUE = 1, 2  # of an entry of a map


def write_warm_up(saved_model: pathlib.Path, inputs: Mapping[str, npt.NDArray[Any]]) -> None:
    """Writes a request of one row, which a server runs after it loads the model.

    The message is defined in tensorflow_serving/apis (prediction_log.proto, predict.proto,
    model.proto). It is encoded by hand to avoid a dependency on that package.
    """
    request = _field(_MODEL, _field(_SIGNATURE_NAME, b"serving_default"))
    for name, values in inputs.items():
        value = tf.make_tensor_proto(values).SerializeToString()
        request += _field(_INPUTS, _field(_KEY, name.encode()) + _field(_VALUE, value))
    (saved_model / WARM_UP).parent.mkdir()
    with tf.io.TFRecordWriter(str(saved_model / WARM_UP)) as file:
        file.write(_field(_LOG_PREDICT, _field(_REQUEST, request)))


def _field(number: int, content: bytes) -> bytes:
    """Encodes a message, string or bytes as a protocol buffer field."""
    length, size = len(content), b""
    while length > 127:
        size, length = size + bytes([length & 127 | 128]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + content
