"""What training is measured against."""

from typing import NamedTuple

import numpy as np

from pipeline import config as config_lib
from pipeline import examples, losses, metrics


class Yardstick(NamedTuple):
    """The losses over fixed examples, and the parameters that training should reach.

    Attributes:
      train: The loss over the training examples; its minimum is least squares.
      validation: The loss over the validation examples, or None.
      truth: What synthetic data were drawn from, or None.
    """

    train: losses.QuadraticLoss
    validation: losses.QuadraticLoss | None
    truth: metrics.Parameters | None

    @classmethod
    def of(cls, config: config_lib.Config, data: examples.Data) -> "Yardstick":
        """Measures the examples."""
        truth = metrics.Parameters(np.array([config.true_w]), config.true_b)
        return cls(
            train=losses.QuadraticLoss.over(*data.train),
            validation=data.validation and losses.QuadraticLoss.over(*data.validation),
            truth=None if config.data else truth,
        )

    @property
    def least_squares(self) -> metrics.Parameters:
        """The parameters of the smallest training loss."""
        return metrics.Parameters(self.train.W, self.train.b)

    def loss(self, at: metrics.Parameters) -> float:
        """The training loss at some parameters."""
        return float(self.train.at([at.W], [at.b])[0])

    def validation_loss(self, at: metrics.Parameters) -> float | None:
        """The validation loss at some parameters, or None where there is none."""
        return self.validation and float(self.validation.at([at.W], [at.b])[0])

    def epochs(self, ends: metrics.StepMetrics, *, steps_per_epoch: int) -> metrics.EpochMetrics:
        """Measures the points with which epochs end over all examples."""
        return metrics.EpochMetrics(
            epoch=ends.step // steps_per_epoch,
            step=ends.step,
            W=ends.W,
            b=ends.b,
            loss=self.train.at(ends.W, ends.b),
            validation_loss=self.validation and self.validation.at(ends.W, ends.b),
        )
