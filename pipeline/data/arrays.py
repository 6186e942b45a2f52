"""Examples as arrays that a user's function returns: (x, y) or (x, y, weight). numpy alone."""

from typing import Any

import numpy as np
import numpy.typing as npt
import optree

from pipeline import errors
from pipeline.data import batch as batch_lib

_MOST_NAMED = 8  # arrays in a message


def examples(made: tuple[Any, ...], name: str) -> batch_lib.Batch:
    """Checks what a function returned, and makes a batch of all examples of it.

    As in Keras, floats become float32, and all arrays have the examples as first dimension.

    Args:
      made: (x, y) or (x, y, weight), each an array or a nest (dict, tuple) of arrays.
      name: The function, for messages.

    Raises:
      errors.InputError: something else was returned, or a number is not finite.
    """
    errors.require(
        len(made) in (2, 3),
        f"{name} must return (x, y) or (x, y, weight); received {len(made)} parts",
    )
    tree: Any = batch_lib.Batch(*made)
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
    return batch_lib.Batch(*made).map(lambda leaf: _array(leaf, f"{name}: {next(places)}"))


def _array(values: Any, name: str) -> npt.NDArray[Any]:
    """One array in a dtype that TensorFlow takes."""
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
