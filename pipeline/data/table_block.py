"""Blocks of tables: consecutive rows, whose cells are converted here.

So what counts as a number, and what as missing, is decided in one place.
"""

import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline import errors

Float64 = npt.NDArray[np.float64]
Texts = npt.NDArray[np.str_]

# Lower-case texts that stand for a missing value; the last two as pandas writes them.
MISSING = ("", "na", "n/a", "nan", "null", "none", "?", "<na>", "nat")

short = reprlib.Repr()
short.maxlist, short.maxstring = 20, 200


class Block(NamedTuple):
    """Consecutive rows of a table."""

    frame: Any  # a polars.DataFrame, whose columns hold texts, numbers or nulls
    place: Callable[[int], str]  # says where a row is, such as "x.csv: line 7"
    wrong: Mapping[int, str] = {}  # what is wrong with rows as such, by their number
    is_plain: bool = False  # as CSV, no cell needs quotes

    def numbers(self, names: Sequence[str]) -> Float64:
        """Columns as [N, C]: NaN stands for a missing value, infinity for what is no number."""
        import polars

        if not names:
            return np.empty((len(self.frame), 0))
        self._check_types(names)
        frame = self.frame.select(polars.col(names).cast(polars.Float64, strict=False))
        for i, name in enumerate(names):
            if frame[name].null_count():
                frame.replace_column(i, self._with_blanks(name))
        return np.asarray(frame.to_numpy())

    def _check_types(self, names: Sequence[str]) -> None:
        import polars

        for name in names:
            dtype = self.frame[name].dtype
            if not dtype.is_numeric() and dtype not in (polars.Boolean, polars.String, polars.Null):
                problem = f", column {name!r}: must hold numbers or texts; received {dtype}"
                raise errors.InputError(self.place(0) + problem)

    def _with_blanks(self, name: str) -> Any:
        """A column that has cells which are no plain numbers."""
        import polars

        if self.frame[name].dtype != polars.String:
            return self.frame[name].cast(polars.Float64).fill_null(np.nan)
        texts = self._stripped(name)
        fill = polars.Series(np.where(texts == "", np.nan, np.inf))
        return texts.cast(polars.Float64, strict=False).fill_null(fill)

    def texts(self, name: str) -> Texts:
        """A column as texts [N] without blanks around them; '' stands for a missing value."""
        return np.array(self._stripped(name).to_list(), np.str_)

    def _stripped(self, name: str) -> Any:
        import polars

        self._check_types([name])
        texts = self.frame[name].cast(polars.String).str.strip_chars().fill_null("")
        is_missing = texts.str.to_lowercase().is_in(MISSING)
        return texts.set(is_missing, "") if is_missing.any() else texts


def not_finite(column: str, cell: str) -> str:
    """Says that a cell of a row is no finite number."""
    return f", column {column!r}: expected a finite number; received {cell}"
