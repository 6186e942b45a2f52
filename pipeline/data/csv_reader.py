"""Reads CSV files: a header line, then rows of numbers. numpy alone.

So that a mistake in a file is reported before TensorFlow is imported.
"""

import csv
import itertools
import math
import os
import reprlib
import unicodedata
from collections.abc import Iterator
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from pipeline import errors

Array = npt.NDArray[np.float32]

_LARGEST = float(np.finfo(np.float32).max)
_short = reprlib.Repr()
_short.maxlist, _short.maxstring = 20, 200


def read_header(path: str) -> list[str]:
    """The column names of a CSV file.

    Raises:
      errors.InputError: no such file, nothing in it, or a first line that doesn't
        name each column once in characters that can be printed.
    """
    is_file = not os.path.exists(path) or os.path.isfile(path)
    errors.require(is_file, f"{path}: must be a file on disk, which is read several times")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            header = [name.strip() for name in next(csv.reader(file), [])]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, error) from error
    errors.require(any(header), f"{path}: the first line is empty; it must be a header")
    received = f"received {_short.repr(','.join(header))}"
    is_names = not all(is_number(name) for name in header)
    errors.require(is_names, f"{path}: the first line must name the columns; {received}")
    is_unique = len(set(header)) == len(header) and "" not in header
    errors.require(is_unique, f"{path}: the first line must name each column once; {received}")
    is_control = lambda character: unicodedata.category(character) == "Cc"  # noqa: E731
    odd = next((name for name in header if any(map(is_control, name))), None)
    errors.require(
        odd is None, f"{path}: the name of a column has a control character: {_short.repr(odd)}"
    )
    return header


def check_columns(path: str, header: list[str], names: list[str], *, flag: str = "") -> None:
    """Raises errors.InputError if the header lacks a name, or --<flag> gives one twice."""
    asked_by = f" (--{flag})" if flag else ""
    known = set(header)
    missing = next((name for name in names if name not in known), None)
    errors.require(
        missing is None,
        f"{path}: has no column {missing!r}{asked_by}; its columns are {_short.repr(header)}",
    )
    is_unique = len(set(names)) == len(names)
    errors.require(is_unique, f"--{flag} must name each column once; received {_short.repr(names)}")


def count_rows(path: str) -> int:
    """The number of rows below the header."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return sum(1 for _ in _rows(file))
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def read_columns(path: str, names: list[str], rows: npt.NDArray[np.bool_] | None = None) -> Array:
    """Reads columns by their names, as finite float32 numbers [rows, len(names)].

    With `rows` it reads only those for which that is true.

    Raises:
      errors.InputError: a cell is not a finite number (the message says which one),
        a row has a cell too many or too few, or there are no rows.
    """
    header = read_header(path)
    check_columns(path, header, names)
    positions = {name: position for position, name in enumerate(header)}
    columns = [positions[name] for name in names]
    reads_all = len(columns) == len(header)
    try:
        with open(path, encoding="utf-8-sig") as file:
            has_rows = any(line.strip() for line in _rows(file))
        errors.require(has_rows, f"{path}: has a header but no rows below it")
        if not reads_all and (problem := _bad_cell(path, header, [])):
            raise problem  # loadtxt does not count the cells of rows that it reads in part
        table = _load(path, None if reads_all else columns, rows)
        if not np.isfinite(table).all() or table.shape[1] != len(columns):
            raise ValueError("a number is not finite as float32, or a row has another length")
    except (OSError, ValueError) as error:  # UnicodeDecodeError is one
        raise _bad_cell(path, header, columns) or _unreadable(path, error) from error
    is_in_order = not reads_all or columns == list(range(len(header)))
    return table if is_in_order else table[:, columns]


def _rows(file: TextIO) -> Iterator[str]:
    """The lines below the header that are not empty."""
    next(file)
    return (line for line in file if line.strip("\r\n"))


def _load(path: str, columns: list[int] | None, rows: npt.NDArray[np.bool_] | None) -> Array:
    """The numbers below the header.

    numpy.loadtxt is as fast here as pandas, pyarrow or polars, in half their memory.
    """
    format_: Any = {"delimiter": ",", "comments": None, "quotechar": '"', "encoding": "utf-8-sig"}
    format_ |= {"dtype": np.float32, "usecols": columns, "ndmin": 2}
    if rows is None:
        return np.loadtxt(path, skiprows=1, **format_)
    with open(path, encoding="utf-8-sig") as file:
        return np.loadtxt(itertools.compress(_rows(file), rows), **format_)


def _bad_cell(path: str, header: list[str], columns: list[int]) -> errors.InputError | None:
    """Finds the first cell that is no finite float32, the slow way."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            next(reader)
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(header):
                    return errors.InputError(
                        f"{path}: line {reader.line_num} has {len(cells)} cells; the "
                        f"header names {len(header)} columns"
                    )
                bad = (column for column in columns if not is_number(cells[column]))
                if (column := next(bad, None)) is not None:
                    return errors.InputError(
                        f"{path}: line {reader.line_num}, column {header[column]!r}: expected a "
                        f"finite number; received {_short.repr(cells[column])}"
                    )
    except (OSError, UnicodeDecodeError, csv.Error):
        pass  # the caller knows the cause
    return None


def is_number(cell: str) -> bool:
    """Whether a text is a number that is finite as float32."""
    if "_" in cell or not cell.isascii():
        return False  # Python would take them for numbers, numpy doesn't
    try:
        return math.isfinite(float(cell)) and abs(float(cell)) <= _LARGEST
    except ValueError:
        return False


def _unreadable(path: str, error: Exception) -> errors.InputError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return errors.InputError(f"{path}: can't be read as a CSV file: {reason}")
