"""The flagfile of a run: one `--name=value` a line, which absl reads with --flagfile."""

import dataclasses
import os
import pathlib

from pipeline import config as config_lib
from pipeline import files

_PATHS = ("data", "initialize_from", "logdir")


def from_config(config: config_lib.Config) -> dict[str, str]:
    """The flags that give a config again, by name, from whatever directory they are read."""
    values = dataclasses.asdict(config)
    del values["overwrite"]  # to read the flags again is to resume
    for name in _PATHS:
        values[name] = values[name] and os.path.abspath(values[name])
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in values.items()
        if value is not None
    }


def write(path: pathlib.Path, flags: dict[str, str]) -> None:
    """Writes a flagfile, whole or not at all; raises OSError."""
    with files.replacing(path) as unfinished:
        unfinished.write_text("".join(f"--{name}={value}\n" for name, value in flags.items()))


def read(path: pathlib.Path) -> dict[str, str]:
    """The flags in a flagfile that `write` has written; raises OSError."""
    lines = (line[2:].partition("=") for line in path.read_text().splitlines())
    return {name: value for name, _, value in lines}


def differences(saved: dict[str, str], given: dict[str, str]) -> list[str]:
    """Says in which flags two runs differ, of those that may not change on resume."""
    fixed = {f.name for f in dataclasses.fields(config_lib.Config) if not f.metadata["may_change"]}
    return [
        f"--{name}={saved.get(name, 'default')} (now {given.get(name, 'default')})"
        for name in sorted(fixed)
        if saved.get(name) != given.get(name)
    ]
