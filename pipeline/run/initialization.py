"""Starts with the variables of another run: --initialize_from."""

import pathlib
import textwrap

import numpy as np

from pipeline import errors
from pipeline.data import least_squares
from pipeline.evaluation import linear
from pipeline.run import checkpoints, exported, run_dir, versions
from pipeline.training import task as task_lib
from pipeline.training import variables as variables_lib


def initialize(task: task_lib.Task, line: linear.Linear | None, source: str) -> None:
    """Sets the variables to the values in a run's directory, a checkpoint or an export.

    A linear model keeps its W and b in the units of the data, however either run was standardized.
    Other models take the variables unchanged.

    Raises:
      errors.InputError: the source is missing, or its variables differ or are not finite.
    """
    path, its = pathlib.Path(source), None
    if versions.find(path):
        arrays = exported.load(path).variables()
    else:
        run = run_dir.RunDir(path)
        place = run.checkpoints if run.flags.exists() else path
        arrays, its = checkpoints.variables(place), checkpoints.preprocessing_of(place)
    variables = task.variables
    _check(variables, source, arrays)
    variables.assign(arrays)
    if line:
        numbers = variables.numbers().numpy()[None].astype(np.float64)
        numbers = least_squares.in_data_units(numbers, its) if its else numbers
        variables.assign(variables.split(line.from_data_units(numbers)[0]))


def _check(variables: variables_lib.Variables, source: str, arrays: variables_lib.Arrays) -> None:
    """Raises errors.InputError if arrays can't be assigned to these variables."""
    has, needs = (
        ", ".join(f"{np.size(array)} {name}" for name, array in sorted(named.items()))
        for named in (arrays, variables.by_name)
    )
    has_other_features = arrays.keys() == variables.by_name.keys()
    what_to_do = "; give --data and --features as for its training" * has_other_features
    errors.require(
        has == needs,
        f"--initialize_from={source} does not fit the model: it has {textwrap.shorten(has, 100)}; "
        f"the model for these examples has {textwrap.shorten(needs, 100)}{what_to_do}",
    )
    for name, array in arrays.items():
        needed = variables.by_name[name].dtype.as_numpy_dtype
        is_finite = np.asarray(array).dtype == needed and np.isfinite(array).all()
        errors.require(
            is_finite, f"--initialize_from={source}: {name} is not finite as {needed.__name__}"
        )
