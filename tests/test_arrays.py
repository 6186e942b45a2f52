"""Tests of pipeline.data.arrays: arrays that a user's function may return."""

import pathlib
from typing import Any

import numpy as np
import pytest

from pipeline import config as config_lib
from pipeline import errors
from pipeline.data import arrays, datasets
from pipeline.distributed import workers

_N = 12
_NUMBER = np.arange(_N)
_IMAGES = np.tile(_NUMBER[:, None, None, None].astype(np.float64), (4, 3, 2))
_TEXTS = [f"text {i}" for i in _NUMBER]


@pytest.mark.parametrize(
    ("x", "y", "weight", "dtypes"),
    [
        pytest.param(_IMAGES, _NUMBER, None, ["f4", "i8"], id="images and classes"),
        pytest.param(_IMAGES.astype("u1"), _NUMBER > 5, None, ["u1", "?"], id="bytes and flags"),
        pytest.param(_NUMBER[:, None], np.eye(_N), None, ["i8", "f4"], id="tokens and outputs"),
        pytest.param(_IMAGES, _NUMBER, _NUMBER / 2, ["f4", "i8", "f4"], id="weights"),
        pytest.param(np.array(_TEXTS), _NUMBER, None, ["<U7", "i8"], id="texts"),
        pytest.param(np.array(_TEXTS, object), _NUMBER, None, ["<U7", "i8"], id="texts as objects"),
        pytest.param(np.array(_TEXTS, "S"), _NUMBER, None, ["S7", "i8"], id="texts as bytes"),
        pytest.param(
            {"image": _IMAGES, "token": (_NUMBER, _NUMBER.astype("i4"))},
            (_NUMBER / 3, {"kind": _NUMBER}),
            None,
            ["f4", "i8", "i4", "f4", "i8"],
            id="a nest",
        ),
        pytest.param(_IMAGES.astype("f2"), _NUMBER.astype("g"), None, ["f4", "f4"], id="floats"),
    ],
)
def test_arrays_of_any_structure_become_a_batch(x: Any, y: Any, weight: Any, dtypes: Any) -> None:
    """Floats become float32, as in Keras; other dtypes are kept."""
    made = (x, y) if weight is None else (x, y, weight)
    found = arrays.examples(made, "mine:data")
    assert found.num_examples == _N
    expected = datasets.Batch(*made).arrays
    assert [array.dtype for array in found.arrays] == [np.dtype(each) for each in dtypes]
    for one, other in zip(found.arrays, expected, strict=True):
        np.testing.assert_array_equal(one, np.asarray(other).astype(one.dtype))
    is_table = isinstance(x, np.ndarray) and x.ndim == 2 and np.ndim(y) == 1
    assert found.is_table == is_table


def _with(value: float) -> np.ndarray:
    return np.where(_IMAGES == 7, value, _IMAGES)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ((), "received 0 parts"),
        ((_NUMBER,) * 4, "received 4 parts"),
        (
            (_IMAGES, _NUMBER[1:]),
            "mine:data: all arrays must have the same first dimension; received "
            "x [12, 4, 3, 2], y [11]",
        ),
        (
            ({"a": _NUMBER, "b": (_NUMBER, _NUMBER[:3])}, _NUMBER),
            "received x.a [12], x.b.0 [12], x.b.1 [3], y [12]",
        ),
        ((_IMAGES, _NUMBER, 1.0), "received x [12, 4, 3, 2], y [12], weight []"),
        ((_IMAGES, _NUMBER, _NUMBER[:, None][:5]), "weight [5, 1]"),
        ((_IMAGES, list(range(1000))), "y.6 [], ... (a list is a nest, not an array)"),
        ((None, None), "all arrays must have the same first dimension; received"),
        ((_NUMBER * 1j, _NUMBER), "mine:data: x must hold numbers, booleans or texts; received co"),
        (
            ({"a": _NUMBER, "b": _NUMBER.astype("M8[s]")}, _NUMBER),
            "x.b must hold numbers, booleans or texts; received datetime64[s]",
        ),
        ((np.array([*_TEXTS[1:], 1], object), _NUMBER), "x must hold numbers, booleans or texts"),
        ((_NUMBER, np.array([[]] * _N + [1], object)[:-1]), "y must hold numbers, booleans or te"),
        ((_with(np.nan), _NUMBER), "mine:data: x must be finite as float32; row 7 is not"),
        (((_NUMBER, _with(-np.inf)), _NUMBER), "x.1 must be finite as float32; row 7 is not"),
        ((_IMAGES, _NUMBER, _with(1e39)), "weight must be finite as float32; row 7 is not"),
    ],
)
def test_what_is_no_examples_costs_one_line(made: tuple[Any, ...], words: str) -> None:
    with pytest.raises(errors.InputError) as caught:
        arrays.examples(made, "mine:data")
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert len(message) < 500


_MINE = """
import numpy as np

N = 30


def data():
    number = np.arange(N)
    x = {"image": np.ones([N, 2, 3]) * number[:, None, None], "name": [f"n{i}" for i in number]}
    return {**x, "name": np.array(x["name"])}, number, number / 2


def few():
    return np.ones([2, 3]), np.ones(2)


def none():
    return np.ones([0, 3]), np.ones(0)


def texts():
    return "x", "y", "weight"


def raising():
    return np.ones([0, 3])[1], 3
"""


def _load(
    folder: pathlib.Path, function: str, worker: workers.Worker | None = None, **settings: Any
) -> datasets.Datasets:
    (folder / "mine.py").write_text(_MINE)
    config = config_lib.Config(data=f"{folder}/mine.py:{function}", **settings)
    return datasets.load(config, worker or workers.Worker())


def _numbers(part: datasets.Batch | None) -> list[int]:
    """The numbers of examples, after a check that all arrays are of these."""
    assert part is not None
    number = part.y
    np.testing.assert_array_equal(part.x["image"], np.ones([1, 2, 3]) * number[:, None, None])
    assert part.x["name"].tolist() == [f"n{i}" for i in number]
    np.testing.assert_array_equal(part.weight, number / 2)
    return list(number)


@pytest.mark.parametrize(
    ("settings", "count"),
    [({}, 0), ({"validation_examples": 7}, 7), ({"validation_fraction": 0.25}, None)],
)
def test_validation_examples_are_set_apart_by_the_seed(
    tmp_path: pathlib.Path, settings: dict[str, Any], count: int | None
) -> None:
    """The parts are disjoint, complete, the same in all arrays, and in order."""
    found = []
    for seed in (0, 0, 1):
        data = _load(tmp_path, "data", seed=seed, **settings)
        train = _numbers(data.train)
        validation = _numbers(data.validation) if data.validation else []
        assert sorted(train + validation) == list(range(30))
        assert (train, validation) == (sorted(train), sorted(validation))
        assert len(validation) == count if count is not None else 0 < len(validation) < 20
        assert (data.num_train, data.num_validation) == (len(train), len(validation))
        assert (data.features, data.label, data.preprocessing, data.truth) == ((), "", None, None)
        found.append(validation)
    assert found[0] == found[1]
    assert count == 0 or found[1] != found[2]


@pytest.mark.parametrize("batch_size", [0, 8])
def test_workers_share_the_examples(tmp_path: pathlib.Path, batch_size: int) -> None:
    """Each worker holds its part of a full batch; the fingerprints sum to that of one process."""
    settings = {"batch_size": batch_size, "validation_examples": 7}
    alone = _load(tmp_path, "data", **settings)
    parts = [_load(tmp_path, "data", workers.Worker(i, 2), **settings) for i in range(2)]
    assert [part.num_train for part in parts] == [23, 23]
    held = [_numbers(part.train) for part in parts]
    assert sorted(held[0] + held[1]) == sorted(_numbers(alone.train) * (2 if batch_size else 1))
    validation = [i for part in parts for i in _numbers(part.validation)]
    assert sorted(validation) == _numbers(alone.validation)
    assert sum(part.fingerprint() for part in parts) % 2**48 == alone.fingerprint()


@pytest.mark.parametrize(
    ("function", "settings", "words"),
    [
        *(
            ("data", {name: value}, f"--{name}={value} has no effect, as data in ")
            for name, value in {
                "label": "y",
                "features": "a,b",
                "categorical": "a",
                "missing": "drop",
                "standardize": True,
            }.items()
        ),
        ("few", {"validation_examples": 1}, "at least 2 rows must be left to train on"),
        ("few", {"validation_fraction": 0.9}, "at least 2 examples must be left to train on"),
        ("none", {}, "at least 2 examples must be left to train on; received 0 of 0"),
        ("texts", {}, "all arrays must have the same first dimension; received x [], y [], weight"),
        ("raising", {}, "making the data raised IndexError"),
    ],
)
def test_what_does_not_fit_costs_one_line(
    tmp_path: pathlib.Path, function: str, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(errors.InputError) as caught:
        _load(tmp_path, function, **settings)
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert str(tmp_path) in message
