"""Tests of pipeline.data.preprocessing, and of the same in a graph."""

import json

import numpy as np
import pytest
import tensorflow as tf

from pipeline.data import preprocessing
from pipeline.run import preprocessing_graph

_MIXED = preprocessing.Preprocessing(
    {"year": None, "city": ("Bonn", "Oslo", "Ulm"), "größe 1": ("M", "S"), "City": None},
    "price",
    np.float64([1990.25, 0.5, 0, 0.25, 0, 1, 7, 1e5]),
    np.float64([10, 0.5, 1, 0.25, 1, 0.5, 2, 2e4]),
)
_COLUMNS = {
    "City": np.array([7.0, 9, 5]),
    "year": np.array([1990.25, 2000.25, 1980.25]),
    "city": np.array(["Oslo", "Bonn", "Ulm"]),
    "größe 1": np.array(["S", "M", "S"]),
}
_ENCODED = [[1990.25, 0, 1, 0, 0, 1, 7], [2000.25, 1, 0, 0, 1, 0, 9], [1980.25, 0, 0, 1, 0, 1, 5]]
_STANDARDIZED = [[0, -1, 1, -1, 0, 0, 0], [1, 1, 0, -1, 1, -2, 1], [-1, -1, 0, 3, 0, 0, -1]]


def test_columns_become_examples_and_come_back() -> None:
    features = ("year", "city=Bonn", "city=Oslo", "city=Ulm", "größe 1=M", "größe 1=S", "City")
    assert _MIXED.features == features
    np.testing.assert_array_equal(_MIXED.encode(_COLUMNS), _ENCODED)
    x = _MIXED.standardized_x(_MIXED.encode(_COLUMNS))
    np.testing.assert_array_equal(x, _STANDARDIZED)
    np.testing.assert_array_equal(_MIXED.x_in_data_units(x), _ENCODED)
    decoded = _MIXED.decode(np.array(_ENCODED))
    assert {name: column.tolist() for name, column in decoded.items()} == {
        name: column.tolist() for name, column in _COLUMNS.items()
    }
    np.testing.assert_array_equal(_MIXED.in_data_units(np.float32([0, 2])), [1e5, 1.4e5])
    assert _MIXED.short_input(x[1])[::6] == ["2000.2", "9"]


def test_the_state_is_json_and_loses_no_bit() -> None:
    again = preprocessing.Preprocessing.from_state(json.loads(json.dumps(_MIXED.state())))
    assert again.state() == _MIXED.state()
    assert again.columns == _MIXED.columns
    assert again.mean.tobytes() == _MIXED.mean.tobytes()


def test_what_changes_nothing_says_so() -> None:
    plain = preprocessing.unchanged({"a": None, "t": ("x", "y")}, "b")
    assert (plain.features, plain.standardizes, plain.needs_float64) == (
        *(("a", "t=x", "t=y"), False, False),
    )
    assert _MIXED.standardizes


@pytest.mark.parametrize(
    ("mean", "stddev", "expected"),
    [(2000, 10, False), (1.7e9, 60, True), (0, 1e-40, True), (0, 1e38, True), (1e5, 1e5, False)],
)
def test_float64_is_used_where_float32_is_too_coarse(
    mean: float, stddev: float, expected: bool
) -> None:
    arrays = np.float64([mean, 0]), np.float64([stddev, 1])
    assert preprocessing.Preprocessing({"a": None}, "y", *arrays).needs_float64 == expected


def test_the_graph_does_the_same() -> None:
    """Its inputs have names that TensorFlow allows; texts may have blanks around them."""
    graph = preprocessing_graph.PreprocessingGraph(_MIXED)
    types = {"year": tf.float32, "city": tf.string, "gr__e_1": tf.string, "City_": tf.float32}
    assert {name: spec.dtype for name, spec in graph.inputs.items()} == types
    values = [_COLUMNS[name] for name in _MIXED.columns]
    inputs = {name: tf.constant(v) for name, v in zip(graph.inputs, values, strict=True)}
    inputs = {n: v if v.dtype == tf.string else tf.cast(v, tf.float32) for n, v in inputs.items()}
    x = graph.encode(inputs)
    np.testing.assert_array_equal(x, _ENCODED)
    np.testing.assert_array_equal(graph.standardized_x(x), _STANDARDIZED)
    np.testing.assert_array_equal(graph.in_data_units(tf.constant([0.0, 2.0])), [1e5, 1.4e5])
    inputs["city"] = tf.constant(["Oslo", "Rome", "Ulm"])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"'city'.*Bonn, Oslo, Ulm; received"):
        graph.encode(inputs)
    inputs["city"] = tf.constant([" Oslo", "Bonn ", "Ulm"])
    np.testing.assert_array_equal(graph.encode(inputs), _ENCODED)
