"""Tables to train on, read block by block: files, or what a function of the user's returns.

Without TensorFlow, so that a mistake in a table is reported before that is imported.
"""

import abc
import reprlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline import errors, tf_runtime, user_code

Float64 = npt.NDArray[np.float64]
Texts = npt.NDArray[np.str_]

ROWS = 2**16  # of a block, at most
# What stands for a missing value, in lower case; the last two as pandas writes them.
MISSING = ("", "na", "n/a", "nan", "null", "none", "?", "<na>", "nat")

short = reprlib.Repr()
short.maxlist, short.maxstring = 20, 200


class Block(NamedTuple):
    """Some consecutive rows, in the order of the columns that were asked for."""

    numbers: Float64  # [N, C], finite
    texts: list[Texts]  # [N] each


class Table(abc.ABC):
    """Named columns of numbers and texts.

    Attributes:
      name: Where it comes from, for messages.
      header: The names of its columns, each of them once.
      part_read: How much of it has been read, from 0 to 1.
      dropped: Rows that were left out, as values were missing, by the last call of `blocks`.
    """

    name: str
    header: list[str]
    part_read = 0.0
    dropped = 0

    @abc.abstractmethod
    def blocks(
        self, numbers: Sequence[str], texts: Sequence[str] = (), *, drops_missing: bool = False
    ) -> Iterator[Block]:
        """Reads some columns of numbers and some of texts.

        Where `drops_missing`, rows in which one of them has no value are left out.

        Raises:
          errors.InputError: a value is missing, or no finite number, or is a text.
        """

    def check_columns(self, names: Sequence[str], *, flag: str = "") -> None:
        """Raises errors.InputError if it lacks a column, or --<flag> names one twice."""
        check_columns(self.name, self.header, names, flag=flag)


def check_columns(table: str, header: list[str], names: Sequence[str], *, flag: str = "") -> None:
    """Raises errors.InputError if a table lacks a column, or --<flag> names one twice."""
    asked_by = f" (--{flag})" if flag else ""
    known = set(header)
    missing = next((name for name in names if name not in known), None)
    errors.require(
        missing is None,
        f"{table}: has no column {missing!r}{asked_by}; its columns are {short.repr(header)}",
    )
    errors.require(
        len(set(names)) == len(names),
        f"--{flag} must name each column once; received {short.repr(list(names))}",
    )


class Files(Table):
    """Several tables with the same columns, one below the other."""

    def __init__(self, tables: list[Table]):
        """Checks the headers; the first one gives the order of the columns."""
        self._tables = tables
        first, self.header = tables[0], tables[0].header
        self.name = f"{first.name} and {len(tables) - 1} more"
        for table in tables[1:]:
            errors.require(
                set(table.header) == set(self.header),
                f"{table.name}: its columns {short.repr(table.header)} are not those of "
                f"{first.name}, {short.repr(self.header)}",
            )

    def blocks(
        self, numbers: Sequence[str], texts: Sequence[str] = (), *, drops_missing: bool = False
    ) -> Iterator[Block]:
        """Reads one after the other."""
        self.dropped = 0
        for i, table in enumerate(self._tables):
            for block in table.blocks(numbers, texts, drops_missing=drops_missing):
                self.part_read = (i + table.part_read) / len(self._tables)
                yield block
            self.dropped += table.dropped


class Columns(Table):
    """A table whose columns come as arrays."""

    @abc.abstractmethod
    def _parts(self, names: Sequence[str]) -> Iterator[dict[str, npt.NDArray[Any]]]:
        """Some columns by name, at most ROWS rows at a time."""

    def blocks(
        self, numbers: Sequence[str], texts: Sequence[str] = (), *, drops_missing: bool = False
    ) -> Iterator[Block]:
        """Reads some columns; what is wrong with a value is said with the number of its row."""
        row = self.dropped = 0
        for part in self._parts([*numbers, *texts]):
            length = len(next(iter(part.values()))) if part else 0
            table = np.empty((length, len(numbers)))
            for i, name in enumerate(numbers):
                table[:, i] = self._as_numbers(part[name], name)
            words = [_as_texts(part[name]) for name in texts]
            is_missing = np.isnan(table)
            for word in words:
                is_missing = np.column_stack([is_missing, np.isin(np.char.lower(word), MISSING)])
            self._check(table, is_missing, [*numbers, *texts], row, drops_missing)
            kept = ~is_missing.any(axis=1)
            self.dropped += length - int(kept.sum())
            yield Block(table[kept], [word[kept] for word in words])
            row += length

    def _as_numbers(self, column: npt.NDArray[Any], name: str) -> Float64:
        """A column as float64, with NaN where a value is missing."""
        if column.dtype.kind in "OUT":
            given = [value for value in column if not is_missing(value)]
            texts = [value for value in given if isinstance(value, str)]
            if texts:
                raise is_text(self.name, {name: str(texts[0])})
            column = np.array([np.nan if is_missing(value) else value for value in column])
        errors.require(
            column.dtype.kind in "biuf",
            f"{self.name}: column {name!r} must hold numbers; received {column.dtype}",
        )
        return column.astype(np.float64)

    def _check(
        self,
        table: Float64,
        is_missing: npt.NDArray[np.bool_],
        names: Sequence[str],
        row: int,
        drops_missing: bool,
    ) -> None:
        """Raises errors.InputError for the first value that is missing, or not finite."""
        bad = is_missing.copy() if not drops_missing else np.zeros_like(is_missing)
        bad[:, : table.shape[1]] |= np.isinf(table)
        if bad.any():
            i, j = (int(indices[0]) for indices in np.nonzero(bad))
            place = f"{self.name}: row {row + i + 1}, column {names[j]!r}"
            if not is_missing[i, j]:
                raise errors.InputError(f"{place}: expected a finite number; received inf")
            count = int(is_missing.any(axis=1).sum())
            raise errors.InputError(
                f"{place}: the value is missing; rows with missing values among the rows "
                f"{row + 1:,} to {row + len(table):,}: {count:,}; leave out with --missing=drop"
            )


class FromFunction(Columns):
    """The columns that a function of the user's returns: a mapping of arrays, or a data frame."""

    def __init__(self, function: user_code.UserFunction):
        """Calls the function.

        Raises:
          errors.InputError: it raises, or returns something else.
        """
        self.name = str(function)
        # The file may import TensorFlow, as for a model beside it.
        with tf_runtime.importing(), user_code.user_errors("making the data", function):
            made = function.load()()
            names = list(made.columns) if hasattr(made, "columns") else list(made)
            self._columns = {str(name): np.asarray(made[name]) for name in names}
        self.header = list(self._columns)
        lengths = {len(column) if column.ndim == 1 else -1 for column in self._columns.values()}
        errors.require(
            len(lengths) == 1 and -1 not in lengths,
            f"{function.flag} must return columns of one length by their names; received "
            + short.repr({name: list(array.shape) for name, array in self._columns.items()}),
        )

    def _parts(self, names: Sequence[str]) -> Iterator[dict[str, npt.NDArray[Any]]]:
        count = len(self._columns[self.header[0]])
        for first in range(0, count, ROWS):
            some = slice(first, first + ROWS)
            self.part_read = min(1.0, (first + ROWS) / count)
            yield {name: self._columns[name][some] for name in names or self.header[:1]}


def is_text(name: str, columns: dict[str, str]) -> errors.InputError:
    """The error of columns with texts where numbers should be; `columns` has one text of each."""
    words = [f"{column!r} ({short.repr(text)})" for column, text in columns.items()]
    is_one = len(words) == 1
    return errors.InputError(
        f"{name}: the column{'s' * (not is_one)} {', '.join(words[:10])} "
        f"{'is' if is_one else 'are'} text; name {'it' if is_one else 'them'} in --categorical, or "
        "choose others with --features"
    )


def is_missing(value: Any) -> bool:
    """Whether a value, or its text, stands for a missing one."""
    return str(value).strip().lower() in MISSING


def _as_texts(column: npt.NDArray[Any]) -> Texts:
    if column.dtype.kind in "UT":
        return np.char.strip(column.astype(np.str_))
    return np.array(["" if is_missing(value) else str(value).strip() for value in column], np.str_)
