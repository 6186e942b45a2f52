"""The preprocessing that is learned from a table's training rows. Imports numpy only."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Columns = Mapping[str, npt.NDArray[Any]]  # [N] each, numbers or texts

_COARSE = 1e-3  # rounding that is too coarse, in standard deviations


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Turns the columns of a table into examples, and predictions back into its units.

    Each text of a text column becomes a one-hot feature, such as city=Paris. Features and label are
    standardized by (column - mean) / stddev; columns that are constant or not standardized have
    the stddev 1.
    """

    columns: Mapping[str, tuple[str, ...] | None]  # in order: texts sorted, None for numbers
    label: str
    mean: Float64  # [D + 1], of the features and, last, of the label
    stddev: Float64  # [D + 1]
    is_regression: bool = True  # False for class labels, which are not standardized

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the D features."""
        names: list[str] = []
        for name, texts in self.columns.items():
            names += [name] if texts is None else [f"{name}={text}" for text in texts]
        return tuple(names)

    @property
    def has_texts(self) -> bool:
        """Whether any column holds texts."""
        return any(texts is not None for texts in self.columns.values())

    @property
    def standardizes(self) -> bool:
        """Whether any column is standardized."""
        return self.standardizes_features or self.mean[-1] != 0 or self.stddev[-1] != 1

    @property
    def standardizes_features(self) -> bool:
        """Whether any feature is standardized."""
        return bool(self.mean[:-1].any() or (self.stddev[:-1] != 1).any())

    @property
    def needs_float64(self) -> bool:
        """Whether float32 lacks the precision or the range for numbers in data units."""
        float32 = np.finfo(np.float32)
        largest = np.abs(self.mean) + 100 * self.stddev
        is_coarse = largest * float32.eps > _COARSE * self.stddev
        return bool((is_coarse | (largest > float32.max) | (self.stddev < float32.tiny)).any())

    def encode(self, columns: Columns) -> Float64:
        """Converts columns to features [N, D] in the units of the data; all texts must be known."""
        found: list[npt.NDArray[Any]] = []
        for name, texts in self.columns.items():
            column = columns[name]
            if texts is not None:
                column = np.searchsorted(np.array(texts), column) == np.arange(len(texts))[:, None]
            found.append(column)
        return np.vstack(found, dtype=np.float64).T

    def decode(self, x: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """Converts features [N, D] in the units of the data back to columns."""
        found: dict[str, npt.NDArray[Any]] = {}
        first = 0
        for name, texts in self.columns.items():
            count = 1 if texts is None else len(texts)
            part, first = x[:, first : first + count], first + count
            found[name] = part[:, 0] if texts is None else np.array(texts)[part.argmax(axis=1)]
        return found

    def standardized_x(self, x: npt.NDArray[Any]) -> Float64:
        """Standardizes features [N, D]."""
        return np.asarray((x - self.mean[:-1]) / self.stddev[:-1])

    def in_data_units(self, predictions: npt.NDArray[Any]) -> Float64:
        """Converts predictions or standardized labels, of any shape, to the units of the label."""
        return np.asarray(predictions * self.stddev[-1] + self.mean[-1])

    def x_in_data_units(self, x: npt.NDArray[Any]) -> Float64:
        """Converts standardized features [N, D] to the units of the data."""
        return np.asarray(x * self.stddev[:-1] + self.mean[:-1])

    def short_input(self, x: npt.NDArray[Any]) -> list[str]:
        """Formats standardized features [D] in the units of the data, with a few digits each."""
        digits = 2 - np.floor(np.log10(self.stddev[:-1]))
        columns = zip(self.x_in_data_units(x).tolist(), digits.tolist(), strict=True)
        return [f"{round(number, int(count)) + 0.0:.15g}" for number, count in columns]

    def state(self) -> dict[str, Any]:
        """The state as JSON values."""
        arrays = {"mean": self.mean.tolist(), "stddev": self.stddev.tolist()}
        return {**dataclasses.asdict(self), "columns": list(self.columns.items()), **arrays}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Preprocessing":
        """The inverse of `state`."""
        columns = {name: texts and tuple(texts) for name, texts in state["columns"]}
        arrays = {name: np.array(state[name], np.float64) for name in ("mean", "stddev")}
        return cls(**{**state, "columns": columns, **arrays})


def unchanged(columns: Mapping[str, tuple[str, ...] | None], label: str) -> Preprocessing:
    """A preprocessing that standardizes nothing."""
    count = 1 + sum(1 if texts is None else len(texts) for texts in columns.values())
    return Preprocessing(columns, label, np.zeros(count), np.ones(count))
