"""Reports how well the trained model's predictions fit the labels."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline import console
from pipeline.data import batch as batch_lib
from pipeline.data import batches as batches_lib
from pipeline.data import datasets as datasets_lib
from pipeline.distributed import workers
from pipeline.evaluation import linear
from pipeline.training import task as task_lib

_PARTS = ("training", "validation")


class RegressionReport(NamedTuple):
    """How well predictions fit labels, in the units of the data."""

    rmse: float  # the root of the mean squared error
    mae: float  # the mean absolute error
    r2: float  # 1 - the mean squared error / the variance of the labels; NaN if that is 0


# By predictor ('model', 'least squares') and by dataset ('training', 'validation').
Reports = Mapping[str, Mapping[str, RegressionReport]]


def regression(
    task: task_lib.Task,
    datasets: datasets_lib.Datasets,
    line: linear.Linear | None,
    total: workers.Total = workers.alone,
) -> Reports:
    """Reports on a model with one output and a table with a numeric label; otherwise empty.

    `total` adds up the numbers of all workers.
    """
    if (
        datasets.label_variances is None
        or task.predict(batches_lib.sample(datasets, 2).x).shape.rank != 1
    ):
        return {}
    predict = tf.function(task.predict, autograph=False, reduce_retracing=True)
    result = {"model": _report(lambda x: predict(tf.constant(x)).numpy(), datasets, total)}
    if line and line.solution is not None:
        W, b = line.solution[:-1], line.solution[-1]
        result["least squares"] = _report(lambda x: x @ W + b, datasets, total)
    return result


def _report(
    predict: Callable[[npt.NDArray[Any]], npt.NDArray[Any]],
    datasets: datasets_lib.Datasets,
    total: workers.Total,
) -> dict[str, RegressionReport]:
    assert datasets.label_variances
    scale = datasets.units.stddev[-1] if datasets.units else 1.0
    parts = datasets.evaluated, datasets.validation
    result = {}
    for name, part, variance in zip(_PARTS, parts, datasets.label_variances, strict=True):
        if not isinstance(part, batch_lib.Batch):
            continue
        squares, absolutes, count = total(_sums(predict, part)).tolist()
        mean = squares / count
        r2 = 1 - mean / variance if variance else math.nan
        result[name] = RegressionReport(scale * math.sqrt(mean), scale * absolutes / count, r2)
    return result


def _sums(
    predict: Callable[[npt.NDArray[Any]], npt.NDArray[Any]], part: batch_lib.Batch
) -> npt.NDArray[np.float64]:
    """Returns the sums of squared and absolute residuals, and the number of residuals."""
    sums = np.zeros(3)
    for piece in part.pieces():
        residuals = piece.y.astype(np.float64) - predict(piece.x)
        sums += np.array([residuals @ residuals, np.abs(residuals).sum(), len(residuals)])
    return sums


def table(reports: Reports, label: str) -> Iterator[str]:
    """Yields lines with RMSE, MAE and R² of the model and of least squares, by dataset."""
    found = [
        (f"  {part}, {who}", parts[part])
        for part in _PARTS
        for who, parts in reports.items()
        if part in parts
    ]
    rows = [(who, f"{r.rmse:.6g}", f"{r.mae:.6g}", f"{r.r2:.4f}") for who, r in found]
    if rows:
        yield from console.table([f"Fit of {label}", "RMSE", "MAE", "R²"], rows).splitlines()
