"""Datasets of training and validation examples, synthetic or read from a CSV file. numpy alone.

So that a mistake in a file is reported before TensorFlow is imported.
"""

import zlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline import config as config_lib
from pipeline import errors
from pipeline.data import csv_reader
from pipeline.distributed import workers

Array = npt.NDArray[np.float32]

FINGERPRINTS = 2**48  # how many there are

_SYNTHETIC_VALIDATION_EXAMPLES = 201
# Streams of random numbers that one seed gives.
_TRAINING_NOISE, _VALIDATION_NOISE, _VALIDATION_ROWS = range(3)
_CHUNK = 2**20  # numbers whose bits are mixed at a time
_WORD = np.uint64
_ALONE = workers.Worker()


class Examples(NamedTuple):
    """Inputs and labels."""

    x: Array  # [N, D]
    y: Array  # [N]


class Truth(NamedTuple):
    """The curve that synthetic examples are drawn from."""

    w: float
    b: float
    is_line: bool = True

    def at(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The y at x: w*x + b, or w*sin(pi*x) + b."""
        return self.w * (x if self.is_line else np.sin(np.pi * x)) + self.b


class Datasets(NamedTuple):
    """What a run is trained and evaluated on.

    Of several workers, each holds the rows that it needs: its part of the validation examples,
    and its part of the training examples where they are one full batch.
    """

    train: Examples
    validation: Examples | None  # evaluated, but not trained on
    features: tuple[str, ...]  # D names, in the order of the columns of x
    label: str  # the name of y
    truth: Truth | None = None  # None for a file
    worker: workers.Worker = workers.Worker()
    counts: tuple[int, int] | None = None  # of the training and validation examples of all workers

    @property
    def num_train(self) -> int:
        """The number of training examples of all workers."""
        return self.counts[0] if self.counts else len(self.train.y)

    @property
    def num_validation(self) -> int:
        """The number of validation examples of all workers."""
        return self.counts[1] if self.counts else len(self.validation.y if self.validation else ())

    @property
    def evaluated(self) -> Examples:
        """The part of the training examples that this worker evaluates."""
        is_part = len(self.train.y) < self.num_train
        return self.train if is_part else Examples(*map(self.worker.part, self.train))

    def fingerprint(self) -> int:
        """This worker's addend of a number that changes when examples, names or their order do.

        The sum over the workers, modulo 2**48, is the same however many they are.
        """
        names = zlib.crc32("\n".join([*self.features, self.label]).encode())
        result = names if self.worker.is_chief else 0
        for salt, part in enumerate((self.evaluated, self.validation)):
            if part is not None:
                result += _fingerprint(part, self.worker, salt)
        return result % FINGERPRINTS


def load(config: config_lib.Config, worker: workers.Worker = _ALONE) -> Datasets:
    """Makes or reads the examples that the config asks for, as far as a worker needs them.

    Raises:
      errors.InputError: the CSV file can't be used as it is, or a setting doesn't fit the
        number of examples.
    """
    datasets = (_load_synthetic if config.is_synthetic else _load_csv)(config, worker)
    config.last_step(datasets.num_train)  # raises where they do not fit
    errors.require(
        datasets.num_train >= worker.count,
        f"{worker.count} workers need as many examples; received {datasets.num_train}",
    )
    return datasets


def _fingerprint(examples: Examples, worker: workers.Worker, salt: int) -> int:
    """A sum over rows, of each of which it mixes the bits with its place in the whole."""
    words = _mixed(np.arange(examples.x.shape[1] + 2, dtype=_WORD) + _WORD(salt << 32)) | _WORD(1)
    result = 0
    rows = max(1, _CHUNK // len(words))
    for first in range(0, len(examples.y), rows):
        x, y = (array[first : first + rows] for array in examples)
        place = worker.index + worker.count * np.arange(first, first + len(y), dtype=_WORD)
        columns = np.column_stack([x, y]).view("<u4").astype(_WORD)
        mixed = _mixed(place * words[-1] + columns @ words[:-1])
        result += int((mixed >> _WORD(16)).sum(dtype=_WORD))
    return result


def _mixed(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finalizer of splitmix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    words = (words ^ words >> _WORD(30)) * _WORD(0xBF58476D1CE4E5B9)
    words = (words ^ words >> _WORD(27)) * _WORD(0x94D049BB133111EB)
    return words ^ words >> _WORD(31)


def _load_synthetic(config: config_lib.Config, worker: workers.Worker) -> Datasets:
    given = config.validation_examples
    count = _SYNTHETIC_VALIDATION_EXAMPLES if given is None else given
    train = synthetic(config, config.num_examples, stream=_TRAINING_NOISE)
    validation = synthetic(config, count, stream=_VALIDATION_NOISE) if count else None
    return Datasets(
        train=_part(train, worker) if _is_full_batch(config, config.num_examples) else train,
        validation=validation and _part(validation, worker),
        features=("x",),
        label="y",
        truth=Truth(config.true_w, config.true_b, is_line=config.synthetic == "line"),
        worker=worker,
        counts=None if worker.count == 1 else (config.num_examples, count),
    )


def _is_full_batch(config: config_lib.Config, count: int) -> bool:
    """Whether all examples are one batch, so that a worker needs the same part of it each time."""
    return config_lib.steps_per_epoch(count, config.batch_size) == 1


def _part(examples: Examples, worker: workers.Worker) -> Examples:
    return Examples(*(np.ascontiguousarray(worker.part(array)) for array in examples))


def synthetic(config: config_lib.Config, count: int, *, stream: int) -> Examples:
    """Draws y = true_w * x + true_b (or sin(pi*x) for x) + noise at `count` evenly spaced x.

    The same bits for the same seed and stream.

    Raises:
      errors.InputError: a y is not finite as float32.
    """
    x = np.linspace(config.x_min, config.x_max, count, dtype=np.float32)
    generator = np.random.default_rng([config.seed, stream])
    y = generator.standard_normal(count, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        y *= np.float32(config.noise_stddev)
        shape = x if config.synthetic == "line" else np.sin(np.float32(np.pi) * x)
        y += np.float32(config.true_w) * shape
        y += np.float32(config.true_b)
    names = ("true_w", "true_b", "noise_stddev", "x_min", "x_max")
    errors.require(
        np.isfinite(y).all(),
        "the synthetic y are too large for float32; give smaller numbers than "
        + " ".join(f"--{name}={getattr(config, name):g}" for name in names),
    )
    return Examples(x[:, None], y)


def _load_csv(config: config_lib.Config, worker: workers.Worker) -> Datasets:
    header = csv_reader.read_header(config.data)
    label = config.label or header[-1]
    csv_reader.check_columns(config.data, header, [label], flag="label")
    given = [name.strip() for name in config.features.split(",") if name.strip()]
    features = given or [name for name in header if name != label]
    csv_reader.check_columns(config.data, header, features, flag="features")
    errors.require(label not in features, f"--features must not contain the label {label!r}")
    errors.require(features, f"{config.data}: needs a feature beside the label {label!r}")
    names = [*features, label]
    if worker.count == 1:
        table = csv_reader.read_columns(config.data, names)
        held_out = here = _held_out(len(table), config)
    else:
        held_out = _held_out(csv_reader.count_rows(config.data), config)
        needed = _needed(held_out, config, worker)
        table, here = csv_reader.read_columns(config.data, names, needed), held_out[needed]
    x, y = (np.ascontiguousarray(part) for part in (table[:, :-1], table[:, -1]))
    train, validation = (
        (Examples(x[i], y[i]) for i in (~here, here)) if held_out.any() else (Examples(x, y), None)
    )
    counts = None if worker.count == 1 else (int((~held_out).sum()), int(held_out.sum()))
    return Datasets(train, validation, tuple(features), label, worker=worker, counts=counts)


def _needed(
    held_out: npt.NDArray[np.bool_], config: config_lib.Config, worker: workers.Worker
) -> npt.NDArray[np.bool_]:
    """Which rows of a file a worker needs."""
    needed = np.zeros(len(held_out), bool)
    train, validation = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    needed[worker.part(train) if _is_full_batch(config, len(train)) else train] = True
    needed[worker.part(validation)] = True
    return needed


def _held_out(rows: int, config: config_lib.Config) -> npt.NDArray[np.bool_]:
    """Which rows of a file are not trained on; both parts keep its order."""
    count = config.validation_examples or 0
    errors.require(
        rows - count >= 2,
        f"{config.data}: at least 2 rows must be left to train on; received {rows} "
        f"row{'s' * (rows != 1)}" + (f" and --validation_examples={count}" if count else ""),
    )
    held_out = np.zeros(rows, bool)
    if count:
        generator = np.random.default_rng([config.seed, _VALIDATION_ROWS])
        held_out[generator.permutation(rows)[:count]] = True
    return held_out
