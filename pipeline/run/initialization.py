"""Starts from the variables of another run: --initialize_from."""

import pathlib
import textwrap

import numpy as np

from pipeline import errors
from pipeline.data import linear_units, preprocessing
from pipeline.run import checkpoints, exported, run_dir, versions
from pipeline.training import task as task_lib


def initialize(
    task: task_lib.Task, source: str, *, units: preprocessing.Preprocessing | None, is_linear: bool
) -> None:
    """Sets the variables to those of the run's directory, checkpoint or export that is named.

    W and b of a linear model stay the same in the units of the data, however either run was
    standardized; those of another model are taken as they are.

    Raises:
      errors.InputError: there is none, or it has other variables, or some that are not finite.
    """
    path, its = pathlib.Path(source), None
    if versions.find(path):
        arrays = exported.load(path).variables()
    else:
        run = run_dir.RunDir(path)
        place = run.checkpoints if run.flags.exists() else path
        arrays, its = checkpoints.variables(place), checkpoints.preprocessing_of(place)
    _check(task, source, arrays)
    task.assign(arrays)
    if is_linear:
        numbers = task.numbers().numpy()[None].astype(np.float64)
        numbers = linear_units.in_data_units(numbers, its) if its else numbers
        numbers = linear_units.standardized(numbers, units) if units else numbers
        task.assign(task.by_variable(numbers[0]))


def _check(task: task_lib.Task, source: str, arrays: task_lib.Arrays) -> None:
    """Raises errors.InputError if arrays are not what the variables of a task can be."""
    has, needs = (
        ", ".join(f"{np.size(array)} {name}" for name, array in sorted(variables.items()))
        for variables in (arrays, task.variables)
    )
    has_other_features = arrays.keys() == task.variables.keys()
    what_to_do = "; give --data and --features as for its training" * has_other_features
    errors.require(
        has == needs,
        f"--initialize_from={source} does not fit the model: it has {textwrap.shorten(has, 100)}; "
        f"the model for these examples has {textwrap.shorten(needs, 100)}{what_to_do}",
    )
    for name, array in arrays.items():
        needed = task.variables[name].dtype.as_numpy_dtype
        is_finite = np.asarray(array).dtype == needed and np.isfinite(array).all()
        errors.require(
            is_finite, f"--initialize_from={source}: {name} is not finite as {needed.__name__}"
        )
