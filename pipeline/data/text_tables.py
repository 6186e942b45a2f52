"""Reads CSV and JSON lines, perhaps compressed by gzip.

Files and pipes are read in pieces of whole records, and polars parses each piece at once. If polars
rejects or pads a record without saying where (too few or too many cells, a quote inside a cell),
only that piece is parsed again, slowly and record by record.
"""

import collections
import contextlib
import csv
import glob
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
from pipeline.data import tables

STDIN = "-"
_NO_OBJECT = "expected a JSON object"
PIECE = 2**21  # bytes that are parsed at a time

_SEPARATORS = ",;\t|"
_BOM, _GZIP, _PARQUET = b"\xef\xbb\xbf", b"\x1f\x8b", b"PAR1"
_LONGEST, _LONGEST_HEADER = 2**24, 2**20  # bytes of a cell, and of a header of several lines
csv.field_size_limit(_LONGEST)


def open_table(data: str) -> tables.Table:
    """Opens files as one table, by comma-separated paths or patterns; '-' is stdin.

    Raises:
      errors.InputError: no file matches, one can't be read, or its first line is not a header.
    """
    if os.path.exists(data) or data == STDIN:  # a file name may contain a comma or a star
        return open_file(data)
    paths: list[str] = []
    for path in data.split(","):
        matching = [path] if os.path.exists(path) else sorted(glob.glob(path))
        errors.require(matching, f"{path}: there is no such file")
        paths += matching
    found = [open_file(path) for path in dict.fromkeys(paths)]
    return found[0] if len(found) == 1 else tables.Files(found)


def open_file(path: str) -> tables.Table:
    """Opens a file, a pipe, or stdin for '-'; the first bytes determine the format."""
    name = "stdin" if path == STDIN else path
    with contextlib.ExitStack() as stack, _readable(name):
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


def _unpacked(file: Any) -> Any:
    """Decompresses an open file if it is a gzip file."""
    return gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == _GZIP else file


class Csv(tables.Table):
    """A CSV file; the header determines the separator."""

    _separators = ""  # a quote after one of these may open a cell of several lines

    def __init__(self, path: str, name: str, file: IO[bytes], stream: IO[bytes]):
        """Reads the header from the open stream, which is read on if the file is not on disk."""
        self.name, self._path, self._start = name, path, b""
        self._file, self._stream = file, stream
        self._line = self._read_header(self._stream)  # of the first record
        self.is_on_disk = os.path.isfile(path)

    def blocks(self, names: Sequence[str]) -> Iterator[tables.Block]:
        """Reads some columns."""
        is_on_disk = self.is_on_disk
        with _readable(self.name), open(self._path, "rb") if is_on_disk else self._file as file:
            if is_on_disk:
                self._stream = _unpacked(file)
                self._read_header(self._stream)
            size = os.path.getsize(self._path) if is_on_disk else 0
            for line, piece in self._pieces(self._stream):
                block = self._block(line, piece, names)
                self.part_read = file.tell() / size if size else 0.0
                if len(block.frame):
                    yield block

    def _pieces(self, file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
        """Yields pieces of many whole records, each with the number of its first line."""
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

    def _block(self, line: int, piece: bytes, names: Sequence[str]) -> tables.Block:
        """Parses the records of a piece at once or, if that fails, one by one."""
        import polars

        def place(row: int) -> str:
            records = self._records(line, piece.decode(errors="replace"))
            return f"{self.name}: line {next(itertools.islice(records, row, None))[0]}"

        with contextlib.suppress(polars.exceptions.PolarsError):
            if (frame := self._parse(piece, names)) is not None:
                return tables.Block(frame, place, is_plain=b'"' not in piece)
        records = list(self._records(line, piece.decode()))
        wrong = {row: problem for row, (_, _, problem) in enumerate(records) if problem}
        schema = dict.fromkeys(self.header, polars.String)
        frame = polars.DataFrame([cells for _, cells, _ in records], schema, orient="row")
        return tables.Block(frame, place, wrong)

    def _read_header(self, file: IO[bytes]) -> int:
        """Reads the header; returns the line number of the first record."""
        line, count = _first_line(file)
        while _last_opening(line, _SEPARATORS) >= 0:
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
        """Returns a polars.DataFrame; None, or PolarsError, if records must be parsed one by one.

        A row that is too long raises PolarsError, if all columns are read and the last row ends in
        a line break. In a row that is too short, the last cell is null.
        """
        import polars

        del names
        frame = polars.read_csv(
            piece if piece.endswith(b"\n") else piece + b"\n",
            has_header=False,
            separator=self.separator,
            schema=dict.fromkeys(self.header, polars.String),
        )
        between = len(self.header) - 1
        is_whole = not frame[self.header[-1]].null_count() or (
            between > 0
            and b'"' not in piece
            and piece.count(self.separator.encode()) == len(frame) * between
        )
        return frame if is_whole else None

    def _records(self, line: int, text: str) -> Iterator[tuple[int, list[str | None], str]]:
        """Yields the line, the cells and the problem, or '', of each record."""
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=self.separator)
        width, number = len(self.header), line
        for cells in reader:
            problem = (
                f" has {len(cells)} cells, separated by {self.separator!r}; the header names "
                f"{width} columns"
            )
            if cells:
                padded = [*cells, *[""] * (width - len(cells))][:width]
                yield number, [c or None for c in padded], "" if len(cells) == width else problem
            number = line + reader.line_num


class JsonLines(Csv):
    """A JSON object in each line; the keys of the first one name the columns."""

    def _read_header(self, file: IO[bytes]) -> int:
        line, count = _first_line(file)
        try:
            self.header = list(json.loads(line))
        except ValueError as error:
            raise errors.InputError(f"{self.name}: line {count}: {_NO_OBJECT}") from error
        _check_header(self.name, self.header, self.separator)
        self._start = line  # the first line is a record too
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
            except ValueError:
                found = None
            is_object = isinstance(found, dict)
            values = [found.get(name) if is_object else None for name in self.header]
            cells = [v if isinstance(v, str | None) else json.dumps(v) for v in values]
            yield number, cells, "" if is_object else f": {_NO_OBJECT}"


def _first_line(file: IO[bytes]) -> tuple[bytes, int]:
    """Returns the first line that is not empty, and its number."""
    line, count = b"", 0
    while not line.strip(b"\r\n") and (more := file.readline()):
        line, count = more.removeprefix(_BOM), count + 1
    return line, count


def _last_opening(piece: bytes, separators: str) -> int:
    """Returns where an unclosed quoted cell begins at the end of a piece; -1 if there is none.

    Quotes count only at the beginning of a cell; two quotes inside it stand for one.
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
    received = f"received {tables.short.repr(separator.join(names))}"
    is_names = not all(map(is_number, names))
    errors.require(is_names, f"{file}: the first line must name the columns; {received}")
    is_unique = len(set(names)) == len(names) and "" not in names
    errors.require(is_unique, f"{file}: the first line must name each column once; {received}")
    odd = next((n for n in names if any(unicodedata.category(c) == "Cc" for c in n)), "")
    about = f"{file}: the name of a column has a control character: {tables.short.repr(odd)}"
    errors.require(not odd, about)


def is_number(cell: str) -> bool:
    """Whether polars reads a text as a finite number."""
    if "_" in cell or not cell.isascii():
        return False
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


@contextlib.contextmanager
def _readable(name: str) -> Iterator[None]:
    """Re-raises errors of reading a file as one line."""
    try:
        yield
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if isinstance(error, UnicodeDecodeError):
            reason = f"it is not UTF-8 text ({reason}); save it as UTF-8"
        raise errors.InputError(f"{name}: can't be read as a CSV file: {reason}") from error
