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

Array = npt.NDArray[np.float32]

_SYNTHETIC_VALIDATION_EXAMPLES = 201
# Streams of random numbers that one seed gives.
_TRAINING_NOISE, _VALIDATION_NOISE, _VALIDATION_ROWS = range(3)


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
    """What a run is trained and evaluated on."""

    train: Examples
    validation: Examples | None  # evaluated, but not trained on
    features: tuple[str, ...]  # D names, in the order of the columns of x
    label: str  # the name of y
    truth: Truth | None = None  # None for a file

    def fingerprint(self) -> int:
        """A number that changes when examples, names or their order do."""
        result = zlib.crc32("\n".join([*self.features, self.label]).encode())
        for part in (self.train, self.validation):
            for array in part or ():
                result = zlib.crc32(array.data, result)
        return result


def load(config: config_lib.Config) -> Datasets:
    """Makes or reads the examples that the config asks for.

    Raises:
      errors.InputError: the CSV file can't be used as it is, or a setting doesn't fit the
        number of examples.
    """
    datasets = _load_synthetic(config) if config.is_synthetic else _load_csv(config)
    config.last_step(len(datasets.train.y))  # raises where they do not fit
    return datasets


def _load_synthetic(config: config_lib.Config) -> Datasets:
    given = config.validation_examples
    count = _SYNTHETIC_VALIDATION_EXAMPLES if given is None else given
    return Datasets(
        train=synthetic(config, config.num_examples, stream=_TRAINING_NOISE),
        validation=synthetic(config, count, stream=_VALIDATION_NOISE) if count else None,
        features=("x",),
        label="y",
        truth=Truth(config.true_w, config.true_b, is_line=config.synthetic == "line"),
    )


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


def _load_csv(config: config_lib.Config) -> Datasets:
    header = csv_reader.read_header(config.data)
    label = config.label or header[-1]
    csv_reader.check_columns(config.data, header, [label], flag="label")
    given = [name.strip() for name in config.features.split(",") if name.strip()]
    features = given or [name for name in header if name != label]
    csv_reader.check_columns(config.data, header, features, flag="features")
    errors.require(label not in features, f"--features must not contain the label {label!r}")
    errors.require(features, f"{config.data}: needs a feature beside the label {label!r}")
    table = csv_reader.read_columns(config.data, [*features, label])
    x, y = (np.ascontiguousarray(part) for part in (table[:, :-1], table[:, -1]))
    train, validation = _split(Examples(x, y), config)
    return Datasets(train, validation, tuple(features), label)


def _split(examples: Examples, config: config_lib.Config) -> tuple[Examples, Examples | None]:
    """Takes the validation rows out; both parts keep the order of the file."""
    rows, count = len(examples.y), config.validation_examples or 0
    errors.require(
        rows - count >= 2,
        f"{config.data}: at least 2 rows must be left to train on; received {rows} "
        f"row{'s' * (rows != 1)}" + (f" and --validation_examples={count}" if count else ""),
    )
    if not count:
        return examples, None
    generator = np.random.default_rng([config.seed, _VALIDATION_ROWS])
    chosen = np.zeros(rows, bool)
    chosen[generator.permutation(rows)[:count]] = True
    train, validation = (Examples(examples.x[i], examples.y[i]) for i in (~chosen, chosen))
    return train, validation
