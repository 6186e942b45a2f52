"""Settings of the examples. Standard library only."""

import dataclasses
import re

from pipeline import errors, fields

_CLASS_WEIGHT = r"(-?\d+):(\d+\.?\d*(?:e[+-]?\d+)?)"  # such as 1:10 or 0:2.5e-3


@dataclasses.dataclass(frozen=True)
class Synthetic:
    """Examples that are drawn from a curve."""

    synthetic: str = fields.field(
        "line",
        "Without --data: 'line' draws y = true_w*x + true_b, 'sine' y = true_w*sin(pi*x) + true_b.",
        choices=("line", "sine"),
    )
    num_examples: int = fields.field(
        201, "Training examples to draw.", at_least=2, at_most=fields.MAX_INT32
    )
    true_w: float = fields.field(3.0, "W of the curve that synthetic data are drawn from.")
    true_b: float = fields.field(2.0, "b of the curve that synthetic data are drawn from.")
    noise_stddev: float = fields.field(
        1.0, "Standard deviation of the noise on synthetic y.", at_least=0
    )
    x_min: float = fields.field(-2.0, "The smallest synthetic x.")
    x_max: float = fields.field(2.0, "The largest synthetic x.")

    def _check(self) -> None:
        errors.require(
            self.x_min < self.x_max,
            f"--x_min must be less than --x_max; received --x_min={self.x_min:g} "
            f"--x_max={self.x_max:g}",
        )


@dataclasses.dataclass(frozen=True)
class Table:
    """Examples that are read from a table or a function."""

    data: str = fields.not_swept(
        "",
        "What to train on in place of synthetic data: a CSV or Parquet file, several separated by "
        "commas, a pattern such as 'part-*.csv', or a function of your own such as mine:houses, "
        "which returns columns by their names, arrays (x, y) or a tf.data.Dataset of batches. It "
        "is called with 'train' and 'validation' if it has a parameter `split`.",
    )
    label: str = fields.not_swept("", "The column to predict; by default the last one.")
    features: str = fields.not_swept(
        "", "The columns to predict from, separated by commas; by default all others."
    )
    categorical: str = fields.not_swept(
        "",
        "Feature columns that hold texts, separated by commas: each different text becomes a "
        "feature that is 1 or 0, such as city=Paris.",
    )
    weight: str = fields.not_swept(
        "",
        "The column with the weight of each training example, at least 0: its loss counts so many "
        "times. It is no feature. Evaluation is not weighted.",
    )
    class_weight: str = fields.not_swept(
        "",
        "Weigh training examples by the class of their label: 'balanced' lets all classes count "
        "the same; 0:1,1:10 lets class 1 count ten times. Evaluation is not weighted.",
    )
    missing: str = fields.not_swept(
        "refuse",
        "What to do if a value is missing: 'refuse' the table, or 'drop' the row.",
        choices=("refuse", "drop"),
    )
    standardize: bool | None = fields.not_swept(
        None,
        "Train on features (and for regression, on labels) of mean 0 and standard deviation 1; W "
        "and b are shown, and predictions made, in the units of the data. By default with --data.",
    )

    steps_per_epoch: int = fields.step_count(
        0,
        "Batches in an epoch of a tf.data.Dataset; by default all, which are counted in a pass "
        "over it if it does not know their number.",
        may_sweep=False,
    )

    def _check(self) -> None:
        fields.check_path("data", self.data)
        for name in fields.names(Table):
            value = getattr(self, name)
            errors.require(
                value == getattr(Table, name) or not self.is_synthetic,
                f"--{name}={value} is for a table; say which one with --data",
            )
        pairs = self.class_weight.split(",")
        is_by_class = all(re.fullmatch(_CLASS_WEIGHT, pair) for pair in pairs)
        errors.require(
            self.class_weight in ("", "balanced")
            or (is_by_class and len(self.class_weights) == len(pairs)),
            "--class_weight must be 'balanced', or classes with their weights, such as 0:1,1:10; "
            f"received {self.class_weight!r}",
        )

    @property
    def class_weights(self) -> dict[int, float]:
        """The weights of --class_weight by class; empty for 'balanced'."""
        pairs = re.findall(_CLASS_WEIGHT, self.class_weight)
        return {int(label): float(weight) for label, weight in pairs}

    @property
    def weighs(self) -> bool:
        """Whether flags weigh the training examples."""
        return bool(self.weight or self.class_weight)

    @property
    def is_synthetic(self) -> bool:
        """Whether the examples are drawn from a curve instead of read."""
        return not self.data

    @property
    def is_standardized(self) -> bool:
        """Whether the model is trained on standardized data."""
        return not self.is_synthetic if self.standardize is None else self.standardize


@dataclasses.dataclass(frozen=True)
class Validation:
    """Examples that are not trained on."""

    validation_examples: int | None = fields.field(
        None,
        "Validation examples, which are not trained on: others drawn in the same way (by default "
        "201), or with --data this many of its rows, chosen by the seed (by default none).",
        at_least=0,
        at_most=fields.MAX_INT32,
    )
    validation_fraction: float = fields.not_swept(
        0.0,
        "With --data, hold out about this fraction of the rows for validation, chosen by --seed. "
        "Adding rows later does not move existing rows.",
        at_least=0,
        at_most=0.9,
    )

    def _check(self) -> None:
        errors.require(
            not (self.validation_examples and self.validation_fraction),
            "--validation_examples and --validation_fraction exclude each other",
        )
