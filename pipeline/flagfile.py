"""The flagfile of a run, which holds its settings in its directory.

The first line marks it as a run's flagfile. Each other line is a `--name=value`, quoted as in a
shell if needed. It does not contain the directory, so a run can be moved and copied.
"""

import dataclasses
import os
import pathlib
import shlex
from typing import Any

from pipeline import config as config_lib
from pipeline import errors, fields, files, user_code

_FIRST_LINE = "# The settings of the run in this directory, to resume it with --flagfile."
_PATHS = ("data", "initialize_from")


def from_config(config: config_lib.Config) -> dict[str, str]:
    """Returns flags by name that give the same config in any directory."""
    values = dataclasses.asdict(config)
    del values["logdir"], values["run_name"]
    del values["overwrite"]  # reading the flags again resumes the run
    for name in _PATHS:
        is_one = name != "data" or os.path.exists(values[name])
        paths = [values[name]] if is_one else values[name].split(",")
        values[name] = ",".join(path and os.path.abspath(path) for path in paths)
    for name, function in user_code.find(config).items():
        values[name] = function.portable
    return as_text(values)


def as_text(values: dict[str, Any]) -> dict[str, str]:
    """Converts the values of a config to flag texts, by name."""
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in values.items()
        if value is not None
    }


def write(path: pathlib.Path, flags: dict[str, str]) -> None:
    """Writes a flagfile, whole or not at all; raises OSError."""
    lines = [shlex.quote(f"--{name}={value}") for name, value in flags.items()]
    with files.replacing(path) as unfinished:
        unfinished.write_bytes("\n".join([_FIRST_LINE, *lines, ""]).encode())


def is_of_run(path: pathlib.Path) -> bool:
    """Whether a file is the flagfile of a run."""
    try:
        if not path.is_file():  # opening a pipe would block
            return False
        with open(path, "rb") as file:
            return file.readline(1000).strip() == _FIRST_LINE.encode()
    except OSError:
        return False


def read(path: pathlib.Path) -> dict[str, str]:
    """Reads the flags of a run's flagfile; raises InputError if it is malformed."""
    names = fields.names(config_lib.Config)
    try:
        lines = shlex.split(path.read_bytes().decode(), comments=True)
    except ValueError as error:
        raise errors.InputError(f"{path}: can't be read as a flagfile: {error}") from error
    flags = {}
    for line in lines:
        name, _, value = line.removeprefix("--").partition("=")
        is_flag = line.startswith("--") and name in names
        errors.require(is_flag, f"{path}: {line!r} is no --flag=value of pipeline.train")
        flags[name] = value
    return flags


def differences(saved: dict[str, str], given: dict[str, str]) -> list[str]:
    """Describes the differing flags of two runs that may not change on resume."""
    fixed = {f.name for f in dataclasses.fields(config_lib.Config) if not f.metadata["may_change"]}
    return [
        f"--{name}={saved.get(name, 'default')} (now {given.get(name, 'default')})"
        for name in sorted(fixed)
        if saved.get(name) != given.get(name)
    ]
