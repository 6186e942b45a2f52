"""The closed form of linear regression in place of passes: whether it holds, and its losses."""

from typing import NamedTuple

import numpy as np

from pipeline.data import datasets as datasets_lib
from pipeline.data import least_squares
from pipeline.training import passes
from pipeline.training import task as task_lib

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
        cls, task: task_lib.Task, datasets: datasets_lib.Datasets, passes_: passes.Passes
    ) -> "ClosedForm":
        """Takes that of the datasets, unless passes of the model show that it is something else."""
        if not task.is_linear_regression:
            return cls(None, None)
        if task.num_trainable != len(datasets.features) + 1:
            return cls(None, None, _OTHER_TASK)
        train, validation = datasets.least_squares
        if train is None or (validation is None and datasets.num_validation):
            return cls(
                None,
                None,
                f"{len(datasets.features):,} features of {datasets.num_train:,} examples take too "
                "long to solve for",
            )
        solved = train.penalized(task.l2)
        if why_not := _why_not(solved, task, datasets.evaluated, passes_):
            return cls(None, None, why_not)
        return cls(solved, validation and validation.penalized(task.l2))


def _why_not(
    solved: least_squares.LeastSquares,
    task: task_lib.Task,
    examples: datasets_lib.Examples,
    passes_: passes.Passes,
) -> str:
    """Says why passes of the model, at random values, do not give the losses of the closed form.

    The values make predictions about as large as the labels, so that float32 is exact enough.
    Returns '' where they do.
    """
    size = float(np.sqrt(solved.loss(np.zeros([1, len(solved.solution)])))[0]) or 1.0
    scale = np.linalg.norm(solved.root, axis=0)  # the root of the mean of x², and 1
    random = np.random.default_rng(0).standard_normal((_PROBES, len(scale)))
    probes = random * size / np.where(scale > 0, scale, 1.0)
    largest, float32 = np.abs([*probes, solved.solution]).max(), np.finfo(np.float32)
    if largest > float32.max or np.abs(probes).min() < float32.tiny:
        return _NOT_FLOAT32
    probes = probes.astype(np.float32)
    found = []
    with task.unchanged():
        for probe in probes:
            task.assign(task.by_variable(probe))
            found.append(passes_.loss(examples, is_compiled=False))
    if not (np.isfinite(found).all() and min(found) > _SMALLEST):
        return _NOT_FLOAT32
    agrees = np.allclose(found, solved.loss(probes), rtol=_TOLERANCE, atol=0)
    return "" if agrees else _OTHER_TASK
