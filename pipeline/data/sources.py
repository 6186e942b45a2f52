"""Finds the table that --data names."""

import glob
import os
from typing import Any, NamedTuple

from pipeline import config as config_lib
from pipeline import errors, user_code
from pipeline.data import csv_reader, parquet_reader, tables


class Arrays(NamedTuple):
    """What a function of the user's returns that is no table: x and y, perhaps weights."""

    parts: tuple[Any, ...]
    name: str  # the function, for messages


def open_table(config: config_lib.Config) -> tables.Table | Arrays:
    """What --data names: files, or what a function returns.

    Raises:
      errors.InputError: there is none, or its first line is no header.
    """
    functions = user_code.functions(config)
    if "data" in functions:
        made = tables.made_by(functions["data"])
        if isinstance(made, tuple):
            return Arrays(made, str(functions["data"]))
        return tables.FromFunction(made, functions["data"])
    found: list[tables.Table] = []
    for path in _paths(config.data):
        of_kind = parquet_reader.Parquet if parquet_reader.is_parquet(path) else csv_reader.Csv
        found.append(of_kind(path))
    return found[0] if len(found) == 1 else tables.Files(found)


def _paths(data: str) -> list[str]:
    """The files that --data names, by their paths or patterns, separated by commas.

    Raises:
      errors.InputError: there is none of that name.
    """
    if os.path.exists(data):  # a comma or a star may be in its name
        return [data]
    found: list[str] = []
    for path in data.split(","):
        matching = [path] if os.path.exists(path) else sorted(glob.glob(path))
        errors.require(matching, f"{path}: there is no such file")
        found += matching
    return list(dict.fromkeys(found))
