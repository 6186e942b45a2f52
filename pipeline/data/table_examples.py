"""Examples from a table: splits the rows, encodes texts and standardizes the columns.

Every worker reads all rows, so all compute the same statistics, and keeps only its own rows.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pipeline import config as config_lib
from pipeline import console, errors
from pipeline.data import example_weights, fingerprint, least_squares, preprocessing, tables
from pipeline.distributed import workers

Float64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_MOST_LEVELS = 1000  # distinct values of a text column
_MOST_CLASSES = 20
_FLOAT32_MAX = float(np.finfo(np.float32).max)


def load(
    table: tables.Table,
    config: config_lib.Config,
    worker: workers.Worker,
    *,
    keeps: tuple[str, ...] = (),
) -> tuple[preprocessing.Preprocessing, "Part", "Part"]:
    """Learns from the training rows, and makes training and validation examples.

    Rows are scaled to about mean 0 and deviation 1 in float64, then kept in float32, except for
    what `keeps` names: "features", and "classes" if all labels are small whole numbers.

    Raises:
      errors.InputError: the table can't be used as it is.
    """
    reader = _Reader(table, config)
    count = 0
    if config.validation_examples or worker.count > 1 or reader.texts:
        count = reader.look_ahead()
    split = Split(config, count)
    keeps_part = worker.count > 1 and (
        config.num_batches(count - int(split.held_out(0, count).sum())) == 1
    )
    own = worker if keeps_part else workers.Worker()
    width = len(reader.encoder.features)
    train = Part(width, own, solves=config.is_linear_regression and not config.weighs)
    validation = Part(width, worker)
    first, weighed = 0, list[Float64]()  # [2, N], the label and the weight of training rows
    for rows, weight in reader.rows():
        if not first:
            given = None if "classes" in keeps else config.is_regression
            is_regression = _is_regression(config, rows[:, -1], given=given)
            standardized = np.full(width, config.is_standardized and "features" not in keeps)
            keeps_label = not is_regression or config.keeps_label
            standardized[-1] = config.is_standardized and not keeps_label
            near, spread = _around(rows, standardized)
        moved = reader.checked((rows - near) / spread)
        held_out = split.held_out(first, len(rows))
        first += len(rows)
        validation.add(moved[held_out])
        train.add(moved[~held_out] if held_out.any() else moved)
        if config.weighs:
            weighed.append(np.stack([rows[:, -1], weight])[:, ~held_out])
    errors.require(
        train.count >= 2,
        f"{config.data}: at least 2 rows must be left to train on; received {train.count} of "
        f"{first}",
    )
    mean, stddev = train.units(standardized)
    for part in (train, validation):
        part.finish(mean, stddev)
    if config.weighs:
        train.weight = own.part(example_weights.of(config, *np.hstack(weighed))).copy()
    mean, stddev = near + spread * mean, spread * stddev
    learned = preprocessing.Preprocessing(reader.columns, reader.label, mean, stddev, is_regression)
    return learned, train, validation


def are_classes(labels: Float64) -> bool:
    """Whether labels [N] may stand for classes: small whole numbers."""
    return bool(np.isin(labels, range(_MOST_CLASSES + 1)).all())


def _is_regression(config: config_lib.Config, labels: Float64, *, given: bool | None) -> bool:
    """Whether labels are numbers that may be standardized; the labels tell for an own loss."""
    if config.class_weight:
        return False
    return not are_classes(labels) if given is None else given


def _around(rows: Float64, standardized: Bools) -> tuple[Float64, Float64]:
    """Returns the first row and the deviations from it, which are 0 in constant columns."""
    with np.errstate(over="ignore"):  # the caller checks for that
        moved = rows - rows[0]
    largest = np.abs(moved).max(axis=0)
    is_usable = standardized & (largest > 0) & np.isfinite(largest)
    largest = np.where(is_usable, largest, 1.0)
    spread = largest * np.sqrt(np.square(moved / largest).mean(axis=0))
    return np.where(standardized, rows[0], 0.0), np.where(is_usable, spread, 1.0)


class _Reader:
    """Reads the columns of a table as rows of features, then the label.

    Attributes:
      columns: The feature columns: the known texts of a text column, or None for numbers.
      texts: The names of the text columns.
    """

    def __init__(self, table: tables.Table, config: config_lib.Config):
        """Chooses the columns that the config names."""
        self._table, self._drops_missing = table, config.missing == "drop"
        errors.require(
            table.is_on_disk, f"{table.name}: must be a file on disk, which is read several times"
        )
        self._weight = config.weight
        table.check_columns([self._weight] if self._weight else [], flag="weight")
        others = [name for name in table.header if name != self._weight]
        self.label = config.label or (others or table.header)[-1]
        table.check_columns([self.label], flag="label")
        errors.require(self.label != self._weight, f"--weight={self._weight} must not be the label")
        others = [name for name in others if name != self.label]
        names = _names(config.features) or others
        table.check_columns(names, flag="features")
        for what, name in (("label", self.label), ("weight", self._weight)):
            errors.require(name not in names, f"--features must not contain the {what} {name!r}")
        errors.require(names, f"{table.name}: needs a feature beside the label {self.label!r}")
        self.texts = _names(config.categorical)
        table.check_columns(self.texts, flag="categorical")
        unused = next((name for name in self.texts if name not in names), None)
        errors.require(
            unused is None, f"--categorical names {unused!r}, which is none of the features"
        )
        self.columns: dict[str, tuple[str, ...] | None] = dict.fromkeys(names)

    @property
    def encoder(self) -> preprocessing.Preprocessing:
        """The preprocessing that encodes columns as rows of features, then the label."""
        return preprocessing.unchanged({**self.columns, self.label: None}, self.label)

    def look_ahead(self) -> int:
        """Reads the table once to find the texts; returns the number of rows."""
        count, found = 0, {name: set[str]() for name in self.texts}
        for columns in self._read():
            count += len(columns[self.label])
            for name, texts in found.items():
                texts.update(np.unique(columns[name]).tolist())
                errors.require(
                    len(texts) <= _MOST_LEVELS,
                    f"{self._table.name}: the column {name!r} has more than {_MOST_LEVELS:,} "
                    "different texts, too many for --categorical; choose others with --features",
                )
        self.columns |= {name: tuple(sorted(texts)) for name, texts in found.items()}
        return count

    def rows(self) -> Iterator[tuple[Float64, Float64]]:
        """Yields all rows [N, D + 1] and their weights [N], block by block."""
        encoder = self.encoder
        for columns in self._read():
            rows = encoder.encode(columns)
            yield rows, columns.get(self._weight, np.ones(len(rows)))

    def checked(self, rows: Float64) -> Float64:
        """Returns the rows; raises errors.InputError if a number is too large for float32."""
        if max(rows.max(), -rows.min()) > _FLOAT32_MAX:
            column = int(np.argmax((np.abs(rows) > _FLOAT32_MAX).any(axis=0)))
            raise errors.InputError(
                f"{self._table.name}: the column {self.encoder.features[column]!r} has numbers "
                "that are too large for float32 (or, with --standardize, too far apart)"
            )
        return rows

    def _read(self) -> Iterator[tables.Columns]:
        """Reads the columns, and shows the progress."""
        live = console.LiveLine()
        names = filter(None, (*self.columns, self.label, self._weight))
        numbers = [name for name in names if name not in self.texts]
        for columns in self._table.rows(
            numbers, self.texts, weight=self._weight, drops_missing=self._drops_missing
        ):
            if live.is_due():
                live.show(f"Reading {self._table.name}: {self._table.part_read:.0%}")
            yield columns
        live.close()


def _names(flag: str) -> list[str]:
    """The names in a flag, separated by commas."""
    return [name.strip() for name in flag.split(",") if name.strip()]


class Split:
    """Chooses the validation rows by the seed and the row number.

    With --validation_examples the choice also depends on the number of rows.
    """

    def __init__(self, config: config_lib.Config, count: int):
        """Prepares to choose among `count` rows, which --validation_fraction does not need."""
        self._seed, wanted = config.seed, config.validation_examples
        self._limit = int(config.validation_fraction * 2**64)
        if wanted:
            errors.require(
                count - wanted >= 2,
                f"{config.data}: at least 2 rows must be left to train on; received {count} "
                f"row{'s' * (count != 1)} and --validation_examples={wanted}",
            )
            words = fingerprint.random_words(self._seed, 0, count)
            self._limit = int(np.partition(words, wanted)[wanted])

    def held_out(self, first: int, count: int) -> Bools:
        """Returns which of the `count` rows from `first` on are validation examples."""
        words = fingerprint.random_words(self._seed, first, count)
        return np.asarray(words < np.uint64(self._limit))


class Part:
    """The training or validation examples: computes statistics of all rows, keeps a worker's rows.

    Means and variances are updated with the algorithm of Chan, Golub and LeVeque (Algorithms for
    computing the sample variance, 1983).

    Attributes:
      count: The number of all rows.
      x, y: The worker's features [N, D] and labels [N], after `finish`.
      weight: The weights [N] of the worker's examples; None if all count the same.
      least_squares: Least squares over all rows; None if it is not needed or too expensive.
      label_variance: The variance of all labels, in units of the model's labels.
    """

    def __init__(self, width: int, worker: workers.Worker, *, solves: bool = False):
        """Prepares for rows [N, width], of which the worker keeps every k-th."""
        self.count, self._worker, self._kept = 0, worker, list[npt.NDArray[np.float32]]()
        self._mean, self._squares = np.zeros(width), np.zeros(width)
        self._qr = least_squares.StreamingQR() if solves else None
        self.weight: npt.NDArray[np.float32] | None = None

    def add(self, rows: Float64) -> None:
        """Adds the next rows."""
        if not len(rows):
            return
        first = -(self.count - self._worker.index) % self._worker.count
        self._kept.append(rows[first :: self._worker.count].astype(np.float32))
        mean, total = rows.mean(axis=0), self.count + len(rows)
        step, centered = mean - self._mean, rows - mean
        self._squares += np.einsum("ij,ij->j", centered, centered)
        self._squares += np.square(step) * (self.count * len(rows) / total)
        self._mean += step * (len(rows) / total)
        self.count = total
        if not least_squares.is_cheap(total, rows.shape[1] - 1):
            self._qr = None
        if self._qr:
            self._qr.add(rows)

    def units(self, standardized: Bools) -> tuple[Float64, Float64]:
        """The means and deviations; 0 and 1 for columns that are not standardized or constant."""
        stddev = np.sqrt(self._squares / self.count)
        scale = np.where(standardized & (stddev > 0), stddev, 1.0)
        return np.where(standardized, self._mean, 0.0), scale

    def finish(self, mean: Float64, stddev: Float64) -> None:
        """Standardizes the examples with the mean and stddev of the training rows."""
        count, width = sum(map(len, self._kept)), len(mean)
        self.x, self.y = np.empty((count, width - 1), np.float32), np.empty(count, np.float32)
        first = 0
        while self._kept:  # one block at a time, so there is never a second copy
            rows = (self._kept.pop(0) - mean) / stddev
            self.x[first : first + len(rows)] = rows[:, :-1]
            self.y[first : first + len(rows)] = rows[:, -1]
            first += len(rows)
        self.label_variance = float(self._squares[-1] / max(1, self.count) / stddev[-1] ** 2)
        self.least_squares = self._qr.solve(mean, stddev) if self._qr else None
