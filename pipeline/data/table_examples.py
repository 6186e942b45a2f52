"""Examples from a table: splits its rows, encodes texts, measures and standardizes the columns.

Every worker looks at all rows, so that all of them measure the same, and keeps only its own.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline import config as config_lib
from pipeline import console, errors
from pipeline.data import fingerprint, least_squares, sources, tables
from pipeline.data import scale as scale_lib
from pipeline.distributed import workers

Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

_MOST_LEVELS = 1000  # different values of a column of texts
_MOST_CLASSES = 20
_FLOAT32_MAX = float(np.finfo(np.float32).max)


class Part(NamedTuple):
    """The training or the validation examples, in units of the scale."""

    x: Float32  # [N, D], the rows that this worker needs
    y: Float32  # [N]
    total: int  # rows of all workers
    least_squares: least_squares.LeastSquares | None  # None if not asked for, or too expensive
    label_variance: float


class Loaded(NamedTuple):
    """What a table gives."""

    train: Part
    validation: Part
    features: tuple[str, ...]  # D names
    label: str
    scale: scale_lib.Scale | None  # None where nothing is standardized
    is_regression: bool  # or else the labels stand for classes
    dropped: int  # rows, as values were missing


def load(config: config_lib.Config, worker: workers.Worker) -> Loaded:
    """Reads the table that --data names.

    Raises:
      errors.InputError: the table can't be used as it is.
    """
    reader = _Reader(sources.open_table(config), config)
    if config.validation_examples or worker.count > 1 or reader.texts:
        reader.look_ahead()
    split = _Split(config, reader.count)
    is_full_batch = worker.count > 1 and split.is_full_batch(reader.count)
    width = len(reader.features) + 1
    solves = config.is_linear_regression
    parts = [
        _Collector(width, worker, is_full_batch, solves),
        _Collector(width, worker, True, solves),
    ]
    blocks = filter(len, reader.rows())
    some = next(blocks, np.empty((0, width)))
    given = config.is_regression
    is_regression = not _are_classes(some[:, -1]) if given is None else given
    standardized = config.is_standardized & np.append(np.full(width - 1, True), is_regression)
    near = _around(some, standardized)
    for rows in itertools.chain([some], blocks):
        held_out = split.held_out(len(rows))
        moved = reader.checked((rows - near.mean) / near.stddev)
        for part, chosen in zip(parts, (~held_out, held_out), strict=True):
            part.add(moved[chosen])
    count, other = (part.moments.count for part in parts)
    errors.require(
        count >= 2,
        f"{config.data}: at least 2 rows must be left to train on; received {count} of "
        f"{count + other}",
    )
    scale = _measured(parts[0].moments, standardized)
    train, validation = (part.finished(scale) for part in parts)
    of_data = near.of_scaled(scale) if standardized.any() else None
    names = reader.features, reader.label
    return Loaded(train, validation, *names, of_data, is_regression, reader.dropped)


class _Reader:
    """The columns of a table that are used, as rows of features and, last, the label.

    Attributes:
      texts: The names of the columns of texts; each text in them gets a feature that is 1 where
        the column has it, and 0 elsewhere, such as city=Paris.
      features: D names, once the texts are known.
      count: The number of rows, once it is known.
    """

    def __init__(self, table: tables.Table, config: config_lib.Config):
        """Chooses the columns that the config names."""
        self._table = table
        header = table.header
        self.label = config.label or header[-1]
        table.check_columns([self.label], flag="label")
        self._columns = _names(config.features) or [name for name in header if name != self.label]
        table.check_columns(self._columns, flag="features")
        errors.require(
            self.label not in self._columns, f"--features must not contain the label {self.label!r}"
        )
        errors.require(
            self._columns, f"{table.name}: needs a feature beside the label {self.label!r}"
        )
        named = _names(config.categorical)
        table.check_columns(named, flag="categorical")
        unused = next((name for name in named if name not in self._columns), None)
        errors.require(
            unused is None, f"--categorical names {unused!r}, which is none of the features"
        )
        self.texts = [name for name in self._columns if name in named]
        self._numbers = [*(name for name in self._columns if name not in named), self.label]
        self._levels: dict[str, list[str]] = {name: [] for name in self.texts}
        self._drops_missing = config.missing == "drop"
        self.count = 0

    @property
    def features(self) -> tuple[str, ...]:
        """The D names."""
        names: list[str] = []
        for name in self._columns:
            levels = self._levels.get(name)
            names += [name] if levels is None else [f"{name}={level}" for level in levels]
        return tuple(names)

    @property
    def dropped(self) -> int:
        """How many rows were left out, as values were missing."""
        return self._table.dropped

    def look_ahead(self) -> None:
        """Counts the rows, and finds the texts."""
        numbers = self._numbers if self._drops_missing else []
        found: dict[str, set[str]] = {name: set() for name in self.texts}
        for block in self._blocks(numbers):
            self.count += len(block.numbers)
            for name, texts in zip(self.texts, block.texts, strict=True):
                found[name].update(np.unique(texts).tolist())
                errors.require(
                    len(found[name]) <= _MOST_LEVELS,
                    f"{self._table.name}: the column {name!r} has more than {_MOST_LEVELS:,} "
                    "different texts, too many for --categorical; choose others with --features",
                )
        self._levels = {name: sorted(levels) for name, levels in found.items()}

    def rows(self) -> Iterator[Float64]:
        """All rows [N, D + 1], some at a time."""
        for block in self._blocks(self._numbers):
            columns = dict(zip(self._numbers, block.numbers.T, strict=True))
            texts = dict(zip(self.texts, block.texts, strict=True))
            found = []
            for name in self._columns:
                if name in texts:
                    found += [texts[name] == level for level in self._levels[name]]
                else:
                    found.append(columns[name])
            yield np.column_stack([*found, columns[self.label]]).astype(np.float64, copy=False)

    def checked(self, rows: Float64) -> Float64:
        """The rows; raises errors.InputError where one is too large for float32."""
        is_good = np.all(np.abs(rows) <= _FLOAT32_MAX, axis=0)
        names = np.array([*self.features, self.label])
        bad = next(iter(names[~is_good].tolist()), None)
        errors.require(
            bad is None,
            f"{self._table.name}: the column {bad!r} has numbers that are too large for float32 "
            "(or, with --standardize, too far apart)",
        )
        return rows

    def _blocks(self, numbers: Sequence[str]) -> Iterator[tables.Block]:
        """Reads blocks, and shows that this goes on."""
        live = console.LiveLine()
        for block in self._table.blocks(numbers, self.texts, drops_missing=self._drops_missing):
            if live.is_due():
                live.show(f"Reading {self._table.name}: {self._table.part_read:.0%}")
            yield block
        live.close()


class _Split:
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


class _Collector:
    """Takes the rows of one part, measures all and keeps those that a worker needs."""

    def __init__(self, width: int, worker: workers.Worker, is_shared: bool, solves: bool):
        """Prepares for rows [N, width]; where `is_shared`, each worker needs every k-th."""
        self._worker = worker if is_shared else workers.Worker()
        self.moments = scale_lib.Moments(width)
        self._triangle = least_squares.Triangle() if solves else None
        self._kept: list[Float32] = []

    def add(self, rows: Float64) -> None:
        """Takes the next rows."""
        first = -(self.moments.count - self._worker.index) % self._worker.count
        self._kept.append(rows[first :: self._worker.count].astype(np.float32))
        self.moments.add(rows)
        if not least_squares.is_cheap(self.moments.count, rows.shape[1] - 1):
            self._triangle = None
        if self._triangle and len(rows):
            self._triangle.add(rows[:, :-1], rows[:, -1])

    def finished(self, scale: scale_lib.Scale) -> Part:
        """The part, in units of a scale that was measured on its rows."""
        count = sum(map(len, self._kept))
        x, y = np.empty((count, len(scale.mean) - 1), np.float32), np.empty(count, np.float32)
        first = 0
        while self._kept:  # one after the other, so that there is never a second copy
            rows = (self._kept.pop(0) - scale.mean) / scale.stddev
            x[first : first + len(rows)], y[first : first + len(rows)] = rows[:, :-1], rows[:, -1]
            first += len(rows)
        solved = self._triangle and self.moments.count and self._triangle.solve()
        variance = float(self.moments.stddev[-1] / scale.stddev[-1]) ** 2
        return Part(
            x,
            y,
            self.moments.count,
            scale.standardized_least_squares(solved) if solved else None,
            variance,
        )


def _names(flag: str) -> list[str]:
    """The names in a flag, separated by commas."""
    return [name.strip() for name in flag.split(",") if name.strip()]


def _are_classes(labels: Float64) -> bool:
    """Whether labels look like classes 0, 1, ..."""
    return bool(((labels >= 0) & (labels <= _MOST_CLASSES) & (labels == np.floor(labels))).all())


def _around(rows: Float64, standardized: npt.NDArray[np.bool_]) -> scale_lib.Scale:
    """A scale near that of all rows: the first row, so that constant columns become 0."""
    if not len(rows):
        return scale_lib.Scale(np.zeros(rows.shape[1]), np.ones(rows.shape[1]))
    with np.errstate(over="ignore"):  # where `checked` says so
        moved = rows - rows[0]
    largest = np.abs(moved).max(axis=0)
    is_usable = standardized & (largest > 0) & np.isfinite(largest)
    largest = np.where(is_usable, largest, 1.0)
    spread = largest * np.sqrt(np.square(moved / largest).mean(axis=0))
    return scale_lib.Scale(np.where(standardized, rows[0], 0.0), np.where(is_usable, spread, 1.0))


def _measured(moments: scale_lib.Moments, standardized: npt.NDArray[np.bool_]) -> scale_lib.Scale:
    """The means and deviations; those of columns that are constant or not standardized, 0 and 1."""
    varies = standardized & (moments.stddev > 0)
    return scale_lib.Scale(
        np.where(standardized, moments.mean, 0.0), np.where(varies, moments.stddev, 1.0)
    )
