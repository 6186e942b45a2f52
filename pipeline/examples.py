"""The examples: drawn from a line, or read from a CSV file. numpy only.

So that a mistake in a file is answered before TensorFlow is imported.
"""

import csv
import math
import os
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline import config as config_lib
from pipeline import errors

Array = npt.NDArray[np.float32]

_SYNTHETIC_VALIDATION_EXAMPLES = 201
_LARGEST = float(np.finfo(np.float32).max)
# Streams of random numbers that one seed gives.
_TRAINING_NOISE, _VALIDATION_NOISE, _VALIDATION_ROWS = range(3)


class Examples(NamedTuple):
    """Inputs and labels.

    Attributes:
      x: [N] for one feature, [N, D] for D features.
      y: [N].
    """

    x: Array
    y: Array


class Data(NamedTuple):
    """What a run is trained and measured on.

    Attributes:
      train: The training examples.
      validation: Examples that are only measured, or None.
      features: D names, in the order of the columns of x.
      label: The name of y.
    """

    train: Examples
    validation: Examples | None
    features: tuple[str, ...]
    label: str


def load(config: config_lib.Config) -> Data:
    """Makes or reads the examples that the config asks for.

    Raises:
      errors.InputError: the CSV file can't be used as it is, or a setting doesn't fit the
        number of examples.
    """
    data = _load_csv(config) if config.data else _load_synthetic(config)
    config.check_steps(len(data.train.y))
    return data


def _load_synthetic(config: config_lib.Config) -> Data:
    count = config.validation_examples
    if count is None:
        count = _SYNTHETIC_VALIDATION_EXAMPLES
    train = synthetic(config, config.num_examples, stream=_TRAINING_NOISE)
    validation = synthetic(config, count, stream=_VALIDATION_NOISE) if count else None
    return Data(train, validation, features=("x",), label="y")


def synthetic(config: config_lib.Config, count: int, *, stream: int) -> Examples:
    """Draws y = true_w * x + true_b + noise at `count` evenly spaced x.

    The same bits for the same seed and stream.
    """
    x = np.linspace(config.x_min, config.x_max, count, dtype=np.float32)
    generator = np.random.default_rng([config.seed, stream])
    y = generator.standard_normal(count, dtype=np.float32)
    y *= np.float32(config.noise_stddev)
    y += np.float32(config.true_w) * x
    y += np.float32(config.true_b)
    return Examples(x, y)


def _load_csv(config: config_lib.Config) -> Data:
    header = read_header(config.data)
    label = config.label or header[-1]
    _check_columns(config.data, header, [label], flag="label")
    features = split_names(config.features) or [name for name in header if name != label]
    _check_columns(config.data, header, features, flag="features")
    if label in features:
        raise errors.InputError(f"--features must not contain the label {label!r}")
    if not features:
        raise errors.InputError(
            f"{config.data}: needs a feature column beside the label {label!r}; its "
            f"only column is {label!r}"
        )
    table = read_columns(config.data, [*features, label])
    x = table[:, 0] if len(features) == 1 else table[:, :-1]
    examples = Examples(np.ascontiguousarray(x), np.ascontiguousarray(table[:, -1]))
    train, validation = _set_apart(examples, config)
    return Data(train, validation, tuple(features), label)


def _set_apart(examples: Examples, config: config_lib.Config) -> tuple[Examples, Examples | None]:
    """Splits off the validation rows; both parts keep the order of the file."""
    rows, count = len(examples.y), config.validation_examples or 0
    if rows - count < 2:
        raise errors.InputError(
            f"{config.data}: at least 2 rows must be left to train on; received "
            f"{rows} row{'s' * (rows != 1)}"
            + (f" and --validation_examples={count}" if count else "")
        )
    if not count:
        return examples, None
    generator = np.random.default_rng([config.seed, _VALIDATION_ROWS])
    chosen = np.zeros(rows, bool)
    chosen[generator.permutation(rows)[:count]] = True
    return (
        Examples(examples.x[~chosen], examples.y[~chosen]),
        Examples(examples.x[chosen], examples.y[chosen]),
    )


def split_names(names: str) -> list[str]:
    """The column names in a flag such as 'a,b'."""
    return [name.strip() for name in names.split(",") if name.strip()]


def read_header(path: str) -> list[str]:
    """The column names of a CSV file.

    Raises:
      errors.InputError: no such file, nothing in it, or a first line that doesn't
        name each column once.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise errors.InputError(f"{path}: must be a file on disk, which is read several times")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            header = [name.strip() for name in next(csv.reader(file), [])]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, error) from error
    if not any(header):
        raise errors.InputError(
            f"{path}: the first line is empty; expected a header and rows of numbers"
        )
    if all(_is_number(name) for name in header):
        raise errors.InputError(
            f"{path}: the first line must name the columns; received {','.join(header)!r}"
        )
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated or "" in header or any("\n" in name for name in header):
        raise errors.InputError(
            f"{path}: the first line must name each column once; received {','.join(header)!r}"
        )
    return header


def _check_columns(path: str, header: list[str], names: list[str], *, flag: str = "") -> None:
    asked_by = f" (--{flag})" if flag else ""
    for name in names:
        if name not in header:
            raise errors.InputError(
                f"{path}: has no column {name!r}{asked_by}; its columns are {', '.join(header)}"
            )
    if len(set(names)) < len(names):
        raise errors.InputError(f"--{flag} must name each column once; received {names}")


def read_columns(path: str, names: list[str]) -> Array:
    """Reads some columns of a CSV file as finite float32 numbers.

    Args:
      path: A CSV file with a header line.
      names: Names of columns that the header contains.

    Returns:
      [rows, len(names)].

    Raises:
      errors.InputError: a cell is not a finite number (the message says which one),
        a row has a cell too many or too few, or there are no rows.
    """
    header = read_header(path)
    _check_columns(path, header, names)
    columns = [header.index(name) for name in names]
    try:
        with open(path, encoding="utf-8-sig") as file:
            next(file)
            has_rows = any(line.strip() for line in file)
        if not has_rows:
            raise errors.InputError(f"{path}: has a header but no rows below it")
        if len(columns) < len(header) and (problem := _bad_cell(path, header, [])):
            raise problem  # of rows that it takes parts of, loadtxt doesn't count the cells
        table = np.loadtxt(
            path,
            dtype=np.float32,
            delimiter=",",
            comments=None,
            quotechar='"',
            skiprows=1,
            usecols=columns if len(columns) < len(header) else None,
            ndmin=2,
            encoding="utf-8-sig",
        )
    except ValueError as error:  # UnicodeDecodeError is one
        raise _bad_cell(path, header, columns) or _unreadable(path, error) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    if not np.isfinite(table).all():
        raise _bad_cell(path, header, columns) or errors.InputError(
            f"{path}: has a number that is not finite as float32"
        )
    if len(columns) < len(header):
        return table
    if table.shape[1] != len(header):
        raise _bad_cell(path, header, columns) or errors.InputError(
            f"{path}: has rows of {table.shape[1]} cells below {len(header)} column names"
        )
    return table if columns == list(range(len(header))) else table[:, columns]


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
                for column in columns:
                    if not _is_number(cells[column]):
                        return errors.InputError(
                            f"{path}: line {reader.line_num}, column "
                            f"{header[column]!r}: expected a finite number; received "
                            f"{cells[column]!r}"
                        )
    except (OSError, UnicodeDecodeError, csv.Error):
        pass  # the caller knows the cause
    return None


def _is_number(cell: str) -> bool:
    if "_" in cell or not cell.isascii():
        return False  # Python would take them for numbers, numpy doesn't
    try:
        return math.isfinite(float(cell)) and abs(float(cell)) <= _LARGEST
    except ValueError:
        return False


def _unreadable(path: str, error: Exception) -> errors.InputError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return errors.InputError(f"{path}: can't be read as a CSV file: {reason}")
