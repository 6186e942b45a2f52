"""Linear models: W and b in the units of the data, and least squares as a reference."""

import dataclasses
import math

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline import config as config_lib
from pipeline.data import batch as batch_lib
from pipeline.data import datasets as datasets_lib
from pipeline.data import least_squares, preprocessing
from pipeline.training import task as task_lib
from pipeline.training import variables as variables_lib

Float64 = npt.NDArray[np.float64]

_SAMPLE = 100  # random examples that test whether the model is linear
_TOLERANCE = 1e-3  # relative error of float32 results
_ROUNDING = 1e-6  # relative rounding error of a float32 number

_OTHER_TASK = "this model with this loss is not linear regression"


@dataclasses.dataclass(frozen=True)
class Linear:
    """A model that predicts x·W + b, with its least-squares solution.

    Attributes:
      variables: The variables W and b, for standardized data if the data are standardized.
      features: The D names.
      units: The preprocessing that standardizes the data, or None.
      standardized: The training loss (squared error) as a function of the model's W and b; None
        if it is not needed.
      reference: The same loss as a function of the watched values, if these are W and b.
      truth: The true W and b of synthetic examples on a line.
      why_not: The reason, in words, why linear regression has no reference.
    """

    variables: variables_lib.Variables
    features: tuple[str, ...]
    units: preprocessing.Preprocessing | None
    standardized: least_squares.LeastSquares | None
    reference: least_squares.LeastSquares | None
    truth: Float64 | None
    why_not: str = ""

    @classmethod
    def of(
        cls, task: task_lib.Task, datasets: datasets_lib.Datasets, config: config_lib.Config
    ) -> "Linear | None":
        """Analyzes a task's model; returns None if it is not linear."""
        if not (config.is_linear and datasets.train.is_table and _is_line(task)):
            return None
        reference, why_not = None, ""
        solved = datasets.least_squares
        if config.is_linear_regression:
            if datasets.train.weight is not None:
                why_not = "the examples have weights"
            elif solved is None:
                count, width = datasets.num_train, datasets.train.x.shape[1]
                why_not = f"{width:,} features of {count:,} examples take too long to solve for"
                why_not = "a stream is not held in memory" if datasets.stream else why_not
            elif not _is_squared_error(task):
                why_not = _OTHER_TASK
            else:
                reference = solved.penalized(config.l2)
        units, truth = datasets.units, datasets.truth
        squares = reference
        if units and reference:
            squares = reference.in_data_units(units)
        return cls(
            task.variables,
            datasets.features,
            units,
            reference,
            squares if task.variables.watches_all else None,
            np.array(truth[:2]) if truth and truth.is_line and reference else None,
            why_not,
        )

    @property
    def solution(self) -> Float64 | None:
        """The least-squares W and b [D + 1], in the model's units."""
        return None if self.standardized is None else self.standardized.solution

    @property
    def largest_stable_rate(self) -> float:
        """The largest stable learning rate of gradient descent; infinite if unknown."""
        if self.standardized is None:
            return math.inf
        return self.standardized.largest_stable_learning_rate()

    @property
    def importance(self) -> dict[str, float]:
        """|W| of standardized features, largest first; empty if they are not standardized."""
        if self.units is None:
            return {}
        sizes = np.abs(self.variables.numbers().numpy()[:-1]).tolist()
        pairs = zip(self.features, sizes, strict=True)
        return dict(sorted(pairs, key=lambda pair: -pair[1]))

    def in_data_units(self, numbers: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Converts the model's W and b [K, D + 1] to the units of the data."""
        if self.units is not None:
            numbers = least_squares.in_data_units(numbers, self.units)
        return variables_lib.as_float32(numbers)

    def from_data_units(self, numbers: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """The inverse of in_data_units."""
        if self.units is not None:
            numbers = least_squares.standardized(numbers, self.units)
        return variables_lib.as_float32(numbers)

    def watched_in_data_units(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Converts watched values [K, M] to the units of the data; norms are not converted."""
        return self.in_data_units(values) if self.variables.watches_all else values

    def flat_lines(self) -> dict[str, dict[str, float]]:
        """The watched values and the loss of reference solutions, drawn as flat lines."""
        if self.standardized is None:
            return {}
        squares = self.reference or self.standardized
        numbers = {"least_squares": squares.solution}
        if self.truth is not None:
            numbers["truth"] = self.truth
        result = {}
        for curve, solution in numbers.items():
            values = self.variables.values_at(solution).tolist()
            result[curve] = dict(zip(self.variables.watched, values, strict=True))
            result[curve]["loss"] = float(squares.loss(solution[None])[0])
        return result


def _is_line(task: task_lib.Task) -> bool:
    """Whether the model predicts x·W + b, tested with random x, W and b."""
    num_features = task.spec.x.shape[1]
    if task.variables.num_trainable != num_features + 1:
        return False
    numbers, x = _random(num_features + 1), _random(_SAMPLE, num_features)
    expected = x @ numbers[:-1] + numbers[-1]
    with task.variables.unchanged():
        task.variables.assign(task.variables.split(numbers))
        predicted = np.asarray(task.predict(tf.constant(x)))
    least = _TOLERANCE * np.abs(expected).max()
    return predicted.shape == expected.shape and np.allclose(
        predicted, expected, rtol=_TOLERANCE, atol=least
    )


def _is_squared_error(task: task_lib.Task) -> bool:
    """Whether the loss is the squared error plus the --l2 penalty, tested with random numbers."""
    x, (y, predictions) = _random(_SAMPLE, task.spec.x.shape[1]), _random(2, _SAMPLE)
    batch = batch_lib.Batch(tf.constant(x), tf.constant(y))
    loss, penalty = (float(task.loss_of(batch, tf.constant(each))) for each in (predictions, y))
    least = _ROUNDING * penalty
    return bool(
        np.isclose(loss - penalty, np.square(y - predictions).mean(), rtol=_TOLERANCE, atol=least)
    )


def _random(*shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape, np.float32)
