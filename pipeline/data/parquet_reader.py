"""Reads Parquet files, where pyarrow is installed (the extra pipeline[parquet])."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import errors
from pipeline.data import tables

_MAGIC = b"PAR1"


def is_parquet(path: str) -> bool:
    """Whether a file is one, whatever its name."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


class Parquet(tables.Columns):
    """A Parquet file."""

    def __init__(self, path: str):
        """Reads the names of the columns.

        Raises:
          errors.InputError: pyarrow is missing, or the file is damaged.
        """
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise errors.InputError(
                f"{path}: Parquet files are read by pyarrow; install it with: pip install pyarrow"
            ) from error
        self.name = path
        try:
            self._file = pyarrow.parquet.ParquetFile(path)
        except (OSError, pyarrow.ArrowException) as error:
            raise errors.InputError(
                f"{path}: can't be read as a Parquet file: {errors.one_line(error)[:200]}"
            ) from error
        self.header = list(self._file.schema_arrow.names)

    def _parts(self, names: Sequence[str]) -> Iterator[dict[str, npt.NDArray[Any]]]:
        count = max(1, self._file.metadata.num_rows)
        done = 0
        columns = list(names) or self.header[:1]
        for batch in self._file.iter_batches(batch_size=tables.ROWS, columns=columns):
            done += len(batch)
            self.part_read = done / count
            found = zip(batch.schema.names, batch.columns, strict=True)
            yield {name: np.asarray(column) for name, column in found}
