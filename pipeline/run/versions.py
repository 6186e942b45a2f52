"""The numbered versions of an export directory, and their descriptions."""

import json
import pathlib
import re
from typing import Any, NamedTuple

from pipeline import files

# A SavedModel's folder for the files of other programs.
DESCRIPTION = pathlib.Path("assets.extra", "description.json")


class Steps(NamedTuple):
    """The steps in an export's description."""

    model: int  # the step of the exported model
    last: int  # the last step of the run


def find(path: pathlib.Path) -> pathlib.Path | None:
    """Returns a SavedModel itself, or the newest in a directory of versions; None without one."""
    if (path / "saved_model.pb").is_file():
        return path
    found = [each.parent for each in path.glob("*/saved_model.pb") if each.is_file()]
    numbered = [each for each in found if re.fullmatch("[1-9][0-9]*", each.name)]
    return max(numbered, key=lambda each: int(each.name), default=None)


def following(directory: pathlib.Path, *others: pathlib.Path) -> pathlib.Path:
    """Returns the path of the next version, numbered after all in these directories."""
    names = [path.name for each in (directory, *others) for path in each.glob("*")]
    return directory / str(1 + max((int(name) for name in names if name.isdecimal()), default=0))


def description(path: pathlib.Path) -> dict[str, Any] | None:
    """Reads the description of a version, or of the newest in a directory; None without one."""
    version = find(path)
    if version is None:
        return None
    try:
        found = json.loads((version / DESCRIPTION).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def newest_steps(directory: pathlib.Path) -> Steps | None:
    """Reads the steps in the newest version of a directory; None without one."""
    found = description(directory) or {}
    steps = Steps(found.get("step", -1), found.get("last_step", -1))
    return steps if all(isinstance(step, int) and step >= 0 for step in steps) else None


def remove_old(directory: pathlib.Path, *, keep: int) -> None:
    """Keeps only the newest versions among those with a description; keep=0 keeps all."""
    own = [path.parents[1] for path in directory.glob(f"*/{DESCRIPTION}")]
    numbered = sorted((path for path in own if path.name.isdecimal()), key=lambda p: int(p.name))
    for path in numbered[:-keep] if keep else ():
        files.remove(path)
