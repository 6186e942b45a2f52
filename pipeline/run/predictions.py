"""The rows of a CSV table with the predictions of an exported model behind them."""

import csv
import io
import textwrap
from collections.abc import Iterator
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from pipeline import errors
from pipeline.data import csv_text, tables
from pipeline.run import exported

Array = npt.NDArray[np.floating[Any]]
Float64 = npt.NDArray[np.float64]


class Predictions:
    """What a model predicts of a table, of which it holds a piece at a time.

    Attributes:
      rows: How many have been read.
      skipped: How many of them were left out, as they can't be used.
      first_skipped: What was wrong with the first of those.
    """

    def __init__(
        self,
        file: TextIO,
        header: csv_text.Header,
        model: exported.Exported,
        *,
        skips: bool = False,
    ):
        """Prepares to read what follows the header in a file.

        Raises:
          errors.InputError: a column is missing.
        """
        self._file, self._header, self._model, self._skips = file, header, model, skips
        self._inputs = _Inputs(header, model)
        self.rows, self.skipped, self.first_skipped = 0, 0, ""

    def texts(self) -> Iterator[str]:
        """The header, then many rows at a time, each as it was read and with y behind it.

        Raises:
          errors.InputError: the file can't be read; or a row can't be used, and none is to be
            skipped; or the model can't predict.
        """
        is_empty = True
        try:
            for records, x in self._blocks():
                y = self._model.predict(x)
                if is_empty:
                    yield self._first_line(y)
                is_empty = False
                yield _lines(records, y, self._header.separator)
        except csv_text.ERRORS as error:
            raise csv_text.unreadable(self._header.file, error) from error
        if is_empty:  # the names are as many as the model has outputs
            zeros = np.zeros((1, self._inputs.count), np.float32)
            yield self._first_line(self._model.predict(zeros))

    def _first_line(self, y: Array) -> str:
        """The header with names for the columns of y [N] or [N, C]."""
        label = self._model.label or "y"
        names = [label] if y.ndim == 1 else [f"{label}_{i}" for i in range(y.shape[1])]
        while set(names) & set(self._header.names):  # it may have the true label
            names = [f"predicted_{name}" for name in names]
        text = io.StringIO()
        csv.writer(text, delimiter=self._header.separator, lineterminator="\n").writerow(names)
        return f"{self._header.line}{self._header.separator}{text.getvalue()}"

    def _blocks(self) -> Iterator[tuple[list[str], Array]]:
        """Records and the inputs [N, D] that they give."""
        line = self._header.count + 1
        for text in self._header.pieces(self._file):
            records = self._header.records(text)
            self.rows += len(records)
            try:
                x = self._inputs.of(text, len(records))
            except ValueError:
                rows = [(line + before, record) for before, record in self._header.numbered(text)]
                records, x = self._usable(rows)
            line += text.count("\n")
            if records:
                yield records, x

    def _usable(self, rows: list[tuple[int, str]]) -> tuple[list[str], Array]:
        """The usable ones of some records with their lines, found by halves, and their inputs."""
        records = [record for _, record in rows]
        try:
            return records, self._inputs.of("\n".join(records) + "\n", len(records))
        except ValueError:
            if len(rows) == 1:
                self._skip(*rows[0])
                return [], np.empty((0, self._inputs.count))
        middle = len(rows) // 2
        first, second = self._usable(rows[:middle]), self._usable(rows[middle:])
        return first[0] + second[0], np.concatenate([first[1], second[1]])

    def _skip(self, line: int, record: str) -> None:
        self.skipped += 1
        if self.skipped == 1:
            problem = f"{self._header.file}: line {line}{self._inputs.problem(record)}"
            errors.require(self._skips, f"{problem}; leave such rows out with --on_error=skip")
            self.first_skipped = problem


class _Inputs:
    """Where the inputs of a model are found in a table.

    An only column may have another name, and so may all where the model has no names. A feature
    such as city=Paris is 1 where the column city holds that text.
    """

    def __init__(self, header: csv_text.Header, model: exported.Exported):
        self._header, self._dtype = header, model.dtype
        self._features = features_of(model)
        columns = header.names
        may_differ = len(columns) == len(self._features) and (
            len(self._features) == 1 or not model.features
        )
        if may_differ and not set(self._features) <= set(columns):
            self._features = tuple(columns)
        self._texts: dict[str, list[str]] = {}
        numbers = []
        for feature in self._features:
            column, sign, text = feature.partition("=")
            if feature not in columns and sign and column in columns:
                self._texts.setdefault(column, []).append(text)
            else:
                numbers.append(feature)
        self._numbers = numbers
        self._columns = header.columns(numbers, list(self._texts))
        self.count = len(self._features)

    def of(self, text: str, count: int) -> Array:
        """The inputs [N, D] in so many records; raises ValueError where one can't be used."""
        numbers, texts = self._header.parse(text, self._columns)
        x = numbers
        if self._texts:
            columns = dict(zip(self._numbers, numbers.T, strict=True))
            for (column, known), found in zip(self._texts.items(), texts, strict=True):
                if not np.isin(found, known).all():
                    raise ValueError("a text is unknown")
                columns |= {f"{column}={text}": (found == text) * 1.0 for text in known}
            x = np.column_stack([columns[name] for name in self._features])
        with np.errstate(over="ignore"):
            result: Array = x.astype(self._dtype)
        if len(result) != count or not np.isfinite(result).all():
            raise ValueError("a number is too large, or a quote stands where there should be none")
        return result

    def problem(self, record: str) -> str:
        """What is wrong with a record that can't be used."""
        cells, header = self._header.cells(record), self._header
        if wrong := header.wrong_count(cells):
            return wrong
        for column in (*self._columns.numbers, *self._columns.texts):
            if tables.is_missing(cells[column]):
                return f", column {header.names[column]!r}: the value is missing"
        for column in self._columns.numbers:
            if not csv_text.is_number(cells[column]):
                return header.wrong_number(column, cells[column])
            if abs(float(cells[column])) > float(np.finfo(self._dtype).max):
                return (
                    f", column {header.names[column]!r}: must be finite as "
                    f"{np.dtype(self._dtype)}; received {cells[column]}"
                )
        for (name, known), column in zip(self._texts.items(), self._columns.texts, strict=True):
            if cells[column].strip() not in known:
                return (
                    f", column {name!r}: the model was trained with "
                    f"{textwrap.shorten(', '.join(known), 200)}; received {cells[column]!r}"
                )
        return ": a quote stands where there should be none"


def features_of(model: exported.Exported) -> tuple[str, ...]:
    """The names of a model's features, if need be made up."""
    count = model.num_features
    return model.features or (tuple(f"x{i}" for i in range(count)) if count else ("x",))


def _lines(records: list[str], y: Array, separator: str) -> str:
    """Records with the numbers of y [N] or [N, C] behind them, in the fewest digits."""
    columns = _in_few_digits(y).reshape(len(records), -1).T
    stride = 1 + len(columns)
    form = "%.9g" if y.dtype == np.float32 else "%r"
    cells: list[Any] = [None] * (stride * len(records))
    cells[::stride] = records
    for i, column in enumerate(columns, start=1):
        cells[i::stride] = column.tolist()
    line = separator.join(["%s", *[form] * len(columns)])
    # One operation for all: it takes half the time of one for each row.
    return f"{line}\n" * len(records) % tuple(cells)


def _in_few_digits(y: Array) -> Float64:
    """Rounds float32 to seven or eight digits where those read back as the same number."""
    exact = y.astype(np.float64)
    if y.dtype != np.float32:
        return exact
    result = exact
    with np.errstate(all="ignore"):  # of 0 and what is not finite, which stay as they are
        places = -np.floor(np.log10(np.abs(exact)))
        for digits in (8, 7):
            power = 10.0 ** (places + digits - 1)
            rounded = np.rint(exact * power) / power
            result = np.where(rounded.astype(np.float32) == y, rounded, result)
    return result
