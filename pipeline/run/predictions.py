"""Appends the predictions of an exported model to the rows of a table."""

import io
import textwrap
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import errors
from pipeline.data import tables
from pipeline.run import exported

Bools = npt.NDArray[np.bool_]


class Predictions:
    """The predictions of a model for a table, which is read block by block.

    A table's only column may have any name, and so may all columns if the model has no names.

    Attributes:
      rows: The number of rows read.
      skipped: The number of unusable rows that were left out.
      first_skipped: The problem of the first skipped row.
    """

    def __init__(self, table: tables.Table, model: exported.Exported, *, skips: bool = False):
        """Prepares to read the table; raises errors.InputError if a column is missing."""
        self._table, self._model, self._skips = table, model, skips
        names = list(model.columns)
        may_differ = len(table.header) == len(names) and (len(names) == 1 or not model.features)
        if may_differ and not set(names) <= set(table.header):
            names = table.header
        table.check_columns(names)
        self._names = dict(zip(model.columns, names, strict=True))  # the table's, by the model's
        self.rows, self.skipped, self.first_skipped = 0, 0, ""

    def texts(self) -> Iterator[bytes]:
        """Yields the header, then many rows at a time, each with y after its own cells.

        Raises:
          errors.InputError: the file can't be read, a row is unusable and may not be skipped, or
            the model can't predict.
        """
        import polars

        has_header = False
        for block, is_usable, y in self.blocks():
            frame = block.frame.select(self._table.header).filter(polars.Series(is_usable))
            if not has_header:
                yield self._lines(frame[:0], y[:0], include_header=True)
                has_header = True
            # Searching for cells that need quotes takes longer than writing them.
            yield self._lines(frame, y, quote_style="never" if block.is_plain else "necessary")
        if not has_header:  # the number of names is the model's number of outputs
            empty = polars.DataFrame(schema=dict.fromkeys(self._table.header, polars.String))
            row = {n: np.array(ts[:1] if ts else [0.0]) for n, ts in self._model.columns.items()}
            yield self._lines(empty, self._model.predict_columns(row)[:0], include_header=True)

    def blocks(self) -> Iterator[tuple[tables.Block, Bools, exported.Array]]:
        """Yields blocks of rows, which of them are usable, and the predictions y of those."""
        for block in self._table.blocks(self._table.header):
            self.rows += len(block.frame)
            columns, is_usable = self._columns(block)
            if is_usable.any():
                usable = {name: column[is_usable] for name, column in columns.items()}
                yield block, is_usable, self._model.predict_columns(usable)

    def _columns(self, block: tables.Block) -> tuple[tables.Columns, Bools]:
        """Returns the model's columns, and which rows are usable."""
        columns, usable = dict[str, npt.NDArray[Any]](), dict[str, Bools]()
        numbers = block.numbers([self._names[n] for n, ts in self._model.columns.items() if not ts])
        for name, texts in self._model.columns.items():
            if texts:
                columns[name] = block.texts(self._names[name])
                usable[name] = np.isin(columns[name], texts)
            else:
                with np.errstate(over="ignore"):
                    columns[name] = numbers[self._names[name]].astype(self._model.dtype)
                usable[name] = np.isfinite(columns[name])
        is_usable = np.all(list(usable.values()), axis=0)
        is_usable[list(block.wrong)] = False
        if not is_usable.all() and not self.skipped:
            row = int(np.argmin(is_usable))
            name = next((name for name, each in usable.items() if not each[row]), "")
            problem = block.wrong.get(row) or self._problem(block, row, name)
            self.first_skipped = block.place(row) + problem
            message = f"{self.first_skipped}; leave such rows out with --on_error=skip"
            errors.require(self._skips, message)
        self.skipped += int((~is_usable).sum())
        return columns, is_usable

    def _problem(self, block: tables.Block, row: int, name: str) -> str:
        """Describes the problem of a column's value in a row."""
        texts, column = self._model.columns[name], self._names[name]
        one = tables.Block(block.frame[row : row + 1], block.place)
        cell = str(one.frame[column][0])
        short = tables.short.repr(cell)
        if not one.texts(column)[0]:
            return f", column {column!r}: the value is missing"
        if texts:
            known = textwrap.shorten(", ".join(texts), 200)
            return f", column {column!r}: the model was trained with {known}; received {short}"
        if np.isinf(one.numbers([column])[column][0]):
            return tables.not_finite(column, short)
        dtype = np.dtype(self._model.dtype)
        return f", column {column!r}: must be finite as {dtype}; received {cell}"

    def _lines(
        self, frame: Any, y: npt.NDArray[Any], *, include_header: bool = False, **how: Any
    ) -> bytes:
        """Formats rows with y [N] or [N, C] after them, in the fewest exact digits."""
        import polars

        label = self._model.label or "y"
        names = [label] if y.ndim == 1 else [f"{label}_{i}" for i in range(y.shape[1])]
        while set(names) & set(frame.columns):  # the table may have the true label
            names = [f"predicted_{name}" for name in names]
        numbers = polars.DataFrame(dict(zip(names, y.reshape(len(y), len(names)).T, strict=True)))
        digits = numbers.select(polars.all().cast(polars.String).str.strip_suffix(".0"))
        file = io.BytesIO()
        try:
            frame.hstack(digits).write_csv(
                file, separator=self._table.separator, include_header=include_header, **how
            )
        except polars.exceptions.PolarsError as error:
            raise errors.InputError(
                f"{self._table.name}: can't be written as CSV: {errors.one_line(error)[:200]}"
            ) from error
        return file.getvalue()
