"""Finds the table that --data names."""

import glob
import os

from pipeline import config as config_lib
from pipeline import errors, user_code
from pipeline.data import csv_reader, parquet_reader, tables


def open_table(config: config_lib.Config) -> tables.Table:
    """The table that --data names: files, or what a function returns.

    Raises:
      errors.InputError: there is none, or its first line is no header.
    """
    functions = user_code.find(config, ("data",))
    if "data" in functions:
        return tables.FromFunction(functions["data"])
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
