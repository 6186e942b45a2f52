"""The text of CSV files: what separates cells, where records end, the numbers in them."""

import collections
import contextlib
import csv
import dataclasses
import gzip
import io
import math
import re
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TextIO

import numpy as np

from pipeline import errors
from pipeline.data import tables

# Of a file that can't be read.
ERRORS = (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error)

_SEPARATORS = ",;\t|"
_GZIP = b"\x1f\x8b"
_MOST_CELLS = 2**20  # of a piece
_CHARACTERS = 16  # of a cell, about
_LONGEST, _LONGEST_HEADER = 2**24, 2**20  # characters of a cell, and of a header of several lines
csv.field_size_limit(_LONGEST)


class Columns(NamedTuple):
    """The columns that are read, by their places in the header."""

    numbers: list[int]
    texts: list[int]


@dataclasses.dataclass(frozen=True)
class Header:
    """The first line that is not empty; it tells how to read the others."""

    file: str  # what its file is called in messages
    line: str  # its text
    names: list[str]  # of the columns
    separator: str = ","  # or a semicolon, a tab or a bar
    count: int = 1  # lines up to its end

    @classmethod
    def read(cls, file: TextIO, name: str) -> "Header":
        """Reads it from an open file, called `name` in messages.

        Raises:
          errors.InputError: it doesn't name each column once in characters that can be printed.
        """
        text, count = "", 0
        while not text.strip("\n") and (line := file.readline()):
            text, count = line, count + 1
        while _last_opening(text, _SEPARATORS) >= 0:  # a name has a line break
            line = file.readline()
            is_closed = line and len(text) < _LONGEST_HEADER
            errors.require(is_closed, f"{name}: line {count}: a quote is not closed")
            text, count = text + line, count + 1
        text = text.removesuffix("\n")
        separator = max(_SEPARATORS, key=lambda each: len(_cells(text, each)))
        names = [cell.strip() for cell in _cells(text, separator)]
        _check_names(names, name, separator)
        return cls(name, text, names, separator, count)

    def columns(self, numbers: Sequence[str], texts: Sequence[str] = ()) -> Columns:
        """The places of some columns; raises errors.InputError where there is none of a name."""
        tables.check_columns(self.file, self.names, [*numbers, *texts])
        places = {name: place for place, name in enumerate(self.names)}
        return Columns([places[name] for name in numbers], [places[name] for name in texts])

    def cells(self, record: str) -> list[str]:
        """The texts that a record consists of, without their quotes."""
        return _cells(record, self.separator)

    def pieces(self, file: TextIO) -> Iterator[str]:
        """Many whole records at a time, of the rest of a file.

        Raises:
          errors.InputError: a quote is not closed.
        """
        size = min(tables.ROWS * len(self.names), _MOST_CELLS) * _CHARACTERS
        before = self.count
        while text := file.read(size):
            text += file.readline()
            while (opening := _last_opening(text, self.separator)) >= 0:
                more = file.read(size) + file.readline()
                if not more or len(text) > size + _LONGEST:
                    line = before + 1 + text.count("\n", 0, opening)
                    raise errors.InputError(f"{self.file}: line {line}: a quote is not closed")
                text += more
            if text.strip("\n"):
                yield text
            before += text.count("\n")

    def records(self, text: str) -> list[str]:
        """The records of a piece; empty lines are none."""
        if '"' in text:
            return [record for _, record in self.numbered(text)]
        return list(filter(None, text.split("\n")))

    def numbered(self, text: str) -> Iterator[tuple[int, str]]:
        """The records of a piece, each with the number of lines before it."""
        lines, start = text.split("\n"), 0
        reader = csv.reader((f"{line}\n" for line in lines), delimiter=self.separator)
        for cells in reader:
            if cells:
                yield start, "\n".join(lines[start : reader.line_num])
            start = reader.line_num

    def parse(self, text: str, columns: Columns) -> tables.Block:
        """Reads columns of a piece, each number as numpy.loadtxt does.

        That is as fast here as pandas, pyarrow or polars, in half their memory.

        Raises:
          ValueError: a cell is missing, or no number, or a row has too many or too few.
        """
        numbers, texts = columns
        width = len(self.names)
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
        if '"' in text:
            rows = filter(None, csv.reader(io.StringIO(text), delimiter=self.separator))
            lengths = [len(row) for row in rows]
        else:
            lines = filter(None, text.split("\n"))
            lengths = [1 + line.count(self.separator) for line in lines]
        if set(lengths) != {len(self.names)}:
            raise ValueError("a row has a cell too many or too few")
        return len(lengths)

    def wrong_count(self, cells: list[str]) -> str:
        """What to say of a row that has a cell too many or too few; '' of others."""
        if len(cells) == len(self.names):
            return ""
        return (
            f" has {len(cells)} cells, separated by {self.separator!r}; the header names "
            f"{len(self.names)} columns"
        )

    def wrong_number(self, column: int, cell: str) -> str:
        """What to say of a cell that is not a finite number."""
        return (
            f", column {self.names[column]!r}: expected a finite number; received "
            f"{tables.short.repr(cell)}"
        )


@contextlib.contextmanager
def open_text(path: str) -> Iterator[TextIO]:
    """Opens a file or a pipe, '-' for stdin, perhaps compressed by gzip; raises OSError."""
    is_stdin = path == "-"
    with open(0 if is_stdin else path, "rb", closefd=not is_stdin) as file:
        binary: Any = gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == _GZIP else file
        with io.TextIOWrapper(binary, encoding="utf-8-sig") as text:
            yield text


def _cells(record: str, separator: str) -> list[str]:
    return next(csv.reader(io.StringIO(record), delimiter=separator), [])


def _last_opening(text: str, separators: str) -> int:
    """Where the last cell in quotes begins; -1 where there is none, or it is closed.

    Quotes count only at the beginning of a cell, and two of them in it stand for one.
    """
    if '"' not in text:
        return -1
    quoted = rf'(?:^|(?<=[{separators}\n]))"[^"]*(?:""[^"]*)*("?)'
    last = collections.deque(re.finditer(quoted, text), maxlen=1)
    return last[0].start() if last and not last[0][1] else -1


def unreadable(name: str, error: Exception) -> errors.InputError:
    """Says why a file can't be read."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return errors.InputError(f"{name}: can't be read as a CSV file: {reason}")


def is_number(cell: str) -> bool:
    """Whether a text is a finite number."""
    if "_" in cell or not cell.isascii():
        return False  # Python would take them for numbers, numpy doesn't
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _check_names(names: list[str], file: str, separator: str) -> None:
    errors.require(any(names), f"{file}: the first line is empty; it must be a header")
    received = f"received {tables.short.repr(separator.join(names))}"
    is_names = not all(map(is_number, names))
    errors.require(is_names, f"{file}: the first line must name the columns; {received}")
    is_unique = len(set(names)) == len(names) and "" not in names
    errors.require(is_unique, f"{file}: the first line must name each column once; {received}")
    is_control = lambda character: unicodedata.category(character) == "Cc"  # noqa: E731
    odd = next((name for name in names if any(map(is_control, name))), None)
    errors.require(
        odd is None,
        f"{file}: the name of a column has a control character: {tables.short.repr(odd)}",
    )
