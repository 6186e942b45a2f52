"""Examples from a table: splits its rows, encodes texts, measures and standardizes the columns.

Every worker looks at all rows, so that all of them measure the same, and keeps only its own.
"""

import contextlib
import itertools
from collections.abc import Generator, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from pipeline import config as config_lib
from pipeline import console, errors
from pipeline.data import fingerprint, least_squares, linear_units, moments, preprocessing, tables
from pipeline.distributed import workers

Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

_MOST_LEVELS = 1000  # different values of a column of texts
_MOST_CLASSES = 20
_FLOAT32_MAX = float(np.finfo(np.float32).max)


def load(
    table: tables.Table, config: config_lib.Config, worker: workers.Worker
) -> tuple[preprocessing.Preprocessing, "Part", "Part", int]:
    """Reads a table.

    Returns what was learned from the training rows, the training and the validation examples, and
    the number of rows that were left out because of missing values.

    Raises:
      errors.InputError: the table can't be used as it is.
    """
    reader = _Reader(table, config)
    if config.validation_examples or worker.count > 1 or reader.texts:
        reader.look_ahead()
    split = Split(config, reader.count)
    is_full_batch = worker.count > 1 and split.is_full_batch(reader.count)
    solves = config.is_linear_regression
    parts = (
        Part(reader.width, worker if is_full_batch else workers.Worker(), solves=solves),
        Part(reader.width, worker),
    )
    with contextlib.closing(reader.rows()) as blocks:
        learned = _learn(config, reader, split, parts, filter(len, blocks))
    return learned, *parts, table.dropped


def _learn(
    config: config_lib.Config,
    reader: "_Reader",
    split: "Split",
    parts: "tuple[Part, Part]",
    blocks: Iterator[Float64],
) -> preprocessing.Preprocessing:
    """Fills the parts with the rows of blocks, standardized by what the training rows say.

    Rows are brought near to that at once, in float64, and are kept in float32.
    """
    some = next(blocks, np.empty((0, reader.width)))
    given = config.is_regression
    is_regression = not _are_classes(some[:, -1]) if given is None else given
    scales_label = is_regression and not config.keeps_label
    standardized = np.append(np.full(reader.width - 1, True), scales_label)
    standardized &= config.is_standardized
    near = moments.around(some, standardized)
    for rows in itertools.chain([some], blocks):
        held_out = split.held_out(len(rows))
        moved = reader.checked((rows - near.mean) / near.stddev)
        if held_out.any():
            parts[1].add(moved[held_out])
            moved = moved[~held_out]
        parts[0].add(moved)
    count, other = (part.moments.count for part in parts)
    errors.require(
        count >= 2,
        f"{config.data}: at least 2 rows must be left to train on; received {count} of "
        f"{count + other}",
    )
    units = parts[0].moments.units(standardized)
    for part in parts:
        part.finish(units)
    mean, stddev = near.mean + near.stddev * units.mean, near.stddev * units.stddev
    return preprocessing.Preprocessing(reader.columns, reader.label, mean, stddev, is_regression)


class _Reader:
    """The columns of a table that are used, as rows of features and, last, the label.

    Attributes:
      columns: The features: the texts of a column, once they are known, or None for numbers.
      texts: The names of the columns of texts.
      count: The number of rows, once it is known.
    """

    def __init__(self, table: tables.Table, config: config_lib.Config):
        """Chooses the columns that the config names."""
        self._table = table
        errors.require(
            table.is_on_disk, f"{table.name}: must be a file on disk, which is read several times"
        )
        self.label = config.label or table.header[-1]
        table.check_columns([self.label], flag="label")
        others = [name for name in table.header if name != self.label]
        names = _names(config.features) or others
        table.check_columns(names, flag="features")
        errors.require(
            self.label not in names, f"--features must not contain the label {self.label!r}"
        )
        errors.require(names, f"{table.name}: needs a feature beside the label {self.label!r}")
        categorical = _names(config.categorical)
        table.check_columns(categorical, flag="categorical")
        unused = next((name for name in categorical if name not in names), None)
        errors.require(
            unused is None, f"--categorical names {unused!r}, which is none of the features"
        )
        self.columns: dict[str, tuple[str, ...] | None] = dict.fromkeys(names)
        self.texts = [name for name in names if name in categorical]
        self._numbers = [*(name for name in names if name not in categorical), self.label]
        self._drops_missing = config.missing == "drop"
        self.count = 0

    @property
    def width(self) -> int:
        """The number of features, and one."""
        return 1 + sum(1 if texts is None else len(texts) for texts in self.columns.values())

    def look_ahead(self) -> None:
        """Counts the rows, and finds the texts."""
        numbers = self._numbers if self._drops_missing else []
        found: dict[str, set[str]] = {name: set() for name in self.texts}
        for rows in self._read(numbers):
            self.count += len(rows.numbers)
            for name, texts in zip(self.texts, rows.texts, strict=True):
                found[name].update(np.unique(texts).tolist())
                errors.require(
                    len(found[name]) <= _MOST_LEVELS,
                    f"{self._table.name}: the column {name!r} has more than {_MOST_LEVELS:,} "
                    "different texts, too many for --categorical; choose others with --features",
                )
        self.columns |= {name: tuple(sorted(texts)) for name, texts in found.items()}

    def rows(self) -> Generator[Float64]:
        """All rows [N, D + 1], some at a time."""
        encoder = preprocessing.unchanged({**self.columns, self.label: None}, self.label)
        is_in_order = [*self.columns, self.label] == self._numbers
        for rows in self._read(self._numbers):
            if is_in_order:
                yield rows.numbers
            else:
                columns = dict(zip(self._numbers, rows.numbers.T, strict=True))
                yield encoder.encode(columns | dict(zip(self.texts, rows.texts, strict=True)))

    def checked(self, rows: Float64) -> Float64:
        """The rows; raises errors.InputError where one is too large for float32."""
        if max(rows.max(initial=0), -rows.min(initial=0)) <= _FLOAT32_MAX:
            return rows
        column = int(np.argmax((np.abs(rows) <= _FLOAT32_MAX).all(axis=0) == 0))
        names = [
            f"{n}={text}" if text else n for n, ts in self.columns.items() for text in ts or [""]
        ]
        raise errors.InputError(
            f"{self._table.name}: the column {[*names, self.label][column]!r} has numbers that are "
            "too large for float32 (or, with --standardize, too far apart)"
        )

    def _read(self, numbers: Sequence[str]) -> Iterator[tables.Rows]:
        """Reads rows, and shows that this goes on."""
        live = console.LiveLine()
        for rows in self._table.rows(numbers, self.texts, drops_missing=self._drops_missing):
            if live.is_due():
                live.show(f"Reading {self._table.name}: {self._table.part_read:.0%}")
            yield rows
        live.close()


class Split:
    """Which rows are validation examples: a function of the seed, the row, and how many there are.

    With --validation_fraction, not of how many there are.
    """

    def __init__(self, config: config_lib.Config, count: int):
        """Prepares to choose among `count` rows, if that is known."""
        self._config, self._first = config, 0
        wanted = config.validation_examples or 0
        if wanted:
            errors.require(
                count - wanted >= 2,
                f"{config.data}: at least 2 rows must be left to train on; received {count} "
                f"row{'s' * (count != 1)} and --validation_examples={wanted}",
            )
            words = fingerprint.random_words(config.seed, 0, count)
            self._limit = int(np.partition(words, wanted)[wanted])
        else:
            self._limit = int(config.validation_fraction * 2**64)

    def held_out(self, count: int) -> npt.NDArray[np.bool_]:
        """Which of the next rows are not trained on."""
        self._first += count
        return self._chosen(self._first - count, count)

    def is_full_batch(self, count: int) -> bool:
        """Whether all training examples of so many rows are one batch."""
        training = count - int(self._chosen(0, count).sum())
        return self._config.steps_per_epoch(training) == 1

    def _chosen(self, first: int, count: int) -> npt.NDArray[np.bool_]:
        words = fingerprint.random_words(self._config.seed, first, count)
        return np.asarray(words < np.uint64(self._limit))


class Part:
    """The training or the validation examples: measures all rows, and keeps a worker's.

    Attributes:
      x, y: The rows [N, D] and labels [N] that the worker needs, once they are finished.
      moments: The means and variances of all rows.
      least_squares: Those of all rows; None if there is no use for it, or it is too expensive.
      label_variance: That of the labels of all rows, in units of the model's labels.
    """

    def __init__(self, width: int, worker: workers.Worker, *, solves: bool = False):
        """Prepares for rows [N, width], of which the worker keeps every k-th."""
        self._worker, self._kept = worker, list[Float32]()
        self.moments = moments.Moments(width)
        self._qr = least_squares.StreamingQR() if solves else None

    def add(self, rows: Float64) -> None:
        """Takes the next rows."""
        first = -(self.moments.count - self._worker.index) % self._worker.count
        self._kept.append(rows[first :: self._worker.count].astype(np.float32))
        self.moments.add(rows)
        if not least_squares.is_cheap(self.moments.count, rows.shape[1] - 1):
            self._qr = None
        if self._qr and len(rows):
            self._qr.add(rows)

    def finish(self, units: moments.Units) -> None:
        """Standardizes the examples by units that were measured on the training rows."""
        count, width = sum(map(len, self._kept)), len(units.mean)
        self.x, self.y = np.empty((count, width - 1), np.float32), np.empty(count, np.float32)
        first = 0
        while self._kept:  # one after the other, so that there is never a second copy
            rows = (self._kept.pop(0) - units.mean) / units.stddev
            self.x[first : first + len(rows)] = rows[:, :-1]
            self.y[first : first + len(rows)] = rows[:, -1]
            first += len(rows)
        self.label_variance = float(self.moments.stddev[-1] / units.stddev[-1]) ** 2
        solved = self._qr.solve() if self._qr and self.moments.count else None
        self.least_squares = solved and linear_units.standardized_least_squares(solved, units)


def _names(flag: str) -> list[str]:
    """The names in a flag, separated by commas."""
    return [name.strip() for name in flag.split(",") if name.strip()]


def _are_classes(labels: Float64) -> bool:
    """Whether labels look like classes 0, 1, ..."""
    return bool(((labels >= 0) & (labels <= _MOST_CLASSES) & (labels == np.floor(labels))).all())
