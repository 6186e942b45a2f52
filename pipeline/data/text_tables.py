"""Text files of records: CSV and JSON lines, perhaps compressed by gzip.

They are read in pieces of whole records, each of which polars parses at once. So a pipe is read as
a file is, and what polars fills in or refuses without saying where (rows with a cell too few or too
many, a quote inside a cell) costs a second, slow look at one piece only.
"""

import collections
import contextlib
import csv
import functools
import gzip
import io
import itertools
import json
import math
import os
import re
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from typing import IO, Any

from pipeline import errors
from pipeline.data import table_block, tables

STDIN = "-"
_NO_OBJECT = "expected a JSON object"
PIECE = 2**21  # bytes that are parsed at a time

_ERRORS = (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error)  # of a file
_SEPARATORS = ",;\t|"
_BOM, _GZIP, _PARQUET = b"\xef\xbb\xbf", b"\x1f\x8b", b"PAR1"
_LONGEST, _LONGEST_HEADER = 2**24, 2**20  # bytes of a cell, and of a header of several lines
csv.field_size_limit(_LONGEST)


def open_file(path: str) -> tables.Table:
    """Opens a file, a pipe, or stdin for '-'; its first bytes say what kind it is.

    Raises:
      errors.InputError: it can't be read, or its first line is no header.
    """
    name = "stdin" if path == STDIN else path
    try:
        with contextlib.ExitStack() as stack:
            place: int | str = 0 if path == STDIN else path
            file = stack.enter_context(open(place, "rb", closefd=path != STDIN))
            if file.peek(4)[:4] == _PARQUET:
                errors.require(path != STDIN, "stdin: give a Parquet file by its name")
                return tables.Parquet(path)
            stream = _unpacked(file)
            first = stream.peek(4).removeprefix(_BOM).lstrip()[:1]
            table = (JsonLines if first == b"{" else Csv)(path, name, file, stream)
            if not table.is_on_disk:
                stack.pop_all()  # it stays open, as it can't be opened again
            return table
    except _ERRORS as error:
        raise _unreadable(name, error) from error


def _unpacked(file: Any) -> Any:
    """What an open file holds, if it is compressed by gzip."""
    return gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == _GZIP else file


class Csv(tables.Table):
    """A CSV file; its header tells what separates the cells."""

    _separators = ""  # before a quote behind which a record may go on in the next line

    def __init__(self, path: str, name: str, file: IO[bytes], stream: IO[bytes]):
        """Reads the header from the stream of an open file, to go on with if it is not on disk."""
        self.name, self._path, self._start = name, path, b""
        self._file, self._stream = file, stream
        self._line = self._read_header(self._stream)  # of the first record
        self.is_on_disk = os.path.isfile(path)

    def blocks(self, names: Sequence[str]) -> Iterator[table_block.Block]:
        """Reads some columns."""
        try:
            with open(self._path, "rb") if self.is_on_disk else self._file as file:
                if self.is_on_disk:
                    self._stream = _unpacked(file)
                    self._read_header(self._stream)
                size = os.path.getsize(self._path) if self.is_on_disk else 0
                for line, piece in self._pieces(self._stream):
                    block = self._block(line, piece, names)
                    self.part_read = file.tell() / size if size else 0.0
                    if len(block.frame):
                        yield block
        except _ERRORS as error:
            raise _unreadable(self.name, error) from error

    def _pieces(self, file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
        """Many whole records at a time, each with the number of their first line."""
        line, start = self._line, self._start
        while piece := start + file.read(PIECE):
            start, piece = b"", piece + file.readline()
            while (opening := _last_opening(piece, self._separators)) >= 0:
                more = file.read(PIECE) + file.readline()
                if not more or len(piece) > PIECE + _LONGEST:
                    line += piece.count(b"\n", 0, opening)
                    raise errors.InputError(f"{self.name}: line {line}: a quote is not closed")
                piece += more
            yield line, piece
            line += piece.count(b"\n")

    def _block(self, line: int, piece: bytes, names: Sequence[str]) -> table_block.Block:
        """The records of a piece, parsed at once or, where that won't do, one by one."""
        import polars

        try:
            frame = self._parse(piece, names)
        except polars.exceptions.PolarsError:
            frame = None
        if frame is not None:
            is_plain = b'"' not in piece
            return table_block.Block(
                frame, functools.partial(self._place, line, piece), {}, is_plain
            )
        lines, cells, wrong = list[int](), list[list[str | None]](), dict[int, str]()
        for number, record, problem in self._records(line, piece.decode()):
            if problem:
                wrong[len(lines)] = problem
            lines.append(number)
            cells.append(record)
        schema = dict.fromkeys(self.header, polars.String)
        frame = polars.DataFrame(cells, schema, orient="row")
        return table_block.Block(frame, lambda row: f"{self.name}: line {lines[row]}", wrong)

    def _place(self, line: int, piece: bytes, row: int) -> str:
        """Says where a row of a piece is."""
        records = self._records(line, piece.decode(errors="replace"))
        number, _, _ = next(itertools.islice(records, row, None))
        return f"{self.name}: line {number}"

    def _read_header(self, file: IO[bytes]) -> int:
        """Reads the first line that is not empty, and those that belong to it by a quote.

        It returns the number of the line of the first record.
        """
        line, count = _first_line(file)
        while _last_opening(line, _SEPARATORS) >= 0:  # a name has a line break
            more = file.readline()
            is_closed = more and len(line) < _LONGEST_HEADER
            errors.require(is_closed, f"{self.name}: line {count}: a quote is not closed")
            line, count = line + more, count + 1
        text = line.decode().rstrip("\r\n")
        is_line = '"' in text or "\r" not in text
        errors.require(is_line, f"{self.name}: save it with line ends of \\n, not of \\r alone")
        self.separator = max(_SEPARATORS, key=lambda each: len(_cells(text, each)))
        self._separators = self.separator
        self.header = [cell.strip() for cell in _cells(text, self.separator)]
        _check_header(self.name, self.header, self.separator)
        return count + 1

    def _parse(self, piece: bytes, names: Sequence[str]) -> Any:
        """The records as a polars.DataFrame; None, or PolarsError, if they need a slow look.

        A row that is too long raises PolarsError, if all columns are read and the last row ends in
        a line break. One that is too short has no last cell.
        """
        import polars

        del names
        last, width = self.header[-1], len(self.header)
        frame = polars.read_csv(
            piece if piece.endswith(b"\n") else piece + b"\n",
            has_header=False,
            separator=self.separator,
            schema=dict.fromkeys(self.header, polars.String),
        )
        if not frame[last].null_count():
            return frame
        count = piece.count(self.separator.encode())
        is_whole = b'"' not in piece and width > 1 and count == len(frame) * (width - 1)
        return frame if is_whole else None

    def _records(self, line: int, text: str) -> Iterator[tuple[int, list[str | None], str]]:
        """Each record: its line, its cells, and what is wrong with it, or ''."""
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=self.separator)
        width, before = len(self.header), 0
        for cells in reader:
            number, before = line + before, reader.line_num
            if not cells:
                continue
            problem = (
                ""
                if len(cells) == width
                else (
                    f" has {len(cells)} cells, separated by {self.separator!r}; the header names "
                    f"{width} columns"
                )
            )
            padded = [*cells, *[""] * (width - len(cells))]
            yield number, [cell or None for cell in padded[:width]], problem


class JsonLines(Csv):
    """A JSON object in each line; those of the first one name the columns."""

    def _read_header(self, file: IO[bytes]) -> int:
        line, count = _first_line(file)
        try:
            self.header = list(json.loads(line))
        except ValueError as error:
            raise errors.InputError(f"{self.name}: line {count}: {_NO_OBJECT}") from error
        _check_header(self.name, self.header, self.separator)
        self._start = line  # which is a record, too
        return count

    def _parse(self, piece: bytes, names: Sequence[str]) -> Any:
        import polars

        schema = dict.fromkeys(names or self.header, polars.String)
        return polars.read_ndjson(piece, schema=schema)

    def _records(self, line: int, text: str) -> Iterator[tuple[int, list[str | None], str]]:
        for number, each in enumerate(text.split("\n"), start=line):
            if not each.strip():
                continue
            try:
                found = json.loads(each)
                problem = "" if isinstance(found, dict) else f": {_NO_OBJECT}"
            except ValueError:
                problem = f": {_NO_OBJECT}"
            values = [None if problem else found.get(name) for name in self.header]
            yield (
                number,
                [v if isinstance(v, str | None) else json.dumps(v) for v in values],
                problem,
            )


def _first_line(file: IO[bytes]) -> tuple[bytes, int]:
    """The first line that is not empty, and its number."""
    line, count = b"", 0
    while not line.strip(b"\r\n") and (more := file.readline()):
        line, count = more.removeprefix(_BOM), count + 1
    return line, count


def _last_opening(piece: bytes, separators: str) -> int:
    """The place where the last cell in quotes begins; -1 if there is none, or it is closed.

    Quotes count only at the beginning of a cell, and two of them in it stand for one.
    """
    if not separators or b'"' not in piece:
        return -1
    quoted = rb'(?:^|(?<=[%b\n]))"[^"]*(?:""[^"]*)*("?)' % separators.encode()
    last = collections.deque(re.finditer(quoted, piece), maxlen=1)
    return last[0].start() if last and not last[0][1] else -1


def _cells(record: str, separator: str) -> list[str]:
    return next(csv.reader(io.StringIO(record), delimiter=separator), [])


def _check_header(file: str, names: list[str], separator: str) -> None:
    errors.require(any(names), f"{file}: the first line is empty; it must be a header")
    received = f"received {table_block.short.repr(separator.join(names))}"
    is_names = not all(map(is_number, names))
    errors.require(is_names, f"{file}: the first line must name the columns; {received}")
    is_unique = len(set(names)) == len(names) and "" not in names
    errors.require(is_unique, f"{file}: the first line must name each column once; {received}")
    is_control = lambda character: unicodedata.category(character) == "Cc"  # noqa: E731
    odd = next((name for name in names if any(map(is_control, name))), None)
    errors.require(
        odd is None,
        f"{file}: the name of a column has a control character: {table_block.short.repr(odd)}",
    )


def is_number(cell: str) -> bool:
    """Whether a text is a finite number, as polars reads them."""
    if "_" in cell or not cell.isascii():
        return False
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _unreadable(name: str, error: Exception) -> errors.InputError:
    """Says why a file can't be read."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, UnicodeDecodeError):
        reason = f"it is not UTF-8 text ({reason}); save it as UTF-8"
    return errors.InputError(f"{name}: can't be read as a CSV file: {reason}")
