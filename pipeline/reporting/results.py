"""Writes and reads results for programs without TensorBoard: metrics.csv and result.json."""

import csv
import importlib.metadata
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import files

METRICS = "metrics.csv"
_PACKAGES = ("tensorflow", "keras", "tensorboard", "numpy")


def versions() -> dict[str, str]:
    """The versions of the packages that affect the numbers."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


class MetricsTable:
    """A CSV file that rows are appended to; a resumed run truncates it, like an event file."""

    def __init__(self, path: pathlib.Path, *, size: int):
        """Truncates an existing file to an earlier size."""
        self._path = path
        if path.exists():
            with files.writing(path):
                os.truncate(path, min(size, path.stat().st_size))

    def add(self, columns: Mapping[str, npt.NDArray[Any]]) -> None:
        """Appends K rows from columns [K] by name."""
        with files.writing(self._path), self._path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if not file.tell():
                writer.writerow(columns)
            writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))

    def size(self) -> int:
        """The size in bytes."""
        return self._path.stat().st_size if self._path.exists() else 0


def read_metrics(path: pathlib.Path) -> dict[str, npt.NDArray[np.float64]]:
    """Reads the columns [K] of metrics.csv by name; none without such a file."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    return dict(zip(header, np.array(rows, np.float64).T, strict=True))


def write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file; numbers that are not finite become strings."""
    with files.writing(path), files.replacing(path) as unfinished:
        unfinished.write_text(json.dumps(_finite(dict(content)), indent=2) + "\n", "utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
