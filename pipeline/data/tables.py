"""Tables: named columns of a file, or of a user's function, read block by block.

This module decides what counts as a number or as missing. polars reads the tables, and is imported
when one is opened.
"""

import abc
import contextlib
import functools
import json
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline import errors

Column = npt.NDArray[Any]  # [N], float64 or texts
Columns = dict[str, Column]

ROWS = 2**16  # of a block of typed columns
# Lower-case texts that stand for a missing value; the last two as pandas writes them.
MISSING = ("", "na", "n/a", "nan", "null", "none", "?", "<na>", "nat")

short = reprlib.Repr()
short.maxlist, short.maxstring = 20, 200


class Block(NamedTuple):
    """Consecutive rows of a table."""

    frame: Any  # a polars.DataFrame; its columns hold texts, numbers or nulls
    place: Callable[[int], str]  # returns the place of a row, such as "x.csv: line 7"
    wrong: Mapping[int, str] = {}  # the problems of malformed rows, by row number
    is_plain: bool = False  # no cell needs quotes in CSV

    def numbers(self, names: Sequence[str]) -> Columns:
        """Returns numeric columns [N]: NaN for a missing value, infinity for other texts."""
        import polars

        for name in names:
            self._check_type(name)
        frame = self.frame.select(polars.col(names).cast(polars.Float64, strict=False))
        return {name: self._filled(name, frame[name]).to_numpy() for name in names}

    def _filled(self, name: str, numbers: Any) -> Any:
        """Fills the nulls of numbers: NaN for a missing value, infinity for other texts."""
        import polars

        if not numbers.null_count():
            return numbers
        texts = self._stripped(name)
        if self.frame[name].dtype == polars.String:
            numbers = texts.cast(polars.Float64, strict=False)
        return numbers.fill_null(polars.Series(np.where(texts == "", np.nan, np.inf)))

    def texts(self, name: str) -> Column:
        """Returns a column as stripped texts [N]; '' stands for a missing value."""
        self._check_type(name)
        return np.array(self._stripped(name).to_list(), np.str_)

    def _stripped(self, name: str) -> Any:
        import polars

        texts = self.frame[name].cast(polars.String).str.strip_chars().fill_null("")
        is_missing = texts.str.to_lowercase().is_in(MISSING)
        return texts.set(is_missing, "") if is_missing.any() else texts

    def _check_type(self, name: str) -> None:
        import polars

        dtype = self.frame[name].dtype
        if not dtype.is_numeric() and dtype not in (polars.Boolean, polars.String, polars.Null):
            problem = f", column {name!r}: must hold numbers or texts; received {dtype}"
            raise errors.InputError(self.place(0) + problem)


def not_finite(column: str, cell: str, expected: str = "a finite number") -> str:
    """The message for a cell that is not a finite number."""
    return f", column {column!r}: expected {expected}; received {cell}"


class Table(abc.ABC):
    """Named columns of numbers and texts.

    Attributes:
      name: The file or function, for messages.
      header: The unique names of the columns.
      part_read: The fraction that has been read, from 0 to 1.
      is_on_disk: Whether it can be read more than once.
      separator: The separator of a CSV file; a comma in other tables.
      dropped: The number of rows that the last call of `rows` left out for missing values.
    """

    name: str
    header: list[str]
    part_read = 0.0
    is_on_disk = True
    separator = ","
    dropped = 0

    @abc.abstractmethod
    def blocks(self, names: Sequence[str]) -> Iterator[Block]:
        """Reads some columns; a block may hold other columns too.

        Raises:
          errors.InputError: the table can't be read.
        """

    def rows(
        self,
        numbers: Sequence[str],
        texts: Sequence[str] = (),
        *,
        weight: str = "",
        drops_missing: bool = False,
    ) -> Iterator[Columns]:
        """Reads some numeric columns and some text columns, many rows at a time.

        Raises:
          errors.InputError: a number is a text or not finite, a number of the column `weight` is
            negative, or a value is missing and `drops_missing` is False.
        """
        names = [*numbers, *texts]
        self.check_columns(names)
        self.dropped, first_missing, is_first = 0, "", True
        for block in self.blocks(names):
            for row, problem in block.wrong.items():
                raise errors.InputError(block.place(row) + problem)
            columns = block.numbers(numbers)
            self._check_numbers(block, columns, weight=weight, is_first=is_first)
            columns |= {name: block.texts(name) for name in texts}
            is_first = False
            missing = {n: c == "" if n in texts else np.isnan(c) for n, c in columns.items()}
            kept = ~np.any(list(missing.values()), axis=0)
            if not kept.all():
                row, self.dropped = int(np.argmin(kept)), self.dropped + int((~kept).sum())
                column = next(name for name in names if missing[name][row])
                first_missing = first_missing or f"{block.place(row)}, column {column!r}"
                columns = {name: values[kept] for name, values in columns.items()}
            if kept.any() and (drops_missing or not first_missing):
                yield columns
        errors.require(not is_first, f"{self.name}: has a header but no rows below it")
        errors.require(
            drops_missing or not first_missing,
            f"{first_missing}: the value is missing; rows with missing values: {self.dropped:,}; "
            "leave them out with --missing=drop",
        )

    def _check_numbers(
        self, block: Block, columns: Columns, *, weight: str, is_first: bool
    ) -> None:
        """Raises errors.InputError for texts, infinite numbers and negative weights."""
        wrong = {n: np.isinf(c) | ((n == weight) & (c < 0)) for n, c in columns.items()}
        bad = {name: np.flatnonzero(rows) for name, rows in wrong.items() if rows.any()}
        if not bad:
            return
        words = [
            f"{name!r} ({short.repr(str(block.frame[name][int(rows[0])]))})"
            for name, rows in bad.items()
            if is_first and not np.isfinite(columns[name]).any()
        ]
        is_one = len(words) == 1
        errors.require(
            not words,
            f"{self.name}: the column{'s' * (not is_one)} {', '.join(words[:10])} "
            f"{'is' if is_one else 'are'} text; name {'it' if is_one else 'them'} in "
            "--categorical, or choose others with --features",
        )
        name = min(bad, key=lambda name: bad[name][0])
        row = int(bad[name][0])
        cell = short.repr(str(block.frame[name][row]))
        expected = "a finite weight of at least 0" if name == weight else "a finite number"
        raise errors.InputError(block.place(row) + not_finite(name, cell, expected))

    def check_columns(self, names: Sequence[str], *, flag: str = "") -> None:
        """Raises errors.InputError if the table lacks a column, or --<flag> names one twice."""
        asked_by = f" (--{flag})" if flag else ""
        known = set(self.header)
        missing = next((name for name in names if name not in known), None)
        errors.require(
            missing is None,
            f"{self.name}: has no column {missing!r}{asked_by}; its columns are "
            f"{short.repr(self.header)}",
        )
        errors.require(
            len(set(names)) == len(names),
            f"--{flag} must name each column once; received {short.repr(list(names))}",
        )


class Files(Table):
    """Several tables with the same columns, concatenated."""

    def __init__(self, tables: list[Table]):
        """Checks the headers; the first one gives the order of the columns."""
        self._tables = tables
        first, self.header = tables[0], tables[0].header
        self.name = f"{first.name} and {len(tables) - 1} more"
        self.is_on_disk = all(table.is_on_disk for table in tables)
        self.separator = first.separator
        for table in tables[1:]:
            errors.require(
                set(table.header) == set(self.header),
                f"{table.name}: its columns {short.repr(table.header)} are not those of "
                f"{first.name}, {short.repr(self.header)}",
            )

    def blocks(self, names: Sequence[str]) -> Iterator[Block]:
        """Reads one table after the other."""
        for i, table in enumerate(self._tables):
            for block in table.blocks(names):
                self.part_read = (i + table.part_read) / len(self._tables)
                yield block


def _typed_blocks(table: Table, frames: Iterable[Any], count: int) -> Iterator[Block]:
    """Yields frames of consecutive rows as blocks; places are row numbers, not lines."""

    def place(first: int, row: int) -> str:
        return f"{table.name}: row {first + row + 1}"

    end = 0
    for frame in frames:
        first, end = end, end + len(frame)
        table.part_read = end / max(1, count)
        yield Block(frame, functools.partial(place, first))


class Parquet(Table):
    """A Parquet file; an index column of pandas is ignored."""

    def __init__(self, path: str):
        """Reads the names of the columns; raises errors.InputError if the file is damaged."""
        import polars

        self.name = path
        with self._readable():
            scan = polars.scan_parquet(path, glob=False)
            types = scan.collect_schema()
            is_levels = [n for n, t in types.items() if t in (polars.Categorical, polars.Enum)]
            self._scan = scan.cast(dict.fromkeys(is_levels, polars.String))
            pandas = json.loads(polars.read_parquet_metadata(path).get("pandas", "{}"))
            self._count = self._scan.select(polars.len()).collect().item()
        self.header = [name for name in types if name not in pandas.get("index_columns", [])]

    def blocks(self, names: Sequence[str]) -> Iterator[Block]:
        """Reads some columns."""
        with self._readable():
            frames = self._scan.select(names).collect_batches(chunk_size=ROWS)
            yield from _typed_blocks(self, frames, self._count)

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        """Re-raises errors of polars as one line."""
        import polars

        try:
            yield
        except (OSError, polars.exceptions.PolarsError) as error:
            raise errors.InputError(
                f"{self.name}: can't be read as a Parquet file: {errors.one_line(error)[:200]}"
            ) from error


class Arrays(Table):
    """Columns in memory."""

    def __init__(self, name: str, columns: Mapping[str, Column]):
        """Keeps the columns [N], by name."""
        self.name, self._columns, self.header = name, columns, list(columns)
        self._count = len(next(iter(columns.values())))

    def blocks(self, names: Sequence[str]) -> Iterator[Block]:
        """Yields some columns."""
        import polars

        pieces = (slice(first, first + ROWS) for first in range(0, self._count, ROWS))
        frames = (polars.DataFrame({n: self._values(n, rows) for n in names}) for rows in pieces)
        return _typed_blocks(self, frames, self._count)

    def _values(self, name: str, rows: slice) -> Any:
        """Returns some values of a column, in a form that polars supports."""
        column = self._columns[name][rows]
        kind = column.dtype.kind
        errors.require(
            kind in "biufOUT",
            f"{self.name}: column {name!r} must hold numbers or texts; received {column.dtype}",
        )
        if kind in "OUT":
            return [str(int(v)) if isinstance(v, bool | np.bool_) else str(v) for v in column]
        return column.astype(np.float64) if kind == "f" else column
