"""Reads CSV files, block by block. numpy alone."""

import csv
import io
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pipeline import errors
from pipeline.data import csv_text, tables


class Csv(tables.Table):
    """A CSV file, perhaps compressed by gzip; its header line tells what separates the cells."""

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
            with csv_text.open_text(path) as file:
                self._header = csv_text.Header.read(file, path)
        except csv_text.ERRORS as error:
            raise csv_text.unreadable(path, error) from error
        self.header = self._header.names

    def blocks(
        self, numbers: Sequence[str], texts: Sequence[str] = (), *, drops_missing: bool = False
    ) -> Iterator[tables.Block]:
        """Reads some columns."""
        columns = self._header.columns(numbers, texts)
        size = os.path.getsize(self.name)
        is_empty, self.dropped = True, 0
        try:
            with csv_text.open_text(self.name) as file:
                header = csv_text.Header.read(file, self.name)
                for text in header.pieces(file):
                    block = self._parse(text, columns, drops_missing)
                    self.part_read, is_empty = _position(file) / size, False
                    yield block
        except csv_text.ERRORS as error:
            raise csv_text.unreadable(self.name, error) from error
        errors.require(not is_empty, f"{self.name}: has a header but no rows below it")

    def _parse(self, text: str, columns: csv_text.Columns, drops_missing: bool) -> tables.Block:
        try:
            return self._header.parse(text, columns)
        except ValueError as error:
            whole = self._parse_slowly(text, columns) if drops_missing else None
            if whole is not None:
                return whole
            problem = self._problem(columns, drops_missing)
            raise problem or csv_text.unreadable(self.name, error) from error

    def _parse_slowly(self, text: str, columns: csv_text.Columns) -> tables.Block | None:
        """The rows without a missing value, or None where that is not all that is wrong."""
        numbers, texts = columns
        reader = csv.reader(io.StringIO(text), delimiter=self._header.separator)
        rows = list(filter(None, reader))
        if {len(row) for row in rows} != {len(self.header)}:
            return None
        asked = [*numbers, *texts]
        whole = [row for row in rows if not any(tables.is_missing(row[c]) for c in asked)]
        if not all(csv_text.is_number(row[column]) for row in whole for column in numbers):
            return None
        self.dropped += len(rows) - len(whole)
        table = np.array([[float(row[column]) for column in numbers] for row in whole])
        words = [np.array([row[column].strip() for row in whole], np.str_) for column in texts]
        return tables.Block(table.reshape(len(whole), len(numbers)), words)

    def _problem(self, columns: csv_text.Columns, drops_missing: bool) -> errors.InputError | None:
        """Says which cells can't be used, the slow way: the first one, or how many are missing."""
        missing, first, numeric = 0, "", set[int]()
        numbers, texts = columns
        with csv_text.open_text(self.name) as file:
            reader = csv.reader(file, delimiter=self._header.separator)
            for cells in itertools.islice(filter(None, reader), 1, None):
                place = f"{self.name}: line {reader.line_num}"
                if wrong := self._header.wrong_count(cells):
                    return errors.InputError(place + wrong)
                lacking = [c for c in (*numbers, *texts) if tables.is_missing(cells[c])]
                missing += bool(lacking)
                if lacking and not first:
                    first = f"{place}, column {self.header[lacking[0]]!r}"
                bad = [c for c in numbers if c not in lacking and not csv_text.is_number(cells[c])]
                if words := {self.header[c]: cells[c] for c in bad if c not in numeric}:
                    return tables.is_text(self.name, words)
                if bad:
                    wrong = self._header.wrong_number(bad[0], cells[bad[0]])
                    return errors.InputError(place + wrong)
                numeric.update(column for column in numbers if column not in lacking)
        if missing and not drops_missing:
            return errors.InputError(
                f"{first}: the value is missing; rows with missing values: {missing:,}; leave them "
                "out with --missing=drop"
            )
        return None


def _position(file: Any) -> int:
    """How many bytes of a file on disk have been read."""
    raw = getattr(file.buffer, "fileobj", file.buffer)  # of gzip, or the file itself
    return int(raw.tell())
