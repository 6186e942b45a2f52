"""Tables: named columns of files, or of what a user's function returns, block by block.

polars reads them, and is imported when a table is opened.
"""

import abc
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline import errors
from pipeline.data import table_block
from pipeline.data.table_block import Block, Float64, Texts, short

ROWS = 2**16  # of a block of typed columns


class Rows(NamedTuple):
    """The values of some columns in consecutive rows."""

    numbers: Float64  # [N, C], finite
    texts: list[Texts]  # [N] each


class Table(abc.ABC):
    """Named columns of numbers and texts.

    Attributes:
      name: The file or function, for messages.
      header: The names of the columns, each of them once.
      part_read: The part that has been read, from 0 to 1.
      is_on_disk: Whether it can be read more than once.
      separator: What is between the cells of a CSV file, and a comma in other tables.
      dropped: Rows that the last call of `rows` left out because of missing values.
    """

    name: str
    header: list[str]
    part_read = 0.0
    is_on_disk = True
    separator = ","
    dropped = 0

    @abc.abstractmethod
    def blocks(self, names: Sequence[str]) -> Iterator[Block]:
        """Reads some columns; a block may hold others, too.

        Raises:
          errors.InputError: the table can't be read.
        """

    def rows(
        self, numbers: Sequence[str], texts: Sequence[str] = (), *, drops_missing: bool = False
    ) -> Iterator[Rows]:
        """Reads some columns of numbers and some of texts.

        Raises:
          errors.InputError: a value is not finite, or is a text; or it is missing, and
            `drops_missing` does not ask to leave out its row.
        """
        names = [*numbers, *texts]
        self.check_columns(names)
        self.dropped, first_missing, is_empty = 0, "", True
        numeric: set[str] = set()  # columns in which a number was found
        for block in self.blocks(names):
            is_empty = False
            for row, problem in block.wrong.items():
                raise errors.InputError(block.place(row) + problem)
            rows = Rows(block.numbers(numbers), [block.texts(name) for name in texts])
            is_finite = bool(np.isfinite(rows.numbers).all())
            if not is_finite:
                self._check(block, rows.numbers, numbers, numeric)
            numeric.update(numbers)
            if not is_finite or any((words == "").any() for words in rows.texts):
                is_missing = np.column_stack(
                    [np.isnan(rows.numbers), *(words == "" for words in rows.texts)]
                )
                kept = ~is_missing.any(axis=1)
                row, self.dropped = int(np.argmin(kept)), self.dropped + int((~kept).sum())
                column = names[int(np.argmax(is_missing[row]))]
                first_missing = first_missing or f"{block.place(row)}, column {column!r}"
                rows = Rows(rows.numbers[kept], [words[kept] for words in rows.texts])
            if drops_missing or not first_missing:
                yield rows
        errors.require(not is_empty, f"{self.name}: has a header but no rows below it")
        errors.require(
            drops_missing or not first_missing,
            f"{first_missing}: the value is missing; rows with missing values: {self.dropped:,}; "
            "leave them out with --missing=drop",
        )

    def _check(self, block: Block, found: Float64, names: Sequence[str], numeric: set[str]) -> None:
        """Raises errors.InputError for columns of texts, and for a number that is not finite."""
        is_bad = np.isinf(found)
        texts = {
            name: str(block.frame[name][int(np.argmax(is_bad[:, i]))])
            for i, name in enumerate(names)
            if is_bad[:, i].any() and name not in numeric and not np.isfinite(found[:, i]).any()
        }
        if texts:
            raise _is_text(self.name, texts)
        if is_bad.any():
            row = int(np.argmax(is_bad.any(axis=1)))
            column = names[int(np.argmax(is_bad[row]))]
            cell = short.repr(str(block.frame[column][row]))
            raise errors.InputError(block.place(row) + table_block.not_finite(column, cell))

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
    """Several tables with the same columns, one below the other."""

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


class _Typed(Table):
    """A table whose columns have types, and whose rows have numbers but no lines."""

    _count: int

    def _block(self, frame: Any, first: int) -> Block:
        self.part_read = min(1.0, (first + len(frame)) / max(1, self._count))
        return Block(frame, lambda row: f"{self.name}: row {first + row + 1}")


class Parquet(_Typed):
    """A Parquet file, without the index that pandas may have added."""

    def __init__(self, path: str):
        """Reads the names of the columns.

        Raises:
          errors.InputError: the file is damaged, or has a name twice.
        """
        import polars

        self.name = path
        try:
            scan = polars.scan_parquet(path, glob=False)
            types = scan.collect_schema()
            of_levels = [
                name for name, dtype in types.items() if dtype in (polars.Categorical, polars.Enum)
            ]
            self._scan = scan.cast(dict.fromkeys(of_levels, polars.String))
            metadata = polars.read_parquet_metadata(path)
            self._count = self._scan.select(polars.len()).collect().item()
        except (OSError, polars.exceptions.PolarsError) as error:
            raise self._unreadable(error) from error
        index = json.loads(metadata.get("pandas", "{}")).get("index_columns", [])
        self.header = [name for name in types if name not in index]

    def _unreadable(self, error: Exception) -> errors.InputError:
        return errors.InputError(
            f"{self.name}: can't be read as a Parquet file: {errors.one_line(error)[:200]}"
        )

    def blocks(self, names: Sequence[str]) -> Iterator[Block]:
        """Reads some columns."""
        import polars

        first = 0
        try:
            scan = self._scan.select(names or self.header[:1])
            for frame in scan.collect_batches(chunk_size=ROWS):
                yield self._block(frame, first)
                first += len(frame)
        except (OSError, polars.exceptions.PolarsError) as error:
            raise self._unreadable(error) from error


class Arrays(_Typed):
    """Columns in memory."""

    def __init__(self, name: str, columns: Mapping[str, npt.NDArray[Any]]):
        """Takes columns [N] by their names."""
        self.name, self._columns, self.header = name, columns, list(columns)
        self._count = len(next(iter(columns.values())))

    def blocks(self, names: Sequence[str]) -> Iterator[Block]:
        """Takes some columns."""
        import polars

        for first in range(0, self._count, ROWS):
            some = slice(first, first + ROWS)
            columns = {n: self._values(n, some) for n in names or self.header[:1]}
            yield self._block(polars.DataFrame(columns), first)

    def _values(self, name: str, rows: slice) -> Any:
        """Some values of a column, in a form that polars has a type for."""
        column = self._columns[name][rows]
        kind = column.dtype.kind
        errors.require(
            kind in "biufOUT",
            f"{self.name}: column {name!r} must hold numbers or texts; received {column.dtype}",
        )
        if kind in "OUT":
            return [str(int(v)) if isinstance(v, bool | np.bool_) else str(v) for v in column]
        return column.astype(np.float64) if kind == "f" else column


def _is_text(name: str, columns: dict[str, str]) -> errors.InputError:
    """The error of columns with texts where numbers should be; `columns` has one text of each."""
    words = [f"{column!r} ({short.repr(text)})" for column, text in columns.items()]
    is_one = len(words) == 1
    return errors.InputError(
        f"{name}: the column{'s' * (not is_one)} {', '.join(words[:10])} "
        f"{'is' if is_one else 'are'} text; name {'it' if is_one else 'them'} in --categorical, or "
        "choose others with --features"
    )
