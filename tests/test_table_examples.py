"""Tests of examples from tables: files, columns, rows and units."""

import datetime
import gzip
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars
import pytest

from pipeline import config as config_lib
from pipeline import console, errors
from pipeline.data import datasets as datasets_lib
from pipeline.data import least_squares, tables, text_tables
from scripts import tables as shown_tables

_HOUSES = """area,rooms,city,price
50,2,Oslo,200
80,3,Bonn,260
120,5,Oslo,410
65,,Bonn,220
95,4,Rome,300
"""
_NUMBERS = _HOUSES.replace(",city", "").replace(",Oslo", "").replace(",Bonn", "")
_NUMBERS = _NUMBERS.replace(",Rome", "").replace("65,,220\n", "65,2,220\n")
_FUNCTION = """
import numpy as np
def houses():
    return {"area": [50, 80, 120, 65, 95], "rooms": np.array([2, 3, 5, 2, 4]),
            "price": np.array([200, 260, 410, 220, 300.0])}
"""


def _load(data: object, **settings: Any) -> datasets_lib.Datasets:
    return datasets_lib.load(config_lib.Config(data=str(data), **settings))


def _in_units(data: datasets_lib.Datasets) -> np.ndarray:
    """The training examples with their labels, in the units of the data."""
    x, y, _ = data.train
    if data.preprocessing:
        x, y = data.preprocessing.x_in_data_units(x), data.preprocessing.in_data_units(y)
    return np.column_stack([x, y])


def _write(path: pathlib.Path, content: str) -> pathlib.Path:
    path.write_text(content)
    return path


def _sources(folder: pathlib.Path) -> Iterator[tuple[str, str]]:
    """Yields the same table in different forms: a name and the value of --data."""
    header, *rows = _NUMBERS.splitlines(keepends=True)
    _write(folder / "part-1.csv", header + "".join(rows[:2]))
    _write(folder / "part-2.csv", header + "".join(rows[2:]))
    (folder / "h.csv.gz").write_bytes(gzip.compress(_NUMBERS.encode()))
    _write(folder / "semicolons.csv", _NUMBERS.replace(",", ";").replace("\n", "\r\n"))
    _write(folder / "mine.py", _FUNCTION)
    yield "one", str(_write(folder / "h, all.csv", _NUMBERS))
    yield "several", f"{folder}/part-1.csv,{folder}/part-2.csv"
    yield "a pattern", f"{folder}/part-*.csv"
    yield "gzip", f"{folder}/h.csv.gz"
    yield "semicolons and CRLF", f"{folder}/semicolons.csv"
    yield "a function", f"{folder}/mine.py:houses"
    table = polars.read_csv(_NUMBERS.encode())
    table.write_ndjson(folder / "h.jsonl")
    yield "JSON lines", f"{folder}/h.jsonl"
    index = {"pandas": '{"index_columns": ["key"]}'}
    table.with_columns(key=7).write_parquet(folder / "h.parquet", metadata=index)
    yield "Parquet", f"{folder}/h.parquet"


@pytest.mark.parametrize("rows", [1, 2, 2**16])
def test_all_sources_and_blocks_give_the_same_examples(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """Blocks may have any number of rows, and the seed may choose validation rows."""
    monkeypatch.setattr(tables, "ROWS", rows)
    monkeypatch.setattr(text_tables, "PIECE", 8 * rows)
    for settings in ({}, {"validation_examples": 2}, {"validation_fraction": 0.4}):
        found = {name: _load(data, **settings) for name, data in _sources(tmp_path)}
        first = found["one"]
        expected = np.loadtxt(tmp_path / "h, all.csv", delimiter=",", skiprows=1)
        if not settings:
            np.testing.assert_allclose(_in_units(first), expected, rtol=1e-6)
        for name, data in found.items():
            assert data.features == ("area", "rooms")
            np.testing.assert_allclose(data.train.x, first.train.x, rtol=2e-6)
            if rows == 2**16 and name not in ("several", "a pattern"):  # else in other blocks
                assert data.fingerprint() == first.fingerprint()


def test_columns_have_mean_0_and_deviation_1() -> None:
    """The training rows do; the validation rows use the same mean and deviation."""
    table = shown_tables.california_like()
    data = _load_columns(table, validation_fraction=0.25)
    assert data.validation is not None
    assert 0.23 < len(data.validation.y) / 20_640 < 0.27
    for array in data.train.arrays:
        np.testing.assert_allclose(array.mean(axis=0, dtype=np.float64), 0, atol=1e-6)
        np.testing.assert_allclose(array.std(axis=0, dtype=np.float64), 1, atol=1e-6)
    both = np.vstack([_in_units(data), _in_units(data._replace(train=data.validation))])
    expected = np.column_stack(list(table.values()))
    found, expected = (np.sort(array / expected.std(axis=0), axis=0) for array in (both, expected))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def _load_columns(columns: dict[str, Any], **settings: Any) -> datasets_lib.Datasets:
    """The datasets of a table, written to a CSV file."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "table.csv")
        shown_tables.write({name: np.asarray(c) for name, c in columns.items()}, path)
        return _load(path, **settings)


_RANDOM = np.random.default_rng(0)
_NORMAL = _RANDOM.normal(size=200)
_HARD: dict[str, dict[str, Any]] = {
    "timestamps": {"t": 1.7e9 + np.arange(200.0), "y": np.arange(200.0)},
    "sorted years": {"year": np.repeat(np.arange(1950, 2000), 4), "y": _NORMAL},
    "far label": {"x": _NORMAL, "y": 1e12 + _NORMAL},
    "large": {"x": 1e300 * _NORMAL, "y": 1e250 * _NORMAL[::-1]},
    "small": {"x": 1e-300 * _NORMAL, "y": 1e-250 * _NORMAL[::-1]},
    "an outlier first": {"x": np.append(1e9, _NORMAL[1:]), "y": _NORMAL},
}


@pytest.mark.parametrize("rows", [3, 2**16])
@pytest.mark.parametrize("name", _HARD)
def test_no_digit_is_lost_that_the_standardized_problem_needs(
    monkeypatch: pytest.MonkeyPatch, name: str, rows: int
) -> None:
    """The float64 numbers exceed float32's precision or range, and may be sorted."""
    monkeypatch.setattr(text_tables, "PIECE", 40 * rows)
    x, y = (np.asarray(column, np.longdouble) for column in _HARD[name].values())
    data = _load_columns(_HARD[name])
    for found, column in ((data.train.x[:, 0], x), (data.train.y, y)):
        expected = (column - column.mean()) / column.std()
        np.testing.assert_allclose(found, expected.astype(np.float64), rtol=1e-6, atol=1e-6)


def test_columns_that_say_nothing_or_the_same_are_handled() -> None:
    """A constant column has W = 0; two equal columns have half of W each."""
    data = _load_columns({"x": _NORMAL, "c": np.full(200, 7.3), "x2": _NORMAL, "y": 2 * _NORMAL})
    assert not data.train.x[:, 1].any()
    solved = data.least_squares
    assert solved
    assert data.preprocessing
    (values,) = least_squares.in_data_units(solved.solution[None], data.preprocessing)
    np.testing.assert_allclose(values, [1, 0, 1, 0], atol=1e-9)


def test_reading_shows_that_it_is_alive(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every block seems slow here; compressed files also know the fraction read."""
    monkeypatch.setattr(console.LiveLine, "is_due", lambda _: True)
    monkeypatch.setattr(tables, "ROWS", 3)
    monkeypatch.setattr(text_tables, "PIECE", 10)
    sources = dict(_sources(tmp_path))
    for name in ("one", "several", "gzip", "a function"):
        _load(sources[name])
        *_, last = capsys.readouterr().out.splitlines()
        assert last.startswith("Reading ")
        assert last.endswith(": 100%")


def test_texts_become_indicators(tmp_path: pathlib.Path) -> None:
    path = _write(tmp_path / "h.csv", _HOUSES)
    table = polars.read_csv(path)
    table.cast({"city": polars.Categorical}).write_parquet(tmp_path / "h.parquet")
    table.write_ndjson(tmp_path / "h.jsonl")
    expected = [
        *([50, 2, 0, 1, 0, 200], [80, 3, 1, 0, 0, 260]),
        *([120, 5, 0, 1, 0, 410], [95, 4, 0, 0, 1, 300]),
    ]
    for name in ("h.csv", "h.parquet", "h.jsonl"):
        data = _load(tmp_path / name, categorical="city", missing="drop")
        assert data.dropped == 1
        assert data.features == ("area", "rooms", "city=Bonn", "city=Oslo", "city=Rome")
        np.testing.assert_allclose(_in_units(data), expected, rtol=1e-6, atol=1e-5)


def test_which_rows_are_held_out_does_not_depend_on_later_ones(tmp_path: pathlib.Path) -> None:
    """With --validation_fraction the seed chooses about that fraction.

    Each row is in one of the parts, x with its y, in the order of the file.
    """
    rows = [f"{i},{i}" for i in range(1000)]

    def chosen(count: int, **more: Any) -> set[float]:
        path = _write(tmp_path / "t.csv", "\n".join(["x,y", *rows[:count]]))
        data = _load(path, **{"validation_fraction": 0.3, "standardize": False} | more)
        assert data.validation is not None
        for part in (data.train, data.validation):
            assert part.x[:, 0].tolist() == part.y.tolist() == sorted(part.y)
        assert sorted([*data.train.y, *data.validation.y]) == list(range(count))
        return set(data.validation.y.tolist())

    assert len(chosen(1000, validation_fraction=0.0, validation_examples=12)) == 12

    assert chosen(600) == {y for y in chosen(1000) if y < 600}
    assert 250 < len(chosen(1000)) < 350
    assert chosen(1000, seed=1) != chosen(1000)


_BAD = [
    ("nowhere.csv", {}, "nowhere.csv: there is no such file"),
    ("part-*.csv", {}, "part-*.csv: there is no such file"),
    ("h.csv", {}, "the column 'city' ('Oslo') is text; name it in --categorical, or choose others"),
    ("h.csv", {"categorical": "city"}, "line 5, column 'rooms': the value is missing; rows "),
    ("h.csv", {"categorical": "town"}, "has no column 'town' (--categorical)"),
    (
        "h.csv",
        {"categorical": "city", "features": "area"},
        "--categorical names 'city', which is none of the features",
    ),
    ("h.csv,n.csv", {}, "n.csv: its columns ['area', 'rooms', 'price'] are not those of h.csv"),
    ("mine.py:missing", {}, "row 2, column 'a': the value is missing; rows with "),
    ("mine.py:masked", {}, "row 1, column 'a': the value is missing; rows with "),
    ("mine.py:text", {}, "the column 'a' ('x') is text"),
    ("mine.py:ragged", {}, "of one length by their names, or arrays (x, y); received {'a': [2]"),
    ("mine.py:nothing", {}, "mine.py:nothing: making the data raised TypeError"),
    ("mine.py:none", {}, "defines no none"),
    ("bad.parquet", {}, "bad.parquet: can't be read as a Parquet file"),
    ("dates.parquet", {}, "row 1, column 'd': must hold numbers or texts; received Date"),
    ("gone.csv", {"missing": "drop"}, "at least 2 rows must be left to train on; received 0 of 0"),
    (
        "large.csv",
        {"standardize": False},
        "the column 'x' has numbers that are too large for float",
    ),
    ("ids.csv", {"categorical": "id"}, "'id' has more than 1,000 different texts, too many"),
    ("one.csv", {}, "one.csv: at least 2 rows must be left to train on; received 1 of 1"),
    ("n.csv", {"label": "z"}, "has no column 'z' (--label); its columns are ['area', 'rooms', 'pr"),
    ("n.csv", {"features": "area,z"}, "n.csv: has no column 'z' (--features); its columns are"),
    ("n.csv", {"features": "area,area"}, "--features must name each column once; received ['area'"),
    ("n.csv", {"features": "price"}, "--features must not contain the label 'price'"),
    ("colons.csv", {}, "colons.csv: needs a feature beside the label 'a:y'"),
    ("n.csv", {"validation_examples": 4}, "received 5 rows and --validation_examples=4"),
    ("n.csv", {"validation_fraction": 0.5, "validation_examples": 2}, "exclude each other"),
]


@pytest.mark.parametrize(("data", "settings", "words"), _BAD)
def test_a_bad_table_costs_one_line(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    data: str,
    settings: dict[str, Any],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    _write(tmp_path / "h.csv", _HOUSES)
    _write(tmp_path / "n.csv", _NUMBERS)
    _write(tmp_path / "one.csv", "a,b,y\n1,2,3\n")
    _write(tmp_path / "colons.csv", "a:y\n1:2\n3:4\n")
    _write(tmp_path / "gone.csv", "x,y\n,1\n2,\n")
    _write(tmp_path / "large.csv", "x,y\n1e39,1\n2,3\n3,4\n")
    _write(tmp_path / "ids.csv", "id,y\n" + "".join(f"n{i},{i}\n" for i in range(1100)))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    dates = polars.DataFrame({"d": [datetime.date(2026, 11, 30)], "y": [1]})
    dates.write_parquet(tmp_path / "dates.parquet")
    _write(
        tmp_path / "mine.py",
        "nan = float('nan')\n"
        "def missing():\n    return {'a': [1, nan, 3], 'y': [1, 2, 3]}\n"
        "class NA:  # as that of pandas\n"
        "    __eq__ = __ne__ = lambda self, other: self\n"
        "    __bool__ = lambda self: 1 / 0\n"
        "    __repr__ = lambda self: '<NA>'\n"
        "def masked():\n    return {'a': [NA(), 2, 3], 'y': [1, 2, 3]}\n"
        "def text():\n    return {'a': ['x', 'y'], 'y': [1, 2]}\n"
        "def ragged():\n    return {'a': [1, 2], 'y': [1, 2, 3]}\n"
        "def nothing():\n    return None\n",
    )
    with pytest.raises(errors.InputError) as caught:
        _load(data, **settings)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


_MEMORY = """
import pathlib, resource, sys
from pipeline import config, console
from pipeline.data import datasets
path = pathlib.Path(sys.argv[1])
small = path.with_name("small.csv")
small.write_text("a,b,c,d,e,f,g,y\\n" + "1,2,3,4,5,6,7,8\\n9,8,7,6,5,4,3,2\\n" * 10)
def peak(path, **more):
    datasets.load(config.Config(data=str(path), model="mlp", **more))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak(small)
print(peak(path, **eval(sys.argv[2])) - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"features": "a,b,c"}])
def test_a_table_takes_three_times_its_float32_size(
    tmp_path: pathlib.Path, settings: dict[str, str]
) -> None:
    """This is the peak while it is read, also if some columns are left out."""
    rows = "".join(f"{i},{i % 7},0.123456789,1e-3,5.5,{i % 3},7,{i % 11}\n" for i in range(1000))
    path = _write(tmp_path / "t.csv", "a,b,c,d,e,f,g,y\n" + rows * 1500)
    command = [sys.executable, "-c", _MEMORY, str(path), repr(settings)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    size = 1_500_000 * 4 * (4 if settings else 8)
    assert int(result.stdout) < 3 * size + 20e6  # and the blocks
