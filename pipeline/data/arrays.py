"""Checks the table or arrays that a user's function returns. Imports numpy only."""

import importlib
import inspect
import random
import sys
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import optree

from pipeline import errors, tf_runtime, user_calls, user_code
from pipeline.data import batch as batch_lib
from pipeline.data import tables

_MOST_NAMED = 8  # arrays in a message


class Made(NamedTuple):
    """What a user's function returned."""

    train: Any
    validation: Any = None  # of a function with a parameter `split`


def returned_by(function: user_code.UserFunction, seed: int) -> Made:
    """Calls a user's function, for training and, with a parameter `split`, for validation.

    Its file may import TensorFlow, for example to define a model. Random numbers that it draws
    without a seed of its own are the same each time.
    """
    with tf_runtime.importing(), user_calls.user_errors("making the data", function):
        if b"tensorflow" in function.code or b"keras" in function.code:
            importlib.import_module("tensorflow")  # to seed it
        make = function.load()
        takes_split = "split" in inspect.signature(make).parameters
        calls = [{"split": part} for part in ("train", "validation")] if takes_split else [{}]
        return Made(*(_call(make, seed, **call) for call in calls))


def _call(make: Any, seed: int, **split: str) -> Any:
    """Calls a function after it has seeded the global generators of random numbers."""
    random.seed(seed)
    np.random.seed(seed)
    if tf := sys.modules.get("tensorflow"):
        tf.random.set_seed(seed)
    return make(**split)


def is_stream(made: Any) -> bool:
    """Whether a function returned a tf.data.Dataset."""
    tf: Any = sys.modules.get("tensorflow")
    return tf is not None and isinstance(made, tf.data.Dataset)


def table(made: Made, function: user_code.UserFunction) -> tables.Table:
    """The columns that a function returned: a mapping of arrays, or a data frame.

    Raises:
      errors.InputError: it returned something else.
    """
    errors.require(
        made.validation is None,
        f"{function.flag} returns columns, which are split by --validation_fraction; leave out its "
        "parameter `split`",
    )
    with user_calls.user_errors("making the data", function):
        columns = columns_of(made.train)
    what = f"{function.flag} must return columns of one length by their names, or arrays (x, y)"
    check_lengths(columns, what)
    return tables.Arrays(str(function), columns)


def columns_of(made: Any) -> dict[str, npt.NDArray[Any]]:
    """The columns of a mapping or a data frame by name."""
    names = list(made.columns) if hasattr(made, "columns") else list(made)
    return {str(name): np.asarray(made[name]) for name in names}


def check_lengths(columns: dict[str, npt.NDArray[Any]], what: str) -> None:
    """Raises InputError, with what is wanted, unless all columns are [N] for one N."""
    lengths = {len(column) if column.ndim == 1 else -1 for column in columns.values()}
    shapes = {name: list(array.shape) for name, array in columns.items()}
    is_right = len(lengths) == 1 and -1 not in lengths
    errors.require(is_right, f"{what}; received {tables.short.repr(shapes)}")


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
    batch = batch_lib.of_keras(made)
    tree: Any = batch
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
    return batch.map(lambda leaf: _array(leaf, f"{name}: {next(places)}"))


def _array(values: Any, name: str) -> npt.NDArray[Any]:
    """Converts values to an array with a dtype that TensorFlow supports."""
    array = np.asarray(values)
    if array.dtype.kind == "O" and all(isinstance(value, str) for value in array.ravel()):
        array = array.astype(np.str_)
    errors.require(
        array.dtype.kind in "biufSU",
        f"{name} must hold numbers, booleans or texts; received {array.dtype} (pad sequences to "
        "one length, or return a tf.data.Dataset of them)",
    )
    if array.dtype.kind != "f":
        return array
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    bad = np.flatnonzero(~np.isfinite(array).all(axis=tuple(range(1, array.ndim))))
    if bad.size:
        raise errors.InputError(f"{name} must be finite as float32; row {bad[0]} is not")
    return array
