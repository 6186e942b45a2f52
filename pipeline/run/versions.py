"""The numbered versions of an export directory, and what each says of itself."""

import json
import pathlib
import re
from typing import Any, NamedTuple

from pipeline import files

# In the folder of a SavedModel that TensorFlow leaves to other programs.
DESCRIPTION = pathlib.Path("assets.extra", "description.json")


class Steps(NamedTuple):
    """What an export says of its run."""

    model: int  # the step of the exported model
    last: int  # the step at which the run had come to its end


def find(path: pathlib.Path) -> pathlib.Path | None:
    """A SavedModel itself, or the newest in a directory of versions; None if there is none."""
    if (path / "saved_model.pb").is_file():
        return path
    found = [each.parent for each in path.glob("*/saved_model.pb") if each.is_file()]
    numbered = [each for each in found if re.fullmatch("[1-9][0-9]*", each.name)]
    return max(numbered, key=lambda each: int(each.name), default=None)


def following(directory: pathlib.Path, *others: pathlib.Path) -> pathlib.Path:
    """The path of the version that comes after all that is in a directory, or in others."""
    names = [path.name for each in (directory, *others) for path in each.glob("*")]
    return directory / str(1 + max((int(name) for name in names if name.isdecimal()), default=0))


def description(path: pathlib.Path) -> dict[str, Any] | None:
    """What a version, or the newest of a directory, says of itself; None if it says nothing."""
    version = find(path)
    if version is None:
        return None
    try:
        found = json.loads((version / DESCRIPTION).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def newest_steps(directory: pathlib.Path) -> Steps | None:
    """The steps in the newest version of a directory, None if there is none."""
    found = description(directory) or {}
    steps = Steps(found.get("step", -1), found.get("last_step", -1))
    return steps if all(isinstance(step, int) and step >= 0 for step in steps) else None


def remove_old(directory: pathlib.Path, *, keep: int) -> None:
    """Removes all but the newest versions that say where they came from; 0 keeps all."""
    own = [path.parents[1] for path in directory.glob(f"*/{DESCRIPTION}")]
    numbered = sorted((path for path in own if path.name.isdecimal()), key=lambda p: int(p.name))
    for path in numbered[:-keep] if keep else ():
        files.remove(path)
