"""Files and directories that appear whole or not at all."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a path to write a file or a directory to, which is renamed to the target at the end.

    A file is replaced; a directory must not exist. If the block raises, what it wrote is removed
    and the target is as it was. What a killed process left is removed by the next one.
    """
    unfinished = target.with_name(f".unfinished.{target.name}")
    _remove(unfinished)
    try:
        yield unfinished
        os.replace(unfinished, target)
    finally:
        _remove(unfinished)


def _remove(path: pathlib.Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
