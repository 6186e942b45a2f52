"""The rows of a table with the predictions of an exported model behind them."""

import io
import textwrap
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import errors
from pipeline.data import table_block, tables
from pipeline.run import exported

Array = npt.NDArray[Any]


class Predictions:
    """What a model predicts of a table, of which it holds a block at a time.

    A table's only column may have another name than the model's, and so may all if the model has no
    names.

    Attributes:
      rows: How many have been read.
      skipped: How many of them were left out, as they can't be used.
      first_skipped: What was wrong with the first of those.
    """

    def __init__(self, table: tables.Table, model: exported.Exported, *, skips: bool = False):
        """Prepares to read the table; raises errors.InputError if a column is missing."""
        self._table, self._model, self._skips = table, model, skips
        names = list(model.columns)
        may_differ = len(table.header) == len(names) and (len(names) == 1 or not model.features)
        if may_differ and not set(names) <= set(table.header):
            names = table.header
        table.check_columns(names)
        self._names = dict(zip(model.columns, names, strict=True))  # of the model, in the table
        self.rows, self.skipped, self.first_skipped = 0, 0, ""

    def texts(self) -> Iterator[bytes]:
        """The header, then many rows at a time, each with its cells and y behind them.

        Raises:
          errors.InputError: the file can't be read; or a row can't be used, and none is to be
            skipped; or the model can't predict.
        """
        import polars

        has_header = False
        for block in self._table.blocks(self._table.header):
            self.rows += len(block.frame)
            columns, is_usable = self._columns(block)
            frame = block.frame
            if frame.columns != self._table.header:
                frame = frame.select(self._table.header)
            if not is_usable.all():
                frame = frame.filter(polars.Series(is_usable))
                columns = {name: column[is_usable] for name, column in columns.items()}
            if len(frame):
                y = self._model.predict_columns(columns)
                if not has_header:
                    yield self._lines(frame[:0], y[:0], include_header=True)
                    has_header = True
                # To look for cells that need quotes takes longer than to write them.
                yield self._lines(frame, y, quote_style="never" if block.is_plain else "necessary")
        if not has_header:  # the names are as many as the model has outputs
            empty = polars.DataFrame(schema=dict.fromkeys(self._table.header, polars.String))
            row = {
                name: np.array(texts[:1] if texts else [0.0])
                for name, texts in self._model.columns.items()
            }
            y = self._model.predict_columns(row)[:0]
            yield self._lines(empty, y, include_header=True)

    def _columns(self, block: table_block.Block) -> tuple[dict[str, Array], npt.NDArray[np.bool_]]:
        """The columns of the model, and which rows can be used."""
        known = {name: texts for name, texts in self._model.columns.items() if texts}
        numbers = [name for name in self._names if name not in known]
        found = block.numbers([self._names[name] for name in numbers])
        with np.errstate(over="ignore"):
            found = found.astype(self._model.dtype)
        columns: dict[str, Array] = dict(zip(numbers, found.T, strict=True))
        is_usable = np.asarray(np.isfinite(found).all(axis=1))
        for name in known:
            assert self._model.preprocessing
            columns[name] = block.texts(self._names[name])
            is_usable &= self._model.preprocessing.is_known(name, columns[name])
        is_usable[list(block.wrong)] = False
        if not is_usable.all():
            self._skip(block, int(np.argmin(is_usable)), int((~is_usable).sum()))
        return columns, is_usable

    def _skip(self, block: table_block.Block, row: int, count: int) -> None:
        """Counts rows that can't be used, the first of which is that of a block."""
        if not self.skipped:
            self.first_skipped = block.place(row) + self._problem(block, row)
            message = f"{self.first_skipped}; leave such rows out with --on_error=skip"
            errors.require(self._skips, message)
        self.skipped += count

    def _problem(self, block: table_block.Block, row: int) -> str:
        """What is wrong with a row that can't be used."""
        if row in block.wrong:
            return block.wrong[row]
        one = table_block.Block(block.frame[row : row + 1], block.place)
        missing = [n for n in self._names.values() if one.texts(n)[0] == ""]
        if missing:
            return f", column {missing[0]!r}: the value is missing"
        for name, texts in self._model.columns.items():
            column = self._names[name]
            cell = table_block.short.repr(str(one.frame[column][0]))
            if texts and one.texts(column)[0] not in texts:
                known = textwrap.shorten(", ".join(texts), 200)
                return f", column {column!r}: the model was trained with {known}; received {cell}"
            number = 0.0 if texts else float(one.numbers([column])[0, 0])
            if not np.isfinite(number):
                return table_block.not_finite(column, cell)
            if abs(number) > float(np.finfo(self._model.dtype).max):
                return (
                    f", column {column!r}: must be finite as {np.dtype(self._model.dtype)}; "
                    f"received {one.frame[column][0]}"
                )
        raise AssertionError("a row that can be used")

    def _lines(self, frame: Any, y: Array, *, include_header: bool = False, **how: Any) -> bytes:
        """Rows with the numbers of y [N] or [N, C] behind them, in the fewest digits."""
        import polars

        label = self._model.label or "y"
        names = [label] if y.ndim == 1 else [f"{label}_{i}" for i in range(y.shape[1])]
        while set(names) & set(frame.columns):  # it may have the true label
            names = [f"predicted_{name}" for name in names]
        numbers = polars.DataFrame(dict(zip(names, y.reshape(len(y), len(names)).T, strict=True)))
        digits = numbers.select(polars.all().cast(polars.String).str.strip_suffix(".0"))
        file, how["separator"] = io.BytesIO(), self._table.separator
        try:
            frame.hstack(digits).write_csv(file, include_header=include_header, **how)
        except polars.exceptions.PolarsError as error:
            raise errors.InputError(
                f"{self._table.name}: can't be written as CSV: {errors.one_line(error)[:200]}"
            ) from error
        return file.getvalue()
