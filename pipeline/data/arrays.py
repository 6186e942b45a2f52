"""Checks the table or arrays that a user's function returns. Imports numpy only."""

from typing import Any

import numpy as np
import numpy.typing as npt
import optree

from pipeline import errors, tf_runtime, user_code
from pipeline.data import batch as batch_lib
from pipeline.data import tables

_MOST_NAMED = 8  # arrays in a message


def returned_by(function: user_code.UserFunction) -> Any:
    """Calls a user's function; its file may import TensorFlow, for example to define a model."""
    with tf_runtime.importing(), user_code.user_errors("making the data", function):
        return function.load()()


def table(made: Any, function: user_code.UserFunction) -> tables.Table:
    """The columns that a function returned: a mapping of arrays, or a data frame.

    Raises:
      errors.InputError: it returned something else.
    """
    with user_code.user_errors("making the data", function):
        names = list(made.columns) if hasattr(made, "columns") else list(made)
        columns = {str(name): np.asarray(made[name]) for name in names}
    lengths = {len(column) if column.ndim == 1 else -1 for column in columns.values()}
    errors.require(
        len(lengths) == 1 and -1 not in lengths,
        f"{function.flag} must return columns of one length by their names, or arrays (x, y); "
        "received "
        + tables.short.repr({name: list(array.shape) for name, array in columns.items()}),
    )
    return tables.Arrays(str(function), columns)


def examples(made: tuple[Any, ...], name: str) -> batch_lib.Batch:
    """Checks what a function returned, and makes one batch of all examples.

    As in Keras, floats become float32, and the first dimension of all arrays is the examples.

    Args:
      made: (x, y), (x, y, weight), or (x,) for a model with a train_step of its own; each part is
        an array or a nest (dict, tuple) of arrays.
      name: The function, for messages.

    Raises:
      errors.InputError: something else was returned, or a number is not finite.
    """
    errors.require(
        len(made) in (1, 2, 3),
        f"{name} must return (x, y) or (x, y, weight); received {len(made)} parts",
    )
    tree: Any = batch_lib.Batch(*made, y=None) if len(made) == 1 else batch_lib.Batch(*made)
    shapes = {}
    for path, leaf in zip(optree.tree_paths(tree), optree.tree_leaves(tree), strict=True):
        place = ".".join([batch_lib.Batch._fields[path[0]], *map(str, path[1:])])
        shapes[place] = np.shape(leaf)
    counts = {shape[:1] for shape in shapes.values()}
    errors.require(
        len(counts) == 1 and () not in counts,
        f"{name}: all arrays must have the same first dimension; received "
        + ", ".join(f"{place} {list(shape)}" for place, shape in [*shapes.items()][:_MOST_NAMED])
        + (", ... (a list is a nest, not an array)" if len(shapes) > _MOST_NAMED else ""),
    )
    places = iter(shapes)
    batch: batch_lib.Batch = tree
    return batch.map(lambda leaf: _array(leaf, f"{name}: {next(places)}"))


def _array(values: Any, name: str) -> npt.NDArray[Any]:
    """Converts values to an array with a dtype that TensorFlow supports."""
    array = np.asarray(values)
    if array.dtype.kind == "O" and all(isinstance(value, str) for value in array.ravel()):
        array = array.astype(np.str_)
    errors.require(
        array.dtype.kind in "biufSU",
        f"{name} must hold numbers, booleans or texts; received {array.dtype}",
    )
    if array.dtype.kind != "f":
        return array
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    bad = np.flatnonzero(~np.isfinite(array).all(axis=tuple(range(1, array.ndim))))
    if bad.size:
        raise errors.InputError(f"{name} must be finite as float32; row {bad[0]} is not")
    return array
