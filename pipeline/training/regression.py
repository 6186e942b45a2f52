"""How well predictions fit labels, in the numbers of statistics."""

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from pipeline.data import datasets as datasets_lib
from pipeline.distributed import workers
from pipeline.training import task as task_lib


class Fit(NamedTuple):
    """How well a model predicts labels, in the units of the data."""

    rmse: float  # the root of the mean squared error
    mae: float  # the mean absolute error
    r2: float  # 1 - the mean squared error / the variance of the labels; NaN if that is 0


def fits(
    task: task_lib.Task, datasets: datasets_lib.Datasets, total: workers.Total
) -> dict[str, Fit]:
    """The fit to the training and the validation examples of a model with one output.

    `total` adds up over all workers.
    """
    assert datasets.label_variances
    parts = {"training": datasets.evaluated, "validation": datasets.validation}
    scale = datasets.units.stddev[-1] if datasets.units else 1.0
    result = {}
    for (name, part), variance in zip(parts.items(), datasets.label_variances, strict=True):
        if part is None:
            continue
        own = np.zeros(3)
        for x, y in part.chunks():
            residuals = y.astype(np.float64) - task.predict(tf.constant(x)).numpy()
            own += np.array([residuals @ residuals, np.abs(residuals).sum(), len(residuals)])
        squares, absolutes, count = total(own).tolist()
        mean = squares / count
        r2 = 1 - mean / variance if variance else math.nan
        result[name] = Fit(scale * math.sqrt(mean), scale * absolutes / count, r2)
    return result
