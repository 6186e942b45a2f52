"""Weights of the training examples: --weight and --class_weight. Imports numpy only."""

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import config as config_lib
from pipeline import errors
from pipeline.data import tables

Float32 = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def of(config: config_lib.Config, y: Any, given: Any = None) -> Float32:
    """Computes the weights of all training examples, for a config that weighs them.

    Args:
      config: The settings of the run.
      y: The labels of the data: [N], [N, 1] or one-hot rows [N, C].
      given: Weights [N] or [N, ...] that are multiplied by those of --class_weight, or None.

    Raises:
      errors.InputError: the labels are no classes, a class is unknown, or all weights are 0.
    """
    weight: Any = np.float32(1.0) if given is None else given
    errors.require(
        hasattr(weight, "dtype"), "--class_weight needs one array of weights; received several"
    )
    with np.errstate(over="ignore"):
        weight = weight.astype(np.float32)
        if config.class_weight:
            by_class = _of_classes(config, _classes(y))
            weight = weight * by_class.reshape(-1, *[1] * (weight.ndim - 1))
    errors.require(
        np.isfinite(weight).all() and weight.any(),
        "the weights of the training examples must be finite as float32, and not all 0",
    )
    return np.asarray(weight)


def _of_classes(config: config_lib.Config, labels: Ints) -> Float32:
    """The weight [N] of each label by its class."""
    classes, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    weights = len(labels) / (len(classes) * counts)  # of 'balanced'
    if named := config.class_weights:
        unknown = sorted(named.keys() - set(classes.tolist()))
        errors.require(
            not unknown,
            f"--class_weight names the classes {unknown}, which no training example has; they have "
            f"{tables.short.repr(classes.tolist())}",
        )
        weights = np.array([named.get(each, 1.0) for each in classes.tolist()])
    return np.asarray(weights[index], np.float32)


def _classes(y: Any) -> Ints:
    """The class [N] of each label."""
    is_one = isinstance(y, np.ndarray) and y.dtype.kind in "biuf"
    is_column = is_one and y.ndim == 2 and y.shape[1] == 1
    if is_one and (y.ndim == 1 or is_column):
        wrong = np.flatnonzero(y != np.floor(y))
        received = f"the label {y.ravel()[wrong[0]]:g}" if wrong.size else ""
    elif is_one and y.ndim == 2:
        is_one_hot = ((y == 0) | (y == 1)).all() and (y.sum(axis=1) == 1).all()
        received = "" if is_one_hot else "rows with other numbers than one 1 and zeros"
    else:
        received = f"{y.dtype} {list(y.shape)}" if hasattr(y, "dtype") else "several outputs"
    errors.require(
        not received,
        "--class_weight needs labels that are classes: whole numbers [N], or one-hot rows [N, C]; "
        f"received {received}",
    )
    return np.asarray(y.argmax(axis=1) if y.ndim == 2 and not is_column else y.ravel(), np.int64)
