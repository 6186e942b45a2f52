"""Finds what --data names: files of tables, or what a user's function returns."""

import glob
import os
from typing import Any

import numpy as np

from pipeline import errors, tf_runtime, user_code
from pipeline.data import table_block, tables, text_tables


def returned_by(function: user_code.UserFunction) -> Any:
    """What a user's function returns; raises errors.InputError if it raises.

    Its file may import TensorFlow, as for a model beside it.
    """
    with tf_runtime.importing(), user_code.user_errors("making the data", function):
        return function.load()()


def from_columns(made: Any, function: user_code.UserFunction) -> tables.Table:
    """The columns that a user's function returned: a mapping of arrays, or a data frame.

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
        + table_block.short.repr({name: list(array.shape) for name, array in columns.items()}),
    )
    return tables.Arrays(str(function), columns)


def open_table(data: str) -> tables.Table:
    """The table of files, by their paths or patterns, separated by commas.

    Raises:
      errors.InputError: there is none, or its first line is no header.
    """
    if os.path.exists(data) or data == text_tables.STDIN:  # a comma or a star may be in a name
        return text_tables.open_file(data)
    paths: list[str] = []
    for path in data.split(","):
        matching = [path] if os.path.exists(path) else sorted(glob.glob(path))
        errors.require(matching, f"{path}: there is no such file")
        paths += matching
    found = [text_tables.open_file(path) for path in dict.fromkeys(paths)]
    return found[0] if len(found) == 1 else tables.Files(found)
