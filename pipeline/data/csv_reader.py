"""Reads CSV files, block by block: a header line, then rows. numpy alone."""

import csv
import gzip
import io
import itertools
import math
import os
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import numpy as np

from pipeline import errors
from pipeline.data import tables

_SEPARATORS = ",;\t|"
_GZIP = b"\x1f\x8b"
_MOST_CELLS = 2**20  # of a block
_CHARACTERS = 16  # of a cell, about


class Csv(tables.Table):
    """A CSV file, perhaps compressed by gzip; its header line tells what separates the cells.

    Attributes:
      separator: A comma, a semicolon, a tab or a bar.
    """

    def __init__(self, path: str):
        """Reads the header.

        Raises:
          errors.InputError: no such file, nothing in it, or a first line that doesn't
            name each column once in characters that can be printed.
        """
        self.name = path
        is_file = not os.path.exists(path) or os.path.isfile(path)
        errors.require(is_file, f"{path}: must be a file on disk, which is read several times")
        try:
            with self._opened() as file:
                line = _header_line(file)
                self.separator = max(_SEPARATORS, key=lambda each: len(_cells(line, each)))
                header = _cells(line, self.separator)
        except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
            raise self._unreadable(error) from error
        self.header = [name.strip() for name in header]
        self._check_header()

    def blocks(
        self, numbers: Sequence[str], texts: Sequence[str] = (), *, drops_missing: bool = False
    ) -> Iterator[tables.Block]:
        """Reads some columns, each number as numpy.loadtxt does.

        That is as fast here as pandas, pyarrow or polars, in half their memory.
        """
        self.check_columns([*numbers, *texts])
        places = {name: place for place, name in enumerate(self.header)}
        columns = [places[name] for name in numbers], [places[name] for name in texts]
        size = os.path.getsize(self.name)
        cells = min(tables.ROWS * len(self.header), _MOST_CELLS)
        size_of_block = cells * _CHARACTERS
        is_empty, self.dropped = True, 0
        try:
            with self._opened() as file:
                _header_line(file)
                for text in _texts(file, size_of_block):
                    block = self._parse_or_say_why(text, *columns, drops_missing)
                    self.part_read, is_empty = _position(file) / size, False
                    yield block
        except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
            raise self._unreadable(error) from error
        errors.require(not is_empty, f"{self.name}: has a header but no rows below it")

    def _opened(self) -> TextIO:
        with open(self.name, "rb") as file:
            is_compressed = file.read(len(_GZIP)) == _GZIP
        open_ = gzip.open if is_compressed else open
        return open_(self.name, "rt", encoding="utf-8-sig")

    def _parse_or_say_why(
        self, text: str, numbers: list[int], texts: list[int], drops_missing: bool
    ) -> tables.Block:
        try:
            return self._parse(text, numbers, texts)
        except ValueError as error:
            whole = self._parse_slowly(text, numbers, texts) if drops_missing else None
            if whole is not None:
                return whole
            problem = self._problem(numbers, texts, drops_missing)
            raise problem or self._unreadable(error) from error

    def _parse(self, text: str, numbers: list[int], texts: list[int]) -> tables.Block:
        """Reads some records; raises ValueError where that is not possible as they are."""
        width = len(self.header)
        reads_all = len(numbers) == width  # then loadtxt sees each cell
        count = 0 if reads_all else self._count(text)
        options: Any = {"delimiter": self.separator, "comments": None, "quotechar": '"', "ndmin": 2}
        table: tables.Float64 = np.empty((count, 0))
        if numbers:
            table = np.loadtxt(io.StringIO(text), usecols=None if reads_all else numbers, **options)
        if table.shape[1] != len(numbers) or not np.isfinite(table).all():
            raise ValueError("a number is not finite, or a row has a cell too many or too few")
        if reads_all and numbers != list(range(width)):
            table = table[:, numbers]
        words: tables.Texts = np.empty((len(table), 0), np.str_)
        if texts:
            found = np.loadtxt(io.StringIO(text), dtype=np.str_, usecols=texts, **options)
            words = np.char.strip(found)
        if np.isin(np.char.lower(words), tables.MISSING).any():
            raise ValueError("a text is missing")
        return tables.Block(table, list(words.T))

    def _count(self, text: str) -> int:
        """The number of records; raises ValueError where one has a cell too many or too few."""
        width = len(self.header)
        if '"' in text:
            rows = filter(None, csv.reader(io.StringIO(text), delimiter=self.separator))
            lengths = [len(row) for row in rows]
        else:
            lines = filter(None, text.split("\n"))
            lengths = [1 + line.count(self.separator) for line in lines]
        if set(lengths) != {width}:
            raise ValueError("a row has a cell too many or too few")
        return len(lengths)

    def _parse_slowly(self, text: str, numbers: list[int], texts: list[int]) -> tables.Block | None:
        """The rows without a missing value, or None where that is not all that is wrong."""
        rows = list(filter(None, csv.reader(io.StringIO(text), delimiter=self.separator)))
        if {len(row) for row in rows} != {len(self.header)}:
            return None
        asked = [*numbers, *texts]
        whole = [row for row in rows if not any(_is_missing(row[column]) for column in asked)]
        if not all(is_number(row[column]) for row in whole for column in numbers):
            return None
        self.dropped += len(rows) - len(whole)
        table = np.array([[float(row[column]) for column in numbers] for row in whole])
        words = [np.array([row[column].strip() for row in whole], np.str_) for column in texts]
        return tables.Block(table.reshape(len(whole), len(numbers)), words)

    def _check_header(self) -> None:
        path, header = self.name, self.header
        errors.require(any(header), f"{path}: the first line is empty; it must be a header")
        received = f"received {tables.short.repr(self.separator.join(header))}"
        is_names = not all(is_number(name) for name in header)
        errors.require(is_names, f"{path}: the first line must name the columns; {received}")
        is_unique = len(set(header)) == len(header) and "" not in header
        errors.require(is_unique, f"{path}: the first line must name each column once; {received}")
        is_control = lambda character: unicodedata.category(character) == "Cc"  # noqa: E731
        odd = next((name for name in header if any(map(is_control, name))), None)
        errors.require(
            odd is None,
            f"{path}: the name of a column has a control character: {tables.short.repr(odd)}",
        )

    def _problem(
        self, numbers: list[int], texts: list[int], drops_missing: bool
    ) -> errors.InputError | None:
        """Says which cells can't be used, the slow way: the first one, or how many are missing."""
        missing, first, numeric = 0, "", set[int]()
        with self._opened() as file:
            reader = csv.reader(file, delimiter=self.separator)
            for cells in itertools.islice(filter(None, reader), 1, None):
                place = f"{self.name}: line {reader.line_num}"
                if len(cells) != len(self.header):
                    return errors.InputError(
                        f"{place} has {len(cells)} cells, separated by {self.separator!r}; the "
                        f"header names {len(self.header)} columns"
                    )
                lacking = [column for column in (*numbers, *texts) if _is_missing(cells[column])]
                missing += bool(lacking)
                if lacking and not first:
                    first = f"{place}, column {self.header[lacking[0]]!r}"
                bad = [c for c in numbers if c not in lacking and not is_number(cells[c])]
                if words := {self.header[c]: cells[c] for c in bad if c not in numeric}:
                    return tables.is_text(self.name, words)
                if bad:
                    return errors.InputError(
                        f"{place}, column {self.header[bad[0]]!r}: expected a finite number; "
                        f"received {tables.short.repr(cells[bad[0]])}"
                    )
                numeric.update(column for column in numbers if column not in lacking)
        if missing and not drops_missing:
            return errors.InputError(
                f"{first}: is missing, with values of {missing:,} rows in all; leave such rows out "
                "with --missing=drop"
            )
        return None

    def _unreadable(self, error: Exception) -> errors.InputError:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return errors.InputError(f"{self.name}: can't be read as a CSV file: {reason}")


def is_number(cell: str) -> bool:
    """Whether a text is a finite number."""
    if "_" in cell or not cell.isascii():
        return False  # Python would take them for numbers, numpy doesn't
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _is_missing(cell: str) -> bool:
    return cell.strip().lower() in tables.MISSING


def _cells(line: str, separator: str) -> list[str]:
    return next(csv.reader(io.StringIO(line), delimiter=separator), [])


def _header_line(file: TextIO) -> str:
    """The first line that is not empty; a name in quotes may have several."""
    line = next((line for line in file if line.strip("\n")), "")
    while line.count('"') % 2 and (rest := file.readline()):
        line += rest
    return line


def _texts(file: TextIO, size: int) -> Iterator[str]:
    """Whole records of about `size` characters at a time; a quoted cell may have several lines."""
    while text := file.read(size):
        text += file.readline()
        while text.count('"') % 2 and (line := file.readline()):
            text += line
        if text.strip("\n"):
            yield text


def _position(file: Any) -> int:
    """How many bytes of a file on disk have been read."""
    raw = getattr(file.buffer, "fileobj", file.buffer)  # of gzip, or the file itself
    return int(raw.tell())
