"""Tests of pipeline.data.text_tables."""

import csv
import gzip
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pipeline import errors
from pipeline.data import text_tables


def _file(directory: pathlib.Path, content: str | bytes) -> str:
    """The path of a file with this content."""
    path = directory / "data.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def _read(path: str, names: list[str] | None = None, **options: Any) -> np.ndarray:
    """The numbers in some columns, or all."""
    table = text_tables.open_file(path)
    blocks = table.rows(names or table.header, **options)
    return np.concatenate([np.column_stack(list(columns.values())) for columns in blocks])


@pytest.mark.parametrize(
    ("content", "names", "table"),
    [
        pytest.param("a,y\n1,2\n3,4\n", ["a", "y"], [[1, 2], [3, 4]], id="all columns"),
        pytest.param("a\n1\n3\n", ["a"], [[1], [3]], id="one column"),
        pytest.param("a,y\n1,2\n", ["a", "y"], [[1, 2]], id="one row"),
        pytest.param("a,b,y\n1,2,3\n4,5,6\n", ["b"], [[2], [5]], id="one of several"),
        pytest.param("a,b,y\n1,2,3\n4,5,6\n", ["y", "a"], [[3, 1], [6, 4]], id="order asked for"),
        pytest.param(
            "a,b,y\n1,2,3\n4,5,6\n", ["b", "y", "a"], [[2, 3, 1], [5, 6, 4]], id="all reordered"
        ),
        pytest.param('"a, in m","y"\n"1",2\n', ["a, in m", "y"], [[1, 2]], id="quotes"),
        pytest.param("\ufeffa,y\n1,2\n", ["a", "y"], [[1, 2]], id="BOM"),
        pytest.param("a , y\r\n1, 2\r\n3,4", ["a", "y"], [[1, 2], [3, 4]], id="Windows, blanks"),
        pytest.param("a,y\n\n1,2\n\n\n3,4\n\n", ["a", "y"], [[1, 2], [3, 4]], id="empty lines"),
        pytest.param("#a,y\n1,2\n", ["#a", "y"], [[1, 2]], id="hash in the header"),
        pytest.param(
            "a,y\n1e-3,-2E2\n.5,+4.\n", ["a", "y"], [[1e-3, -200], [0.5, 4]], id="number formats"
        ),
        pytest.param('a,t,y\n1,"x,y",2\n3,,4\n', ["a", "y"], [[1, 2], [3, 4]], id="unread text"),
        pytest.param("a;y\n1;2\n", ["y", "a"], [[2, 1]], id="semicolons"),
        pytest.param("a\ty\n1\t2\n", ["y", "a"], [[2, 1]], id="tabs"),
        pytest.param("a|y\n1|2\n", ["y", "a"], [[2, 1]], id="bars"),
        pytest.param('"a;b,c";y\n1;2\n', ["a;b,c"], [[1]], id="semicolons with quotes"),
        pytest.param(gzip.compress(b"a,y\n1,2\n3,4\n"), ["y"], [[2], [4]], id="gzip"),
        pytest.param('a,t,y\n1,"x\ny",2\n3,"""",4\n', ["y"], [[2], [4]], id="lines in quotes"),
        pytest.param("a,y\n1,2\r\n3,4\r5,6\n", ["y"], [[2], [4], [6]], id="CR"),
        pytest.param(
            '{"a": 1, "y": 2}\n\n{"y": "4", "z": [1], "a": 3e0}\n',
            ["y", "a"],
            [[2, 1], [4, 3]],
            id="JSON lines",
        ),
        pytest.param(gzip.compress(b'{"a": 1}\n{"a": true}\n'[:9]), ["a"], [[1]], id="JSON, gzip"),
        pytest.param(
            "größe 面积 a\u2028b,y\n1,2\n", ["y", "größe 面积 a\u2028b"], [[2, 1]], id="Unicode"
        ),
    ],
)
def test_columns_are_read(
    tmp_path: pathlib.Path, content: str, names: list[str], table: list[list[float]]
) -> None:
    result = _read(_file(tmp_path, content), names)
    assert result.dtype == np.float64
    np.testing.assert_array_equal(result, table)


def test_numbers_are_the_nearest_float64(tmp_path: pathlib.Path) -> None:
    """Python wrote the file, and Python reads the same numbers from it."""
    numbers = np.random.default_rng(0).normal(size=(50, 3))
    numbers[0] = np.finfo(np.float64).max, np.finfo(np.float64).tiny, -0.0
    path = tmp_path / "data.csv"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([["a", "b", "c"], *map(list, numbers)])
    assert _read(str(path), ["a", "b", "c"]).tobytes() == numbers.tobytes()


def test_header_gives_the_column_names(tmp_path: pathlib.Path) -> None:
    path = _file(tmp_path, '\ufeff a ,"b, in m",y\r\nnot,a,number\r\n')
    assert text_tables.open_file(path).header == ["a", "b, in m", "y"]


_GOOD = "a,b,y\n1,2,3\n4,5,6\n7,8,9\n"


def _bad_files() -> Iterator[Any]:
    """Yields files that can't be read, and the expected words of the message."""
    yield pytest.param(None, ["No such file"], id="missing")
    yield pytest.param("", ["empty"], id="empty")
    yield pytest.param("\n\n", ["empty"], id="empty lines")
    yield pytest.param("a,b,y\n", ["no rows"], id="header only")
    yield pytest.param("a,b,y\n\n\n", ["no rows"], id="header and empty lines")
    yield pytest.param("1,2\n3,4\n5,6\n", ["first line", "'1,2'"], id="no header")
    yield pytest.param("a,b,a\n1,2,3\n4,5,6\n", ["once", "'a,b,a'"], id="repeated names")
    yield pytest.param("a,,y\n1,2,3\n4,5,6\n", ["each column", "'a,,y'"], id="nameless column")
    for name in ("a\nb", "a\x1b[31mb", "a\x00b", "a\tb", "a\x7fb", "a\x9b2Jb"):
        yield pytest.param(
            f'"{name}",y\n1,2\n3,4\n', ["control character", repr(name)], id=f"name {name!r}"
        )
    wide = ",".join(map(str, range(10_000)))
    yield pytest.param(f"{wide}\n{wide}\n", ["first line", "0,1,2"], id="no header, many columns")
    for cell in ("oops", "inf", "-inf", "1e999", "1 000", "1_000", "0x1F", "٣"):
        content = _GOOD.replace("5", cell)
        yield pytest.param(content, ["line 3", "'b'", repr(cell)], id=f"cell {cell!r}")
    for cell in ("", " ", "NaN", "NA", "n/a", "null", "None", "?"):
        content = f"{_GOOD}{_GOOD[6:]}".replace("5", cell)
        words = ["line 3, column 'b': the value is missing", "values: 2;", "--missing=drop"]
        yield pytest.param(content, words, id=f"missing {cell!r}")
    yield pytest.param(
        "city,b,kind\nOslo,2,flat\nBonn,x,house\n",
        ["'city' ('Oslo')", "'kind' ('flat')", "are text", "--categorical"],
        id="texts",
    )
    yield pytest.param(
        "a,b,y\n,2,1\nlow,2,3\n", ["'a' ('low') is text", "--categorical"], id="late text"
    )
    yield pytest.param("a;b\n1;2\n3,4\n", ["line 3", "1 cells", "';'"], id="mixed separators")
    yield pytest.param(gzip.compress(b"a,y\n1,2\n")[:-9], ["can't be read"], id="cut gzip")
    yield pytest.param("a,b,y\n1,2,3\n\n4,x,6\n", ["line 4", "'b'", "'x'"], id="after a gap")
    yield pytest.param(_GOOD.replace("9", "ten"), ["line 4", "'y'", "'ten'"], id="last cell")
    yield pytest.param("a,b,y\n1,2,3\n4,5\n", ["line 3", "2 cells", "3"], id="short row")
    yield pytest.param("a,b,y\n1,2,3\n4,5,6,7\n", ["line 3", "4 cells", "3"], id="long row")
    yield pytest.param("a,y\n1,5,2,5\n3,5,4,5\n", ["line 2", "4 cells", "2"], id="decimal commas")
    yield pytest.param('{"a": 1, "y": 2}\n{"a": 1,\n', ["line 2", "a JSON object"], id="cut JSON")
    yield pytest.param('{"a": 1}\n\n[2]\n', ["line 3", "a JSON object"], id="JSON array")
    yield pytest.param('{"a": 1}\n{"b": 2}\n', ["line 2, column 'a'", "missing"], id="JSON key")
    yield pytest.param('{"a": 1}\n{"a": 1e400}\n', ["line 2", "'Infinity'"], id="JSON, large")
    yield pytest.param("a,y\r1,2\r", ["line ends of \\n"], id="CR alone")
    yield pytest.param("a,y\n1,\xf6\n".encode("latin1"), ["not UTF-8", "save it as"], id="Latin-1")
    yield pytest.param("a,b,y\n1,2,1\n4\n4,5,,\n", ["line 3", "1 cells"], id="short and long rows")
    yield pytest.param("a,b,y\n1,2,3\n4,5,6,", ["line 3", "4 cells"], id="long row at the end")
    yield pytest.param('a,b,y\n1,2,""\n4,5\n', ["line 3", "2 cells"], id="short row after quotes")
    yield pytest.param(b"\x89PNG\r\n\x1a\n\x00\xff", ["can't be read"], id="binary")
    yield pytest.param(b"a,y\n1,2\n\xff\xfe\x00,3\n", ["can't be read"], id="binary below")


@pytest.mark.parametrize(("content", "words"), list(_bad_files()))
def test_bad_file_costs_one_line_that_says_where(
    tmp_path: pathlib.Path, content: str | bytes | None, words: list[str]
) -> None:
    path = str(tmp_path / "none.csv") if content is None else _file(tmp_path, content)
    with pytest.raises(errors.InputError) as caught:
        _read(path)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < len(path) + 400
    assert message.startswith(path)
    assert [word for word in words if word not in message] == []
    if "cells" in message:  # also without the last column
        with pytest.raises(errors.InputError, match=" cells, separated by "):
            _read(path, text_tables.open_file(path).header[:1])


@pytest.mark.parametrize(
    ("names", "flag", "words"),
    [
        (["z"], "label", ["data.csv", "'z'", "(--label)", "['a', 'b', 'y']"]),
        (["a", "z"], "features", ["data.csv", "'z'", "(--features)", "['a', 'b', 'y']"]),
        (["a", "a"], "features", ["--features", "once", "['a', 'a']"]),
    ],
)
def test_columns_that_do_not_fit_the_header_are_named(
    tmp_path: pathlib.Path, names: list[str], flag: str, words: list[str]
) -> None:
    table = text_tables.open_file(_file(tmp_path, _GOOD))
    with pytest.raises(errors.InputError) as caught:
        table.check_columns(names, flag=flag)
    assert [word for word in words if word not in str(caught.value)] == []


def test_the_check_of_many_columns_takes_no_time(tmp_path: pathlib.Path) -> None:
    """It takes milliseconds; making an unneeded message for each column would take seconds."""
    header = [f"column {i}" for i in range(10_000)]
    table = text_tables.open_file(_file(tmp_path, ",".join(header)))
    started = time.monotonic()
    table.check_columns(header, flag="features")
    assert time.monotonic() - started < 1
    with pytest.raises(errors.InputError) as caught:
        table.check_columns(["z"], flag="features")
    assert len(str(caught.value)) < 400


def test_unknown_column_is_not_read(tmp_path: pathlib.Path) -> None:
    with pytest.raises(
        errors.InputError, match=r"has no column 'z'; its columns are \['a', 'b', 'y'\]"
    ):
        _read(_file(tmp_path, _GOOD), ["a", "z"])


def test_directory_in_place_of_a_file_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.InputError, match="Is a directory") as caught:
        text_tables.open_file(str(tmp_path))
    assert str(tmp_path) in str(caught.value)
