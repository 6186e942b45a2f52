"""The closed form of linear regression in place of passes: whether it holds, and its losses."""

from typing import NamedTuple

import numpy as np

from pipeline.data import datasets as datasets_lib
from pipeline.distributed import workers
from pipeline.training import least_squares, passes, task

_MOST_WORK = 1e10  # multiplications that the closed form may cost: one or two seconds
_TOLERANCE = 1e-3  # relative, of a pass in float32 against the closed form
_SMALLEST = 1e-34  # mean loss; of a smaller one, float32 loses more than that
_PROBES = 2

_OTHER_TASK = "this model with this loss is not linear regression"
_NOT_FLOAT32 = "least squares of these examples can't be checked in the range of float32"


class ClosedForm(NamedTuple):
    """Least squares of the training and the validation examples, None where it is not used."""

    train: least_squares.LeastSquares | None
    validation: least_squares.LeastSquares | None
    why_not: str = ""  # in words, where the task is meant to be linear regression

    @classmethod
    def of(
        cls,
        trained: task.Task,
        datasets: datasets_lib.Datasets,
        passes_: passes.Passes,
        total: workers.Total = workers.alone,
    ) -> "ClosedForm":
        """Solves for the examples, unless passes of the model show that it is something else.

        `total` adds up over all workers.
        """
        if not trained.is_linear_regression:
            return cls(None, None)
        train, validation = datasets.evaluated, datasets.validation
        num_features = train.x.shape[1]
        if trained.num_trainable != num_features + 1:
            return cls(None, None, _OTHER_TASK)
        counts = datasets.num_train, datasets.num_validation
        if sum(least_squares.work(count, num_features) for count in counts if count) > _MOST_WORK:
            reason = (
                f"{num_features:,} features of {counts[0]:,} examples take too long to solve for"
            )
            return cls(None, None, reason)
        solved = least_squares.LeastSquares.of(train, total)
        if why_not := _why_not(solved, trained, train, passes_):
            return cls(None, None, why_not)
        return cls(solved, validation and least_squares.LeastSquares.of(validation, total))


def _why_not(
    solved: least_squares.LeastSquares,
    trained: task.Task,
    examples: datasets_lib.Examples,
    passes_: passes.Passes,
) -> str:
    """Says why passes of the model, at random values, do not give the losses of the closed form.

    The values make predictions about as large as the labels, so that float32 is exact enough.
    Returns '' where they do.
    """
    size = float(np.sqrt(solved.loss(np.zeros([1, len(solved.solution)])))[0]) or 1.0
    scale = np.append(np.sqrt(np.diagonal(solved.covariance) + solved.mean**2), 1.0)
    random = np.random.default_rng(0).standard_normal((_PROBES, len(scale)))
    probes = random * size / np.where(scale > 0, scale, 1.0)
    largest, float32 = np.abs([*probes, solved.solution]).max(), np.finfo(np.float32)
    if largest > float32.max or np.abs(probes).min() < float32.tiny:
        return _NOT_FLOAT32
    probes = probes.astype(np.float32)
    found = []
    with trained.unchanged():
        for probe in probes:
            trained.assign(trained.by_variable(probe))
            found.append(passes_.loss(examples, is_compiled=False))
    if not (np.isfinite(found).all() and min(found) > _SMALLEST):
        return _NOT_FLOAT32
    agrees = np.allclose(found, solved.loss(probes), rtol=_TOLERANCE, atol=0)
    return "" if agrees else _OTHER_TASK
